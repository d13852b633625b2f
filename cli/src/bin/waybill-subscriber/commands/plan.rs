//! What is filtered where, and what that saves of what was really announced.

use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many, table},
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    apply::EntityPlans,
    inbox::{Inbox, TypeTotals},
};

use crate::settings::Settings;

/// A type and what becomes of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Type {
    #[serde(flatten)]
    totals: TypeTotals,
    /// Whether its files are fetched.
    wanted: bool,
    entity: Option<String>,
    /// Which of its rows are wanted.
    filter: Option<String>,
}

/// Files that are not fetched.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Sum {
    files: u64,
    rows: u64,
    bytes: u64,
}

/// The plan, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    types: Vec<Type>,
    /// Of types that are not wanted.
    saved: Sum,
    fetched: Sum,
    /// The text of an SQL filter that keeps the messages away, too.
    broker_rule: Option<String>,
}

pub(crate) async fn plan(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let entities = settings.read_entities()?;
    let plans = EntityPlans::compile(&entities)?;
    entities.check_types(settings.types())?;
    let totals = settings.existing_inbox().await?.types().await?;
    let types: Vec<_> = totals.into_iter().map(|totals| describe(totals, settings, &plans, &entities)).collect();
    let sum = |wanted: bool| {
        types.iter().filter(|of| of.wanted == wanted).fold(Sum::default(), |sum, Type { totals, .. }| Sum {
            files: sum.files + totals.files,
            rows: sum.rows + totals.rows,
            bytes: sum.bytes + totals.bytes,
        })
    };
    let (saved, fetched) = (sum(false), sum(true));
    let plan = Plan { types, saved, fetched, broker_rule: settings.types().map(broker_rule) };
    if common.format == Format::Json {
        json(&plan)?;
    } else {
        show(&plan)?;
    }
    Ok(Outcome::Done)
}

fn describe(totals: TypeTotals, settings: &Settings, plans: &EntityPlans, entities: &Entities) -> Type {
    let name = &totals.blob_type;
    let wanted = settings.wants(name);
    let entity = plans.for_type(name);
    let filter = match entity {
        Some(entity) => entity.filter().map(|filter| filter.text().to_owned()),
        None => settings.filters().get(name).cloned(),
    };
    let entity = entities.for_type(name).map(|entity| entity.name.clone());
    Type { wanted, entity, filter, totals }
}

fn show(plan: &Plan) -> anyhow::Result<()> {
    if plan.types.is_empty() {
        return line(format_args!("the inbox is empty: nothing was announced yet"));
    }
    table(
        &["TYPE", "FILES", "ROWS", "BYTES", "FILES ARE", "ENTITY", "ROWS WANTED", "LEFT OUT SO FAR"],
        plan.types.iter().map(|of| {
            let totals = &of.totals;
            vec![
                totals.blob_type.clone(),
                count(totals.files),
                count(totals.rows),
                if totals.files_with_bytes == totals.files {
                    count(totals.bytes)
                } else {
                    format!("{} of {}", count(totals.bytes), many(totals.files_with_bytes, "file"))
                },
                if of.wanted { "fetched" } else { "skipped" }.to_owned(),
                of.entity.clone().unwrap_or_else(|| "-".to_owned()),
                match &of.filter {
                    _ if !of.wanted => "-".to_owned(),
                    Some(filter) => filter.clone(),
                    None => "all".to_owned(),
                },
                match &of.filter {
                    Some(_) if of.wanted => count(totals.filtered_rows),
                    _ => "-".to_owned(),
                },
            ]
        }),
    )?;
    for (what, sum) in [("\nfetched", &plan.fetched), ("skipped, before anything is downloaded", &plan.saved)] {
        let (files, rows) = (many(sum.files, "file"), many(sum.rows, "row"));
        line(format_args!("{what}: {files}, {rows}, {} bytes", count(sum.bytes)))?;
    }
    if plan.types.iter().any(|of| of.wanted && of.filter.is_some()) {
        line(format_args!("a filter of rows reads whole files: it saves rows in the sink, no download"))?;
    }
    match &plan.broker_rule {
        Some(rule) => line(format_args!(
            "\nthe same as a rule of the subscription (an SQL filter; it spares messages, it does not guard them):\n{rule}"
        )),
        None => line(format_args!("\nall types are wanted; name some in `types` to skip the others")),
    }
}

/// An SQL filter of Service Bus on the application property `blobType`. Source: Microsoft, "Subscription Rule SQL Filter
/// Syntax": texts in single quotes, LIKE with `%`, `_` and ESCAPE.
fn broker_rule(types: &[String]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let (patterns, names): (Vec<&String>, Vec<&String>) = types.iter().partition(|name| name.contains('*'));
    let mut parts = Vec::new();
    if !names.is_empty() {
        let names: Vec<_> = names.into_iter().map(|name| quoted(name)).collect();
        parts.push(format!("blobType IN ({})", names.join(", ")));
    }
    for pattern in patterns {
        let escaped = pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        let escape = if escaped == *pattern { "" } else { " ESCAPE '\\'" };
        parts.push(format!("blobType LIKE {}{escape}", quoted(&escaped.replace('*', "%"))));
    }
    if parts.is_empty() { "1 = 0".to_owned() } else { parts.join(" OR ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_become_an_sql_filter() {
        let rule = |types: &[&str]| broker_rule(&types.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
        assert_eq!(rule(&["A", "O'Neill"]), "blobType IN ('A', 'O''Neill')");
        assert_eq!(rule(&["Gateway.*"]), "blobType LIKE 'Gateway.%'");
        assert_eq!(rule(&["A", "*_x%"]), "blobType IN ('A') OR blobType LIKE '%\\_x\\%' ESCAPE '\\'");
        assert_eq!(rule(&[]), "1 = 0");
    }
}
