//! The built binaries as a user meets them, and the README's promises about them.

mod bad_rows;
mod binaries;
mod choosing;
mod databases;
mod full_exports;
mod health;
mod local;
mod manners;
mod order;
mod publishing;
mod readme;
mod rebuild;
mod reconcile;
mod republish;
mod retention;
mod rows;
mod shared_inbox;
mod starting;
mod stopping;
mod types;
