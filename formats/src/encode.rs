//! Rows to text of one layout. What cannot be written is refused, and leaves nothing behind.

use std::borrow::Cow;

use crate::{
    Field, Row,
    csv::{self, Columns},
    find,
    json::{self, Checker},
    row::Fields,
    writer::WriterOptions,
    xml::write::{self as xml, Style},
};

/// Levels in a row, as readers accept them by default.
const NESTING_MAX: usize = 128;
/// Fields up to which names are compared with each other.
const FEW: usize = 32;

#[derive(Debug)]
pub(crate) struct Encoder {
    layout: Layout,
    /// What was written and not taken yet.
    pub(crate) text: Vec<u8>,
    checker: Checker,
    /// Whether a row was written.
    has_rows: bool,
    /// For each column the row's field, or the fields sorted by name. Kept, so that a row allocates nothing.
    places: Vec<Option<usize>>,
    /// For each field of the last JSON row its name, and how it is written, with its colon. No two are the same.
    names: Vec<(String, Vec<u8>)>,
}

#[derive(Debug)]
enum Layout {
    JsonLines,
    Json,
    Csv(Columns),
    Xml {
        root: Option<String>,
        row: String,
    },
    /// The columns or names cannot be used, because of this.
    Refused(String),
    Raw,
}

/// What a second field of the same name is.
#[derive(Clone, Copy)]
enum Repeated {
    Refuse,
    PassOver,
}

impl Encoder {
    /// Begins a file: what comes before its rows is written.
    pub(crate) fn new(options: WriterOptions) -> Self {
        let mut text = Vec::new();
        let layout = match options {
            WriterOptions::JsonLines => Layout::JsonLines,
            WriterOptions::Json => {
                text.push(b'[');
                Layout::Json
            }
            WriterOptions::Xml { root, row } => {
                match xml::check_name(&row).and_then(|()| xml::begin(&root, &mut text)) {
                    Ok(()) => Layout::Xml { root: Some(root), row },
                    Err(problem) => Layout::Refused(problem),
                }
            }
            WriterOptions::XmlLines { row } => match xml::check_name(&row) {
                Ok(()) => Layout::Xml { root: None, row },
                Err(problem) => Layout::Refused(problem),
            },
            WriterOptions::Raw => Layout::Raw,
            WriterOptions::Csv { columns } => {
                csv::write_header(&columns, &mut text);
                Columns::new(columns).map_or_else(Layout::Refused, Layout::Csv)
            }
        };
        // One level is the row's own.
        let checker = Checker::new(NESTING_MAX - 1, usize::MAX);
        Self { layout, text, checker, has_rows: false, places: Vec::new(), names: Vec::new() }
    }

    /// Ends the file.
    pub(crate) fn end(&mut self) {
        match &self.layout {
            Layout::Json => self.text.extend_from_slice(b"\n]\n"),
            Layout::Xml { root: Some(root), .. } => xml::end(root, &mut self.text),
            _ => {}
        }
    }

    pub(crate) fn is_raw(&self) -> bool {
        matches!(self.layout, Layout::Raw)
    }

    /// Appends a row with its line end.
    pub(crate) fn row(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), String> {
        self.line(|encoder| encoder.fields(fields))
    }

    /// Appends a row that was read.
    pub(crate) fn copy(&mut self, row: &Row<'_>) -> Result<(), String> {
        self.line(|encoder| encoder.read_row(row))
    }

    fn line(&mut self, write: impl FnOnce(&mut Self) -> Result<(), String>) -> Result<(), String> {
        let begin = self.text.len();
        let is_array = matches!(self.layout, Layout::Json);
        if is_array {
            self.text.extend_from_slice(if self.has_rows { b",\n" } else { b"\n" });
        }
        let written = write(self);
        match written {
            Ok(()) => {
                self.has_rows = true;
                if !is_array {
                    self.text.push(b'\n');
                }
            }
            Err(_) => self.text.truncate(begin),
        }
        written
    }

