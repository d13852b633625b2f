//! `$management`: locks, peeking, settling and deleting beside the links. What is scheduled is in `scheduling`.
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus: request-response-based operations". Status codes and types as Microsoft's clients read
//! them; conditions by the tables `ConditionErrorNameMapper` of `@azure/core-amqp` and `_ERROR_CODE_TO_ERROR_MAPPING` of
//! `azure-servicebus`; `batch-delete-messages` by the tests of the JavaScript and Go clients.

use uuid::Uuid;

use super::codec::Value;
use super::encode::Write;
use super::link::disabled;
use super::message::{Message, Stamp};
use super::request::{Answer, Request};
use super::scheduling;
use super::settle::pairs;
use super::tokens::{Need, Right, Tokens, unauthorized};
use crate::broker::queue::{DELETE_MAX, DeadLetter, Handed, Outcome};
use crate::broker::{Destination, LinkRole, Mailbox, Moment, Node, Part, SettleRefusal, State};

/// Bytes of messages in one answer, but for the first.
const ANSWER_MAX: usize = 1024 * 1024;

/// Bytes of deferred messages in one answer, but for a single one.
const DEFERRED_MAX: usize = 16 * 1024 * 1024;

/// Text of a lost lock, as Azure words it.
pub(crate) const LOCK_LOST: &str =
    "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue.";
/// Condition of a lost lock.
pub(crate) const LOCK_LOST_CONDITION: &str = "com.microsoft:message-lock-lost";
/// What is answered to dead-lettering on a dead-letter queue.
pub(crate) const ON_DEAD_LETTER_QUEUE: &str =
    "a message on a dead-letter queue cannot be dead-lettered again; complete, abandon or defer it";
/// What is answered to properties that a full entity has no room for.
pub(crate) const NO_ROOM: &str = "The entity has reached its size, and has no room for these properties: settle without them, or receive messages first.";
/// Condition of numbers that name nothing.
pub(super) const NOT_FOUND_CONDITION: &str = "com.microsoft:message-not-found";

const RENEW_LOCK: &str = "com.microsoft:renew-lock";
const PEEK: &str = "com.microsoft:peek-message";
const UPDATE_DISPOSITION: &str = "com.microsoft:update-disposition";
const RECEIVE_DEFERRED: &str = "com.microsoft:receive-by-sequence-number";
const BATCH_DELETE: &str = "com.microsoft:batch-delete-messages";
const SCHEDULE: &str = "com.microsoft:schedule-message";
const CANCEL: &str = "com.microsoft:cancel-scheduled-message";

/// What can be asked for, and the right that it takes.
const OPERATIONS: [(&str, Right); 7] = [
    (RENEW_LOCK, Right::Listen),
    (PEEK, Right::Listen),
    (UPDATE_DISPOSITION, Right::Listen),
    (RECEIVE_DEFERRED, Right::Listen),
    (BATCH_DELETE, Right::Listen),
    (SCHEDULE, Right::Send),
    (CANCEL, Right::Send),
];

/// What can be asked of an entity that requires sessions only.
const SESSION_OPERATIONS: [&str; 4] = [
    "com.microsoft:renew-session-lock",
    "com.microsoft:get-session-state",
    "com.microsoft:set-session-state",
    "com.microsoft:get-message-sessions",
];

/// Answers a request to the `$management` node of an entity.
pub(crate) fn answer(request: &Request<'_>, entity: &str, node: Option<Node>, tokens: &Tokens, now: Moment) -> Answer {
    let operation = request.property("operation").unwrap_or_default();
    if SESSION_OPERATIONS.contains(&operation) {
        return no_sessions(entity);
    }
    let Some(&(operation, right)) = OPERATIONS.iter().find(|(known, _)| *known == operation) else {
        let known: Vec<&str> = OPERATIONS.iter().map(|(known, _)| *known).collect();
        let text = format!("the operation '{operation}' is not supported; supported are {}", known.join(", "));
        return Answer::refusal(501, "amqp:not-implemented", text);
    };
    let need = Need { path: format!("{entity}/$management"), right };
    if !tokens.allow(&need, now.seconds()) {
        return Answer::from(unauthorized(&need));
    }
    let Some(node) = node else {
        let text = format!("The messaging entity '{entity}' could not be found. Create it, or correct its name.");
        return Answer::refusal(404, "amqp:not-found", text);
    };
    if request.body.get("session-id").is_some_and(|session| *session != Value::Null) {
        return no_sessions(entity);
    }
    match operation {
        SCHEDULE | CANCEL => {
            let destination = match node {
                Node::Queue(mailbox, Part::Main) => Destination::Queue(mailbox),
                Node::Topic(topic) => Destination::Topic(topic),
                Node::Queue(_, Part::DeadLetter) | Node::Subscription(..) => {
                    let text = format!("nothing can be sent to '{entity}'; schedule on its queue or topic");
                    return Answer::refusal(400, "amqp:not-allowed", text);
                }
            };
            if let Some(refusal) = disabled(entity, destination.status(), LinkRole::Sender) {
                return Answer::from(refusal);
            }
            match operation {
                SCHEDULE => scheduling::schedule(&request.body, &destination, now),
                _ => scheduling::cancel(&request.body, &destination, now),
            }
        }
        PEEK => peek(&request.body, &node, now),
        _ => match node {
            Node::Queue(mailbox, part) | Node::Subscription(mailbox, part) => {
                on_mailbox(operation, request, entity, &mailbox, part, now)
            }
            Node::Topic(_) => {
                let text = format!("'{entity}' is a topic; ask one of its subscriptions");
                Answer::refusal(400, "amqp:not-allowed", text)
            }
        },
    }
}

