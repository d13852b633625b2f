//! Whose turn it is: which of the files that are due a worker gets.
//!
//! Half of what is leased goes to files that are [at risk](super::AT_RISK), the most urgent first: who works once a day would
//! not see them again; the other half to the types in turns, in the
//! order of their names, and within a type to what is due longest. So a type with many files holds up no other, and neither do
//! many urgent ones; and where there is one type and no hurry, what is due longest comes first.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// So many of the most urgent files are looked at for one that is due, so that those which wait for a later try cost a
/// bounded time.
pub(super) const URGENT_LOOKED_AT: u32 = 1_000;
/// So many types are looked at for work that is due. After that the oldest is taken, and the turn goes on from its type.
pub(super) const TYPES_LOOKED_AT: u32 = 64;
/// And so many that nobody wants are passed over on the way: each costs a jump, however many files it has.
pub(super) const TYPES_PASSED_OVER: u32 = 1_000;

/// Where the turns of one inbox are, in this process: replicas take turns each for itself.
#[derive(Debug, Default)]
pub(super) struct Turns {
    leased: AtomicU64,
    /// The type that was last.
    last: Mutex<String>,
}

/// Of the files that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Share {
    /// At most so many because they are urgent.
    pub(super) urgent: u32,
    /// The type whose turn was last.
    pub(super) after: String,
}

impl Turns {
    /// For so many files. Where it is an odd number, the one more goes to one half and the other by turns.
    pub(super) fn share(&self, most: u32) -> Share {
        let before = self.leased.fetch_add(u64::from(most), Ordering::Relaxed);
        let urgent = (before + u64::from(most)).div_ceil(2) - before.div_ceil(2);
        Share { urgent: u32::try_from(urgent).unwrap_or(most), after: self.last().clone() }
    }

    /// The type of the last file that was taken, not because it is urgent.
    pub(super) fn served(&self, blob_type: &str) {
        let mut last = self.last();
        last.clear();
        last.push_str(blob_type);
    }

    fn last(&self) -> MutexGuard<'_, String> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deals from each hand in turn until there are `most`.
pub(super) fn dealt<T>(hands: Vec<Vec<T>>, most: usize) -> Vec<T> {
    let mut hands: Vec<_> = hands.into_iter().map(Vec::into_iter).collect();
    let mut cards = Vec::new();
    loop {
        let before = cards.len();
        for hand in &mut hands {
            if cards.len() == most {
                return cards;
            }
            cards.extend(hand.next());
        }
        if cards.len() == before {
            return cards;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_at_a_time_every_second_one_may_be_urgent() {
        let turns = Turns::default();
        let shares: Vec<u32> = (0..6).map(|_| turns.share(1).urgent).collect();
        assert_eq!(shares.iter().sum::<u32>(), 3, "{shares:?}");
        assert!(shares.windows(2).all(|two| two[0] != two[1]), "{shares:?}");
        assert_eq!(turns.share(4).urgent, 2);
        let odd = [turns.share(3).urgent, turns.share(3).urgent];
        assert_eq!(odd.iter().sum::<u32>(), 3, "{odd:?}");
        turns.served("T");
        assert_eq!(turns.share(0), Share { urgent: 0, after: "T".to_owned() });
    }

    #[test]
    fn hands_are_dealt_from_in_turn_until_there_is_enough() {
        let hands = || vec![vec![1, 4, 6], vec![2], vec![3, 5]];
        assert_eq!(dealt(hands(), 10), [1, 2, 3, 4, 5, 6]);
        assert_eq!(dealt(hands(), 4), [1, 2, 3, 4]);
        assert_eq!(dealt(hands(), 0), [0; 0]);
        assert_eq!(dealt(Vec::<Vec<u8>>::new(), 3), [0; 0]);
    }
}
