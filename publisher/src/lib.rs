//! Publishes changes as compressed files, and one message for each.
//!
//! ```text
//! rows or a file ──export──► outbox: planned ──staged, numbered, committed──► uploaded ──relay──► sent
//! ```
//!
//! An export is durable when its `finish` returns: its blob is committed and the outbox knows it. The relay then sends its
//! message until the broker has accepted it, across crashes, restarts and outages, with one message-id. A message is never
//! sent before its blob is committed, and a blob is never overwritten.

mod context;
mod export;
pub mod outbox;
mod publisher;
mod relay;
#[cfg(test)]
mod tests;

pub use export::{ExportBuilder, ExportError, ExportWriter, Exported};
pub use publisher::{BuildError, FlushError, Publisher, PublisherBuilder, Status};
pub use relay::RelayState;
