//! The text of an `entities.toml` to [`Entities`]; every error has its line.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    AfterWait, Column, ColumnType, Entities, Entity, EntityError, MaxWait, OnMissing, OnUnwanted, Predicate, Reference,
    SchemaMode, VersionField, VersionType,
};
use crate::quote::quote;

const COLUMN_TYPES: [(&str, ColumnType); 10] = [
    ("integer", ColumnType::Integer),
    ("decimal", ColumnType::Decimal),
    ("float", ColumnType::Float),
    ("boolean", ColumnType::Boolean),
    ("text", ColumnType::Text),
    ("timestamp", ColumnType::Timestamp),
    ("date", ColumnType::Date),
    ("uuid", ColumnType::Uuid),
    ("json", ColumnType::Json),
    ("binary", ColumnType::Binary),
];
const VERSION_TYPES: [(&str, VersionType); 4] = [
    ("timestamp", VersionType::Timestamp),
    ("integer", VersionType::Integer),
    ("decimal", VersionType::Decimal),
    ("text", VersionType::Text),
];
const SCHEMA_MODES: [(&str, SchemaMode); 2] = [("evolve", SchemaMode::Evolve), ("freeze", SchemaMode::Freeze)];
const ON_UNWANTED: [(&str, OnUnwanted); 2] = [("remove", OnUnwanted::Remove), ("drop", OnUnwanted::Drop)];
const ON_MISSING: [(&str, OnMissing); 2] = [("park", OnMissing::Park), ("apply", OnMissing::Apply)];
const AFTER_WAIT: [(&str, AfterWait); 2] = [("apply", AfterWait::Apply), ("quarantine", AfterWait::Quarantine)];
/// Units of `max_wait`, in seconds.
const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
/// The longest `max_wait`: ten years.
const WAIT_DAYS_MAX: u64 = 3_650;

/// Names that the sinks keep for themselves in every table.
const RESERVED_COLUMNS: [&str; 2] = ["_deleted", "_rescued"];
/// Beginnings of names that the sinks and SQLite keep for themselves.
const RESERVED_PREFIXES: [&str; 2] = ["_waybill", "sqlite_"];

/// A problem and the bytes of the text that it is about.
struct Problem {
    at: Range<usize>,
    text: String,
}

type Parsed<T> = Result<T, Problem>;

fn problem<T>(at: Range<usize>, text: impl Into<String>) -> Parsed<T> {
    Err(Problem { at, text: text.into() })
}

pub(super) fn parse(text: &str, file: &str) -> Result<Entities, EntityError> {
    let mut entities = document(text).map_err(|problem| EntityError {
        file: file.to_owned(),
        line: 1 + text.bytes().take(problem.at.start).filter(|byte| *byte == b'\n').count(),
        column: None,
        problem: problem.text,
    })?;
    entities.0.values_mut().filter_map(|entity| entity.filter.as_mut()).for_each(|filter| filter.set_file(file));
    Ok(entities)
}

/// An entity and where its parts stand, for the checks that need all entities.
struct Placed {
    entity: Entity,
    at: Range<usize>,
    table_at: Range<usize>,
    types_at: Vec<Range<usize>>,
    references_at: Vec<Range<usize>>,
}

/// The names of an entity's fields met so far, by their lower case. A field becomes a column of the same name, and
/// SQLite does not tell columns apart by case.
#[derive(Default)]
struct FieldNames(HashMap<String, String>);

impl FieldNames {
    fn add(&mut self, what: &str, name: &str, at: Range<usize>) -> Parsed<()> {
        let lower = name.to_ascii_lowercase();
        if RESERVED_COLUMNS.contains(&lower.as_str()) || reserved_prefix(name).is_some() {
            return problem(at, format!("{what}: {} is a reserved name", quote(name)));
        }
        match self.0.insert(lower, name.to_owned()) {
            Some(other) if other != name => {
                let text = format!(
                    "{what}: {} and {} differ in case only; SQLite takes them for one column",
                    quote(&other),
                    quote(name)
                );
                problem(at, text)
            }
            _ => Ok(()),
        }
    }
}

