//! Segments decoded in any order come to what the file comes to in one go, or to a doubt; never to anything else.

use proptest::prelude::*;

use super::*;
use crate::{
    Charset, Compression, FileAssembler, Limits, Segment,
    gzip::index::{Look, TAIL_BYTES, look},
    seek::{Doubt, Part, SegmentDecoder, SegmentJob},
    writer::Written,
};

/// What decoding by segments came to.
#[derive(Debug, PartialEq)]
enum Beside {
    Rows(Vec<Seen>, FileStats),
    /// After these rows.
    Doubt(Vec<Seen>),
    Ordinary,
}

/// A file of segments that are cut anywhere, which its index says are rows' ends.
fn file_of(segments: &[&[u8]], level: u32) -> Vec<u8> {
    let compression = Compression::Gzip(level);
    let mut assembler = FileAssembler::new(compression);
    for plain in segments.iter().filter(|plain| !plain.is_empty()) {
        let rows = Some(plain.iter().filter(|&&byte| byte == b'\n').count() as u64);
        assembler.add(Segment { plain: plain.to_vec(), rows, compression }.pack());
    }
    let plain_bytes = segments.iter().map(|plain| plain.len() as u64).sum();
    assembler.finish(Written { rows: 0, plain_bytes, plain_sha256: [0; 32] }).rest.to_vec()
}

/// Cut behind every `lines`th line break.
fn cut_at_lines(plain: &[u8], lines: usize) -> Vec<&[u8]> {
    let ends: Vec<usize> =
        (0..plain.len()).filter(|&at| plain[at] == b'\n').map(|at| at + 1).skip(lines - 1).step_by(lines).collect();
    let begins = std::iter::once(0).chain(ends.iter().copied());
    begins.clone().zip(begins.skip(1).chain([plain.len()])).map(|(from, to)| &plain[from..to]).collect()
}

/// Runs up to `at_once` jobs, the last one first.
fn beside(options: DecodeOptions, stored: &[u8], chunk: usize, at_once: usize) -> Beside {
    let mut decoder = SegmentDecoder::new(options, stored.len() as u64);
    let mut chunks = stored.chunks(chunk.max(1));
    let (mut jobs, mut rows): (Vec<SegmentJob>, Vec<Seen>) = (Vec::new(), Vec::new());
    let flush = |decoder: &mut SegmentDecoder, jobs: &mut Vec<SegmentJob>, rows: &mut Vec<Seen>| {
        let mut outcomes: Vec<_> = jobs.drain(..).rev().map(SegmentJob::decode).collect();
        while let Some(outcome) = outcomes.pop() {
            let batches = decoder.put(outcome)?;
            rows.extend(batches.iter().flat_map(seen_in));
        }
        Ok::<_, Doubt>(())
    };
    loop {
        match decoder.next() {
            Ok(Part::NeedInput) => decoder.feed(Bytes::copy_from_slice(chunks.next().expect("no more than there is"))),
            Ok(Part::Job(job)) => {
                jobs.push(job);
                if jobs.len() == at_once && flush(&mut decoder, &mut jobs, &mut rows).is_err() {
                    return Beside::Doubt(rows);
                }
            }
            Ok(Part::NeedRows) => {
                assert!(!jobs.is_empty(), "a job is under way");
                if flush(&mut decoder, &mut jobs, &mut rows).is_err() {
                    return Beside::Doubt(rows);
                }
            }
            Ok(Part::Done(stats)) => {
                assert!(jobs.is_empty());
                return Beside::Rows(rows, stats);
            }
            Ok(Part::Ordinary(fed)) => {
                assert!(rows.is_empty() && jobs.is_empty());
                assert!(stored.starts_with(&fed.concat()), "nothing is lost");
                return Beside::Ordinary;
            }
            Err(Doubt) => return Beside::Doubt(rows),
        }
    }
}

