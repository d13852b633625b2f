//! Byte order against the order that it stands for.

use std::cmp::Ordering;

use proptest::prelude::*;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waybill_contracts::VersionType;
use waybill_formats::Field;

use super::version::{Position, push_field, push_row};

fn field_key(kind: VersionType, text: &str) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    push_field(kind, &Field::Text(text.into()), &mut key)?;
    Ok(key)
}

/// A number as text, and as an integer of 200 digits: independent of how `number` reads it.
#[derive(Debug, Clone)]
struct Big {
    text: String,
    negative: bool,
    digits: String,
}

impl Big {
    fn new(negative: bool, before: &str, after: &str, exponent: Option<i32>, sign: &str) -> Self {
        let exponent_text = exponent.map(|exponent| format!("e{exponent}")).unwrap_or_default();
        let point = if after.is_empty() { "" } else { "." };
        let text = format!("{}{before}{point}{after}{exponent_text}", if negative { "-" } else { sign });
        let scale = i32::try_from(after.len()).unwrap() - exponent.unwrap_or(0);
        let zeros = "0".repeat(usize::try_from(120 - scale).unwrap());
        let digits = format!("{before}{after}{zeros}").trim_start_matches('0').to_owned();
        Self { text, negative: negative && !digits.is_empty(), digits }
    }

