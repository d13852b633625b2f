//! The `config.json` of Microsoft's Service Bus emulator: namespace, queues, topics, subscriptions, rules, properties.
//!
//! What the file leaves out takes the emulator's defaults, so that it means here what it means there. What we cannot do is
//! refused with the entity and the key. Two things are passed over with a warning, because the emulator's own sample and
//! newer versions of it would not start otherwise: the action of a rule, and keys that we do not know.
//!
//! # Sources
//! Azure/azure-service-bus-emulator-installer, `ServiceBus-Emulator/Config/Config.json` (which has comments) and
//! `ServiceBus-Emulator/Schema/Config-schema.json` (the defaults). .NET reads keys without regard to letter case, passes
//! over comments and takes trailing commas; so do we.

use std::{num::NonZeroU32, time::Duration};

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{
    ConfigError,
    entity::{QueueConfig, SubscriptionConfig, TopicConfig},
    near::{nearest, without_place},
};
use crate::broker::{self, CorrelationFilter, Filter, Rule};

const LOCK_DURATION: Duration = Duration::from_secs(60);
const TIME_TO_LIVE: Duration = Duration::from_secs(3600);
const DUPLICATE_DETECTION_WINDOW: Duration = Duration::from_secs(20);
const MAX_DELIVERY_COUNT: NonZeroU32 = NonZeroU32::new(3).expect("3 is not 0");

/// What the file asks for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Entities {
    pub(super) queues: Vec<QueueConfig>,
    pub(super) topics: Vec<TopicConfig>,
    /// What was passed over.
    pub(super) warnings: Vec<String>,
}

/// Whether a text is JSON, so not our own TOML.
pub(super) fn is_json(text: &str) -> bool {
    let plain = plain_json(text);
    let plain = plain.trim_start();
    // TOML may begin with `[` as well, but then it is no JSON.
    plain.starts_with('{') || plain.starts_with('[') && serde_json::from_str::<IgnoredAny>(plain).is_ok()
}

/// Reads the text of the file.
pub(super) fn parse(text: &str) -> Result<Entities, ConfigError> {
    let json: Value = serde_json::from_str(&plain_json(text))
        .map_err(|error| ConfigError::Text { line: error.line(), problem: without_place(&error) })?;
    let mut reader = Reader::default();
    let other = |what: &str| ConfigError::Entity {
        entity: "the file".to_owned(),
        problem: format!("{what}: this is JSON, but no config.json of the emulator; our own format is TOML"),
    };
    if !json.is_object() {
        return Err(other(&format!("is {}, no object", kind(&json))));
    }
    let mut root = reader.object("the file", &json)?;
    let Some(user) = root.take("UserConfig") else {
        return Err(other("UserConfig is missing"));
    };
    // Editors look there for the schema.
    root.take("$schema");
    let mut user = reader.object("UserConfig", user)?;
    // Where the emulator logs to; we log to standard error.
    user.take("Logging");
    let namespaces = user.list("Namespaces")?;
    let [namespace] = namespaces else {
        let problem = format!("has {} entries; one process is one namespace: start one for each", namespaces.len());
        return Err(user.error("Namespaces", problem));
    };
    let mut namespace = reader.object("the namespace", namespace)?;
    namespace.take("Name");
    for queue in namespace.list("Queues")? {
        let queue = reader.queue(queue)?;
        reader.entities.queues.push(queue);
    }
    for topic in namespace.list("Topics")? {
        let topic = reader.topic(topic)?;
        reader.entities.topics.push(topic);
    }
    for object in [namespace, user, root] {
        reader.finish(object);
    }
    Ok(reader.entities)
}

/// The entities that were read so far.
#[derive(Default)]
struct Reader {
    entities: Entities,
}

