//! The message-ids that an entity remembers, so that a second message with one of them is dropped. Pure.
//!
//! # Sources
//! Service Bus "Duplicate message detection": within the window a later message with the same id is accepted and dropped;
//! the window starts with the first.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::moment::Moment;

/// Ids that one entity remembers, about 12 MB; beyond it the oldest is forgotten before its time.
pub(crate) const SEEN_MAX: usize = 200_000;

/// Half a SHA-256 stands for an id: ids may have any length, what is kept has not.
type Mark = [u8; 16];

#[derive(Debug)]
pub(crate) struct Seen {
    window: Duration,
    marks: HashSet<Mark>,
    /// In the order in which they came, with the time when each is forgotten.
    order: VecDeque<(Moment, Mark)>,
}

impl Seen {
    pub(crate) fn new(window: Duration) -> Self {
        Self { window, marks: HashSet::new(), order: VecDeque::new() }
    }

    /// Remembers an id from `now` on; false when it is remembered already.
    pub(crate) fn is_new(&mut self, id: &[u8], now: Moment) -> bool {
        while let Some((until, mark)) = self.order.front()
            && (*until <= now || self.order.len() >= SEEN_MAX)
        {
            self.marks.remove(mark);
            self.order.pop_front();
        }
        let mut mark = Mark::default();
        mark.copy_from_slice(&Sha256::digest(id)[..16]);
        let is_new = self.marks.insert(mark);
        if is_new {
            self.order.push_back((now.after(self.window), mark));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    #[test]
    fn an_id_is_a_duplicate_within_the_window_of_its_first() {
        let mut seen = Seen::new(WINDOW);
        let start = Moment(1_000_000);
        assert!(seen.is_new(b"a", start));
        assert!(!seen.is_new(b"a", start.after(WINDOW / 2)), "and that does not make the window longer");
        assert!(!seen.is_new(b"a", start.after(WINDOW - Duration::from_millis(1))));
        assert!(seen.is_new(b"a", start.after(WINDOW)));
        assert!(seen.is_new(b"A", start.after(WINDOW)), "ids are compared as they are");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_is_forgotten_first() {
        let mut seen = Seen::new(WINDOW);
        let now = Moment(0);
        for id in 0..=SEEN_MAX {
            assert!(seen.is_new(&id.to_be_bytes(), now));
        }
        assert_eq!((seen.order.len(), seen.marks.len()), (SEEN_MAX, SEEN_MAX));
        assert!(seen.is_new(&0_usize.to_be_bytes(), now), "the oldest was forgotten");
        assert!(!seen.is_new(&SEEN_MAX.to_be_bytes(), now));
    }
}
