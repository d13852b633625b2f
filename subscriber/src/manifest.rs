//! Manifests: what publishers tell of their numbers. It goes to the inbox, not to the sink.

use std::collections::BTreeMap;

use waybill_contracts::{Fate, MANIFEST_TYPE, ManifestRow, Metadata};
use waybill_formats::RowBatch;

use crate::inbox::{Inbox, InboxError, SequenceNamed};

/// Runs of void numbers that are kept in memory; then the inbox is told.
const RUNS_MAX: usize = 4_096;

/// A row that is none of a manifest, or speaks of another publisher than its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadRow {
    pub(crate) row: u64,
    pub(crate) problem: String,
}

/// The types with that of manifests, which is always worked; `None` for all.
pub(crate) fn with_manifests(types: Option<Vec<String>>) -> Option<Vec<String>> {
    types.map(|mut types| {
        if !types.iter().any(|name| name == MANIFEST_TYPE) {
            types.push(MANIFEST_TYPE.to_owned());
        }
        types
    })
}

/// The rows of a stretch of a manifest.
pub(crate) fn rows<'b>(
    batch: &'b RowBatch,
    publisher: &'b str,
) -> impl Iterator<Item = Result<ManifestRow, BadRow>> + 'b {
    let bad = batch.bad().iter().map(|bad| Err(BadRow { row: bad.row, problem: bad.problem.clone() }));
    let good = batch.rows().map(move |row| {
        let bad = |problem: String| BadRow { row: row.number(), problem };
        let named = ManifestRow::parse(row.to_json().as_bytes()).map_err(|error| bad(error.to_string()))?;
        if named.publisher != publisher {
            return Err(bad(format!("it is of publisher {:?}, and its message of {publisher:?}", named.publisher)));
        }
        Ok(named)
    });
    bad.chain(good)
}

/// Who published a manifest, by its message.
pub(crate) fn publisher(message: &Metadata) -> String {
    message.extras().ok().and_then(|extras| extras.publisher).unwrap_or_default()
}

/// What a manifest says, on its way to the inbox.
#[derive(Debug)]
pub(crate) struct Names {
    publisher: String,
    sequences: BTreeMap<(String, String), SequenceNamed>,
    runs: usize,
    bad: Option<BadRow>,
}

impl Names {
    /// Of the manifest that this message announces.
    pub(crate) fn of(message: &Metadata) -> Self {
        Self { publisher: publisher(message), sequences: BTreeMap::new(), runs: 0, bad: None }
    }

    /// Takes a stretch of it.
    pub(crate) async fn add(&mut self, batch: &RowBatch, inbox: &impl Inbox) -> Result<(), InboxError> {
        let Self { publisher, sequences, runs, bad } = self;
        for row in rows(batch, publisher) {
            match row {
                Ok(row) => *runs += usize::from(note(sequences, row)),
                Err(row) => {
                    bad.get_or_insert(row);
                }
            }
        }
        if self.runs > RUNS_MAX { self.tell(inbox).await } else { Ok(()) }
    }

    /// After its end: the first row that could not be understood. The others are told all the same.
    pub(crate) async fn finish(mut self, inbox: &impl Inbox) -> Result<Option<BadRow>, InboxError> {
        self.tell(inbox).await?;
        Ok(self.bad)
    }

    async fn tell(&mut self, inbox: &impl Inbox) -> Result<(), InboxError> {
        self.runs = 0;
        for of in std::mem::take(&mut self.sequences).into_values() {
            inbox.note_named(&of).await?;
        }
        Ok(())
    }
}

/// Whether a run of void numbers began.
fn note(sequences: &mut BTreeMap<(String, String), SequenceNamed>, row: ManifestRow) -> bool {
    let ManifestRow { publisher, epoch, blob_type, sequence, fate } = row;
    let of = sequences.entry((epoch.clone(), blob_type.clone())).or_insert_with(|| SequenceNamed {
        blob_type,
        publisher,
        epoch,
        up_to: 0,
        void: Vec::new(),
    });
    of.up_to = of.up_to.max(sequence);
    match (fate, of.void.last_mut()) {
        (Fate::Sent(_), _) => false,
        (Fate::Void(_), Some((_, last))) if *last + 1 == sequence => {
            *last = sequence;
            false
        }
        (Fate::Void(_), _) => {
            of.void.push((sequence, sequence));
            true
        }
    }
}
