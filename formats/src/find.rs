//! Finding bytes in rows, most of them over short distances, eight or sixteen at a time.
//!
//! A field is mostly shorter than the price of a call into `memchr`; where the distance is long (line ends) `memchr` is
//! used instead.

use wide::u8x16;

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

const fn splat(byte: u8) -> u64 {
    ONES * byte as u64
}

/// High bits mark bytes below `limit` (≤ 0x80). Only the lowest mark is certain: a borrow may set one above it.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(splat(limit)) & !word & HIGH
}

/// High bits mark bytes equal to `byte`; again only the lowest mark is certain.
const fn equal(word: u64, byte: u8) -> u64 {
    below(word ^ splat(byte), 1)
}

/// A short text that is looked for in one place: comparing it is cheaper than a call into `memcmp`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Word {
    words: [u128; 2],
    masks: [u128; 2],
    length: usize,
}

impl Word {
    const BYTES_MAX: usize = 32;
    /// What is nowhere.
    pub(crate) const NEVER: Self = Self { words: [0; 2], masks: [0; 2], length: usize::MAX };

    /// A text that is too long is found nowhere.
    pub(crate) fn new(text: &[u8]) -> Self {
        if text.len() > Self::BYTES_MAX {
            return Self::NEVER;
        }
        let half = |from: usize| {
            let (mut word, mut mask) = ([0; 16], [0; 16]);
            let part = text.get(from..).unwrap_or_default();
            for (index, byte) in part.iter().take(16).enumerate() {
                (word[index], mask[index]) = (*byte, 0xff);
            }
            (u128::from_le_bytes(word), u128::from_le_bytes(mask))
        };
        let ((low, low_mask), (high, high_mask)) = (half(0), half(16));
        Self { words: [low, high], masks: [low_mask, high_mask], length: text.len() }
    }

    /// Whether it stands at `at`.
    #[inline(always)]
    pub(crate) fn begins(&self, bytes: &[u8], at: usize) -> bool {
        let rest = bytes.get(at..).unwrap_or_default();
        if self.length > rest.len() {
            return false;
        }
        let halves =
            |chunk: &[u8; 32]| [0, 16].map(|from| chunk[from..from + 16].try_into().map_or(0, u128::from_le_bytes));
        let [low, high] = match rest.first_chunk() {
            Some(chunk) => halves(chunk),
            None => {
                let mut chunk = [0; 32];
                chunk[..rest.len()].copy_from_slice(rest);
                halves(&chunk)
            }
        };
        ((low ^ self.words[0]) & self.masks[0]) | ((high ^ self.words[1]) & self.masks[1]) == 0
    }
}

/// Where the first of a quote, a backslash or a control character lies at or after `at`; the length if nowhere.
#[inline]
pub(crate) fn end_of_plain_text(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let text = u8x16::new(*chunk);
        let marks = text.simd_eq(u8x16::splat(b'"'))
            | text.simd_eq(u8x16::splat(b'\\'))
            | text.min(u8x16::splat(0x1f)).simd_eq(text);
        let marks = marks.to_bitmask();
        if marks != 0 {
            return at + marks.trailing_zeros() as usize;
        }
        at += 16;
    }
    find(
        bytes,
        at,
        |word| equal(word, b'"') | equal(word, b'\\') | below(word, 0x20),
        |byte| matches!(byte, b'"' | b'\\' | 0..0x20),
    )
}

/// Where the first of `<`, `&`, `]` or a control character lies at or after `at`; the length if nowhere.
#[inline]
pub(crate) fn end_of_xml_text(bytes: &[u8], at: usize) -> usize {
    find(
        bytes,
        at,
        |word| equal(word, b'<') | equal(word, b'&') | equal(word, b']') | below(word, 0x20),
        |byte| matches!(byte, b'<' | b'&' | b']' | 0..0x20),
    )
}

/// As [`end_of_xml_text`], or the first byte that is not ASCII.
#[inline]
pub(crate) fn end_of_plain_xml_text(bytes: &[u8], at: usize) -> usize {
    find(
        bytes,
        at,
        |word| equal(word, b'<') | equal(word, b'&') | equal(word, b']') | below(word, 0x20) | (word & HIGH),
        |byte| matches!(byte, b'<' | b'&' | b']' | 0..0x20 | 0x80..),
    )
}

/// Where the first of the quote, `<`, `&` or a control character lies at or after `at`; the length if nowhere.
#[inline]
pub(crate) fn end_of_xml_value(bytes: &[u8], at: usize, quote: u8) -> usize {
    find(
        bytes,
        at,
        |word| equal(word, quote) | equal(word, b'<') | equal(word, b'&') | below(word, 0x20),
        |byte| byte == quote || matches!(byte, b'<' | b'&' | 0..0x20),
    )
}

/// Where the first of two bytes lies at or after `at`; the length if nowhere.
#[inline]
pub(crate) fn either(bytes: &[u8], mut at: usize, one: u8, other: u8) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<16>()) {
        let text = u8x16::new(*chunk);
        let marks = (text.simd_eq(u8x16::splat(one)) | text.simd_eq(u8x16::splat(other))).to_bitmask();
        if marks != 0 {
            return at + marks.trailing_zeros() as usize;
        }
        at += 16;
    }
    find(bytes, at, |word| equal(word, one) | equal(word, other), |byte| byte == one || byte == other)
}

/// Where bytes are not UTF-8.
pub(crate) fn not_utf8(bytes: &[u8]) -> Option<usize> {
    if simdutf8::basic::from_utf8(bytes).is_ok() {
        return None;
    }
    simdutf8::compat::from_utf8(bytes).err().map(|error| error.valid_up_to())
}

#[inline]
fn find(bytes: &[u8], mut at: usize, mark: impl Fn(u64) -> u64, is: impl Fn(u8) -> bool) -> usize {
    let mut rest = bytes.get(at..).unwrap_or_default();
    while let Some((chunk, tail)) = rest.split_first_chunk::<8>() {
        let marks = mark(u64::from_le_bytes(*chunk));
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
        rest = tail;
    }
    at + rest.iter().position(|&byte| is(byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn many_at_a_time_find_what_one_at_a_time_finds(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(0x1f), Just(0x20), Just(b'!'), Just(b'<'), Just(b'&'), Just(b']')], 0..40),
            at in 0_usize..40,
        ) {
            let at = at.min(bytes.len());
            let slow = |is: &dyn Fn(u8) -> bool| at + bytes[at..].iter().position(|&b| is(b)).unwrap_or(bytes.len() - at);
            prop_assert_eq!(end_of_plain_text(&bytes, at), slow(&|b| b == b'"' || b == b'\\' || b < 0x20));
            prop_assert_eq!(end_of_xml_text(&bytes, at), slow(&|b| matches!(b, b'<' | b'&' | b']' | 0..0x20)));
            prop_assert_eq!(end_of_plain_xml_text(&bytes, at), slow(&|b| matches!(b, b'<' | b'&' | b']' | 0..0x20 | 0x80..)));
            prop_assert_eq!(end_of_xml_value(&bytes, at, b'!'), slow(&|b| matches!(b, b'!' | b'<' | b'&') || b < 0x20));
            prop_assert_eq!(either(&bytes, at, b',', b'!'), slow(&|b| b == b',' || b == b'!'));
        }
    }
}
