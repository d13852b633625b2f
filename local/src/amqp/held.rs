//! What a client makes us hold until it goes on or goes away: parts of deliveries, answers that wait for its credit or its
//! window, the names of its links. Counted in bytes, because a thousand of something may be a gigabyte.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::performative::AmqpError;

/// For one connection.
const CONNECTION_MAX: usize = 64 * 1024 * 1024;

/// Largest message that is taken whatever its entity allows, so that it fits beside what else the connection holds.
pub(super) const MESSAGE_MAX: u64 = 48 * 1024 * 1024;

/// For one that has no token: enough to put one.
const STRANGER_MAX: usize = 256 * 1024;

/// For all connections of the process.
const ALL_MAX: usize = 512 * 1024 * 1024;

/// For one connection while all together hold more than [`ALL_MAX`]: who sends a message of default size at a time is
/// served whatever the others do.
const SHARE: usize = 2 * 1024 * 1024;

/// What a link takes besides its texts and messages.
pub(super) const LINK_BYTES: usize = 512;

/// Bytes held for one connection, among those for all.
#[derive(Debug)]
pub(crate) struct Held {
    own: usize,
    all: Arc<AtomicUsize>,
}

impl Held {
    pub(super) fn new(all: Arc<AtomicUsize>) -> Self {
        Self { own: 0, all }
    }

    pub(super) fn add(&mut self, bytes: usize) {
        // Deliveries of one frame come here too, and the count for all is shared.
        if bytes == 0 {
            return;
        }
        self.own += bytes;
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        // What was never added would be a defect of ours; the others' count must not suffer from it.
        let bytes = bytes.min(self.own);
        if bytes == 0 {
            return;
        }
        self.own -= bytes;
        self.all.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether all connections together hold so much that nobody should add what can wait.
    pub(super) fn is_tight(&self) -> bool {
        self.all.load(Ordering::Relaxed) > ALL_MAX
    }

    /// Why the connection is to be closed, if it holds too much.
    pub(super) fn excess(&self, has_token: bool) -> Option<AmqpError> {
        let text = if !has_token && self.own > STRANGER_MAX {
            format!("a connection without a token holds more than {STRANGER_MAX} bytes; put a token on $cbs first")
        } else if self.own > CONNECTION_MAX {
            format!(
                "unfinished deliveries, unread answers and links of this connection hold more than {CONNECTION_MAX} bytes; \
                 finish or read some before the next"
            )
        } else if self.own > SHARE && self.all.load(Ordering::Relaxed) > ALL_MAX {
            format!(
                "all connections together hold more than {ALL_MAX} bytes, and this one more than {SHARE}; finish or read \
                 some before the next"
            )
        } else {
            return None;
        };
        Some(AmqpError::new("amqp:resource-limit-exceeded", text))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.own
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(held: &Held, has_token: bool) -> bool {
        held.excess(has_token).is_some()
    }

    #[test]
    fn who_has_no_token_may_hold_little_and_who_has_one_much() {
        let mut held = Held::new(Arc::default());
        held.add(STRANGER_MAX);
        assert!(!full(&held, false));
        held.add(1);
        assert!(full(&held, false) && !full(&held, true));
        held.add(CONNECTION_MAX - STRANGER_MAX);
        assert!(full(&held, true));
        held.give_back(1);
        assert!(!full(&held, true));
    }

    #[test]
    fn when_the_process_is_full_who_holds_little_goes_on_and_what_ends_makes_room() {
        let all = Arc::default();
        let connection = |bytes| {
            let mut held = Held::new(Arc::clone(&all));
            held.add(bytes);
            held
        };
        let many: Vec<Held> = (0..8).map(|_| connection(CONNECTION_MAX)).collect();
        let (small, large) = (connection(SHARE), connection(SHARE + 1));
        assert!(!full(&small, true) && full(&large, true));
        assert!(many.iter().all(|held| full(held, true)), "whoever of the large ones goes on is closed");
        drop(many);
        assert!(!full(&large, true));
        drop((small, large));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