fn document(text: &str) -> Parsed<Entities> {
    let document = DeTable::parse(text).map_err(|error| Problem {
        at: error.span().unwrap_or_default(),
        text: format!("not TOML: {}", error.message()),
    })?;
    let mut placed = Vec::new();
    for (name, value) in in_order(document.get_ref()) {
        match name.get_ref().as_ref() {
            "entity" => {
                for (name, value) in in_order(table("entity", value)?) {
                    placed.push(entity(text, name, value)?);
                }
            }
            other => return unknown_key(name.span(), other, "the file", &["entity"]),
        }
    }
    placed.sort_by_key(|placed| placed.at.start);
    check_tables(&placed)?;
    check_types(&placed)?;
    check_references(&placed)?;
    Ok(Entities(
        placed.into_iter().map(|placed| (placed.entity.name.clone(), placed.entity)).collect::<BTreeMap<_, _>>(),
    ))
}

fn entity(text: &str, name: &Spanned<Cow<'_, str>>, value: &Spanned<DeValue<'_>>) -> Parsed<Placed> {
    let at = name.span();
    let name = name.get_ref().to_string();
    let what = format!("entity {}", quote(&name));
    if name.is_empty() {
        return problem(at, "an entity needs a name");
    }
    let mut fields = Fields::of(what, at.clone(), value)?;
    fields.known(&["types", "key", "version", "table", "schema", "columns", "references", "where", "on_unwanted"])?;

    let (types, types_at) = match fields.take("types") {
        Some(value) => fields.texts("types", value)?,
        None => (vec![name.clone()], vec![at.clone()]),
    };
    let Some(key) = fields.take("key") else {
        return problem(at, format!("{}: `key` is missing; name the fields of the key", fields.what));
    };
    let mut names = FieldNames::default();
    let (key, key_at) = fields.texts("key", key)?;
    for (name, at) in key.iter().zip(key_at) {
        names.add(&fields.what, name, at)?;
    }
    let version = match fields.take("version") {
        Some(value) => Some(version(&fields.what, value, &mut names)?),
        None => None,
    };
    let (table, table_at) = match fields.take("table") {
        Some(value) => (fields.text("table", value)?, value.span()),
        None => (name.clone(), at.clone()),
    };
    if let Some(prefix) = reserved_prefix(&table) {
        let text = format!("{}: table {} begins with {prefix}, which is reserved", fields.what, quote(&table));
        return problem(table_at, text);
    }
    let schema = match fields.take("schema") {
        Some(value) => fields.choice("schema", value, &SCHEMA_MODES)?,
        None => SchemaMode::default(),
    };
    let columns = match fields.take("columns") {
        Some(value) => columns(&fields.what, value, &mut names)?,
        None => Vec::new(),
    };
    let (references, references_at) = match fields.take("references") {
        Some(value) => references(&fields, value, &mut names)?,
        None => (Vec::new(), Vec::new()),
    };
    let filter = match fields.take("where") {
        Some(value) => Some(Predicate::placed(&fields.text("where", value)?, text, value.span())),
        None => None,
    };
    let on_unwanted = match fields.take("on_unwanted") {
        Some(value) if filter.is_none() => {
            let text = format!("{}: without `where` all rows are wanted; take out `on_unwanted`", fields.what);
            return problem(value.span(), text);
        }
        Some(value) => fields.choice("on_unwanted", value, &ON_UNWANTED)?,
        None => OnUnwanted::default(),
    };
    if version.is_none() && types.len() > 1 {
        let text = format!(
            "{}: without a declared `version` its rows are ordered by their place in one sequence, so it may have one \
             type only; declare `version`, or leave one of {} types",
            fields.what,
            types.len()
        );
        return problem(types_at.get(1).cloned().unwrap_or(at), text);
    }
    let entity = Entity { name, types, key, version, table, schema, columns, references, filter, on_unwanted };
    Ok(Placed { entity, at, table_at, types_at, references_at })
}

