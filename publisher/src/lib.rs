//! Publishes changes as compressed files, and one message for each.
//!
//! ```text
//! change log ──plan──► file of changes ──┐
//! rows or a file ──export──► outbox: planned ──staged, numbered, committed──► uploaded ──relay──► sent
//! ```
//!
//! An export is durable when its `finish` returns: its blob is committed and the outbox knows it. The relay then sends its
//! message until the broker has accepted it, across crashes, restarts and outages, with one message-id. A message is never
//! sent before its blob is committed, and a blob is never overwritten. Manifests tell later, number by number, what was sent;
//! what they name and whose term is over can be pruned. A full export tells all rows of a type as of one number.

mod tasks;
pub mod change_log;
mod plan;
mod context;
pub mod figures;
mod export;
pub mod outbox;
mod snapshot;
mod publisher;
mod relay;
mod manifest;
mod prune;
mod session;
#[cfg(test)]
mod tests;

pub use export::{ExportBuilder, ExportError, ExportWriter, Exported};
pub use manifest::{Manifest, ManifestError};
pub use plan::{FileFormat, FollowOptions, FollowState, TypeOptions};
pub use prune::{PruneError, Pruned};
pub use publisher::{BuildError, FlushError, Publisher, PublisherBuilder, Status};
pub use relay::RelayState;
pub use snapshot::{SnapshotOptions, SnapshotWriter};
