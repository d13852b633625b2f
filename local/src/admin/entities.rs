//! Entities and containers that are made, looked at and taken away while the process runs. The bodies have the keys of the
//! configuration file.

use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json, json};

use super::{Admin, Refusal, message::message_json, unknown};
use crate::{
    blob::is_container_name,
    broker::{BrokerError, Counts, Properties, Rule},
    config::{QueueConfig, SubscriptionConfig, TopicConfig, with_nearest},
    keys::StorageQuery,
};

/// Messages of a peek when the request does not say, and at most.
const PEEK_DEFAULT: usize = 20;
const PEEK_MAX: usize = 1_000;

/// Entities that an error names.
const NAMED_MAX: usize = 20;

type Answer = Result<(StatusCode, Json), Refusal>;

fn bad_request(problem: impl Into<String>) -> Refusal {
    (StatusCode::BAD_REQUEST, problem.into())
}

impl Admin {
    /// All entities.
    pub(super) fn entities(&self) -> Json {
        self.broker.entities().iter().filter_map(|path| self.entity(path)).collect()
    }

    /// One entity: what it is, its properties and rules as the configuration would have them, and its counts.
    fn entity(&self, path: &str) -> Option<Json> {
        let (properties, counts) = (self.broker.properties(path)?, self.broker.counts(path).ok()?);
        let (kind, written) = match &properties {
            Properties::Queue(options) => ("queue", json!(QueueConfig::of(options))),
            Properties::Topic(options) => ("topic", json!(TopicConfig::of(options))),
            Properties::Subscription(options, rules) => ("subscription", json!(SubscriptionConfig::of(options, rules))),
        };
        let mut entity = json!({ "path": path, "kind": kind, "properties": written });
        match kind {
            "topic" => entity["published"] = json!(counts.totals.enqueued),
            _ => {
                entity["counts"] = counts_json(&counts);
                entity["totals"] = totals_json(&counts);
            }
        }
        Some(entity)
    }

    /// Makes what the path names. 200 when it is there just so, or but for its status, which it then gets.
    pub(super) fn put_entity(&self, path: &str, body: &[u8]) -> Answer {
        let mut body: Map<String, Json> = match body {
            b"" => Map::new(),
            _ => serde_json::from_slice(body)
                .map_err(|error| bad_request(format!("the body is no JSON object: {error}")))?,
        };
        let kind = body.remove("kind");
        let kind = match (kind.as_ref().and_then(Json::as_str), subscription_of(path)) {
            (None | Some("subscription"), Some(_)) => "subscription",
            (Some(_), Some(_)) => {
                return Err(bad_request(format!("'{path}' is the path of a subscription; leave `kind` out")));
            }
            (Some("queue"), None) => "queue",
            (Some("topic"), None) => "topic",
            (_, None) => {
                let problem = "say what it is to be: {\"kind\": \"queue\"} or {\"kind\": \"topic\"}; \
                               a subscription has the path TOPIC/subscriptions/NAME";
                return Err(bad_request(problem));
            }
        };
        let made = match kind {
            "queue" => self.put_queue(path, &read(path, body)?)?,
            "topic" => self.put_topic(&read(path, body)?)?,
            _ => {
                let (topic, name) = subscription_of(path).unwrap_or_default();
                self.put_subscription(topic, &read(name, body)?)?
            }
        };
        let status = if made { StatusCode::CREATED } else { StatusCode::OK };
        if made {
            tracing::info!(path, kind, "admin: entity made");
        }
        Ok((status, self.entity(path).unwrap_or_default()))
    }

    fn put_queue(&self, path: &str, queue: &QueueConfig) -> Result<bool, Refusal> {
        queue.problem().map_or(Ok(()), |problem| Err(bad_request(problem)))?;
        let options = queue.options(&self.defaults);
        self.put(path, Properties::Queue(options.clone()), || self.broker.add_queue(path, options))
    }

    fn put_topic(&self, topic: &TopicConfig) -> Result<bool, Refusal> {
        topic.problem().map_or(Ok(()), |problem| Err(bad_request(problem)))?;
        let options = topic.options();
        let made =
            self.put(&topic.name, Properties::Topic(options.clone()), || self.broker.add_topic(&topic.name, options))?;
        for subscription in &topic.subscriptions {
            if let Err(refusal) = self.put_subscription(&topic.name, subscription) {
                if made && let Err(error) = self.broker.remove(&topic.name) {
                    tracing::warn!(%error, "a topic that lacks a subscription could not be taken away");
                }
                return Err(refusal);
            }
        }
        Ok(made)
    }

    fn put_subscription(&self, topic: &str, subscription: &SubscriptionConfig) -> Result<bool, Refusal> {
        subscription.problem().map_or(Ok(()), |problem| Err(bad_request(problem)))?;
        let options = subscription.options(&self.defaults);
        let path = format!("{topic}/subscriptions/{}", subscription.name);
        let rules = subscription.rules.clone();
        let mut sorted = if rules.is_empty() { vec![Rule::everything()] } else { rules.clone() };
        sorted.sort_by_key(|rule| rule.name.to_lowercase());
        self.put(&path, Properties::Subscription(options.clone(), sorted), || {
            self.broker.add_subscription_with_rules(topic, &subscription.name, options, rules)
        })
    }