fn version(what: &str, value: &Spanned<DeValue<'_>>, names: &mut FieldNames) -> Parsed<VersionField> {
    let mut fields = Fields::of(format!("{what}: `version`"), value.span(), value)?;
    fields.known(&["field", "type"])?;
    let field_value = fields.required("field")?;
    let field = fields.text("field", field_value)?;
    names.add(what, &field, field_value.span())?;
    let kind = fields.required("type").and_then(|value| fields.choice("type", value, &VERSION_TYPES))?;
    Ok(VersionField { field, kind })
}

fn columns(what: &str, value: &Spanned<DeValue<'_>>, names: &mut FieldNames) -> Parsed<Vec<Column>> {
    let mut fields = Fields::of(format!("{what}: `columns`"), value.span(), value)?;
    let mut columns = Vec::new();
    for (name, value) in std::mem::take(&mut fields.values) {
        if name.get_ref().is_empty() {
            return problem(name.span(), format!("{what}: a column needs a name"));
        }
        names.add(what, name.get_ref(), name.span())?;
        let kind = fields.choice(name.get_ref(), value, &COLUMN_TYPES)?;
        columns.push(Column { name: name.get_ref().to_string(), kind });
    }
    Ok(columns)
}

fn references(
    of: &Fields<'_, '_>,
    value: &Spanned<DeValue<'_>>,
    names: &mut FieldNames,
) -> Parsed<(Vec<Reference>, Vec<Range<usize>>)> {
    let DeValue::Array(tables) = value.get_ref() else {
        return problem(value.span(), format!("{}: `references` is no list of tables", of.what));
    };
    let (mut references, mut places) = (Vec::<Reference>::new(), Vec::new());
    for table in tables {
        let mut fields = Fields::of(format!("{}: a reference", of.what), table.span(), table)?;
        fields.known(&["fields", "entity", "on_missing", "max_wait", "then"])?;
        let (own, own_at) = fields.required("fields").and_then(|value| fields.texts("fields", value))?;
        for (name, at) in own.iter().zip(own_at) {
            names.add(&of.what, name, at)?;
        }
        let entity = fields.required("entity")?;
        places.push(entity.span());
        let entity = fields.text("entity", entity)?;
        let on_missing = match fields.take("on_missing") {
            Some(value) => fields.choice("on_missing", value, &ON_MISSING)?,
            None => OnMissing::Park,
        };
        let max_wait = max_wait(&mut fields, on_missing)?;
        let waits = |other: &&Reference| other.entity == entity && other.on_missing == OnMissing::Park;
        // A row that waits is known by its parent, not by the reference.
        if on_missing == OnMissing::Park
            && references.iter().find(waits).is_some_and(|other| other.max_wait != max_wait)
        {
            let text = format!(
                "{}: another reference to {} has another `max_wait` or `then`; give both the same",
                fields.what,
                quote(&entity)
            );
            return problem(fields.at, text);
        }
        references.push(Reference { fields: own, entity, on_missing, max_wait });
    }
    Ok((references, places))
}

fn max_wait(fields: &mut Fields<'_, '_>, on_missing: OnMissing) -> Parsed<Option<MaxWait>> {
    let (wait, then) = (fields.take("max_wait"), fields.take("then"));
    let Some(wait) = wait else {
        return match then {
            Some(then) => problem(then.span(), format!("{}: `then` needs a `max_wait` that it follows", fields.what)),
            None => Ok(None),
        };
    };
    if on_missing == OnMissing::Apply {
        return problem(
            wait.span(),
            format!("{}: with on_missing = \"apply\" no row waits; take out `max_wait`", fields.what),
        );
    }
    let text = fields.text("max_wait", wait)?;
    let Some(after) = duration(&text) else {
        let text = format!(
            "{}: `max_wait` = {} is no time to wait; write a whole number and a unit, such as \"90s\", \"15m\", \"12h\" or \
             \"7d\", at most \"{WAIT_DAYS_MAX}d\"",
            fields.what,
            quote(&text)
        );
        return problem(wait.span(), text);
    };
    let Some(then) = then else {
        let text = format!(
            "{}: `max_wait` does not say what then; add then = \"apply\" (without the parent) or \"quarantine\"",
            fields.what
        );
        return problem(wait.span(), text);
    };
    Ok(Some(MaxWait { after, then: fields.choice("then", then, &AFTER_WAIT)? }))
}

