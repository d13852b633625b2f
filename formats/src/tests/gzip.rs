//! Gzip as others write it, damaged in every way.

use proptest::prelude::*;

use super::*;

const PLAIN: &[u8] = b"{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n";

fn rows(outcome: &Outcome) -> usize {
    outcome.rows.len()
}

#[test]
fn a_stream_cut_at_any_byte_is_a_truncated_file_and_keeps_its_rows() {
    let header = member_with_names(b"").len() - member(b"", 9).len() + 10;
    for stored in [member(PLAIN, 6), with_header_crc(&member_with_names(PLAIN), header)] {
        let whole = decode(json_lines(), &stored);
        assert_eq!(rows(&whole), 3);
        // Less than two bytes do not tell gzip from a plain file.
        for cut in 2..stored.len() {
            let outcome = decode(json_lines(), &stored[..cut]);
            assert_eq!(outcome.reason(), Reason::TruncatedFile, "cut at {cut}");
            assert!(outcome.problem().contains(&format!("ends at stored byte {cut}")), "{}", outcome.problem());
            assert_eq!(outcome.rows, whole.rows[..rows(&outcome)]);
        }
        let in_trailer = decode(json_lines(), &stored[..stored.len() - 3]);
        assert_eq!((rows(&in_trailer), in_trailer.end.unwrap_err().1), (3, 4));
    }
}

#[test]
fn a_stream_that_is_cut_within_its_second_member_keeps_the_rows_of_the_first() {
    let (first, second) = (member(b"{\"n\":1}\n{\"n\"", 6), member(b":2}\n", 6));
    let stored = [first.as_slice(), &second].concat();
    assert_eq!(rows(&decode(json_lines(), &stored)), 2);
    assert_eq!(decode(json_lines(), &first).bad().len(), 1, "a row that a lost member cut in two is a bad one");
    for cut in first.len() + 1..stored.len() {
        let outcome = decode(json_lines(), &stored[..cut]);
        let reason = if cut == first.len() + 1 { Reason::CorruptGzip } else { Reason::TruncatedFile };
        assert_eq!(outcome.reason(), reason, "cut at {cut}");
        assert!(rows(&outcome) >= 1, "cut at {cut}");
    }
}

#[test]
fn no_flipped_bit_is_silently_wrong() {
    let stored = [member_with_names(PLAIN), member(PLAIN, 6)].concat();
    let whole = decode(json_lines(), &stored);
    for at in 2 * 8..stored.len() * 8 {
        let mut damaged = stored.clone();
        damaged[at / 8] ^= 1 << (at % 8);
        let outcome = decode(json_lines(), &damaged);
        match &outcome.end {
            // Time, system, name, comment and extra are covered by no checksum and tell nothing of the rows.
            Ok(_) => assert_eq!(outcome.rows, whole.rows, "bit {at}"),
            Err((reason, ..)) => {
                assert!(matches!(reason, Reason::CorruptGzip | Reason::TruncatedFile), "bit {at}: {reason}");
            }
        }
    }
}

#[test]
fn damage_is_told_with_its_place() {
    let good = member(PLAIN, 6);
    let len = good.len();
    let with = |at: usize, byte: u8| {
        let mut damaged = good.clone();
        damaged[at] = byte;
        damaged
    };
    let header_crc = {
        let mut damaged = with_header_crc(&good, 10);
        damaged[10] ^= 1;
        damaged
    };
    for (stored, rows_before, problem) in [
        (with(2, 7), 0, "damaged at stored byte 2: unknown compression method 7".to_owned()),
        (with(3, 0x20), 0, "damaged at stored byte 3: reserved flags are set (0x20)".to_owned()),
        (header_crc, 0, "damaged at stored byte 11: its header has checksum".to_owned()),
        (with(10, 0xff), 0, "damaged at stored byte".to_owned()),
        (with(len - 8, !good[len - 8]), 3, format!("damaged at stored byte {}: its bytes have checksum", len - 8)),
        (
            with(len - 4, 25),
            3,
            format!("damaged at stored byte {}: its length is 24 (modulo 2^32), its trailer says 25", len - 4),
        ),
        ([&good[..], b"rubbish"].concat(), 3, format!("stored byte {len}: what follows the last member is neither")),
        ([&good[..], &[0x1f, 0x8c]].concat(), 3, format!("stored byte {len}: what follows the last member is neither")),
        (
            [&good[..], &[0, 0, 0, 1]].concat(),
            3,
            format!("stored byte {}: what follows the last member is neither", len + 3),
        ),
        (
            [&good[..], &[0], &good[..]].concat(),
            3,
            format!("stored byte {}: what follows the last member is neither", len + 1),
        ),
    ] {
        for size in [1, stored.len()] {
            let outcome = decode_chunks(json_lines(), stored.chunks(size));
            assert_eq!(outcome.reason(), Reason::CorruptGzip, "{problem}");
            assert!(outcome.problem().contains(&problem), "{:?} is not {problem:?}", outcome.problem());
            assert_eq!(rows(&outcome), rows_before, "{problem}");
        }
    }
}

#[test]
fn the_wording_of_an_error() {
    let (_, end) = decode_batches(json_lines(), [&member(PLAIN, 6)[..12]]);
    assert_eq!(
        end.unwrap_err().to_string(),
        "row 1, byte 0: the gzip stream ends at stored byte 12, within a member's data"
    );
}

#[test]
fn a_member_may_be_larger_than_any_buffer() {
    let plain: Vec<u8> = (0..300_000).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
    let stored = member(&plain, 1);
    let outcome = decode_chunks(json_lines(), stored.chunks(10_000));
    assert_eq!(outcome.end.as_ref().unwrap().rows, 300_000);
    assert_eq!(outcome.rows.last().unwrap().bytes(), b"{\"n\":299999}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn any_damage_comes_to_the_same_end_at_every_split(
        changes in prop::collection::vec((2_usize..2000, any::<u8>()), 1..4),
        level in 0_u32..10,
        size in 1_usize..50,
    ) {
        let plain: Vec<u8> = (0..300).flat_map(|n| format!("{{\"n\":{}}}\n", n * n).into_bytes()).collect();
        let mut stored = [member(&plain, level), member_with_names(&plain)].concat();
        let len = stored.len();
        for (at, byte) in changes {
            stored[2 + at % (len - 2)] = byte;
        }
        let whole = decode(json_lines(), &stored);
        let split = decode_chunks(json_lines(), stored.chunks(size));
        // Where deflate notices depends on how much it looks at.
        prop_assert_eq!(split.rows, whole.rows);
        prop_assert_eq!(split.end.map_err(|end| (end.0, end.1, end.2)), whole.end.map_err(|end| (end.0, end.1, end.2)));
    }

    #[test]
    fn rubbish_behind_the_magic_bytes_is_never_rows(rubbish in prop::collection::vec(any::<u8>(), 0..200)) {
        let outcome = decode(json_lines(), &[&[0x1f, 0x8b, 8, rubbish.first().map_or(0, |byte| byte & 0x1f)], &rubbish[..]].concat());
        prop_assert!(matches!(outcome.reason(), Reason::CorruptGzip | Reason::TruncatedFile));
    }
}
