//! From the bus to rows in effect, once.
//!
//! `receive` saves waybills in the `inbox` and settles them; `schedule` leases what is due; `fetch` streams the blob, or its copy in the `cache`,
//! `rows` decodes it, `sorted` brings those of a large one in the order of their keys; `apply` (pure) says what each row means whatever the order of arrival; `sink` brings it into effect
//! in one transaction with the file's progress; what a `manifest` says goes to the inbox. `files` gives saved files to code of one's own instead. Beside them `grants`
//! holds the tokens, `opening` waits for what is down at the start, `look` reads a file's rows without bringing them into effect, `draft` guesses what rows mean from samples
//! of them, `replay` works files again, into another sink or beside tables that are derived again, and `reconcile` finds those
//! whose messages are lost. `figures` and `health` say how it goes.

pub mod receive;
pub mod inbox;
pub mod schedule;
pub mod cache;
pub mod fetch;
pub mod rows;
mod manifest;
pub mod look;
pub mod apply;
pub mod sorted;
pub mod sink;
pub mod opening;
pub mod files;
pub mod grants;
pub mod draft;
pub mod replay;
pub mod reconcile;
pub mod figures;
pub mod health;
mod subscriber;
mod tasks;
#[cfg(test)]
mod tests;
mod verdict;
mod watched;

pub use inbox::FileKey;
pub use subscriber::{BuildError, RunError, Subscriber, SubscriberBuilder};
pub use verdict::{Blame, OnBadRow, Verdict};
