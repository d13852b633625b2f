//! A listed blob as its message: what name and headers say (`docs/wire.md`, "The blob").

use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use waybill_azure::blob::{BlobHeaders, ListedBlob};
use waybill_contracts::{BlobPath, BlobType, ExportId, Extras, Metadata, Snapshot};

use super::UnusableBlob;
use crate::{
    inbox::{Announced, Arrival, Place},
    receive::announced,
};

/// What a blob is.
pub(super) enum Reading {
    /// A file of ours.
    File { blob: String, arrival: Arrival },
    /// Ours, but not to be admitted.
    Unusable(UnusableBlob),
    /// Somebody else's.
    Foreign,
}

pub(super) fn read(place: &Place, listed: &ListedBlob) -> Reading {
    let ours = || {
        listed.headers.metadata.get("exportid")?;
        let path = BlobPath::new(listed.name.as_str()).ok()?;
        Some((path.export_type()?, path))
    };
    let Some((blob_type, path)) = ours() else { return Reading::Foreign };
    let blob = listed.name.clone();
    let body = match message(place, listed, &blob_type, &path) {
        Ok(body) => body,
        Err(problem) => return Reading::Unusable(UnusableBlob { blob, problem }),
    };
    match announced(&body) {
        announced @ Announced::File(_) => Reading::File { arrival: arrival(place, listed, announced), blob },
        Announced::Broken(broken) => Reading::Unusable(UnusableBlob { blob, problem: broken.problem }),
    }
}

/// The body that the message has, as far as the blob says it.
fn message(place: &Place, listed: &ListedBlob, blob_type: &BlobType, path: &BlobPath) -> Result<Vec<u8>, String> {
    let extras = extras(&listed.headers, listed.length)?;
    let correlation_id = listed.headers.metadata.get("correlationid").map(String::as_str);
    let correlation_id = correlation_id.ok_or_else(|| lacks("correlationid"))?;
    let correlation_id = decoded("correlationid", correlation_id)?;
    let mut metadata = Metadata {
        blob_type: blob_type.as_str().to_owned(),
        correlation_id,
        content_type: listed.headers.content_type.clone(),
        content_encoding: path.as_str().ends_with(".gz").then(|| "gzip".to_owned()),
        uri: format!("{}/{}/{}", place.endpoint, place.container, path.encoded()),
        properties: None,
        unknown: Vec::new(),
    };
    metadata.set_extras(&extras).map_err(|error| error.to_string())?;
    metadata.to_json().map_err(|error| error.to_string())
}

fn lacks(name: &str) -> String {
    format!("it has no header x-ms-meta-{name}")
}

fn decoded(name: &str, text: &str) -> Result<String, String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(format!("its header x-ms-meta-{name} is not UTF-8 when decoded")),
    }
}

/// What a blob's headers say of it.
pub(crate) fn extras(headers: &BlobHeaders, length: u64) -> Result<Extras, String> {
    let said = |name: &str| headers.metadata.get(name).map(String::as_str);
    let needed = |name: &str| said(name).ok_or_else(|| lacks(name));
    let number = |name: &str, text: &str| {
        text.parse::<u64>().map_err(|_| format!("its header x-ms-meta-{name} is {text:?}, no whole number"))
    };
    let counted = |name: &str| number(name, needed(name)?);
    // Without its place in the sequence its rows could overwrite newer ones, and without its publisher it would be another
    // file than its message says.
    Ok(Extras {
        export_id: Some(ExportId::new(needed("exportid")?).map_err(|error| error.to_string())?),
        publisher: Some(needed("publisher")?.to_owned()),
        epoch: Some(needed("epoch")?.to_owned()),
        sequence: Some(number("sequence", needed("sequence")?)?),
        rows: said("rows").map(|text| number("rows", text)).transpose()?,
        bytes: Some(length),
        plain_sha256: said("plainsha256").map(str::to_owned),
        snapshot: match said("snapshotid") {
            None => None,
            Some(id) => Some(Snapshot {
                id: decoded("snapshotid", id)?,
                part: counted("snapshotpart")?,
                of: counted("snapshotof")?,
                as_of: counted("snapshotasof")?,
            }),
        },
        ..Extras::default()
    })
}

/// The same blob is the same arrival, whoever lists it and however often.
fn arrival(place: &Place, listed: &ListedBlob, announced: Announced) -> Arrival {
    let hash = Sha256::digest(listed.name.as_bytes());
    let number = hash.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
    Arrival {
        entity_path: format!("listing of {}/{}", place.endpoint, place.container),
        sequence_number: i64::try_from(number >> 1).unwrap_or(i64::MAX),
        enqueued_at: listed.last_modified.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        message_id: None,
        announced,
    }
}