fn on_mailbox(
    operation: &str,
    request: &Request<'_>,
    entity: &str,
    mailbox: &Mailbox,
    part: Part,
    now: Moment,
) -> Answer {
    let body = &request.body;
    match operation {
        // Who holds a lock may end what it began, whatever the status.
        RENEW_LOCK => renew(body, mailbox, part, now),
        UPDATE_DISPOSITION => settle(request, mailbox, part, now),
        _ => match disabled(entity, mailbox.status(), LinkRole::Receiver) {
            Some(refusal) => Answer::from(refusal),
            None if operation == BATCH_DELETE => delete(body, mailbox, part, now),
            None => receive_deferred(body, mailbox, part, now),
        },
    }
}

fn renew(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let tokens = match lock_tokens(body) {
        Ok(tokens) => tokens,
        Err(refusal) => return refusal,
    };
    let Ok(until) = mailbox.renew(part, &tokens, now) else { return lock_lost() };
    let mut out = Vec::new();
    out.map(|map| {
        map.text("expirations");
        map.array(0x83, u32::try_from(tokens.len()).unwrap_or(u32::MAX), |out| {
            tokens.iter().for_each(|_| out.extend(until.0.to_be_bytes()));
        });
    });
    Answer::ok(Some(out))
}

fn peek(body: &Value, node: &Node, now: Moment) -> Answer {
    let from = body.get("from-sequence-number").and_then(Value::as_int).unwrap_or(0);
    let count = body.get("message-count").and_then(Value::as_int).unwrap_or(1);
    let mut left = usize::try_from(count).unwrap_or(0);
    let mut room = ANSWER_MAX;
    let mut first = true;
    let messages = node.peek(from, now, |handed| {
        let fits = left > 0 && (first || handed.message.len() <= room);
        first = false;
        left = left.saturating_sub(1);
        room = room.saturating_sub(handed.message.len());
        fits
    });
    if messages.is_empty() {
        return no_content(None);
    }
    Answer::ok(Some(messages_body(&messages, node.dead_letter_source(), true)))
}

fn settle(request: &Request<'_>, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let body = &request.body;
    let tokens = match lock_tokens(body) {
        Ok(tokens) => tokens,
        Err(refusal) => return refusal,
    };
    let text = |key: &str| body.get(key).and_then(Value::as_text).map(str::to_owned);
    let properties = pairs(request.raw("properties-to-modify"));
    let outcome = match text("disposition-status").as_deref() {
        Some("completed") => Outcome::Complete,
        Some("abandoned") => Outcome::Abandon(properties),
        Some("defered" | "deferred") => Outcome::Defer(properties),
        Some("suspended") => Outcome::DeadLetter(DeadLetter {
            reason: text("deadletter-reason"),
            description: text("deadletter-description"),
            properties,
        }),
        other => {
            return bad_argument(format!(
                "the disposition-status '{}' is unknown; use completed, abandoned, defered or suspended",
                other.unwrap_or_default()
            ));
        }
    };
    let mut answers = Vec::with_capacity(tokens.len());
    mailbox.settle(part, &tokens, &outcome, now, &mut answers);
    match answers.into_iter().find_map(Result::err) {
        None => Answer::ok(None),
        Some(SettleRefusal::LockLost) => lock_lost(),
        Some(SettleRefusal::OnDeadLetterQueue) => Answer::refusal(400, "amqp:not-allowed", ON_DEAD_LETTER_QUEUE),
        Some(SettleRefusal::Full) => Answer::refusal(403, "amqp:resource-limit-exceeded", NO_ROOM),
    }
}