fn seen_in(batch: &RowBatch) -> Vec<Seen> {
    let good = batch
        .rows()
        .map(|row| (row.number(), Seen::Good { row: row.number(), offset: row.offset(), raw: row.raw().to_vec() }));
    let bad = batch.bad().iter().map(|bad| {
        let (row, offset, problem) = (bad.row, bad.offset, bad.problem.clone());
        (row, Seen::Bad { row, offset, problem, bytes: bad.bytes.to_vec() })
    });
    let mut seen: Vec<(u64, Seen)> = good.chain(bad).collect();
    seen.sort_by_key(|(row, _)| *row);
    assert_eq!(seen.first().map(|seen| seen.0), Some(batch.first_row()));
    assert_eq!(seen.last().map(|seen| seen.0), Some(batch.last_row()));
    seen.into_iter().map(|(_, seen)| seen).collect()
}

/// The whole is what reading in one go says it is.
fn assert_agrees(beside: &Beside, options: DecodeOptions, stored: &[u8]) {
    let whole = decode(options, stored);
    match beside {
        Beside::Rows(rows, stats) => {
            assert_eq!(*rows, whole.rows);
            assert_eq!(Some(stats), whole.end.as_ref().ok());
        }
        Beside::Doubt(rows) => {
            let same = rows.iter().zip(&whole.rows).take_while(|(row, of_whole)| row == of_whole).count();
            assert_eq!(
                same,
                rows.len(),
                "the next is {:?}, not {:?}; {:?}",
                rows.get(same),
                whole.rows.get(same),
                whole.end
            );
        }
        Beside::Ordinary => {}
    }
}

fn is_rows(beside: &Beside) -> bool {
    matches!(beside, Beside::Rows(..))
}

#[test]
fn every_line_based_format_is_read_beside_itself() {
    let jsonl =
        (0..500).map(|n| format!("{{\"n\":{n}}}{}", if n % 7 == 0 { "\r\n\n" } else { "\n" })).collect::<String>();
    let jsonl = format!("\u{feff}{jsonl}oops\n{{\"n\":501}}\n{{\"last\":true}}");
    let csv_rows: String = (0..500).map(|n| format!("{n},\"é\"\"{n}\"\r\n{n},,\n\n")).collect();
    let xml = (0..500).map(|n| format!("<r a='{n}'><b>x</b></r>\n")).collect::<String>();
    let xml = format!("<?xml version='1.0' encoding='UTF-8'?>\n{xml}<r>\n");
    for (options, plain) in [
        (json_lines(), jsonl.clone()),
        (csv(), format!("a,b\n{csv_rows}")),
        (csv_of(&["a", "b"]), csv_rows.clone()),
        (xml_lines(), xml),
    ] {
        for lines in [1, 3, 100] {
            let stored = file_of(&cut_at_lines(plain.as_bytes(), lines), 6);
            for (chunk, at_once) in [(1, 1), (1000, 3), (usize::MAX, 100)] {
                for batch_rows in [2, 10_000] {
                    let options = DecodeOptions { batch_rows, ..options.clone() };
                    let beside = beside(options.clone(), &stored, chunk, at_once);
                    assert!(is_rows(&beside), "{lines} {beside:?}");
                    assert_agrees(&beside, options, &stored);
                }
            }
        }
    }
}