    fn fields(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), String> {
        match &self.layout {
            Layout::JsonLines | Layout::Json => {
                // Rows mostly have the fields of the row before.
                let is_alike = fields.len() == self.names.len()
                    && fields.iter().zip(&self.names).all(|((name, _), (known, _))| name == known);
                if !is_alike {
                    refuse_repeated(fields, &mut self.places)?;
                    remember(fields, &mut self.names);
                }
                let mut separator = b'{';
                for ((name, field), (_, written)) in fields.iter().zip(&self.names) {
                    if *field == Field::Missing {
                        continue;
                    }
                    self.text.push(separator);
                    separator = b',';
                    self.text.extend_from_slice(written);
                    write_json(name, field, &mut self.checker, &mut self.text)?;
                }
                self.text.extend_from_slice(if separator == b'{' { b"{}" } else { b"}" });
                Ok(())
            }
            Layout::Csv(columns) => {
                let present =
                    fields.iter().map(|(name, field)| (*field != Field::Missing).then_some(Cow::Borrowed(*name)));
                place(present, Repeated::Refuse, columns, &mut self.places)?;
                let field = |index: usize| fields[index].1.clone();
                write_cells(&self.places, field, columns, &mut self.checker, &mut self.text)
            }
            Layout::Xml { root, row } => {
                refuse_repeated(fields, &mut self.places)?;
                for (name, field) in fields {
                    match field {
                        Field::Nested(raw) => check_nested(name, raw, &mut self.checker)?,
                        Field::Number(number) => check_number(name, number)?,
                        _ => {}
                    }
                }
                let style = if root.is_some() { Style::Document } else { Style::Lines };
                xml::row(row, fields, style, &mut self.text)
            }
            Layout::Refused(problem) => Err(format!("this file's columns or names cannot be used: {problem}")),
            Layout::Raw => Err("this file takes raw bytes, not rows".to_owned()),
        }
    }

    fn read_row(&mut self, row: &Row<'_>) -> Result<(), String> {
        let text = row.text();
        match (&self.layout, row.fields()) {
            (Layout::JsonLines | Layout::Json, Fields::Json(_)) => {
                self.text.extend_from_slice(json::one_line(row.raw_text()).as_bytes());
                Ok(())
            }
            (Layout::JsonLines | Layout::Json, Fields::Xml(fields)) => {
                fields.write_json(&mut self.text);
                Ok(())
            }
            (Layout::Xml { .. }, _) | (Layout::Csv(_), Fields::Xml(_)) => {
                let mut fields = Vec::new();
                row.for_each(&mut |name, value| fields.push((name, value)));
                let fields: Vec<(&str, Field<'_>)> =
                    fields.iter().map(|(name, value)| (&**name, value.clone())).collect();
                self.fields(&fields)
            }
            (Layout::JsonLines | Layout::Json, Fields::Csv { columns, start, ends }) => {
                csv::write_json(text, columns, start, ends, &mut self.text);
                Ok(())
            }
            (Layout::Csv(columns), Fields::Json(spans)) => {
                let names = spans.iter().map(|span| Some(span.name(text)));
                place(names, Repeated::PassOver, columns, &mut self.places)?;
                let field = |index: usize| spans[index].value(text);
                write_cells(&self.places, field, columns, &mut self.checker, &mut self.text)
            }
            (Layout::Csv(columns), Fields::Csv { columns: from, start, ends }) => {
                let names = from.names().map(|name| Some(Cow::Borrowed(name)));
                place(names, Repeated::Refuse, columns, &mut self.places)?;
                let field = |index: usize| csv::cell(text, start, ends, index);
                write_cells(&self.places, field, columns, &mut self.checker, &mut self.text)
            }
            (Layout::Refused(problem), _) => Err(format!("this file's columns or names cannot be used: {problem}")),
            (Layout::Raw, _) => Err("this file takes raw bytes, not rows".to_owned()),
        }
    }
}

/// Finds each column's field; `None` is a field that the row does not have.
fn place<'n>(
    names: impl Iterator<Item = Option<Cow<'n, str>>>,
    repeated: Repeated,
    columns: &Columns,
    places: &mut Vec<Option<usize>>,
) -> Result<(), String> {
    places.clear();
    places.resize(columns.len(), None);
    let mut hint = 0;
    for (index, name) in names.enumerate() {
        let Some(name) = name else { continue };
        let Some(column) = columns.position(&name, hint) else {
            return Err(format!(
                "field {name:?} is no column of this file; CSV has the columns that it begins with, JSON Lines takes any"
            ));
        };
        hint = column + 1;
        match (places[column], repeated) {
            (None, _) => places[column] = Some(index),
            (Some(_), Repeated::PassOver) => {}
            (Some(_), Repeated::Refuse) => return Err(repeats(&name)),
        }
    }
    Ok(())
}

