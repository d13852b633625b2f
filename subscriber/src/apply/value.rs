//! Fields as values of columns: what fits is stored, what does not goes to `_rescued`.

use std::borrow::Cow;

use base64::{Engine as _, alphabet, engine};
use serde::de::IgnoredAny;
use uuid::Uuid;
use waybill_contracts::ColumnType;
use waybill_formats::{
    Field,
    scalar::{Instant, Number, parse_boolean, parse_date, parse_float},
};

/// A value as a database takes it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Text, and every type whose spelling must stay: decimals, timestamps, dates, UUIDs, JSON.
    Text(Cow<'a, str>),
    Binary(Cow<'a, [u8]>),
}

const BASE64: engine::GeneralPurpose = engine::GeneralPurpose::new(
    &alphabet::STANDARD,
    engine::GeneralPurposeConfig::new().with_decode_padding_mode(engine::DecodePaddingMode::Indifferent),
);

impl<'a> Value<'a> {
    /// The field as a value of the column's type. Nothing is rounded, cut or guessed.
    ///
    /// # Errors
    /// The field again, when it does not fit.
    pub(crate) fn fit(kind: ColumnType, field: Field<'a>) -> Result<Self, Field<'a>> {
        if matches!(field, Field::Missing | Field::Null) {
            return Ok(Self::Null);
        }
        match kind {
            ColumnType::Integer => Self::parsed(field, |text| {
                let parsed = if text.starts_with('+') { None } else { text.parse().ok() };
                parsed.or_else(|| Number::parse(text)?.to_i64()).map(Self::Integer)
            }),
            ColumnType::Float => Self::parsed(field, |text| parse_float(text).map(Self::Float)),
            ColumnType::Boolean => match field {
                Field::Bool(value) => Ok(Self::Boolean(value)),
                field => Self::parsed(field, |text| parse_boolean(text).map(Self::Boolean)),
            },
            ColumnType::Decimal => Self::as_written(field, |text| Number::parse(text).is_some()),
            ColumnType::Timestamp => Self::as_text(field, |text| Instant::parse(text).is_some()),
            ColumnType::Date => Self::as_text(field, |text| parse_date(text).is_some()),
            ColumnType::Uuid => Self::as_text(field, |text| Uuid::try_parse(text).is_ok()),
            ColumnType::Binary => match field {
                Field::Text(text) => BASE64
                    .decode(text.as_bytes())
                    .map(|bytes| Self::Binary(bytes.into()))
                    .map_err(|_| Field::Text(text)),
                field => Err(field),
            },
            ColumnType::Text => Ok(Self::Text(match field {
                Field::Nested(raw) => match as_text(&raw) {
                    Some(text) => text,
                    None => return Err(Field::Nested(raw)),
                },
                Field::Bool(value) => Cow::Borrowed(if value { "true" } else { "false" }),
                Field::Number(text) => Cow::Borrowed(text),
                Field::Text(text) => text,
                Field::Missing | Field::Null => return Ok(Self::Null),
            })),
            ColumnType::Json => Ok(Self::Text(match field {
                // CSV carries a document as text. Any other text becomes a JSON string.
                Field::Text(text) if is_document(&text) => text,
                field => match field_json(&field) {
                    Some(json) => json,
                    None => return Err(field),
                },
            })),
        }
    }

    fn parsed(field: Field<'a>, parse: impl FnOnce(&str) -> Option<Self>) -> Result<Self, Field<'a>> {
        let value = match &field {
            Field::Number(text) => parse(text),
            Field::Text(text) => parse(text),
            _ => None,
        };
        value.ok_or(field)
    }

    fn as_written(field: Field<'a>, fits: impl Fn(&str) -> bool) -> Result<Self, Field<'a>> {
        match field {
            Field::Number(text) if fits(text) => Ok(Self::Text(Cow::Borrowed(text))),
            Field::Text(text) if fits(&text) => Ok(Self::Text(text)),
            field => Err(field),
        }
    }

    fn as_text(field: Field<'a>, fits: impl FnOnce(&str) -> bool) -> Result<Self, Field<'a>> {
        match field {
            Field::Text(text) if fits(&text) => Ok(Self::Text(text)),
            field => Err(field),
        }
    }
}

/// A JSON object or array.
fn is_document(text: &str) -> bool {
    text.trim_start().starts_with(['{', '[']) && serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Bytes as text, borrowed from where they are borrowed from.
fn as_text<'a>(bytes: &Cow<'a, [u8]>) -> Option<Cow<'a, str>> {
    match bytes {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes.clone()).ok().map(Cow::Owned),
    }
}

/// The field as JSON. `None` for bytes that are no text, which a validated row does not have.
pub(crate) fn field_json<'a>(field: &Field<'a>) -> Option<Cow<'a, str>> {
    Some(match field {
        Field::Missing | Field::Null => Cow::Borrowed("null"),
        Field::Bool(true) => Cow::Borrowed("true"),
        Field::Bool(false) => Cow::Borrowed("false"),
        Field::Number(text) => Cow::Borrowed(*text),
        Field::Text(text) => Cow::Owned(serde_json::to_string(text).ok()?),
        Field::Nested(raw) => as_text(raw)?,
    })
}

/// The type that a column gets from a value; `None` while all that came was null.
pub(crate) fn infer(field: &Field<'_>) -> Option<ColumnType> {
    match field {
        Field::Missing | Field::Null => None,
        Field::Bool(_) => Some(ColumnType::Boolean),
        Field::Number(text) => Some(match text.parse::<i64>() {
            Ok(_) => ColumnType::Integer,
            Err(_) => ColumnType::Decimal,
        }),
        Field::Text(_) => Some(ColumnType::Text),
        Field::Nested(_) => Some(ColumnType::Json),
    }
}

/// Whether a value fits a decimal column and no integer one.
pub(crate) fn takes_decimal(field: &Field<'_>) -> bool {
    let text = match field {
        Field::Number(text) => text,
        Field::Text(text) => &**text,
        Field::Missing | Field::Null | Field::Bool(_) | Field::Nested(_) => return false,
    };
    // Nearly all of them.
    if text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    Number::parse(text).is_some() && Value::fit(ColumnType::Integer, field.clone()).is_err()
}

/// The type that holds values of both.
pub(crate) fn infer_both(one: ColumnType, other: ColumnType) -> ColumnType {
    use ColumnType::{Decimal, Integer, Text};
    match (one, other) {
        _ if one == other => one,
        (Integer, Decimal) | (Decimal, Integer) => Decimal,
        _ => Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Field<'_> {
        Field::Text(Cow::Borrowed(text))
    }

    fn stored(text: &str) -> Value<'_> {
        Value::Text(Cow::Borrowed(text))
    }

    #[test]
    fn what_fits_is_stored_as_it_was_written() {
        for (kind, field, expected) in [
            (ColumnType::Decimal, Field::Number("19.90"), stored("19.90")),
            (ColumnType::Decimal, text(".00"), stored(".00")),
            (
                ColumnType::Decimal,
                Field::Number("123456789012345678901234567890"),
                stored("123456789012345678901234567890"),
            ),
            (ColumnType::Integer, Field::Number("007"), Value::Integer(7)),
            (ColumnType::Integer, text("-9223372036854775808"), Value::Integer(i64::MIN)),
            (ColumnType::Integer, Field::Number("1e3"), Value::Integer(1000)),
            (ColumnType::Float, Field::Number("0.1"), Value::Float(0.1)),
            (ColumnType::Boolean, Field::Bool(false), Value::Boolean(false)),
            (ColumnType::Boolean, text("True"), Value::Boolean(true)),
            (ColumnType::Timestamp, text("2014-02-08T10:01:36.8270+01:00"), stored("2014-02-08T10:01:36.8270+01:00")),
            (ColumnType::Date, text("2014-02-08"), stored("2014-02-08")),
            (
                ColumnType::Uuid,
                text("694215B7-08F7-4C0D-ACB1-D734BA44C0C8"),
                stored("694215B7-08F7-4C0D-ACB1-D734BA44C0C8"),
            ),
            (ColumnType::Binary, text("aGk="), Value::Binary(b"hi".into())),
            (ColumnType::Binary, text("aGk"), Value::Binary(b"hi".into())),
            (ColumnType::Text, Field::Number("1.0"), stored("1.0")),
            (ColumnType::Text, Field::Bool(true), stored("true")),
            (ColumnType::Text, Field::Nested(b"[1, 2]".into()), stored("[1, 2]")),
            (ColumnType::Text, text(""), stored("")),
            (ColumnType::Json, Field::Nested(b"{\"a\":1.0}".into()), stored("{\"a\":1.0}")),
            (ColumnType::Json, text("{\"a\":1.0}"), stored("{\"a\":1.0}")),
            (ColumnType::Json, text("{a"), stored("\"{a\"")),
            (ColumnType::Json, text("5"), stored("\"5\"")),
            (ColumnType::Json, Field::Number("5"), stored("5")),
            (ColumnType::Integer, Field::Null, Value::Null),
            (ColumnType::Json, Field::Missing, Value::Null),
        ] {
            assert_eq!(Value::fit(kind, field.clone()), Ok(expected), "{kind:?} {field:?}");
        }
    }

    #[test]
    fn what_would_change_does_not_fit() {
        for (kind, field) in [
            (ColumnType::Integer, Field::Number("1.5")),
            (ColumnType::Integer, Field::Number("9223372036854775808")),
            (ColumnType::Integer, text("")),
            (ColumnType::Integer, Field::Bool(true)),
            (ColumnType::Float, Field::Number("1e999")),
            (ColumnType::Float, text("NaN")),
            (ColumnType::Boolean, text("yes")),
            (ColumnType::Decimal, text("1,5")),
            (ColumnType::Timestamp, text("2014-02-08")),
            (ColumnType::Timestamp, Field::Number("20140208")),
            (ColumnType::Date, text("2014-02-30")),
            (ColumnType::Uuid, text("694215B7")),
            (ColumnType::Binary, text("a*")),
            (ColumnType::Binary, Field::Number("1")),
        ] {
            assert_eq!(Value::fit(kind, field.clone()), Err(field), "{kind:?}");
        }
    }
}