impl Reader {
    fn object<'a>(&self, place: impl Into<String>, value: &'a Value) -> Result<Object<'a>, ConfigError> {
        let place = place.into();
        match value {
            Value::Object(map) => Ok(Object { place, map: Some(map), asked: Vec::new() }),
            other => Err(ConfigError::Entity { entity: place, problem: format!("is {}, no object", kind(other)) }),
        }
    }

    /// An object that stands in a list, under the name that it states.
    fn named<'a>(&self, what: &str, value: &'a Value) -> Result<(Object<'a>, String), ConfigError> {
        let mut object = self.object(what, value)?;
        let name = object.text("Name")?.ok_or_else(|| object.error("Name", "is missing".to_owned()))?;
        object.place = format!("{what} '{name}'");
        Ok((object, name))
    }

    fn properties<'a>(&self, owner: &mut Object<'a>) -> Result<Object<'a>, ConfigError> {
        match owner.take("Properties") {
            Some(properties) => self.object(owner.place.clone(), properties),
            None => Ok(Object { place: owner.place.clone(), map: None, asked: Vec::new() }),
        }
    }

    fn queue(&mut self, value: &Value) -> Result<QueueConfig, ConfigError> {
        let (mut queue, name) = self.named("queue", value)?;
        let mut properties = self.properties(&mut queue)?;
        properties.refuse_sessions_and_forwarding()?;
        let config = QueueConfig {
            lock_duration: Some(properties.duration("LockDuration")?.unwrap_or(LOCK_DURATION)),
            max_delivery_count: Some(properties.count("MaxDeliveryCount")?.unwrap_or(MAX_DELIVERY_COUNT)),
            default_ttl: Some(properties.duration("DefaultMessageTimeToLive")?.unwrap_or(TIME_TO_LIVE)),
            dead_letter_expired: Some(properties.flag("DeadLetteringOnMessageExpiration")?),
            duplicate_detection_window: properties.duplicate_detection_window()?,
            ..QueueConfig::named(&name)
        };
        self.finish(properties);
        self.finish(queue);
        Ok(config)
    }

    fn topic(&mut self, value: &Value) -> Result<TopicConfig, ConfigError> {
        let (mut topic, name) = self.named("topic", value)?;
        let mut properties = self.properties(&mut topic)?;
        let mut config = TopicConfig {
            default_ttl: Some(properties.duration("DefaultMessageTimeToLive")?.unwrap_or(TIME_TO_LIVE)),
            duplicate_detection_window: properties.duplicate_detection_window()?,
            ..TopicConfig::named(&name)
        };
        self.finish(properties);
        for subscription in topic.list("Subscriptions")? {
            config.subscriptions.push(self.subscription(&name, subscription)?);
        }
        self.finish(topic);
        Ok(config)
    }

    fn subscription(&mut self, topic: &str, value: &Value) -> Result<SubscriptionConfig, ConfigError> {
        let (mut subscription, name) = self.named("subscription", value)?;
        subscription.place = format!("subscription '{topic}/{name}'");
        let mut properties = self.properties(&mut subscription)?;
        properties.refuse_sessions_and_forwarding()?;
        let mut config = SubscriptionConfig {
            lock_duration: Some(properties.duration("LockDuration")?.unwrap_or(LOCK_DURATION)),
            max_delivery_count: Some(properties.count("MaxDeliveryCount")?.unwrap_or(MAX_DELIVERY_COUNT)),
            default_ttl: Some(properties.duration("DefaultMessageTimeToLive")?.unwrap_or(TIME_TO_LIVE)),
            dead_letter_expired: Some(properties.flag("DeadLetteringOnMessageExpiration")?),
            ..SubscriptionConfig::named(&name)
        };
        self.finish(properties);
        for rule in subscription.list("Rules")? {
            config.rules.push(self.rule(&subscription.place, rule)?);
        }
        self.finish(subscription);
        Ok(config)
    }

    fn rule(&mut self, owner: &str, value: &Value) -> Result<Rule, ConfigError> {
        let (mut rule, name) = self.named("rule", value)?;
        rule.place = format!("rule '{name}' of {owner}");
        let mut properties = self.properties(&mut rule)?;
        let kind = properties.text("FilterType")?.unwrap_or_default();
        let filter = if kind.eq_ignore_ascii_case("Sql") {
            let filter = properties.need("SqlFilter")?;
            let mut filter = self.object(rule.place.clone(), filter)?;
            let expression = filter.text("SqlExpression")?.unwrap_or_default();
            let parsed = Filter::sql(&expression)
                .map_err(|error| filter.error("SqlExpression", format!("cannot be used: {error}")))?;
            self.finish(filter);
            parsed
        } else if kind.eq_ignore_ascii_case("Correlation") {
            let filter = properties.need("CorrelationFilter")?;
            Filter::Correlation(self.correlation(self.object(rule.place.clone(), filter)?)?)
        } else {
            let problem = format!("is '{kind}'; write Sql or Correlation");
            return Err(properties.error("FilterType", problem));
        };
        filter.check().map_err(|error| properties.error("CorrelationFilter", format!("cannot be used: {error}")))?;
        if properties.take("Action").is_some() {
            let text = "actions of rules are not supported: the rule filters, and its messages stay as they are";
            self.entities.warnings.push(format!("{}: {text}", rule.place));
        }
        self.finish(properties);
        self.finish(rule);
        Ok(Rule::new(name, filter))
    }

    fn correlation(&mut self, mut filter: Object<'_>) -> Result<CorrelationFilter, ConfigError> {
        let mut read = CorrelationFilter {
            correlation_id: filter.text("CorrelationId")?,
            message_id: filter.text("MessageId")?,
            to: filter.text("To")?,
            reply_to: filter.text("ReplyTo")?,
            subject: filter.text("Label")?,
            session_id: filter.text("SessionId")?,
            reply_to_session_id: filter.text("ReplyToSessionId")?,
            content_type: filter.text("ContentType")?,
            properties: Vec::new(),
        };
        let properties = filter.take("Properties").map(|properties| self.object(filter.place.clone(), properties));
        for (name, value) in properties.transpose()?.and_then(|properties| properties.map).into_iter().flatten() {
            let value = match value {
                Value::Bool(value) => broker::Value::Bool(*value),
                Value::String(text) => broker::Value::Text(text.clone()),
                Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                    (Some(integer), _) => broker::Value::Int(integer),
                    (None, double) => broker::Value::Double(double.unwrap_or(f64::NAN)),
                },
                other => {
                    let problem =
                        format!("has '{name}', which is {}; write a text, a number, true or false", kind(other));
                    return Err(filter.error("Properties", problem));
                }
            };
            read.properties.push((name.clone(), value));
        }
        self.finish(filter);
        Ok(read)
    }

    /// Warns of keys that nobody asked for.
    fn finish(&mut self, object: Object<'_>) {
        let asked = |key: &&String| object.asked.iter().any(|asked| asked.eq_ignore_ascii_case(key));
        for key in object.map.into_iter().flat_map(Map::keys).filter(|key| !asked(key)) {
            let meant = nearest(key, object.asked.iter().copied())
                .map_or_else(String::new, |name| format!("; did you mean '{name}'?"));
            self.entities.warnings.push(format!("{}: '{key}' is not known and was passed over{meant}", object.place));
        }
    }
}

