//! How a client settles what it received, and what it is answered.
//!
//! # Sources
//! AMQP 1.0 part 3, section 3.4 (outcomes); "Service Bus Message transfers, locks, and settlement"; that Python compares the
//! outcome of the answer with its own, and JavaScript writes string keys, was seen.

use uuid::Uuid;

use super::codec::Reader;
use super::context::{Context, scripted};
use super::encode::Write as _;
use super::link::{Link, NO_TRANSACTIONS, Origin, Outgoing};
use super::management::{LOCK_LOST, LOCK_LOST_CONDITION, NO_ROOM, ON_DEAD_LETTER_QUEUE};
use super::performative::{self as out, AmqpError, Disposition, PeerError, Reply, Role, State};
use super::session::{Failure, Session, low};
use crate::broker::SettleRefusal;
use crate::broker::queue::{DeadLetter, Outcome};
use crate::fault::{BusEvent, ToDo};
use crate::log::{printable, say};

/// Deliveries that are settled under one lock of their queue.
const RUN_MAX: usize = 1_000;

/// Deliveries without an answer, beyond which those whose lock is over are forgotten.
pub(super) const UNSETTLED_SWEEP: usize = 10_000;

/// A delivery without an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unsettled {
    pub(super) handle: u32,
    /// `None` for an answer to a request, which holds no lock.
    pub(super) token: Option<Uuid>,
}

/// Part of the range of a disposition.
enum Run {
    /// Deliveries of one link, each with its lock.
    OfLink(u32, Vec<(u64, Option<Uuid>)>),
    /// From and to: settled before, or never sent.
    Unknown(u64, u64),
}

/// Answers to consecutive deliveries, written as ranges.
#[derive(Debug)]
pub(super) struct Runs {
    role: Role,
    run: Option<(u32, u32, Reply)>,
}

impl Runs {
    pub(super) fn new(role: Role) -> Self {
        Self { role, run: None }
    }

    pub(super) fn add(&mut self, out: &mut Vec<u8>, channel: u16, id: u32, reply: Reply) {
        self.add_range(out, channel, (id, id), reply);
    }

    fn add_range(&mut self, out: &mut Vec<u8>, channel: u16, (first, last): (u32, u32), reply: Reply) {
        if let Some((_, end, known)) = &mut self.run
            && end.wrapping_add(1) == first
            && *known == reply
        {
            *end = last;
            return;
        }
        self.flush(out, channel);
        self.run = Some((first, last, reply));
    }

    pub(super) fn flush(&mut self, out: &mut Vec<u8>, channel: u16) {
        if let Some((first, last, reply)) = self.run.take() {
            out::disposition(out, channel, self.role, first, last, &reply);
        }
    }
}

impl Session {
    pub(crate) fn disposition(&mut self, cx: &mut Context, disposition: &Disposition<'_>) -> Result<(), Failure> {
        if disposition.role == Role::Sender {
            // It settles what it sent; we have settled that when we answered.
            return Ok(());
        }
        let Some((outcome, reply)) = outcome_of(disposition)? else { return Ok(()) };
        let Some(first) = self.delivery_of(disposition.first) else { return Ok(()) };
        // Deliveries that were not sent cannot be settled.
        let last = self.delivery_of(disposition.last).unwrap_or(self.next_delivery.saturating_sub(1));
        let mut replies = Runs::new(Role::Sender);
        let mut next = first;
        while let Some(run) = self.settle_run(&mut next, last) {
            let (handle, deliveries) = match run {
                Run::OfLink(handle, deliveries) => (handle, deliveries),
                Run::Unknown(from, to) => {
                    let messages = to - from + 1;
                    self.say_refused(cx, None, messages, "no such delivery waits to be settled");
                    if !disposition.settled {
                        let refusal = Reply::Rejected(Some(SettleRefusal::LockLost.into()));
                        replies.add_range(&mut cx.out, self.channel, (low(from), low(to)), refusal);
                    }
                    continue;
                }
            };
            let to_do = self.tell_of_settlement(cx, handle, &deliveries);
            if to_do.fate.is_some() {
                return Ok(());
            }
            if let Some((refusal, _)) = to_do.refuse {
                for (id, _) in &deliveries {
                    let cause = scripted(refusal.condition());
                    replies.add(&mut cx.out, self.channel, low(*id), Reply::Rejected(Some(cause)));
                }
                continue;
            }
            let answers = self.settle(cx, handle, &deliveries, &outcome);
            let refused = answers.iter().filter(|answer| answer.is_err()).count();
            if refused > 0 {
                let why = match answers.iter().find_map(|answer| answer.err()) {
                    Some(SettleRefusal::OnDeadLetterQueue) => ON_DEAD_LETTER_QUEUE,
                    Some(SettleRefusal::Full) => NO_ROOM,
                    Some(SettleRefusal::LockLost) | None => "the lock is over",
                };
                self.say_refused(cx, Some(handle), u64::try_from(refused).unwrap_or(u64::MAX), why);
            }
            if to_do.drop_answer == Some(true) {
                cx.reset_after();
            }
            if disposition.settled || to_do.drop_answer.is_some() {
                continue;
            }
            for ((id, _), answer) in deliveries.iter().zip(answers) {
                let answer = match answer {
                    Ok(()) => reply.clone(),
                    Err(refusal) => Reply::Rejected(Some(refusal.into())),
                };
                replies.add(&mut cx.out, self.channel, low(*id), answer);
            }
        }
        replies.flush(&mut cx.out, self.channel);
        Ok(())
    }

