//! A thing that a thread has for a while.

use std::{io, thread};

use super::SortError;

/// Here, or with a thread that gives it back.
#[derive(Debug)]
pub(super) enum Beside<T> {
    Idle(T),
    Busy(Thread<T>),
    /// It was taken, or is lost to an error.
    Gone,
}

/// Dropped, it waits: nothing goes on behind its owner's back.
#[derive(Debug)]
pub(super) struct Thread<T>(Option<thread::JoinHandle<Result<T, SortError>>>);

impl<T: Send + 'static> Beside<T> {
    /// Has it made on a thread of its own.
    pub(super) fn run(make: impl FnOnce() -> Result<T, SortError> + Send + 'static) -> io::Result<Self> {
        let thread = thread::Builder::new().name("sorting".to_owned()).spawn(make)?;
        Ok(Self::Busy(Thread(Some(thread))))
    }

    /// Takes it, when the thread has ended.
    ///
    /// # Panics
    /// As the thread did, or when it was taken before.
    pub(super) fn take(&mut self) -> Result<T, SortError> {
        match std::mem::replace(self, Self::Gone) {
            Self::Idle(thing) => Ok(thing),
            Self::Busy(mut thread) => match thread.0.take().expect("it was not waited for yet").join() {
                Ok(made) => made,
                Err(panic) => std::panic::resume_unwind(panic),
            },
            Self::Gone => panic!("who failed to sort is to give up"),
        }
    }
}

impl<T> Drop for Thread<T> {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // What it made, or why it failed, is nobody's matter any more.
            drop(thread.join());
        }
    }
}
