//! `$management` of a subscription: rules over the wire, as JavaScript's and .NET's clients write and read them.

use super::client::{Bench, Client, Received};
use crate::amqp::codec::Value;
use crate::amqp::encode::{Compound, Write as _};
use crate::broker::{Filter, Rule};

const ADD: &str = "com.microsoft:add-rule";
const REMOVE: &str = "com.microsoft:remove-rule";
const LIST: &str = "com.microsoft:enumerate-rules";
const ACME: &str = "exports/subscriptions/acme";

/// A client with a tenant's token, which has only Listen on `acme`, and links to that subscription's `$management`.
fn tenant(bench: &Bench) -> Client {
    bench.keys.add_tenant("acme", ACME);
    let mut client = bench.client();
    let token = bench.keys.bus_token("acme", super::client::HOST, bench.now_seconds() + 60).unwrap();
    assert_eq!(client.put_token(ACME, &token), 202);
    attach(&mut client, ACME);
    client
}

fn attach(client: &mut Client, entity: &str) {
    client.attach_receiver(0, 50, &format!("{entity}/$management"), 0);
    client.attach_sender(0, 51, &format!("{entity}/$management"));
    client.credit(0, 50, 0, 1_000);
    client.take();
}

fn ask(client: &mut Client, operation: &str, body: impl FnOnce(&mut Compound<'_>)) -> Received {
    let operation = |map: &mut Compound<'_>| {
        map.text("operation");
        map.text(operation);
    };
    client.request(51, Some("client"), operation, |out| out.map(body))
}

fn status(answer: &Received) -> (i64, String, String) {
    let properties = answer.section(0x74);
    let text = |name: &str| properties.get(name).and_then(Value::as_text).unwrap_or_default().to_owned();
    (properties.get("statusCode").and_then(Value::as_int).unwrap(), text("errorCondition"), text("statusDescription"))
}

