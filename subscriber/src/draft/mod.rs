//! A draft of `entities.toml` from samples of the files: keys, versions, column types and references, guessed by names and
//! by values, each with what speaks for it. A person reads it before it is used.

mod column;
mod guess;

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

use waybill_contracts::{ColumnType, Format, VersionType};
use waybill_formats::RowBatch;

use self::{column::Column, guess::Guess};
use crate::apply::{folded, is_marked_deleted, is_reserved};

/// Rows of a sample that are looked at: bounds what is held of it.
pub const SAMPLE_ROWS_MAX: usize = 50_000;
/// Columns of a sample that are looked at.
const COLUMNS_MAX: usize = 256;

/// What is known of one blobType's rows.
#[derive(Debug, Clone)]
pub struct Sample {
    blob_type: String,
    entity: String,
    columns: Vec<Column>,
    places: HashMap<String, usize>,
    rows: usize,
    /// Rows follow that nobody looked at.
    is_cut: bool,
    key: Vec<usize>,
}

impl Sample {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(blob_type: &str) -> Self {
        Self {
            blob_type: blob_type.to_owned(),
            entity: entity_name(blob_type),
            columns: Vec::new(),
            places: HashMap::new(),
            rows: 0,
            is_cut: false,
            key: Vec::new(),
        }
    }

    /// Looks at rows, in whatever format; `false` once it has seen enough.
    pub fn see(&mut self, batch: &RowBatch, format: Format) -> bool {
        let text_only = matches!(format, Format::Csv | Format::Xml | Format::XmlLines);
        for row in batch.rows() {
            if self.rows == SAMPLE_ROWS_MAX {
                self.is_cut = true;
                return false;
            }
            // What a deletion lacks says nothing about the others.
            if is_marked_deleted(&row) {
                continue;
            }
            let at = self.rows;
            self.rows += 1;
            row.for_each(&mut |name, value| {
                let place = match self.places.get(name.as_ref()) {
                    Some(place) => *place,
                    None if self.columns.len() < COLUMNS_MAX => {
                        self.places.insert(name.to_string(), self.columns.len());
                        self.columns.push(Column::new(&name, at));
                        self.columns.len() - 1
                    }
                    None => return,
                };
                let column = &mut self.columns[place];
                if column.hashes.len() <= at {
                    column.fill(at);
                    column.see(&value, text_only);
                }
            });
        }
        true
    }

    /// Rows that were looked at.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn finish(&mut self) {
        // Names that the sinks keep, and those that a database would take for another column.
        let mut taken = HashSet::new();
        self.columns.retain(|column| !is_reserved(&column.name) && taken.insert(folded(&column.name)));
        for column in &mut self.columns {
            column.fill(self.rows);
        }
        self.key = guess::key(self).unwrap_or_default();
    }
}

/// `ProductListPriceChanges` → `product_list_price`.
fn entity_name(blob_type: &str) -> String {
    let stem = ["Changes", "Changed", "Export", "Updates", "Events"]
        .iter()
        .find_map(|end| blob_type.strip_suffix(end).filter(|stem| !stem.is_empty()))
        .unwrap_or(blob_type);
    let mut name = String::new();
    let mut before = None;
    for character in stem.chars() {
        if character.is_uppercase() && before.is_some_and(|before: char| before.is_lowercase() || before.is_numeric()) {
            name.push('_');
        }
        name.extend(character.to_lowercase());
        before = Some(character);
    }
    // The sinks keep names of this kind for themselves.
    if is_reserved(&name) || name.starts_with("sqlite_") { format!("entity {name}") } else { name }
}

/// The text of an `entities.toml` for these samples. It can be read by [`Entities::parse`](waybill_contracts::Entities::parse).
#[must_use]
pub fn draft(mut samples: Vec<Sample>) -> String {
    let mut names = HashSet::new();
    for sample in &mut samples {
        sample.finish();
        // Two types that come to one name are two entities until somebody says otherwise.
        if !names.insert(sample.entity.to_lowercase()) {
            sample.entity.clone_from(&sample.blob_type);
            names.insert(sample.entity.to_lowercase());
        }
    }
    let mut text = "# A draft from samples: read it before you use it. Each guess says what speaks for it; other rows may speak \
                    against it.\n# A `park` reference lets rows wait for their parent; what is never sent is waited for in vain.\n"
        .to_owned();
    for (at, guesses) in guess::all_references(&samples).iter().enumerate() {
        Draft { samples: &samples, at, text: &mut text }.entity(guesses);
    }
    text
}

