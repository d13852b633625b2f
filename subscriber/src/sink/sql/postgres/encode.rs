//! Rows in the form that `COPY … (FORMAT binary)` takes: no text is made of a number on this side to be parsed on the other.
//!
//! # Sources
//! PostgreSQL, "COPY", binary format; the binary forms of the types are those of its `*_recv` functions.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use uuid::Uuid;
use waybill_contracts::ColumnType;
use waybill_formats::scalar::{Instant, days_since_2000};

use crate::apply::{EntityPlan, KeyPart, ReadRow, Shape, Value};

/// Seconds from 1970 to 2000, from which PostgreSQL counts.
const EPOCH: i64 = 946_684_800;
/// Digits of a numeric before and after its point (PostgreSQL, "Numeric Types").
const DIGITS_BEFORE_MAX: i64 = 131_072;
const DIGITS_AFTER_MAX: i64 = 16_383;

/// Bytes of a row's values in its page (PostgreSQL, "Database Page Layout", with pages of 8 KiB): without its header, and the bits
/// that tell nulls of as many columns as a table can have.
const VALUES_BYTES_MAX: usize = 8_160 - 224;
/// Columns that have room there whatever they hold.
const FITTING_MAX: usize = 150;
/// A text or the like of more bytes than the first leaves no more than the second in its row ("TOAST"): a pointer, or what it was
/// compressed to.
const TOASTED: (usize, usize) = (20, 28);

/// What precedes the tuples.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What follows them.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// The type of a column that we make.
pub(super) fn declared_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Integer => "bigint",
        ColumnType::Decimal => "numeric",
        ColumnType::Float => "double precision",
        ColumnType::Boolean => "boolean",
        ColumnType::Text => "text",
        ColumnType::Timestamp => "timestamptz",
        ColumnType::Date => "date",
        ColumnType::Uuid => "uuid",
        ColumnType::Json => "json",
        ColumnType::Binary => "bytea",
    }
}

/// How a value went into its column.
enum Fit {
    AsItIs,
    /// The column holds less than the row says: the exact value goes to `_rescued` too.
    Shortened,
    /// PostgreSQL has no such value, or its row no room.
    Unfit,
}

/// Appends the tuple of an entity's row: its key, version, what was rescued, its columns.
///
/// # Errors
/// What is wrong with a key that PostgreSQL cannot hold.
pub(super) fn push_row(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    plan: &EntityPlan,
    shape: &Shape,
    (key, version): (&str, &[u8]),
    row: ReadRow<'_>,
) -> Result<(), String> {
    let begin = out.len();
    push_count(out, plan.key().count() + 2 + shape.columns.len());
    for ((part, text), (field, _)) in plan.key_form().split(key).zip(plan.key()) {
        if let Err(problem) = push_key_part(out, part, &text) {
            out.truncate(begin);
            return Err(format!("key field {field:?} {problem}"));
        }
    }
    push_field(out, version);
    push_columns(out, scratch, shape, plan.key().count() + 2, row);
    Ok(())
}

/// Appends the tuple of a row of no entity: its file, its number, what was rescued, its columns.
pub(super) fn push_appended(
    out: &mut Vec<u8>,
    scratch: &mut Vec<u8>,
    shape: &Shape,
    (file, number): (&str, i64),
    row: ReadRow<'_>,
) {
    push_count(out, 3 + shape.columns.len());
    push_field(out, file.as_bytes());
    push_field(out, &number.to_be_bytes());
    push_columns(out, scratch, shape, 3, row);
}

