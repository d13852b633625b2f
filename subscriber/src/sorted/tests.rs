//! Rows sorted as a model sorts them, whatever the runs; and what a trail tells.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use waybill_contracts::Entities;
use waybill_formats::{DecodeOptions, RowBatch, RowDecoder, Source, Step};

use super::{
    SortError, Sorted, Sorter, Trail,
    merge::Merge,
    run::{Place, ReadError, RunWriter, Spill},
};
use crate::apply::{EntityPlan, EntityPlans};

fn plan() -> Arc<EntityPlan> {
    let toml = "[entity.item]\nkey = [\"id\", \"site\"]\ncolumns = { id = \"integer\" }\nversion = { field = \"v\", type = \"integer\" }";
    let plans = EntityPlans::compile(&Entities::parse(toml, "entities.toml").unwrap()).unwrap();
    Arc::clone(plans.get("item").unwrap())
}

fn decode(text: &str, batch_rows: usize) -> Vec<RowBatch> {
    let mut decoder = RowDecoder::new(DecodeOptions { batch_rows, ..DecodeOptions::new(Source::JsonLines) });
    decoder.feed(Bytes::copy_from_slice(text.as_bytes()));
    decoder.end();
    let mut batches = Vec::new();
    while let Step::Batch(batch) = decoder.next().unwrap() {
        batches.push(batch);
    }
    batches
}

