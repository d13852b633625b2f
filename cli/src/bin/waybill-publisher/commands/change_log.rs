//! Commands about the change log itself.

use anyhow::bail;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, in_one_line, instant, json, line, many, table},
    settings::publisher::Settings,
};
use waybill_contracts::BlobType;
use waybill_publisher::{
    change_log::{ChangeFilter, Holder, LogStatus},
    outbox::Outbox,
};

/// Makes the log, and says how to write it.
pub(crate) async fn init(settings: &Settings) -> anyhow::Result<Outcome> {
    let Some(log) = settings.made_change_log().await? else {
        line(format_args!("next: fill it in, then `waybill-publisher publish --type TYPE FILE…`"))?;
        return Ok(Outcome::Done);
    };
    let table = settings.change_log_table();
    line(format_args!("the change log is {}", log.shown()))?;
    line(format_args!(
        "next: log each change in the transaction that makes it, after the row itself is written:\n\n    \
         INSERT INTO {table} (blob_type, op, row) VALUES ('ItemChanges', 'upsert', '{{\"id\":1,\"price\":19.90}}');\n"
    ))?;
    if let Some(schema) = settings.change_log_schema() {
        line(format_args!(
            "the service's role may write it after\n\n    GRANT USAGE ON SCHEMA {schema} TO ROLE;\n    \
             GRANT INSERT (blob_type, op, row, key, occurred_at, correlation_id, causation_id, traceparent)\n        \
             ON {table} TO ROLE;\n"
        ))?;
    }
    line(format_args!("then `waybill-publisher run` publishes what is committed"))?;
    Ok(Outcome::Done)
}

/// Triggers for a table.
pub(crate) async fn triggers(
    settings: &Settings,
    table: &str,
    blob_type: &str,
    key: &[String],
) -> anyhow::Result<Outcome> {
    let sql = settings.needed_change_log().await?.triggers(table, &BlobType::new(blob_type)?, key).await?;
    line(format_args!("{}", sql.trim_end()))?;
    Ok(Outcome::Done)
}

/// Changes that no file can hold.
pub(crate) async fn refused(common: &Common, settings: &Settings, limit: u32) -> anyhow::Result<Outcome> {
    let refused = settings.needed_change_log().await?.refused(limit).await?;
    if common.format == Format::Json {
        json(&refused)?;
        return Ok(Outcome::Done);
    }
    table(
        &["ID", "TYPE", "KEY", "FOUND", "PROBLEM"],
        refused.into_iter().map(|change| {
            let key = change.key.unwrap_or_default();
            vec![
                change.id.to_string(),
                cut(&change.blob_type, 40),
                cut(&key, 40),
                instant(change.at),
                cut(&change.problem, 100),
            ]
        }),
    )?;
    Ok(Outcome::Done)
}

/// Changes of the log, for whoever looks for one.
pub(crate) async fn changes(common: &Common, settings: &Settings, filter: &ChangeFilter) -> anyhow::Result<Outcome> {
    let changes = settings.needed_change_log().await?.changes(filter).await?;
    if common.format == Format::Json {
        json(&changes)?;
        return Ok(Outcome::Done);
    }
    let next = changes.last().filter(|_| changes.len() == filter.most as usize).map(|change| change.id);
    table(
        &["ID", "TYPE", "OP", "KEY", "LOGGED", "CORRELATION", "EXPORT", "ROW"],
        changes.into_iter().map(|change| {
            let refused = change.refused.map(|problem| format!("refused: {problem}"));
            let export = refused.or(change.export_id).unwrap_or_else(|| "in no file yet".to_owned());
            vec![
                change.id.to_string(),
                cut(&change.blob_type, 40),
                change.op,
                cut(&change.key.unwrap_or_default(), 40),
                change.occurred_at,
                cut(&change.correlation_id.unwrap_or_default(), 40),
                cut(&export, 60),
                cut(&change.row, 80),
            ]
        }),
    )?;
    if let Some(next) = next {
        line(format_args!("\nmore: --before {next}"))?;
    }
    Ok(Outcome::Done)
}

