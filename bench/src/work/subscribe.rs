//! A subscriber, as somebody embeds it.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tokio_util::sync::CancellationToken;
use waybill_azure::{TokenSource, connection_string::key_tokens};
use waybill_contracts::Entities;
use waybill_subscriber::{
    Subscriber,
    inbox::{Inbox, SqliteInbox},
    sink::open,
};

use super::apply::ENTITIES;
use crate::program::Said;

/// How often it is asked how far it is.
const ASKED_EVERY: Duration = Duration::from_millis(5);

/// Where messages and files come from.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    #[arg(long)]
    bus: String,
    #[arg(long)]
    blob: String,
    /// TOPIC/subscriptions/NAME
    #[arg(long)]
    entity: String,
    #[arg(long)]
    container: String,
}

impl Source {
    fn tokens(&self) -> Result<Arc<dyn TokenSource>> {
        let life = Duration::from_secs(3600);
        let Self { bus, blob, entity, container } = self;
        Ok(key_tokens(bus.parse()?, entity.clone(), blob.parse()?, container.clone(), life))
    }
}

/// Saves and settles so many messages.
pub(super) async fn receive(source: &Source, inbox: &Path, messages: u64) -> Result<Said> {
    let began = Instant::now();
    let inbox = SqliteInbox::open(inbox, Default::default()).await?;
    let subscriber = Subscriber::builder().with_tokens(inbox.clone(), source.tokens()?)?;
    let stop = CancellationToken::new();
    let completed = async {
        while subscriber.receive_stats().completed.load(Ordering::Relaxed) < messages {
            tokio::time::sleep(ASKED_EVERY).await;
        }
        stop.cancel();
    };
    tokio::join!(subscriber.receive(stop.clone()), completed);
    let seconds = began.elapsed().as_secs_f64();
    let saved = inbox.counts().await?.saved;
    ensure!(saved == messages, "{saved} messages are in the inbox, not {messages}");
    let figures = [("messages/s".to_owned(), messages as f64 / seconds)].into();
    Ok(Said { seconds: Some(seconds), result: format!("{saved} saved"), figures })
}

/// Brings so many files into effect.
pub(super) async fn run(source: &Source, inbox: &Path, sink: &str, on_unwanted: &str, files: u64) -> Result<Said> {
    let began = Instant::now();
    let filter = "types = [\"ItemChanges\"]\nwhere = 'row.currency == \"SEK\"'";
    let filtered = ENTITIES.replacen("key =", &format!("{filter}\non_unwanted = \"{on_unwanted}\"\nkey ="), 1);
    let entities = Entities::parse(&filtered, "bench")?;
    let inbox = SqliteInbox::open(inbox, Default::default()).await?;
    let sink = open(sink, &entities, &std::env::temp_dir()).await?;
    let subscriber = Subscriber::builder().entities(entities).with_tokens(inbox, source.tokens()?)?;
    let stop = CancellationToken::new();
    let done = async {
        while subscriber.work_stats().files_done.load(Ordering::Relaxed) < files {
            tokio::time::sleep(ASKED_EVERY).await;
        }
        stop.cancel();
    };
    let (ran, ()) = tokio::join!(subscriber.run(sink, stop.clone()), done);
    ran?;
    Ok(Said { seconds: Some(began.elapsed().as_secs_f64()), result: format!("{files} files"), ..Said::default() })
}