    fn say_refused(&self, cx: &Context, handle: Option<u32>, messages: u64, why: &str) {
        let entity = handle.map(|handle| self.entity_of(handle));
        say!(
            cx.lines(),
            warn,
            "bus: settlement refused",
            connection = cx.peer.id(),
            entity = entity.as_deref().map(|entity| tracing::field::display(printable(entity))),
            messages,
            why
        );
    }

    /// The next deliveries of the range that are settled in one go. What costs is deliveries, which somebody had to send
    /// before; of ranges of anything else only the ends are looked at.
    fn settle_run(&mut self, next: &mut u64, last: u64) -> Option<Run> {
        let from = *next;
        if from > last {
            return None;
        }
        let mut waiting = self.unsettled.range(from..=last).map(|(id, unsettled)| (*id, *unsettled));
        let (first, Unsettled { handle, .. }) = match waiting.next() {
            Some((first, unsettled)) if first == from => (first, unsettled),
            other => {
                let to = other.map_or(last, |(first, _)| first - 1);
                *next = to + 1;
                return Some(Run::Unknown(from, to));
            }
        };
        let run = (first..).zip(self.unsettled.range(from..=last)).take(RUN_MAX);
        let deliveries: Vec<(u64, Option<Uuid>)> = run
            .take_while(|(expected, (id, unsettled))| expected == *id && unsettled.handle == handle)
            .map(|(id, (_, unsettled))| (id, unsettled.token))
            .collect();
        for (id, _) in &deliveries {
            self.unsettled.remove(id);
            *next = id + 1;
        }
        Some(Run::OfLink(handle, deliveries))
    }

    /// Deliveries are about to be settled.
    fn tell_of_settlement(&self, cx: &mut Context, handle: u32, deliveries: &[(u64, Option<Uuid>)]) -> ToDo {
        if !cx.has_scripts() {
            return ToDo::default();
        }
        let Some(link) = self.links.get(&handle) else { return ToDo::default() };
        let told = link.entity().and_then(|entity| cx.happens(BusEvent::Disposition, entity, (self.channel, handle)));
        let to_do = told.unwrap_or_default();
        if to_do.lose_lock
            && let Link::Outgoing(Outgoing { from: Origin::Entity { mailbox, part, .. }, .. }) = link
        {
            let locks: Vec<Uuid> = deliveries.iter().filter_map(|(_, token)| *token).collect();
            mailbox.lose_locks(*part, &locks, cx.now);
        }
        to_do
    }

    fn settle(
        &self,
        cx: &Context,
        handle: u32,
        deliveries: &[(u64, Option<Uuid>)],
        outcome: &Outcome,
    ) -> Vec<Result<(), SettleRefusal>> {
        let mut answers = Vec::with_capacity(deliveries.len());
        match self.links.get(&handle) {
            Some(Link::Outgoing(Outgoing { from: Origin::Entity { mailbox, part, .. }, .. })) => {
                let locks: Vec<Uuid> = deliveries.iter().filter_map(|(_, token)| *token).collect();
                mailbox.settle(*part, &locks, outcome, cx.now, &mut answers);
            }
            // The answer to a request: nothing hangs on it.
            _ => answers.extend(deliveries.iter().map(|_| Ok(()))),
        }
        answers
    }