/// `own`: how many columns stand beside the shape's.
fn push_columns(out: &mut Vec<u8>, scratch: &mut Vec<u8>, shape: &Shape, own: usize, row: ReadRow<'_>) {
    scratch.clear();
    let mut rescued = row.rescued().map(str::to_owned);
    let mut room = (shape.columns.len() > FITTING_MAX).then(|| Room::beside(own));
    for (column, value) in shape.columns.iter().zip(row.values()) {
        let begin = scratch.len();
        let mut fit = push_value(scratch, column.kind, &value);
        if let Some(room) = &mut room
            && !room.takes(column.kind, scratch.get(begin..).unwrap_or_default())
        {
            scratch.truncate(begin);
            push_null(scratch);
            fit = Fit::Unfit;
        }
        if !matches!(fit, Fit::AsItIs) {
            rescue(&mut rescued, &column.field, column.kind, &value);
        }
    }
    match &rescued {
        Some(json) => push_field(out, json.as_bytes()),
        None => push_null(out),
    }
    out.extend_from_slice(scratch);
}

/// What is left for values in a row whose table has many columns: all of them may be more than a row can hold.
struct Room {
    taken: usize,
}

impl Room {
    /// Beside columns of which each may be a long text that was moved out, and shift what comes behind it.
    fn beside(own: usize) -> Self {
        Self { taken: own * (TOASTED.1 + 8) }
    }

    /// Takes a value as it was pushed, if there is room for it.
    fn takes(&mut self, kind: ColumnType, pushed: &[u8]) -> bool {
        let Some(bytes) = pushed.get(4..).filter(|_| !pushed.starts_with(&[0xff; 4])) else { return true };
        let aligned = |to: usize| self.taken.next_multiple_of(to) + to;
        let taken = match kind {
            ColumnType::Integer | ColumnType::Float | ColumnType::Timestamp => aligned(8),
            ColumnType::Date => aligned(4),
            ColumnType::Boolean | ColumnType::Uuid => self.taken + bytes.len(),
            _ if bytes.len() <= TOASTED.0 => self.taken + 1 + bytes.len(),
            _ => self.taken + TOASTED.1,
        };
        let has_room = taken <= VALUES_BYTES_MAX;
        if has_room {
            self.taken = taken;
        }
        has_room
    }
}

/// Adds a field to a JSON object.
fn rescue(rescued: &mut Option<String>, field: &str, kind: ColumnType, value: &Value<'_>) {
    let text = match value {
        Value::Null => return,
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => serde_json::to_string(number),
        Value::Boolean(value) => Ok(value.to_string()),
        Value::Text(text) if kind == ColumnType::Json => Ok(text.clone().into_owned()),
        Value::Text(text) => serde_json::to_string(text),
        Value::Binary(bytes) => serde_json::to_string(&STANDARD.encode(bytes)),
    };
    let (Ok(name), Ok(text)) = (serde_json::to_string(field), text) else { return };
    let mut json = rescued.take().unwrap_or_else(|| "{".to_owned());
    if json.ends_with('}') {
        json.pop();
        json.push(',');
    }
    json.push_str(&format!("{name}:{text}}}"));
    *rescued = Some(json);
}

fn push_value(out: &mut Vec<u8>, kind: ColumnType, value: &Value<'_>) -> Fit {
    match (kind, value) {
        (_, Value::Null) => push_null(out),
        (_, Value::Integer(number)) => push_field(out, &number.to_be_bytes()),
        (_, Value::Float(number)) => push_field(out, &number.to_be_bytes()),
        (_, Value::Boolean(value)) => push_field(out, &[u8::from(*value)]),
        (_, Value::Binary(bytes)) => push_field(out, bytes),
        (ColumnType::Decimal, Value::Text(text)) => {
            if push_numeric(out, text).is_none() {
                push_null(out);
                return Fit::Unfit;
            }
        }
        (ColumnType::Timestamp, Value::Text(text)) => match Instant::parse(text).map(|instant| instant.micros()) {
            Some((micros, exact)) => {
                push_field(out, &(micros - EPOCH * 1_000_000).to_be_bytes());
                return if exact { Fit::AsItIs } else { Fit::Shortened };
            }
            None => push_null(out),
        },
        (ColumnType::Date, Value::Text(text)) => match days_since_2000(text) {
            Some(days) => push_field(out, &days.to_be_bytes()),
            None => push_null(out),
        },
        (ColumnType::Uuid, Value::Text(text)) => match Uuid::try_parse(text) {
            Ok(uuid) => push_field(out, uuid.as_bytes()),
            Err(_) => push_null(out),
        },
        (_, Value::Text(text)) => {
            // PostgreSQL's text has no U+0000.
            if text.as_bytes().contains(&0) {
                push_null(out);
                return Fit::Unfit;
            }
            push_field(out, text.as_bytes());
        }
    }
    Fit::AsItIs
}

