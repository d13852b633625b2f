//! Bus to disk, then settle.
//!
//! Whatever arrived while the last commit ran is the next commit; nobody waits when idle. A message is completed after its
//! row is on disk. What cannot be saved is released, which costs no delivery, and the broker is asked for nothing until
//! there is room again: its messages are safer where they are.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use waybill_azure::bus::{Bus, BusError, Delivery, DeliveryTag, Receiver, ReceiverOptions, Settlement};
use waybill_contracts::{Metadata, Reason};

use crate::{
    grants::jittered,
    inbox::{Admitted, Announced, Arrival, BrokenMessage, FileKey, Inbox, InboxError, PublisherSequence, Waybill},
};

/// Messages in one commit at most: enough to make its fsync cheap, few enough to settle well within a lock.
const BURST_MAX: usize = 100;
/// Messages that the broker may send ahead: two bursts, so that one arrives while the other commits.
const CREDIT: u32 = 200;
/// The same for a link that has not brought anything yet: a link that dies at once costs few deliveries.
const CREDIT_AT_FIRST: u32 = 10;
/// Kept of the body of a message that is no waybill.
const BROKEN_BODY_MAX: usize = 256 * 1024;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What the receiving side has done so far.
#[derive(Debug, Default)]
pub struct ReceiveStats {
    /// Messages delivered to us, redeliveries among them.
    pub received: AtomicU64,
    /// New files.
    pub saved: AtomicU64,
    /// Messages kept as quarantined.
    pub quarantined: AtomicU64,
    /// Second messages for known files.
    pub duplicates: AtomicU64,
    /// Messages that we had already.
    pub redelivered: AtomicU64,
    /// Links that were opened.
    pub links: AtomicU64,
    /// Links and connections that were lost, or could not be opened.
    pub lost: AtomicU64,
}

