//! Numbers of any length and sign, as text: their order as bytes, their canonical form, and whether they are whole.
//!
//! A number is read as `0.DIGITS × 10^point`, its digits without zeros at either end; so `7`, `007`, `7.0` and `70e-1` are
//! one number.

use std::cmp::Ordering;

/// Exponents beyond this are refused: no sum with a length can then overflow.
const EXPONENT_MAX: i64 = 1_000_000_000_000_000;
/// The canonical form writes at most this many zeros that the digits do not hold; beyond, an exponent.
const ZEROS_MAX: i64 = 40;

/// A number, borrowed from its text.
#[derive(Debug, Clone, Copy)]
pub struct Number<'a> {
    negative: bool,
    before_point: &'a [u8],
    after_point: &'a [u8],
    /// The first digit that is not zero, and the one after the last, counted over both parts; equal for zero.
    first: usize,
    end: usize,
    /// Where the decimal point stands, counted from `first`.
    point: i64,
}

impl<'a> Number<'a> {
    /// Reads `[+-]DIGITS[.DIGITS][e[+-]DIGITS]`; one of the two groups of digits around the point may be empty, as
    /// databases write `.50`.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (before_point, rest) = digits(rest);
        let (after_point, rest) = match rest {
            [b'.', rest @ ..] => digits(rest),
            rest => (&rest[..0], rest),
        };
        if before_point.is_empty() && after_point.is_empty() {
            return None;
        }
        let mut number = Self { negative, before_point, after_point, first: 0, end: 0, point: 0 };
        let count = before_point.len() + after_point.len();
        let first = number.digits_from(0).position(|digit| digit != 0);
        let exponent = match rest {
            [] => Some(0),
            [b'e' | b'E', exponent @ ..] => parse_exponent(exponent)?,
            _ => return None,
        };
        let Some(first) = first else {
            return Some(Self { negative: false, ..number });
        };
        number.first = first;
        number.end = count - number.trailing_zeros();
        number.point = as_i64(before_point.len())? - as_i64(first)? + exponent?;
        Some(number)
    }

    fn digits_from(&self, at: usize) -> impl Iterator<Item = u8> + 'a {
        let (before, after) = (self.before_point, self.after_point);
        let skipped = before.get(at..).unwrap_or_default().iter();
        skipped.chain(after.get(at.saturating_sub(before.len())..).unwrap_or_default()).map(|digit| digit - b'0')
    }

    fn trailing_zeros(&self) -> usize {
        let reversed = self.after_point.iter().rev().chain(self.before_point.iter().rev());
        reversed.take_while(|digit| **digit == b'0').count()
    }

    fn len(&self) -> usize {
        self.end - self.first
    }

    /// The digits that count: none at the ends is zero.
    fn significant(&self) -> impl Iterator<Item = u8> + 'a {
        self.digits_from(self.first).take(self.len())
    }

    fn is_zero(&self) -> bool {
        self.first == self.end
    }

    /// Zeros between the last digit and the point; negative: digits after the point.
    fn zeros_before_point(&self) -> i64 {
        self.point - i64::try_from(self.len()).unwrap_or(i64::MAX)
    }

    /// Whether nothing but zeros follows the point.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_zero() || self.zeros_before_point() >= 0
    }

    /// Exactly, whatever their lengths.
    #[must_use]
    pub fn compare(&self, other: &Number<'_>) -> Ordering {
        let magnitude = || self.point.cmp(&other.point).then_with(|| self.significant().cmp(other.significant()));
        self.compare_zero()
            .cmp(&other.compare_zero())
            .then_with(|| if self.negative { magnitude().reverse() } else { magnitude() })
    }

    /// Exactly.
    #[must_use]
    pub fn compare_integer(&self, integer: i64) -> Ordering {
        if let Some(own) = self.to_i64() {
            return own.cmp(&integer);
        }
        let mut digits = [0; 20];
        let (mut left, mut begin) = (integer.unsigned_abs(), digits.len());
        while left > 0 {
            begin -= 1;
            digits[begin] = b'0' + (left % 10) as u8;
            left /= 10;
        }
        let text = std::str::from_utf8(&digits[begin..]).unwrap_or_default();
        let other = Number::parse(text).map(|number| Number { negative: integer < 0, ..number });
        other.map_or_else(|| self.compare_zero(), |other| self.compare(&other))
    }

    fn compare_zero(&self) -> Ordering {
        match (self.is_zero(), self.negative) {
            (true, _) => Ordering::Equal,
            (false, true) => Ordering::Less,
            (false, false) => Ordering::Greater,
        }
    }

    /// The value, when it is whole and fits.
    #[must_use]
    pub fn to_i64(self) -> Option<i64> {
        if self.is_zero() {
            return Some(0);
        }
        if !self.is_whole() || self.point > 19 {
            return None;
        }
        let zeros = std::iter::repeat_n(0, usize::try_from(self.zeros_before_point()).ok()?);
        let magnitude = self.significant().chain(zeros).fold(0_i128, |sum, digit| sum * 10 + i128::from(digit));
        i64::try_from(if self.negative { -magnitude } else { magnitude }).ok()
    }

    /// Appends a key that sorts as the number does; keys of equal numbers are equal. Its end can be told without its
    /// length, so what follows it sorts next.
    ///
    /// Layout: `40` negative, `80` zero (ends here), `C0` positive; where the point stands, see `push_point`; two digits
    /// a byte, plus one; `00`. After the first byte all bits of a negative number are inverted.
    pub fn push_order_key(&self, key: &mut Vec<u8>) {
        if self.is_zero() {
            key.push(0x80);
            return;
        }
        key.push(if self.negative { 0x40 } else { 0xC0 });
        let begin = key.len();
        push_point(self.point, key);
        let mut digits = self.significant();
        while let Some(tens) = digits.next() {
            key.push(tens * 10 + digits.next().unwrap_or(0) + 1);
        }
        key.push(0);
        if self.negative {
            key.iter_mut().skip(begin).for_each(|byte| *byte = !*byte);
        }
    }

    /// Appends the canonical form: no zeros at either end, no `+`, no `-0`; plain, or with an exponent where plain would
    /// add more than 40 zeros.
    pub fn push_canonical(&self, text: &mut String) {
        if self.is_zero() {
            text.push('0');
            return;
        }
        if self.negative {
            text.push('-');
        }
        let push_digit = |text: &mut String, digit: u8| text.push(char::from(b'0' + digit));
        let zeros = self.zeros_before_point();
        if zeros > ZEROS_MAX || self.point < -ZEROS_MAX {
            self.significant().for_each(|digit| push_digit(text, digit));
            text.push('E');
            text.push_str(&zeros.to_string());
            return;
        }
        if self.point <= 0 {
            text.push_str("0.");
            (self.point..0).for_each(|_| text.push('0'));
        }
        for (at, digit) in (0_i64..).zip(self.significant()) {
            if at > 0 && at == self.point {
                text.push('.');
            }
            push_digit(text, digit);
        }
        (0..zeros).for_each(|_| text.push('0'));
    }
}