fn add(client: &mut Client, name: &str, description: impl FnOnce(&mut Compound<'_>)) -> (i64, String, String) {
    status(&ask(client, ADD, |map| {
        map.text("rule-name");
        map.text(name);
        map.text("rule-description");
        map.map(description);
    }))
}

fn sql(map: &mut Compound<'_>, expression: &str) {
    map.text("sql-filter");
    map.map(|map| {
        map.text("expression");
        map.text(expression);
    });
}

fn remove(client: &mut Client, name: &str) -> (i64, String, String) {
    status(&ask(client, REMOVE, |map| {
        map.text("rule-name");
        map.text(name);
    }))
}

fn page(client: &mut Client, skip: i32, top: i32) -> Received {
    ask(client, LIST, |map| {
        map.text("top");
        map.int(top);
        map.text("skip");
        map.int(skip);
    })
}

fn described(descriptor: u64, fields: Vec<Value>) -> Value {
    Value::Described(Box::new((Value::Uint(descriptor), Value::List(fields))))
}

/// The descriptions of the rules in an answer: filter, action, name, time.
fn descriptions(answer: &Received) -> Vec<Vec<Value>> {
    let rules = answer.section(0x77).get("rules").map(Value::elements).unwrap_or_default();
    let description = |rule: &Value| match rule.get("rule-description") {
        Some(Value::Described(described)) if described.0 == Value::Uint(0x137_0000_0004) => {
            described.1.elements().to_vec()
        }
        other => panic!("no rule description but {other:?}"),
    };
    rules.iter().map(description).collect()
}

fn names(answer: &Received) -> Vec<String> {
    descriptions(answer).iter().map(|fields| fields[2].as_text().unwrap().to_owned()).collect()
}

#[test]
fn a_listen_right_adds_lists_and_removes_rules() {
    let bench = Bench::new();
    let mut client = tenant(&bench);
    assert_eq!(names(&page(&mut client, 0, 100)), ["$Default"]);
    assert_eq!(add(&mut client, "red", |map| sql(map, "color = 'red'")).0, 200);
    assert_eq!(remove(&mut client, "$Default").0, 200);
    assert_eq!(bench.broker.rules(ACME).unwrap(), [Rule::new("red", Filter::sql("color = 'red'").unwrap())]);
    assert_eq!(remove(&mut client, "RED").0, 200);
    let (code, condition, _) = status(&page(&mut client, 0, 100));
    assert_eq!((code, condition.as_str()), (204, ""));
}

#[test]
fn rules_are_described_as_clients_decode_them() {
    let bench = Bench::new();
    let mut client = tenant(&bench);
    add(&mut client, "a", |map| sql(map, "a > 10"));
    let correlation = add(&mut client, "b", |map| {
        // JavaScript writes every key, .NET a null action.
        map.text("sql-rule-action");
        map.null();
        map.text("correlation-filter");
        map.map(|map| {
            for (key, text) in [("correlation-id", Some("c")), ("message-id", None), ("to", None), ("label", Some("l"))]
            {
                map.text(key);
                match text {
                    Some(text) => map.text(text),
                    None => map.null(),
                }
            }
            map.text("properties");
            map.map(|map| {
                map.text("n");
                map.int(5);
                map.text("big");
                map.long(5_000_000_000);
                map.text("at");
                map.timestamp(77);
            });
        });
    });
    assert_eq!(correlation.0, 200);
    bench.broker.add_rule(ACME, Rule::new("c", Filter::False)).unwrap();
    let answer = page(&mut client, 0, 100);
    let empty_action = described(0x137_0000_0005, Vec::new());
    let rule = |filter: Value, name: &str| {
        vec![filter, empty_action.clone(), Value::Text(name.into()), Value::Timestamp(bench.broker.now().0)]
    };
    let text = |text: &str| Value::Text(text.into());
    let properties = Value::Map(vec![
        (text("n"), Value::Int(5)),
        (text("big"), Value::Int(5_000_000_000)),
        (text("at"), Value::Timestamp(77)),
    ]);
    let nulls = |count: usize| vec![Value::Null; count];
    let fields = [vec![text("c")], nulls(3), vec![text("l")], nulls(3), vec![properties]].concat();
    assert_eq!(
        descriptions(&answer),
        [
            rule(described(0x13_7000_0007, Vec::new()), "$Default"),
            rule(described(0x13_7000_0006, vec![text("a > 10")]), "a"),
            rule(described(0x13_7000_0009, fields), "b"),
            rule(described(0x13_7000_0008, Vec::new()), "c"),
        ]
    );
}

#[test]
fn rules_come_in_pages_in_the_order_of_their_names() {
    let bench = Bench::new();
    let mut client = tenant(&bench);
    for name in ["sqlRule", "correlationRule", "other"] {
        add(&mut client, name, |map| sql(map, "1=1"));
    }
    assert_eq!(names(&page(&mut client, 0, 2)), ["$Default", "correlationRule"]);
    assert_eq!(names(&page(&mut client, 2, 2)), ["other", "sqlRule"]);
    assert_eq!(status(&page(&mut client, 4, 2)).0, 204);
    let everything = ask(&mut client, LIST, |_| {});
    assert_eq!(names(&everything).len(), 4, "skip and top may be left out");
    assert_eq!(status(&page(&mut client, -1, 2)).1, "com.microsoft:argument-error");
}

#[test]
fn what_is_wrong_with_a_rule_is_said_with_azures_condition() {
    let bench = Bench::new();
    let mut client = tenant(&bench);
    let expect = |got: (i64, String, String), code: i64, condition: &str, text: &str| {
        assert_eq!((got.0, got.1.as_str()), (code, condition), "{}", got.2);
        assert!(got.2.contains(text), "{}", got.2);
    };
    expect(
        add(&mut client, "$default", |map| sql(map, "1=1")),
        409,
        "com.microsoft:entity-already-exists",
        "The messaging entity 'local:Topic:exports|acme|$default' already exists.",
    );
    expect(
        remove(&mut client, "nothing"),
        404,
        "amqp:not-found",
        "The messaging entity 'local:Topic:exports|acme|nothing' could not be found.",
    );
    let argument = "com.microsoft:argument-error";
    expect(
        add(&mut client, "r", |map| sql(map, "a = ")),
        400,
        argument,
        "error parsing the SQL expression. [Token line=1",
    );
    expect(add(&mut client, "r", |map| sql(map, "a = @p")), 400, argument, "'@p' has no value");
    expect(add(&mut client, "a/b", |map| sql(map, "1=1")), 400, argument, "'a/b' cannot name a rule");
    expect(add(&mut client, "r", |_| {}), 400, argument, "either 'sql-filter' or 'correlation-filter'");
    let empty = |map: &mut Compound<'_>| {
        map.text("correlation-filter");
        map.map(|_| {});
    };
    expect(add(&mut client, "r", empty), 400, argument, "must state at least one property");
    let number = |map: &mut Compound<'_>| {
        map.text("correlation-filter");
        map.map(|map| {
            map.text("label");
            map.int(1);
        });
    };
    expect(add(&mut client, "r", number), 400, argument, "'label' of a correlation filter must be a text");
    let action = |map: &mut Compound<'_>| {
        sql(map, "1=1");
        map.text("sql-rule-action");
        map.map(|map| {
            map.text("expression");
            map.text("SET a = 1");
        });
    };
    expect(add(&mut client, "r", action), 501, "amqp:not-implemented", "actions are not supported");
    expect(status(&ask(&mut client, REMOVE, |_| {})), 400, argument, "'rule-name'");
    assert_eq!(bench.broker.rules(ACME).unwrap(), [Rule::everything()], "nothing changed");
}

#[test]
fn only_a_subscription_has_rules() {
    let bench = Bench::new();
    for entity in ["jobs", "exports"] {
        let mut client = bench.trusted();
        attach(&mut client, entity);
        let (code, condition, text) = status(&page(&mut client, 0, 10));
        assert_eq!((code, condition.as_str()), (400, "amqp:not-allowed"), "{text}");
        assert!(text.contains("is not a subscription"), "{text}");
    }
}

#[test]
fn without_a_token_no_rule_is_seen_or_changed() {
    let bench = Bench::new();
    let mut other = bench.client();
    let frames = other.attach_sender(0, 51, &format!("{ACME}/$management"));
    assert_eq!(frames.last().unwrap().error(2).0, "amqp:unauthorized-access");
    assert_eq!(bench.broker.rules(ACME).unwrap(), [Rule::everything()]);
}

#[test]
fn a_rule_decides_what_a_receiver_gets() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    attach(&mut client, ACME);
    assert_eq!(add(&mut client, "small", |map| sql(map, "sys.Size < 100")).0, 200);
    assert_eq!(remove(&mut client, "$Default").0, 200);
    client.attach_sender(0, 1, "exports");
    client.take();
    client.send(1, &["small", &"large".repeat(100), "tiny"]);
    client.attach_receiver(0, 2, ACME, 0);
    client.credit(0, 2, 0, 10);
    let bodies: Vec<_> = client.receive().iter().map(Received::body).collect();
    assert_eq!(bodies, ["small", "tiny"]);
}
