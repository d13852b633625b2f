//! Whether a full export proves itself.

use waybill_contracts::{Extras, Metadata};

use super::Subscriber;
use crate::{
    fetch::{Claim, FetchError},
    inbox::Inbox,
    look::LookError,
    reconcile,
    replay::{Flaw, FullExport},
};

impl<I: Inbox + Clone> Subscriber<I> {
    /// What the blobs of a full export say against it: one is gone, or does not say of itself what its message says, that it is this
    /// part. Whoever may send messages may not write blobs. `None`: nothing.
    ///
    /// # Errors
    /// [`LookError`]: a blob cannot be asked now.
    pub async fn disprove(&self, of: &FullExport) -> Result<Option<Flaw>, LookError> {
        for part in &of.parts {
            let id = part.id;
            match self.says_itself(id).await {
                Ok(true) => {}
                Ok(false) => return Ok(Some(Flaw::NotInBlob { id })),
                Err(LookError::Fetch(FetchError::Missing { .. } | FetchError::Gone { .. })) => {
                    return Ok(Some(Flaw::BlobGone { id }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn says_itself(&self, id: i64) -> Result<bool, LookError> {
        let shared = &self.shared;
        let row = shared.inbox.get(id).await?.ok_or(LookError::Unknown { id })?;
        let metadata = Metadata::parse(row.body.as_bytes()).map_err(|source| LookError::NoFile { id, source })?;
        let claim = Claim { metadata: &metadata, expires_at: row.expires_at, received_at: row.received_at, seen: None };
        let now = (shared.options.now)();
        let facts = self.storage().locate(&shared.inbox, claim, now).await?.facts(claim, now).await?;
        let identity = |extras: Extras| {
            let Extras { export_id, publisher, epoch, sequence, snapshot, .. } = extras;
            (export_id, publisher, epoch, sequence, snapshot)
        };
        let said = reconcile::headers_say(&facts.headers, facts.length).map(identity);
        Ok(said.is_ok_and(|said| metadata.extras().is_ok_and(|extras| identity(extras) == said)))
    }
}
