//! A segment inflated by itself, with proof that it ends where the index says.
//!
//! `libdeflate` inflates a whole stream in one go and does not stop between blocks. So the reader puts a last block of its own
//! behind the segment, whose codes and texts nobody can foresee. Only a decoder that stands between two blocks, on a byte's edge,
//! exactly at the segment's end, reads that text: within a block its bits would be taken for the block's own codes or for bytes
//! as they stand, which give another text, and a final block before it would end the stream without it.

use std::sync::LazyLock;

use bytes::Bytes;
use libdeflater::Decompressor;
use rand::{RngExt as _, seq::SliceRandom as _};

use super::index::Entry;

/// Bytes of the text that has to come out at the end.
const TEXT_BYTES: usize = 16;
/// Literals, and the end of the block.
const SYMBOLS: usize = 257;
/// How many symbols have codes of how many bits: all there are, and no code is left over.
const LENGTHS: [(u8, usize); 3] = [(7, 64), (8, 63), (9, 130)];

/// Inflates an entry, if it can be taken by itself and is as long as it should be.
pub(crate) fn inflate(stored: &[Bytes], entry: Entry) -> Option<Vec<u8>> {
    // One is enough: whoever wrote the file does not see it.
    static ENDING: LazyLock<Ending> = LazyLock::new(|| Ending::new(&mut rand::rng()));
    let Ending { block, text } = &*ENDING;
    let (stored_bytes, plain_bytes) = (usize::try_from(entry.stored).ok()?, usize::try_from(entry.plain).ok()?);
    let mut input = Vec::with_capacity(stored_bytes + block.len());
    stored.iter().for_each(|piece| input.extend_from_slice(piece));
    if input.len() != stored_bytes {
        return None;
    }
    input.extend_from_slice(block);
    let mut plain = vec![0; plain_bytes + TEXT_BYTES];
    let wrote = Decompressor::new().deflate_decompress(&input, &mut plain).ok()?;
    let is_proven = wrote == plain.len() && plain.ends_with(text);
    plain.truncate(plain_bytes);
    is_proven.then_some(plain)
}

/// A final block, and what it inflates to.
#[derive(Debug)]
struct Ending {
    block: Vec<u8>,
    text: [u8; TEXT_BYTES],
}

impl Ending {
    fn new(random: &mut impl rand::Rng) -> Self {
        let mut lengths: Vec<u8> =
            LENGTHS.iter().flat_map(|&(bits, symbols)| std::iter::repeat_n(bits, symbols)).collect();
        lengths.shuffle(random);
        let text: [u8; TEXT_BYTES] = random.random();
        let codes = codes(&lengths);
        let mut bits = Bits::default();
        // RFC 1951, 3.2.3 and 3.2.7: the last block, with codes of its own; 257 literals and lengths, one distance.
        bits.push(1, 1);
        bits.push(2, 2);
        bits.push(0, 5);
        bits.push(0, 5);
        // The lengths of lengths stand in the order 16, 17, 18, 0, 8, 7, 9; those of 0, 7, 8 and 9 have two bits each.
        bits.push(7 - 4, 4);
        [0, 0, 0, 2, 2, 2, 2].iter().for_each(|length| bits.push(*length, 3));
        let length_code =
            |length: u8| [0, 7, 8, 9].iter().position(|of| *of == length).expect("one of the four") as u16;
        lengths.iter().for_each(|length| bits.push_code(length_code(*length), 2));
        // No distance is used.
        bits.push_code(length_code(0), 2);
        for symbol in text.iter().map(|byte| usize::from(*byte)).chain([SYMBOLS - 1]) {
            bits.push_code(codes[symbol], lengths[symbol]);
        }
        Self { block: bits.bytes, text }
    }
}

/// The codes that these lengths stand for: RFC 1951, 3.2.2.
fn codes(lengths: &[u8]) -> Vec<u16> {
    let mut codes = vec![0; lengths.len()];
    let mut next = 0;
    for (bits, _) in LENGTHS {
        next <<= 1;
        for (code, _) in codes.iter_mut().zip(lengths).filter(|(_, length)| **length == bits) {
            *code = next;
            next += 1;
        }
    }
    codes
}

