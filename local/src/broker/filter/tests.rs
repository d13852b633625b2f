//! Filters against messages, and rules against topics.

use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::{CorrelationFilter, Filter, FilterError, View};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::amqp::message::Message;
use crate::broker::{Broker, BrokerError, Destination, Moment, Node, QueueOptions, Rule, RuleError, TopicOptions};

pub(super) const NOW: Moment = Moment(1_700_000_000_000);

/// A message with system properties as texts by their place, and application properties as encoded values.
#[derive(Debug, Clone, Default)]
pub(super) struct Draft {
    pub(super) fields: Vec<(usize, String)>,
    pub(super) properties: Vec<(String, Vec<u8>)>,
    pub(super) ttl: Option<u32>,
    pub(super) partition_key: Option<String>,
}

pub(super) fn draft() -> Draft {
    Draft::default()
}

impl Draft {
    pub(super) fn field(mut self, place: usize, text: &str) -> Self {
        self.fields.push((place, text.to_owned()));
        self
    }

    pub(super) fn label(self, text: &str) -> Self {
        self.field(3, text)
    }

    pub(super) fn raw(mut self, name: &str, write: impl FnOnce(&mut Vec<u8>)) -> Self {
        let mut encoded = Vec::new();
        write(&mut encoded);
        self.properties.push((name.to_owned(), encoded));
        self
    }

    pub(super) fn text(self, name: &str, text: &str) -> Self {
        self.raw(name, |out| out.text(text))
    }

    pub(super) fn int(self, name: &str, value: i32) -> Self {
        self.raw(name, |out| out.int(value))
    }

    pub(super) fn double(self, name: &str, value: f64) -> Self {
        self.raw(name, |out| {
            out.push(0x82);
            out.extend(value.to_be_bytes());
        })
    }

    pub(super) fn bool(self, name: &str, value: bool) -> Self {
        self.raw(name, |out| out.bool(value))
    }

    pub(super) fn message(&self) -> Message {
        let mut out = Vec::new();
        out.described_list(0x70, |list| {
            list.bool(true);
            list.null();
            match self.ttl {
                Some(ttl) => list.uint(ttl),
                None => list.null(),
            }
        });
        if let Some(key) = &self.partition_key {
            out.extend([0x00, 0x53, 0x72]);
            out.map(|map| {
                map.symbol("x-opt-partition-key");
                map.text(key);
            });
        }
        out.described_list(0x73, |list| {
            for place in 0..13 {
                match self.fields.iter().find(|(stated, _)| *stated == place) {
                    Some((_, text)) => list.text(text),
                    None => list.null(),
                }
            }
        });
        out.extend([0x00, 0x53, 0x74]);
        out.map(|map| {
            for (name, value) in &self.properties {
                map.text(name);
                map.raw(value);
            }
        });
        out.extend([0x00, 0x53, 0x75]);
        out.binary(b"body");
        Message::read(&out).unwrap()
    }

    fn matches(&self, filter: &Filter) -> bool {
        filter.check().unwrap();
        filter.matches(&View::new(&self.message(), NOW)).unwrap() == Some(true)
    }
}

fn properties(pairs: &[(&str, Value)]) -> Filter {
    let properties = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Filter::Correlation(CorrelationFilter { properties, ..CorrelationFilter::default() })
}

#[test]
fn a_correlation_filter_needs_all_that_it_states() {
    let some = |text: &str| Some(text.to_owned());
    let filter = Filter::Correlation(CorrelationFilter {
        subject: some("Important"),
        reply_to: some("johndoe@contoso.com"),
        properties: vec![("color".into(), Value::Text("Red".into()))],
        ..CorrelationFilter::default()
    });
    let good = draft().label("Important").field(4, "johndoe@contoso.com").text("Color", "Red").int("more", 1);
    assert!(good.matches(&filter));
    assert!(!draft().label("Important").field(4, "johndoe@contoso.com").text("color", "red").matches(&filter));
    assert!(!draft().label("important").field(4, "johndoe@contoso.com").text("color", "Red").matches(&filter));
    assert!(!draft().label("Important").text("color", "Red").matches(&filter));
    assert!(!draft().matches(&filter));
}

