//! Messages that stand for files, to be received.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use waybill_azure::{
    bus::{Bus, BusOptions, Message},
    connection_string::key_tokens,
};

use super::result;
use crate::program::Said;

const BATCH: u64 = 200;
/// Calls of `send` under way at once, so that the sender need not wait for each answer.
const SENDS: u64 = 4;
/// Of a message's body.
const BYTES: usize = 1024;

pub(super) async fn send(bus: &str, blob: &str, topic: &str, messages: u64) -> Result<Said> {
    let life = Duration::from_secs(3600);
    let tokens = key_tokens(bus.parse()?, topic.to_owned(), blob.parse()?, "unused".to_owned(), life);
    let bus = Bus::new(tokens, BusOptions::default());
    let sender = bus.sender().await?;
    // Every run has its own files: a second message for one would be a duplicate.
    let run = std::process::id();
    let calls = (0..SENDS).map(async |call| {
        for first in (call * BATCH..messages).step_by(usize::try_from(SENDS * BATCH)?) {
            let batch: Vec<Message> = (first..messages.min(first + BATCH)).map(|number| message(run, number)).collect();
            sender.send(&batch).await?;
        }
        anyhow::Ok(())
    });
    try_join_all(calls).await?;
    drop(sender);
    bus.close().await;
    Ok(result(messages))
}

fn message(run: u32, number: u64) -> Message {
    let mut body = format!(
        "{{\"blobType\":\"ItemChanges\",\"correlationId\":\"{run}-{number}\",\
         \"uri\":\"https://account.blob.example/exports/{run}-{number}.jsonl.gz\",\
         \"contentType\":\"application/jsonl\",\"note\":\""
    );
    body.push_str(&"x".repeat(BYTES.saturating_sub(body.len() + 2)));
    body.push_str("\"}");
    Message { body: body.into(), message_id: format!("{run}-{number}"), ..Message::default() }
}
