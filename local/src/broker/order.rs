//! In which order a queue hands out what waits, when a fault script meddles with it: held back, or the next few in
//! another order. Pure.

use std::collections::{BTreeSet, VecDeque};

use super::moment::Moment;
use crate::fault::{NewOrder, mix};

/// What a script wants; nothing of it is the usual case, the smallest number first.
#[derive(Debug, Default)]
pub(crate) struct Order {
    hold: Option<Hold>,
    change: Option<Change>,
    /// Sequence numbers that go first, in this order. What was taken meanwhile is still among them.
    ahead: VecDeque<i64>,
}

#[derive(Debug)]
struct Hold {
    until: Moment,
    /// So many more messages end it as well.
    arrivals: Option<u32>,
}

#[derive(Debug)]
struct Change {
    messages: usize,
    order: NewOrder,
    until: Moment,
}

impl Order {
    /// Nothing is handed out until then, or until so many more came.
    pub(crate) fn hold_back(&mut self, until: Moment, arrivals: Option<u32>) {
        self.hold = Some(Hold { until, arrivals });
    }

    /// Nothing is handed out until so many wait, or until then; they change places.
    pub(crate) fn reorder(&mut self, messages: u32, order: NewOrder, until: Moment, ready: &BTreeSet<i64>) {
        self.change = Some(Change { messages: usize::try_from(messages).unwrap_or(usize::MAX), order, until });
        self.arrange(ready);
    }

    /// A message came in, which is among `ready` now.
    pub(crate) fn arrived(&mut self, ready: &BTreeSet<i64>) {
        if let Some(Hold { arrivals: Some(left), .. }) = &mut self.hold {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.hold = None;
            }
        }
        self.arrange(ready);
    }

    /// Ends what is over at `now`.
    pub(crate) fn advance(&mut self, now: Moment, ready: &BTreeSet<i64>) {
        if self.hold.as_ref().is_some_and(|hold| hold.until <= now) {
            self.hold = None;
        }
        if let Some(change) = &mut self.change
            && change.until <= now
        {
            change.messages = change.messages.min(ready.len());
            self.arrange(ready);
        }
    }

    /// When [`Self::advance`] has work next.
    pub(crate) fn next_end(&self) -> Moment {
        let hold = self.hold.as_ref().map_or(Moment::NEVER, |hold| hold.until);
        self.change.as_ref().map_or(hold, |change| hold.min(change.until))
    }

    /// Whether anything may be handed out now.
    pub(crate) fn is_open(&self) -> bool {
        self.hold.is_none() && self.change.is_none()
    }

    /// The message that goes next.
    pub(crate) fn next(&mut self, ready: &BTreeSet<i64>) -> Option<i64> {
        if !self.is_open() {
            return None;
        }
        while let Some(next) = self.ahead.front() {
            if ready.contains(next) {
                return Some(*next);
            }
            self.ahead.pop_front();
        }
        ready.first().copied()
    }

    fn arrange(&mut self, ready: &BTreeSet<i64>) {
        let Some(change) = self.change.take_if(|change| ready.len() >= change.messages) else { return };
        let mut ahead: Vec<i64> = ready.iter().copied().take(change.messages).collect();
        match change.order {
            NewOrder::Reverse => ahead.reverse(),
            NewOrder::Shuffled(seed) => ahead.sort_by_key(|sequence| mix(seed ^ mix(sequence.unsigned_abs()))),
        }
        self.ahead = ahead.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(order: &mut Order, ready: &mut BTreeSet<i64>) -> Vec<i64> {
        std::iter::from_fn(|| order.next(ready).inspect(|next| assert!(ready.remove(next)))).collect()
    }

    #[test]
    fn a_reversed_order_waits_for_its_messages_and_then_goes_back_to_the_usual_one() {
        let (mut order, mut ready) = (Order::default(), BTreeSet::from([1, 2]));
        order.reorder(3, NewOrder::Reverse, Moment(100), &ready);
        assert_eq!(order.next(&ready), None);
        ready.extend([3, 4, 5]);
        order.arrived(&ready);
        assert_eq!(all(&mut order, &mut ready), [3, 2, 1, 4, 5]);
    }

    #[test]
    fn patience_that_ends_reorders_what_is_there() {
        let (mut order, mut ready) = (Order::default(), BTreeSet::from([1, 2]));
        order.reorder(3, NewOrder::Reverse, Moment(100), &ready);
        order.advance(Moment(99), &ready);
        assert_eq!((order.next(&ready), order.next_end()), (None, Moment(100)));
        order.advance(Moment(100), &ready);
        assert_eq!((all(&mut order, &mut ready), order.next_end()), (vec![2, 1], Moment::NEVER));
    }

    #[test]
    fn a_seed_shuffles_the_same_way_each_time() {
        let shuffled = |seed| {
            let (mut order, mut ready) = (Order::default(), (1..=20).collect());
            order.reorder(20, NewOrder::Shuffled(seed), Moment(100), &ready);
            all(&mut order, &mut ready)
        };
        assert_eq!(shuffled(7), shuffled(7));
        assert_ne!(shuffled(7), shuffled(8));
        let mut sorted = shuffled(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (1..=20).collect::<Vec<_>>());
    }

    #[test]
    fn messages_are_held_back_until_the_time_or_until_so_many_more_came() {
        let (mut order, mut ready) = (Order::default(), BTreeSet::from([1]));
        order.hold_back(Moment(100), Some(2));
        for sequence in [2, 3] {
            assert_eq!(order.next(&ready), None);
            ready.insert(sequence);
            order.arrived(&ready);
        }
        assert_eq!(order.next(&ready), Some(1));
        order.hold_back(Moment(100), None);
        assert!(!order.is_open());
        order.advance(Moment(100), &ready);
        assert_eq!(all(&mut order, &mut ready), [1, 2, 3]);
    }
}
