//! Subscribes, filters rows and fields, and publishes what is left as files of another blobType.
//!
//! ```text
//! subscription ──► inbox ──► file ──rule──► export ──► outbox ──► bus
//!                    ▲                         │
//!                    └─────────  done  ◄───────┘
//! ```
//!
//! A file of the one becomes one export of the other, whatever crashes and whenever: the export's id is made of the output's
//! type and the file's key, and the file is done only when its export is durable. A file that comes again meets the export of
//! before.
//!
//! A `rule` says what a row becomes, and is pure; `jobs` are the rules by blobType, checked against the entities; `transfer`
//! takes one file through; `republisher` runs it all; `plan` says beforehand what it comes to. `figures` say how it goes.
//!
//! # Invariants
//! 1. A row that its rule does not want leaves nothing behind but its key and version, and only where it has a key.   2. Nothing
//!    is published of a file that has a row of which the rule cannot say what it becomes.   3. Key, version and references of an
//!    entity are never projected away.

pub mod figures;
mod jobs;
mod plan;
mod republisher;
pub mod rule;
mod transfer;

#[cfg(test)]
mod tests;

pub use jobs::{Job, JobError, Jobs};
pub use plan::{FilePlan, FileVerdict, Plan, PlanError, TypePlan};
pub use republisher::{Republisher, RepublisherOptions};