/// One byte for −100 … 100; beyond, a lower or higher byte and then 8.
fn push_point(point: i64, key: &mut Vec<u8>) {
    match u8::try_from(point + 128) {
        Ok(byte @ 28..=228) => key.push(byte),
        _ => {
            key.push(match point.cmp(&0) {
                Ordering::Less => 27,
                Ordering::Equal | Ordering::Greater => 229,
            });
            key.extend_from_slice(&point.wrapping_sub(i64::MIN).to_be_bytes());
        }
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|byte| byte.is_ascii_digit()).count())
}

/// `None`: not an exponent; `Some(None)`: one that is too far from zero.
fn parse_exponent(text: &[u8]) -> Option<Option<i64>> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (digits, rest) = digits(text);
    if digits.is_empty() || !rest.is_empty() {
        return None;
    }
    let magnitude =
        digits.iter().fold(0_i64, |sum, digit| sum.saturating_mul(10).saturating_add((digit - b'0').into()));
    Some((magnitude <= EXPONENT_MAX).then_some(if negative { -magnitude } else { magnitude }))
}

fn as_i64(length: usize) -> Option<i64> {
    i64::try_from(length).ok().filter(|length| *length <= EXPONENT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        let mut canonical = String::new();
        Number::parse(text)?.push_canonical(&mut canonical);
        Some(canonical)
    }

    fn key(text: &str) -> Vec<u8> {
        let mut key = Vec::new();
        Number::parse(text).unwrap().push_order_key(&mut key);
        key
    }

    #[test]
    fn equal_numbers_have_one_canonical_form() {
        for (text, expected) in [
            ("007", "7"),
            ("+7.0", "7"),
            ("70e-1", "7"),
            (".7E1", "7"),
            ("1.50", "1.5"),
            (".00", "0"),
            ("-0", "0"),
            ("0e99999999999999999999", "0"),
            ("-12.", "-12"),
            ("1e3", "1000"),
            ("1.25e-3", "0.00125"),
            ("100.010", "100.01"),
            ("1e41", "1E41"),
            ("12e40", "120000000000000000000000000000000000000000"),
            ("-1e-42", "-1E-42"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn numbers_compare_as_their_keys_do() {
        let texts = [
            "-1e30", "-12.5", "-12.05", "-0", "0.000", "1e-9", "12.05", "12.5", "12.50", "19.90", "1e3", "1000", "1e30",
        ];
        for a in texts {
            for b in texts {
                let (a_number, b_number) = (Number::parse(a).unwrap(), Number::parse(b).unwrap());
                assert_eq!(a_number.compare(&b_number), key(a).cmp(&key(b)), "{a} {b}");
            }
        }
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in [
            "",
            "-",
            ".",
            "e1",
            "1e",
            "1e+",
            "1.2.3",
            "0x10",
            "1_000",
            " 1",
            "1 ",
            "NaN",
            "--1",
            "1e99999999999999999999",
        ] {
            assert!(Number::parse(text).is_none(), "{text:?}");
        }
    }

    #[test]
    fn whole_numbers_within_64_bits_are_read_whatever_their_form() {
        for (text, expected) in [
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("1e19", None),
            ("1e999", None),
            ("1.5", None),
            ("15e-1", None),
            ("150e-1", Some(15)),
            ("0e400", Some(0)),
            ("-0.0", Some(0)),
        ] {
            assert_eq!(Number::parse(text).unwrap().to_i64(), expected, "{text}");
        }
    }

    #[test]
    fn keys_sort_as_numbers_do_far_from_zero_too() {
        let ascending = [
            "-1e1000000000000000",
            "-1e229",
            "-9.9e101",
            "-1e100",
            "-100.5",
            "-100",
            "-99.99",
            "-1",
            "-1e-100",
            "-1e-300",
            "0",
            "1e-1000000000000000",
            "1e-101",
            "1e-100",
            "0.099",
            "0.1",
            "0.11",
            "1",
            "1.0001",
            "2",
            "10",
            "99",
            "100",
            "1e99",
            "1e100",
            "1e101",
            "1.1e101",
        ];
        for pair in ascending.windows(2) {
            assert!(key(pair[0]) < key(pair[1]), "{pair:?}");
        }
    }
}
