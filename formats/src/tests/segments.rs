//! What is packed in segments is one file like any other, and its index is true.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;
use crate::{
    Compression, FileAssembler, Finished, RowWriter, Segment, SegmentWriter, WriterOptions,
    gzip::index::{Index, Look, TAIL_BYTES, look},
};

/// Packs segments from the last to the first and joins them in their order.
fn assembled(compression: Compression, segments: Vec<Segment>, written: crate::Written) -> Vec<u8> {
    let mut packed: Vec<_> = segments.into_iter().rev().map(Segment::pack).collect();
    let (mut assembler, mut body) = (FileAssembler::new(compression), Vec::new());
    while let Some(segment) = packed.pop() {
        assembler.add(segment);
        body.extend(assembler.take(1).unwrap());
    }
    let Finished { head, rest, stats } = assembler.finish(written);
    let stored = [&head[..], &body, &rest].concat();
    assert_eq!(stats.stored_bytes, stored.len() as u64);
    stored
}

fn index_of(stored: &[u8]) -> Index {
    match look(stored, stored.len() as u64) {
        Look::Index(index) => index,
        other => panic!("{other:?}"),
    }
}

fn inflated(stored: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut reader = flate2::bufread::GzDecoder::new(stored);
    std::io::Read::read_to_end(&mut reader, &mut plain).unwrap();
    assert!(reader.into_inner().is_empty(), "one member, and nothing after it");
    plain
}

/// Each segment's plain bytes, inflated with nothing before it.
fn pieces(stored: &[u8], index: &Index) -> Vec<Vec<u8>> {
    let mut at = index.header as usize;
    let pieces = index.entries.iter().map(|entry| {
        let mut deflate = stored[at..at + entry.stored as usize].to_vec();
        deflate.extend([3, 0]);
        at += entry.stored as usize;
        let mut plain = Vec::new();
        std::io::Read::read_to_end(&mut flate2::bufread::DeflateDecoder::new(&deflate[..]), &mut plain).unwrap();
        assert_eq!(plain.len() as u64, entry.plain);
        plain
    });
    let pieces = pieces.collect();
    assert_eq!(at as u64 + TAIL_BYTES, stored.len() as u64);
    pieces
}

#[test]
fn segments_end_where_rows_end_and_the_index_says_so() {
    let rows = 60_000;
    let options = [
        (WriterOptions::JsonLines, json_lines()),
        (csv_columns(), csv()),
        (WriterOptions::Json, json()),
        (WriterOptions::of(waybill_contracts::Format::Xml).unwrap(), xml()),
        (WriterOptions::of(waybill_contracts::Format::XmlLines).unwrap(), xml_lines()),
    ];
    for (options, decoding) in options {
        let mut writer = SegmentWriter::new(options.clone(), Compression::Gzip(1));
        let mut segments = Vec::new();
        for n in 0..rows {
            let value = format!("some text, {n}\n{}", "x".repeat(n % 120));
            writer.row(&[("a", text(&value)), ("b", Field::Null)]).unwrap();
            segments.extend(writer.segment());
        }
        assert!(segments.len() > 3);
        assert!(segments.iter().all(|segment| (1 << 20..(1 << 20) + 300).contains(&segment.plain_bytes())));
        let (last, written) = writer.finish();
        segments.extend(last);
        let stored = assembled(Compression::Gzip(1), segments, written);
        let (plain, index) = (inflated(&stored), index_of(&stored));
        assert!(index.rows);
        assert_eq!(pieces(&stored, &index).concat(), plain);
        assert_eq!(index.entries.iter().map(|entry| entry.rows).sum::<u64>(), rows as u64);
        // A row ends where a segment does, as a decoder of the whole file sees it.
        let mut ends: Vec<(u64, u64)> = Vec::new();
        for entry in &index.entries {
            let (at, rows) = ends.last().copied().unwrap_or_default();
            ends.push((at + entry.plain, rows + entry.rows));
        }
        let outcome = decode(decoding, &stored);
        for (end, rows) in &ends[..ends.len() - 1] {
            let next = outcome.rows[*rows as usize].offset();
            assert!((*end..*end + 4).contains(&next), "{options:?}: {end}, but row {} begins at {next}", rows + 1);
        }
    }
}