/// What of a file is read from each of its checkpoints.
#[test]
fn a_file_goes_on_at_every_checkpoint() {
    let jsonl: String =
        (0..300).map(|n| format!("{{\"n\":{n}}}\n{}", if n % 50 == 7 { "oops\n" } else { "" })).collect();
    let csv_rows: String = (0..300).map(|n| format!("{n},\"é\"\"{n}\"\r\n")).collect();
    let xml = (0..300).map(|n| format!("<r a='{n}'/>\n")).collect::<String>();
    let xml = format!("<?xml version='1.0'?>\n{xml}");
    for (options, plain) in [
        (json_lines(), jsonl),
        (csv(), format!("a,\"b\"\"\"\n{csv_rows}")),
        (csv_of(&["a", "b"]), csv_rows),
        (xml_lines(), xml),
    ] {
        let stored = file_of(&cut_at_lines(plain.as_bytes(), 40), 6);
        let whole = decode(options.clone(), &stored);
        let mut decoder = SegmentDecoder::new(options.clone(), stored.len() as u64);
        decoder.feed(Bytes::copy_from_slice(&stored));
        assert_eq!(decoder.checkpoint(), None);
        let mut checkpoints = 0;
        while let Part::Job(job) = decoder.next().unwrap() {
            decoder.put(job.decode()).unwrap();
            let Some(checkpoint) = decoder.checkpoint() else { break };
            let text = serde_json::to_string(&checkpoint).unwrap();
            assert_eq!(serde_json::from_str::<crate::seek::Checkpoint>(&text).unwrap(), checkpoint);
            checkpoints += 1;
            for chunk in [7, 1000] {
                let mut rest = RowDecoder::go_on(options.clone(), &checkpoint);
                let mut chunks = stored[checkpoint.stored as usize..].chunks(chunk);
                let mut rows = Vec::new();
                let stats = loop {
                    match rest.next().unwrap() {
                        Step::Batch(batch) => rows.extend(seen_in(&batch)),
                        Step::NeedInput => match chunks.next() {
                            Some(chunk) => rest.feed(Bytes::copy_from_slice(chunk)),
                            None => rest.end(),
                        },
                        Step::Done(stats) => break stats,
                    }
                };
                assert_eq!(rows, whole.rows[checkpoint.rows as usize..]);
                assert_eq!(&stats, whole.end.as_ref().unwrap());
            }
            // What was noted wrongly is found at the end.
            let mut wrong = RowDecoder::go_on(
                options.clone(),
                &crate::seek::Checkpoint { crc: !checkpoint.crc, ..checkpoint.clone() },
            );
            wrong.feed(Bytes::copy_from_slice(&stored[checkpoint.stored as usize..]));
            wrong.end();
            let end = loop {
                match wrong.next() {
                    Ok(Step::Batch(_)) => {}
                    other => break other,
                }
            };
            assert_eq!(end.unwrap_err().reason, Reason::CorruptGzip);
        }
        assert!(checkpoints > 5, "{checkpoints}");
    }
}

#[test]
fn a_segment_that_ends_within_a_row_is_a_doubt() {
    let csv_rows: String = (0..50).map(|n| format!("{n},\"line\nbreak, \"\" and\n\"\n")).collect();
    let plain = format!("a,b\n{csv_rows}");
    // Some cuts are within quotes.
    for lines in [1, 2, 4] {
        let stored = file_of(&cut_at_lines(plain.as_bytes(), lines), 4);
        let beside = beside(csv(), &stored, 100, 2);
        assert!(matches!(beside, Beside::Doubt(_)), "{lines}: {beside:?}");
        assert_agrees(&beside, csv(), &stored);
    }
    let rows = b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n";
    for cut in (4..rows.len()).filter(|&cut| rows[cut - 1] != b'\n') {
        let stored = file_of(&[&rows[..cut], &rows[cut..]], 4);
        assert_eq!(beside(json_lines(), &stored, 10, 2), Beside::Doubt(Vec::new()), "{cut}");
    }
}

#[test]
fn what_cannot_be_read_from_any_row_on_is_read_in_the_ordinary_way() {
    let lines = b"{\"n\":1}\n".repeat(50);
    let stored = file_of(&cut_at_lines(&lines, 10), 4);
    let hashed = DecodeOptions { hash_plain: true, ..json_lines() };
    let latin = DecodeOptions { charset: Charset::from_label("latin1"), ..json_lines() };
    for options in [json(), xml(), hashed, latin] {
        assert_eq!(beside(options, &stored, 100, 2), Beside::Ordinary);
    }
    for other in [lines.clone(), member(&lines, 6), member_with_names(&lines), file_of(&[&lines], 4), Vec::new()] {
        assert_eq!(beside(json_lines(), &other, 100, 2), Beside::Ordinary);
    }
    // It says UTF-16 only in its first bytes.
    let wide: Vec<u8> = "\u{feff}{\"n\":1}\n".repeat(9).encode_utf16().flat_map(u16::to_le_bytes).collect();
    let stored = file_of(&[&wide[..20], &wide[20..]], 4);
    let doubt = beside(json_lines(), &stored, 100, 2);
    assert_eq!(doubt, Beside::Doubt(Vec::new()));
    assert_agrees(&doubt, json_lines(), &stored);
}

