//! Who is in the house: clients that have a token, and strangers, who have none yet or any more. When the house is full, the
//! stranger who has waited longest gives its place to whoever comes; nobody with a token does.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// The list at the door.
#[derive(Debug, Default)]
pub(super) struct Guests {
    list: Mutex<List>,
    /// Somebody became a stranger.
    stranger: Notify,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    /// In the order in which they became it.
    strangers: BTreeMap<u64, CancellationToken>,
    by_address: BTreeMap<IpAddr, usize>,
}

impl Guests {
    fn list(&self) -> MutexGuard<'_, List> {
        // Every change is one statement, so a panic elsewhere leaves nothing to repair.
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one in: a stranger.
    pub(super) fn enter(self: &Arc<Self>, peer: SocketAddr) -> Guest {
        let mut list = self.list();
        *list.by_address.entry(peer.ip()).or_default() += 1;
        drop(list);
        let mut guest = Guest {
            guests: Arc::clone(self),
            address: peer.ip(),
            place: None,
            trusted: Arc::default(),
            leave: CancellationToken::new(),
        };
        guest.is_stranger();
        guest
    }

    /// Asks the stranger who has waited longest to leave; false when there is none.
    pub(super) fn dismiss_one(&self) -> bool {
        let longest = self.list().strangers.pop_first();
        let Some((_, leave)) = longest else { return false };
        leave.cancel();
        true
    }

    /// Returns once somebody has become a stranger.
    pub(super) async fn one_is_stranger(&self) {
        self.stranger.notified().await;
    }

    /// For a log line: how many have a token, and the address with the most connections.
    pub(super) fn summary(&self) -> (usize, Option<(IpAddr, usize)>) {
        let list = self.list();
        let all: usize = list.by_address.values().sum();
        let most = list.by_address.iter().max_by_key(|(_, count)| **count).map(|(address, count)| (*address, *count));
        (all.saturating_sub(list.strangers.len()), most)
    }
}

/// A connection's entry; dropping it is leaving.
#[derive(Debug)]
pub(super) struct Guest {
    guests: Arc<Guests>,
    address: IpAddr,
    /// Among the strangers.
    place: Option<u64>,
    /// Whether it has a token, for who holds bytes of it beside the engine.
    trusted: Arc<AtomicBool>,
    leave: CancellationToken,
}

impl Guest {
    /// Fires when it has to give its place to another.
    pub(super) fn leave(&self) -> CancellationToken {
        self.leave.clone()
    }

    /// Tells at any time whether it has a token.
    pub(super) fn trusted(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.trusted)
    }

    /// Whether it has a token now.
    pub(super) fn has_token(&mut self, has_token: bool) {
        self.trusted.store(has_token, Ordering::Relaxed);
        match (has_token, self.place) {
            (true, Some(place)) => {
                self.guests.list().strangers.remove(&place);
                self.place = None;
            }
            (false, None) => self.is_stranger(),
            _ => {}
        }
    }

    fn is_stranger(&mut self) {
        let mut list = self.guests.list();
        let place = list.next;
        list.next += 1;
        list.strangers.insert(place, self.leave.clone());
        self.place = Some(place);
        drop(list);
        self.guests.stranger.notify_one();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut list = self.guests.list();
        if let Some(place) = self.place {
            list.strangers.remove(&place);
        }
        if let Some(count) = list.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                list.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(guests: &Arc<Guests>, port: u16) -> Guest {
        guests.enter(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    #[test]
    fn who_has_waited_longest_without_a_token_goes_first_and_who_has_one_never() {
        let guests = Arc::new(Guests::default());
        let (mut first, second, mut third) = (enter(&guests, 1), enter(&guests, 2), enter(&guests, 3));
        first.has_token(true);
        assert_eq!(guests.summary(), (1, Some(([127, 0, 0, 1].into(), 3))));
        assert!(guests.dismiss_one() && second.leave.is_cancelled());
        third.has_token(true);
        assert!(!guests.dismiss_one());
        // Its token is over: it is a stranger from now on.
        first.has_token(false);
        assert!(guests.dismiss_one() && first.leave.is_cancelled() && !third.leave.is_cancelled());
        drop((first, second, third));
        assert_eq!(guests.summary(), (0, None));
    }

    #[test]
    fn who_has_left_is_not_asked_to() {
        let guests = Arc::new(Guests::default());
        drop(enter(&guests, 1));
        assert!(!guests.dismiss_one());
    }
}