/// `7d`: one second or more.
fn duration(text: &str) -> Option<Duration> {
    let (unit, seconds) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit))?;
    let number = text.strip_suffix(unit)?;
    // A sign is none of a time to wait.
    let number: u64 = number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())??;
    let seconds = number.checked_mul(seconds)?;
    (1..=WAIT_DAYS_MAX * 86_400).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// Two entities in one table would delete each other's rows. Case does not count: it does not in SQLite.
fn check_tables(placed: &[Placed]) -> Parsed<()> {
    let mut taken = HashMap::new();
    for Placed { entity, table_at, .. } in placed {
        if let Some(other) = taken.insert(entity.table.to_ascii_lowercase(), &entity.name) {
            let text = format!(
                "entity {}: table {} is also that of entity {}; give one of them another `table`",
                quote(&entity.name),
                quote(&entity.table),
                quote(other)
            );
            return problem(table_at.clone(), text);
        }
    }
    Ok(())
}

fn check_types(placed: &[Placed]) -> Parsed<()> {
    let mut taken: HashMap<&str, &str> = HashMap::new();
    for Placed { entity, types_at, .. } in placed {
        for (name, at) in entity.types.iter().zip(types_at) {
            if name.contains('*') {
                let text = format!(
                    "entity {}: type {}: a star stands for nothing here; name each blobType whose rows are this entity",
                    quote(&entity.name),
                    quote(name)
                );
                return problem(at.clone(), text);
            }
            if let Some(other) = taken.insert(name, &entity.name) {
                let text = format!(
                    "entity {}: type {} already belongs to entity {}; the rows of a type are one entity's",
                    quote(&entity.name),
                    quote(name),
                    quote(other)
                );
                return problem(at.clone(), text);
            }
        }
    }
    Ok(())
}

fn check_references(placed: &[Placed]) -> Parsed<()> {
    let by_name: HashMap<&str, &Entity> =
        placed.iter().map(|placed| (placed.entity.name.as_str(), &placed.entity)).collect();
    for Placed { entity, references_at, .. } in placed {
        for (reference, at) in entity.references.iter().zip(references_at) {
            let what = format!("entity {}: reference to {}", quote(&entity.name), quote(&reference.entity));
            let Some(parent) = by_name.get(reference.entity.as_str()) else {
                return problem(at.clone(), format!("{what}: no such entity; define it, or correct the name"));
            };
            if reference.fields.len() != parent.key.len() {
                let text = format!(
                    "{what}: {} fields for a key of {} ({}); name one for each, in the key's order",
                    reference.fields.len(),
                    parent.key.len(),
                    parent.key.join(", ")
                );
                return problem(at.clone(), text);
            }
            for (own, theirs) in reference.fields.iter().zip(&parent.key) {
                // Keys are compared in the canonical form of their type: two types would never meet.
                if let (Some(own_kind), Some(their_kind)) = (entity.column(own), parent.column(theirs))
                    && own_kind != their_kind
                {
                    let text = format!(
                        "{what}: {} is declared as {own_kind}, {} as {their_kind}; declare both alike",
                        quote(own),
                        quote(theirs)
                    );
                    return problem(at.clone(), text);
                }
            }
        }
    }
    Ok(())
}

/// A TOML table being read: what it is, for errors, and the keys not taken yet, in the order of the file.
struct Fields<'a, 'i> {
    what: String,
    at: Range<usize>,
    values: Vec<Field<'a, 'i>>,
}