fn csv_columns() -> WriterOptions {
    WriterOptions::Csv { columns: vec!["a".to_owned(), "b".to_owned()] }
}

#[test]
fn raw_bytes_are_cut_where_rows_are_told_to_end() {
    let lines: Vec<Vec<u8>> =
        (0..50_000).map(|n| format!("{{\"n\":{n},\"t\":\"{}\"}}\n", "y".repeat(n % 200)).into_bytes()).collect();
    let plain = lines.concat();
    for told in [true, false] {
        let writer = SegmentWriter::new(WriterOptions::Raw, Compression::Gzip(6));
        let mut writer = if told { writer.telling_row_ends() } else { writer };
        let mut segments = Vec::new();
        let (mut at, mut rows) = (0, 0);
        for chunk in plain.chunks(100_000) {
            writer.raw(chunk);
            let here = at + chunk.len();
            if told {
                let ended = plain[..here].iter().rposition(|&byte| byte == b'\n').unwrap() + 1;
                rows += plain[at..here].iter().filter(|&&byte| byte == b'\n').count() as u64;
                writer.row_end(ended as u64, rows);
            }
            at = here;
            segments.extend(writer.segment());
        }
        let (last, written) = writer.finish();
        assert_eq!(written.rows, if told { 50_000 } else { 0 });
        assert_eq!(written.plain_sha256, <[u8; 32]>::from(Sha256::digest(&plain)));
        segments.extend(last);
        let stored = assembled(Compression::Gzip(6), segments, written);
        assert_eq!(inflated(&stored), plain);
        let index = index_of(&stored);
        assert_eq!(index.rows, told);
        assert!(index.entries.len() > 3);
        let pieces = pieces(&stored, &index);
        assert_eq!(pieces.concat(), plain);
        assert_eq!(pieces.iter().all(|piece| piece.ends_with(b"\n")), told);
    }
}

#[test]
fn raw_bytes_without_any_rows_end_are_not_held_for_ever() {
    let mut writer = SegmentWriter::new(WriterOptions::Raw, Compression::Gzip(1)).telling_row_ends();
    let blank = vec![b'\n'; 1 << 20];
    let (mut taken, mut segments) = (0, Vec::new());
    for fed in 1..=80 {
        writer.raw(&blank);
        while let Some(segment) = writer.segment() {
            taken += segment.plain.len();
            segments.push(segment);
        }
        assert!((fed << 20) - taken <= 32 << 20, "{} bytes are held", (fed << 20) - taken);
    }
    writer.raw(b"{}\n");
    writer.row_end((80 << 20) + 3, 1);
    let (last, written) = writer.finish();
    assert_eq!((written.rows, written.plain_bytes), (1, (80 << 20) + 3));
    segments.extend(last);
    let stored = assembled(Compression::Gzip(1), segments, written);
    assert_eq!(inflated(&stored).len(), (80 << 20) + 3);
    assert!(!index_of(&stored).rows);
}

#[test]
fn a_file_without_rows_is_a_gzip_without_bytes() {
    let Finished { head, rest, stats } = RowWriter::new(WriterOptions::JsonLines, Compression::Gzip(4)).finish();
    assert_eq!((inflated(&rest), &head[..], stats.stored_bytes), (Vec::new(), &[][..], rest.len() as u64));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn whatever_is_packed_in_segments_is_there_again(
        chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..300), 1_usize..9000, any::<bool>()), 0..8),
        level in 0_u32..10,
    ) {
        let mut writer = SegmentWriter::new(WriterOptions::Raw, Compression::Gzip(level)).telling_row_ends();
        let (mut plain, mut segments) = (Vec::new(), Vec::new());
        for (rows, (bytes, times, ends)) in chunks.iter().enumerate() {
            let chunk = bytes.repeat(*times);
            plain.extend_from_slice(&chunk);
            writer.raw(&chunk);
            if *ends {
                writer.row_end(plain.len() as u64, rows as u64 + 1);
            }
            segments.extend(writer.segment());
        }
        let (last, written) = writer.finish();
        segments.extend(last);
        let count = segments.len();
        let stored = assembled(Compression::Gzip(level), segments, written);
        prop_assert_eq!(&inflated(&stored), &plain);
        if count > 1 {
            prop_assert_eq!(pieces(&stored, &index_of(&stored)).concat(), plain);
        }
    }
}
