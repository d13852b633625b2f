//! Service Bus, Blob Storage and TenantService in one process, with scripted faults: what tests, examples and people who
//! write their own subscriber run against instead of Azure.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use waybill_local::Local;
//!
//! let local = Local::builder().start().await?;
//! println!("{}", local.ready_file().service_bus_connection_string);
//! local.rotate(None)?; // every token issued so far is refused
//! local.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Everything listens on 127.0.0.1, keeps nothing after it ends, and shares no code with the clients that are tested
//! against it. A configuration becomes a [`Local`]; its keys decide who may do what at the four endpoints; faults reach
//! into all of them.

pub mod config;
mod local;
pub mod keys;
mod files;
mod tls;
mod log;
mod door;
mod house;
mod listen;
pub mod amqp;
pub mod broker;
mod blob;
mod authority;
mod tenant;
mod rotation;
pub mod fault;
mod stats;
mod admin;
#[doc(hidden)]
pub mod fuzzing;

pub use authority::ClientError;
pub use blob::BlobOperation;
pub use local::{Builder, Local, ReadyFileError, StartError};
pub use rotation::Schedule;
pub use stats::{BlobCount, Counted, GrantCounts, Stats};
pub use tenant::Offer;
pub use tls::CertificateError;