#[test]
fn limits_hold_for_all_segments_together() {
    let zeros = format!("{{\"n\":\"{}\"}}\n", "0".repeat(400_000)).into_bytes();
    let plain = zeros.repeat(6);
    let stored = file_of(&cut_at_lines(&plain, 1), 9);
    for limits in [
        Limits { ratio_max: 100, ..Limits::default() },
        Limits { plain_bytes_max: 1_000_000, ..Limits::default() },
        Limits { plain_bytes_max: 10, ..Limits::default() },
    ] {
        let options = DecodeOptions { limits, ..json_lines() };
        let beside = beside(options.clone(), &stored, 1000, 2);
        assert!(matches!(beside, Beside::Doubt(_)), "{beside:?}");
        assert_eq!(decode(options, &stored).reason(), Reason::TooLarge);
    }
    // A bad row of one segment does not hide in another.
    let limits = Limits { row_bytes_max: 1000, ..Limits::default() };
    let options = DecodeOptions { limits, ..json_lines() };
    let beside = beside(options.clone(), &stored, 1000, 3);
    assert!(is_rows(&beside), "{beside:?}");
    assert_agrees(&beside, options, &stored);
}

#[test]
fn a_header_row_behind_segments_without_rows_is_found() {
    let segments: [&[u8]; 6] = [b"\n\n\n\n\n", b"\r\n\n", b"a,b\n1,2\n", b"3,4\n", b"5,6\n", b"7,8\n"];
    let stored = file_of(&segments, 6);
    for at_once in [1, 3, 100] {
        let beside = beside(csv(), &stored, 1000, at_once);
        assert!(matches!(&beside, Beside::Rows(rows, _) if rows.len() == 4), "{beside:?}");
        assert_agrees(&beside, csv(), &stored);
    }
}

#[test]
fn a_first_segment_that_is_only_a_byte_order_mark_is_read_in_the_ordinary_way() {
    let mark = "\u{feff}".as_bytes();
    let of_xml: [&[u8]; 3] = [mark, b"<?xml version='1.0'?>\n<r a='1'/>\n", b"<r a='2'/>\n"];
    let of_csv: [&[u8]; 4] = [mark, b"a,b\n1,2\n", b"3,4\n", b"5,6\n"];
    for (options, stored) in [(xml_lines(), file_of(&of_xml, 6)), (csv(), file_of(&of_csv, 6))] {
        assert_eq!(beside(options, &stored, 1000, 4), Beside::Ordinary);
    }
}

/// What an entry says is stored is held until it is there.
#[test]
fn an_entry_that_is_stored_far_longer_than_it_is_plain_is_not_waited_for() {
    let mut writer = crate::gzip::index::IndexWriter::new();
    writer.add(1_000_000, 10, Some(1));
    writer.add(30, 10, Some(1));
    let stored = [&writer.header()[..], &[0; 1_000_030 + TAIL_BYTES as usize]].concat();
    assert_eq!(beside(json_lines(), &stored, 1000, 2), Beside::Ordinary);
}

