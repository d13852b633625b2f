//! Tasks beside the one that asks for them. A panic goes on to who waits for it; a runtime that shuts down ends them without
//! a result, and that is nobody's panic.

use std::{convert::Infallible, future::pending, panic::resume_unwind, sync::mpsc::sync_channel, thread};

use tokio::{
    sync::oneshot,
    task::{JoinError, JoinSet, spawn_blocking},
};

/// Runs CPU work or waiting beside the runtime. `None` when the runtime is shutting down.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    outcome(spawn_blocking(work).await)
}

/// Runs what goes on for long, and waits within, on a thread of its own: however many there are, they take no thread from the
/// short works of [`blocking`], for some of which they may wait. `None` when the runtime is shutting down.
pub(crate) async fn on_a_thread<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let ((give, given), (tell, told)) = (sync_channel(1), oneshot::channel());
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        // An error means that whoever gives, or whoever wants to be told, is gone.
        let _nobody_listens = given.recv().map(|work: Box<dyn FnOnce() -> T + Send>| tell.send(work()));
    });
    // The system has no more of them.
    let Ok(thread) = thread else { return blocking(work).await };
    let _it_waits = give.send(Box::new(work));
    match told.await {
        Ok(value) => Some(value),
        Err(_) => match thread.join() {
            Err(panic) => resume_unwind(panic),
            Ok(()) => None,
        },
    }
}

/// What a task came to. `None` when the runtime is shutting down.
pub(crate) fn outcome<T>(ended: Result<T, JoinError>) -> Option<T> {
    match ended {
        Ok(value) => Some(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_shutting_down) => None,
        },
    }
}

/// Goes on with the panic of a task as its own; otherwise it does not end.
pub(crate) async fn panics<T: 'static>(tasks: &mut JoinSet<T>) -> Infallible {
    while let Some(ended) = tasks.join_next().await {
        outcome(ended);
    }
    pending().await
}

/// Awaits every task.
pub(crate) async fn all<T: 'static>(mut tasks: JoinSet<T>) {
    while let Some(ended) = tasks.join_next().await {
        outcome(ended);
    }
}