/// One entity on its way into the text.
struct Draft<'d> {
    samples: &'d [Sample],
    at: usize,
    text: &'d mut String,
}

impl Draft<'_> {
    fn entity(&mut self, guesses: &[Guess]) {
        let sample = &self.samples[self.at];
        let Sample { blob_type, entity, rows, key, columns, .. } = sample;
        let more = if sample.is_cut { ", the first of more" } else { "" };
        self.line(format_args!("\n# {}: {rows} rows{more}.", shown(blob_type)));
        if key.is_empty() {
            self.line(format_args!(
                "# No key was found: no columns are unique and never null. Without an entity its rows are only added to a table.\n\
                 # [entity.{}]\n# types = [{}]\n# key = [\"…\"]",
                bare(entity),
                quoted(blob_type)
            ));
            return;
        }
        let names =
            |places: &[usize]| places.iter().map(|at| quoted(&columns[*at].name)).collect::<Vec<_>>().join(", ");
        self.line(format_args!("[entity.{}]", bare(entity)));
        self.line(format_args!("types = [{}]", quoted(blob_type)));
        let others: Vec<String> = guess::other_keys(sample).into_iter().map(|at| columns[at].name.clone()).collect();
        let others = match others.is_empty() {
            true => String::new(),
            false => format!("; so is {}", shown(&others.join(", "))),
        };
        self.line(format_args!("key = [{}]  # unique and never null in these rows{others}", names(key)));
        match guess::version(sample) {
            Some((at, kind)) => {
                let (field, kind) = (quoted(&columns[at].name), version_name(kind));
                self.line(format_args!(
                    "version = {{ field = {field}, type = \"{kind}\" }}  # named like a version, never null"
                ));
            }
            None => {
                let times = columns
                    .iter()
                    .filter(|column| column.kind() == Some(ColumnType::Timestamp) && column.values == *rows);
                let times: Vec<_> = times.map(|column| column.name.as_str()).collect();
                self.line(format_args!(
                    "# No column is named like a version; without one the publisher's sequence orders the rows."
                ));
                if !times.is_empty() {
                    self.line(format_args!("# Times that are never null: {}", shown(&times.join(", "))));
                }
            }
        }
        self.line(format_args!("\n[entity.{}.columns]", bare(entity)));
        for column in columns {
            match column.kind() {
                Some(kind) => self.line(format_args!("{} = \"{kind}\"", bare(&column.name))),
                None => self.line(format_args!(
                    "# {}: only nulls so far; its type is inferred from the first value",
                    shown(&column.name)
                )),
            }
        }
        for guess in guesses {
            self.reference(guess);
        }
    }

    fn reference(&mut self, guess: &Guess) {
        let (sample, parent) = (&self.samples[self.at], &self.samples[guess.parent]);
        let fields: Vec<_> = guess.fields.iter().map(|at| quoted(&sample.columns[*at].name)).collect();
        let Guess { values, missing, .. } = guess;
        let (on_missing, why) = match missing {
            _ if guess.closes_circle => {
                ("apply", "its rows refer back to these, and each would wait for the other".to_owned())
            }
            0 => ("park", format!("all {values} values are keys there")),
            _ if parent.is_cut => {
                ("park", format!("{missing} of {values} values are not among the rows that were looked at there"))
            }
            _ => ("apply", format!("{missing} of {values} values are no keys there, so rows that park would wait")),
        };
        self.line(format_args!("\n# By its name; {why}."));
        self.line(format_args!("[[entity.{}.references]]", bare(&sample.entity)));
        self.line(format_args!("fields = [{}]", fields.join(", ")));
        self.line(format_args!("entity = {}", quoted(&parent.entity)));
        self.line(format_args!("on_missing = \"{on_missing}\""));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("writing to a string cannot fail");
    }
}

fn version_name(kind: VersionType) -> &'static str {
    match kind {
        VersionType::Timestamp => "timestamp",
        VersionType::Integer => "integer",
        VersionType::Decimal => "decimal",
        VersionType::Text => "text",
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    // TOML's basic strings escape as JSON does, and U+007F besides.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// A TOML key: bare where it can be.
fn bare(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(is_bare) { name.to_owned() } else { quoted(name) }
}

/// Text of a stranger in a comment: on one line.
fn shown(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}
