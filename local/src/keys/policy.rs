//! Shared access policies: named keys with rights, of the namespace or of one entity.

use serde::Deserialize;

/// What a key or a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights {
    /// Send messages.
    pub send: bool,
    /// Receive messages, and look at rules.
    pub listen: bool,
    /// Everything else that changes an entity.
    pub manage: bool,
}

impl Rights {
    /// All of them.
    pub const ALL: Self = Self { send: true, listen: true, manage: true };
    /// Listen.
    pub const LISTEN: Self = Self { send: false, listen: true, manage: false };
}

/// A right by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Right {
    /// See [`Rights::send`].
    Send,
    /// See [`Rights::listen`].
    Listen,
    /// See [`Rights::manage`].
    Manage,
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        rights.into_iter().fold(Self::default(), |all, right| match right {
            Right::Send => Self { send: true, ..all },
            Right::Listen => Self { listen: true, ..all },
            Right::Manage => Self { manage: true, ..all },
        })
    }
}

/// A key that does not change, and what it speaks for.
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) key: Vec<u8>,
    /// A path in lower case; empty for the namespace.
    pub(super) entity: String,
    pub(super) rights: Rights,
}
