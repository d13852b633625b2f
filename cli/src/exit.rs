//! How a program ends: 0 done, 1 failed, 2 used wrongly, 3 done with quarantined items.

use std::{io::ErrorKind, process::ExitCode};

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

/// Prints an error with its causes on one line, and ends with 1. Whoever closed our standard output (`| head`) has seen
/// enough: that is no error.
#[must_use]
pub fn end(program: &str, result: anyhow::Result<Outcome>) -> ExitCode {
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
