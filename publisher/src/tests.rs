//! Exports and messages over real sockets, under faults and `kill -9`.

mod change_log;
mod crash;
mod exporting;
mod files;
mod following;
mod formats;
mod log_crash;
mod manifests;
mod pruning;
mod sending;
mod settling;
mod snapshots;
mod world;
