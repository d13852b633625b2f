//! What every [`Sink`] has to do, as a suite that each backend's tests run, yours too.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::mpsc;
use waybill_contracts::{Entities, Entity, Format, OnUnwanted, SchemaMode};
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, RowFilter, Source, Step, filter::FilterColumns};

use super::{Ahead, Applied, EntityBatch, Progress, Sink, SinkError, Stretch, WholeFiles};
use crate::{
    FileKey,
    apply::{EntityPlans, Position},
    sorted::{Sorter, Trail},
};

/// The entities that a sink under test is opened with: one, `item`, of the blobType `ItemChanges`.
#[must_use]
pub fn entities() -> Entities {
    let item = Entity {
        name: "item".to_owned(),
        types: vec!["ItemChanges".to_owned()],
        key: vec!["id".to_owned()],
        version: None,
        table: "item".to_owned(),
        schema: SchemaMode::Evolve,
        columns: Vec::new(),
        references: Vec::new(),
        filter: None,
        on_unwanted: OnUnwanted::Remove,
    };
    Entities(BTreeMap::from([(item.name.clone(), item)]))
}

/// Runs the suite. `open(name)` opens the sink of that name: a new one the first time, and the same one again whenever the
/// name is the same, also while another handle on it is open.
///
/// # Panics
/// Says which promise is broken.
pub async fn exercise<S: Sink>(mut open: impl AsyncFnMut(&str) -> S) {
    progress_begins_at_nothing(open("begin").await).await;
    progress_and_rows_are_durable_on_return(&mut open).await;
    another_begin_is_fenced_without_effect(open("fence").await).await;
    a_done_file_takes_no_more(open("done").await).await;
    of_two_at_once_one_wins(open("race").await, open("race").await).await;
    a_file_without_rows_is_done(open("empty").await).await;
    every_row_is_counted_once(open("count").await).await;
    bad_and_filtered_rows_are_counted_over_all_batches(&mut open).await;
    rows_that_took_effect_are_passed_over(open("overlap").await).await;
    rows_that_the_filter_does_not_want_are_left_out_and_counted(open("filter").await).await;
    files_do_not_know_each_other(open("files").await).await;
    a_batch_may_be_read_ahead_of_the_one_before(open("ahead").await).await;
    rows_in_the_order_of_their_keys_follow_their_trail(open("sorted").await).await;
    a_file_takes_effect_as_a_whole_or_not_at_all(&mut open).await;
}

async fn progress_begins_at_nothing(sink: impl Sink) {
    assert_eq!(progress(&sink, "a").await, Progress::default(), "nothing is known of a new file");
}

async fn progress_and_rows_are_durable_on_return<S: Sink>(open: &mut impl AsyncFnMut(&str) -> S) {
    let file = Sample::new("a", 7);
    {
        let sink = open("durable").await;
        assert_eq!(file.apply(&sink, 0, 3, false).await.expect("the first rows").rows(), 3);
        assert_eq!(progress(&sink, "a").await, at(3));
    }
    let sink = open("durable").await;
    assert_eq!(progress(&sink, "a").await, at(3), "progress outlives the sink");
    file.apply(&sink, 3, 7, true).await.expect("the rest");
    let sink = open("durable").await;
    assert_eq!(progress(&sink, "a").await, done(7));
}

async fn another_begin_is_fenced_without_effect(sink: impl Sink) {
    let file = Sample::new("a", 6);
    file.apply(&sink, 0, 2, false).await.expect("the first rows");
    for (from, to) in [(0, 2), (0, 6), (1, 6), (3, 6)] {
        match file.apply(&sink, from, to, false).await {
            Err(SinkError::Fenced { expected, found, .. }) => {
                assert_eq!((expected, found), (from, at(2)));
            }
            other => panic!("rows from {from} of a file at row 2: {other:?}"),
        }
        assert_eq!(progress(&sink, "a").await, at(2), "a fenced batch has no effect");
    }
    assert_eq!(file.apply(&sink, 2, 6, true).await.expect("the rest").rows(), 4);
}

