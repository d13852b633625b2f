//! One file of the one type to one export of the other.

use std::fmt::Write;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use waybill_contracts::{Extras, Metadata, Reason};
use waybill_formats::Row;
use waybill_publisher::{ExportError, ExportWriter, Exported, Publisher, outbox::Outbox};
use waybill_subscriber::{
    FileKey,
    apply::RowFault,
    files::{File, FileError},
    inbox::Inbox,
};

use crate::{
    figures::Rows,
    jobs::Task,
    rule::{Application, Became},
};

/// What a file came to.
#[derive(Debug)]
pub(crate) struct Transferred {
    /// None where nothing of it is wanted.
    pub(crate) exported: Option<Exported>,
    /// What became of its rows; of an export that had been made before they are not read again.
    pub(crate) rows: Rows,
}

/// Why nothing, or nothing yet, came of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It cannot be republished until a person has looked at it.
    #[error("{problem}")]
    Faulty { reason: Reason, problem: String },
    /// The output cannot be made now.
    #[error(transparent)]
    Export(ExportError),
}

/// Where a process may die; tests make it die there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The file is leased.
    Leased,
    /// The export is planned.
    Begun,
    /// A batch of rows is written.
    Written,
    /// Every row is.
    AllWritten,
    /// The export is durable.
    Exported,
    /// The inbox knows.
    Done,
}

/// Told where it is.
pub(crate) type Hook = fn(Step);

/// What republishing a file needs besides it.
#[derive(Debug)]
pub(crate) struct Transfer<'t, O: Outbox> {
    pub(crate) publisher: &'t Publisher<O>,
    pub(crate) task: &'t Task,
    pub(crate) now: fn() -> OffsetDateTime,
    pub(crate) hook: Hook,
}

/// The identity of what becomes of a file: the same each time it comes.
pub(crate) fn export_id(to: &str, file: &FileKey) -> String {
    let mut hash = Sha256::new();
    // No blobType has a line break.
    hash.update(to);
    hash.update(b"\n");
    hash.update(file.as_str());
    hex(hash)
}

/// What caused the output: the input's export, or the hash of its key. Without an export the key is the blob's address, which is
/// for those alone who may have all of it.
fn causation_id(extras: &Extras, file: &FileKey) -> String {
    match &extras.export_id {
        Some(id) => id.as_str().to_owned(),
        None => hex(Sha256::new_with_prefix(file.as_str())),
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

impl From<ExportError> for TransferError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Row { source, .. } => {
                let problem = format!("{source}; nothing of the file is published");
                Self::Faulty { reason: Reason::MalformedRow, problem }
            }
            ExportError::Invalid { .. } => {
                Self::Faulty { reason: Reason::FieldOutOfBounds, problem: error.to_string() }
            }
            error => Self::Export(error),
        }
    }
}

fn faulty(row: u64, fault: RowFault) -> TransferError {
    let problem = format!("row {row}: {}; nothing of the file is published", fault.problem);
    TransferError::Faulty { reason: fault.reason, problem }
}

impl<O: Outbox> Transfer<'_, O> {
    /// Reads the file to its end and makes its export durable. On an error nothing of it is published, except that a durable
    /// export may be unknown as such: asked again, it is found.
    pub(crate) async fn run<I: Inbox + Clone>(&self, file: &mut File<I>) -> Result<Transferred, TransferError> {
        let (metadata, key) = (file.metadata().clone(), file.key().clone());
        let mut output = Output { transfer: self, metadata: &metadata, key: &key, writer: None, rows: Rows::default() };
        match output.fill(file).await {
            Ok(()) => output.finish().await,
            Err(error) => {
                output.abandon(&error).await;
                Err(error)
            }
        }
    }

    async fn begin(&self, metadata: &Metadata, key: &FileKey) -> Result<ExportWriter<O>, ExportError> {
        let Task { to, format, columns, keep, .. } = self.task;
        let extras = metadata.extras().unwrap_or_default();
        let mut export = self
            .publisher
            .export(to)?
            .id(&export_id(to, key))?
            .correlation_id(&metadata.correlation_id)?
            .causation_id(&causation_id(&extras, key))
            .convert_to(*format);
        if let Some(columns) = columns {
            export = export.columns(columns.iter().cloned());
        }
        if let Some(keep) = keep {
            export = export.expires_at((self.now)() + *keep);
        }
        export.start().await
    }
}

