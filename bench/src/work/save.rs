//! Messages into an inbox.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use time::OffsetDateTime;
use waybill_contracts::Metadata;
use waybill_subscriber::{
    FileKey,
    inbox::{Announced, Arrival, Inbox, SqliteInbox, Waybill},
};

use crate::program::Said;

/// Of a message's body.
const BYTES: usize = 1024;

pub(super) async fn save(path: &Path, messages: u64, at_once: u64) -> Result<Said> {
    let inbox = SqliteInbox::open(path, Default::default()).await?;
    let mut spent = Duration::ZERO;
    for first in (0..messages).step_by(usize::try_from(at_once)?) {
        let burst = (first..messages.min(first + at_once)).map(message).collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        let answers = inbox.admit(burst).await?;
        spent += began.elapsed();
        ensure!(answers.len() as u64 == at_once.min(messages - first), "not every message was answered");
    }
    let saved = inbox.counts().await?.saved;
    ensure!(saved == messages, "{saved} messages are in the inbox, not {messages}");
    let (seconds, result) = (Some(spent.as_secs_f64()), "all are saved".to_owned());
    let figures = [("messages/s".to_owned(), messages as f64 / spent.as_secs_f64())].into();
    Ok(Said { seconds, result, figures })
}

fn message(number: u64) -> Result<Arrival> {
    let file = format!("https://account.blob.example/exports/{number:032x}.jsonl.gz");
    let mut body = format!(
        r#"{{"blobType":"ItemChanges","correlationId":"{number:032x}","uri":"{file}","contentType":"application/jsonl","#
    );
    let padding = BYTES.saturating_sub(body.len() + r#""note":""}"#.len());
    body.push_str(&format!(r#""note":"{}"}}"#, "x".repeat(padding)));
    let metadata = Metadata::parse(body.as_bytes())?;
    let waybill = Waybill { key: FileKey::of_uri(&file), metadata, body, sequence: None, expires_at: None };
    Ok(Arrival {
        entity_path: "exports/subscriptions/acme".to_owned(),
        sequence_number: i64::try_from(number)?,
        enqueued_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        message_id: Some(format!("m-{number}")),
        announced: Announced::File(Box::new(waybill)),
    })
}