async fn a_done_file_takes_no_more(sink: impl Sink) {
    let file = Sample::new("a", 3);
    file.apply(&sink, 0, 3, true).await.expect("all rows");
    for from in [0, 3] {
        let result = file.apply(&sink, from, 3, true).await;
        assert!(
            matches!(result, Err(SinkError::Fenced { found: Progress { rows: 3, done: true, .. }, .. })),
            "a done file from {from}: {result:?}"
        );
    }
    assert_eq!(progress(&sink, "a").await, done(3));
}

async fn of_two_at_once_one_wins(one: impl Sink, other: impl Sink) {
    let file = Sample::new("a", 40);
    for from in (0..40).step_by(4) {
        let end = from + 4 == 40;
        let (first, second) =
            futures::join!(file.apply(&one, from, from + 4, end), file.apply(&other, from, from + 4, end));
        let winners = [&first, &second].into_iter().filter(|result| result.is_ok()).count();
        assert_eq!(winners, 1, "of two workers at row {from} one has an effect: {first:?}, {second:?}");
        let fenced = |result: &Result<_, SinkError>| matches!(result, Err(SinkError::Fenced { .. }));
        assert!(fenced(&first) || fenced(&second), "the other is fenced: {first:?}, {second:?}");
    }
    assert_eq!(progress(&one, "a").await, done(40));
}

async fn a_file_without_rows_is_done(sink: impl Sink) {
    let applied = Sample::new("a", 0).apply(&sink, 0, 0, true).await.expect("no rows are fine");
    assert_eq!(applied, Applied::default());
    assert_eq!(progress(&sink, "a").await, done(0));
}

async fn every_row_is_counted_once(sink: impl Sink) {
    let text = "{\"id\":1}\n{\"id\":2}\nnot a row\n{\"id\":2,\"again\":true}\n{\"name\":\"no key\"}\n{\"id\":3,\"_deleted\":true}\n";
    let file = Sample::of("a", text);
    let applied = file.apply(&sink, 0, 6, true).await.expect("bad rows are kept, not fatal");
    assert_eq!(applied.rows(), 6, "each row is counted once: {applied:?}");
    assert!(applied.bad >= 1, "a row that is not of its format is bad: {applied:?}");
    assert_eq!(progress(&sink, "a").await, Progress { bad: applied.bad, ..done(6) });
}

async fn bad_and_filtered_rows_are_counted_over_all_batches<S: Sink>(open: &mut impl AsyncFnMut(&str) -> S) {
    let text = "not a row\n{\"id\":2}\n{\"id\":1}\n{\"id\":\"none\"}\nnor this\n{\"id\":2}\n";
    let file = Sample::of("a", text);
    let last = file.rows.last().expect("there are some").last_row();
    let filter = Arc::new(RowFilter::compile("row.id != 2", &FilterColumns::default()).expect("a predicate"));
    let batch = |from, to| EntityBatch {
        blob_type: Arc::from("Log"),
        entity: None,
        filter: Some(Arc::clone(&filter)),
        ..file.batch(from, to, to == last)
    };
    let sink = open("figures").await;
    sink.apply(&file.key, 0, batch(0, 3)).await.expect("the first rows");
    assert_eq!(progress(&sink, "a").await, Progress { bad: 1, filtered: 1, ..at(3) });
    drop(sink);
    let sink = open("figures").await;
    // Somebody chose to leave malformed rows out from now on.
    let mut rest = batch(3, last);
    rest.rows.iter_mut().for_each(RowBatch::forget_bad);
    sink.apply(&file.key, 3, rest).await.expect("the rest");
    assert_eq!(progress(&sink, "a").await, Progress { bad: 3, filtered: 2, ..done(last) });
}

async fn rows_that_took_effect_are_passed_over(sink: impl Sink) {
    let file = Sample::new("a", 9);
    file.apply(&sink, 0, 4, false).await.expect("the first rows");
    let all = file.batch(0, 9, true);
    let applied = sink.apply(&file.key, 4, all).await.expect("a stretch that begins before");
    assert_eq!(applied.rows(), 5, "rows up to progress are passed over: {applied:?}");
}