#[test]
fn each_system_property_of_a_correlation_filter_is_compared_with_its_own_field() {
    let places = [5, 0, 2, 4, 3, 10, 12, 6];
    for (index, place) in places.into_iter().enumerate() {
        let mut texts: [Option<String>; 8] = Default::default();
        texts[index] = Some("x".to_owned());
        let [correlation_id, message_id, to, reply_to, subject, session_id, reply_to_session_id, content_type] = texts;
        let filter = Filter::Correlation(CorrelationFilter {
            correlation_id,
            message_id,
            to,
            reply_to,
            subject,
            session_id,
            reply_to_session_id,
            content_type,
            properties: Vec::new(),
        });
        for other in places {
            assert_eq!(draft().field(other, "x").matches(&filter), other == place, "{filter:?} and field {other}");
        }
    }
}

#[test]
fn values_of_a_correlation_filter_are_compared_by_type_and_value() {
    let id = Uuid::from_u128(7);
    let message = draft()
        .int("int", 5)
        .raw("long", |out| out.long(5))
        .double("double", 5.0)
        .text("text", "5")
        .bool("yes", true)
        .raw("time", |out| out.timestamp(NOW.0))
        .raw("id", |out| out.uuid(id));
    let five = Value::Int(5);
    for (name, value, matches) in [
        ("int", &five, true),
        ("long", &five, true),
        ("double", &five, true),
        ("text", &five, false),
        ("yes", &five, false),
        ("int", &Value::Uint(5), true),
        ("int", &Value::Double(5.0), true),
        ("int", &Value::Int(6), false),
        ("text", &Value::Text("5".into()), true),
        ("int", &Value::Text("5".into()), false),
        ("yes", &Value::Bool(true), true),
        ("yes", &Value::Bool(false), false),
        ("time", &Value::Timestamp(NOW.0), true),
        ("time", &Value::Timestamp(0), false),
        ("id", &Value::Uuid(id), true),
        ("missing", &five, false),
    ] {
        assert_eq!(message.matches(&properties(&[(name, value.clone())])), matches, "{name} and {value:?}");
    }
}

#[test]
fn ids_that_are_no_texts_are_compared_as_texts() {
    let mut encoded = Vec::new();
    encoded.described_list(0x73, |list| {
        list.ulong(42);
        (0..4).for_each(|_| list.null());
        list.uuid(Uuid::from_u128(1));
    });
    let message = Message::read(&encoded).unwrap();
    let filter = Filter::Correlation(CorrelationFilter {
        message_id: Some("42".into()),
        correlation_id: Some("00000000-0000-0000-0000-000000000001".into()),
        ..CorrelationFilter::default()
    });
    assert_eq!(filter.matches(&View::new(&message, NOW)), Ok(Some(true)));
}

#[test]
fn a_correlation_filter_that_cannot_match_sensibly_is_refused() {
    assert_eq!(properties(&[]).check(), Err(FilterError::NothingStated));
    let nested = properties(&[("a", Value::List(Vec::new()))]);
    assert_eq!(nested.check(), Err(FilterError::NotComparable("a".into())));
    let large = properties(&[("a", Value::Text("x".repeat(20_000)))]);
    assert_eq!(large.check(), Err(FilterError::TooLarge { bytes: 20_001, most: 16 * 1024 }));
}

struct Bench {
    broker: Broker,
}

impl Bench {
    fn new() -> Self {
        let broker = Broker::default();
        broker.add_topic("exports", TopicOptions::default()).unwrap();
        Self { broker }
    }

    fn subscribe(&self, name: &str, rules: Vec<Rule>) -> Result<(), BrokerError> {
        self.broker.add_subscription_with_rules("exports", name, QueueOptions::default(), rules)
    }

    fn send(&self, drafts: &[Draft]) {
        let Some(Node::Topic(topic)) = self.broker.node("exports") else { panic!("no topic") };
        let messages: Vec<_> = drafts.iter().map(|draft| Arc::new(draft.message())).collect();
        Destination::Topic(topic).send(&messages, self.broker.now()).unwrap();
    }