    /// A client that never settles must not make us remember deliveries whose lock is long over.
    pub(super) fn sweep(&mut self, cx: &Context) {
        if self.unsettled.len() < self.sweep_at {
            return;
        }
        let links = &self.links;
        self.unsettled.retain(|_, unsettled| match (links.get(&unsettled.handle), unsettled.token) {
            (Some(Link::Outgoing(Outgoing { from: Origin::Entity { mailbox, part, .. }, .. })), Some(token)) => {
                mailbox.holds(*part, token)
            }
            _ => false,
        });
        self.sweep_at = UNSETTLED_SWEEP.max(self.unsettled.len() * 2);
        tracing::debug!(
            connection = cx.peer.id(),
            kept = self.unsettled.len(),
            "deliveries with ended locks forgotten"
        );
    }

    /// The full number of a delivery-id that was sent before.
    fn delivery_of(&self, id: u32) -> Option<u64> {
        let behind = low(self.next_delivery).wrapping_sub(id);
        if behind == 0 || behind > i32::MAX.unsigned_abs() {
            return None;
        }
        self.next_delivery.checked_sub(u64::from(behind))
    }
}

/// What a disposition asks for, and what is answered when it is done. `None` when it settles nothing.
fn outcome_of(disposition: &Disposition<'_>) -> Result<Option<(Outcome, Reply)>, Failure> {
    Ok(Some(match disposition.state {
        Some(State::Accepted) => (Outcome::Complete, Reply::Accepted),
        Some(State::Released) => (Outcome::Release, Reply::Released),
        Some(State::Modified { undeliverable_here, delivery_failed, annotations }) => {
            let properties = pairs(annotations);
            let outcome = if undeliverable_here { Outcome::Defer(properties) } else { Outcome::Abandon(properties) };
            (outcome, Reply::Modified { delivery_failed, undeliverable_here })
        }
        Some(State::Rejected(error)) => (Outcome::DeadLetter(dead_letter(error)), Reply::Rejected(None)),
        // Settled without an outcome: nobody says that it was worked, so it comes again.
        None if disposition.settled => (Outcome::Release, Reply::Released),
        None | Some(State::Received) => return Ok(None),
        Some(State::Other) => {
            return Err(Failure::session("amqp:not-implemented", NO_TRANSACTIONS));
        }
    }))
}

/// The reason that a client gives: in the error's info under Azure's keys, or as any other error.
fn dead_letter(error: Option<PeerError<'_>>) -> DeadLetter {
    let Some(error) = error else { return DeadLetter::default() };
    let mut asked = DeadLetter::default();
    for (key, value) in pairs(error.info) {
        let text = || Reader::new(&value).text().ok().flatten().map(str::to_owned);
        match key.as_str() {
            "DeadLetterReason" => asked.reason = text(),
            "DeadLetterErrorDescription" => asked.description = text(),
            _ => asked.properties.push((key, value)),
        }
    }
    if error.condition != "com.microsoft:dead-letter" {
        asked.reason = asked.reason.or_else(|| Some(error.condition.to_owned()));
        asked.description = asked.description.or_else(|| error.description.map(str::to_owned));
    }
    asked
}

/// Keys, whether string or symbol, and encoded values of a map.
pub(super) fn pairs(map: Option<&[u8]>) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let Some(mut fields) = map.and_then(|raw| Reader::new(raw).map().ok()) else { return found };
    while fields.len() > 0 {
        let (Ok(key), Ok(value)) = (fields.text(), fields.raw()) else { break };
        let mut encoded = Vec::new();
        encoded.raw_or_null(value);
        found.extend(key.map(|key| (key.to_owned(), encoded)));
    }
    found
}

impl From<SettleRefusal> for AmqpError {
    fn from(refusal: SettleRefusal) -> Self {
        match refusal {
            SettleRefusal::LockLost => Self::new(LOCK_LOST_CONDITION, LOCK_LOST),
            SettleRefusal::OnDeadLetterQueue => Self::new("amqp:not-allowed", ON_DEAD_LETTER_QUEUE),
            SettleRefusal::Full => Self::new("amqp:resource-limit-exceeded", NO_ROOM),
        }
    }
}
