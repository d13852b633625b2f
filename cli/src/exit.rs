//! How a program ends: 0 done, 1 failed, 2 used wrongly, 3 done with quarantined items.

use std::{io::ErrorKind, num::NonZeroUsize, panic::resume_unwind, process::ExitCode, thread::available_parallelism};

use tokio::runtime::Builder;

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was done.
    Done,
    /// Done, but something was put aside for a person.
    Quarantined,
    /// Something was not done, and has been said.
    Failed,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Failed => Self::FAILURE,
            Outcome::Quarantined => Self::from(3),
        }
    }
}

/// Runs a program's work. It is a task like others, and not that of the thread that waits here: each thing that it waits for would
/// have to wake this thread as well.
#[must_use]
pub fn run(program: &str, work: impl Future<Output = anyhow::Result<Outcome>> + Send + 'static) -> ExitCode {
    // Two at least: where a line of output has to wait for its reader, leases are renewed all the same.
    let threads = available_parallelism().map_or(1, NonZeroUsize::get).max(2);
    let runtime = match Builder::new_multi_thread().worker_threads(threads).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{program}: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(runtime.spawn(work));
    // A stop has its time; what a thread is still busy with, such as a file being converted or standard input being read, is begun
    // again at the next start.
    runtime.shutdown_background();
    match ended {
        Ok(ended) => end(program, ended),
        Err(error) => resume_unwind(error.into_panic()),
    }
}

/// Prints an error with its causes on one line, and ends with 1. Whoever closed our standard output (`| head`) has seen
/// enough: that is no error.
fn end(program: &str, result: anyhow::Result<Outcome>) -> ExitCode {
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            let closed =
                error.downcast_ref::<std::io::Error>().map(std::io::Error::kind) == Some(ErrorKind::BrokenPipe);
            if closed {
                return ExitCode::SUCCESS;
            }
            eprintln!("{program}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
