//! Bus to disk, then settle.
//!
//! Whatever arrived while the last commit ran is the next commit, and was understood meanwhile; nobody waits when idle. A message is completed after its
//! row is on disk. What cannot be saved is released, which costs no delivery, and the broker is asked for nothing until
//! there is room again: its messages are safer where they are.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use waybill_azure::bus::{Bus, BusError, Delivery, DeliveryTag, Receiver, ReceiverOptions, Settlement};
use waybill_contracts::{Metadata, Reason};

use crate::{
    figures::{Histogram, Tally},
    grants::jittered,
    health::Alarm,
    inbox::{Admitted, Announced, Arrival, BrokenMessage, FileKey, Inbox, InboxError, PublisherSequence, Waybill},
    receive::redact::{masked, without_query},
};

mod places;
mod redact;

pub(crate) use places::{Buses, Reception};

/// Messages in one commit at most: enough to make its fsync cheap, few enough to settle well within a lock.
const BURST_MAX: u32 = 100;
/// Messages that the broker may send ahead: three bursts. One commits, one is understood meanwhile, one is on its way.
const CREDIT: u32 = 300;
/// The same for a link that has not brought anything yet: a link that dies at once costs few deliveries.
const CREDIT_AT_FIRST: u32 = 10;
/// Bytes of bodies in one commit, about: a waybill has one or two thousand, but a message may have a hundred megabytes.
const BURST_BYTES: usize = 4 << 20;
/// Where bodies are larger than this on average, the broker may send fewer ahead.
const LARGE_BODY: usize = 64 * 1024;
/// Kept of the body of a message that is no waybill.
const BROKEN_BODY_MAX: usize = 256 * 1024;
/// Dead letters that cannot be decoded and are left in place, per link: with more of them the link brings nothing any
/// more. What was sent ahead may come on top.
const LEFT_MAX: usize = 1_000;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The longest wait that is done as it was asked for, as for tokens.
const ASKED_MAX: Duration = Duration::from_secs(600);
/// The first pause after what looks like a person's work: two rotations in a row look like it too, and end by themselves.
const PERSON_PAUSE: Duration = Duration::from_secs(1);

/// What the receiving side has done so far.
#[derive(Debug, Default)]
pub struct ReceiveStats {
    /// Messages delivered to us, redeliveries among them; without those that are left in the dead-letter queue.
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
    /// Links that are attached now: one for each place on the bus that the grant names.
    pub attached: AtomicU64,
    /// Messages of the dead-letter queue that cannot be decoded and stay there; each counts once per link.
    pub left_in_place: AtomicU64,
    /// Messages that were completed.
    pub completed: AtomicU64,
    /// Messages that were given back, because they could not be saved.
    pub released: AtomicU64,
    /// Messages that were sent to the dead-letter queue.
    pub dead_lettered: AtomicU64,
    /// Links and connections that were lost, or could not be opened, by the kind of error.
    pub(crate) lost_by: Tally<&'static str>,
    /// From the broker's time of a new file's message to ours.
    pub(crate) lag: Histogram,
    /// By the place on the bus.
    watches: Mutex<BTreeMap<String, Arc<LinkWatch>>>,
    /// Why no place is known.
    no_place: Mutex<Option<String>>,
}

/// How one link does.
#[derive(Debug, Default)]
pub(crate) struct LinkWatch {
    attached: AtomicBool,
    /// Of what follows a delivery; there is none to wait for it.
    alarm: Alarm,
    problem: Mutex<Option<String>>,
}

impl LinkWatch {
    fn set_problem(&self, problem: Option<String>) {
        *self.problem.lock().expect("no panic while it is held") = problem;
    }
}

impl ReceiveStats {
    /// Why nothing is received at the moment, with all causes and without secrets; `None` while every link is attached. Of
    /// several places the one that is meant is named.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        if let Some(problem) = self.no_place.lock().expect("no panic while it is held").clone() {
            return Some(problem);
        }
        let links = self.watches.lock().expect("no panic while it is held");
        let problems: Vec<String> = links
            .iter()
            .filter_map(|(place, link)| {
                let problem = link.problem.lock().expect("no panic while it is held").clone()?;
                Some(if links.len() > 1 { format!("{place}: {problem}") } else { problem })
            })
            .collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// Whether there is a link, and each is attached.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        let links = self.watches.lock().expect("no panic while it is held");
        !links.is_empty() && links.values().all(|link| link.attached.load(Ordering::Relaxed))
    }

    /// By how much the latest link is late with what follows a delivery.
    pub(crate) fn late(&self) -> Duration {
        let links = self.watches.lock().expect("no panic while it is held");
        links.values().map(|link| link.alarm.late()).max().unwrap_or_default()
    }

    /// A place is received from until the answer is dropped.
    fn watch(&self, place: &str) -> Watching<'_> {
        let link = Arc::<LinkWatch>::default();
        self.watches.lock().expect("no panic while it is held").insert(place.to_owned(), Arc::clone(&link));
        Watching { stats: self, place: place.to_owned(), link }
    }

    fn set_no_place(&self, problem: Option<String>) {
        *self.no_place.lock().expect("no panic while it is held") = problem;
    }
}

