//! Row 10: messages on disk before they are settled.

use anyhow::Result;

use super::{Setting, absent};
use crate::{
    bench::{Bench, Contender, Target},
    program::Program,
};

pub(crate) fn save(setting: &Setting) -> Result<Bench> {
    let (each, burst) = ("waybill, one at a time", "waybill, 100 at a time");
    let (raw_each, raw_burst) = ("append + fdatasync each", "append + fdatasync each 100");
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
    ours(each, few, 1);
    ours(burst, many, 100);
    let mut missing = Vec::new();
    match setting.tools.built.iter().map(|folder| folder.join("append")).find(|path| path.exists()) {
        Some(program) => {
            for (name, messages, batch) in [(raw_each, few, 1), (raw_burst, many, 100)] {
                let words = [messages.to_string(), "1024".to_owned(), batch.to_string()];
                let raw = Program::new(&program).args([&raw]).args(words);
                contenders.push(Contender::new(name, raw).before(fresh()).part_of_the_work());
            }
        }
        None => absent(&mut missing, "the disk's own rate", "apt-get install gcc"),
    }
    Ok(Bench {
        number: "10",
        name: "save",
        title: "Messages on disk before they are settled".to_owned(),
        meaning: "Messages of 1 KiB into a new inbox in SQLite, every commit on disk before it is answered: 3,000 one after the other, and \
                  100,000 in bursts of 100. Beside it the least that a disk can be asked for: as many bytes appended to a file, and one \
                  `fdatasync` for every message or every 100. An inbox also finds out whether a message is known, by four indexes.",
        contenders,
        targets: vec![Target::at_least(each, 0.9, raw_each), Target::at_least(burst, 0.2, raw_burst)],
        missing,
        keep: vec![Box::new(folder)],
    })
}
