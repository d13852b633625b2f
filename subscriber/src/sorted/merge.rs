//! Several runs as one: always the record that comes first among those at which they stand.

use super::run::{Place, ReadError, Run, RunReader};

/// Runs that are read beside each other.
#[derive(Debug)]
pub(super) struct Merge {
    readers: Vec<RunReader>,
    /// Those that have a record, by their places: a binary heap, the first record on top.
    heap: Vec<usize>,
    /// The one on top was handed out.
    is_taken: bool,
}

impl Merge {
    pub(super) fn new(runs: &[Run]) -> Result<Self, ReadError> {
        let readers = runs.iter().cloned().map(RunReader::new).collect::<Result<Vec<_>, _>>()?;
        let mut heap: Vec<usize> = (0..readers.len()).filter(|at| readers[*at].place().is_some()).collect();
        // Sorted, it is a heap.
        heap.sort_by(|a, b| readers[*a].place().cmp(&readers[*b].place()));
        Ok(Self { readers, heap, is_taken: false })
    }

    /// The next record: its place and its packed row.
    pub(super) fn next(&mut self) -> Result<Option<(Place<'_>, &[u8])>, ReadError> {
        if std::mem::take(&mut self.is_taken) {
            let top = self.heap[0];
            self.readers[top].advance()?;
            if self.readers[top].place().is_none() {
                self.heap.swap_remove(0);
            }
            self.sink_down();
        }
        let Some(&top) = self.heap.first() else { return Ok(None) };
        self.is_taken = true;
        let reader = &self.readers[top];
        Ok(reader.place().map(|place| (place, reader.packed())))
    }

    /// Puts the one on top where it belongs.
    fn sink_down(&mut self) {
        let comes_before = |a: usize, b: usize| self.readers[a].place() < self.readers[b].place();
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let Some(&left_run) = self.heap.get(left) else { return };
            let first = match self.heap.get(right) {
                Some(&right_run) if comes_before(right_run, left_run) => right,
                _ => left,
            };
            if !comes_before(self.heap[first], self.heap[at]) {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}
