//! The wire of Waybill: what publishers send, what TenantService issues, and how rows become tables.
//!
//! No I/O and no async here: bytes come in, typed values or an error that says what, where and what to do come out.
//! The modules follow a file's life: its message, what Waybill adds to it, the manifest that tells of it, the grant that opens
//! it, the entities its rows belong to, the names they become, and the reasons for which something is kept aside.

mod entity;
mod extras;
mod manifest;
mod media;
mod metadata;
mod names;
mod object;
mod pattern;
mod quote;
mod ready;
mod reason;
mod tenant;
#[cfg(test)]
mod tests;
mod uri;

pub use entity::{
    AfterWait, Column, ColumnType, Entities, Entity, EntityError, MaxWait, MissingParentError, OnMissing, OnUnwanted,
    Predicate, Reference, SchemaMode, VersionField, VersionType,
};
pub use extras::{Extras, ExtrasError, Snapshot};
pub use manifest::{Fate, MANIFEST_TYPE, ManifestError, ManifestRow, ManifestScope};
pub use media::{Encoding, Format, HeaderRow, Media, MediaError};
pub use metadata::{BODY_BYTES_MAX, Metadata, MetadataError, PublishableError};
pub use names::{BlobPath, BlobType, ExportId, FileName, NameError, SqlName};
pub use pattern::is_of_types;
pub use ready::{LocalClient, LocalTenant, ReadyFile};
pub use reason::{Reason, UnknownReason};
pub use tenant::{BlobEndpoint, BusEndpoint, GrantLayout, TEMPORARY_ENDPOINTS_PATH, TemporaryEndpoints, TenantError};
pub use uri::{BlobUri, BlobUriError};