/// Where a stream is cut that has no flush there, a segment cannot begin, whatever its index says.
#[test]
fn an_index_of_segments_that_are_none_is_a_doubt() {
    let plain: Vec<u8> = (0..5000).flat_map(|n| format!("{{\"n\":{}}}\n", n * n % 977).into_bytes()).collect();
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::new(6));
    std::io::Write::write_all(&mut deflate, &plain).unwrap();
    // The whole stream without its final block, then as ours.
    std::io::Write::flush(&mut deflate).unwrap();
    let body = deflate.get_ref().clone();
    let ends: Vec<usize> = (0..plain.len()).filter(|&at| plain[at] == b'\n').map(|at| at + 1).collect();
    for stored_cut in (1..body.len()).step_by(body.len() / 60) {
        for plain_cut in ends.iter().step_by(ends.len() / 20) {
            let mut writer = crate::gzip::index::IndexWriter::new();
            writer.add(stored_cut as u64, *plain_cut as u64, Some(1));
            writer.add((body.len() - stored_cut) as u64, (plain.len() - plain_cut) as u64, Some(1));
            let crc = crc32fast::hash(&plain).to_le_bytes();
            let length = (plain.len() as u32).to_le_bytes();
            let stored = [&writer.header()[..], &body, &[3, 0], &crc, &length].concat();
            let beside = beside(json_lines(), &stored, 1000, 2);
            assert!(!is_rows(&beside), "cut at {stored_cut}, {plain_cut}");
            assert_agrees(&beside, json_lines(), &stored);
        }
    }
}

/// The rest of a last byte may hold the begin of a block; a reader that takes the segment by itself would lose it.
#[test]
fn bits_left_at_a_segments_end_are_a_doubt() {
    // Two lines as literals of a block with fixed codes that ends within a byte: 3 bits, 8 for each byte, 7.
    let mut bits = Bits::default();
    let line = b"{\"n\":1}\n";
    bits.fixed_block(false, line);
    let cut = bits.bytes.len();
    assert_ne!(bits.used % 8, 0, "the block ends within a byte");
    bits.fixed_block(false, line);
    bits.align_with_an_empty_block();
    let body = bits.bytes;
    let mut writer = crate::gzip::index::IndexWriter::new();
    writer.add(cut as u64, line.len() as u64, Some(1));
    writer.add((body.len() - cut) as u64, line.len() as u64, Some(1));
    let plain = line.repeat(2);
    let (crc, length) = (crc32fast::hash(&plain).to_le_bytes(), (plain.len() as u32).to_le_bytes());
    let stored = [&writer.header()[..], &body, &[3, 0], &crc, &length].concat();
    assert_eq!(decode(json_lines(), &stored).end.unwrap().rows, 2);
    assert_eq!(beside(json_lines(), &stored, 1000, 2), Beside::Doubt(Vec::new()));
}

/// Deflate by hand, RFC 1951.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    used: usize,
}

impl Bits {
    fn bit(&mut self, bit: u8) {
        if self.used.is_multiple_of(8) {
            self.bytes.push(0);
        }
        *self.bytes.last_mut().unwrap() |= bit << (self.used % 8);
        self.used += 1;
    }

    /// Literals below 144 have the codes 0x30 …, written from the highest bit.
    fn fixed_block(&mut self, is_final: bool, plain: &[u8]) {
        [u8::from(is_final), 1, 0].into_iter().for_each(|bit| self.bit(bit));
        for byte in plain {
            let code = 0x30 + byte;
            (0..8).rev().for_each(|at| self.bit(code >> at & 1));
        }
        (0..7).for_each(|_| self.bit(0));
    }

    fn align_with_an_empty_block(&mut self) {
        (0..3).for_each(|_| self.bit(0));
        self.bytes.extend([0, 0, 255, 255]);
        self.used = self.bytes.len() * 8;
    }
}

#[test]
fn no_flipped_bit_is_silently_wrong_in_a_segment() {
    let plain: Vec<u8> = (0..40).flat_map(|n| format!("{{\"n\":{}}}\n", n * n).into_bytes()).collect();
    let stored = file_of(&cut_at_lines(&plain, 10), 6);
    let whole = decode(json_lines(), &stored);
    for at in 0..stored.len() * 8 {
        let mut damaged = stored.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let beside = beside(json_lines(), &damaged, 64, 3);
        match &beside {
            // System and time tell nothing of the rows, and counts of rows are not believed.
            Beside::Rows(rows, _) => assert_eq!(*rows, whole.rows, "bit {at}"),
            other => assert_agrees(other, json_lines(), &damaged),
        }
    }
}

