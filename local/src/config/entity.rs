//! Queues, topics, subscriptions and rules as people write them: with the same keys in the configuration and in the body
//! of a request to the admin endpoint. What is not written takes the default of [`QueueOptions`] and [`TopicOptions`].

use std::{collections::BTreeSet, fmt, marker::PhantomData, num::NonZeroU32, time::Duration};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, value::MapAccessDeserializer},
};

use super::rule;
use crate::broker::{BrokerError, EntityStatus, QueueOptions, Rule, TopicOptions, names_entity, names_subscription};

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueConfig {
    /// Its name; unique in the namespace.
    #[serde(skip_serializing)]
    pub name: String,
    /// How long a receiver holds a message.
    #[serde(rename = "lock_duration_ms", with = "millis", default, skip_serializing_if = "Option::is_none")]
    pub lock_duration: Option<Duration>,
    /// Failed deliveries before a message is dead-lettered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delivery_count: Option<NonZeroU32>,
    /// Life of a message that states none, and the longest that one may state.
    #[serde(rename = "default_ttl_ms", with = "millis", default, skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<Duration>,
    /// Whether a message that expired is dead-lettered rather than dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_expired: Option<bool>,
    /// How long a message-id is remembered, so that a second message with it is dropped.
    #[serde(
        rename = "duplicate_detection_window_ms",
        with = "millis",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub duplicate_detection_window: Option<Duration>,
    /// Largest delivery that a sender may make, a batch counting as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<u64>,
    /// All messages together, beyond which senders are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
    /// What may be done on it: `active`, `disabled`, `send_disabled`, `receive_disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<EntityStatus>,
}

/// A topic with its subscriptions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicConfig {
    /// Its name; unique in the namespace.
    #[serde(skip_serializing)]
    pub name: String,
    /// Life of a message that states none, and the longest that one may state, on every subscription.
    #[serde(rename = "default_ttl_ms", with = "millis", default, skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<Duration>,
    /// How long a message-id is remembered, so that a second message with it is dropped.
    #[serde(
        rename = "duplicate_detection_window_ms",
        with = "millis",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub duplicate_detection_window: Option<Duration>,
    /// Largest delivery that a sender may make, a batch counting as one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_message_bytes: Option<u64>,
    /// Bytes on the fullest of its subscriptions, with what is scheduled, beyond which senders are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
    /// What may be done on it: `active`, `disabled`, `send_disabled`, `receive_disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<EntityStatus>,
    /// Subscriptions, besides those of the tenants.
    #[serde(default, skip_serializing, deserialize_with = "names_or_tables")]
    pub subscriptions: Vec<SubscriptionConfig>,
}

/// A subscription of a topic.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionConfig {
    /// Its name; unique in its topic.
    #[serde(skip_serializing)]
    pub name: String,
    /// How long a receiver holds a message.
    #[serde(rename = "lock_duration_ms", with = "millis", default, skip_serializing_if = "Option::is_none")]
    pub lock_duration: Option<Duration>,
    /// Failed deliveries before a message is dead-lettered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delivery_count: Option<NonZeroU32>,
    /// Life of a message that states none, and the longest that one may state; the topic's holds as well.
    #[serde(rename = "default_ttl_ms", with = "millis", default, skip_serializing_if = "Option::is_none")]
    pub default_ttl: Option<Duration>,
    /// Whether a message that expired is dead-lettered rather than dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_expired: Option<bool>,
    /// All messages together, beyond which senders to the topic are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size_bytes: Option<u64>,
    /// What may be done on it: `active`, `disabled`, `send_disabled`, `receive_disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<EntityStatus>,
    /// Which messages it gets; without rules, all of them (`$Default`).
    #[serde(default, with = "rule", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<Rule>,
}

impl QueueConfig {
    /// What the queue gets: what is written, else `defaults`.
    pub(crate) fn options(&self, defaults: &QueueOptions) -> QueueOptions {
        QueueOptions {
            lock_duration: self.lock_duration.unwrap_or(defaults.lock_duration),
            max_delivery_count: self.max_delivery_count.map_or(defaults.max_delivery_count, NonZeroU32::get),
            default_ttl: self.default_ttl.or(defaults.default_ttl),
            dead_letter_expired: self.dead_letter_expired.unwrap_or(defaults.dead_letter_expired),
            duplicate_detection_window: self.duplicate_detection_window.or(defaults.duplicate_detection_window),
            max_message_bytes: self.max_message_bytes.unwrap_or(defaults.max_message_bytes),
            max_size_bytes: self.max_size_bytes.unwrap_or(defaults.max_size_bytes),
            status: self.status.unwrap_or(defaults.status),
        }
    }

    /// A queue as it would be written.
    pub(crate) fn of(options: &QueueOptions) -> Self {
        Self {
            name: String::new(),
            lock_duration: Some(options.lock_duration),
            max_delivery_count: NonZeroU32::new(options.max_delivery_count),
            default_ttl: options.default_ttl,
            dead_letter_expired: Some(options.dead_letter_expired),
            duplicate_detection_window: options.duplicate_detection_window,
            max_message_bytes: Some(options.max_message_bytes),
            max_size_bytes: Some(options.max_size_bytes),
            status: Some(options.status),
        }
    }

    /// What cannot be, and why.
    pub(crate) fn problem(&self) -> Option<String> {
        if !names_entity(&self.name) {
            return Some(BrokerError::BadName(self.name.clone()).to_string());
        }
        first_zero(&[
            ("lock_duration_ms", self.lock_duration.map(|time| time.as_millis())),
            ("default_ttl_ms", self.default_ttl.map(|time| time.as_millis())),
            ("duplicate_detection_window_ms", self.duplicate_detection_window.map(|time| time.as_millis())),
            ("max_message_bytes", self.max_message_bytes.map(u128::from)),
            ("max_size_bytes", self.max_size_bytes.map(u128::from)),
        ])
    }
}

