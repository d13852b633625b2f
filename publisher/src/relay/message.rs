//! The message that stands for an export.

use std::{error::Error, time::Duration};

use time::OffsetDateTime;
use waybill_azure::bus::Message;
use waybill_contracts::{ExportId, Extras, ExtrasError, Metadata};

use crate::outbox::ExportRow;

/// A trace's id in W3C form, and the name by which Microsoft's clients know it. Source: Microsoft, "Distributed tracing and
/// correlation through Service Bus messaging".
const TRACE_PROPERTIES: [&str; 2] = ["traceparent", "Diagnostic-Id"];

/// What the message of an export says; the same row says the same.
pub(crate) fn metadata(row: &ExportRow) -> Result<Metadata, ExtrasError> {
    let mut metadata = Metadata {
        blob_type: row.blob_type.clone(),
        correlation_id: row.correlation_id.clone(),
        content_type: row.content_type.clone(),
        content_encoding: row.content_encoding.clone(),
        uri: row.uri.clone().unwrap_or_default(),
        properties: row.properties.clone(),
        unknown: Vec::new(),
    };
    metadata.set_extras(&Extras {
        export_id: Some(row.export_id.clone()),
        publisher: Some(row.publisher.clone()),
        epoch: Some(row.epoch.clone()),
        sequence: row.sequence,
        rows: row.rows,
        bytes: row.bytes,
        plain_bytes: row.plain_bytes,
        plain_sha256: row.plain_sha256.clone(),
        sha256: row.sha256.clone(),
        schema: row.schema.clone(),
        snapshot: row.snapshot.clone(),
        expires_at: row.expires_at,
        causation_id: row.causation_id.clone(),
    })?;
    Ok(metadata)
}

/// Builds the message of an uploaded export; the same row makes the same message.
pub(super) fn message(row: &ExportRow, now: OffsetDateTime) -> Result<Message, Box<dyn Error + Send + Sync>> {
    let text = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let mut properties = vec![
        text("blobType", &row.blob_type),
        text("contentType", &row.content_type),
        text("correlationId", &row.correlation_id),
    ];
    properties.extend(row.content_encoding.as_deref().map(|encoding| text("contentEncoding", encoding)));
    if let Some(traceparent) = &row.traceparent {
        properties.extend(TRACE_PROPERTIES.map(|name| text(name, traceparent)));
    }
    Ok(Message {
        body: metadata(row)?.to_json()?.into(),
        message_id: message_id(row).to_owned(),
        correlation_id: Some(row.correlation_id.clone()),
        subject: Some(row.blob_type.clone()),
        content_type: Some("application/json".to_owned()),
        created_at: row.uploaded_at,
        time_to_live: time_to_live(row, now),
        properties: properties.into_iter().collect(),
    })
}

/// Whether the blob may be gone before anybody gets the message.
pub(super) fn has_expired(row: &ExportRow, now: OffsetDateTime) -> bool {
    row.expires_at.is_some_and(|at| at <= now)
}

fn message_id(row: &ExportRow) -> &str {
    row.message_id.as_deref().unwrap_or_else(|| ExportId::as_str(&row.export_id))
}

