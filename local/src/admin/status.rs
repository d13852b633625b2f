//! `GET /status`: everything that can be seen from outside, in one document.

use serde_json::{Value as Json, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Admin, message::moment_json};
use crate::{
    broker::{ConnectionInfo, LinkRole},
    keys::TokenKind,
};

/// Faults of the log that are shown; `GET /faults` has all that are kept.
const FIRED_SHOWN: usize = 100;

impl Admin {
    pub(super) async fn status(&self) -> Json {
        let connections = self.broker.describe_connections().await;
        let counted = self.stats.counted();
        let mut fired = self.faults.log_lines();
        fired.drain(..fired.len().saturating_sub(FIRED_SHOWN));
        let uptime = (self.now)() - self.started_at;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "startedAt": rfc3339(self.started_at),
            "uptimeMs": u64::try_from(uptime.whole_milliseconds()).unwrap_or(0),
            "warnings": self.warnings,
            "entities": self.entities(),
            "connections": connections.iter().map(connection_json).collect::<Vec<_>>(),
            "tokens": self.tokens(),
            "grants": counted.grants,
            "grantsUnknown": counted.grants_unknown,
            "faults": {
                "waiting": self.faults.waiting(),
                "steps": self.faults.waiting_steps(),
                "fired": *self.faults.fired().borrow(),
                "log": fired,
            },
            "blob": {
                "containers": self.blob.usage(),
                "requests": counted.blob,
                "bytesIn": counted.blob_bytes_in,
                "bytesOut": counted.blob_bytes_out,
                "bytesInMemory": self.blob.resident_bytes(),
            },
        })
    }

    /// Tokens that were accepted, by a hash of them.
    fn tokens(&self) -> Vec<Json> {
        let of = |kind| {
            self.keys.tokens_used(kind).into_iter().map(move |used| {
                let expires_at = used.expires_at.and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
                json!({
                    "kind": kind,
                    "sha256": used.sha256,
                    "tenant": used.tenant,
                    "signedBy": used.signed_by,
                    "expiresAt": expires_at.map(rfc3339),
                    "uses": used.uses,
                })
            })
        };
        of(TokenKind::Bus).chain(of(TokenKind::Storage)).collect()
    }
}

fn connection_json(connection: &ConnectionInfo) -> Json {
    let links = connection.links.iter().map(|link| {
        json!({
            "entity": link.entity,
            "role": match link.role {
                LinkRole::Sender => "sender",
                LinkRole::Receiver => "receiver",
            },
            "credit": link.credit,
            "since": moment_json(link.since),
        })
    });
    json!({
        "number": connection.number,
        "peer": connection.address.map(|address| address.to_string()),
        "containerId": connection.container_id,
        "client": connection.client,
        "since": moment_json(connection.since),
        "links": links.collect::<Vec<_>>(),
    })
}

fn rfc3339(at: OffsetDateTime) -> Json {
    json!(at.format(&Rfc3339).ok())
}