fn receive_deferred(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let sequences = match sequence_numbers(body) {
        Ok(sequences) => sequences,
        Err(refusal) => return refusal,
    };
    let bytes = mailbox.deferred_bytes(part, &sequences);
    if bytes > DEFERRED_MAX && sequences.len() > 1 {
        let text = format!("these messages have {bytes} bytes; ask for at most {DEFERRED_MAX} bytes of them at once");
        return Answer::refusal(403, "amqp:resource-limit-exceeded", text);
    }
    // 0 is receive-and-delete, 1 peek-lock (AMQP's rcv-settle-mode).
    let lock = body.get("receiver-settle-mode").and_then(Value::as_int) != Some(0);
    match mailbox.take_deferred(part, &sequences, lock, now) {
        Ok(messages) => {
            let source = (part == Part::DeadLetter).then_some(mailbox.name.as_str());
            Answer::ok(Some(messages_body(&messages, source, false)))
        }
        // Azure's words.
        Err(_) => {
            let text = "Failed to lock one or more specified messages. \
                        Either the message is already locked or does not exist.";
            Answer::refusal(404, NOT_FOUND_CONDITION, text)
        }
    }
}

fn delete(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let count = body.get("message-count").and_then(Value::as_int).unwrap_or(0);
    let most = match usize::try_from(count) {
        Ok(most) if (1..=DELETE_MAX).contains(&most) => most,
        _ => {
            let text = format!("'message-count' is {count}; it must be 1 to {DELETE_MAX}");
            return Answer::refusal(400, "com.microsoft:argument-out-of-range", text);
        }
    };
    let before = body.get("enqueued-time-utc").and_then(Value::as_int).map_or(Moment::NEVER, Moment);
    let deleted = mailbox.delete_before(part, before, most, now);
    let mut out = Vec::new();
    out.map(|map| {
        map.text("message-count");
        map.int(i32::try_from(deleted).unwrap_or(i32::MAX));
    });
    if deleted == 0 { no_content(Some(out)) } else { Answer::ok(Some(out)) }
}

fn messages_body(messages: &[Handed], dead_letter_source: Option<&str>, peeked: bool) -> Vec<u8> {
    let mut out = Vec::new();
    out.map(|map| {
        map.text("messages");
        map.list(|list| {
            for handed in messages {
                list.map(|map| {
                    map.text("message");
                    map.binary(&encode(handed, dead_letter_source, peeked));
                    if let Some((token, _)) = handed.lock.filter(|_| !peeked) {
                        map.text("lock-token");
                        map.uuid(token);
                    }
                });
            }
        });
    });
    out
}

fn encode(handed: &Handed, dead_letter_source: Option<&str>, peeked: bool) -> Vec<u8> {
    let message: &Message = &handed.message;
    let state = match handed.state {
        State::Active | State::Locked => 0,
        State::Deferred => 1,
        State::Scheduled => 2,
    };
    let stamp = Stamp {
        delivery_count: handed.delivery_count,
        sequence: handed.sequence,
        enqueued_at: handed.enqueued_at.0,
        expires_at: handed.expires_at.stated(),
        lock: handed.lock.filter(|_| !peeked).map(|(token, until)| (token, until.0)),
        dead_letter_source,
        state: peeked.then_some(state),
    };
    let mut out = Vec::with_capacity(message.encoded_max());
    message.write(&mut out, &stamp);
    out
}

fn lock_tokens(body: &Value) -> Result<Vec<Uuid>, Answer> {
    let elements = body.get("lock-tokens").map(Value::elements).unwrap_or_default();
    let token = |element: &Value| match element {
        Value::Uuid(token) => Some(*token),
        _ => None,
    };
    let tokens: Option<Vec<Uuid>> = elements.iter().map(token).collect();
    tokens
        .filter(|tokens| !tokens.is_empty())
        .ok_or_else(|| bad_argument("'lock-tokens' must be an array of at least one uuid"))
}

pub(super) fn sequence_numbers(body: &Value) -> Result<Vec<i64>, Answer> {
    let elements = body.get("sequence-numbers").map(Value::elements).unwrap_or_default();
    let sequences: Option<Vec<i64>> = elements.iter().map(Value::as_int).collect();
    sequences
        .filter(|sequences| !sequences.is_empty())
        .ok_or_else(|| bad_argument("'sequence-numbers' must be an array of at least one long"))
}

pub(super) fn bad_argument(text: impl Into<String>) -> Answer {
    Answer::refusal(400, "com.microsoft:argument-error", text)
}

fn no_content(body: Option<Vec<u8>>) -> Answer {
    Answer { status: 204, description: "No content".to_owned(), condition: None, body }
}

fn no_sessions(entity: &str) -> Answer {
    let text = format!("'{entity}' does not require sessions, so this cannot be asked for one; leave the session out");
    Answer::refusal(400, "amqp:not-allowed", text)
}

fn lock_lost() -> Answer {
    Answer::refusal(410, LOCK_LOST_CONDITION, LOCK_LOST)
}
