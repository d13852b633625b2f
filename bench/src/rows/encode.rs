//! Row 7: rows to a packed file.

use std::{fs, path::Path};

use anyhow::{Result, ensure};
use waybill_formats::{DecodeOptions, Field, RowDecoder, Source, Step};

use super::{Row, Setting, absent};
use crate::{
    bench::{Bench, Contender, Figure, Target},
    data::Layout,
    program::{Program, Sample},
};

const SMALL: &str = "waybill, level 6";
const USUAL: &str = "waybill, default level";
const PIGZ: &str = "pigz -6 -p2, packs only";
const GZIP: &str = "gzip -6, packs only";
const PYTHON: &str = "Python csv + json + gzip";
const BYTES: Figure = Figure::Said("bytes");
const INDEX: Figure = Figure::Said("% of the file is its index");

pub(crate) const PUBLISH: Row = Row {
    number: "7",
    name: "publish",
    title: "Publish: rows to .jsonl.gz",
    meaning: "Rows are read from a CSV file, written as JSON Lines with numbers and nested values, and packed in segments on two cores, as \
              the publisher does. `pigz` and `gzip` get the finished text and only pack it. The files are unpacked and compared, row by \
              row.",
    limit: "what packing alone takes on all cores: `pigz -6 -p2` at level 6. The index lies in the first bytes of the file.",
    targets: &[
        Target::at_most(SMALL, 1.0, PIGZ).if_missed(
            "rows are read and written on a third thread beside the two that pack, and on two cores that is what is over",
        ),
        Target::at_most(USUAL, 0.6, PIGZ).if_missed(
            "packing alone, with `zlib-rs`, is more than half of the processor time; `libdeflate` packs in less, but marks its last block as \
             final, and to find that block takes as long as is won",
        ),
        Target::at_most(SMALL, 1.01, GZIP).of(BYTES),
        Target::at_most(USUAL, 1.08, GZIP).of(BYTES),
        Target::no_more(SMALL, 0.1, INDEX),
        Target::no_more(USUAL, 0.1, INDEX),
        Target::at_least(SMALL, 12.0, PYTHON).if_missed(
            "a twelfth of Python's time is less than `pigz` takes on both cores for packing alone, which is what Python does in zlib too",
        ),
    ],
    make: publish,
};

fn publish(setting: &Setting) -> Result<Bench> {
    let set = setting.large();
    let rows = setting.data.plain(set, Layout::Csv)?;
    let text = setting.data.plain(set, Layout::JsonLines)?;
    let folder = tempfile::tempdir_in(setting.data.path(""))?;
    let out = folder.path().join("out.jsonl.gz");
    let ours = |level: &str| {
        let own = Program::new(setting.tools.ours("waybill-bench")).args(["work", "encode", "--level", level]);
        own.args([&rows, &out])
    };
    // The files differ in how they are packed, and in how a number is written, and in nothing else.
    let known = std::rc::Rc::new(std::cell::RefCell::new(std::collections::BTreeMap::new()));
    let found = || {
        let (out, known) = (out.clone(), std::rc::Rc::clone(&known));
        move |_: &Sample| {
            // The same program writes the same bytes again, mostly: those need no second look.
            let bytes = fs::metadata(&out)?.len();
            if let Some(result) = known.borrow().get(&bytes) {
                return Ok(String::clone(result));
            }
            let result = digest(&out)?;
            known.borrow_mut().insert(bytes, result.clone());
            Ok(result)
        }
    };
    let mut contenders =
        vec![Contender::new(SMALL, ours("6")).found_by(found()), Contender::new(USUAL, ours("4")).found_by(found())];
    let mut missing = Vec::new();
    for (name, line, program) in [
        (PIGZ, r#"pigz -6 -p2 -c "$1" >"$2" && stat -c '{"figures":{"bytes":%s}}' "$2""#, "pigz"),
        (GZIP, r#"gzip -6 -c "$1" >"$2" && stat -c '{"figures":{"bytes":%s}}' "$2""#, "gzip"),
    ] {
        match setting.tools.program(program) {
            Some(_) => {
                let contender = Contender::new(name, Program::shell(line).args([&text, &out])).found_by(found());
                // Of `gzip` only the size counts.
                contenders.push(if name == GZIP { contender.at_most_rounds(3) } else { contender });
            }
            None => absent(&mut missing, program, &format!("apt-get install {program}")),
        }
    }
    match &setting.tools.python {
        Some(path) => {
            let program = Program::new(path).args([setting.tools.peer("encode.py")]).args([&rows, &out]);
            contenders.push(Contender::new(PYTHON, program).found_by(found()).at_most_rounds(2));
        }
        None => absent(&mut missing, PYTHON, "cargo xtask bench prepares a Python environment"),
    }
    Ok(Bench { contenders, missing, keep: vec![Box::new(folder)] })
}

/// What the rows are, however their numbers are written and the file is packed.
fn digest(path: &Path) -> Result<String> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    decoder.feed(bytes::Bytes::from(fs::read(path)?));
    decoder.end();
    let (mut rows, mut digest) = (0_u64, Fnv::default());
    loop {
        match decoder.next()? {
            Step::NeedInput => {}
            Step::Batch(batch) => {
                ensure!(batch.bad().is_empty(), "a row cannot be read");
                for row in batch.rows() {
                    rows += 1;
                    row.for_each(&mut |name, value| {
                        digest.add(name.as_bytes());
                        match value {
                            Field::Number(text) => digest.add(&text.parse::<f64>().unwrap_or(f64::NAN).to_be_bytes()),
                            Field::Text(text) => digest.add(text.as_bytes()),
                            Field::Nested(json) => digest.add(&json),
                            Field::Missing | Field::Null | Field::Bool(_) => digest.add(b"-"),
                        }
                    });
                }
            }
            Step::Done(_) => return Ok(format!("{rows} rows, {:016x}", digest.0)),
        }
    }
}

/// FNV-1a: no secret hangs on it.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0xff]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