/// A part of a key in its canonical form.
fn push_key_part(out: &mut Vec<u8>, part: KeyPart, text: &str) -> Result<(), String> {
    check_key_part(part, text)?;
    match part {
        KeyPart::Integer => match text.parse::<i64>() {
            Ok(number) => push_field(out, &number.to_be_bytes()),
            Err(_) => return Err("is no integer of 64 bits".to_owned()),
        },
        KeyPart::Decimal => push_numeric(out, text).ok_or("has more digits than a numeric")?,
        KeyPart::Boolean => push_field(out, &[u8::from(text == "true")]),
        KeyPart::Timestamp => {
            let micros = Instant::parse(text).map(|instant| instant.micros().0).ok_or("is no timestamp")?;
            push_field(out, &(micros - EPOCH * 1_000_000).to_be_bytes());
        }
        KeyPart::Date => push_field(out, &days_since_2000(text).ok_or("is no date")?.to_be_bytes()),
        KeyPart::Uuid => push_field(out, Uuid::try_parse(text).map_err(|_| "is no UUID")?.as_bytes()),
        KeyPart::AsWritten => push_field(out, text.as_bytes()),
    }
    Ok(())
}

/// Whether PostgreSQL can hold this part of a key, exactly.
///
/// # Errors
/// What is wrong with it.
pub(super) fn check_key_part(part: KeyPart, text: &str) -> Result<(), &'static str> {
    let holds = match part {
        KeyPart::Integer => text.parse::<i64>().is_ok(),
        KeyPart::Decimal => push_numeric(&mut Vec::new(), text).is_some(),
        KeyPart::Boolean => matches!(text, "true" | "false"),
        KeyPart::Timestamp => {
            let instant = Instant::parse(text);
            if instant.is_some_and(|instant| !instant.micros().1) {
                return Err(
                    "has more than six digits after the second, which PostgreSQL cannot hold; declare the column \
                            as text",
                );
            }
            instant.is_some() && !text.starts_with("0000")
        }
        KeyPart::Date => days_since_2000(text).is_some() && !text.starts_with("0000"),
        KeyPart::Uuid => Uuid::try_parse(text).is_ok(),
        KeyPart::AsWritten => {
            if text.contains('\0') {
                return Err("holds the character U+0000, which PostgreSQL cannot hold");
            }
            true
        }
    };
    if holds { Ok(()) } else { Err("is a value that PostgreSQL cannot hold") }
}

fn push_count(out: &mut Vec<u8>, fields: usize) {
    let fields = i16::try_from(fields).expect("a table has at most 1,600 columns");
    out.extend_from_slice(&fields.to_be_bytes());
}

fn push_null(out: &mut Vec<u8>) {
    out.extend_from_slice(&(-1_i32).to_be_bytes());
}