/// Receives until `stop`. Only a stop ends it: lost links come back, and what a person must mend is tried on a slow clock.
///
/// `admitted` is notified after every commit that brought a new file.
pub(crate) async fn receive(
    bus: &Bus,
    options: ReceiverOptions,
    inbox: &impl Inbox,
    stats: &ReceiveStats,
    admitted: &Notify,
    stop: &CancellationToken,
) {
    let mut pause = PAUSE;
    loop {
        let (error, worked) = session(bus, &options, inbox, stats, admitted, stop).await;
        if stop.is_cancelled() {
            return;
        }
        stats.lost.fetch_add(1, Ordering::Relaxed);
        if worked {
            pause = PAUSE;
        }
        let wait = match &error {
            SessionEnd::Bus(error) if error.needs_person() => PAUSE_MAX,
            SessionEnd::Bus(error) => error.retry_after().unwrap_or_default().max(jittered(pause)),
            SessionEnd::Inbox(_) => jittered(pause),
        };
        match &error {
            SessionEnd::Bus(error) => {
                tracing::warn!(error = %chain(error), wait_ms = wait.as_millis(), "not receiving; trying again");
            }
            SessionEnd::Inbox(error) => {
                tracing::error!(error = %chain(error), wait_ms = wait.as_millis(), "cannot save messages; they stay at the broker");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

enum SessionEnd {
    Bus(BusError),
    Inbox(InboxError),
}

/// One link's life; the second value says whether it brought something that was saved.
async fn session(
    bus: &Bus,
    options: &ReceiverOptions,
    inbox: &impl Inbox,
    stats: &ReceiveStats,
    admitted: &Notify,
    stop: &CancellationToken,
) -> (SessionEnd, bool) {
    let opened = tokio::select! {
        () = stop.cancelled() => return (stopped(), false),
        opened = bus.receiver(options.clone()) => opened,
    };
    let mut receiver = match opened {
        Ok(receiver) => receiver,
        Err(error) => return (SessionEnd::Bus(error), false),
    };
    stats.links.fetch_add(1, Ordering::Relaxed);
    let mut worked = false;
    let end = match bursts(&mut receiver, options, inbox, stats, admitted, stop, &mut worked).await {
        Ok(()) => stopped(),
        Err(end) => end,
    };
    receiver.close().await;
    (end, worked)
}

fn stopped() -> SessionEnd {
    SessionEnd::Bus(BusError::Disconnected { problem: "stopped".to_owned() })
}

async fn bursts(
    receiver: &mut Receiver,
    options: &ReceiverOptions,
    inbox: &impl Inbox,
    stats: &ReceiveStats,
    admitted: &Notify,
    stop: &CancellationToken,
    worked: &mut bool,
) -> Result<(), SessionEnd> {
    let entity = receiver.entity().to_owned();
    let mut allowed = CREDIT_AT_FIRST;
    receiver.add_credit(allowed).await.map_err(SessionEnd::Bus)?;
    loop {
        // `next` is cancel-safe; what follows runs to its end before the stop is looked at again.
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            delivery = receiver.next() => delivery.map_err(SessionEnd::Bus)?,
        };
        let mut burst = vec![first];
        while burst.len() < BURST_MAX
            && let Some(delivery) = receiver.try_next()
        {
            burst.push(delivery);
        }
        let taken = u32::try_from(burst.len()).unwrap_or(u32::MAX);
        stats.received.fetch_add(u64::from(taken), Ordering::Relaxed);

        let mut tags: Vec<(DeliveryTag, bool)> = Vec::with_capacity(burst.len());
        let mut arrivals = Vec::with_capacity(burst.len());
        for delivery in burst {
            tags.push((delivery.tag.clone(), delivery.body.is_some()));
            arrivals.push(arrival_of(&entity, delivery));
        }
        let answers = match inbox.admit(arrivals).await {
            Ok(answers) => answers,
            Err(error) => {
                let tags: Vec<_> = tags.into_iter().map(|(tag, _)| tag).collect();
                if let Err(error) = receiver.settle(&tags, &Settlement::Release).await {
                    tracing::debug!(error = %error, "could not release; the locks will expire");
                }
                return Err(SessionEnd::Inbox(error));
            }
        };
        count(stats, &answers);
        if answers.iter().any(|answer| matches!(answer, Admitted::Saved(_))) {
            admitted.notify_waiters();
        }
        settle(receiver, options, &tags).await.map_err(SessionEnd::Bus)?;
        *worked = true;

        // Credit for what was taken, and after the first burst up to the full amount.
        let more = taken + (CREDIT - allowed);
        allowed = CREDIT;
        receiver.add_credit(more).await.map_err(SessionEnd::Bus)?;
    }
}

/// Completes what is saved. A message that cannot even be decoded has a row of its own and goes to the dead-letter queue,
/// where other tools can look at it; in that queue it stays.
async fn settle(
    receiver: &mut Receiver,
    options: &ReceiverOptions,
    tags: &[(DeliveryTag, bool)],
) -> Result<(), BusError> {
    let of = |wanted: bool| -> Vec<DeliveryTag> {
        tags.iter().filter(|(_, decodable)| *decodable == wanted).map(|(tag, _)| tag.clone()).collect()
    };
    let (complete, undecodable) = (of(true), of(false));
    if !complete.is_empty() {
        receiver.settle(&complete, &Settlement::Complete).await?;
    }
    if !undecodable.is_empty() && !options.dead_letter_queue {
        let settlement = Settlement::DeadLetter {
            reason: Reason::Undecodable.as_str().to_owned(),
            description: "the body is neither data nor text; see the subscriber's inbox".to_owned(),
        };
        receiver.settle(&undecodable, &settlement).await?;
    }
    Ok(())
}

fn count(stats: &ReceiveStats, answers: &[Admitted]) {
    for answer in answers {
        let counter = match answer {
            Admitted::Saved(_) => &stats.saved,
            Admitted::Quarantined(..) => &stats.quarantined,
            Admitted::Duplicate { .. } => &stats.duplicates,
            Admitted::AlreadySeen(_) => &stats.redelivered,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the inbox is told of a message.
fn arrival_of(entity: &str, delivery: Delivery) -> Arrival {
    let announced = match &delivery.body {
        None => Announced::Broken(BrokenMessage {
            reason: Reason::Undecodable,
            problem: "the message's body is neither data nor text".to_owned(),
            body: Vec::new(),
        }),
        Some(body) => announced(body),
    };
    Arrival {
        entity_path: entity.to_owned(),
        sequence_number: delivery.sequence_number,
        enqueued_at: delivery.enqueued_at,
        message_id: delivery.message_id,
        announced,
    }
}

/// Understands a body, or says why not. What only matters when the file is worked (its `uri`) is checked then; what no
/// later grant or retry can mend (an unknown contentType) is said at once.
pub(crate) fn announced(body: &[u8]) -> Announced {
    let broken = |reason, problem: String| {
        Announced::Broken(BrokenMessage { reason, problem, body: body[..body.len().min(BROKEN_BODY_MAX)].to_vec() })
    };
    let metadata = match Metadata::parse(body) {
        Ok(metadata) => metadata,
        Err(error) => return broken(error.reason, error.to_string()),
    };
    if let Err(error) = metadata.media() {
        return broken(error.reason, error.to_string());
    }
    if let Err(error) = metadata.encoding() {
        return broken(error.reason, error.to_string());
    }
    let extras = match metadata.extras() {
        Ok(extras) => extras,
        Err(error) => return broken(Reason::BadExtras, error.to_string()),
    };
    let publisher = extras.publisher.unwrap_or_default();
    let key = match (&extras.export_id, metadata.blob_uri()) {
        (Some(id), _) => FileKey::of_export(&publisher, id.as_str()),
        (None, Ok(uri)) => FileKey::of_uri(&uri.normalised()),
        (None, Err(error)) => return broken(error.reason, error.to_string()),
    };
    let sequence = match (extras.epoch, extras.sequence) {
        (Some(epoch), Some(sequence)) => Some(PublisherSequence { publisher, epoch, sequence }),
        _ => None,
    };
    // Parsed above as UTF-8, perhaps with a byte order mark.
    let text = String::from_utf8_lossy(body);
    Announced::File(Box::new(Waybill {
        key,
        body: text.trim_start_matches('\u{feff}').to_owned(),
        metadata,
        sequence,
        expires_at: extras.expires_at,
    }))
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