/// An object of the file, and which of its keys were asked for.
struct Object<'a> {
    place: String,
    /// Absent when the whole object is.
    map: Option<&'a Map<String, Value>>,
    asked: Vec<&'static str>,
}

impl<'a> Object<'a> {
    fn error(&self, key: &str, problem: String) -> ConfigError {
        ConfigError::Entity { entity: self.place.clone(), problem: format!("{key} {problem}") }
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.asked.push(key);
        let found = self.map?.iter().find(|(name, _)| name.eq_ignore_ascii_case(key));
        found.map(|(_, value)| value).filter(|value| !value.is_null())
    }

    fn need(&mut self, key: &'static str) -> Result<&'a Value, ConfigError> {
        self.take(key).ok_or_else(|| self.error(key, "is missing".to_owned()))
    }

    fn list(&mut self, key: &'static str) -> Result<&'a [Value], ConfigError> {
        match self.take(key) {
            None => Ok(&[]),
            Some(Value::Array(values)) => Ok(values),
            Some(other) => Err(self.error(key, format!("is {}, no list", kind(other)))),
        }
    }

    fn text(&mut self, key: &'static str) -> Result<Option<String>, ConfigError> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.error(key, format!("is {}, no text", kind(other)))),
        }
    }

    fn flag(&mut self, key: &'static str) -> Result<bool, ConfigError> {
        match self.take(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(key, format!("is {}; write true or false", kind(other)))),
        }
    }

    fn count(&mut self, key: &'static str) -> Result<Option<NonZeroU32>, ConfigError> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok()).and_then(NonZeroU32::new);
        match count {
            Some(count) => Ok(Some(count)),
            None => Err(self.error(key, format!("is {value}; write a whole number from 1 on"))),
        }
    }

    fn duration(&mut self, key: &'static str) -> Result<Option<Duration>, ConfigError> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let duration = iso_duration(&text).filter(|duration| !duration.is_zero());
        let problem = || format!("is '{text}'; write a duration as ISO 8601 has it, such as PT30S, PT1M or P1DT12H");
        duration.map(Some).ok_or_else(|| self.error(key, problem()))
    }

    fn duplicate_detection_window(&mut self) -> Result<Option<Duration>, ConfigError> {
        let window = self.duration("DuplicateDetectionHistoryTimeWindow")?.unwrap_or(DUPLICATE_DETECTION_WINDOW);
        Ok(self.flag("RequiresDuplicateDetection")?.then_some(window))
    }

