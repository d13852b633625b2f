//! `$management`: locks, peeking and settling beside the links.
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus: request-response-based operations". Status codes and types as Microsoft's clients read
//! them.

use uuid::Uuid;

use super::codec::Value;
use super::encode::Write;
use super::message::{Message, Stamp};
use super::request::{Answer, Request};
use super::tokens::{Need, Right, Tokens, unauthorized};
use crate::broker::queue::{DeadLetter, Handed, Outcome};
use crate::broker::{Mailbox, Moment, Node, Part, SettleRefusal, State};

/// Bytes of messages in one answer, but for the first.
const ANSWER_MAX: usize = 1024 * 1024;

/// Text of a lost lock, as Azure words it.
pub(crate) const LOCK_LOST: &str =
    "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue.";
/// Condition of a lost lock.
pub(crate) const LOCK_LOST_CONDITION: &str = "com.microsoft:message-lock-lost";
/// What is answered to dead-lettering on a dead-letter queue.
pub(crate) const ON_DEAD_LETTER_QUEUE: &str =
    "a message on a dead-letter queue cannot be dead-lettered again; complete, abandon or defer it";

/// Answers a request to the `$management` node of an entity.
pub(crate) fn answer(request: &Request, entity: &str, node: Option<Node>, tokens: &Tokens, now: Moment) -> Answer {
    let operation = request.property("operation").unwrap_or_default();
    let known = [RENEW_LOCK, PEEK, UPDATE_DISPOSITION, RECEIVE_DEFERRED];
    if !known.contains(&operation) {
        let text = format!("the operation '{operation}' is not supported; supported are {}", known.join(", "));
        return Answer::refusal(501, "amqp:not-implemented", text);
    }
    let need = Need { path: format!("{entity}/$management"), right: Right::Listen };
    if !tokens.allow(&need, now.seconds()) {
        let refusal = unauthorized(&need);
        return Answer::refusal(401, refusal.condition, refusal.description);
    }
    let (mailbox, part) = match node {
        Some(Node::Queue(mailbox, part) | Node::Subscription(mailbox, part)) => (mailbox, part),
        Some(Node::Topic(_)) => {
            return Answer::refusal(
                400,
                "amqp:not-allowed",
                format!("'{entity}' is a topic; ask one of its subscriptions"),
            );
        }
        None => return Answer::refusal(404, "amqp:not-found", format!("there is no entity '{entity}'")),
    };
    match operation {
        RENEW_LOCK => renew(&request.body, &mailbox, part, now),
        PEEK => peek(&request.body, &mailbox, part, now),
        UPDATE_DISPOSITION => settle(&request.body, &mailbox, part, now),
        _ => receive_deferred(&request.body, &mailbox, part, now),
    }
}

const RENEW_LOCK: &str = "com.microsoft:renew-lock";
const PEEK: &str = "com.microsoft:peek-message";
const UPDATE_DISPOSITION: &str = "com.microsoft:update-disposition";
const RECEIVE_DEFERRED: &str = "com.microsoft:receive-by-sequence-number";

fn renew(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let tokens = match lock_tokens(body) {
        Ok(tokens) => tokens,
        Err(refusal) => return refusal,
    };
    let mut expirations = Vec::with_capacity(tokens.len());
    for token in &tokens {
        match mailbox.renew(part, *token, now) {
            Ok(until) => expirations.push(until.0),
            Err(_) => return lock_lost(),
        }
    }
    let mut out = Vec::new();
    out.map(|map| {
        map.text("expirations");
        map.array(0x83, u32::try_from(expirations.len()).unwrap_or(u32::MAX), |out| {
            expirations.iter().for_each(|until| out.extend(until.to_be_bytes()));
        });
    });
    Answer::ok(Some(out))
}

fn peek(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let from = body.get("from-sequence-number").and_then(Value::as_int).unwrap_or(0);
    let count = body.get("message-count").and_then(Value::as_int).unwrap_or(1);
    let mut left = usize::try_from(count).unwrap_or(0);
    let mut room = ANSWER_MAX;
    let mut first = true;
    let messages = mailbox.peek(part, from, now, |handed| {
        let fits = left > 0 && (first || handed.message.len() <= room);
        first = false;
        left = left.saturating_sub(1);
        room = room.saturating_sub(handed.message.len());
        fits
    });
    if messages.is_empty() {
        return Answer { status: 204, description: "No content".to_owned(), condition: None, body: None };
    }
    Answer::ok(Some(messages_body(&messages, mailbox, part, true)))
}

