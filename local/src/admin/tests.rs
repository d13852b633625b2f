//! The admin endpoint over its socket.

use reqwest::Method;
use serde_json::{Value as Json, json};

use crate::{Local, broker::EntityStatus, config::Config};

async fn started() -> Local {
    Local::builder().start().await.unwrap()
}

async fn ask(local: &Local, method: Method, path: &str, body: &Json) -> (u16, Json) {
    let url = format!("{}/{path}", local.ready_file().admin_url);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = client.request(method, url).body(body).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
}

async fn put(local: &Local, path: &str, body: Json) -> (u16, Json) {
    ask(local, Method::PUT, path, &body).await
}

async fn get(local: &Local, path: &str) -> Json {
    let (status, body) = ask(local, Method::GET, path, &Json::Null).await;
    assert_eq!(status, 200, "{body}");
    body
}

#[track_caller]
fn says(body: &Json, words: &[&str]) {
    let message = body["error"]["message"].as_str().unwrap_or_else(|| panic!("{body}"));
    for word in words {
        assert!(message.contains(word), "{word}: {message}");
    }
}

#[tokio::test]
async fn a_queue_is_made_with_the_keys_of_the_configuration_and_taken_away() {
    let local = started().await;
    let body = json!({"kind": "queue", "lock_duration_ms": 1500, "max_delivery_count": 2, "default_ttl_ms": 60000,
        "duplicate_detection_window_ms": 5000, "dead_letter_expired": true, "status": "send_disabled"});
    let (status, made) = put(&local, "entities/jobs", body.clone()).await;
    assert_eq!((status, made["path"].as_str(), made["kind"].as_str()), (201, Some("jobs"), Some("queue")));
    for (key, value) in body.as_object().unwrap().iter().filter(|(key, _)| *key != "kind") {
        assert_eq!(&made["properties"][key], value, "{key}");
    }
    assert_eq!(made["properties"]["max_message_bytes"], 1024 * 1024, "what is not said is the default");
    assert_eq!(made["counts"]["active"], 0);
    assert!(local.broker().has("jobs"));

    // What the status shows can be put again: it is the same entity.
    let mut again = made["properties"].clone();
    again["kind"] = json!("queue");
    assert_eq!(put(&local, "entities/jobs", again).await.0, 200);

    let (status, deleted) = ask(&local, Method::DELETE, "entities/jobs", &Json::Null).await;
    assert_eq!((status, deleted), (200, json!({"deleted": "jobs"})));
    assert!(!local.broker().has("jobs"));
    let (status, refused) = ask(&local, Method::DELETE, "entities/jobs", &Json::Null).await;
    assert_eq!(status, 404);
    says(&refused, &["'jobs'", "there are exports, exports/subscriptions/acme"]);
}

#[tokio::test]
async fn a_topic_comes_with_its_subscriptions_or_not_at_all() {
    let local = started().await;
    let body = json!({"kind": "topic", "subscriptions": ["all", {"name": "few", "max_delivery_count": 1}]});
    assert_eq!(put(&local, "entities/orders", body).await.0, 201);
    let entities = get(&local, "entities").await;
    let few = entities.as_array().unwrap().iter().find(|entity| entity["path"] == "orders/subscriptions/few").unwrap();
    assert_eq!((few["kind"].as_str(), &few["properties"]["max_delivery_count"]), (Some("subscription"), &json!(1)));

    let bad = json!({"kind": "topic", "subscriptions": ["good", "$bad"]});
    let (status, refused) = put(&local, "entities/other", bad).await;
    assert_eq!(status, 400, "{refused}");
    assert!(!local.broker().has("other"));

    let (status, made) = put(&local, "entities/orders/subscriptions/late", Json::Null).await;
    assert_eq!((status, made["path"].as_str()), (201, Some("orders/subscriptions/late")));
    let (status, refused) = put(&local, "entities/none/subscriptions/x", Json::Null).await;
    assert_eq!(status, 404);
    says(&refused, &["'none' is not a topic", "there are "]);
}