    /// Labels of what lies on a subscription.
    fn labels(&self, name: &str) -> Vec<String> {
        let peeked = self.broker.peek(&format!("exports/subscriptions/{name}"), 0, 1_000).unwrap();
        peeked.into_iter().map(|peeked| peeked.contents.subject.unwrap_or_default()).collect()
    }
}

fn colors() -> Vec<Draft> {
    ["red", "blue", "yellow"].map(|color| draft().label(color).text("color", color)).to_vec()
}

fn sql(name: &str, expression: &str) -> Rule {
    Rule::new(name, Filter::sql(expression).unwrap())
}

#[test]
fn a_subscription_without_stated_rules_gets_everything() {
    let bench = Bench::new();
    bench.subscribe("acme", Vec::new()).unwrap();
    assert_eq!(bench.broker.rules("exports/subscriptions/acme").unwrap(), [Rule::everything()]);
    bench.send(&colors());
    assert_eq!(bench.labels("acme"), ["red", "blue", "yellow"]);
}

#[test]
fn a_message_that_several_rules_match_comes_once() {
    let bench = Bench::new();
    bench.subscribe("acme", vec![sql("warm", "color = 'red' OR color = 'yellow'"), sql("red", "color='red'")]).unwrap();
    bench.subscribe("none", vec![Rule::new("none", Filter::False)]).unwrap();
    bench.send(&colors());
    assert_eq!(bench.labels("acme"), ["red", "yellow"]);
    assert!(bench.labels("none").is_empty());
}

#[test]
fn rules_decide_about_what_is_sent_after_they_changed() {
    let bench = Bench::new();
    bench.subscribe("acme", Vec::new()).unwrap();
    let path = "exports/Subscriptions/acme";
    bench.send(&colors());
    bench.broker.add_rule(path, sql("blue", "color = 'blue'")).unwrap();
    bench.broker.remove_rule(path, "$default").unwrap();
    bench.send(&colors());
    bench.broker.remove_rule(path, "blue").unwrap();
    bench.send(&colors());
    assert_eq!(bench.labels("acme"), ["red", "blue", "yellow", "blue"]);
}

#[test]
fn rules_are_listed_by_name_and_found_whatever_the_case() {
    let bench = Bench::new();
    let path = "exports/subscriptions/acme";
    bench
        .subscribe("acme", vec![sql("sqlRule", "a = 1"), Rule::everything(), sql("CorrelationRule", "b = 1")])
        .unwrap();
    let names = || bench.broker.rules(path).unwrap().into_iter().map(|rule| rule.name).collect::<Vec<_>>();
    assert_eq!(names(), ["$Default", "CorrelationRule", "sqlRule"]);
    let exists = RuleError::Exists("local:Topic:exports|acme|SQLRULE".into());
    assert_eq!(bench.broker.add_rule(path, sql("SQLRULE", "c = 1")), Err(BrokerError::Rule(exists)));
    bench.broker.remove_rule(path, "SqlRule").unwrap();
    let missing = RuleError::NotFound("local:Topic:exports|acme|SqlRule".into());
    assert_eq!(bench.broker.remove_rule(path, "SqlRule"), Err(BrokerError::Rule(missing)));
    assert_eq!(names(), ["$Default", "CorrelationRule"]);
}