/// What a row of a test is, and the line that says so.
#[derive(Debug, Clone)]
enum Line {
    Good { id: i64, site: &'static str },
    WithoutKey,
    Malformed,
}

impl Line {
    fn text(&self) -> String {
        match self {
            Self::Good { id, site } => format!("{{\"id\":\"{id:+04}\",\"site\":\"{site}\",\"v\":1}}\n"),
            Self::WithoutKey => "{\"id\":\"none\",\"site\":\"a\"}\n".to_owned(),
            Self::Malformed => "{\"id\":\n".to_owned(),
        }
    }
}

fn lines() -> impl Strategy<Value = Vec<Line>> {
    let site = prop::sample::select(vec!["a", "ab", "b", ",", "é"]);
    let line = prop_oneof![
        8 => (-12..12_i64, site).prop_map(|(id, site)| Line::Good { id, site }),
        1 => Just(Line::WithoutKey),
        1 => Just(Line::Malformed),
    ];
    prop::collection::vec(line, 0..60)
}

fn sorted(lines: &[Line], run_bytes: usize, batch_rows: usize) -> (tempfile::TempDir, Sorted) {
    let folder = tempfile::tempdir().unwrap();
    let text: String = lines.iter().map(Line::text).collect();
    let mut sorter = Sorter::new(folder.path(), plan(), run_bytes);
    decode(&text, batch_rows).into_iter().for_each(|batch| sorter.add(batch).unwrap());
    let sorted = sorter.finish().unwrap();
    (folder, sorted)
}

/// The numbers of the rows that come, the good ones in their order, with the trail behind each group.
fn rest(sorted: &mut Sorted, rows_max: u64) -> (Vec<u64>, Vec<(u64, Trail)>) {
    let (mut numbers, mut trails, mut taken) = (Vec::new(), Vec::new(), 0);
    while let Some(rows) = sorted.next_rows(rows_max, usize::MAX).unwrap() {
        assert!(rows.rows <= rows_max);
        let before = numbers.len();
        for batch in &rows.batches {
            numbers.extend(batch.bad().iter().map(|bad| bad.row));
            numbers.extend(batch.rows().map(|row| row.number()));
        }
        assert_eq!((numbers.len() - before) as u64, rows.rows);
        taken += rows.rows;
        trails.push((taken, rows.trail));
    }
    (numbers, trails)
}

fn model(lines: &[Line]) -> Vec<u64> {
    let key = |line: &Line| match line {
        Line::Good { id, site } => Some((*id, format!("{id},{}", site.replace(',', "\\,")))),
        Line::WithoutKey | Line::Malformed => None,
    };
    let mut all: Vec<_> = (1..).zip(lines).map(|(number, line)| (key(line), number)).collect();
    all.sort();
    all.into_iter().map(|(_, number)| number).collect()
}

proptest! {
    #[test]
    fn rows_come_in_the_order_of_their_keys(lines in lines(), run_bytes in 1..4_000_usize, batch_rows in 1..9_usize) {
        let (folder, mut sorted) = sorted(&lines, run_bytes, batch_rows);
        prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing has a name");
        // One by one, so that those without a key show their order too.
        prop_assert_eq!(rest(&mut sorted, 1).0, model(&lines));
    }

    #[test]
    fn who_goes_on_finds_the_rows_that_are_left(
        lines in lines(), first in (1..4_000_usize, 1..9_usize, 1..7_u64), then in (1..4_000_usize, 1..9_usize)
    ) {
        let (run_bytes, batch_rows, rows_max) = first;
        let (_folder, mut first) = sorted(&lines, run_bytes, batch_rows);
        let (_, trails) = rest(&mut first, rows_max);
        for (taken, trail) in trails {
            let (_folder, mut again) = sorted(&lines, then.0, then.1);
            prop_assert!(again.skip(taken, trail).unwrap());
            let left = model(&lines).split_off(usize::try_from(taken).unwrap());
            prop_assert_eq!(rest(&mut again, 1).0, left);
        }
    }

    #[test]
    fn another_order_is_noticed_and_begins_again(lines in lines(), other in lines(), taken in 1..60_u64) {
        let (_folder, mut of_other) = sorted(&other, 1_000, 3);
        let taken = taken.min(other.len() as u64);
        let trail = model(&other).iter().take(usize::try_from(taken).unwrap()).fold(Trail::default(), |trail, row| trail.after(*row));
        prop_assert!(of_other.skip(taken, trail).unwrap());

        let (_folder, mut sorted) = sorted(&lines, 1_000, 3);
        let is_alike = model(&lines).get(..usize::try_from(taken).unwrap()) == model(&other).get(..usize::try_from(taken).unwrap());
        prop_assert_eq!(sorted.skip(taken, trail).unwrap(), is_alike);
        if !is_alike {
            prop_assert_eq!(rest(&mut sorted, 1).0, model(&lines));
        }
    }
}

#[test]
fn very_many_runs_are_merged_in_rounds() {
    let lines: Vec<_> = (0..10_000).map(|n| Line::Good { id: n * 7919 % 10_007, site: "a" }).collect();
    let (folder, mut sorted) = sorted(&lines, 1, 1);
    assert!(sorted.runs.len() < 3 * super::RUNS_MAX, "{} runs are read at once", sorted.runs.len());
    assert_eq!(rest(&mut sorted, 1_000).0, model(&lines));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing has a name");
}

#[test]
fn long_rows_are_merged_before_their_blocks_are_too_many_bytes() {
    let long = "x".repeat(4 << 20);
    let text: String =
        (0..20).map(|n| format!("{{\"id\":{},\"site\":\"a\",\"t\":\"{long}\"}}\n", n * 7 % 20)).collect();
    let folder = tempfile::tempdir().unwrap();
    let mut sorter = Sorter::new(folder.path(), plan(), 1);
    decode(&text, 1).into_iter().for_each(|batch| sorter.add(batch).unwrap());
    let mut sorted = sorter.finish().unwrap();
    let held: usize = sorted.runs.iter().map(|run| run.block_bytes).sum();
    assert!(held < 3 * super::BLOCKS_BYTES_MAX, "{held} bytes");
    let (numbers, _) = rest(&mut sorted, 3);
    assert_eq!(numbers.len(), 20);
    let ids: Vec<_> = numbers.iter().map(|number| (number - 1) * 7 % 20).collect();
    assert_eq!(ids, (0..20).collect::<Vec<_>>());
}

#[test]
fn a_folder_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut sorter = Sorter::new(&folder.path().join("gone"), plan(), 1);
    let row = decode("{\"id\":1,\"site\":\"a\"}\n", 1).remove(0);
    // It is written beside those that come meanwhile.
    sorter.add(row).unwrap();
    let error = sorter.finish().unwrap_err();
    assert!(matches!(error, SortError::File { .. }));
    assert!(error.to_string().contains("gone: a large file cannot be sorted there: "), "{error}");
    let full = SortError::File { folder: "/data".into(), source: std::io::ErrorKind::StorageFull.into() };
    assert!(full.to_string().starts_with("/data: the disk is full: a large file is sorted there"), "{full}");
}

#[test]
fn what_came_back_changed_is_never_taken_for_a_row() {
    let folder = tempfile::tempdir().unwrap();
    let place = |number| Place { has_key: true, prefix: number, key: b"k", number };
    let bytes = |spill: &Arc<Spill>| {
        let mut writer = RunWriter::new(spill).unwrap();
        (0..9).for_each(|number| writer.write(place(number), b"a packed row").unwrap());
        writer.finish().unwrap()
    };
    let read = |runs: &[_]| {
        let mut merge = Merge::new(runs)?;
        let mut rows = 0;
        while merge.next()?.is_some() {
            rows += 1;
        }
        Ok::<_, ReadError>(rows)
    };
    let whole = Spill::new(folder.path()).unwrap();
    let run = bytes(&whole);
    let length = run.block_bytes as u64;
    assert_eq!(read(&[run]).unwrap(), 9);
    for at in 0..length {
        let spill = Spill::new(folder.path()).unwrap();
        let run = bytes(&spill);
        let mut byte = [0];
        spill.read(at, &mut byte).unwrap();
        spill.write(at, &[byte[0] ^ 0x10]).unwrap();
        assert!(matches!(read(&[run]), Err(ReadError::Damaged)), "byte {at}");
    }
}