#[tokio::test]
async fn a_subscription_is_made_with_rules_and_shows_them_as_they_were_written() {
    let local = started().await;
    let body = json!({"rules": [
        {"name": "north", "correlation": {"subject": "order", "properties": {"region": "north", "shelf": 7}}},
        {"name": "Large", "sql": "amount > @least", "parameters": {"least": 1000}},
    ]});
    let (status, made) = put(&local, "entities/exports/subscriptions/some", body.clone()).await;
    assert_eq!(status, 201, "{made}");
    let mut names = body["rules"].as_array().unwrap().clone();
    names.reverse();
    assert_eq!(made["properties"]["rules"], json!(names), "in the order of their names");
    assert_eq!(put(&local, "entities/exports/subscriptions/some", made["properties"].clone()).await.0, 200);

    let (_, acme) = put(&local, "entities/exports/subscriptions/other", Json::Null).await;
    assert_eq!(acme["properties"]["rules"], json!([{"name": "$Default", "all": true}]));
    let wrong = json!({"rules": [{"name": "r", "sql": "a >"}]});
    let (status, refused) = put(&local, "entities/exports/subscriptions/wrong", wrong).await;
    assert_eq!(status, 400);
    says(&refused, &["rule 'r': There was an error parsing the SQL expression"]);
    let twice = json!({"rules": [{"name": "r", "all": true}, {"name": "R", "all": true}]});
    assert_eq!(put(&local, "entities/exports/subscriptions/twice", twice).await.0, 400);
}

#[tokio::test]
async fn an_entity_that_is_there_otherwise_is_a_conflict_but_its_status_may_change() {
    let local = started().await;
    assert_eq!(put(&local, "entities/jobs", json!({"kind": "queue"})).await.0, 201);
    let (status, refused) = put(&local, "entities/jobs", json!({"kind": "queue", "max_delivery_count": 3})).await;
    assert_eq!(status, 409);
    says(&refused, &["'jobs' already", "DELETE it first"]);
    assert_eq!(put(&local, "entities/Jobs", json!({"kind": "topic"})).await.0, 409);
    let (status, now) = put(&local, "entities/jobs", json!({"kind": "queue", "status": "disabled"})).await;
    assert_eq!((status, &now["properties"]["status"]), (200, &json!("disabled")));
    assert_eq!(local.broker().properties("jobs").unwrap().status(), EntityStatus::Disabled);
}

#[tokio::test]
async fn a_body_that_cannot_be_is_refused_with_what_may_stand_there() {
    let local = started().await;
    for (path, body, words) in [
        ("entities/jobs", json!({}), &["{\"kind\": \"queue\"}", "TOPIC/subscriptions/NAME"][..]),
        ("entities/jobs", json!({"kind": "heap"}), &["{\"kind\": \"queue\"}"]),
        ("entities/jobs", json!([]), &["no JSON object"]),
        (
            "entities/jobs",
            json!({"kind": "queue", "lock_duration": 1}),
            &["`lock_duration`", "did you mean `lock_duration_ms`?"],
        ),
        ("entities/jobs", json!({"kind": "queue", "lock_duration_ms": 0}), &["lock_duration_ms is 0"]),
        ("entities/jobs", json!({"kind": "queue", "status": "off"}), &["unknown variant `off`", "send_disabled"]),
        ("entities/jobs", json!({"kind": "queue", "name": "other"}), &["names 'jobs'", "leave `name` out"]),
        ("entities/$jobs", json!({"kind": "queue"}), &["cannot name a queue or topic"]),
        ("entities/exports/subscriptions/x", json!({"kind": "queue"}), &["leave `kind` out"]),
        ("containers/No", Json::Null, &["no container's name"]),
    ] {
        let (status, refused) = put(&local, path, body.clone()).await;
        assert_eq!(status, 400, "{path} {body}: {refused}");
        says(&refused, words);
    }
    assert_eq!(local.broker().entities().len(), 2, "nothing was made");
}

#[tokio::test]
async fn containers_are_made_and_taken_away() {
    let local = started().await;
    assert_eq!(put(&local, "containers/more", Json::Null).await, (201, json!({"name": "more"})));
    assert_eq!(put(&local, "containers/more", Json::Null).await.0, 200);
    let names = async || {
        let containers = get(&local, "status").await["blob"]["containers"].clone();
        let containers = containers.as_array().unwrap().clone();
        containers.into_iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["batchtoprocess", "more"]);
    assert_eq!(ask(&local, Method::DELETE, "containers/more", &Json::Null).await.0, 200);
    assert_eq!(names().await, ["batchtoprocess"]);
    assert_eq!(ask(&local, Method::DELETE, "containers/more", &Json::Null).await.0, 404);
    local.add_container("from-rust").unwrap();
    assert_eq!(names().await, ["batchtoprocess", "from-rust"]);
    assert!(local.add_container("No").unwrap_err().to_string().contains("no container's name"));
}