async fn rows_that_the_filter_does_not_want_are_left_out_and_counted(sink: impl Sink) {
    let file = Sample::of("a", "{\"id\":1}\n{\"id\":2}\n{\"id\":3}\n{\"id\":\"none\"}\n");
    let filter = RowFilter::compile("row.id != 2", &FilterColumns::default()).expect("a predicate");
    let batch = EntityBatch {
        blob_type: Arc::from("Log"),
        entity: None,
        filter: Some(Arc::new(filter)),
        ..file.batch(0, 4, true)
    };
    let applied = sink.apply(&file.key, 0, batch).await.expect("what is not wanted is no error");
    assert_eq!(applied, Applied { inserted: 2, filtered: 1, bad: 1, ..Applied::default() });
}

async fn a_batch_may_be_read_ahead_of_the_one_before(sink: impl Sink) {
    // Each brings a field that the one before does not have; the last two bring the same.
    let text = "{\"id\":1,\"a\":1}\n{\"id\":2,\"b\":2}\n{\"id\":1,\"c\":3}\n{\"id\":3,\"c\":4,\"a\":5}\n";
    let file = Sample::of("a", text);
    let mut ready = Vec::new();
    for from in 0..4 {
        let batch = file.batch(from, from + 1, from == 3);
        ready.push(sink.look_ahead(&file.key, from, batch).await.expect("a batch can be read"));
    }
    assert_eq!(progress(&sink, "a").await, Progress::default(), "reading ahead has no effect");
    for (from, batch) in (0..).zip(ready) {
        let applied = sink.apply(&file.key, from, batch).await.expect("what was read ahead takes effect");
        assert_eq!(applied.rows(), 1, "the row of the batch: {applied:?}");
    }
    assert_eq!(progress(&sink, "a").await, done(4));
}

/// Of a sink that sorts.
async fn rows_in_the_order_of_their_keys_follow_their_trail(sink: impl Sink) {
    let Some(folder) = sink.sorts_in() else { return };
    // The last row comes first.
    let text = "{\"id\":3}\n{\"id\":2}\nnot a row\n{\"id\":2,\"again\":true}\n{\"id\":1}\n";
    let file = Sample::of("a", text);
    let plan = file.plans.get("item").expect("the suite's own entity");
    let mut sorter = Sorter::new(folder, Arc::clone(plan), 1);
    file.rows.iter().for_each(|batch| sorter.add(batch.clone()).expect("rows are sorted"));
    let mut sorted = sorter.finish().expect("rows are sorted");
    let mut trail = Trail::default();
    let mut next = |from: u64, to: u64| {
        let rows = sorted.next_rows(to - from, usize::MAX).expect("rows are sorted").expect("there are more");
        let stretch = Stretch { before: std::mem::replace(&mut trail, rows.trail), after: rows.trail, dropped: 0 };
        EntityBatch { rows: rows.batches, sorted: Some(stretch), ..file.batch(0, to, to == 5) }
    };
    let (first, rest) = (next(0, 2), next(2, 5));
    let (after_first, whole) = (first.sorted.map(|stretch| stretch.after), rest.sorted);
    let wrong = EntityBatch {
        sorted: Some(Stretch { before: Trail::default(), ..whole.expect("it is sorted") }),
        ..next_of(&rest)
    };

    let applied = sink.apply(&file.key, 0, first).await.expect("rows whose numbers are not the first");
    assert_eq!(applied, Applied { inserted: 1, bad: 1, ..Applied::default() });
    let known = progress(&sink, "a").await;
    assert_eq!(known, Progress { bad: 1, trail: after_first, ..at(2) });

    for other in [wrong, file.batch(2, 5, true)] {
        let result = sink.apply(&file.key, 2, other).await;
        assert!(matches!(result, Err(SinkError::Fenced { .. })), "rows of another order: {result:?}");
    }
    let result = sink.begin_again(&file.key, at(2)).await;
    assert!(matches!(result, Err(SinkError::Fenced { .. })), "whoever does not know how far it is: {result:?}");
    assert_eq!(progress(&sink, "a").await, known, "nothing of these had an effect");
    sink.begin_again(&file.key, known).await.expect("it is there");
    assert_eq!(progress(&sink, "a").await, Progress::default());

    file.apply(&sink, 0, 4, false).await.expect("in the file's order this time");
    assert_eq!(progress(&sink, "a").await, Progress { bad: 1, ..at(4) });
    let result = sink.apply(&file.key, 4, rest).await;
    assert!(matches!(result, Err(SinkError::Fenced { .. })), "rows in the order of keys: {result:?}");
    let applied = file.apply(&sink, 4, 5, true).await.expect("the rest");
    assert_eq!(applied, Applied { ignored: 1, ..Applied::default() }, "it took effect before");
    assert_eq!(progress(&sink, "a").await, Progress { bad: 1, ..done(5) });
}

