//! Tasks beside the one that asks for them. A panic goes on to who waits for it; a runtime that shuts down ends them without
//! a result, and that is nobody's panic.

use tokio::task::{JoinError, JoinSet, spawn_blocking};

/// Runs CPU work or waiting beside the runtime. `None` when the runtime is shutting down.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    outcome(spawn_blocking(work).await)
}

/// What a task came to. `None` when the runtime is shutting down.
pub(crate) fn outcome<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_shutting_down) => None,
        },
    }
}

/// Awaits every task.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<T>) {
    while let Some(ended) = tasks.join_next().await {
        outcome(ended);
    }
}
