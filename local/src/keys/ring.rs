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
    former: VecDeque<Vec<u8>>,
}

/// Which key of a ring made a signature.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The current key, of this generation.
    Current(u64),
    /// One that a rotation replaced.
    Former,
    /// None that is remembered.
    None,
}

impl KeyRing {
    /// A ring with one random key.
    pub(super) fn random() -> Self {
        Self { current: random_key(), generation: 0, former: VecDeque::new() }
    }

    /// The key to sign with.
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    /// Grows by one with each rotation.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Replaces the current key by a random one.
    pub(super) fn rotate(&mut self) {
        let old = std::mem::replace(&mut self.current, random_key());
        self.generation += 1;
        self.former.truncate(FORMER_KEPT - 1);
        self.former.push_front(old);
    }

    /// Finds the key that signed `message`.
    pub(super) fn find(&self, message: &[u8], signature: &[u8]) -> Match {
        if matches(&self.current, message, signature) {
            Match::Current(self.generation)
        } else if self.former.iter().any(|key| matches(key, message, signature)) {
            Match::Former
        } else {
            Match::None
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
