//! Scheduling by request: messages that are to appear later, and taking them back.
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus: request-response-based operations", sections on scheduled messages.

use std::sync::Arc;

use super::codec::Value;
use super::encode::Write as _;
use super::management::{NOT_FOUND_CONDITION, bad_argument, sequence_numbers};
use super::message::Message;
use super::performative::AmqpError;
use super::request::Answer;
use crate::broker::{Destination, Moment};

/// Takes messages, each with `x-opt-scheduled-enqueue-time` among its annotations: all of them, or none.
pub(super) fn schedule(body: &Value, destination: &Destination, now: Moment) -> Answer {
    let entries = body.get("messages").map(Value::elements).unwrap_or_default();
    if entries.is_empty() {
        return bad_argument("'messages' must be a list of at least one map with a 'message'");
    }
    let mut messages = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(Value::Binary(encoded)) = entry.get("message") else {
            return bad_argument("each entry of 'messages' needs a 'message' of type binary");
        };
        let max = destination.max_message_bytes();
        if u64::try_from(encoded.len()).unwrap_or(u64::MAX) > max {
            let text = format!("The message (size: {}) exceeds the limit ({max}) of this entity.", encoded.len());
            return Answer::from(AmqpError::new("amqp:link:message-size-exceeded", text));
        }
        match Message::read(encoded) {
            Ok(message) => messages.push(Arc::new(message)),
            Err(error) => return bad_argument(format!("a message is malformed: {error}")),
        }
    }
    match destination.schedule(&messages, now) {
        Ok(sequences) => {
            let mut out = Vec::new();
            out.map(|map| {
                map.text("sequence-numbers");
                map.array(0x81, u32::try_from(sequences.len()).unwrap_or(u32::MAX), |out| {
                    sequences.iter().for_each(|sequence| out.extend(sequence.to_be_bytes()));
                });
            });
            Answer::ok(Some(out))
        }
        Err(refusal) => Answer::from(AmqpError::from(refusal)),
    }
}

/// Forgets scheduled messages: all that are named, or none when one of them is not scheduled (any more).
pub(super) fn cancel(body: &Value, destination: &Destination, now: Moment) -> Answer {
    let sequences = match sequence_numbers(body) {
        Ok(sequences) => sequences,
        Err(refusal) => return refusal,
    };
    match destination.cancel(&sequences, now) {
        Ok(()) => Answer::ok(None),
        Err(_) => {
            let text = format!(
                "The scheduled message could not be found: one of {sequences:?} was enqueued, cancelled, or never \
                 scheduled here."
            );
            Answer::refusal(404, NOT_FOUND_CONDITION, text)
        }
    }
}
