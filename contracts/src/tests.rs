//! The crate's larger tests: golden files of every shape, and properties that hold for any input.

mod addresses;
mod entities;
mod golden;
mod grants;
mod manifests;
mod messages;
mod properties;
mod ready;
mod wire_document;
