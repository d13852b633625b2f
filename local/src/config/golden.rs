//! Configurations of the emulator, each beside our own that means the same; and what is refused, with its words.

use super::*;

fn json(text: &str) -> Config {
    Config::parse(text).unwrap()
}

#[track_caller]
fn refused(text: &str) -> String {
    Config::parse(text).expect_err(text).to_string()
}

/// A config.json with this queue.
fn with_queue(queue: &str) -> String {
    format!(r#"{{"UserConfig": {{"Namespaces": [{{"Name": "sbemulatorns", "Queues": [{queue}], "Topics": []}}]}}}}"#)
}

/// A config.json with a topic of this subscription.
fn with_subscription(subscription: &str) -> String {
    format!(
        r#"{{"UserConfig": {{"Namespaces": [{{"Name": "sbemulatorns", "Queues": [],
        "Topics": [{{"Name": "orders", "Subscriptions": [{subscription}]}}]}}]}}}}"#
    )
}

#[test]
fn a_config_json_means_what_the_same_in_toml_means() {
    let mut emulator = json(include_str!("../../golden/config/shop.json"));
    let own = Config::parse(include_str!("../../golden/config/shop.toml")).unwrap();
    assert_eq!(
        std::mem::take(&mut emulator.warnings),
        ["rule 'large' of subscription 'orders/north': actions of rules are not supported: the rule filters, and its \
          messages stay as they are"]
    );
    assert_eq!(emulator, own);
}

