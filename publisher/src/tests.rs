//! Exports and messages over real sockets, under faults and `kill -9`.

mod crash;
mod exporting;
mod files;
mod sending;
mod settling;
mod world;
