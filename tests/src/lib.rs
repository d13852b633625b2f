//! Whole-pipeline tests against real clients, real sockets and `kill -9`.
//!
//! `harness` puts the parts together as a user would: `local` in the test's process, a publisher, a subscriber with its
//! inbox and an SQLite database. `cargo xtask test` builds the binaries and sets up the Python and the Node.js packages that some tests start;
//! without them those tests fail and say so: none is skipped. `promises` checks that `docs/promises.md` tells the truth.

#[cfg(test)]
mod harness;

#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod changes;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod data_sets;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod line;
#[cfg(test)]
mod links;
#[cfg(test)]
mod live;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod own_database;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod promises;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod republish;
#[cfg(test)]
mod restored;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod tokens;
#[cfg(test)]
mod torture;
#[cfg(test)]
mod watch;