/// An export that grows. It begins with its first row: one that has none leaves no trace.
struct Output<'o, O: Outbox> {
    transfer: &'o Transfer<'o, O>,
    metadata: &'o Metadata,
    key: &'o FileKey,
    writer: Option<ExportWriter<O>>,
    rows: Rows,
}

impl<O: Outbox> Output<'_, O> {
    async fn fill<I: Inbox + Clone>(&mut self, file: &mut File<I>) -> Result<(), TransferError> {
        let mut batches = file.rows();
        while let Some(batch) = batches.next().await? {
            if let Some(bad) = batch.bad().first() {
                let problem = format!("byte {}: {}", bad.offset, bad.problem);
                return Err(faulty(bad.row, RowFault { reason: Reason::MalformedRow, problem }));
            }
            let mut rule = self.transfer.task.rule.apply();
            for row in batch.rows() {
                self.add(&row, &mut rule).await?;
                if self.is_repeated() {
                    return Ok(());
                }
            }
            (self.transfer.hook)(Step::Written);
        }
        (self.transfer.hook)(Step::AllWritten);
        Ok(())
    }

    async fn add<'r>(&mut self, row: &Row<'r>, rule: &mut Application<'_, 'r>) -> Result<(), TransferError> {
        let became = rule.of(row).map_err(|fault| faulty(row.number(), fault))?;
        self.rows.count(&became);
        match became {
            Became::Nothing => return Ok(()),
            Became::Row(None) => self.writer().await?.copy(row).await?,
            Became::Row(Some(fields)) | Became::Deletion { fields, .. } => self.writer().await?.row(fields).await?,
        }
        Ok(())
    }

    async fn writer(&mut self) -> Result<&mut ExportWriter<O>, ExportError> {
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => {
                let begun = self.transfer.begin(self.metadata, self.key).await?;
                (self.transfer.hook)(Step::Begun);
                begun
            }
        };
        Ok(self.writer.insert(writer))
    }

    /// Whether the export had been made before.
    fn is_repeated(&self) -> bool {
        self.writer.as_ref().is_some_and(|writer| writer.already_exported().is_some())
    }

    async fn finish(self) -> Result<Transferred, TransferError> {
        let Self { transfer, writer, rows, .. } = self;
        let exported = match writer {
            Some(writer) => Some(writer.finish().await?),
            None => None,
        };
        (transfer.hook)(Step::Exported);
        let is_repeated = exported.as_ref().is_some_and(|exported| exported.repeated);
        Ok(Transferred { exported, rows: if is_repeated { Rows::default() } else { rows } })
    }

    async fn abandon(self, error: &TransferError) {
        let Some(writer) = self.writer else { return };
        if let Err(failed) = writer.abandon(&error.to_string()).await {
            // The publisher's recovery looks after it.
            tracing::debug!(error = &failed as &dyn std::error::Error, "an export that was given up is still planned");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_id_is_of_type_and_file_and_fits_every_publisher() {
        let file = FileKey::of_export("shop", "nightly-7");
        let id = export_id("Public", &file);
        assert_eq!(id, export_id("Public", &file));
        assert!(waybill_contracts::ExportId::new(id.as_str()).is_ok());
        assert_ne!(id, export_id("Publi", &FileKey::of_export("cshop", "nightly-7")));
        assert_ne!(id, export_id("Public", &FileKey::of_export("shop", "nightly-8")));
    }

    #[test]
    fn a_file_without_an_export_id_causes_by_the_hash_of_its_key() {
        let key = FileKey::of_uri("abc");
        assert_eq!(key.as_str(), "uri:abc");
        let id = causation_id(&Extras::default(), &key);
        assert_eq!(id, "1b73052137bec3288f5eeb3a379c67391a939b9d8f44c5ca6aec9e352ffc7a54");
        let extras = Extras { export_id: Some(waybill_contracts::ExportId::new("e-1").unwrap()), ..Extras::default() };
        assert_eq!(causation_id(&extras, &key), "e-1");
    }
}
