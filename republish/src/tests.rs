//! The rule by itself, and files on their whole way beside a `Local`.

mod crash;
mod jobs;
mod outages;
mod plan;
mod rule;
mod stops;
mod transfer;
mod world;
