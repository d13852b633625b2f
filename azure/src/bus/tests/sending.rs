//! What is sent arrives, and what is not is told.

use std::collections::BTreeMap;

use futures::future::join_all;
use time::macros::datetime;
use waybill_local::broker::QueueOptions;

use super::*;

#[tokio::test]
async fn batches_arrive_in_order_with_all_their_properties() {
    let local = local().await;
    let (publisher, acme) = (Client::publisher(&local), Client::acme(&local));
    let body = "x".repeat(8 * 1024);
    let sent: Vec<Message> = (0..300)
        .map(|number| Message {
            body: Bytes::from(format!("{number}{body}")),
            message_id: format!("m{number}"),
            correlation_id: Some(format!("c{number}")),
            subject: Some("ProductChanges".to_owned()),
            content_type: Some("application/json".to_owned()),
            created_at: Some(datetime!(2026-11-23 10:00 UTC)),
            time_to_live: Some(HOUR),
            properties: BTreeMap::from([("blobType".to_owned(), "ProductChanges".to_owned())]),
        })
        .collect();
    // 2.4 MB in transfers of at most 1 MiB, each of many frames.
    soon(publisher.sender().await.send(&sent)).await.unwrap();

    let mut receiver = acme.receiver(300).await;
    let received = take(&mut receiver, sent.len()).await;
    for (sent, received) in sent.iter().zip(&received) {
        assert_eq!(received.body.as_ref(), Some(&sent.body));
        assert_eq!(received.message_id.as_ref(), Some(&sent.message_id));
        assert_eq!(received.correlation_id, sent.correlation_id);
        assert_eq!(received.subject, sent.subject);
        assert_eq!(received.content_type, sent.content_type);
        assert_eq!(received.properties, sent.properties);
        assert_eq!(received.delivery_count, 0);
        assert!(received.locked_until.unwrap() > received.enqueued_at);
    }
    let numbers: Vec<i64> = received.iter().map(|delivery| delivery.sequence_number).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "the broker numbers them in the order of sending");
    receiver.settle(&tags(&received), &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).totals.completed == 300)).await;
}

#[tokio::test]
async fn no_messages_are_sent_at_once() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    soon(publisher.sender().await.send(&[])).await.unwrap();
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 0);
}

#[tokio::test]
async fn many_sends_at_once_share_the_link_and_all_arrive() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    let calls: Vec<Vec<Message>> =
        (0..40).map(|call| (0..25).map(|number| message(&format!("{call}-{number}"))).collect()).collect();
    let sent = soon(join_all(calls.iter().map(|messages| sender.send(messages)))).await;
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    let arrived = local.broker().peek(ACME, 0, 2000).unwrap();
    let mut arrived: Vec<String> = arrived.into_iter().map(|peeked| peeked.contents.message_id.unwrap()).collect();
    let mut expected: Vec<String> = calls.into_iter().flatten().map(|message| message.message_id).collect();
    assert_eq!(arrived.len(), 1000);
    // Each call's messages lie together and in order.
    for call in arrived.chunks(25) {
        let (name, _) = call[0].split_once('-').unwrap();
        assert!(call.iter().enumerate().all(|(number, id)| *id == format!("{name}-{number}")), "{call:?}");
    }
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
}

#[tokio::test]
async fn a_message_that_is_too_large_is_named_and_the_sender_goes_on() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    let huge = Message { body: Bytes::from(vec![b'x'; 1024 * 1024]), ..message("huge") };
    let error = soon(sender.send(&[message("small"), huge])).await.unwrap_err();
    assert!(matches!(&error, BusError::TooLarge { message_id, .. } if message_id == "huge"), "{error}");
    assert!(error.had_no_effect() && error.needs_person());
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 0, "nothing of the call was sent");

    soon(sender.send(&[message("next")])).await.unwrap();
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 1);
}

#[tokio::test]
async fn a_message_of_nearly_the_limit_goes_through_both_ways() {
    let local = local().await;
    let (publisher, acme) = (Client::publisher(&local), Client::acme(&local));
    let body = Bytes::from(vec![b'x'; 1024 * 1024 - 200]);
    let large = Message { body: body.clone(), ..message("large") };
    soon(publisher.sender().await.send(&[large])).await.unwrap();
    let mut receiver = acme.receiver(1).await;
    assert_eq!(soon(receiver.next()).await.unwrap().body, Some(body));
}

#[tokio::test]
async fn a_full_entity_refuses_without_effect_and_goes_on_when_there_is_room() {
    let local = local().await;
    local.broker().add_queue("tiny", QueueOptions { max_size_bytes: 3000, ..QueueOptions::default() }).unwrap();
    let client = Client::new(&local, Holder::Root("tiny".to_owned()));
    let sender = client.sender().await;
    let large = |id: &str| Message { body: Bytes::from(vec![b'x'; 3000]), ..message(id) };
    soon(sender.send(&[large("first")])).await.unwrap();
    let error = soon(sender.send(&[large("second")])).await.unwrap_err();
    assert!(matches!(&error, BusError::QuotaExceeded { entity, .. } if entity == "tiny"), "{error}");
    assert!(error.had_no_effect() && !error.needs_person() && error.retry_after().is_some());

    let mut receiver = client.receiver(1).await;
    let first = take(&mut receiver, 1).await;
    receiver.settle(&tags(&first), &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, "tiny").bytes == 0)).await;
    soon(sender.send(&[large("second")])).await.unwrap();
}

