//! Requests to `$cbs` and `$management`, and their answers.
//!
//! # Sources
//! AMQP Management working draft, section 3 (request and response properties); the spellings `status-code` on `$cbs` and
//! `statusCode` on `$management`, and the type of `correlation-id`, as Microsoft's clients expect them.

use super::codec::{DecodeError, Reader, Value};
use super::encode::Write;
use super::performative::AmqpError;

/// Bytes of a message-id, which is kept to be repeated in the answer; Azure's own limit for a message is 128 characters.
const ID_MAX: usize = 1_024;

/// Why a request cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("a request is malformed: {0}")]
    Malformed(#[from] DecodeError),
    #[error("a request has a message-id of {0} bytes, which its answer would repeat; use one of at most {ID_MAX}")]
    LongId(usize),
}

impl RequestError {
    pub(crate) fn condition(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "amqp:decode-error",
            Self::LongId(_) => "amqp:invalid-field",
        }
    }
}

/// A request as it came in.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    /// Encoded, so that the answer's `correlation-id` has the same type: uuid, string or ulong.
    message_id: Option<Vec<u8>>,
    pub(crate) reply_to: Option<String>,
    properties: Value,
    pub(crate) body: Value,
    /// The body as it is encoded.
    raw_body: &'a [u8],
}

/// How the status is spelt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spelling {
    Cbs,
    Management,
}

/// What is answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: i32,
    pub(crate) description: String,
    pub(crate) condition: Option<&'static str>,
    /// An encoded value; an empty map where there is nothing to say, because clients read a body.
    pub(crate) body: Option<Vec<u8>>,
}

impl Answer {
    pub(crate) fn ok(body: Option<Vec<u8>>) -> Self {
        Self { status: 200, description: "OK".to_owned(), condition: None, body }
    }

    pub(crate) fn refusal(status: i32, condition: &'static str, description: impl Into<String>) -> Self {
        Self { status, description: description.into(), condition: Some(condition), body: None }
    }
}

impl From<AmqpError> for Answer {
    /// A refusal that a link would get, with the status that `@azure/core-amqp` knows its condition by.
    fn from(error: AmqpError) -> Self {
        let status = match error.condition {
            "amqp:unauthorized-access" => 401,
            "amqp:resource-limit-exceeded" | "amqp:link:message-size-exceeded" => 403,
            _ => 400,
        };
        Self::refusal(status, error.condition, error.description)
    }
}

impl<'a> Request<'a> {
    pub(crate) fn read(encoded: &'a [u8]) -> Result<Self, RequestError> {
        let mut request =
            Self { message_id: None, reply_to: None, properties: Value::Null, body: Value::Null, raw_body: &[] };
        let mut reader = Reader::new(encoded);
        while !reader.is_empty() {
            match reader.descriptor()? {
                0x73 => {
                    let mut fields = reader.list()?;
                    let id = fields.raw()?;
                    if let Some(id) = id.filter(|id| id.len() > ID_MAX) {
                        return Err(RequestError::LongId(id.len()));
                    }
                    request.message_id = id.map(<[u8]>::to_vec);
                    fields.skip(3)?;
                    request.reply_to = fields.text()?.map(str::to_owned);
                }
                0x74 => request.properties = reader.value()?,
                0x77 => {
                    let raw = reader.raw()?;
                    request.raw_body = raw;
                    request.body = Reader::new(raw).value()?;
                }
                _ => reader.skip()?,
            }
        }
        Ok(request)
    }

    /// A text among the application properties.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).and_then(Value::as_text)
    }

    /// An entry of the body, encoded: for values that are to be kept as they are.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a [u8]> {
        let mut fields = Reader::new(self.raw_body).map().ok()?;
        loop {
            let found = fields.next()?.text().ok()? == Some(name);
            let value = fields.raw().ok()?;
            if found {
                return value;
            }
        }
    }

    /// The encoded answer.
    pub(crate) fn answer(&self, spelling: Spelling, answer: &Answer) -> Vec<u8> {
        let [status, description, condition] = match spelling {
            Spelling::Cbs => ["status-code", "status-description", "error-condition"],
            Spelling::Management => ["statusCode", "statusDescription", "errorCondition"],
        };
        let mut out = Vec::with_capacity(200 + answer.body.as_ref().map_or(0, Vec::len));
        out.described_list(0x73, |list| {
            for _ in 0..5 {
                list.null();
            }
            list.raw_or_null(self.message_id.as_deref());
        });
        out.extend([0x00, 0x53, 0x74]);
        out.map(|map| {
            map.text(status);
            map.int(answer.status);
            map.text(description);
            map.text(&answer.description);
            if let Some(cause) = answer.condition {
                map.text(condition);
                map.symbol(cause);
            }
        });
        out.extend([0x00, 0x53, 0x77]);
        match &answer.body {
            Some(body) => out.extend_from_slice(body),
            None => out.map(|_| {}),
        }
        out
    }
}