/// Of a sink that brings whole files into effect.
async fn a_file_takes_effect_as_a_whole_or_not_at_all<S: Sink>(open: &mut impl AsyncFnMut(&str) -> S) {
    let sink = open("whole").await;
    if sink.whole_files() != WholeFiles::Asked {
        return;
    }
    let file =
        Sample::of("a", "{\"id\":1}\n{\"id\":2,\"n\":1}\nnot a row\n{\"id\":3,\"n\":0.5}\n{\"id\":1,\"m\":\"x\"}\n");
    let applied =
        apply_whole(&sink, &file, &[2, 4], false).await.expect("a file that ends early is no error of the sink");
    assert_eq!(applied, None, "it had no end");
    assert_eq!(progress(&sink, "a").await, Progress::default(), "nothing of it took effect");

    // Whoever gave it up is gone: a lease that lapsed, or a stop.
    let (to, batches) = mpsc::channel(1);
    let given = async {
        for from in 0..4 {
            to.send(file.batch(from, from + 1, false)).await.expect("it goes on");
        }
    };
    futures::pin_mut!(given);
    {
        let whole = sink.apply_whole(&file.key, batches);
        futures::pin_mut!(whole);
        let futures::future::Either::Right(_) = futures::future::select(whole, given).await else {
            panic!("there is no end")
        };
    }
    assert_eq!(progress(&sink, "a").await, Progress::default(), "nothing of it took effect");

    let applied = apply_whole(&sink, &file, &[1, 1, 4, 5], true).await.expect("a file").expect("a whole one");
    assert_eq!((applied.rows(), applied.bad), (5, 1), "each row is counted once: {applied:?}");
    let whole = Progress { bad: 1, ..done(5) };
    assert_eq!(progress(&sink, "a").await, whole);
    drop(sink);
    let sink = open("whole").await;
    assert_eq!(progress(&sink, "a").await, whole, "it outlives the sink");
    match apply_whole(&sink, &file, &[5], true).await {
        Err(SinkError::Fenced { expected: 0, found, .. }) => assert_eq!(found, whole),
        other => panic!("a file that is done: {other:?}"),
    }
    let began = Sample::new("b", 4);
    began.apply(&sink, 0, 2, false).await.expect("the first rows");
    match apply_whole(&sink, &began, &[1, 4], true).await {
        Err(SinkError::Fenced { expected: 0, found, .. }) => assert_eq!(found, at(2)),
        other => panic!("a file that has begun: {other:?}"),
    }
    assert_eq!(began.apply(&sink, 2, 4, true).await.expect("the rest").rows(), 2);
    assert_eq!(
        apply_whole(&sink, &Sample::new("c", 0), &[0], true).await.expect("no rows are fine"),
        Some(Applied::default())
    );

    let (one, other) = (open("whole").await, open("whole").await);
    let raced = Sample::new("d", 20);
    let ends = [5, 10, 20];
    let (first, second) =
        futures::join!(apply_whole(&one, &raced, &ends, true), apply_whole(&other, &raced, &ends, true));
    let is_fenced =
        |result: &Result<_, _>| matches!(result, Err(SinkError::Fenced { found, .. }) if *found == done(20));
    assert!(
        first.is_ok() && is_fenced(&second) || second.is_ok() && is_fenced(&first),
        "of two at once one wins: {first:?}, {second:?}"
    );
    assert_eq!(progress(&one, "d").await, done(20));
}

