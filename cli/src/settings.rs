//! Settings: one TOML file with a section per program, then the environment, then flags.
//!
//! A key of the section `[subscriber]` such as `tenant.url` is also `WAYBILL_SUBSCRIBER__TENANT__URL`. Unknown keys are
//! refused, in the file with their line, in the environment with the variable's name. `subscriber` and `publisher` are what the
//! sections of these names say; more than one program reads them.

mod entra;
pub mod publisher;
pub mod subscriber;
pub mod tenant;

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value, de::DeTable};
use url::form_urlencoded;
use waybill_contracts::Predicate;

/// The file that is read when `--config` names none.
pub const DEFAULT_FILE: &str = "waybill.toml";

/// What the file may hold: a section for each program, some of which read those of others.
const SECTIONS: [&str; 3] = ["subscriber", "publisher", "republish"];

/// Reads `[section]` of the settings file, then overlays the environment.
///
/// # Errors
/// Says the file and line, or the variable, and what is wrong with it.
pub fn load<T>(
    section: &str,
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<T>
where
    T: Default + Serialize + DeserializeOwned,
{
    let settings = match read(file)? {
        Some((file, text)) => from_file(section, file, &text)?,
        None => T::default(),
    };
    overlay(section, settings, environment)
}

/// The predicates of a table of `[section]` in the settings file, each with its place there; with a `key`, that one of each
/// table in it.
///
/// # Errors
/// When the file cannot be read.
pub fn predicates(
    section: &str,
    table: &str,
    key: Option<&str>,
    file: Option<&Path>,
) -> anyhow::Result<BTreeMap<String, Predicate>> {
    let Some((file, text)) = read(file)? else { return Ok(BTreeMap::new()) };
    let Ok(document) = DeTable::parse(&text) else { return Ok(BTreeMap::new()) };
    let section = document.get_ref().get(section).and_then(|section| section.get_ref().as_table());
    let table = section.and_then(|section| section.get(table)?.get_ref().as_table());
    let placed = table.into_iter().flatten().filter_map(|(name, value)| {
        let value = match key {
            Some(key) => value.get_ref().as_table()?.get(key)?,
            None => value,
        };
        let predicate = value.get_ref().as_str()?;
        let placed = Predicate::in_document(predicate, &file.display().to_string(), &text, value.span());
        Some((name.get_ref().to_string(), placed))
    });
    Ok(placed.collect())
}

/// The settings file and its text.
fn read(file: Option<&Path>) -> anyhow::Result<Option<(&Path, String)>> {
    let given = file.unwrap_or(Path::new(DEFAULT_FILE));
    match std::fs::read_to_string(given) {
        Ok(text) => Ok(Some((given, text))),
        Err(error) if file.is_none() && error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", given.display())),
    }
}

fn from_file<T: Default + DeserializeOwned>(section: &str, file: &Path, text: &str) -> anyhow::Result<T> {
    let at = |error: &toml::de::Error| match error.span() {
        Some(span) => {
            let line = text.bytes().take(span.start).filter(|byte| *byte == b'\n').count() + 1;
            format!("{}:{line}: {}", file.display(), error.message())
        }
        None => format!("{}: {}", file.display(), error.message()),
    };
    let whole = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(error) => bail!("{}", at(&error)),
    };
    let mut ours = None;
    for (name, value) in whole {
        let line = text.bytes().take(name.span().start).filter(|byte| *byte == b'\n').count() + 1;
        if !SECTIONS.contains(&name.get_ref().as_ref()) {
            bail!(
                "{}:{line}: unknown section or key {:?}; known sections are [{}]",
                file.display(),
                name.get_ref(),
                SECTIONS.join("], [")
            );
        }
        if name.get_ref() == section {
            ours = Some(value);
        }
    }
    match ours {
        None => Ok(T::default()),
        Some(value) => {
            T::deserialize(toml::de::ValueDeserializer::from(value)).map_err(|error| anyhow::anyhow!("{}", at(&error)))
        }
    }
}

fn overlay<T: Serialize + DeserializeOwned>(
    section: &str,
    settings: T,
    environment: impl Iterator<Item = (String, String)>,
) -> anyhow::Result<T> {
    let prefix = format!("WAYBILL_{}__", section.to_ascii_uppercase());
    let mut settings = settings;
    for (variable, text) in environment {
        let Some(rest) = variable.strip_prefix(&prefix) else { continue };
        let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        let base = Table::try_from(&settings).context("settings cannot be written as TOML")?;
        // Whether "5" is a text or a number is the key's business: the first reading that fits is taken.
        let mut first_error = None;
        let taken = readings(&text).into_iter().find_map(|value| {
            let mut table = base.clone();
            set(&mut table, &path, value)?;
            match table.try_into::<T>() {
                Ok(read) => Some(read),
                Err(error) => {
                    first_error.get_or_insert(error);
                    None
                }
            }
        });
        match (taken, first_error) {
            (Some(read), _) => settings = read,
            (None, Some(error)) => bail!("environment variable {variable}: {}", error.message()),
            (None, None) => bail!("environment variable {variable}: no such setting"),
        }
    }
    Ok(settings)
}