impl TopicConfig {
    /// What the topic gets: what is written, else the defaults.
    pub(crate) fn options(&self) -> TopicOptions {
        let defaults = TopicOptions::default();
        TopicOptions {
            default_ttl: self.default_ttl.or(defaults.default_ttl),
            duplicate_detection_window: self.duplicate_detection_window.or(defaults.duplicate_detection_window),
            max_message_bytes: self.max_message_bytes.unwrap_or(defaults.max_message_bytes),
            max_size_bytes: self.max_size_bytes.unwrap_or(defaults.max_size_bytes),
            status: self.status.unwrap_or(defaults.status),
        }
    }

    /// A topic as it would be written.
    pub(crate) fn of(options: &TopicOptions) -> Self {
        Self {
            name: String::new(),
            default_ttl: options.default_ttl,
            duplicate_detection_window: options.duplicate_detection_window,
            max_message_bytes: Some(options.max_message_bytes),
            max_size_bytes: Some(options.max_size_bytes),
            status: Some(options.status),
            subscriptions: Vec::new(),
        }
    }

    /// What cannot be, and why.
    pub(crate) fn problem(&self) -> Option<String> {
        if !names_entity(&self.name) {
            return Some(BrokerError::BadName(self.name.clone()).to_string());
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = self.subscriptions.iter().find(|one| !names.insert(one.name.to_lowercase())) {
            return Some(format!("names the subscription '{}' twice", twice.name));
        }
        first_zero(&[
            ("default_ttl_ms", self.default_ttl.map(|time| time.as_millis())),
            ("duplicate_detection_window_ms", self.duplicate_detection_window.map(|time| time.as_millis())),
            ("max_message_bytes", self.max_message_bytes.map(u128::from)),
            ("max_size_bytes", self.max_size_bytes.map(u128::from)),
        ])
    }
}

impl SubscriptionConfig {
    /// What the subscription gets: what is written, else `defaults`.
    pub(crate) fn options(&self, defaults: &QueueOptions) -> QueueOptions {
        QueueOptions {
            lock_duration: self.lock_duration.unwrap_or(defaults.lock_duration),
            max_delivery_count: self.max_delivery_count.map_or(defaults.max_delivery_count, NonZeroU32::get),
            default_ttl: self.default_ttl.or(defaults.default_ttl),
            dead_letter_expired: self.dead_letter_expired.unwrap_or(defaults.dead_letter_expired),
            max_size_bytes: self.max_size_bytes.unwrap_or(defaults.max_size_bytes),
            status: self.status.unwrap_or(defaults.status),
            ..defaults.clone()
        }
    }

    /// A subscription as it would be written.
    pub(crate) fn of(options: &QueueOptions, rules: &[Rule]) -> Self {
        Self {
            name: String::new(),
            lock_duration: Some(options.lock_duration),
            max_delivery_count: NonZeroU32::new(options.max_delivery_count),
            default_ttl: options.default_ttl,
            dead_letter_expired: Some(options.dead_letter_expired),
            max_size_bytes: Some(options.max_size_bytes),
            status: Some(options.status),
            rules: rules.to_vec(),
        }
    }

    /// What cannot be, and why.
    pub(crate) fn problem(&self) -> Option<String> {
        if !names_subscription(&self.name) {
            return Some(BrokerError::BadSubscription(self.name.clone()).to_string());
        }
        first_zero(&[
            ("lock_duration_ms", self.lock_duration.map(|time| time.as_millis())),
            ("default_ttl_ms", self.default_ttl.map(|time| time.as_millis())),
            ("max_size_bytes", self.max_size_bytes.map(u128::from)),
        ])
    }
}

fn first_zero(values: &[(&str, Option<u128>)]) -> Option<String> {
    let (key, _) = values.iter().find(|(_, value)| *value == Some(0))?;
    Some(format!("{key} is 0; write a number from 1 on, or leave it out for the default"))
}

/// What can be written as its name alone.
pub(crate) trait Named {
    /// With every default.
    fn named(name: &str) -> Self;
}

macro_rules! named {
    ($($config:ident),+) => {
        $(impl Named for $config {
            fn named(name: &str) -> Self {
                Self { name: name.to_owned(), ..Self::default() }
            }
        }

        impl $config {
            /// One with every default.
            #[must_use]
            pub fn named(name: &str) -> Self {
                Named::named(name)
            }
        })+
    };
}

named!(QueueConfig, TopicConfig, SubscriptionConfig);

/// A list of names, or of tables, or of both: `["jobs", { name = "more", max_delivery_count = 1 }]`.
pub(super) fn names_or_tables<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Named + Deserialize<'de>,
    D: Deserializer<'de>,
{
    let entries = Vec::<Entry<T>>::deserialize(deserializer)?;
    Ok(entries.into_iter().map(|Entry(entry)| entry).collect())
}

struct Entry<T>(T);

impl<'de, T: Named + Deserialize<'de>> Deserialize<'de> for Entry<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrTable<T>(PhantomData<T>);

        impl<'de, T: Named + Deserialize<'de>> de::Visitor<'de> for NameOrTable<T> {
            type Value = Entry<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name, or a table with `name`")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
                Ok(Entry(T::named(name)))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Entry)
            }
        }

        deserializer.deserialize_any(NameOrTable(PhantomData))
    }
}

/// A duration in whole milliseconds, as every key that ends in `_ms`.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        millis.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_millis))
    }
}
