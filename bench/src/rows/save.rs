//! Row 10: messages on disk before they are settled.

use anyhow::Result;

use super::{Row, Setting, absent};
use crate::{
    bench::{Bench, Contender, Target},
    program::Program,
};

const EACH: &str = "waybill, one at a time";
const BURST: &str = "waybill, 100 at a time";
const RAW_EACH: &str = "append + fdatasync each";
const RAW_BURST: &str = "append + fdatasync each 100";

pub(crate) const SAVE: Row = Row {
    number: "10",
    name: "save",
    title: "Messages on disk before they are settled",
    meaning: "Messages of 1 KiB into a new inbox in SQLite, every commit on disk before it is answered: 3,000 one after the other, and \
              100,000 in bursts of 100. An inbox also finds out whether a message is known, by four indexes.",
    limit: "the least that a disk can be asked for: as many bytes appended to a file, and one `fdatasync` for every message or every 100.",
    targets: &[
        Target::at_least(EACH, 0.9, RAW_EACH).if_missed(
            "this disk answers in a tenth of a millisecond, which is less than SQLite's own work for a commit; where it takes longer, the \
             ratio is nearer to 1",
        ),
        Target::at_least(BURST, 0.2, RAW_BURST).if_missed(
            "SQLite's own work: a row, its six index entries and a line of history; 0.2 of this disk's rate is less time than the bare rows \
             take",
        ),
    ],
    make: save,
};

fn save(setting: &Setting) -> Result<Bench> {
    let (few, many) = if setting.quick { (500, 20_000) } else { (3_000, 100_000) };
    let (few, many) = setting.rows.map_or((few, many), |rows| (rows / 10, rows));
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let fresh = || {
        let folder = folder.path().to_owned();
        move || {
            std::fs::remove_dir_all(&folder)?;
            Ok(std::fs::create_dir(&folder)?)
        }
    };
    let (inbox, raw) = (folder.path().join("inbox.sqlite"), folder.path().join("raw"));
    let mut contenders = Vec::new();
    let mut ours = |name: &'static str, messages: u64, at_once: u64| {
        let words = ["--messages".to_owned(), messages.to_string(), "--at-once".to_owned(), at_once.to_string()];
        let own = Program::new(setting.tools.ours("waybill-bench")).args(["work", "save"]);
        contenders.push(Contender::new(name, own.args(words).args([&inbox])).before(fresh()));
    };
    ours(EACH, few, 1);
    ours(BURST, many, 100);
    let mut missing = Vec::new();
    match setting.tools.built.iter().map(|folder| folder.join("append")).find(|path| path.exists()) {
        Some(program) => {
            for (name, messages, batch) in [(RAW_EACH, few, 1), (RAW_BURST, many, 100)] {
                let words = [messages.to_string(), "1024".to_owned(), batch.to_string()];
                let raw = Program::new(&program).args([&raw]).args(words);
                contenders.push(Contender::new(name, raw).before(fresh()).part_of_the_work());
            }
        }
        None => absent(&mut missing, "the disk's own rate", "apt-get install gcc"),
    }
    Ok(Bench { contenders, missing, keep: vec![Box::new(folder)] })
}