#[test]
fn what_a_config_json_leaves_out_is_the_emulators_default() {
    let config = json(&with_queue(r#"{"Name": "q"}"#));
    let queue = &config.queues[0];
    assert_eq!(queue.lock_duration, Some(Duration::from_secs(60)));
    assert_eq!(queue.default_ttl, Some(Duration::from_secs(3600)));
    assert_eq!(queue.max_delivery_count, NonZeroU32::new(3));
    assert_eq!((queue.duplicate_detection_window, queue.dead_letter_expired), (None, Some(false)));
    // What the file has no word for is ours.
    assert_eq!((config.topic.as_str(), config.tenants.len()), ("exports", 1));
}

#[test]
fn keys_of_a_config_json_may_be_in_any_case_and_unknown_ones_are_warned_of() {
    let config = json(&with_queue(r#"{"name": "q", "properties": {"lockDuration": "PT5S", "LockDurations": "PT9S"}}"#));
    assert_eq!(config.queues[0].lock_duration, Some(Duration::from_secs(5)));
    assert_eq!(
        config.warnings,
        ["queue 'q': 'LockDurations' is not known and was passed over; did you mean 'LockDuration'?"]
    );
}

#[test]
fn what_we_cannot_do_is_refused_with_entity_key_and_reason() {
    for (queue, says) in [
        (
            r#"{"Name": "q", "Properties": {"RequiresSession": true}}"#,
            "configuration, queue 'q': RequiresSession is true, and messaging sessions are not supported; set it to false",
        ),
        (
            r#"{"Name": "q", "Properties": {"ForwardTo": "r"}}"#,
            "configuration, queue 'q': ForwardTo is 'r', and forwarding is not supported; leave it empty and receive here",
        ),
        (
            r#"{"Name": "q", "Properties": {"ForwardDeadLetteredMessagesTo": "r"}}"#,
            "configuration, queue 'q': ForwardDeadLetteredMessagesTo is 'r', and forwarding is not supported; leave it empty and receive here",
        ),
        (
            r#"{"Name": "q", "Properties": {"LockDuration": "1 minute"}}"#,
            "configuration, queue 'q': LockDuration is '1 minute'; write a duration as ISO 8601 has it, such as PT30S, PT1M or P1DT12H",
        ),
        (
            r#"{"Name": "q", "Properties": {"MaxDeliveryCount": 0}}"#,
            "configuration, queue 'q': MaxDeliveryCount is 0; write a whole number from 1 on",
        ),
        (
            r#"{"Name": "q", "Properties": {"RequiresDuplicateDetection": "yes"}}"#,
            "configuration, queue 'q': RequiresDuplicateDetection is text; write true or false",
        ),
        (r#"{"Name": "q", "Properties": []}"#, "configuration, queue 'q': is a list, no object"),
        (r#"{"Properties": {}}"#, "configuration, queue: Name is missing"),
        (r#"{"Name": "q"}, {"Name": "Q"}"#, "configuration, queue 'Q': is named twice"),
        (
            r#"{"Name": "exports"}"#,
            "configuration, queue 'exports': has the name of the topic that waybills go to; give another one as `topic`, in a TOML file",
        ),
    ] {
        assert_eq!(refused(&with_queue(queue)), says, "{queue}");
    }
    for (subscription, says) in [
        (
            r#"{"Name": "s", "Properties": {"RequiresSession": true}}"#,
            "configuration, subscription 'orders/s': RequiresSession is true, and messaging sessions are not supported; set it to false",
        ),
        (
            r#"{"Name": "s", "Rules": [{"Name": "r", "Properties": {"FilterType": "Tru"}}]}"#,
            "configuration, rule 'r' of subscription 'orders/s': FilterType is 'Tru'; write Sql or Correlation",
        ),
        (
            r#"{"Name": "s", "Rules": [{"Name": "r", "Properties": {"FilterType": "Sql"}}]}"#,
            "configuration, rule 'r' of subscription 'orders/s': SqlFilter is missing",
        ),
        (
            r#"{"Name": "s", "Rules": [{"Name": "r", "Properties": {"FilterType": "Correlation", "CorrelationFilter": {}}}]}"#,
            "configuration, rule 'r' of subscription 'orders/s': CorrelationFilter cannot be used: a correlation filter must state at least one property",
        ),
        (
            r#"{"Name": "s", "Rules": [{"Name": "r", "Properties": {"FilterType": "Correlation", "CorrelationFilter": {"Properties": {"p": []}}}}]}"#,
            "configuration, rule 'r' of subscription 'orders/s': Properties has 'p', which is a list; write a text, a number, true or false",
        ),
        (r#"{"Name": "s"}, {"Name": "S"}"#, "configuration, topic 'orders': names the subscription 'S' twice"),
    ] {
        assert_eq!(refused(&with_subscription(subscription)), says, "{subscription}");
    }
}

#[test]
fn a_file_that_is_neither_is_told_what_it_should_be() {
    for (text, says) in [
        (
            "{}",
            "configuration, the file: UserConfig is missing: this is JSON, but no config.json of the emulator; our own format is TOML",
        ),
        (
            "{\"UserConfig\": {}}",
            "configuration, UserConfig: Namespaces has 0 entries; one process is one namespace: start one for each",
        ),
        (
            "{\"UserConfig\": {\"Namespaces\": [{}, {}]}}",
            "configuration, UserConfig: Namespaces has 2 entries; one process is one namespace: start one for each",
        ),
        ("{\"UserConfig\": 1}", "configuration, UserConfig: is a number, no object"),
    ] {
        assert_eq!(refused(text), says, "{text}");
    }
    let message = refused("{\n\"UserConfig\": {\n\"Namespaces\": [}\n}");
    assert!(message.starts_with("configuration, line 3: "), "{message}");
}

#[test]
fn a_list_a_key_that_is_written_twice_and_a_file_that_is_no_text_are_named() {
    let says = "configuration, the file: is a list, no object: this is JSON, but no config.json of the emulator";
    assert!(refused(" // nothing\n[]").starts_with(says));
    let message = refused("queues = [\"a\"]\n\n[[queues]]\nname = \"b\"\n");
    assert_eq!(
        message,
        "configuration, line 3: queues is written twice; write all of it in one place, as queues = […] or as [[queues]]"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), b"topic = \"\xff\"\n").unwrap();
    let message = Config::load(&[file.path()]).unwrap_err().to_string();
    assert!(message.ends_with("cannot be read; it is not text in UTF-8: save it as UTF-8"), "{message}");
}

#[test]
fn an_expression_that_is_none_is_refused_with_azures_words() {
    let message = refused(&with_subscription(
        r#"{"Name": "s", "Rules": [{"Name": "r", "Properties": {"FilterType": "Sql", "SqlFilter": {"SqlExpression": "a >"}}}]}"#,
    ));
    let says = "configuration, rule 'r' of subscription 'orders/s': SqlExpression cannot be used: There was an error parsing the SQL expression.";
    assert!(message.starts_with(says), "{message}");
}

#[test]
fn absent_and_empty_rules_are_the_default_rule() {
    for subscription in [r#"{"Name": "s"}"#, r#"{"Name": "s", "Rules": []}"#] {
        let config = json(&with_subscription(subscription));
        assert_eq!(config.topics[0].subscriptions[0].rules, [], "{subscription}");
    }
}

#[test]
fn short_and_long_forms_of_entities_mix() {
    let config = Config::parse(
        "queues = [\"jobs\", { name = \"slow\", lock_duration_ms = 60000 }]\ntopics = [\"news\"]\n\n[[tenants]]\nname = \"a\"\n",
    )
    .unwrap();
    assert_eq!(config.queues[0], QueueConfig::named("jobs"));
    assert_eq!(config.queues[1].lock_duration, Some(Duration::from_secs(60)));
    assert_eq!(config.topics, [TopicConfig::named("news")]);
}

#[test]
fn a_wrong_entity_in_toml_is_refused_with_its_line_and_the_name_that_was_meant() {
    for (text, says) in [
        (
            "[[queues]]\nname = \"jobs\"\nlock_duration = 5\n",
            &["line 3", "unknown field `lock_duration`", "did you mean `lock_duration_ms`?"][..],
        ),
        (
            "[[topics]]\nname = \"t\"\n\n[[topics.subscription]]\nname = \"s\"\n",
            &["line 4", "did you mean `subscriptions`?"],
        ),
        (
            "[[topics]]\nname = \"t\"\n[[topics.subscriptions]]\nname = \"s\"\nmax_delivery_count = 0\n",
            &["line 5", "a whole number from 1"],
        ),
        ("[[queues]]\nlock_duration_ms = 5\n", &["line 1", "missing field `name`"]),
        (
            "[[topics]]\nname = \"t\"\n[[topics.subscriptions]]\nname = \"s\"\n[[topics.subscriptions.rules]]\nname = \"r\"\nsql = \"a >\"\n",
            &["line 5", "rule 'r'", "error parsing the SQL expression"],
        ),
        (
            "[[topics]]\nname = \"t\"\n[[topics.subscriptions]]\nname = \"s\"\nrules = [{ name = \"r\" }]\n",
            &["line 5", "rule 'r': give one of `sql`, `correlation` and `all`"],
        ),
        ("queues = [7]\n", &["line 1", "a name, or a table with `name`"]),
        ("[[queues]]\nname = \"jobs\"\nlock_duration_ms = 0\n", &["queue 'jobs': lock_duration_ms is 0"]),
        ("queues = [\"a\", \"A\"]\n", &["queue 'A': is named twice"]),
        ("queues = [\"a\"]\ntopics = [\"A\"]\n", &["topic 'A': has the name of another queue or topic"]),
    ] {
        let message = refused(text);
        for word in says {
            assert!(message.contains(word), "{text}{word}: {message}");
        }
    }
}

#[test]
fn the_example_of_the_guide_is_read() {
    let guide = include_str!("../../../docs/local.md");
    let (_, section) = guide.split_once("\n## Configuration\n").unwrap();
    let (_, example) = section.split_once("```toml\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let config = Config::parse(example).unwrap();
    assert_eq!(config.queues[0].name, "jobs");
    assert_eq!(config.topics[0].subscriptions[0].rules.len(), 2);
    assert_eq!((config.ports.amqp, config.faults.len()), (5672, 1));
}

#[test]
fn one_file_of_each_kind_may_be_given() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let own = write("own.toml", "topic = \"news\"\nqueues = [\"mine\"]\n");
    let emulator = write("config.json", &with_queue(r#"{"Name": "exports"}"#));
    let config = Config::load(&[&emulator, &own]).unwrap();
    assert_eq!(config.topic, "news");
    let names: Vec<&str> = config.queues.iter().map(|queue| queue.name.as_str()).collect();
    assert_eq!(names, ["mine", "exports"]);

    let twice = Config::load(&[&own, &emulator, &own]).unwrap_err();
    assert!(
        twice.to_string().ends_with(
            "own.toml is a second TOML file; give one of our own (TOML) and one of the emulator (config.json) at most"
        ),
        "{twice}"
    );
    let wrong = write("wrong.toml", "topics = 1\n");
    let error = Config::load(&[&wrong]).unwrap_err();
    assert!(error.to_string().ends_with("wrong.toml"), "{error}");
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(source.starts_with("configuration, line 1: "), "{source}");
}
