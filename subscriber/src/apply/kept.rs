//! Rows that were read: their values as columns take them, so that whoever writes has nothing to read any more.
//!
//! A value is a number, or a place in the one text that all rows share: a row costs no allocation.

use std::borrow::Cow;

use super::value::Value;

/// Rows that were read for the same columns and references, one after the other.
#[derive(Debug, Default)]
pub(crate) struct KeptRows {
    rows: Vec<KeptRow>,
    /// Of all rows.
    values: Vec<Kept>,
    parents: Vec<Option<Place>>,
    text: String,
    binary: Vec<u8>,
}

/// Where a row's values and parents begin, and what else there is of it.
#[derive(Debug)]
struct KeptRow {
    values: usize,
    parents: usize,
    rescued: Option<Place>,
    misfit: Option<u32>,
}

/// A stretch of the text, or of the bytes.
#[derive(Debug, Clone, Copy)]
struct Place {
    begin: usize,
    length: u32,
}

#[derive(Debug, Clone, Copy)]
enum Kept {
    Null,
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Text(Place),
    Binary(Place),
}

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadRow<'k> {
    rows: &'k KeptRows,
    at: usize,
}

impl Place {
    fn new(begin: usize, end: usize) -> Self {
        let length = u32::try_from(end - begin).expect("a value is shorter than a batch, which is below 1 GiB");
        Self { begin, length }
    }

    fn text(self, text: &str) -> &str {
        text.get(self.begin..self.begin + self.length as usize).expect("the place was taken there")
    }
}

impl KeptRows {
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.values.clear();
        self.parents.clear();
        self.text.clear();
        self.binary.clear();
    }

    /// Begins a row: what is added from now on is its.
    pub(super) fn begin(&mut self) {
        let (values, parents) = (self.values.len(), self.parents.len());
        self.rows.push(KeptRow { values, parents, rescued: None, misfit: None });
    }

    pub(super) fn add(&mut self, value: &Value<'_>) {
        self.values.push(match value {
            Value::Null => Kept::Null,
            Value::Integer(number) => Kept::Integer(*number),
            Value::Float(number) => Kept::Float(*number),
            Value::Boolean(value) => Kept::Boolean(*value),
            Value::Text(text) => {
                let begin = self.text.len();
                self.text.push_str(text);
                Kept::Text(Place::new(begin, self.text.len()))
            }
            Value::Binary(bytes) => {
                let begin = self.binary.len();
                self.binary.extend_from_slice(bytes);
                Kept::Binary(Place::new(begin, self.binary.len()))
            }
        });
    }

    /// Adds a value that does not fit its column.
    pub(super) fn add_misfit(&mut self) {
        if let Some(row) = self.rows.last_mut() {
            row.misfit = row.misfit.or(u32::try_from(self.values.len() - row.values).ok());
        }
        self.values.push(Kept::Null);
    }

    /// Adds the key of a parent, if `push` writes one.
    pub(super) fn add_parent(&mut self, push: impl FnOnce(&mut String) -> bool) {
        let begin = self.text.len();
        let refers = push(&mut self.text);
        self.parents.push(refers.then(|| Place::new(begin, self.text.len())));
    }

    /// Ends the row with what has no column, as a JSON object.
    pub(super) fn end(&mut self, rescued: &str) {
        let begin = self.text.len();
        self.text.push_str(rescued);
        if let Some(row) = self.rows.last_mut() {
            row.rescued = (!rescued.is_empty()).then(|| Place::new(begin, self.text.len()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes held: for memory limits.
    pub(super) fn size(&self) -> usize {
        let Self { rows, values, parents, text, binary } = self;
        let places = size_of_val(rows.as_slice()) + size_of_val(values.as_slice()) + size_of_val(parents.as_slice());
        places + text.len() + binary.len()
    }

    /// The row that was the `at`th, from 0.
    ///
    /// # Panics
    /// When it was not read.
    pub(super) fn row(&self, at: usize) -> ReadRow<'_> {
        assert!(at < self.len(), "row {at} of {} that were read", self.len());
        ReadRow { rows: self, at }
    }
}

impl<'k> ReadRow<'k> {
    /// In the order of the shape's columns.
    pub(crate) fn values(self) -> impl Iterator<Item = Value<'k>> {
        let KeptRows { rows, values, text, binary, .. } = self.rows;
        let end = rows.get(self.at + 1).map_or(values.len(), |next| next.values);
        let values = values.get(rows[self.at].values..end).unwrap_or_default();
        values.iter().map(move |value| match *value {
            Kept::Null => Value::Null,
            Kept::Integer(number) => Value::Integer(number),
            Kept::Float(number) => Value::Float(number),
            Kept::Boolean(value) => Value::Boolean(value),
            Kept::Text(place) => Value::Text(Cow::Borrowed(place.text(text))),
            Kept::Binary(Place { begin, length }) => {
                Value::Binary(Cow::Borrowed(binary.get(begin..begin + length as usize).unwrap_or_default()))
            }
        })
    }

    /// What has no column or does not fit it, as a JSON object.
    pub(crate) fn rescued(self) -> Option<&'k str> {
        self.rows.rows[self.at].rescued.map(|place| place.text(&self.rows.text))
    }

    /// The first of the shape's columns that its value does not fit, by its place.
    pub(crate) fn misfit(self) -> Option<usize> {
        self.rows.rows[self.at].misfit.map(|column| column as usize)
    }

    /// For each of the plan's references the parent's key, `None` where the row refers to nothing.
    pub(crate) fn parents(self) -> impl Iterator<Item = Option<&'k str>> {
        let KeptRows { rows, parents, text, .. } = self.rows;
        let end = rows.get(self.at + 1).map_or(parents.len(), |next| next.parents);
        let parents = parents.get(rows[self.at].parents..end).unwrap_or_default();
        parents.iter().map(move |place| place.map(|place| place.text(text)))
    }
}
