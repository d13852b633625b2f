//! Files on their whole way.

use waybill_contracts::{Format, Reason};
use waybill_publisher::outbox::State as ExportState;
use waybill_subscriber::inbox::{Inbox, State};

use super::world::{Running, World, job};
use crate::Job;

#[tokio::test]
async fn a_file_becomes_one_export_that_keeps_its_correlation_and_names_its_cause() {
    let world = World::new().await;
    let rows = "{\"id\":1,\"v\":1,\"price\":19.90,\"secret\":\"s\"}\n{\"id\":2,\"v\":1,\"price\":5,\"secret\":\"s\"}\n{\"id\":3,\"v\":4,\"_deleted\":true}\n";
    world.publish("Item", "first", rows).await;
    let running = Running::start(world.republisher(&[job()]).await);
    let input = running.ended("c-first").await;
    assert_eq!((input.state, input.rows, input.filtered_rows), (State::Done, 3, Some(1)));
    running.sent().await;

    let messages = world.messages("Public");
    let [message] = &messages[..] else { panic!("{} messages", messages.len()) };
    assert_eq!(message.metadata.correlation_id, "c-first");
    assert_eq!(message.extras.causation_id.as_deref(), Some("first"));
    assert_eq!(message.extras.publisher.as_deref(), Some("feed"));
    assert_eq!((message.extras.sequence, message.extras.rows), (Some(1), Some(3)));
    let wanted =
        [r#"{"id":1,"v":1,"price":19.90}"#, r#"{"id":2,"v":1,"_deleted":true}"#, r#"{"id":3,"v":4,"_deleted":true}"#];
    assert_eq!(world.rows(message).await, wanted);
    let figures = running.counted(1).await;
    assert_eq!((figures.files_republished, figures.rows.rows_passed), (1, 1));
    assert_eq!((figures.rows.rows_unwanted, figures.rows.rows_deleted), (1, 1));
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn the_address_of_a_file_is_told_to_no_partner_and_other_types_are_skipped() {
    let world = World::new().await;
    let uri = world
        .announce("Audit", "a.jsonl", "{\"who\":\"a\",\"kind\":\"login\"}\n{\"who\":\"b\",\"kind\":\"x\"}\n")
        .await;
    world.announce("Other", "o.jsonl", "{}\n").await;
    let logins = Job::new("Logins", ["Audit"]).filter("row.kind == \"login\"").fields(["who"]).format(Format::Csv);
    let running = Running::start(world.republisher(&[logins]).await);
    assert_eq!(running.ended("c-a.jsonl").await.state, State::Done);
    assert_eq!(running.ended("c-o.jsonl").await.state, State::Skipped);
    running.sent().await;
    let message = world.messages("Logins").remove(0);
    let cause = message.extras.causation_id.clone().unwrap();
    assert_eq!((cause.len(), cause.bytes().all(|byte| byte.is_ascii_hexdigit())), (64, true), "{cause}");
    let told = format!("{:?} {:?}", message.metadata, message.extras);
    assert!(!told.contains(&uri), "{told}");
    assert_eq!(message.metadata.content_type, "text/csv");
    assert_eq!(world.rows(&message).await, [r#"{"who":"a","_deleted":null}"#]);
    assert_eq!(running.counted(1).await.rows.rows_left_out, 1);
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_file_nothing_of_which_is_wanted_is_done_and_leaves_no_export() {
    let world = World::new().await;
    world.announce("Audit", "a.jsonl", "{\"kind\":\"x\"}\n").await;
    let running =
        Running::start(world.republisher(&[Job::new("Logins", ["Audit"]).filter("row.kind == \"login\"")]).await);
    let input = running.ended("c-a.jsonl").await;
    assert_eq!((input.state, input.filtered_rows), (State::Done, Some(1)));
    assert!(running.exports().await.is_empty());
    assert_eq!(running.counted(1).await.files_empty, 1);
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn of_a_file_with_a_row_that_cannot_be_judged_nothing_is_published_and_others_go_on() {
    let world = World::new().await;
    let good = "{\"id\":1,\"v\":1,\"price\":20}\n";
    for (name, bad, reason, said) in [
        ("null", r#"{"id":2,"v":1,"price":null}"#, Reason::FilterError, "row 2: "),
        ("broken", "broken", Reason::MalformedRow, "row 2: byte 26: "),
        ("keyless", r#"{"v":1,"price":20}"#, Reason::MissingKey, "row 2: key field \"id\""),
    ] {
        world.announce("Item", name, &format!("{good}{bad}\n{good}")).await;
        let running = Running::start(world.republisher(&[job()]).await);
        let input = running.ended(&format!("c-{name}")).await;
        assert_eq!((input.state, input.reason), (State::Quarantined, Some(reason)), "{name}");
        let problem = input.problem.unwrap();
        assert!(problem.starts_with(said) && problem.ends_with("nothing of the file is published"), "{problem}");
        running.stop().await;
    }
    world.publish("Item", "good", good).await;
    let running = Running::start(world.republisher(&[job()]).await);
    assert_eq!(running.ended("c-good").await.state, State::Done);
    running.sent().await;
    assert_eq!(world.messages("Public").len(), 1);
    let states: Vec<_> = running.exports().await.iter().map(|export| (export.state, export.sequence)).collect();
    assert_eq!(states.iter().filter(|(state, _)| *state == ExportState::Sent).count(), 1);
    let numbered = states.iter().filter(|(state, number)| *state == ExportState::Void && number.is_some());
    assert_eq!(numbered.count(), 0, "what was given up has taken no number: {states:?}");
    running.stop().await;
    world.end().await;
}

/// A row that the output's format cannot hold.
#[tokio::test]
async fn a_row_that_the_output_cannot_hold_quarantines_its_file() {
    let world = World::new().await;
    world.announce("Audit", "a", "{\"who\":[[1]]}\n").await;
    let job = Job::new("Logins", ["Audit"]).format(Format::Xml);
    let running = Running::start(world.republisher(&[job]).await);
    let input = running.ended("c-a").await;
    assert_eq!((input.state, input.reason), (State::Quarantined, Some(Reason::MalformedRow)));
    assert!(input.problem.as_deref().unwrap().contains("row 1: "), "{:?}", input.problem);
    assert!(world.messages("Logins").is_empty());
    running.stop().await;
    world.end().await;
}

/// The inbox is lost, and the same file is announced again.
#[tokio::test]
async fn a_file_that_is_received_anew_meets_its_export_and_is_published_once() {
    let world = World::new().await;
    let rows = "{\"id\":1,\"v\":1,\"price\":20}\n";
    world.announce("Item", "a.jsonl", rows).await;
    let first = Running::start(world.republisher(&[job()]).await);
    first.ended("c-a.jsonl").await;
    first.sent().await;
    first.stop().await;
    for suffix in ["", "-wal", "-shm"] {
        let _absent = std::fs::remove_file(world.path(&format!("inbox.sqlite{suffix}")));
    }
    let again = Running::start(world.republisher(&[job()]).await);
    assert_eq!(again.republisher.subscriber().inbox().counts().await.unwrap().done, 0, "it is a new one");
    // The blob is there already: only the message is sent.
    world.announce_again("Item", "a.jsonl").await;
    assert_eq!(again.ended("c-a.jsonl").await.state, State::Done);
    again.sent().await;
    let figures = again.counted(1).await;
    assert_eq!((figures.files_repeated, figures.files_republished), (1, 0));
    assert_eq!((world.messages("Public").len(), world.blobs("Public").await), (1, 1));
    again.stop().await;
    world.end().await;
}
