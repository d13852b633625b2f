//! A long backlog in an inbox: made, and leased from.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use time::OffsetDateTime;
use waybill_contracts::Metadata;
use waybill_subscriber::{
    FileKey,
    inbox::{
        Announced, AnyInbox, Arrival, End, Inbox as _, PostgresInbox, PublisherSequence, SqliteInbox, Wanted, Waybill,
        WorkerId,
    },
};

use super::result;
use crate::program::Said;

/// Messages of one commit, while the backlog is made.
const BURST: u64 = 2_000;
const TYPES: u64 = 50;
/// What a subscriber takes at once by default.
const AT_ONCE: u32 = 4;
const LEASES: usize = 300;

async fn open(inbox: &str) -> Result<AnyInbox> {
    Ok(if inbox.starts_with("postgres://") {
        AnyInbox::Postgres(PostgresInbox::open(inbox, Default::default()).await?)
    } else {
        AnyInbox::Sqlite(SqliteInbox::open(Path::new(inbox), Default::default()).await?)
    })
}

/// Adds messages until there are so many.
pub(super) async fn fill(inbox: &str, messages: u64) -> Result<Said> {
    let inbox = open(inbox).await?;
    let there = inbox.counts().await?.saved;
    for first in (there..messages).step_by(usize::try_from(BURST)?) {
        let burst = (first..messages.min(first + BURST)).map(message).collect::<Result<Vec<_>>>()?;
        inbox.admit(burst).await?;
    }
    let saved = inbox.counts().await?.saved;
    ensure!(saved == messages, "{saved} messages are in the inbox, not {messages}");
    Ok(result(format!("{saved} wait")))
}

/// Takes some files, of one type or of all, and gives them back, again and again.
pub(super) async fn lease(inbox: &str, blob_type: Option<&str>) -> Result<Said> {
    let inbox = open(inbox).await?;
    let wanted = Wanted { types: blob_type.map(|blob_type| vec![blob_type.to_owned()]), ..Wanted::default() };
    let worker = WorkerId("bench".to_owned());
    let mut spent = Vec::with_capacity(LEASES);
    for _ in 0..LEASES {
        let began = Instant::now();
        let leased = inbox.lease(&worker, AT_ONCE, &wanted).await?;
        spent.push(began.elapsed());
        ensure!(leased.len() == AT_ONCE as usize, "{} files were leased", leased.len());
        for file in leased {
            inbox.finish(&file.lease, End::Release).await?;
        }
    }
    spent.sort_unstable();
    let ms = |of: usize| spent.get(of).copied().unwrap_or_default().as_secs_f64() * 1e3;
    let figures =
        [("ms a lease".to_owned(), ms(LEASES / 2)), ("ms, 99 of 100 leases".to_owned(), ms(LEASES * 99 / 100))];
    Ok(Said { figures: figures.into(), ..result("files are leased and given back") })
}

/// As our publisher writes them.
fn message(number: u64) -> Result<Arrival> {
    let (blob_type, sequence) = (format!("Type{:02}", number % TYPES), number / TYPES + 1);
    let id = format!("01a213e7-5ba5-7528-a802-{number:012x}");
    let epoch = "01a213e7-5ba2-7055-b012-0ff3cf4c1165";
    let uri = format!("https://account.blob.example/batchtoprocess/{blob_type}/2026-11-25/{id}.jsonl.gz");
    let body = format!(
        r#"{{"blobType":"{blob_type}","correlationId":"{id}","contentType":"application/x-jsonlines","contentEncoding":"gzip","uri":"{uri}","properties":{{"waybill":{{"exportId":"{id}","publisher":"shop","epoch":"{epoch}","sequence":{sequence},"rows":{number},"bytes":106,"plainBytes":153,"plainSha256":"d73207794d34571743c8bdc8902cf3bc8913c972e4cf5e0f4cabfdcef382b0d7","sha256":"8b8f41c059bc2899d39d7f5415fabbfbf36117f6741e0e373575a48d4caafbac"}}}}}}"#
    );
    let waybill = Waybill {
        key: FileKey::of_export("shop", &id),
        metadata: Metadata::parse(body.as_bytes())?,
        body,
        sequence: Some(PublisherSequence { publisher: "shop".to_owned(), epoch: epoch.to_owned(), sequence }),
        expires_at: Some(OffsetDateTime::now_utc() + Duration::from_secs(30 * 24 * 3600)),
    };
    Ok(Arrival {
        entity_path: "exports/subscriptions/acme".to_owned(),
        sequence_number: i64::try_from(number)? + 1,
        enqueued_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        message_id: Some(id),
        announced: Announced::File(Box::new(waybill)),
    })
}
