//! Keys as text: one form for one key, whatever the row's spelling.
//!
//! A part is brought to the canonical form of its declared type (`007` → `7`, `1.50` → `1.5`, an instant in UTC, a UUID in
//! lower case); without one it stays as written. The parts of a composite key are joined by commas, a comma or backslash
//! within a part behind a backslash, so that different keys never give one text.

use std::borrow::Cow;

use uuid::Uuid;
use waybill_contracts::ColumnType;
use waybill_formats::{
    Field,
    scalar::{Instant, Number, parse_boolean, parse_date},
};

use super::fields::{field_text, shown};

/// How the parts of an entity's key are spelt; also how others refer to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyForm {
    parts: Vec<KeyPart>,
}

/// The type of one part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyPart {
    /// Within 64 bits.
    Integer,
    Decimal,
    Boolean,
    Timestamp,
    Date,
    Uuid,
    /// Declared as text, or not declared.
    AsWritten,
}

/// Why a row has no key.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum KeyFault {
    /// The part at this place is missing or null.
    Missing { part: usize },
    /// It is not of its declared type.
    Unfit { part: usize, problem: String },
}

impl KeyPart {
    /// `None`: values of this type have no form of their own that could be compared.
    pub(crate) fn of(kind: Option<ColumnType>) -> Option<Self> {
        Some(match kind {
            None | Some(ColumnType::Text) => Self::AsWritten,
            Some(ColumnType::Integer) => Self::Integer,
            Some(ColumnType::Decimal) => Self::Decimal,
            Some(ColumnType::Boolean) => Self::Boolean,
            Some(ColumnType::Timestamp) => Self::Timestamp,
            Some(ColumnType::Date) => Self::Date,
            Some(ColumnType::Uuid) => Self::Uuid,
            Some(ColumnType::Float | ColumnType::Json | ColumnType::Binary) => return None,
        })
    }

    /// The column that holds it.
    pub(crate) fn column_type(self) -> ColumnType {
        match self {
            Self::Integer => ColumnType::Integer,
            Self::Decimal => ColumnType::Decimal,
            Self::Boolean => ColumnType::Boolean,
            Self::Timestamp => ColumnType::Timestamp,
            Self::Date => ColumnType::Date,
            Self::Uuid => ColumnType::Uuid,
            Self::AsWritten => ColumnType::Text,
        }
    }

    /// Appends the canonical form; nothing when the text is not of this type.
    fn push(self, text: &str, key: &mut String) -> Option<()> {
        match self {
            Self::AsWritten => key.push_str(text),
            Self::Integer => match canonical_integer(text) {
                true => key.push_str(text),
                false => key.push_str(&Number::parse(text)?.to_i64()?.to_string()),
            },
            Self::Decimal => Number::parse(text)?.push_canonical(key),
            Self::Boolean => key.push_str(if parse_boolean(text)? { "true" } else { "false" }),
            Self::Timestamp => Instant::parse(text)?.push_canonical(key),
            Self::Date => {
                parse_date(text)?;
                key.push_str(text);
            }
            Self::Uuid => {
                key.push_str(Uuid::try_parse(text).ok()?.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }
        Some(())
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Integer => "an integer of 64 bits (declare the column as decimal or text for longer ones)",
            Self::Decimal => "a decimal number",
            Self::Boolean => "a boolean",
            Self::Timestamp => "a timestamp with its offset",
            Self::Date => "a date",
            Self::Uuid => "a UUID",
            Self::AsWritten => "a text, a number or a boolean",
        }
    }
}

/// Whether the text needs no change: the usual case, without a parse.
fn canonical_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    matches!(digits, [b'1'..=b'9', rest @ ..] if rest.len() < 18 && rest.iter().all(u8::is_ascii_digit)) || text == "0"
}

impl KeyForm {
    pub(crate) fn new(parts: Vec<KeyPart>) -> Self {
        Self { parts }
    }

    pub(crate) fn parts(&self) -> &[KeyPart] {
        &self.parts
    }

