//! Our hold on a file, renewed for as long as it is wanted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    inbox::{Inbox, Lease},
    receive::chain,
};

/// Not sooner after a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_millis(50);

/// A lease that a task of its own renews until this is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(super) lease: Lease,
    state: watch::Receiver<State>,
    /// What the inbox is told with each renewal.
    rows: Arc<AtomicU64>,
    _renewing: JoinSet<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// As [`Lease::trusted_until`] of the newest renewal.
    trusted_until: Instant,
    /// The inbox says that the lease has lapsed.
    is_over: bool,
}

impl Hold {
    pub(super) fn new<I: Inbox + Clone>(inbox: I, lease: Lease) -> Self {
        Self::telling(inbox, lease, Arc::default())
    }

    /// With each renewal the inbox is told `rows`.
    pub(crate) fn telling<I: Inbox + Clone>(inbox: I, lease: Lease, rows: Arc<AtomicU64>) -> Self {
        let (to, state) = watch::channel(State { trusted_until: lease.trusted_until, is_over: false });
        let mut renewing = JoinSet::new();
        renewing.spawn(renew(inbox, lease.clone(), Arc::clone(&rows), to));
        Self { lease, state, rows, _renewing: renewing }
    }

    /// So many rows were handed out.
    pub(super) fn at(&self, rows: u64) {
        self.rows.store(rows, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        let state = *self.state.borrow();
        state.is_over || state.trusted_until <= Instant::now()
    }

    /// Returns when the lease cannot be counted on any more. Borrows nothing.
    pub(crate) fn end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut watched = self.state.clone();
        async move {
            loop {
                let State { trusted_until, is_over } = *watched.borrow_and_update();
                if is_over || trusted_until <= Instant::now() {
                    return;
                }
                tokio::select! {
                    changed = watched.changed() => if changed.is_err() {
                        // Nobody renews any more: it ends by its time.
                        return sleep_until(trusted_until).await;
                    },
                    () = sleep_until(trusted_until) => {}
                }
            }
        }
    }
}

async fn renew<I: Inbox>(inbox: I, mut lease: Lease, rows: Arc<AtomicU64>, state: watch::Sender<State>) {
    loop {
        // What is left is halved again and again while the inbox does not answer.
        let left = lease.trusted_until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            tracing::warn!(id = lease.id, "the lease could not be renewed in time; another worker may take the file");
            state.send_replace(State { trusted_until: lease.trusted_until, is_over: true });
            return;
        }
        sleep((left / 2).max(RENEW_AGAIN)).await;
        match inbox.renew(&lease, rows.load(Ordering::Relaxed)).await {
            Ok(Some(renewed)) => {
                lease = renewed;
                state.send_replace(State { trusted_until: lease.trusted_until, is_over: false });
            }
            Ok(None) => {
                tracing::warn!(id = lease.id, "the lease lapsed; another worker may have the file");
                state.send_replace(State { trusted_until: lease.trusted_until, is_over: true });
                return;
            }
            Err(error) => tracing::warn!(id = lease.id, error = %chain(&error), "cannot renew the lease"),
        }
    }
}