#[tokio::test]
async fn when_a_part_was_accepted_the_rest_is_no_longer_without_effect() {
    let local = local().await;
    let options = QueueOptions { max_size_bytes: 3000, max_message_bytes: 4000, ..QueueOptions::default() };
    local.broker().add_queue("tiny", options).unwrap();
    let client = Client::new(&local, Holder::Root("tiny".to_owned()));
    let sender = client.sender().await;
    let large = |id: &str| Message { body: Bytes::from(vec![b'x'; 3000]), ..message(id) };
    let error = soon(sender.send(&[large("first"), large("second"), large("third")])).await.unwrap_err();
    assert!(
        matches!(&error, BusError::Partly { source } if matches!(**source, BusError::QuotaExceeded { .. })),
        "{error:?}"
    );
    assert!(!error.had_no_effect());
    assert!(error.retry_after().is_some());
    assert!(counts(local.broker(), "tiny").totals.enqueued >= 1);
}

#[tokio::test]
async fn a_missing_entity_is_not_found() {
    let local = local().await;
    let client = Client::new(&local, Holder::Root("nowhere".to_owned()));
    let sender = soon(client.bus.sender()).await.unwrap_err();
    let receiver = soon(client.bus.receiver(ReceiverOptions::default())).await.unwrap_err();
    for error in [sender, receiver] {
        assert!(matches!(&error, BusError::NotFound { entity, .. } if entity == "nowhere"), "{error:?}");
        assert!(error.needs_person() && error.had_no_effect());
    }
    assert!(client.tokens.refusals().is_empty(), "the token is not to blame");

    // The connection lived on, so that the entity can be made meanwhile.
    local.broker().add_queue("nowhere", QueueOptions::default()).unwrap();
    soon(client.sender().await.send(&messages(1))).await.unwrap();
    assert_eq!(local.broker().connections(), 1);
}

#[tokio::test]
async fn a_send_that_is_pending_when_the_connection_dies_ends_at_once_as_unknown() {
    let local = local().await;
    let proxy = Proxy::start(local.ports().amqp).await;
    let publisher = Client::publisher(&local);
    publisher.tokens.with(|state| state.endpoint = endpoint(proxy.port));
    let sender = publisher.sender().await;
    proxy.set(Passage::ClientDeaf);
    let three = messages(3);
    let (sent, ()) = tokio::join!(soon(sender.send(&three)), async {
        soon(local.broker().wait_until(|broker| counts(broker, TOPIC).totals.enqueued == 3)).await;
        proxy.set(Passage::Reset);
    });
    let error = sent.unwrap_err();
    assert!(matches!(error, BusError::Disconnected { .. }), "{error:?}");
    assert!(!error.had_no_effect(), "the broker had taken all three");

    // The same messages go again on a new link, as the relay does it.
    proxy.set(Passage::Open);
    soon(publisher.sender().await.send(&messages(3))).await.unwrap();
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 6);
}

#[tokio::test]
async fn an_outcome_that_never_comes_is_a_timeout_and_unknown() {
    let local = local().await;
    let proxy = Proxy::start(local.ports().amqp).await;
    let tokens = TestTokens::new(&local, Holder::Root(TOPIC.to_owned()), HOUR);
    tokens.with(|state| state.endpoint = endpoint(proxy.port));
    let bus = Bus::new(tokens, BusOptions { call_timeout: Duration::from_millis(300), ..options() });
    let sender = soon(bus.sender()).await.unwrap();
    proxy.set(Passage::ClientDeaf);
    let error = soon(sender.send(&messages(1))).await.unwrap_err();
    assert!(matches!(error, BusError::Timeout { .. }), "{error:?}");
    assert!(!error.had_no_effect());
    soon(local.broker().wait_until(|broker| counts(broker, TOPIC).totals.enqueued == 1)).await;
}

#[tokio::test]
async fn a_send_that_is_given_up_midway_never_leaves_half_a_message_in_front_of_the_next() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    let many: Vec<Message> = messages(5000);
    // Polled once and dropped: wherever that leaves the link, what follows is whole or refused.
    assert!(futures::FutureExt::now_or_never(sender.send(&many)).is_none());
    match soon(sender.send(&[message("after")])).await {
        Ok(()) => {}
        Err(error) => assert!(matches!(error, BusError::Detached { .. }), "{error:?}"),
    }
    soon(publisher.sender().await.send(&[message("last")])).await.unwrap();
    let peeked = local.broker().peek(ACME, 0, 10_000).unwrap();
    for peeked in &peeked {
        let id = peeked.contents.message_id.as_deref().unwrap();
        assert_eq!(peeked.contents.body, format!("body of {id}").into_bytes());
    }
    assert_eq!(peeked.last().unwrap().contents.message_id.as_deref(), Some("last"));
}
