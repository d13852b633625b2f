//! Places on processors, for all files together.

use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// So many pieces of work are done at once, whoever they are of.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    places: Arc<Places>,
    /// How many there are.
    pub(super) size: usize,
}

#[derive(Debug)]
struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Pool {
    pub(crate) fn new(size: usize) -> Self {
        Self { places: Arc::new(Places { free: Mutex::new(size), freed: Condvar::new() }), size }
    }

    /// Works once there is a place, on a thread that may wait.
    pub(super) fn with_place<T>(&self, work: impl FnOnce() -> T) -> T {
        let _place = self.places.take();
        work()
    }
}

impl Places {
    fn take(&self) -> Place<'_> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner) -= 1;
        Place(self)
    }
}

/// Free again when it is dropped, also by a panic.
struct Place<'p>(&'p Places);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