#[tokio::test]
async fn a_peek_of_what_holds_no_messages_says_what_does() {
    let local = started().await;
    let (status, refused) = ask(&local, Method::GET, "entities/exports", &Json::Null).await;
    assert_eq!(status, 404);
    says(&refused, &["the topic 'exports' holds no messages", "exports/subscriptions/acme"]);
    let (status, refused) = ask(&local, Method::GET, "entities/exports/subscriptions/acme?from=x", &Json::Null).await;
    assert_eq!(status, 400);
    says(&refused, &["`from` is 'x'"]);
}

#[tokio::test]
async fn the_status_is_one_document_with_these_keys() {
    let mut config = Config::parse("queues = [\"jobs\"]").unwrap();
    config.ports = crate::config::Ports::RANDOM;
    config.warnings.push("queue 'jobs': 'Colour' is not known and was passed over".to_owned());
    let local = Local::builder().config(config).start().await.unwrap();
    let status = get(&local, "status").await;
    let mut keys: Vec<&str> = status.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let expected = [
        "blob",
        "connections",
        "entities",
        "faults",
        "grants",
        "grantsUnknown",
        "startedAt",
        "tokens",
        "uptimeMs",
        "version",
        "warnings",
    ];
    assert_eq!(keys, expected);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["warnings"][0], "queue 'jobs': 'Colour' is not known and was passed over");
    let paths: Vec<_> = status["entities"].as_array().unwrap().iter().map(|entity| entity["path"].clone()).collect();
    assert_eq!(paths, ["exports", "exports/subscriptions/acme", "jobs"]);
    assert_eq!(status["faults"], json!({"waiting": 0, "steps": [], "fired": 0, "log": []}));
    assert_eq!(status["connections"], json!([]));
}

#[tokio::test]
async fn names_that_azure_does_not_take_are_refused_and_nothing_is_made() {
    let local = started().await;
    for name in ["bad%20name%3F%23", "a%0Ab", "-jobs", &"x".repeat(261)] {
        let (status, refused) = put(&local, &format!("entities/{name}"), json!({"kind": "queue"})).await;
        assert_eq!(status, 400, "{name}: {refused}");
        says(&refused, &["cannot name a queue or topic", "1 to 260"]);
    }
    let (status, refused) = put(&local, &format!("entities/exports/subscriptions/{}", "x".repeat(51)), json!({})).await;
    assert_eq!(status, 400);
    says(&refused, &["cannot name a subscription", "1 to 50"]);
    let twice = json!({"kind": "topic", "subscriptions": ["a", "A"]});
    let (status, refused) = put(&local, "entities/orders", twice).await;
    assert_eq!(status, 400);
    says(&refused, &["the subscription 'A' twice"]);
    assert_eq!(local.broker().entities(), ["exports", "exports/subscriptions/acme"]);

    let (status, refused) = ask(&local, Method::GET, "entities/exports/subscriptions/acme?mx=5", &Json::Null).await;
    assert_eq!(status, 400);
    assert!(refused["error"]["message"].as_str().unwrap().contains("`mx` is unknown"), "{refused}");
    let (status, refused) = ask(&local, Method::GET, "entities/exports/subscriptions/acme?max=5000", &Json::Null).await;
    assert_eq!(status, 400);
    says(&refused, &["`max` is 5000", "at most 1000"]);
}

#[tokio::test]
async fn a_policy_of_an_entity_that_does_not_exist_does_not_start() {
    let policy =
        |entity| format!("[[policies]]\nname = \"p\"\nkey = \"k\"\nentity = \"{entity}\"\nrights = [\"Send\"]\n");
    let start = async |entity| {
        let config = Config { ports: crate::config::Ports::RANDOM, ..Config::parse(&policy(entity)).unwrap() };
        Local::builder().config(config).start().await
    };
    let error = start("exprots").await.unwrap_err().to_string();
    assert!(error.contains("\"exprots\"") && error.contains("there are exports"), "{error}");
    assert!(start("Exports/Subscriptions/ACME").await.is_ok());
}
