//! A line of text as a predicate, and what follows as rows that it is asked of, as JSON Lines and as CSV.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use waybill_contracts::ColumnType::{Boolean, Date, Decimal, Float, Integer, Json, Text, Timestamp};
use waybill_formats::{
    DecodeOptions, RowDecoder, RowFilter, Source, Step,
    filter::{DEPTH_MAX, FilterColumns, FilterFields},
};

fuzz_target!(|data: &[u8]| {
    let (predicate, rows) = data.split_at(data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len()));
    let Ok(predicate) = str::from_utf8(predicate) else { return };
    let columns = [("i", Integer), ("d", Decimal), ("f", Float), ("b", Boolean), ("t", Text), ("at", Timestamp)];
    let columns = columns.into_iter().chain([("day", Date), ("doc", Json)]).map(|(name, kind)| (name, Some(kind)));
    let columns = FilterColumns { columns: columns.collect(), is_closed: false };
    let filter = match RowFilter::compile(predicate, &columns) {
        Ok(filter) => filter,
        Err(error) => {
            assert!(error.at <= predicate.chars().count() && !error.problem.is_empty(), "{error:?}");
            return;
        }
    };
    // What is not wanted is what its opposite wants; the line break ends a comment.
    let opposite = match RowFilter::compile(&format!("!(\n{predicate}\n)"), &columns) {
        Ok(opposite) => Some(opposite),
        Err(error) => {
            let is_limit = predicate.len() + 5 > 8192 || error.problem.contains(&DEPTH_MAX.to_string());
            assert!(is_limit, "{error:?}");
            None
        }
    };
    for source in [Source::JsonLines, Source::Csv { columns: None, delimiter: b',' }, Source::XmlLines] {
        let mut decoder = RowDecoder::new(DecodeOptions::new(source));
        decoder.feed(Bytes::copy_from_slice(rows));
        decoder.end();
        while let Ok(Step::Batch(batch)) = decoder.next() {
            let (mut room, mut other_room) = (FilterFields::default(), FilterFields::default());
            for row in batch.rows() {
                let wanted = filter.matches(&row, &mut room);
                assert_eq!(wanted, filter.matches(&row, &mut room), "it is the same each time");
                if let (Ok(wanted), Some(opposite)) = (&wanted, &opposite) {
                    // A step more may be one too many.
                    if let Ok(unwanted) = opposite.matches(&row, &mut other_room) {
                        assert_eq!(*wanted, !unwanted);
                    }
                }
            }
        }
    }
});
