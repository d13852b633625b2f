//! Azure as Waybill needs it: Service Bus over AMQP 1.0, Blob Storage, SAS tokens, and the one HTTP client.
//!
//! This crate knows nothing of exports, waybills or files of rows.

pub mod account;
pub mod blob;
pub mod bus;
pub mod connection_string;
mod endpoint;
pub mod http;
pub mod identity;
mod proxy;
mod sas;
mod secret;
mod token;

#[cfg(test)]
mod peer;

pub use sas::{BlobPermissions, SasError, blob_service_sas, bus_sas, sas_expiry};
pub use secret::Secret;
pub use token::{BoxFuture, Generation, Grant, GrantError, OnePlace, Service, Token, TokenSource};