#[test]
fn a_file_that_is_cut_or_longer_than_its_index_says_is_ordinary() {
    let plain = b"{\"n\":1}\n".repeat(40);
    let stored = file_of(&cut_at_lines(&plain, 10), 6);
    let Look::Index(index) = look(&stored, stored.len() as u64) else { panic!("it has an index") };
    assert_eq!(
        index.header + index.entries.iter().map(|entry| entry.stored).sum::<u64>() + TAIL_BYTES,
        stored.len() as u64
    );
    for cut in 0..stored.len() {
        let beside = beside(json_lines(), &stored[..cut], 1000, 2);
        assert_eq!(beside, Beside::Ordinary, "{cut}");
    }
    let twice = [&stored[..], &stored].concat();
    assert_eq!(beside(json_lines(), &twice, 1000, 2), Beside::Ordinary);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_the_bytes_and_the_cuts_a_file_is_read_rightly_or_doubted(
        lines in prop::collection::vec("[a\",;\u{e9}0 {}<>/:\r\n]{0,30}|\\{\"a\":[0-9]{1,9}\\}|<a>x</a>", 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        at_lines in any::<bool>(),
        format in 0_usize..4,
        (chunk, at_once, level) in (1_usize..400, 1_usize..5, 0_u32..10),
        change in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let plain = lines.join("\n").into_bytes();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(plain.len() + 1)).collect();
        if at_lines {
            // Behind the line that is cut.
            ends.iter_mut().for_each(|end| while *end < plain.len() && (*end == 0 || plain[*end - 1] != b'\n') { *end += 1 });
        }
        ends.extend([0, plain.len()]);
        ends.sort_unstable();
        let segments: Vec<&[u8]> = ends.windows(2).map(|pair| &plain[pair[0]..pair[1]]).collect();
        let mut stored = file_of(&segments, level);
        if let Some((at, byte)) = change {
            let at = at.index(stored.len());
            stored[at] = byte;
        }
        let options = [json_lines(), csv(), csv_of(&["a", "b"]), xml_lines()][format].clone();
        let beside = beside(options.clone(), &stored, chunk, at_once);
        assert_agrees(&beside, options, &stored);
        let pieces = segments.iter().filter(|segment| !segment.is_empty()).count();
        // A first segment that may be a byte order mark and no more is not gone on with.
        let begins = segments.iter().find(|segment| !segment.is_empty()).is_some_and(|first| first.len() > 3);
        // Without quotes every line break ends a row: there is no reason for a doubt.
        if format != 1 && format != 2 && at_lines && change.is_none() && pieces > 1 && begins {
            prop_assert!(is_rows(&beside), "{:?}", beside);
        }
    }

    #[test]
    fn any_index_before_a_sound_stream_is_read_rightly_or_doubted(
        entries in prop::collection::vec((1_u64..200, 1_u64..400, 0_u64..9), 1..6),
        rows in 1_usize..80,
        cut in 1_usize..20,
    ) {
        let plain: Vec<u8> = (0..rows).flat_map(|n| format!("{{\"n\":{}}}\n", n * 37 % 101).into_bytes()).collect();
        let sound = file_of(&cut_at_lines(&plain, cut), 6);
        let header = match look(&sound, sound.len() as u64) {
            Look::Index(index) => index.header as usize,
            _ => 10,
        };
        let body = &sound[header..];
        // As many stored bytes as there are, so that only the segments can tell.
        let mut left = body.len() as u64 - TAIL_BYTES;
        let mut writer = crate::gzip::index::IndexWriter::new();
        for (stored, plain, rows) in entries {
            let stored = stored.min(left);
            left -= stored;
            if stored > 0 {
                writer.add(stored, plain, Some(rows));
            }
        }
        if left > 0 {
            writer.add(left, plain.len() as u64, Some(1));
        }
        let forged = [&writer.header()[..], body].concat();
        assert_agrees(&beside(json_lines(), &forged, 100, 3), json_lines(), &forged);
    }
}