fn write_cells<'f>(
    places: &[Option<usize>],
    field: impl Fn(usize) -> Field<'f>,
    columns: &Columns,
    checker: &mut Checker,
    into: &mut Vec<u8>,
) -> Result<(), String> {
    for (column, (place, name)) in places.iter().zip(columns.names()).enumerate() {
        if column > 0 {
            into.push(csv::COMMA);
        }
        match place.map_or(Field::Null, &field) {
            Field::Missing | Field::Null => {}
            Field::Bool(value) => into.extend_from_slice(if value { b"true" } else { b"false" }),
            Field::Number(number) => write_number(name, number, into)?,
            Field::Text(text) => csv::write_text(&text, into),
            // CSV cannot nest: it holds the JSON as text.
            Field::Nested(raw) => {
                check_nested(name, &raw, checker)?;
                csv::write_text(&json::one_line(&String::from_utf8_lossy(&raw)), into);
            }
        }
    }
    Ok(())
}

fn write_json(name: &str, field: &Field<'_>, checker: &mut Checker, into: &mut Vec<u8>) -> Result<(), String> {
    match field {
        Field::Missing | Field::Null => into.extend_from_slice(b"null"),
        Field::Bool(value) => into.extend_from_slice(if *value { b"true" } else { b"false" }),
        Field::Number(number) => write_number(name, number, into)?,
        Field::Text(text) => json::write_text(text, into),
        Field::Nested(raw) => {
            check_nested(name, raw, checker)?;
            // In checked JSON a line break is only ever space between tokens; it would end the row.
            let begin = into.len();
            into.extend_from_slice(raw);
            if memchr::memchr2(b'\r', b'\n', raw).is_some() {
                into[begin..].iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
            }
        }
    }
    Ok(())
}

fn check_nested(name: &str, raw: &[u8], checker: &mut Checker) -> Result<(), String> {
    if find::not_utf8(raw).is_some() {
        return Err(format!("the nested value of field {name:?} is not UTF-8"));
    }
    checker
        .nested(raw)
        .map_err(|problem| format!("the nested value of field {name:?}: {} at byte {}", problem.what, problem.at))
}

fn check_number(name: &str, number: &str) -> Result<(), String> {
    if json::is_number(number) {
        Ok(())
    } else {
        Err(format!("the number of field {name:?} is not written as JSON has it"))
    }
}

fn write_number(name: &str, number: &str, into: &mut Vec<u8>) -> Result<(), String> {
    check_number(name, number)?;
    into.extend_from_slice(number.as_bytes());
    Ok(())
}

/// Keeps the names for the next row.
fn remember(fields: &[(&str, Field<'_>)], names: &mut Vec<(String, Vec<u8>)>) {
    names.resize_with(fields.len(), Default::default);
    for ((name, _), (known, written)) in fields.iter().zip(names) {
        known.clear();
        known.push_str(name);
        written.clear();
        json::write_text(name, written);
        written.push(b':');
    }
}

fn refuse_repeated(fields: &[(&str, Field<'_>)], places: &mut Vec<Option<usize>>) -> Result<(), String> {
    let name = |index: usize| fields[index].0;
    if fields.len() <= FEW {
        for (index, (name, _)) in fields.iter().enumerate() {
            if fields[..index].iter().any(|(before, _)| before == name) {
                return Err(repeats(name));
            }
        }
        return Ok(());
    }
    places.clear();
    places.extend((0..fields.len()).map(Some));
    places.sort_unstable_by_key(|place| place.map(name));
    for pair in places.windows(2) {
        if let [Some(one), Some(other)] = *pair
            && name(one) == name(other)
        {
            return Err(repeats(name(one)));
        }
    }
    Ok(())
}

fn repeats(name: &str) -> String {
    format!("field {name:?} is there twice")
}