    /// True when it was made, false when it was there with these properties.
    fn put(
        &self,
        path: &str,
        wanted: Properties,
        make: impl FnOnce() -> Result<(), BrokerError>,
    ) -> Result<bool, Refusal> {
        if let Some(there) = self.broker.properties(path) {
            let status = wanted.status();
            if there == wanted {
                return Ok(false);
            }
            // The one thing that can change while it lives.
            if there.with_status(status) == wanted {
                self.broker.set_status(path, status).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))?;
                tracing::info!(path, ?status, "admin: entity has another status");
                return Ok(false);
            }
            let problem = format!(
                "there is '{path}' already, and it is another: GET /entities shows it; DELETE it first, or give this one \
                 another name"
            );
            return Err((StatusCode::CONFLICT, problem));
        }
        match make() {
            Ok(()) => Ok(true),
            Err(error @ BrokerError::Exists(_)) => Err((StatusCode::CONFLICT, error.to_string())),
            Err(error @ BrokerError::NotATopic(_)) => Err((StatusCode::NOT_FOUND, self.with_names(&error))),
            Err(error) => Err(bad_request(error.to_string())),
        }
    }

    pub(super) fn delete_entity(&self, path: &str) -> Answer {
        match self.broker.remove(path) {
            Ok(()) => {
                tracing::info!(path, "admin: entity deleted");
                Ok((StatusCode::OK, json!({ "deleted": path })))
            }
            Err(error) => Err((StatusCode::NOT_FOUND, self.with_names(&error))),
        }
    }

    pub(super) fn peek(&self, entity: &str, query: &StorageQuery) -> Answer {
        if let Some(other) = unknown(query, &["from", "max"]) {
            return Err(bad_request(format!("`{other}` is unknown; there are `from` (a sequence number) and `max`")));
        }
        let number = |name: &str, default: usize| match query.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| bad_request(format!("`{name}` is '{text}', which is no number"))),
        };
        let from = i64::try_from(number("from", 0)?).unwrap_or(i64::MAX);
        let most = number("max", PEEK_DEFAULT)?;
        if most > PEEK_MAX {
            let problem = format!("`max` is {most}; a request shows at most {PEEK_MAX}: go on with `from`");
            return Err(bad_request(problem));
        }
        if let Some(Properties::Topic(_)) = self.broker.properties(entity) {
            let problem = format!("the topic '{entity}' holds no messages, its subscriptions do{}", self.names());
            return Err((StatusCode::NOT_FOUND, problem));
        }
        let messages = self.broker.peek(entity, from, most);
        let messages = messages.map_err(|error| (StatusCode::NOT_FOUND, self.with_names(&error)))?;
        Ok((StatusCode::OK, json!({ "messages": messages.iter().map(message_json).collect::<Vec<_>>() })))
    }

    /// An error with what there is instead.
    fn with_names(&self, error: &BrokerError) -> String {
        format!("{error}{}", self.names())
    }

    fn names(&self) -> String {
        let names = self.broker.entities();
        let more = if names.len() > NAMED_MAX { ", …" } else { "" };
        format!("; there are {}{more}", names.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", "))
    }

    pub(super) fn put_container(&self, name: &str) -> Answer {
        if !is_container_name(name) {
            let rule = "3 to 63 lower-case letters, digits and single hyphens";
            return Err(bad_request(format!("'{name}' is no container's name; use {rule}")));
        }
        let made = self.blob.create_container(name);
        Ok((if made { StatusCode::CREATED } else { StatusCode::OK }, json!({ "name": name })))
    }

    pub(super) fn delete_container(&self, name: &str) -> Answer {
        if self.blob.remove_container(name) {
            tracing::info!(name, "admin: container deleted");
            return Ok((StatusCode::OK, json!({ "deleted": name })));
        }
        Err((StatusCode::NOT_FOUND, format!("there is no container '{name}'; GET /status lists them")))
    }
}

/// The body as the configuration would have it, under the name that the path gives.
fn read<T: DeserializeOwned>(name: &str, mut body: Map<String, Json>) -> Result<T, Refusal> {
    if let Some(other) = body.insert("name".to_owned(), json!(name)).filter(|other| *other != json!(name)) {
        return Err(bad_request(format!("the path names '{name}' and the body {other}; leave `name` out")));
    }
    serde_json::from_value(Json::Object(body)).map_err(|error| bad_request(with_nearest(&error.to_string())))
}

/// Topic and name of `exports/subscriptions/acme`.
fn subscription_of(path: &str) -> Option<(&str, &str)> {
    const BETWEEN: &str = "/subscriptions/";
    let at = path.to_ascii_lowercase().find(BETWEEN)?;
    Some((path.get(..at)?, path.get(at + BETWEEN.len()..)?))
}

fn counts_json(counts: &Counts) -> Json {
    json!({
        "active": counts.active,
        "locked": counts.locked,
        "scheduled": counts.scheduled,
        "deferred": counts.deferred,
        "deadLettered": counts.dead_lettered,
        "bytes": counts.bytes,
    })
}

fn totals_json(counts: &Counts) -> Json {
    let totals = &counts.totals;
    json!({
        "enqueued": totals.enqueued,
        "deliveries": totals.deliveries,
        "completed": totals.completed,
        "abandoned": totals.abandoned,
        "released": totals.released,
        "deferred": totals.deferred,
        "deadLettered": totals.dead_lettered,
        "duplicates": totals.duplicates,
        "expired": totals.expired,
        "locksExpired": totals.locks_expired,
        "locksLost": totals.locks_lost,
    })
}
