//! The crate's larger tests. Small ones stand beside what they test.

mod message;