fn push_field(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = i32::try_from(bytes.len()).expect("rows are far smaller than 2 GiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a number, exactly as written: `19.90` keeps its last zero. `None`, and nothing appended, when it has more digits
/// than a numeric.
///
/// A numeric is a row of digits in base 10,000, the weight of the first, a sign, and how many decimal digits are shown.
fn push_numeric(out: &mut Vec<u8>, text: &str) -> Option<()> {
    let (negative, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => {
            let exponent = std::str::from_utf8(rest.get(at + 1..)?).ok()?;
            (rest.get(..at)?, exponent.parse::<i64>().ok()?)
        }
        None => (rest, 0),
    };
    let point = mantissa.iter().position(|byte| *byte == b'.').unwrap_or(mantissa.len());
    let digits = || mantissa.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| byte - b'0');
    let count = i64::try_from(digits().count()).ok()?;
    let leading = i64::try_from(digits().take_while(|digit| *digit == 0).count()).ok()?;
    // Where the point stands, counted from the first digit.
    let point = i64::try_from(point).ok()?.checked_add(exponent)?;
    let scale = (count - point).max(0);
    if scale > DIGITS_AFTER_MAX {
        return None;
    }
    let mut groups: Vec<i16> = Vec::new();
    let mut weight = 0;
    if leading < count {
        // From the first digit that counts on.
        let point = point - leading;
        if point > DIGITS_BEFORE_MAX {
            return None;
        }
        weight = (point - 1).div_euclid(4);
        // Zeros in front of the first digit within its group.
        let mut filled = (weight + 1) * 4 - point;
        let mut group = 0_i16;
        for digit in digits().skip(usize::try_from(leading).ok()?) {
            group = group * 10 + i16::from(digit);
            filled += 1;
            if filled == 4 {
                groups.push(group);
                (group, filled) = (0, 0);
            }
        }
        if filled > 0 {
            for _ in filled..4 {
                group *= 10;
            }
            groups.push(group);
        }
        while groups.last() == Some(&0) {
            groups.pop();
        }
    }
    let is_negative = negative && !groups.is_empty();
    let length = i32::try_from(8 + 2 * groups.len()).ok()?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&i16::try_from(groups.len()).ok()?.to_be_bytes());
    out.extend_from_slice(&i16::try_from(weight).ok()?.to_be_bytes());
    out.extend_from_slice(&(if is_negative { 0x4000_u16 } else { 0 }).to_be_bytes());
    out.extend_from_slice(&u16::try_from(scale).ok()?.to_be_bytes());
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Digits in base 10,000, weight, sign, scale.
    fn numeric(text: &str) -> Option<(Vec<i16>, i16, bool, u16)> {
        let mut out = Vec::new();
        push_numeric(&mut out, text)?;
        let word = |at: usize| i16::from_be_bytes([out[at], out[at + 1]]);
        let count = usize::try_from(word(4)).unwrap();
        assert_eq!(i32::from_be_bytes([out[0], out[1], out[2], out[3]]), i32::try_from(8 + 2 * count).unwrap());
        let digits = (0..count).map(|at| word(12 + 2 * at)).collect();
        Some((digits, word(6), word(8) == 0x4000, word(10).cast_unsigned()))
    }

    #[test]
    fn a_number_keeps_every_digit_that_was_written() {
        for (text, digits, weight, negative, scale) in [
            ("0", vec![], 0, false, 0),
            ("-0.00", vec![], 0, false, 2),
            ("1", vec![1], 0, false, 0),
            ("19.90", vec![19, 9000], 0, false, 2),
            ("-19.90", vec![19, 9000], 0, true, 2),
            (".50", vec![5000], -1, false, 2),
            ("0.0001", vec![1], -1, false, 4),
            ("0.00001", vec![1000], -2, false, 5),
            ("12345678", vec![1234, 5678], 1, false, 0),
            ("123456789", vec![1, 2345, 6789], 2, false, 0),
            ("10000", vec![1], 1, false, 0),
            ("007.5", vec![7, 5000], 0, false, 1),
            ("1e3", vec![1000], 0, false, 0),
            ("1.5e1", vec![15], 0, false, 0),
            ("15e-1", vec![1, 5000], 0, false, 1),
            ("1e-5", vec![1000], -2, false, 5),
        ] {
            assert_eq!(numeric(text), Some((digits, weight, negative, scale)), "{text}");
        }
        assert_eq!(numeric("1e131072"), None, "131,073 digits before the point");
        assert!(numeric("1e131071").is_some());
        assert_eq!(numeric("1e-16384"), None, "too many after it");
    }
}