    fn refuse_sessions_and_forwarding(&mut self) -> Result<(), ConfigError> {
        if self.flag("RequiresSession")? {
            let problem = "is true, and messaging sessions are not supported; set it to false".to_owned();
            return Err(self.error("RequiresSession", problem));
        }
        for key in ["ForwardTo", "ForwardDeadLetteredMessagesTo"] {
            if let Some(to) = self.text(key)?.filter(|to| !to.is_empty()) {
                let problem = format!("is '{to}', and forwarding is not supported; leave it empty and receive here");
                return Err(self.error(key, problem));
            }
        }
        Ok(())
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// `P1DT2H3M4.5S`. Years and months count 365 and 30 days, as in .NET's `XmlConvert.ToTimeSpan`.
fn iso_duration(text: &str) -> Option<Duration> {
    let text = text.strip_prefix('P')?;
    let (days, times) = match text.split_once('T') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None if text.is_empty() => return None,
        None => (text, ""),
    };
    let days = sum(days, &[('Y', 365 * 86_400), ('M', 30 * 86_400), ('D', 86_400)])?;
    let times = sum(times, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    days.checked_add(times)
}

/// Numbers with units, each at most once and in this order; a fraction may stand before the last one only.
fn sum(mut text: &str, units: &[(char, u32)]) -> Option<Duration> {
    let mut total = Duration::ZERO;
    for (unit, seconds) in units {
        let Some((number, rest)) = text.split_once(*unit) else { continue };
        let part = match number.split_once('.') {
            None => Duration::from_secs(digits(number)?),
            Some((whole, fraction)) if *unit == 'S' => {
                let nanos = digits(format!("{fraction:0<9}").get(..9)?)?;
                digits(fraction)?;
                Duration::new(digits(whole)?, u32::try_from(nanos).ok()?)
            }
            Some(_) => return None,
        };
        total = total.checked_add(part.checked_mul(*seconds)?)?;
        text = rest;
    }
    text.is_empty().then_some(total)
}

fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// JSON without comments, trailing commas and byte order mark; every line keeps its number.
fn plain_json(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    while let Some(next) = rest.chars().next() {
        let taken = if next == '"' {
            string_end(rest)
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else {
            next.len_utf8()
        };
        let (part, after) = rest.split_at(taken);
        if part.starts_with("//") || part.starts_with("/*") {
            plain.extend(part.chars().filter(|character| *character == '\n'));
        } else {
            if matches!(part, "}" | "]") && plain.trim_end().ends_with(',') {
                let comma = plain.trim_end().len() - 1;
                plain.replace_range(comma..=comma, " ");
            }
            plain.push_str(part);
        }
        rest = after;
    }
    plain
}

/// Where the string that `text` begins with ends.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return at + 1,
            b'\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_iso_8601_has_them() {
        for (text, seconds) in [
            ("PT1M", 60.0),
            ("PT20S", 20.0),
            ("PT1H30M", 5_400.0),
            ("P1D", 86_400.0),
            ("P1DT12H", 129_600.0),
            ("P1Y2M", 36_720_000.0),
            ("PT0.25S", 0.25),
        ] {
            assert_eq!(iso_duration(text).unwrap().as_secs_f64(), seconds, "{text}");
        }
        // What Azure writes for "never".
        assert_eq!(iso_duration("P10675199DT2H48M5.4775807S").unwrap().as_secs() / 86_400, 10_675_199);
        for text in ["", "P", "PT", "1M", "PT1", "PT1X", "P1H", "PT1S1M", "PT-1S", "PT1.5M", "PTS", "00:01:00", "pt1m"]
        {
            assert_eq!(iso_duration(text), None, "{text}");
        }
    }

    #[test]
    fn comments_and_trailing_commas_go_and_lines_stay() {
        let text = "\u{feff}{ // one\n\"a//b\": \"\\\"/*\", /* two\nthree */ \"c\": [1, 2, // last\n],\n}";
        let plain = plain_json(text);
        assert_eq!(plain.matches('\n').count(), text.matches('\n').count());
        let value: Value = serde_json::from_str(&plain).unwrap();
        assert_eq!(value, serde_json::json!({"a//b": "\"/*", "c": [1, 2]}));
        assert!(is_json("// of the emulator\n{}") && !is_json("# ours\n[ports]\n"));
    }
}