fn readings(text: &str) -> Vec<Value> {
    let mut readings = vec![Value::String(text.to_owned())];
    if let Ok(mut table) = toml::from_str::<Table>(&format!("value = {text}"))
        && let Some(value) = table.remove("value")
    {
        readings.push(value);
    }
    readings.push(Value::Array(text.split(',').map(|part| Value::String(part.trim().to_owned())).collect()));
    readings
}

fn set(table: &mut Table, path: &[String], value: Value) -> Option<()> {
    let (last, parents) = path.split_last()?;
    let mut at = table;
    for name in parents {
        at = at.entry(name.clone()).or_insert_with(|| Value::Table(Table::new())).as_table_mut()?;
    }
    at.insert(last.clone(), value);
    Some(())
}

/// A secret among settings: text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl Hidden {
    /// The text itself.
    #[must_use]
    pub fn show(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A secret given directly (in the environment) or as the path of a file that holds it.
///
/// # Errors
/// When both are given, or the file cannot be read or is empty.
pub fn secret(what: &str, direct: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<String>> {
    match (direct, file) {
        (Some(_), Some(_)) => bail!("{what}: give it directly or as a file, not both"),
        (Some(text), None) => Ok(Some(text.to_owned())),
        (None, Some(file)) => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("{what}: cannot read {}", file.display()))?;
            let text = text.trim_end_matches(['\r', '\n']);
            if text.is_empty() {
                bail!("{what}: {} is empty", file.display());
            }
            Ok(Some(text.to_owned()))
        }
        (None, None) => Ok(None),
    }
}

/// Refuses a password in a flag's address: a command line is read by everybody on the machine.
///
/// # Errors
/// Names the environment variable to use instead.
pub fn refuse_password(flag: &str, variable: &str, address: &str) -> anyhow::Result<()> {
    // As PostgreSQL's clients read it: an address with several hosts and their ports is none by the standard of URLs.
    let Some((_, rest)) = address.split_once("://") else { return Ok(()) };
    let user = rest.split_once('@').map_or("", |(user, _)| user);
    let query = rest.split_once('?').map_or("", |(_, query)| query);
    if user.contains(':') || form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "password") {
        bail!("{flag} may hold no password, which others on this machine could read; give the address in {variable}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        sink: Option<String>,
        files: u32,
        types: Option<Vec<String>>,
        tenant: Tenant,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Tenant {
        url: Option<String>,
        bearer: Option<String>,
    }

    fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>().into_iter()
    }

    fn read(text: &str, pairs: &[(&str, &str)]) -> anyhow::Result<Example> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load("subscriber", Some(file.path()), env(pairs))
    }

    #[test]
    fn the_environment_wins_over_the_file_and_takes_the_keys_type() {
        let settings = read(
            "[subscriber]\nsink = \"dir:a\"\nfiles = 2\n[publisher]\nanything = 1\n",
            &[
                ("WAYBILL_SUBSCRIBER__FILES", "7"),
                ("WAYBILL_SUBSCRIBER__TENANT__BEARER", "12345"),
                ("WAYBILL_SUBSCRIBER__TYPES", "Item, Price"),
                ("WAYBILL_PUBLISHER__FILES", "9"),
            ],
        )
        .unwrap();
        assert_eq!(settings.sink.as_deref(), Some("dir:a"));
        assert_eq!(settings.files, 7);
        assert_eq!(settings.tenant.bearer.as_deref(), Some("12345"), "a secret of digits stays text");
        assert_eq!(settings.types.unwrap(), ["Item", "Price"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_or_variable() {
        let error = read("[subscriber]\nfiles = 2\nsinks = \"dir:a\"\n", &[]).unwrap_err().to_string();
        assert!(error.contains(":3: unknown field `sinks`"), "{error}");
        let error = read("[subscribe]\n", &[]).unwrap_err().to_string();
        assert!(error.contains(":1: unknown section or key \"subscribe\""), "{error}");
        let error = read("", &[("WAYBILL_SUBSCRIBER__TENANT__URI", "x")]).unwrap_err().to_string();
        assert!(error.contains("WAYBILL_SUBSCRIBER__TENANT__URI: unknown field `uri`"), "{error}");
        let error = read("", &[("WAYBILL_SUBSCRIBER__FILES", "many")]).unwrap_err().to_string();
        assert!(error.contains("WAYBILL_SUBSCRIBER__FILES: invalid type"), "{error}");
    }

    #[test]
    fn a_syntax_error_points_at_its_line() {
        let error = read("[subscriber]\nfiles = = 2\n", &[]).unwrap_err().to_string();
        assert!(error.contains(":2: "), "{error}");
    }
}
