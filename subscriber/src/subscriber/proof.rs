//! Whether a full export proves itself.

use waybill_azure::blob::BlobFacts;
use waybill_contracts::{BlobPath, Extras, Metadata};

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
            match self.blob_says(id).await {
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

    async fn blob_says(&self, id: i64) -> Result<bool, LookError> {
        let shared = &self.shared;
        let (row, metadata) = self.known(id).await?;
        let (claim, now) = (Claim::of_row(&row, &metadata), (shared.options.now)());
        let located = self.storage().locate(&shared.inbox, claim, now).await?;
        let facts = located.facts(claim, now).await?;
        Ok(says_itself(located.path(), &facts, &metadata))
    }
}

/// Whether the blob says of itself what its message says: of which type, part and format it is.
fn says_itself(path: &BlobPath, facts: &BlobFacts, message: &Metadata) -> bool {
    let identity = |extras: Extras| {
        let Extras { export_id, publisher, epoch, sequence, snapshot, .. } = extras;
        (export_id, publisher, epoch, sequence, snapshot)
    };
    let said = reconcile::headers_say(&facts.headers, facts.length).map(identity);
    let encoding = path.as_str().ends_with(".gz").then_some("gzip");
    path.export_type().is_some_and(|of_type| of_type.as_str() == message.blob_type)
        && (facts.headers.content_type.as_str(), encoding)
            == (message.content_type.as_str(), message.content_encoding.as_deref())
        && said.is_ok_and(|said| message.extras().is_ok_and(|extras| identity(extras) == said))
}

#[cfg(test)]
mod tests {
    use waybill_azure::blob::BlobHeaders;

    use super::*;

    #[test]
    fn a_message_may_say_nothing_of_a_part_that_its_blob_does_not() {
        const ID: &str = "0190a5d2-7c31-7c8e-9f5a-0c8f5c1e2b3a";
        let path = BlobPath::new(format!("Item/2026-11-27/c-{ID}.jsonl.gz").as_str()).unwrap();
        let headers = [
            ("exportid", ID),
            ("publisher", "shop"),
            ("epoch", "e"),
            ("sequence", "7"),
            ("snapshotid", "nightly"),
            ("snapshotpart", "1"),
            ("snapshotof", "2"),
            ("snapshotasof", "5"),
        ];
        let facts = BlobFacts {
            etag: "1".to_owned(),
            length: 9,
            headers: BlobHeaders {
                content_type: "application/x-jsonlines".to_owned(),
                metadata: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            },
            content_encoding: None,
        };
        let message = format!(
            r#"{{"blobType":"Item","correlationId":"c","uri":"https://a.example/b/x","contentType":"application/x-jsonlines",
                 "contentEncoding":"gzip","properties":{{"waybill":{{"exportId":"{ID}","publisher":"shop","epoch":"e","sequence":7,
                 "snapshot":{{"id":"nightly","part":1,"of":2,"asOf":5}}}}}}}}"#
        );
        let says = |message: &str| says_itself(&path, &facts, &Metadata::parse(message.as_bytes()).unwrap());
        assert!(says(&message));
        for (said, claimed) in [
            ("\"Item\"", "\"Other\""),
            ("x-jsonlines", "json"),
            ("\"gzip\"", "null"),
            ("\"shop\"", "\"other\""),
            ("\"e\"", "\"f\""),
            (":7", ":8"),
            ("nightly", "daily"),
            ("\"part\":1", "\"part\":2"),
            ("\"of\":2", "\"of\":1"),
            ("\"asOf\":5", "\"asOf\":6"),
        ] {
            let forged = message.replace(said, claimed);
            assert_ne!(forged, message);
            assert!(!says(&forged), "{forged}");
        }
    }
}