type Field<'a, 'i> = (&'a Spanned<Cow<'i, str>>, &'a Spanned<DeValue<'i>>);

impl<'a, 'i> Fields<'a, 'i> {
    fn of(what: String, at: Range<usize>, value: &'a Spanned<DeValue<'i>>) -> Parsed<Self> {
        let values = in_order(table(&what, value)?);
        Ok(Self { what, at, values })
    }

    /// Refuses every key that is not in `names`.
    fn known(&self, names: &[&str]) -> Parsed<()> {
        match self.values.iter().find(|(key, _)| !names.contains(&key.get_ref().as_ref())) {
            Some((key, _)) => unknown_key(key.span(), key.get_ref(), &self.what, names),
            None => Ok(()),
        }
    }

    fn take(&mut self, name: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        let at = self.values.iter().position(|(key, _)| key.get_ref() == name)?;
        Some(self.values.remove(at).1)
    }

    fn required(&mut self, name: &str) -> Parsed<&'a Spanned<DeValue<'i>>> {
        match self.take(name) {
            Some(value) => Ok(value),
            None => problem(self.at.clone(), format!("{}: `{name}` is missing", self.what)),
        }
    }

    fn text(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Parsed<String> {
        match value.get_ref().as_str() {
            Some("") => problem(value.span(), format!("{}: `{name}` is empty", self.what)),
            Some(text) => Ok(text.to_owned()),
            None => {
                let kind = value.get_ref().type_str();
                problem(value.span(), format!("{}: `{name}` is of type {kind}, not text", self.what))
            }
        }
    }

    /// A list of one or more different texts, and where each of them stands.
    fn texts(&self, name: &str, value: &Spanned<DeValue<'_>>) -> Parsed<(Vec<String>, Vec<Range<usize>>)> {
        let DeValue::Array(members) = value.get_ref() else {
            return problem(value.span(), format!("{}: `{name}` is no list", self.what));
        };
        if members.is_empty() {
            return problem(value.span(), format!("{}: `{name}` is empty; name at least one", self.what));
        }
        let (mut texts, mut places) = (Vec::new(), Vec::new());
        for member in members {
            let text = self.text(name, member)?;
            if texts.contains(&text) {
                return problem(member.span(), format!("{}: `{name}` names {} twice", self.what, quote(&text)));
            }
            texts.push(text);
            places.push(member.span());
        }
        Ok((texts, places))
    }

    fn choice<T: Copy>(&self, name: &str, value: &Spanned<DeValue<'_>>, choices: &[(&str, T)]) -> Parsed<T> {
        let text = self.text(name, value)?;
        match choices.iter().find(|(choice, _)| *choice == text) {
            Some((_, choice)) => Ok(*choice),
            None => {
                let choices = choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", ");
                let text = format!("{}: {} = {} is none of {choices}", self.what, quote(name), quote(&text));
                problem(value.span(), text)
            }
        }
    }
}

fn table<'a, 'i>(what: &str, value: &'a Spanned<DeValue<'i>>) -> Parsed<&'a DeTable<'i>> {
    match value.get_ref().as_table() {
        Some(table) => Ok(table),
        None => problem(value.span(), format!("{what} is of type {}, not a table", value.get_ref().type_str())),
    }
}

/// The fields of a table in the order of the file; `toml` sorts them by name.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<Field<'a, 'i>> {
    let mut fields: Vec<_> = table.iter().collect();
    fields.sort_by_key(|(name, _)| name.span().start);
    fields
}

fn unknown_key<T>(at: Range<usize>, key: &str, what: &str, known: &[&str]) -> Parsed<T> {
    problem(at, format!("{what}: unknown key {}; known are {}", quote(key), known.join(", ")))
}

fn reserved_prefix(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    RESERVED_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix))
}

impl ColumnType {
    pub(super) fn name(self) -> &'static str {
        COLUMN_TYPES.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}
