//! The order of versions: the declared field as an order-preserving byte key, then the position. One total order,
//! compared as bytes in Rust, SQLite and PostgreSQL alike.

/// Where a file stands in its publisher's sequence. Rows within it are ordered by their number.
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
    /// Without these: the broker's sequence number.
    Broker {
        /// `x-opt-sequence-number`.
        sequence_number: i64,
    },
}