    /// Appends the key of a row, given its fields in the key's order.
    pub(crate) fn push<'f, 'v: 'f>(
        &self,
        fields: impl Iterator<Item = &'f Field<'v>>,
        key: &mut String,
    ) -> Result<(), KeyFault> {
        for (part, (kind, field)) in self.parts.iter().zip(fields).enumerate() {
            if matches!(field, Field::Missing | Field::Null) {
                return Err(KeyFault::Missing { part });
            }
            let unfit = || KeyFault::Unfit { part, problem: format!("is {}, not {}", shown(field), kind.expected()) };
            let text = field_text(field).ok_or_else(unfit)?;
            let begin = self.begin_part(part, key);
            kind.push(text, key).ok_or_else(unfit)?;
            self.end_part(begin, key);
        }
        Ok(())
    }

    /// Appends the key that a row refers to; `false` when one of the fields is missing or null: it refers to nothing. What
    /// is not of the key's type stays as written: no row has that key, and a person sees which one was meant.
    pub(crate) fn push_reference<'f, 'v: 'f>(
        &self,
        fields: impl Iterator<Item = &'f Field<'v>>,
        key: &mut String,
    ) -> bool {
        let before = key.len();
        for (part, (kind, field)) in self.parts.iter().zip(fields).enumerate() {
            if matches!(field, Field::Missing | Field::Null) {
                key.truncate(before);
                return false;
            }
            let begin = self.begin_part(part, key);
            match field {
                Field::Nested(raw) => key.push_str(&String::from_utf8_lossy(raw)),
                _ => {
                    let text = field_text(field).unwrap_or_default();
                    let undone = key.len();
                    if kind.push(text, key).is_none() {
                        key.truncate(undone);
                        key.push_str(text);
                    }
                }
            }
            self.end_part(begin, key);
        }
        true
    }

    fn begin_part(&self, part: usize, key: &mut String) -> usize {
        if part > 0 {
            key.push(',');
        }
        key.len()
    }

    fn end_part(&self, begin: usize, key: &mut String) {
        let is_plain = |text: &str| !text.bytes().any(|byte| matches!(byte, b',' | b'\\'));
        if self.parts.len() == 1 || key.get(begin..).is_none_or(is_plain) {
            return;
        }
        let part = key.split_off(begin);
        for character in part.chars() {
            if matches!(character, ',' | '\\') {
                key.push('\\');
            }
            key.push(character);
        }
    }

    /// The parts of a key that [`KeyForm::push`] gave, each with its type.
    pub(crate) fn split<'k>(&self, key: &'k str) -> impl Iterator<Item = (KeyPart, Cow<'k, str>)> {
        let single = self.parts.len() == 1;
        let mut rest = Some(key);
        self.parts.iter().map(move |kind| {
            let text = rest.unwrap_or_default();
            let end = if single { None } else { separator(text) };
            let (part, after) = match end.and_then(|end| text.split_at_checked(end)) {
                Some((part, after)) => (part, after.get(1..)),
                None => (text, None),
            };
            rest = after;
            (*kind, if single { Cow::Borrowed(part) } else { unescaped(part) })
        })
    }

    /// A number that sorts as the column of the key's first part does: rows in its order touch a table's pages once.
    pub(crate) fn sort_prefix(&self, key: &str) -> u64 {
        if let Some(KeyPart::Integer) = self.parts.first() {
            let digits = key.split(',').next().unwrap_or_default();
            return digits.parse::<i64>().map_or(0, |number| number.wrapping_sub(i64::MIN).cast_unsigned());
        }
        let mut first = [0; 8];
        first.iter_mut().zip(key.bytes()).for_each(|(to, from)| *to = from);
        u64::from_be_bytes(first)
    }
}

/// Where the first comma is that no backslash stands before.
fn separator(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let found = byte == b',' && !escaped;
        escaped = byte == b'\\' && !escaped;
        found
    })
}

