//! A batch of messages on its way: sent, then marked.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use tokio::time::sleep;
use waybill_azure::bus::{BusError, Message, Sender};

use super::{chain, message, refused_wait};
use crate::{
    context::{Context, Step},
    figures::Figure,
    outbox::{ExportRow, Outbox, OutboxError, TERM_ENDED},
};

/// Between two tries to mark what was sent, when the outbox cannot be written.
const MARK_WAIT: Duration = Duration::from_millis(500);

pub(super) struct Batch<O> {
    pub(super) context: Arc<Context<O>>,
    pub(super) link: Arc<Sender>,
    pub(super) link_number: u64,
    pub(super) rows: Vec<ExportRow>,
}

/// What became of a batch.
pub(super) struct Outcome {
    /// Its rows: none of them is in flight any more.
    pub(super) rows: Vec<i64>,
    pub(super) link_number: u64,
    pub(super) sent: usize,
    /// Why the rest waits for all others.
    pub(super) outage: Option<BusError>,
}

impl<O: Outbox> Batch<O> {
    pub(super) async fn send(self) -> Outcome {
        let all: Vec<i64> = self.rows.iter().map(|row| row.row).collect();
        let (sent, outage) = self.try_all().await;
        self.mark(&sent).await;
        if let Some(error) = &outage {
            self.context.counting.add(Figure::SendsFailed, 1);
            let waiting: Vec<i64> = all.iter().copied().filter(|row| !sent.contains(row)).collect();
            self.not_sent(&waiting, error, None).await;
        }
        Outcome { rows: all, link_number: self.link_number, sent: sent.len(), outage }
    }

    /// Which rows the broker has accepted, and why not the others, unless that is told of each.
    async fn try_all(&self) -> (Vec<i64>, Option<BusError>) {
        let now = (self.context.now)();
        let (mut rows, mut messages) = (Vec::new(), Vec::new());
        for row in &self.rows {
            if message::has_expired(row, now) {
                self.expire(row).await;
                continue;
            }
            match message::message(row, now) {
                Ok(message) => {
                    rows.push(row);
                    messages.push(message);
                }
                Err(error) => self.refused(row, error.as_ref()).await,
            }
        }
        if messages.is_empty() {
            return (Vec::new(), None);
        }
        match self.link.send(&messages).await {
            Ok(()) => (rows.iter().map(|row| row.row).collect(), None),
            Err(error) if concerns_a_message(&error) => self.try_each(&rows, &messages).await,
            Err(error) => (Vec::new(), Some(error)),
        }
    }

    /// One of them is refused: each goes alone, so that the refused one holds up no other.
    async fn try_each(&self, rows: &[&ExportRow], messages: &[Message]) -> (Vec<i64>, Option<BusError>) {
        let tries = join_all(messages.iter().map(|message| self.link.send(std::slice::from_ref(message)))).await;
        let (mut sent, mut outage) = (Vec::new(), None);
        for (row, result) in rows.iter().zip(tries) {
            match result {
                Ok(()) => sent.push(row.row),
                Err(error) if concerns_a_message(&error) => self.refused(row, &error).await,
                Err(error) => outage = Some(error),
            }
        }
        (sent, outage)
    }

    /// The broker has these: whatever happens to the outbox, it must know, or they go out twice.
    async fn mark(&self, sent: &[i64]) {
        if sent.is_empty() {
            return;
        }
        self.context.reached(Step::Accepted);
        self.context.counting.add(Figure::MessagesSent, sent.len() as u64);
        while let Err(error) = self.context.outbox.sent(sent).await {
            tracing::warn!(
                messages = sent.len(),
                error = chain(&error),
                "sent, but the outbox cannot be told; trying on"
            );
            sleep(MARK_WAIT).await;
        }
        self.context.reached(Step::Sent);
    }

    async fn refused(&self, row: &ExportRow, error: &(dyn std::error::Error + Send + Sync)) {
        self.context.counting.add(Figure::MessagesRefused, 1);
        let wait = refused_wait(row.tries);
        let export_id = row.export_id.as_str();
        tracing::error!(export_id, tries = row.tries + 1, ?wait, error = chain(error), "the message is refused");
        self.not_sent(&[row.row], error, Some(wait)).await;
    }

    /// With `wait`, the rows stay in flight until the outbox knows when they are due again, or they would be tried again at
    /// once. Without, an outage holds back everything, and nothing is lost but the note.
    async fn not_sent(&self, rows: &[i64], error: &(dyn std::error::Error + Send + Sync), wait: Option<Duration>) {
        let due_at = wait.map(|wait| (self.context.now)() + wait);
        while let Err(failed) = self.context.outbox.not_sent(rows, &chain(error), due_at).await {
            if wait.is_none() || !matches!(failed, OutboxError::Unavailable(_)) {
                return tracing::debug!(error = chain(&failed), "a failed try could not be noted");
            }
            tracing::warn!(error = chain(&failed), "refused, but the outbox cannot be told; trying on");
            sleep(MARK_WAIT).await;
        }
    }

    async fn expire(&self, row: &ExportRow) {
        let export_id = row.export_id.as_str();
        tracing::error!(export_id, "the blob's term ended before its message could be sent; it is not sent");
        loop {
            match self.context.outbox.void(&row.attempt(), TERM_ENDED).await {
                // Until the outbox knows, it stays in flight, or it would be looked at again at once.
                Err(error @ OutboxError::Unavailable(_)) => {
                    tracing::warn!(
                        export_id,
                        error = chain(&error),
                        "expired, but the outbox cannot be told; trying on"
                    );
                    sleep(MARK_WAIT).await;
                }
                Err(error) => {
                    return tracing::debug!(export_id, error = chain(&error), "an expired export is not ours to mark");
                }
                Ok(()) => return,
            }
        }
    }
}

/// Whether the broker refused a message rather than the sender.
fn concerns_a_message(error: &BusError) -> bool {
    match error {
        BusError::TooLarge { .. } | BusError::Rejected { .. } => true,
        BusError::Partly { source } => concerns_a_message(source),
        _ => false,
    }
}