#[test]
fn rules_that_cannot_be_are_refused_and_leave_no_subscription_behind() {
    let bench = Bench::new();
    for name in ["", "  ", "a/b", "a\\b", "a@b", "a?", "a#", "a*", &"x".repeat(51)] {
        let refused = bench.subscribe("acme", vec![Rule::new(name, Filter::True)]);
        assert_eq!(refused, Err(BrokerError::Rule(RuleError::BadName(name.into()))));
    }
    let twice = bench.subscribe("acme", vec![Rule::everything(), Rule::new("$DEFAULT", Filter::False)]);
    assert_eq!(twice, Err(BrokerError::Rule(RuleError::Exists("local:Topic:exports|acme|$DEFAULT".into()))));
    let empty = bench.subscribe("acme", vec![Rule::new("e", properties(&[]))]);
    let nothing = RuleError::BadFilter { rule: "e".into(), source: FilterError::NothingStated };
    assert_eq!(empty, Err(BrokerError::Rule(nothing)));
    assert_eq!(bench.broker.entities(), ["exports"]);
    bench.subscribe("acme", Vec::new()).unwrap();
    assert!(matches!(bench.broker.rules("exports"), Err(BrokerError::NotASubscription(_))));
    assert!(matches!(bench.broker.rules("exports/subscriptions/other"), Err(BrokerError::NotFound(_))));
}

#[test]
fn a_subscription_takes_a_bounded_number_of_rules() {
    let bench = Bench::new();
    let rules = |count: usize| (0..count).map(|n| Rule::new(format!("r{n}"), Filter::False)).collect::<Vec<_>>();
    bench.subscribe("full", rules(2_000)).unwrap();
    let more = bench.broker.add_rule("exports/subscriptions/full", Rule::everything());
    assert_eq!(more, Err(BrokerError::Rule(RuleError::TooMany("local:Topic:exports|full".into()))));
}

#[test]
fn a_full_subscription_does_not_refuse_what_its_rules_do_not_want() {
    let bench = Bench::new();
    let tiny = QueueOptions { max_size_bytes: 1, ..QueueOptions::default() };
    let red = vec![sql("red", "color = 'red'")];
    bench.broker.add_subscription_with_rules("exports", "tiny", tiny, red).unwrap();
    bench.subscribe("all", Vec::new()).unwrap();
    bench.send(&colors());
    bench.send(&[draft().label("blue").text("color", "blue")]);
    assert_eq!(bench.labels("tiny"), ["red"]);
    assert_eq!(bench.labels("all").len(), 4);
}

#[test]
fn a_filter_that_fails_for_a_message_does_not_match_and_stops_no_other_rule() {
    let bench = Bench::new();
    bench.subscribe("acme", vec![sql("a", "size > 5"), sql("b", "color = 'red'")]).unwrap();
    let odd = |color: &str| draft().label(color).text("color", color).text("size", "large");
    bench.send(&[odd("red"), odd("blue"), draft().label("big").int("size", 6)]);
    assert_eq!(bench.labels("acme"), ["red", "big"]);
}

proptest! {
    /// Whatever the rules, a subscription holds exactly the messages that one of them matches, in order.
    #[test]
    fn a_subscription_holds_what_any_rule_matches(
        wanted in proptest::collection::vec(0..6_i32, 0..5),
        sent in proptest::collection::vec(0..6_i32, 0..20),
    ) {
        let bench = Bench::new();
        let rule = |(at, n): (usize, &i32)| match at % 2 {
            0 => sql(&format!("r{at}"), &format!("n = {n}")),
            _ => Rule::new(format!("r{at}"), properties(&[("n", Value::Int(i64::from(*n)))])),
        };
        bench.subscribe("acme", wanted.iter().enumerate().map(rule).collect()).unwrap();
        let drafts: Vec<_> = sent.iter().map(|n| draft().label(&n.to_string()).int("n", *n)).collect();
        bench.send(&drafts);
        let expected: Vec<_> =
            sent.iter().filter(|n| wanted.is_empty() || wanted.contains(n)).map(ToString::to_string).collect();
        prop_assert_eq!(bench.labels("acme"), expected);
    }
}

#[test]
fn everything_is_selected_without_looking_at_messages() {
    let rules = crate::broker::Rules::new("exports", "acme", Vec::new(), NOW).unwrap();
    let messages = [Arc::new(draft().message())];
    let selected = rules.select(&messages, || panic!("a view was asked for"));
    assert!(matches!(selected, std::borrow::Cow::Borrowed(_)));
    let trivial = crate::broker::Rules::new("exports", "acme", vec![sql("t", " 1 = 1 ")], NOW).unwrap();
    trivial.select(&messages, || panic!("a view was asked for"));
}
