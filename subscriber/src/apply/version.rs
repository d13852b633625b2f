//! The order of versions, as bytes that Rust, SQLite and PostgreSQL compare alike.
//!
//! A version is, one after the other: the declared field; the position (kind, epoch, publisher, sequence, row); whether the
//! row is a deletion; eight bytes of its content's hash. Every part is self-delimiting and sorts as its value does, so the
//! whole is one lexicographic, and therefore total, order: `a < b` and `b < c` give `a < c` for any three rows, and tables
//! become the same whatever the order of arrival. Breaking ties between *incomparable* positions (two publishers, or a file
//! without a position) by content alone, and others by position, would not be transitive.
//!
//! | part | bytes |
//! |---|---|
//! | timestamp | 5 of seconds, digits of the fraction, `00` |
//! | integer, decimal | see [`Number::push_order_key`] |
//! | text | UTF-8 with `00` as `00 FF`, then `00 00` |
//! | position | `01` broker: sequence number, row; `02` sequenced: epoch, publisher, sequence, row; of a full export: epoch,
//! publisher, its place, `FF`, sequence, row |
//! | epoch | `02` and the 16 bytes of a UUID, else `01` and text |
//! | sequence, row | the count of bytes that follow, big-endian |
//! | deletion | `01`, else `00` |
//! | content | the first 8 bytes of the row's SHA-256 |

use sha2::{Digest, Sha256};
use uuid::Uuid;
use waybill_contracts::VersionType;
use waybill_formats::{
    Field,
    scalar::{Instant, Number},
};

use super::fields::{field_text, shown};

/// Where a file stands in its publisher's sequence. Rows within it are ordered by their number.
///
/// A file with a place in a sequence counts as newer than one that only has the broker's number: a publisher that begins
/// to number its files goes on from what it sent before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Position {
    /// From `properties.waybill`.
    Sequenced {
        /// The publisher's name; empty when it gave none.
        publisher: String,
        /// A UUID version 7: sorts by the creation time of the outbox database.
        epoch: String,
        /// 1, 2, 3 …
        sequence: u64,
    },
    /// A part of a full export: newer than the file with the number of its place, older than the next one.
    Snapshot {
        /// The publisher's name; empty when it gave none.
        publisher: String,
        /// As of a sequenced file.
        epoch: String,
        /// The last number that its rows hold the effect of.
        as_of: u64,
        /// Its own number: of two full exports of one place the later one counts.
        sequence: u64,
    },
    /// Without these: the broker's sequence number.
    Broker {
        /// `x-opt-sequence-number`.
        sequence_number: i64,
    },
}

impl Position {
    /// The part of a version that all rows of the file share.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(48);
        match self {
            Self::Broker { sequence_number } => {
                key.push(1);
                key.extend_from_slice(&sequence_number.wrapping_sub(i64::MIN).to_be_bytes());
            }
            Self::Sequenced { publisher, epoch, sequence } => push_place(publisher, epoch, *sequence, &mut key),
            Self::Snapshot { publisher, epoch, as_of, sequence } => {
                push_place(publisher, epoch, *as_of, &mut key);
                // Behind every row of that file: a row's number begins with 8 at most.
                key.push(u8::MAX);
                push_count(*sequence, &mut key);
            }
        }
        key
    }

    /// Who published it, where it is in a sequence.
    pub(crate) fn publisher(&self) -> Option<&str> {
        match self {
            Self::Sequenced { publisher, .. } | Self::Snapshot { publisher, .. } => Some(publisher),
            Self::Broker { .. } => None,
        }
    }
}

fn push_place(publisher: &str, epoch: &str, sequence: u64, key: &mut Vec<u8>) {
    key.push(2);
    push_epoch(epoch, key);
    push_text(publisher, key);
    push_count(sequence, key);
}

/// Sorts as epochs do.
pub(super) fn epoch_key(epoch: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    push_epoch(epoch, &mut key);
    key
}

fn push_epoch(epoch: &str, key: &mut Vec<u8>) {
    match Uuid::try_parse(epoch) {
        Ok(uuid) => {
            key.push(2);
            key.extend_from_slice(uuid.as_bytes());
        }
        Err(_) => {
            key.push(1);
            push_text(epoch, key);
        }
    }
}

/// Appends the declared field's part.
///
/// # Errors
/// What is wrong with the value, for a person.
pub(crate) fn push_field(kind: VersionType, field: &Field<'_>, version: &mut Vec<u8>) -> Result<(), String> {
    let Some(text) = field_text(field) else {
        return Err(format!("is {}; every row needs its version", shown(field)));
    };
    match kind {
        VersionType::Timestamp => match Instant::parse(text) {
            Some(instant) => instant.push_order_key(version),
            None => {
                return Err(format!(
                    "is {}, no timestamp such as 2014-02-08T10:01:36.8Z with its offset",
                    shown(field)
                ));
            }
        },
        VersionType::Integer => match Number::parse(text).filter(Number::is_whole) {
            Some(number) => number.push_order_key(version),
            None => return Err(format!("is {}, no integer", shown(field))),
        },
        VersionType::Decimal => match Number::parse(text) {
            Some(number) => number.push_order_key(version),
            None => return Err(format!("is {}, no decimal number", shown(field))),
        },
        VersionType::Text => push_text(text, version),
    }
    Ok(())
}

/// Appends the rest, after [`Position::key`]: the row's number, whether it deletes, and its content.
pub(crate) fn push_row(number: u64, deletion: bool, raw: &[u8], version: &mut Vec<u8>) {
    push_count(number, version);
    version.push(u8::from(deletion));
    version.extend(Sha256::digest(raw).iter().take(8));
}

/// Sorts by the bytes, and ends before every text that goes on.
fn push_text(text: &str, key: &mut Vec<u8>) {
    for &byte in text.as_bytes() {
        key.push(byte);
        if byte == 0 {
            key.push(0xFF);
        }
    }
    key.extend_from_slice(&[0, 0]);
}

/// A longer number is a larger one.
fn push_count(count: u64, key: &mut Vec<u8>) {
    let bytes = count.to_be_bytes();
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    key.push(8 - u8::try_from(zeros).expect("at most 8"));
    key.extend(bytes.iter().skip(zeros));
}
