//! Entities that come, go and are suspended while clients are attached.

use super::client::{Bench, Give, Got};
use crate::amqp::performative as p;
use crate::broker::{BrokerError, EntityStatus, LinkRole, QueueOptions, TopicOptions};

fn detached(frames: &[Got]) -> Vec<(i64, String)> {
    let detaches = frames.iter().filter(|got| got.code == Some(p::DETACH));
    detaches.map(|got| (got.number(0), got.error(2).0)).collect()
}

#[test]
fn a_removed_queue_detaches_its_links_and_nobody_elses() {
    let bench = Bench::new();
    bench.broker.add_queue("jobs/other", QueueOptions::default()).unwrap();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.attach_receiver(0, 2, "jobs/$DeadLetterQueue", 0);
    client.attach_receiver(0, 3, "jobs/$management", 0);
    client.attach_sender(0, 4, "jobs/other");
    client.send(1, &["a"]);
    assert_eq!(bench.broker.remove("JOBS"), Ok(()));
    let not_found = || "amqp:not-found".to_owned();
    assert_eq!(detached(&client.take()), [(1, not_found()), (2, not_found()), (3, not_found())]);
    assert_eq!(bench.broker.remove("jobs"), Err(BrokerError::NotFound("jobs".into())));
    assert_eq!(client.attach_sender(0, 5, "jobs")[1].error(2).0, "amqp:not-found");
    client.send(4, &["b"]);

    bench.broker.add_queue("jobs", QueueOptions::default()).unwrap();
    client.attach_sender(0, 6, "jobs");
    client.send(6, &["c"]);
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1, "the new one begins empty");
}

#[test]
fn a_removed_topic_takes_its_subscriptions_with_it() {
    let bench = Bench::new();
    bench.broker.add_topic("exports2", TopicOptions::default()).unwrap();
    bench.broker.add_subscription("exports2", "acme", QueueOptions::default()).unwrap();
    let mut client = bench.trusted();
    client.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    client.attach_receiver(0, 2, "exports2/subscriptions/acme", 0);
    bench.broker.remove("exports").unwrap();
    assert_eq!(detached(&client.take()), [(1, "amqp:not-found".into())]);
    assert_eq!(bench.broker.entities(), ["exports2", "exports2/subscriptions/acme", "jobs"]);
}

#[test]
fn a_removed_subscription_gets_nothing_more_and_its_topic_lives_on() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "exports");
    bench.broker.remove("exports/Subscriptions/acme").unwrap();
    client.send(1, &["a"]);
    bench.broker.add_subscription("exports", "acme", QueueOptions::default()).unwrap();
    client.send(1, &["b"]);
    assert_eq!(bench.broker.counts("exports/subscriptions/acme").unwrap().active, 1);
    assert!(bench.broker.remove("exports/subscriptions/acme/$deadletterqueue").is_err());
}

#[test]
fn what_was_received_from_a_removed_queue_is_settled_to_nobody() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 1);
    let id = client.receive()[0].delivery_id;
    bench.broker.remove("jobs").unwrap();
    client.take();
    client.settle(id, id, Give::Accepted);
    let (code, error) = client.expect(p::DISPOSITION).outcome();
    assert_eq!((code, error.unwrap().0.as_str()), (0x25, "com.microsoft:message-lock-lost"));
}

#[test]
fn a_suspended_entity_refuses_what_its_status_says() {
    use EntityStatus::{Active, Disabled, ReceiveDisabled, SendDisabled};
    for (status, sends, receives) in
        [(Active, true, true), (Disabled, false, false), (SendDisabled, false, true), (ReceiveDisabled, true, false)]
    {
        let bench = Bench::with(QueueOptions { status, ..QueueOptions::default() });
        let mut client = bench.trusted();
        let refusals = [
            detached(&client.attach_sender(0, 1, "jobs")),
            detached(&client.attach_receiver(0, 2, "jobs", 0)),
            detached(&client.attach_receiver(0, 3, "jobs/$deadletterqueue", 0)),
        ];
        for (refusal, allowed) in refusals.iter().zip([sends, receives, receives]) {
            let conditions: Vec<_> = refusal.iter().map(|(_, condition)| condition.as_str()).collect();
            let expected = if allowed { vec![] } else { vec!["com.microsoft:entity-disabled"] };
            assert_eq!(conditions, expected, "{status:?}");
        }
    }
}

#[test]
fn suspending_an_entity_cuts_the_links_that_may_not_go_on() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "exports");
    client.attach_receiver(0, 2, "exports/subscriptions/acme", 0);
    let disabled = || "com.microsoft:entity-disabled".to_owned();
    bench.broker.set_status("exports/subscriptions/acme", EntityStatus::ReceiveDisabled).unwrap();
    let frames = client.take();
    assert_eq!(detached(&frames), [(2, disabled())]);
    let text = frames.iter().find(|got| got.code == Some(p::DETACH)).unwrap().error(2).1;
    assert!(text.contains("disabled for Receive operations"), "{text}");
    client.send(1, &["still put on the subscription"]);
    bench.broker.set_status("Exports", EntityStatus::Disabled).unwrap();
    assert_eq!(detached(&client.take()), [(1, disabled())]);
    assert!(bench.broker.set_status("nope", EntityStatus::Active).is_err());
    bench.broker.set_status("exports", EntityStatus::Active).unwrap();
    client.attach_sender(0, 3, "exports");
    client.send(3, &["again"]);
    let senders = bench.broker.links().into_iter().filter(|link| link.role == LinkRole::Sender);
    assert_eq!(senders.count(), 1);
}
