//! A key that can be rotated, and the HMAC that every signature here is made with.

use std::collections::VecDeque;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Former keys kept, so that a refusal can say "rotated" and not only "wrong".
const FORMER_KEPT: usize = 8;

/// The current key and the last few before it.
pub(super) struct KeyRing {
    current: Vec<u8>,
    generation: u64,
    /// The newest first, each with the rotation that replaced it.
    former: VecDeque<(Vec<u8>, u64)>,
    /// Keys of this generation and later ones are good: those before the current one are within their grace.
    good_from: u64,
}

/// Which key of a ring made a signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// One that is good, of this generation: the current key, or one within its grace.
    Current(u64),
    /// One that a rotation replaced.
    Former,
    /// None that is remembered.
    None,
}

impl KeyRing {
    /// A ring with one random key.
    pub(super) fn random() -> Self {
        Self { current: random_key(), generation: 0, former: VecDeque::new(), good_from: 0 }
    }

    /// The key to sign with.
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// Of the key to sign with.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether what a key of this generation signed is good.
    pub(super) fn is_good(&self, generation: u64) -> bool {
        generation >= self.good_from
    }

    /// Replaces the current key by a random one; the former keys are good no more, unless they have a grace.
    pub(super) fn rotate(&mut self, rotation: u64, grace: bool) {
        let old = std::mem::replace(&mut self.current, random_key());
        self.generation += 1;
        self.former.truncate(FORMER_KEPT - 1);
        self.former.push_front((old, rotation));
        if !grace {
            self.good_from = self.generation;
        }
    }

    /// Ends the grace of the keys that this rotation, or one before it, replaced.
    pub(super) fn end_grace(&mut self, rotation: u64) {
        let generations = (0..self.generation).rev().zip(&self.former);
        let over = generations.filter(|(_, (_, by))| *by <= rotation).map(|(generation, _)| generation + 1).max();
        self.good_from = self.good_from.max(over.unwrap_or(0));
    }

    /// Finds the key that signed `message`.
    pub(super) fn find(&self, message: &[u8], signature: &[u8]) -> Match {
        if matches(&self.current, message, signature) {
            return Match::Current(self.generation);
        }
        let mut former = (0..self.generation).rev().zip(&self.former);
        match former.find(|(_, (key, _))| matches(key, message, signature)) {
            Some((generation, _)) if self.is_good(generation) => Match::Current(generation),
            Some(_) => Match::Former,
            None => Match::None,
        }
    }
}

/// HMAC-SHA256.
pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    keyed(key, message).finalize().into_bytes().into()
}

/// Whether `signature` is the HMAC-SHA256 of `message`, compared in constant time.
pub(super) fn matches(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    keyed(key, message).verify_slice(signature).is_ok()
}

fn keyed(key: &[u8], message: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(message);
    mac
}

fn random_key() -> Vec<u8> {
    rand::random::<[u8; 32]>().to_vec()
}