fn settle(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let tokens = match lock_tokens(body) {
        Ok(tokens) => tokens,
        Err(refusal) => return refusal,
    };
    let text = |key: &str| body.get(key).and_then(Value::as_text).map(str::to_owned);
    if body.get("properties-to-modify").is_some_and(|value| *value != Value::Null) {
        return Answer::refusal(501, "amqp:not-implemented", "properties-to-modify is supported on the link only");
    }
    let outcome = match text("disposition-status").as_deref() {
        Some("completed") => Outcome::Complete,
        Some("abandoned") => Outcome::Abandon(Vec::new()),
        Some("defered" | "deferred") => Outcome::Defer(Vec::new()),
        Some("suspended") => Outcome::DeadLetter(DeadLetter {
            reason: text("deadletter-reason"),
            description: text("deadletter-description"),
            properties: Vec::new(),
        }),
        other => {
            let text = format!(
                "the disposition-status '{}' is unknown; use completed, abandoned, defered or suspended",
                other.unwrap_or_default()
            );
            return Answer::refusal(400, "amqp:invalid-field", text);
        }
    };
    let mut answers = Vec::with_capacity(tokens.len());
    mailbox.settle(part, &tokens, &outcome, now, &mut answers);
    match answers.into_iter().find_map(Result::err) {
        None => Answer::ok(None),
        Some(SettleRefusal::LockLost) => lock_lost(),
        Some(SettleRefusal::OnDeadLetterQueue) => Answer::refusal(400, "amqp:not-allowed", ON_DEAD_LETTER_QUEUE),
    }
}

fn receive_deferred(body: &Value, mailbox: &Mailbox, part: Part, now: Moment) -> Answer {
    let sequences: Vec<i64> = body
        .get("sequence-numbers")
        .map(Value::elements)
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_int)
        .collect();
    // 0 is receive-and-delete, 1 peek-lock (AMQP's rcv-settle-mode).
    let lock = body.get("receiver-settle-mode").and_then(Value::as_int) != Some(0);
    let messages = mailbox.take_deferred(part, &sequences, lock, now);
    if messages.is_empty() {
        let text = format!("no deferred message has one of the sequence numbers {sequences:?}");
        return Answer::refusal(404, "com.microsoft:message-not-found", text);
    }
    Answer::ok(Some(messages_body(&messages, mailbox, part, false)))
}

fn messages_body(messages: &[Handed], mailbox: &Mailbox, part: Part, peeked: bool) -> Vec<u8> {
    let mut out = Vec::new();
    out.map(|map| {
        map.text("messages");
        map.list(|list| {
            for handed in messages {
                list.map(|map| {
                    map.text("message");
                    map.binary(&encode(handed, mailbox, part, peeked));
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

fn encode(handed: &Handed, mailbox: &Mailbox, part: Part, peeked: bool) -> Vec<u8> {
    let message: &Message = &handed.message;
    let state = i32::from(handed.state == State::Deferred);
    let stamp = Stamp {
        delivery_count: handed.delivery_count,
        sequence: handed.sequence,
        enqueued_at: handed.enqueued_at.0,
        lock: handed.lock.filter(|_| !peeked).map(|(token, until)| (token, until.0)),
        dead_letter_source: (part == Part::DeadLetter).then_some(mailbox.name.as_str()),
        state: peeked.then_some(state),
    };
    let mut out = Vec::with_capacity(message.encoded_max());
    message.write(&mut out, &stamp);
    out
}

fn lock_tokens(body: &Value) -> Result<Vec<Uuid>, Answer> {
    let elements = body.get("lock-tokens").map(Value::elements).unwrap_or_default();
    let tokens: Option<Vec<Uuid>> = elements
        .iter()
        .map(|element| match element {
            Value::Uuid(token) => Some(*token),
            _ => None,
        })
        .collect();
    tokens.filter(|tokens| !tokens.is_empty()).ok_or_else(|| {
        Answer::refusal(400, "amqp:invalid-field", "'lock-tokens' must be an array of at least one uuid")
    })
}

fn lock_lost() -> Answer {
    Answer::refusal(410, LOCK_LOST_CONDITION, LOCK_LOST)
}