fn unescaped(part: &str) -> Cow<'_, str> {
    if !part.contains('\\') {
        return Cow::Borrowed(part);
    }
    let mut text = String::with_capacity(part.len());
    let mut characters = part.chars();
    while let Some(character) = characters.next() {
        text.push(if character == '\\' { characters.next().unwrap_or('\\') } else { character });
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(parts: &[KeyPart], fields: &[Field<'_>]) -> Result<String, KeyFault> {
        let mut key = String::new();
        KeyForm::new(parts.to_vec()).push(fields.iter(), &mut key)?;
        Ok(key)
    }

    fn text(text: &str) -> Field<'_> {
        Field::Text(Cow::Borrowed(text))
    }

    #[test]
    fn one_key_has_one_text_by_its_declared_type() {
        for (part, spellings, expected) in [
            (KeyPart::Integer, vec!["7", "007", "+7", "7.0", "70e-1"], "7"),
            (KeyPart::Integer, vec!["0", "-0", "000", "0e9"], "0"),
            (KeyPart::Integer, vec!["-9223372036854775808"], "-9223372036854775808"),
            (KeyPart::Decimal, vec!["1.5", "1.50", "01.5", "15e-1"], "1.5"),
            (KeyPart::Boolean, vec!["true", "TRUE", "1"], "true"),
            (KeyPart::Timestamp, vec!["2014-02-08T10:01:36Z", "2014-02-08 11:01:36.0+01:00"], "2014-02-08T10:01:36Z"),
            (KeyPart::Date, vec!["2014-02-08"], "2014-02-08"),
            (
                KeyPart::Uuid,
                vec!["694215B7-08F7-4C0D-ACB1-D734BA44C0C8", "694215b708f74c0dacb1d734ba44c0c8"],
                "694215b7-08f7-4c0d-acb1-d734ba44c0c8",
            ),
            (KeyPart::AsWritten, vec!["007"], "007"),
            (KeyPart::AsWritten, vec![""], ""),
        ] {
            for spelling in spellings {
                assert_eq!(key(&[part], &[text(spelling)]).as_deref(), Ok(expected), "{part:?} {spelling}");
            }
        }
        assert_eq!(key(&[KeyPart::AsWritten], &[Field::Number("7.0")]).as_deref(), Ok("7.0"));
        assert_eq!(key(&[KeyPart::Integer], &[Field::Number("7.0")]).as_deref(), Ok("7"));
        assert_eq!(key(&[KeyPart::Boolean], &[Field::Bool(true)]).as_deref(), Ok("true"));
    }

    #[test]
    fn a_key_that_is_missing_is_told_from_one_that_does_not_fit() {
        let parts = [KeyPart::AsWritten, KeyPart::Integer];
        assert_eq!(key(&parts, &[text("a"), Field::Null]), Err(KeyFault::Missing { part: 1 }));
        assert_eq!(key(&parts, &[Field::Missing, text("1")]), Err(KeyFault::Missing { part: 0 }));
        for unfit in ["x", "1.5", "9223372036854775808", ""] {
            let fault = key(&parts, &[text("a"), text(unfit)]);
            assert!(matches!(fault, Err(KeyFault::Unfit { part: 1, .. })), "{unfit}: {fault:?}");
        }
        assert!(matches!(key(&parts, &[Field::Nested(b"{}".into()), text("1")]), Err(KeyFault::Unfit { part: 0, .. })));
    }

    #[test]
    fn a_reference_that_does_not_fit_names_what_it_means() {
        let form = KeyForm::new(vec![KeyPart::Integer, KeyPart::AsWritten]);
        let mut key = String::new();
        assert!(form.push_reference([text("12x"), text("a,b")].iter(), &mut key));
        assert_eq!(key, "12x,a\\,b");
        assert!(!form.push_reference([text("1"), Field::Null].iter(), &mut key));
        assert_eq!(key, "12x,a\\,b", "nothing is appended");
    }

    #[test]
    fn integers_sort_as_the_table_does() {
        let form = KeyForm::new(vec![KeyPart::Integer]);
        let composite = KeyForm::new(vec![KeyPart::Integer, KeyPart::AsWritten]);
        for pair in ["-9223372036854775808", "-10", "-9", "0", "9", "10", "100"].windows(2) {
            assert!(form.sort_prefix(pair[0]) < form.sort_prefix(pair[1]), "{pair:?}");
            let (a, b) = (format!("{},z", pair[0]), format!("{},a", pair[1]));
            assert!(composite.sort_prefix(&a) < composite.sort_prefix(&b), "{pair:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_come_back_from_the_joined_key(parts in prop::collection::vec("[a,\\\\é]{0,4}", 1..4)) {
            let form = KeyForm::new(vec![KeyPart::AsWritten; parts.len()]);
            let mut key = String::new();
            let fields: Vec<_> = parts.iter().map(|part| text(part)).collect();
            form.push(fields.iter(), &mut key).unwrap();
            let split: Vec<_> = form.split(&key).map(|(_, part)| part.into_owned()).collect();
            prop_assert_eq!(split, parts);
        }
    }
}
