//! How entities behave: what a configuration or a test says about a queue, a topic, a subscription.
//!
//! # Sources
//! Service Bus "quotas" (sizes, lock durations), "Message expiration", "Duplicate message detection", "Suspend and
//! reactivate messaging entities". Where our default differs from Azure's, the field says so.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What may be done on an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntityStatus {
    /// Everything.
    #[default]
    Active,
    /// Nothing.
    Disabled,
    /// Receiving only.
    SendDisabled,
    /// Sending only.
    ReceiveDisabled,
}

impl EntityStatus {
    /// Whether messages may be sent to it.
    #[must_use]
    pub fn allows_send(self) -> bool {
        matches!(self, Self::Active | Self::ReceiveDisabled)
    }

    /// Whether messages may be received from it.
    #[must_use]
    pub fn allows_receive(self) -> bool {
        matches!(self, Self::Active | Self::SendDisabled)
    }
}

/// How a queue or subscription behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// How long a receiver holds a message before it comes again (default 10 s; Azure's default is 1 min).
    pub lock_duration: Duration,
    /// Deliveries that may fail before a message is dead-lettered (default 10, as in Azure).
    pub max_delivery_count: u32,
    /// Life of a message that states none, and the longest that one may state (default: none).
    pub default_ttl: Option<Duration>,
    /// Whether a message that expired is dead-lettered rather than dropped (default no).
    pub dead_letter_expired: bool,
    /// How long a message-id is remembered, so that a second message with it is dropped (default: not at all). Of a queue
    /// only: what a subscription gets was checked by its topic.
    pub duplicate_detection_window: Option<Duration>,
    /// Largest delivery that a sender may make, a batch counting as one (default 1 MiB).
    pub max_message_bytes: u64,
    /// All messages together, beyond which senders are refused (default 1 GiB, Azure's smallest size).
    pub max_size_bytes: u64,
    /// What may be done on it (default everything). A subscription gets what its topic is sent whatever its status.
    pub status: EntityStatus,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            lock_duration: Duration::from_secs(10),
            max_delivery_count: 10,
            default_ttl: None,
            dead_letter_expired: false,
            duplicate_detection_window: None,
            max_message_bytes: 1024 * 1024,
            max_size_bytes: 1024 * 1024 * 1024,
            status: EntityStatus::Active,
        }
    }
}

/// How a topic behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOptions {
    /// Life of a message that states none, and the longest that one may state, on every subscription (default: none).
    pub default_ttl: Option<Duration>,
    /// How long a message-id is remembered, so that a second message with it is dropped (default: not at all).
    pub duplicate_detection_window: Option<Duration>,
    /// Largest delivery that a sender may make, a batch counting as one (default 1 MiB).
    pub max_message_bytes: u64,
    /// Bytes on the fullest of its subscriptions, with what is scheduled, beyond which senders are refused (default 1 GiB).
    pub max_size_bytes: u64,
    /// What may be done on it (default everything).
    pub status: EntityStatus,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            default_ttl: None,
            duplicate_detection_window: None,
            max_message_bytes: 1024 * 1024,
            max_size_bytes: 1024 * 1024 * 1024,
            status: EntityStatus::Active,
        }
    }
}
