//! Tasks beside the one that waits for them. A panic goes on to who waits; a runtime that shuts down ends them without a result, and
//! that is nobody's panic.

use tokio::task::{JoinError, spawn_blocking};

/// What a task came to. Where the runtime shuts down it came to nothing, and who waits here is about to be dropped as well.
pub(crate) async fn joined<T>(ended: Result<T, JoinError>) -> T {
    match ended {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_shutting_down) => std::future::pending().await,
        },
    }
}

/// Runs work that blocks its thread on one for such work.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    joined(spawn_blocking(work).await).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{runtime::Runtime, task::JoinSet, time::timeout};

    use super::*;

    #[test]
    fn a_panic_goes_on_to_who_waits_for_the_task() {
        let runtime = Runtime::new().unwrap();
        let caught = std::panic::catch_unwind(|| runtime.block_on(blocking(|| panic!("told"))));
        assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"told"));
    }

    #[test]
    fn a_task_that_ends_with_its_runtime_panics_nobody() {
        let mut tasks = JoinSet::new();
        let other = Runtime::new().unwrap();
        tasks.spawn_on(std::future::pending::<()>(), other.handle());
        other.shutdown_background();
        let runtime = Runtime::new().unwrap();
        let ended = runtime.block_on(tasks.join_next()).unwrap();
        assert!(ended.is_err());
        let waited = runtime.block_on(async { timeout(Duration::from_millis(50), joined(ended)).await });
        assert!(waited.is_err(), "it waits to be dropped");
    }
}