/// Ends also with a task that is dropped.
struct Watching<'s> {
    stats: &'s ReceiveStats,
    place: String,
    link: Arc<LinkWatch>,
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.stats.watches.lock().expect("no panic while it is held").remove(&self.place);
    }
}

/// A link is attached; likewise.
struct Attached<'l> {
    stats: &'l ReceiveStats,
    link: &'l LinkWatch,
}

impl<'l> Attached<'l> {
    fn new(stats: &'l ReceiveStats, link: &'l LinkWatch) -> Self {
        stats.attached.fetch_add(1, Ordering::Relaxed);
        link.attached.store(true, Ordering::Relaxed);
        Self { stats, link }
    }
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.link.attached.store(false, Ordering::Relaxed);
        self.stats.attached.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where messages go.
struct Desk<'d, I> {
    inbox: &'d I,
    stats: &'d ReceiveStats,
    link: &'d LinkWatch,
    /// Where they come from.
    place: &'d str,
    /// Notified after every commit that brought a new file.
    admitted: &'d Notify,
    now: fn() -> OffsetDateTime,
}

/// How long until the next try: longer each time.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE)
    }
}

impl Pauses {
    fn after(&mut self, error: &BusError) -> Duration {
        let pause = self.usual();
        if error.needs_person() {
            pause.max(jittered(PERSON_PAUSE))
        } else {
            // Not all at the same moment who were told the same, and later each time. Nobody is asked to wait for a day.
            error.retry_after().map_or(pause, |asked| asked.min(ASKED_MAX) + pause)
        }
    }

    fn usual(&mut self) -> Duration {
        let pause = jittered(self.0);
        self.0 = (self.0 * 2).min(PAUSE_MAX);
        pause
    }

    fn end(&mut self) {
        self.0 = PAUSE;
    }
}