/// At least a millisecond, because that is AMQP's unit and none means for ever.
fn time_to_live(row: &ExportRow, now: OffsetDateTime) -> Option<Duration> {
    let left = row.expires_at? - now;
    Some(Duration::try_from(left).unwrap_or_default().max(Duration::from_millis(1)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use waybill_contracts::Snapshot;

    use super::*;
    use crate::outbox::State;

    fn row() -> ExportRow {
        ExportRow {
            row: 7,
            export_id: ExportId::new("nightly-7").unwrap(),
            publisher: "shop".to_owned(),
            epoch: "01932c07-4f8a-7000-8000-000000000000".to_owned(),
            blob_type: "ItemChanges".to_owned(),
            sequence: Some(3),
            correlation_id: "8f252380-ef1e-4e0e-8f72-5b7362d8db3b".to_owned(),
            causation_id: Some("order-9".to_owned()),
            traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
            blob: "ItemChanges/2026-11-22/x.jsonl.gz".to_owned(),
            uri: Some("https://a.blob.core.windows.net/batchtoprocess/ItemChanges/2026-11-22/x.jsonl.gz".to_owned()),
            content_type: "application/x-jsonlines".to_owned(),
            content_encoding: Some("gzip".to_owned()),
            properties: Some(serde_json::from_str(r#"{"price":19.90}"#).unwrap()),
            schema: None,
            rows: Some(2),
            bytes: Some(40),
            plain_bytes: Some(60),
            plain_sha256: Some("aa".repeat(32)),
            sha256: Some("bb".repeat(32)),
            snapshot: Some(Snapshot { id: "full".to_owned(), part: 1, of: 2, as_of: 2 }),
            state: State::Uploaded,
            reason: None,
            replaced_by: None,
            message_id: Some("nightly-7".to_owned()),
            created_at: OffsetDateTime::UNIX_EPOCH,
            uploaded_at: Some(OffsetDateTime::UNIX_EPOCH),
            sent_at: None,
            expires_at: Some(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(100)),
            tries: 0,
            due_at: None,
            last_error: None,
            attempt: 1,
        }
    }

    #[test]
    fn a_message_says_what_the_public_description_wants_and_what_we_add() {
        let message = message(&row(), OffsetDateTime::UNIX_EPOCH + Duration::from_secs(40)).unwrap();
        let body: Value = serde_json::from_slice(&message.body).unwrap();
        assert_eq!(body["blobType"], "ItemChanges");
        assert_eq!(body["correlationId"], "8f252380-ef1e-4e0e-8f72-5b7362d8db3b");
        assert_eq!(body["uri"], json!(row().uri));
        assert_eq!(
            (&body["contentType"], &body["contentEncoding"]),
            (&json!("application/x-jsonlines"), &json!("gzip"))
        );
        assert!(std::str::from_utf8(&message.body).unwrap().contains(r#""price":19.90"#), "numbers stay as written");
        let extras = Metadata::parse(&message.body).unwrap().extras().unwrap();
        assert_eq!((extras.export_id, extras.sequence), (Some(row().export_id), Some(3)));
        assert_eq!((extras.rows, extras.bytes, extras.plain_bytes), (Some(2), Some(40), Some(60)));
        assert_eq!((extras.publisher, extras.epoch), (Some(row().publisher), Some(row().epoch)));
        assert_eq!(extras.snapshot, row().snapshot);
        assert_eq!((extras.plain_sha256, extras.sha256), (row().plain_sha256, row().sha256));
        assert_eq!((extras.expires_at, extras.causation_id), (row().expires_at, row().causation_id));

        assert_eq!(message.message_id, "nightly-7");
        assert_eq!(message.correlation_id, Some(row().correlation_id));
        assert_eq!(
            (message.subject.as_deref(), message.content_type.as_deref()),
            (Some("ItemChanges"), Some("application/json"))
        );
        assert_eq!(message.time_to_live, Some(Duration::from_secs(60)), "it dies with its blob");
        let names: Vec<&str> = message.properties.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            ["Diagnostic-Id", "blobType", "contentEncoding", "contentType", "correlationId", "traceparent"]
        );
        assert_eq!(message.properties["Diagnostic-Id"], message.properties["traceparent"]);
    }

    #[test]
    fn a_message_without_a_term_lives_for_ever_and_one_past_it_is_known() {
        let forever = ExportRow { expires_at: None, traceparent: None, content_encoding: None, ..row() };
        let built = message(&forever, OffsetDateTime::UNIX_EPOCH).unwrap();
        assert_eq!(built.time_to_live, None);
        assert_eq!(built.properties.len(), 3);
        assert!(!has_expired(&forever, OffsetDateTime::UNIX_EPOCH));
        assert!(has_expired(&row(), OffsetDateTime::UNIX_EPOCH + Duration::from_secs(100)));
    }
}
