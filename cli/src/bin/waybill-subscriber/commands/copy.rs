//! Files that are worked again, listed in an inbox of their own while that goes on.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context;
use waybill_cli::output::{count, many};
use waybill_subscriber::{
    FileKey,
    inbox::{Inbox, InboxRow, ListFilter, State},
    replay::Coverage,
};

/// Gaps, and files, that are printed.
const PRINTED_MAX: usize = 10;

/// Prints what speaks against completeness.
pub(super) fn say_gaps(coverage: &Coverage) {
    for gap in coverage.gaps.iter().take(PRINTED_MAX) {
        eprintln!("waybill-subscriber: {gap}");
    }
    if coverage.gaps_found > PRINTED_MAX as u64 {
        eprintln!("waybill-subscriber: and {} more", count(coverage.gaps_found - PRINTED_MAX as u64));
    }
}

/// Prints files of a copy that are in one of these states, by their number in the inbox itself; how many there are.
pub(super) async fn say_failed(inbox: &impl Inbox, copy: &impl Inbox, states: &[State]) -> anyhow::Result<u64> {
    let counts = copy.counts().await?;
    let mut found = 0;
    for state in states {
        let many_of = match state {
            State::Saved => counts.saved,
            State::Working => counts.working,
            State::Quarantined => counts.quarantined,
            State::Expired => counts.expired,
            State::Done | State::Skipped | State::Duplicate => 0,
        };
        found += many_of;
        let most = u32::try_from(PRINTED_MAX).unwrap_or(u32::MAX);
        let rows = copy.list(&ListFilter { state: Some(*state), most, ..ListFilter::default() }).await?;
        let files: Vec<FileKey> = rows.iter().filter_map(|row| row.file.clone()).collect();
        for (row, id) in rows.iter().zip(inbox.known(&files).await?) {
            say_file(row, id);
        }
        if many_of > rows.len() as u64 {
            eprintln!("waybill-subscriber: and {} more", many(many_of - rows.len() as u64, "file"));
        }
    }
    Ok(found)
}

fn say_file(row: &InboxRow, id: Option<i64>) {
    let id = id.map_or_else(|| "of no number".to_owned(), |id| id.to_string());
    let blob_type = row.blob_type.as_deref().unwrap_or_default();
    let problem = row.problem.as_deref().unwrap_or("it was not worked");
    eprintln!("waybill-subscriber: file {id} ({blob_type}): {}: {problem}", row.state);
}

/// Removes a copy; none is fine.
pub(super) fn remove(copy: &Path) -> anyhow::Result<()> {
    for suffix in ["", "-wal", "-shm", "-journal", ".workers"] {
        let mut path = copy.as_os_str().to_owned();
        path.push(suffix);
        let path = PathBuf::from(path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}
