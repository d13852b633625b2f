//! What became of a numbered plan: only the container knows.

use waybill_azure::blob::{BlobError, BlobFacts};

use super::error::ExportError;
use crate::{
    context::Context,
    outbox::{ExportRow, Outbox},
};

/// What a numbered plan turned out to be.
#[derive(Debug)]
pub(crate) enum Settled {
    /// Its blob is there; its message will be sent.
    Uploaded(Box<ExportRow>),
    /// It is not, or another one has its name.
    Void(String),
}

/// Looks for the blob of a numbered plan, adopts it or gives the plan up. `met` is what the commit met, if this is about
/// one just made.
pub(crate) async fn settle<O: Outbox>(
    context: &Context<O>,
    row: &ExportRow,
    met: Option<&BlobError>,
) -> Result<Settled, ExportError> {
    let export_id = || row.export_id.as_str().to_owned();
    let attempt = row.attempt();
    let reason = match context.container.head(&row.blob).await {
        Ok(facts) if is_ours(&facts, row) => {
            let row = context.outbox.uploaded(&attempt).await;
            let row = row.map_err(|source| ExportError::Outbox { export_id: export_id(), source })?;
            tracing::info!(export_id = export_id(), blob = row.blob, "adopted a blob that was committed before");
            context.uploaded.notify_one();
            return Ok(Settled::Uploaded(Box::new(row)));
        }
        Ok(_) => format!("another blob has the name {}", row.blob),
        Err(BlobError::NotFound { .. }) => match met {
            Some(error) => format!("its blob was not committed: {error}"),
            None => "interrupted; its blob was not committed".to_owned(),
        },
        Err(source) => return Err(ExportError::Unsettled { export_id: export_id(), source }),
    };
    let voided = context.outbox.void(&attempt, &reason).await;
    voided.map_err(|source| ExportError::Outbox { export_id: export_id(), source })?;
    tracing::warn!(export_id = export_id(), sequence = row.sequence, reason, "an export is void");
    Ok(Settled::Void(reason))
}

/// Whether a blob is the one that this export uploaded.
pub(crate) fn is_ours(facts: &BlobFacts, row: &ExportRow) -> bool {
    let said = |name: &str| facts.headers.metadata.get(name).map(String::as_str);
    said("exportid") == Some(row.export_id.as_str())
        && said("plainsha256").is_some()
        && said("plainsha256") == row.plain_sha256.as_deref()
}