/// Receives until `stop`. Only a stop ends it: lost links come back, and what a person must mend is tried on a slow clock.
async fn receive(bus: &Bus, options: ReceiverOptions, desk: Desk<'_, impl Inbox>, stop: &CancellationToken) {
    let Desk { stats, link, place, .. } = desk;
    let mut pauses = Pauses::default();
    loop {
        let began = Instant::now();
        let (end, worked) = session(bus, &options, &desk, stop).await;
        link.alarm.rest();
        if stop.is_cancelled() {
            return;
        }
        stats.lost.fetch_add(1, Ordering::Relaxed);
        stats.lost_by.add(match &end {
            SessionEnd::Bus(error) => error.kind(),
            SessionEnd::Inbox(_) => "inbox",
        });
        // A link that lasted was a good one, whether it brought something or not.
        let lasted = began.elapsed() >= PAUSE_MAX;
        if worked || lasted {
            pauses.end();
        }
        let wait = match &end {
            SessionEnd::Bus(error) => pauses.after(error),
            SessionEnd::Inbox(_) => pauses.usual(),
        };
        let queue = if options.dead_letter_queue { "dead letters" } else { "messages" };
        match &end {
            // Service Bus ends links that were idle for ten minutes: nothing that anybody must read.
            SessionEnd::Bus(error) if lasted => {
                tracing::debug!(place, queue, error = %chain(error), "the link ended; opening another");
            }
            SessionEnd::Bus(error) => {
                let problem = chain(error);
                tracing::warn!(place, queue, error = %problem, wait_ms = wait.as_millis(), "not receiving; trying again");
                link.set_problem(Some(problem));
            }
            SessionEnd::Inbox(error) => {
                let problem = chain(error);
                tracing::error!(place, queue, error = %problem, wait_ms = wait.as_millis(), "cannot save; messages stay at the broker");
                link.set_problem(Some(problem));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
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
    desk: &Desk<'_, impl Inbox>,
    stop: &CancellationToken,
) -> (SessionEnd, bool) {
    let Desk { stats, link, .. } = *desk;
    let opened = tokio::select! {
        () = stop.cancelled() => return (stopped(), false),
        opened = bus.receiver(options.clone()) => opened,
    };
    let mut receiver = match opened {
        Ok(receiver) => receiver,
        Err(error) => return (SessionEnd::Bus(error), false),
    };
    stats.links.fetch_add(1, Ordering::Relaxed);
    let mut attached = Some(Attached::new(stats, link));
    link.set_problem(None);
    let mut worked = false;
    let end = match bursts(&mut receiver, options, desk, stop, &mut worked).await {
        Ok(()) => stopped(),
        Err(end) => end,
    };
    // A place that is being left is attached until it is left.
    if !stop.is_cancelled() {
        drop(attached.take());
    }
    receiver.close().await;
    (end, worked)
}

fn stopped() -> SessionEnd {
    SessionEnd::Bus(BusError::Disconnected { problem: "stopped".to_owned() })
}

async fn bursts(
    receiver: &mut Receiver,
    options: &ReceiverOptions,
    desk: &Desk<'_, impl Inbox>,
    stop: &CancellationToken,
    worked: &mut bool,
) -> Result<(), SessionEnd> {
    let Desk { inbox, stats, link, place, admitted, now } = *desk;
    let entity = format!("{place}{}", if options.dead_letter_queue { "/$DeadLetterQueue" } else { "" });
    let mut left = options.dead_letter_queue.then(LeftInPlace::new);
    let mut next = Burst::default();
    let mut allowed = CREDIT_AT_FIRST;
    receiver.add_credit(allowed).await.map_err(SessionEnd::Bus)?;
    loop {
        link.alarm.rest();
        if next.is_empty() {
            // `next` is cancel-safe; what follows runs to its end before the stop is looked at again.
            let first = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                delivery = receiver.next() => delivery.map_err(SessionEnd::Bus)?,
            };
            next.add(first, &entity, left.as_mut(), stats);
        }
        link.alarm.set(Duration::ZERO);
        while !next.is_full()
            && let Some(delivery) = receiver.try_next()
        {
            next.add(delivery, &entity, left.as_mut(), stats);
        }
        let Burst { taken, bytes, tags, arrivals, enqueued, outdated } = std::mem::take(&mut next);
        stats.received.fetch_add(tags.len() as u64, Ordering::Relaxed);
        let commit = async { if arrivals.is_empty() { Ok(Vec::new()) } else { inbox.admit(arrivals).await } };
        tokio::pin!(commit);
        let mut lost = None;
        let admitted_all = loop {
            // What arrives while the commit runs is understood meanwhile, but for a stop, which would have to wait for it.
            let may_take = lost.is_none() && !next.is_full() && !stop.is_cancelled();
            tokio::select! {
                biased;
                answers = &mut commit => break answers,
                delivery = receiver.next(), if may_take => match delivery {
                    Ok(delivery) => next.add(delivery, &entity, left.as_mut(), stats),
                    Err(error) => lost = Some(error),
                },
            }
        };
        let answers = match admitted_all {
            Ok(answers) => answers,
            Err(error) => {
                let tags: Vec<_> = tags.into_iter().chain(next.tags).map(|(tag, _)| tag).collect();
                match receiver.settle(&tags, &Settlement::Release).await {
                    Ok(()) => drop(stats.released.fetch_add(tags.len() as u64, Ordering::Relaxed)),
                    Err(error) => tracing::debug!(error = %error, "could not release; the locks will expire"),
                }
                return Err(SessionEnd::Inbox(error));
            }
        };
        count(stats, &answers);
        for (answer, enqueued_at) in answers.iter().zip(enqueued) {
            // A broker that gives no time of a message gives this one.
            if matches!(answer, Admitted::Saved(_)) && enqueued_at > OffsetDateTime::UNIX_EPOCH {
                stats.lag.add_between(enqueued_at, now());
            }
        }
        if answers.iter().any(|answer| matches!(answer, Admitted::Saved(_))) {
            admitted.notify_waiters();
        }
        if let Some(error) = lost {
            return Err(SessionEnd::Bus(error));
        }
        settle(receiver, &tags, stats).await.map_err(SessionEnd::Bus)?;
        // Their locks are over, so this only lets the link forget them.
        receiver.settle(&outdated, &Settlement::Release).await.map_err(SessionEnd::Bus)?;
        *worked = true;

        // Credit for what was taken, and after the first burst up to the full amount.
        let wanted = if bytes / (taken as usize).max(1) > LARGE_BODY { CREDIT_AT_FIRST } else { CREDIT };
        let outstanding = allowed.saturating_sub(taken);
        // Service Bus ends a link that brings nothing after ten minutes; the next one looks again.
        let is_over = left.as_ref().is_some_and(LeftInPlace::is_full);
        let more = if is_over { 0 } else { wanted.saturating_sub(outstanding) };
        allowed = outstanding + more;
        if more > 0 {
            receiver.add_credit(more).await.map_err(SessionEnd::Bus)?;
        }
    }
}

/// What is committed together.
#[derive(Default)]
struct Burst {
    taken: u32,
    bytes: usize,
    /// How each is settled, and whether it could be decoded.
    tags: Vec<(DeliveryTag, bool)>,
    arrivals: Vec<Arrival>,
    enqueued: Vec<OffsetDateTime>,
    /// Of dead letters that stay and came again.
    outdated: Vec<DeliveryTag>,
}

impl Burst {
    fn is_empty(&self) -> bool {
        self.taken == 0
    }

    fn is_full(&self) -> bool {
        self.taken >= BURST_MAX || self.bytes >= BURST_BYTES
    }

    /// `left` is given for a dead-letter queue.
    fn add(&mut self, delivery: Delivery, entity: &str, left: Option<&mut LeftInPlace>, stats: &ReceiveStats) {
        self.taken += 1;
        self.bytes += size_of_body(&delivery);
        if let Some(left) = left
            && delivery.body.is_none()
        {
            self.outdated.extend(left.leave(delivery.sequence_number, delivery.tag, stats));
            return;
        }
        self.tags.push((delivery.tag.clone(), delivery.body.is_some()));
        self.enqueued.push(delivery.enqueued_at);
        self.arrivals.push(arrival_of(entity, delivery));
    }
}

fn size_of_body(delivery: &Delivery) -> usize {
    delivery.body.as_ref().map_or(0, |body| body.len())
}

/// Messages of the dead-letter queue that cannot be decoded. They stay locked and come again when the lock ends: were
/// they released, the broker would send them again at once.
struct LeftInPlace<T = DeliveryTag> {
    seen: HashMap<i64, T>,
}

impl<T> LeftInPlace<T> {
    fn new() -> Self {
        Self { seen: HashMap::new() }
    }

    /// Notes a delivery; the answer is what is outdated by it.
    fn leave(&mut self, sequence_number: i64, tag: T, stats: &ReceiveStats) -> Option<T> {
        let before = self.seen.insert(sequence_number, tag);
        if before.is_none() {
            stats.left_in_place.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(sequence_number, "a dead letter cannot be decoded; it stays in the dead-letter queue");
            if self.seen.len() == LEFT_MAX {
                tracing::error!(
                    left = LEFT_MAX,
                    "too many dead letters that cannot be decoded; no more are received on this link. Remove them with another tool"
                );
            }
        }
        before
    }

    fn is_full(&self) -> bool {
        self.seen.len() >= LEFT_MAX
    }
}

/// Completes what is saved. A message that cannot even be decoded has a row of its own and goes to the dead-letter queue,
/// where other tools can look at it.
async fn settle(receiver: &mut Receiver, tags: &[(DeliveryTag, bool)], stats: &ReceiveStats) -> Result<(), BusError> {
    let of = |wanted: bool| -> Vec<DeliveryTag> {
        tags.iter().filter(|(_, decodable)| *decodable == wanted).map(|(tag, _)| tag.clone()).collect()
    };
    let (saved, undecodable) = (of(true), of(false));
    receiver.settle(&saved, &Settlement::Complete).await?;
    stats.completed.fetch_add(saved.len() as u64, Ordering::Relaxed);
    let settlement = Settlement::DeadLetter {
        reason: Reason::Undecodable.as_str().to_owned(),
        description: "the body is neither data nor text; see the subscriber's inbox".to_owned(),
    };
    receiver.settle(&undecodable, &settlement).await?;
    stats.dead_lettered.fetch_add(undecodable.len() as u64, Ordering::Relaxed);
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
            blob_type: None,
            correlation_id: None,
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
    let mut metadata = match Metadata::parse(body) {
        Ok(metadata) => metadata,
        Err(error) => return Announced::Broken(broken(body, error.reason, error.to_string())),
    };
    let broken = |reason, problem| {
        Announced::Broken(BrokenMessage {
            blob_type: Some(metadata.blob_type.clone()),
            correlation_id: Some(metadata.correlation_id.clone()),
            ..broken(body, reason, problem)
        })
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
    let body = without_query(text.trim_start_matches('\u{feff}'));
    metadata.uri.truncate(metadata.uri.find('?').unwrap_or(metadata.uri.len()));
    Announced::File(Box::new(Waybill { key, body, metadata, sequence, expires_at: extras.expires_at }))
}

/// What is kept of a body that is no waybill; the problem says what is not.
fn broken(body: &[u8], reason: Reason, mut problem: String) -> BrokenMessage {
    let kept = &body[..body.len().min(BROKEN_BODY_MAX)];
    let cut = kept.len() < body.len();
    if cut {
        problem.push_str(&format!("; the body has {} bytes, of which the first {} are kept", body.len(), kept.len()));
    }
    // A character that the cut went through is nobody's mistake.
    if std::str::from_utf8(kept).is_err_and(|error| !cut || error.error_len().is_some()) {
        problem.push_str("; the body is not UTF-8, bytes that are not are kept as U+FFFD");
    }
    // Somebody may have put a token into an address; so the body is searched for it.
    let body = masked(&String::from_utf8_lossy(kept)).into_bytes();
    BrokenMessage { reason, problem, body, blob_type: None, correlation_id: None }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use waybill_azure::{GrantError, Service};

    use super::*;

    fn gone() -> BusError {
        BusError::Disconnected { problem: "reset".to_owned() }
    }

    fn of_jitter(pause: Duration) -> std::ops::RangeInclusive<Duration> {
        pause / 2..=pause
    }

    #[test]
    fn pauses_grow_to_their_longest_differ_and_begin_anew_after_a_good_link() {
        let mut pauses = Pauses::default();
        let mut wanted = PAUSE;
        for _ in 0..12 {
            let pause = pauses.after(&gone());
            assert!(of_jitter(wanted).contains(&pause), "{pause:?} of {wanted:?}");
            wanted = (wanted * 2).min(PAUSE_MAX);
        }
        assert_eq!(wanted, PAUSE_MAX);
        let longest: Vec<Duration> = (0..50).map(|_| pauses.usual()).collect();
        let (least, most) = (longest.iter().min().unwrap(), longest.iter().max().unwrap());
        assert!(*most <= PAUSE_MAX && *most - *least > PAUSE_MAX / 8, "replicas come at different times: {longest:?}");
        pauses.end();
        assert!(of_jitter(PAUSE).contains(&pauses.after(&gone())));
    }

    #[test]
    fn what_a_person_must_mend_is_left_alone_longer_and_what_the_bus_asks_for_is_obeyed() {
        let person = BusError::Disabled { entity: "e".to_owned(), problem: "by its owner".to_owned() };
        let first = Pauses::default().after(&person);
        assert!(of_jitter(PERSON_PAUSE).contains(&first), "{first:?}");
        let mut pauses = Pauses(PAUSE_MAX);
        assert!(of_jitter(PAUSE_MAX).contains(&pauses.after(&person)), "the longer one counts");

        let busy = BusError::Busy { entity: "e".to_owned(), problem: "50009".to_owned() };
        let retry_after = Some(Duration::from_secs(17));
        let tenant = GrantError::Unavailable { service: Service::Bus, problem: "503".to_owned(), retry_after };
        for (error, asked) in [(busy, Duration::from_secs(10)), (tenant.into(), Duration::from_secs(17))] {
            let waits: BTreeSet<Duration> = (0..20).map(|_| Pauses::default().after(&error)).collect();
            assert!(waits.iter().all(|wait| of_jitter(PAUSE).contains(&(*wait - asked))), "{waits:?}");
            assert!(waits.len() > 1, "replicas that were told the same come at different times");
            assert!(Pauses(PAUSE_MAX).after(&error) >= asked + PAUSE_MAX / 2, "later each time");
        }
    }

    #[test]
    fn dead_letters_left_in_place_count_once_and_end_the_credit_when_there_are_too_many() {
        let (stats, mut left) = (ReceiveStats::default(), LeftInPlace::<u64>::new());
        let many = LEFT_MAX as i64;
        for number in 1..many {
            assert_eq!(left.leave(number, 1, &stats), None);
        }
        assert_eq!(
            left.leave(1, 2, &stats),
            Some(1),
            "its lock ended and it came again: the first delivery is outdated"
        );
        assert!(!left.is_full());
        assert_eq!(left.leave(many, 1, &stats), None);
        assert!(left.is_full());
        // Sent ahead: known ones are still known.
        assert_eq!(left.leave(1, 3, &stats), Some(2));
        assert_eq!(stats.left_in_place.load(Ordering::Relaxed), LEFT_MAX as u64);
    }
}