    fn compare(&self, other: &Self) -> Ordering {
        let magnitude = |a: &Self, b: &Self| a.digits.len().cmp(&b.digits.len()).then_with(|| a.digits.cmp(&b.digits));
        match (self.negative, other.negative) {
            (false, false) => magnitude(self, other),
            (true, true) => magnitude(other, self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

fn big() -> impl Strategy<Value = Big> {
    let part = || prop_oneof!["[0-9]{1,3}", "[0-9]{1,45}", "0{0,3}[12]0{0,3}"];
    let exponent = proptest::option::of(prop_oneof![-3..4_i32, -60..61_i32]);
    (any::<bool>(), part(), prop_oneof![Just(String::new()), part()], exponent, prop_oneof![Just(""), Just("+")])
        .prop_map(|(negative, before, after, exponent, sign)| Big::new(negative, &before, &after, exponent, sign))
}

fn instant() -> impl Strategy<Value = (String, OffsetDateTime)> {
    let clock = (0..24_u8, 0..60_u8, 0..60_u8);
    let date = (prop_oneof![Just(2014_u16), 1..9998_u16], 1..13_u8, 1..29_u8);
    let offset = (any::<bool>(), 0..24_u8, 0..60_u8);
    (date, clock, prop_oneof![Just(String::new()), "\\.[0-9]{1,9}", "\\.[05]{1,2}"], offset, any::<bool>()).prop_map(
        |((year, month, day), (hour, minute, second), fraction, (west, off_hours, off_minutes), zulu)| {
            let sign = if west { '-' } else { '+' };
            let offset = if zulu { "Z".to_owned() } else { format!("{sign}{off_hours:02}:{off_minutes:02}") };
            let text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}{offset}");
            let instant = OffsetDateTime::parse(&text, &Rfc3339).unwrap();
            (text, instant)
        },
    )
}

/// A version by its parts, and what they mean.
#[derive(Debug, Clone)]
struct Parts {
    field: String,
    position: Position,
    row: u64,
    deletion: bool,
    content: String,
}

fn parts() -> impl Strategy<Value = Parts> {
    const EPOCHS: [&str; 5] = [
        "01890000-0000-7000-8000-000000000000",
        "01890000-0000-7000-8000-000000000001",
        "01990000-0000-7000-8000-000000000000",
        "first",
        "",
    ];
    let count = || prop_oneof![0..3_u64, 250..260_u64, Just(u64::MAX), any::<u64>()];
    let sequenced = (0..EPOCHS.len(), "[a\0]{0,2}", count()).prop_map(|(epoch, publisher, sequence)| {
        Position::Sequenced { publisher, epoch: EPOCHS[epoch].to_owned(), sequence }
    });
    let snapshot = (0..EPOCHS.len(), "[a\0]{0,2}", count(), count()).prop_map(|(epoch, publisher, as_of, sequence)| {
        Position::Snapshot { publisher, epoch: EPOCHS[epoch].to_owned(), as_of, sequence }
    });
    let broker = prop_oneof![-2..3_i64, any::<i64>()].prop_map(|sequence_number| Position::Broker { sequence_number });
    ("[a\0\u{1}é]{0,3}", prop_oneof![sequenced, snapshot, broker], count(), any::<bool>(), "[ab]{0,1}")
        .prop_map(|(field, position, row, deletion, content)| Parts { field, position, row, deletion, content })
}

impl Parts {
    fn bytes(&self) -> Vec<u8> {
        let mut version = field_key(VersionType::Text, &self.field).unwrap();
        version.extend(self.position.key());
        push_row(self.row, self.deletion, self.content.as_bytes(), &mut version);
        version
    }

    fn compare(&self, other: &Self) -> Ordering {
        fn position(position: &Position) -> (u8, i64, bool, &str, &str, u64, Option<u64>) {
            match position {
                Position::Broker { sequence_number } => (0, *sequence_number, false, "", "", 0, None),
                Position::Sequenced { publisher, epoch, sequence } => {
                    (1, 0, epoch.len() == 36, epoch, publisher, *sequence, None)
                }
                Position::Snapshot { publisher, epoch, as_of, sequence } => {
                    (1, 0, epoch.len() == 36, epoch, publisher, *as_of, Some(*sequence))
                }
            }
        }
        let of_content = |parts: &Self| <[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(&parts.content));
        self.field
            .as_bytes()
            .cmp(other.field.as_bytes())
            .then_with(|| position(&self.position).cmp(&position(&other.position)))
            .then_with(|| self.row.cmp(&other.row))
            .then_with(|| self.deletion.cmp(&other.deletion))
            .then_with(|| of_content(self).cmp(&of_content(other)))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn numbers_of_any_length_sort_by_bytes_as_they_do_by_value(a in big(), b in big()) {
        let (a_key, b_key) = (field_key(VersionType::Decimal, &a.text).unwrap(), field_key(VersionType::Decimal, &b.text).unwrap());
        prop_assert_eq!(a_key.cmp(&b_key), a.compare(&b), "{} {}", a.text, b.text);
        // What follows decides only between equal numbers, whatever it is.
        for (after_a, after_b) in [(0, 255), (255, 0), (1, 1)] {
            let joined = |key: &[u8], after| [key, &[after]].concat();
            let expected = a.compare(&b).then(after_a.cmp(&after_b));
            prop_assert_eq!(joined(&a_key, after_a).cmp(&joined(&b_key, after_b)), expected);
        }
    }

    #[test]
    fn an_integer_has_the_same_key_in_every_spelling(a in big()) {
        let is_whole = a.digits.len() <= 120 && a.digits.trim_end_matches('0').is_empty()
            || a.digits.len() - a.digits.trim_end_matches('0').len() >= 120;
        match field_key(VersionType::Integer, &a.text) {
            Ok(key) => {
                prop_assert!(is_whole, "{}", a.text);
                prop_assert_eq!(key, field_key(VersionType::Decimal, &a.text).unwrap());
            }
            Err(problem) => prop_assert!(!is_whole, "{}: {}", a.text, problem),
        }
    }

    #[test]
    fn instants_sort_by_bytes_as_they_do_by_time((a, a_at) in instant(), (b, b_at) in instant()) {
        let (a_key, b_key) = (field_key(VersionType::Timestamp, &a).unwrap(), field_key(VersionType::Timestamp, &b).unwrap());
        prop_assert_eq!(a_key.cmp(&b_key), a_at.cmp(&b_at), "{} {}", a, b);
        let joined = |key: &[u8], after| [key, &[after]].concat();
        prop_assert_eq!(joined(&a_key, 255).cmp(&joined(&b_key, 0)), a_at.cmp(&b_at).then(Ordering::Greater));
    }

    #[test]
    fn versions_sort_by_bytes_as_they_do_part_by_part(a in parts(), b in parts()) {
        prop_assert_eq!(a.bytes().cmp(&b.bytes()), a.compare(&b), "{:?} {:?}", a, b);
        // Parts that differ in one place only are rare among random ones.
        let near = Parts { content: b.content.clone(), row: b.row, deletion: b.deletion, ..a.clone() };
        prop_assert_eq!(a.bytes().cmp(&near.bytes()), a.compare(&near), "{:?} {:?}", a, near);
    }
}

#[test]
fn more_digits_than_nine_after_the_second_still_count() {
    let key = |text| field_key(VersionType::Timestamp, text).unwrap();
    assert!(key("2014-02-08T10:01:36.123456789012Z") < key("2014-02-08T10:01:36.1234567890121+00:00"));
    assert_eq!(key("2014-02-08T10:01:36.5Z"), key("2014-02-08T11:01:36.500000000000+01:00"));
}

#[test]
fn an_epoch_in_either_case_is_one_epoch() {
    let position = |epoch: &str| Position::Sequenced { publisher: String::new(), epoch: epoch.to_owned(), sequence: 1 };
    let lower = "01890000-0000-7000-8000-00000000000a";
    assert_eq!(position(lower).key(), position(&lower.to_uppercase()).key());
}

#[test]
fn a_version_that_does_not_parse_says_what_it_is() {
    for (kind, field, expected) in [
        (VersionType::Timestamp, Field::Text("2014-02-08".into()), "is \"2014-02-08\", no timestamp such as"),
        (VersionType::Timestamp, Field::Number("5"), "is 5, no timestamp"),
        (VersionType::Integer, Field::Number("1.5"), "is 1.5, no integer"),
        (VersionType::Decimal, Field::Text("".into()), "is \"\", no decimal number"),
        (VersionType::Text, Field::Null, "is null; every row needs its version"),
        (VersionType::Text, Field::Missing, "is missing; every row needs its version"),
        (VersionType::Text, Field::Nested(b"{}".into()), "is an object or array; every row needs its version"),
    ] {
        let problem = push_field(kind, &field, &mut Vec::new()).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
}