/// From now on the log's files go to our outbox, and it is this server's.
pub(crate) async fn adopt(settings: &Settings) -> anyhow::Result<Outcome> {
    let log = settings.needed_change_log().await?;
    let outbox = settings.outbox().await?;
    if log.status().await?.followed {
        bail!("{}: a publisher follows it now; stop that one first", log.shown());
    }
    // Numbers that a copy gave, or that were given after the moment to which this was restored, are other files'.
    let epoch = outbox.begin_epoch().await?;
    if !log.adopt(&epoch).await? {
        bail!("{}: a publisher follows it now; stop that one and say it again", log.shown());
    }
    line(format_args!(
        "{}: its files go to {} from now on, in a new epoch ({epoch}), so that their numbers begin at 1 and are no one else's",
        log.shown(),
        outbox.shown()
    ))?;
    Ok(Outcome::Done)
}

/// Which transaction holds back the changes that were logged after it began, and how to end it.
pub(crate) fn held_back(status: &LogStatus) -> Option<String> {
    let Holder { ended_by, who, since, doing } = status.held_back_by.as_ref()?;
    Some(match since.map(instant) {
        Some(since) => format!(
            "what was logged after {since} waits for a transaction of {who} that is open since then ({doing}); it can be ended \
             with: {ended_by}"
        ),
        None => format!(
            "what was logged last waits for a transaction of {who} ({doing}); since when it is open, the publisher's role may not see: \
             GRANT pg_read_all_stats to it. It can be ended with: {ended_by}"
        ),
    })
}

/// Which files stay in the log because nobody can tell whether they were sent, and what helps.
pub(crate) fn unproven(status: &LogStatus) -> Option<String> {
    let files = status.unproven.iter().map(|of| of.files).sum::<u64>();
    let changes = status.unproven.iter().map(|of| of.changes).sum::<u64>();
    let types: Vec<&str> = status.unproven.iter().map(|of| of.blob_type.as_str()).collect();
    (files > 0).then(|| {
        format!(
            "{} of {} (with {}) whose term is over stay: the outbox that is there now does not know them, so nobody can tell whether \
             they were sent. Publish all rows (`waybill-publisher snapshot`), then let them go: {}",
            many(files, "file"),
            types.join(", "),
            many(changes, "change"),
            status.let_go_with
        )
    })
}

/// `12 changes`, or `more than 100,000 changes`: not all are counted.
pub(crate) fn waiting_in_words(status: &LogStatus) -> String {
    let more = if status.waiting_more { "more than " } else { "" };
    format!("{more}{}", many(status.waiting, "change"))
}

/// How the log stands, for people.
pub(crate) fn report(status: &LogStatus) -> anyhow::Result<()> {
    let LogStatus { log, waiting_since, open_files, refused, followed, .. } = status;
    let waiting = &status.waiting;
    line(format_args!("\nchange log {log}: {}", if *followed { "followed" } else { "nobody follows it" }))?;
    let since = waiting_since.map(|at| format!(", since {}", instant(at))).unwrap_or_default();
    line(format_args!("{} not planned yet{since}", waiting_in_words(status)))?;
    if status.types.len() > 1 {
        table(
            &["TYPE", "WAITING", "SINCE"],
            status.types.iter().map(|of| {
                let more = if of.waiting_more { "+" } else { "" };
                let since = of.waiting_since.map(instant).unwrap_or_default();
                vec![cut(&of.blob_type, 40), format!("{}{more}", count(of.waiting)), since]
            }),
        )?;
    }
    if let Some(held) = held_back(status).filter(|_| *waiting > 0) {
        line(format_args!("{held}"))?;
    }
    if let Some(oldest) = open_files.first() {
        line(format_args!(
            "{} planned and not uploaded; the oldest is export {} of {}, since {}",
            many(open_files.len() as u64, "file"),
            oldest.export_id,
            oldest.blob_type,
            instant(oldest.planned_at)
        ))?;
    }
    for (file, problem) in open_files.iter().filter_map(|file| Some((file, file.problem.as_deref()?))) {
        line(format_args!("export {} of {} cannot be made: {}", file.export_id, file.blob_type, in_one_line(problem)))?;
    }
    if let Some(unproven) = unproven(status) {
        line(format_args!("{unproven}"))?;
    }
    if !followed && (*waiting > 0 || !open_files.is_empty()) {
        line(format_args!("`waybill-publisher run` publishes them"))?;
    }
    if *refused > 0 {
        line(format_args!(
            "{} of its changes cannot be published: `waybill-publisher refused` lists them",
            count(*refused)
        ))?;
    }
    Ok(())
}