/// Gives a file's rows up to each of the ends, the last with the file's end if it is complete.
async fn apply_whole(
    sink: &impl Sink,
    file: &Sample,
    ends: &[u64],
    is_complete: bool,
) -> Result<Option<Applied>, SinkError> {
    let (to, batches) = mpsc::channel(1);
    let giving = async move {
        let mut from = 0;
        for (nth, end) in (1..).zip(ends) {
            // A sink that gave up says why itself.
            if to.send(file.batch(from, *end, is_complete && nth == ends.len())).await.is_err() {
                break;
            }
            from = *end;
        }
    };
    futures::join!(sink.apply_whole(&file.key, batches), giving).0
}

/// The same rows for another try.
fn next_of(batch: &EntityBatch) -> EntityBatch {
    EntityBatch {
        blob_type: Arc::clone(&batch.blob_type),
        entity: batch.entity.clone(),
        filter: None,
        format: batch.format,
        position: batch.position.clone(),
        rows: batch.rows.clone(),
        to: batch.to,
        end: batch.end.clone(),
        sorted: batch.sorted,
        ahead: Ahead::default(),
    }
}

async fn files_do_not_know_each_other(sink: impl Sink) {
    let files: Vec<_> = (0..8).map(|nth| Sample::new(&format!("file {nth} / \\ ☃"), 5)).collect();
    let results = join_all(files.iter().map(|file| file.apply(&sink, 0, 5, true))).await;
    for (file, result) in files.iter().zip(results) {
        result.expect("files side by side");
        assert_eq!(progress(&sink, file.key.as_str()).await, done(5));
    }
    assert_eq!(progress(&sink, "file 9").await, Progress::default());
}

/// Of a file whose rows are all good.
fn at(rows: u64) -> Progress {
    Progress { rows, ..Progress::default() }
}

/// The same, once it is done.
fn done(rows: u64) -> Progress {
    Progress { done: true, ..at(rows) }
}

async fn progress(sink: &impl Sink, file: &str) -> Progress {
    sink.progress(&FileKey::from_stored(file.to_owned())).await.expect("progress can be read")
}

/// A file of `ItemChanges`.
struct Sample {
    key: FileKey,
    /// One row each, so that a stretch can end at any of them.
    rows: Vec<RowBatch>,
    plans: EntityPlans,
    bytes: u64,
}

impl Sample {
    fn new(key: &str, rows: u64) -> Self {
        let row = |id| serde_json::json!({ "id": id, "name": format!("of {key}") }).to_string() + "\n";
        Self::of(key, &(1..=rows).map(row).collect::<String>())
    }

    fn of(key: &str, text: &str) -> Self {
        let plans = EntityPlans::compile(&entities()).expect("the suite's own entity");
        let rows = decode(text);
        Self { key: FileKey::from_stored(key.to_owned()), rows, plans, bytes: text.len() as u64 }
    }

    fn batch(&self, from: u64, to: u64, end: bool) -> EntityBatch {
        let stretch = self.rows.iter().filter(|batch| batch.first_row() > from && batch.last_row() <= to);
        let stats = FileStats {
            rows: to,
            bad_rows: self.rows.iter().map(|batch| batch.bad().len() as u64).sum(),
            stored_bytes: self.bytes,
            plain_bytes: self.bytes,
            plain_sha256: None,
            gzip: false,
        };
        EntityBatch {
            blob_type: Arc::from("ItemChanges"),
            entity: self.plans.for_type("ItemChanges").cloned(),
            filter: None,
            format: Format::JsonLines,
            position: Position::Broker { sequence_number: 1 },
            rows: stretch.cloned().collect(),
            to,
            end: end.then_some(stats),
            sorted: None,
            ahead: Ahead::default(),
        }
    }

    async fn apply(&self, sink: &impl Sink, from: u64, to: u64, end: bool) -> Result<Applied, SinkError> {
        sink.apply(&self.key, from, self.batch(from, to, end)).await
    }
}

fn decode(text: &str) -> Vec<RowBatch> {
    let mut decoder = RowDecoder::new(DecodeOptions { batch_rows: 1, ..DecodeOptions::new(Source::JsonLines) });
    decoder.feed(Bytes::copy_from_slice(text.as_bytes()));
    decoder.end();
    let mut batches = Vec::new();
    while let Step::Batch(batch) = decoder.next().expect("the suite's own rows") {
        batches.push(batch);
    }
    batches
}
