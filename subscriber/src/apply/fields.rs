//! The fields of a row, found in one pass by name, and values in words.

use std::{borrow::Cow, collections::HashMap};

use waybill_formats::{Field, FieldPath, Row, scalar::parse_boolean};

/// The field that marks a row as a deletion.
pub(crate) const DELETED: &str = "_deleted";

/// Finds wanted fields by name. Rows of a file mostly have the same fields in the same order, so a name is first compared
/// with the one that stood there in the first row, and only then looked up.
#[derive(Debug)]
pub(crate) struct FieldReader {
    slots: HashMap<Box<str>, Slot>,
    wanted: usize,
    first_row: Vec<(Box<str>, Slot)>,
}

#[derive(Debug, Clone, Copy)]
enum Slot {
    Wanted(usize),
    Passed,
    Other,
}

impl FieldReader {
    /// Wants fields, in the order of their slots.
    pub(crate) fn new<'n>(wanted: impl IntoIterator<Item = &'n str>) -> Self {
        let mut reader = Self { slots: HashMap::new(), wanted: 0, first_row: Vec::new() };
        for name in wanted {
            reader.want(name);
        }
        reader
    }

    /// Passes over fields that are known and not wanted: they are no `other` ones.
    pub(crate) fn pass<'n>(&mut self, names: impl IntoIterator<Item = &'n str>) {
        for name in names {
            self.slots.entry(name.into()).or_insert(Slot::Passed);
        }
    }

    /// Adds a field and tells where its value will be.
    pub(crate) fn want(&mut self, name: &str) -> usize {
        if let Some(Slot::Wanted(slot)) = self.slots.get(name) {
            return *slot;
        }
        let slot = self.wanted;
        self.wanted += 1;
        self.slots.insert(name.into(), Slot::Wanted(slot));
        slot
    }

    /// Reads a row: `values[slot]` becomes the value of the wanted field, [`Field::Missing`] if there is none. Of a
    /// repeated name the first value counts; for `other` fields that is the caller's to see to.
    pub(crate) fn read<'r>(
        &mut self,
        row: &Row<'r>,
        values: &mut Vec<Field<'r>>,
        mut other: impl FnMut(&str, Field<'r>),
    ) {
        values.clear();
        values.resize(self.wanted, Field::Missing);
        let mut at = 0;
        // Whoever repeats a name is rare: only what is kept is compared.
        row.for_each_written(&mut |name, value| {
            let slot = match self.first_row.get(at) {
                Some((expected, slot)) if **expected == *name => *slot,
                expected => {
                    let slot = self.slots.get(name.as_ref()).copied().unwrap_or(Slot::Other);
                    if expected.is_none() && self.first_row.len() == at {
                        self.first_row.push((name.as_ref().into(), slot));
                    }
                    slot
                }
            };
            at += 1;
            match slot {
                Slot::Wanted(slot) => {
                    if let Some(place @ Field::Missing) = values.get_mut(slot) {
                        *place = value;
                    }
                }
                Slot::Passed => {}
                Slot::Other => other(&name, value),
            }
        });
    }
}

/// The value's text: what a number, a text or a boolean reads.
pub(crate) fn field_text<'f>(field: &'f Field<'_>) -> Option<&'f str> {
    match field {
        Field::Missing | Field::Null | Field::Nested(_) => None,
        Field::Bool(true) => Some("true"),
        Field::Bool(false) => Some("false"),
        Field::Number(text) => Some(text),
        Field::Text(text) => Some(text),
    }
}

/// The value for an error message, long ones cut.
pub(crate) fn shown(field: &Field<'_>) -> Cow<'static, str> {
    const SHOWN_BYTES_MAX: usize = 80;
    let shorten = |text: &str| text.get(..text.floor_char_boundary(SHOWN_BYTES_MAX)).unwrap_or_default().to_owned();
    match field {
        Field::Missing => Cow::Borrowed("missing"),
        Field::Null => Cow::Borrowed("null"),
        Field::Bool(true) => Cow::Borrowed("true"),
        Field::Bool(false) => Cow::Borrowed("false"),
        Field::Number(text) => Cow::Owned(shorten(text)),
        Field::Text(text) => Cow::Owned(format!("{:?}", shorten(text))),
        Field::Nested(_) => Cow::Borrowed("an object or array"),
    }
}

/// Whether the row is a deletion.
///
/// # Errors
/// What is wrong with a value that is neither true nor false: a deletion is not guessed.
pub(crate) fn is_deletion(field: &Field<'_>) -> Result<bool, String> {
    let text = match field {
        Field::Missing | Field::Null => return Ok(false),
        Field::Text(text) if text.is_empty() => return Ok(false),
        field => field_text(field),
    };
    text.and_then(parse_boolean).ok_or_else(|| format!("field {DELETED:?} is {}, neither true nor false", shown(field)))
}

/// Whether a row of no known entity looks like a deletion.
pub(crate) fn is_marked_deleted(row: &Row<'_>) -> bool {
    is_deletion(&row.get(&FieldPath::name(DELETED))) == Ok(true)
}
