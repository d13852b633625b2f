//! What is filtered where, and what that saves of what was really announced.

use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many, table},
    settings::subscriber::Settings,
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    apply::EntityPlans,
    inbox::{Inbox, TypeTotals},
};

use super::types::{put_aside, say_unseen, unseen};

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

impl Sum {
    fn add(&mut self, files: u64, rows: u64, bytes: u64) {
        self.files += files;
        self.rows += rows;
        self.bytes += bytes;
    }
}

/// The plan, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Plan {
    types: Vec<Type>,
    /// Of types that are not wanted, or put aside.
    saved: Sum,
    fetched: Sum,
    /// Files of types that are wanted now and were not when they came.
    put_aside: u64,
    /// Parts of the configuration that name blobTypes of which no file has come.
    unseen: Vec<String>,
    /// The text of an SQL filter that keeps the messages away, too.
    broker_rule: Option<String>,
}

pub(crate) async fn plan(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let entities = settings.checked_entities()?;
    let plans = EntityPlans::compile(&entities)?;
    let inbox = settings.existing_inbox().await?;
    let totals = inbox.types().await?;
    let unseen = unseen(settings, &entities, &totals);
    let told = say_unseen(&unseen, &totals);
    let aside = put_aside(&inbox, settings, &totals).await?;
    let (mut saved, mut fetched) = (Sum::default(), Sum::default());
    for totals in &totals {
        let aside = aside.get(&totals.blob_type).copied().unwrap_or_default();
        if settings.wants(&totals.blob_type) {
            let less = |all: u64, aside: u64| all.saturating_sub(aside);
            fetched.add(
                less(totals.files, aside.files),
                less(totals.rows, aside.rows),
                less(totals.bytes, aside.bytes),
            );
            saved.add(aside.files, aside.rows, aside.bytes);
        } else {
            saved.add(totals.files, totals.rows, totals.bytes);
        }
    }
    let put_aside = aside.values().map(|of| of.by_type).sum();
    let types: Vec<_> = totals.into_iter().map(|totals| describe(totals, settings, &plans, &entities)).collect();
    let broker_rule = settings.types().map(broker_rule);
    let plan = Plan { types, saved, fetched, put_aside, unseen, broker_rule };
    if common.format == Format::Json {
        json(&plan)?;
    } else {
        show(&plan, told.as_deref())?;
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

fn show(plan: &Plan, told: Option<&str>) -> anyhow::Result<()> {
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
                match totals.skipped {
                    _ if !of.wanted => "skipped".to_owned(),
                    0 => "fetched".to_owned(),
                    all if all == totals.files => "skipped earlier".to_owned(),
                    some => format!("fetched, but for {} skipped earlier", count(some)),
                },
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
    if plan.put_aside > 0 {
        line(format_args!(
            "skipped by an earlier choice of types, and wanted now: {}; `waybill-subscriber retry --skipped` has them worked",
            many(plan.put_aside, "file")
        ))?;
    }
    if let Some(told) = told {
        line(format_args!("\n{told}"))?;
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
