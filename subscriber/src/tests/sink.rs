//! A sink that keeps rows in memory, and fails when it is told to.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::Semaphore;

use crate::{
    FileKey,
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, WaitsEnded},
};

#[derive(Clone, Default)]
pub(super) struct MemorySink(Arc<Shared>);

#[derive(Default)]
struct Shared {
    files: Mutex<HashMap<String, File>>,
    /// Batches with a row that contains this fail, always.
    unfit: Mutex<Option<String>>,
    /// Every call fails while it is set.
    down: AtomicBool,
    refused: AtomicU64,
    /// As many of them came before the last call that took effect.
    refused_before_last: AtomicU64,
    /// Where set, each `apply` waits for a permit.
    gate: Mutex<Option<Arc<Semaphore>>>,
    /// Where set, each `progress` of a file does.
    looks: Mutex<Option<Arc<Semaphore>>>,
    /// It says no to every question.
    closed: AtomicBool,
    /// Calls of `apply` that are under way, and the most that ever were.
    applying: AtomicU64,
    applying_most: AtomicU64,
}

/// A call that is under way.
struct Applying<'a>(&'a AtomicU64);

impl Drop for Applying<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Default)]
struct File {
    progress: Progress,
    rows: Vec<String>,
    bad: u64,
}

impl MemorySink {
    pub(super) fn set_down(&self, down: bool) {
        self.0.down.store(down, Ordering::SeqCst);
    }

    /// From now on batches with a row that contains `text` fail as if the sink were down.
    pub(super) fn set_unfit(&self, text: &str) {
        *self.0.unfit.lock().unwrap() = Some(text.to_owned());
    }

    /// Calls that failed because it was down, or a row unfit.
    pub(super) fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::SeqCst)
    }

    pub(super) fn refused_before_last(&self) -> u64 {
        self.0.refused_before_last.load(Ordering::SeqCst)
    }

    /// From now on each `apply` takes a permit of the answer.
    pub(super) fn gate(&self) -> Arc<Semaphore> {
        let gate = Arc::new(Semaphore::new(0));
        *self.0.gate.lock().unwrap() = Some(Arc::clone(&gate));
        gate
    }

    /// From now on each `progress` of a file takes a permit of the answer.
    pub(super) fn looks(&self) -> Arc<Semaphore> {
        let looks = Arc::new(Semaphore::new(0));
        *self.0.looks.lock().unwrap() = Some(Arc::clone(&looks));
        looks
    }

    /// As a database whose user lost its rights.
    pub(super) fn set_closed(&self, closed: bool) {
        self.0.closed.store(closed, Ordering::SeqCst);
    }

    /// Forgets files whose key ends so; how many.
    pub(super) fn lose(&self, end: &str) -> usize {
        let mut files = self.0.files.lock().unwrap();
        let before = files.len();
        files.retain(|key, _| !key.ends_with(end));
        before - files.len()
    }

    pub(super) fn forget(&self) {
        self.0.files.lock().unwrap().clear();
    }

    /// Rows of all files, sorted.
    pub(super) fn rows(&self) -> Vec<String> {
        let mut rows: Vec<String> =
            self.0.files.lock().unwrap().values().flat_map(|file| file.rows.iter().cloned()).collect();
        rows.sort();
        rows
    }

    /// Rows of the only file, as they took effect.
    pub(super) fn in_order(&self) -> Vec<String> {
        let files = self.0.files.lock().unwrap();
        assert_eq!(files.len(), 1, "one file");
        files.values().flat_map(|file| file.rows.iter().cloned()).collect()
    }

    /// How many rows took effect.
    pub(super) fn rows_now(&self) -> u64 {
        self.0.files.lock().unwrap().values().map(|file| file.rows.len() as u64).sum()
    }

    /// How many batches it is given now, and the most that it was given at once.
    pub(super) fn applying(&self) -> (u64, u64) {
        (self.0.applying.load(Ordering::SeqCst), self.0.applying_most.load(Ordering::SeqCst))
    }

    pub(super) fn bad(&self) -> u64 {
        self.0.files.lock().unwrap().values().map(|file| file.bad).sum()
    }

    fn answer(&self) -> Result<(), SinkError> {
        if self.0.down.load(Ordering::SeqCst) {
            self.0.refused.fetch_add(1, Ordering::SeqCst);
            return Err(SinkError::Unavailable { sink: "memory".to_owned(), problem: "it is down".to_owned() });
        }
        Ok(())
    }
}

impl Sink for MemorySink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        let looks = self.0.looks.lock().unwrap().clone();
        if let Some(looks) = looks.filter(|_| file.as_str() != "uri:health") {
            looks.acquire().await.unwrap().forget();
        }
        if self.0.closed.load(Ordering::SeqCst) {
            let problem = "permission denied for table progress".to_owned();
            return Err(SinkError::Failed { sink: "memory".to_owned(), problem });
        }
        self.answer()?;
        Ok(self.0.files.lock().unwrap().get(file.as_str()).map(|file| file.progress).unwrap_or_default())
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        Ok(WaitsEnded::default())
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let now = self.0.applying.fetch_add(1, Ordering::SeqCst) + 1;
        let _applying = Applying(&self.0.applying);
        self.0.applying_most.fetch_max(now, Ordering::SeqCst);
        let gate = self.0.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.acquire().await.unwrap().forget();
        }
        self.answer()?;
        let unfit = self.0.unfit.lock().unwrap().clone();
        let is_unfit = |text: &str| {
            batch.rows.iter().flat_map(|rows| rows.rows()).any(|row| String::from_utf8_lossy(row.raw()).contains(text))
        };
        if unfit.as_deref().is_some_and(is_unfit) {
            self.0.refused.fetch_add(1, Ordering::SeqCst);
            return Err(SinkError::Unavailable { sink: "memory".to_owned(), problem: "it chokes on a row".to_owned() });
        }
        let mut files = self.0.files.lock().unwrap();
        let entry = files.entry(file.as_str().to_owned()).or_default();
        if entry.progress.done || entry.progress.rows != from {
            let found = entry.progress;
            return Err(SinkError::Fenced { file: file.to_string(), expected: from, found });
        }
        self.0.refused_before_last.store(self.refused(), Ordering::SeqCst);
        let mut applied = Applied::default();
        let mut sieve = batch.sieve();
        for rows in &batch.rows {
            for row in rows.rows().filter(|row| row.number() > from) {
                match sieve.ask(&row) {
                    Ok(true) => {}
                    Ok(false) => {
                        applied.filtered += 1;
                        continue;
                    }
                    Err(_) => {
                        applied.bad += 1;
                        continue;
                    }
                }
                entry.rows.push(String::from_utf8_lossy(row.raw()).trim().to_owned());
                applied.inserted += 1;
            }
            applied.bad += rows.bad().iter().filter(|bad| bad.row > from).count() as u64;
        }
        entry.bad += applied.bad;
        entry.progress = entry.progress.after(batch.to, batch.end.is_some(), &applied);
        Ok(applied)
    }
}