/// Bits in the order of RFC 1951: each byte is filled from its lowest bit on.
#[derive(Debug, Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits of the last byte that are used; none is 8.
    used: u8,
}

impl Bits {
    /// A number, its lowest bit first.
    fn push(&mut self, value: u16, bits: u8) {
        for at in 0..bits {
            self.push_bit(value >> at & 1 == 1);
        }
    }

    /// A code, its highest bit first.
    fn push_code(&mut self, code: u16, bits: u8) {
        for at in (0..bits).rev() {
            self.push_bit(code >> at & 1 == 1);
        }
    }

    fn push_bit(&mut self, is_set: bool) {
        if self.bytes.is_empty() || self.used == 8 {
            self.bytes.push(0);
            self.used = 0;
        }
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(is_set) << self.used;
        }
        self.used += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::{Compress, Compression, FlushCompress, read::DeflateDecoder};
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn taken(stored: &[u8], plain: usize) -> Option<Vec<u8>> {
        let entry = Entry { stored: stored.len() as u64, plain: plain as u64, rows: 0 };
        inflate(&[Bytes::copy_from_slice(stored)], entry)
    }

    fn flushed(plain: &[u8], flush: FlushCompress) -> Vec<u8> {
        let mut stored = Vec::with_capacity(2 * plain.len() + 64);
        Compress::new(Compression::new(6), false).compress_vec(plain, &mut stored, flush).unwrap();
        stored
    }

    #[test]
    fn any_ending_inflates_to_its_text_elsewhere_too() {
        for seed in 0..200 {
            let Ending { block, text } = Ending::new(&mut StdRng::seed_from_u64(seed));
            let mut plain = Vec::new();
            DeflateDecoder::new(&block[..]).read_to_end(&mut plain).unwrap();
            assert_eq!(plain, text);
        }
    }

    #[test]
    fn no_two_endings_are_alike() {
        let [one, other] = [1, 2].map(|seed| Ending::new(&mut StdRng::seed_from_u64(seed)));
        let head = 64;
        assert_ne!(one.block.get(..head), other.block.get(..head));
        assert_ne!(one.text, other.text);
    }

    #[test]
    fn a_segment_is_taken_at_its_own_length_only() {
        let plain = "a row, and another row\n".repeat(500).into_bytes();
        let stored = flushed(&plain, FlushCompress::Full);
        assert_eq!(taken(&stored, plain.len()).as_deref(), Some(&plain[..]));
        for wrong in [0, plain.len() - 1, plain.len() + 1, plain.len() + TEXT_BYTES, plain.len() + 88] {
            assert_eq!(taken(&stored, wrong), None, "{wrong}");
        }
    }

    /// Wherever a segment ends within a block, at whatever plain length that its index claims, it is not taken: not within
    /// codes, not where bytes stand as they are and the ending would be some of them, not behind a final block.
    #[test]
    fn a_segment_that_ends_within_a_block_is_not_taken() {
        let plain: Vec<u8> = (0..120_u8).map(|n| n.wrapping_mul(167)).collect();
        let codes = flushed(&"some text that is packed, some text ".repeat(30).into_bytes(), FlushCompress::Full);
        let is_final = flushed(b"the last row\n", FlushCompress::Finish);
        // The flush itself is an empty block of five bytes.
        for (stored, ends, most) in [(&codes, 1..codes.len() - 5, 1_200), (&is_final, 1..is_final.len(), 200)] {
            for end in ends {
                for claimed in 0..most {
                    assert_eq!(taken(&stored[..end], claimed), None, "{end} {claimed}");
                }
            }
        }
        for (length, is_last) in [(5_u16, true), (21, true), (90, false), (90, true), (600, true)] {
            for there in 0..length.min(120) {
                let mut stored = vec![u8::from(is_last)];
                stored.extend_from_slice(&length.to_le_bytes());
                stored.extend_from_slice(&(!length).to_le_bytes());
                stored.extend_from_slice(&plain[..usize::from(there)]);
                for claimed in usize::from(there)..usize::from(there) + 130 {
                    assert_eq!(taken(&stored, claimed), None, "{there} of {length}, {claimed}");
                }
            }
        }
    }
}
