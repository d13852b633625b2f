//! Instants as RFC 3339 writes them, with any offset and any number of digits after the second; and dates.

use time::{Date, Month};

/// Seconds in the order key are counted from here, so that none is negative: 10,000 years before 1970.
const KEY_EPOCH: i64 = 10_000 * 366 * 86_400;
const DAY: i64 = 86_400;
/// The day number that `time` gives to 1970-01-01.
const UNIX_JULIAN_DAY: i64 = 2_440_588;

/// An instant: seconds since 1970, UTC, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant<'a> {
    seconds: i64,
    /// Digits after the second, without trailing zeros.
    fraction: &'a str,
}

impl<'a> Instant<'a> {
    /// Reads `2014-02-08T10:01:36.827+01:00`. `T` may be a space, `Z` stands for `+00:00`, both in either case. The second
    /// 60 is the first of the next minute.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (date, rest) = text.split_at_checked(10)?;
        let day = i64::from(parse_date(date)?.to_julian_day()) - UNIX_JULIAN_DAY;
        let (clock, rest) = rest.split_at_checked(9)?;
        let &[b'T' | b't' | b' ', h1, h2, b':', m1, m2, b':', s1, s2] = clock.as_bytes() else { return None };
        let (hour, minute, second) = (two_digits(h1, h2)?, two_digits(m1, m2)?, two_digits(s1, s2)?);
        let (fraction, offset) = match rest.strip_prefix('.') {
            Some(rest) => {
                let length = rest.bytes().take_while(u8::is_ascii_digit).count();
                rest.split_at_checked(length).filter(|_| length > 0)?
            }
            None => ("", rest),
        };
        if hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let seconds = day * DAY + hour * 3600 + minute * 60 + second - parse_offset(offset)?;
        let instant = Self { seconds, fraction: fraction.trim_end_matches('0') };
        // 9999-12-31 west of Greenwich may lie in the year 10000 of UTC.
        instant.date().map(|_| instant)
    }

    /// Microseconds since 1970, rounded down, and whether that is all of it.
    #[must_use]
    pub fn micros(&self) -> (i64, bool) {
        let digits = self.fraction.bytes().chain(std::iter::repeat(b'0')).take(6);
        let micros = digits.fold(0, |micros, digit| micros * 10 + i64::from(digit - b'0'));
        (self.seconds * 1_000_000 + micros, self.fraction.len() <= 6)
    }

    fn date(&self) -> Option<Date> {
        Date::from_julian_day(i32::try_from(self.seconds.div_euclid(DAY) + UNIX_JULIAN_DAY).ok()?).ok()
    }

    /// Appends a key that sorts as the instant does: 5 bytes of seconds, the digits of the fraction, `00`.
    pub fn push_order_key(&self, key: &mut Vec<u8>) {
        let [_, _, _, seconds @ ..] = (self.seconds + KEY_EPOCH).to_be_bytes();
        key.extend_from_slice(&seconds);
        key.extend_from_slice(self.fraction.as_bytes());
        key.push(0);
    }

    /// Appends `2014-02-08T09:01:36.827Z`: UTC, no zeros at the end of the fraction.
    pub fn push_canonical(&self, text: &mut String) {
        let date = self.date().expect("checked when it was read");
        let second = self.seconds.rem_euclid(DAY);
        text.push_str(&format!("{date}T{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60));
        if !self.fraction.is_empty() {
            text.push('.');
            text.push_str(self.fraction);
        }
        text.push('Z');
    }
}

/// Reads `2014-02-08`.
#[must_use]
pub fn parse_date(text: &str) -> Option<Date> {
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = text.as_bytes() else { return None };
    let year = two_digits(y1, y2)? * 100 + two_digits(y3, y4)?;
    let month = Month::try_from(u8::try_from(two_digits(m1, m2)?).ok()?).ok()?;
    Date::from_calendar_date(i32::try_from(year).ok()?, month, u8::try_from(two_digits(d1, d2)?).ok()?).ok()
}

/// Days from 2000-01-01 to a date.
#[must_use]
pub fn days_since_2000(text: &str) -> Option<i32> {
    const JULIAN_DAY_OF_2000: i32 = 2_451_545;
    Some(parse_date(text)?.to_julian_day() - JULIAN_DAY_OF_2000)
}

/// Seconds east of Greenwich.
fn parse_offset(text: &str) -> Option<i64> {
    match text.as_bytes() {
        b"Z" | b"z" => Some(0),
        &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two_digits(h1, h2)?, two_digits(m1, m2)?);
            let seconds = hours * 3600 + minutes * 60;
            (hours <= 23 && minutes <= 59).then_some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

fn two_digits(tens: u8, ones: u8) -> Option<i64> {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| i64::from(byte - b'0'));
    Some(digit(tens)? * 10 + digit(ones)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> Option<String> {
        let mut canonical = String::new();
        Instant::parse(text)?.push_canonical(&mut canonical);
        Some(canonical)
    }

    #[test]
    fn one_instant_has_one_canonical_form() {
        for (text, expected) in [
            ("2014-02-08T10:01:36.827Z", "2014-02-08T10:01:36.827Z"),
            ("2014-02-08t11:01:36.827000+01:00", "2014-02-08T10:01:36.827Z"),
            ("2014-02-07 23:01:36.82700000000000000-11:00", "2014-02-08T10:01:36.827Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59.5-00:00", "1969-12-31T23:59:59.5Z"),
            ("0000-01-01T00:00:00+23:59", "-0001-12-31T00:01:00Z"),
            ("2024-02-29T00:00:00.000z", "2024-02-29T00:00:00Z"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "2014-02-08",
            "2014-02-08T10:01:36",
            "2014-02-08T10:01Z",
            "2014-02-08T10:01:36.Z",
            "2014-02-08T24:00:00Z",
            "2014-02-08T10:60:00Z",
            "2014-02-08T10:01:61Z",
            "2014-02-30T10:01:36Z",
            "2014-13-01T10:01:36Z",
            "2014-02-08T10:01:36+24:00",
            "2014-02-08T10:01:36+0100",
            "2014-02-08T10:01:36Z ",
            "9999-12-31T23:59:59-00:01",
            "20140-2-08T10:01:36Z",
            "２014-02-08T10:01:36Z",
        ] {
            assert!(Instant::parse(text).is_none(), "{text:?}");
        }
    }
}
