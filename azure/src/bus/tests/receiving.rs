//! Credit, settlement, and that no delivery is lost or taken for another.

use std::{future::Future, pin::pin, task::Poll};

use futures::{FutureExt, future::poll_fn};
use waybill_local::broker::State;

use super::*;

#[tokio::test]
async fn nothing_comes_without_credit_and_never_more_than_it() {
    let local = local().await;
    publish(&local, &messages(10)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(0).await;
    assert_eq!(receiver.entity(), ACME);
    assert_eq!(counts(local.broker(), ACME).totals.deliveries, 0);

    receiver.add_credit(2).await.unwrap();
    receiver.add_credit(1).await.unwrap();
    assert_eq!(ids(&take(&mut receiver, 3).await), ["m0", "m1", "m2"]);
    assert!(receiver.next().now_or_never().is_none());
    receiver.add_credit(1).await.unwrap();
    assert_eq!(ids(&take(&mut receiver, 1).await), ["m3"]);
    assert_eq!(counts(local.broker(), ACME).totals.deliveries, 4);
}

#[tokio::test]
async fn each_settlement_does_at_the_broker_what_it_says() {
    let local = local().await;
    publish(&local, &messages(5)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(5).await;
    let taken = take(&mut receiver, 5).await;
    let tags = tags(&taken);
    let dead_letter =
        Settlement::DeadLetter { reason: "Undecodable".to_owned(), description: "no body that we can read".to_owned() };
    receiver.settle(&tags[0..2], &Settlement::Complete).await.unwrap();
    receiver.settle(&tags[2..3], &Settlement::Abandon).await.unwrap();
    receiver.settle(&tags[3..4], &Settlement::Release).await.unwrap();
    receiver.settle(&tags[4..5], &dead_letter).await.unwrap();
    soon(local.broker().wait_until(|broker| {
        let totals = counts(broker, ACME).totals;
        totals.completed == 2 && totals.abandoned == 1 && totals.released == 1 && totals.dead_lettered == 1
    }))
    .await;

    let left = local.broker().peek(ACME, 0, 10).unwrap();
    let left: Vec<(Option<&str>, u32)> =
        left.iter().map(|peeked| (peeked.contents.message_id.as_deref(), peeked.delivery_count)).collect();
    assert_eq!(left, [(Some("m2"), 1), (Some("m3"), 0)], "abandoning counts as a delivery, releasing does not");
    receiver.add_credit(2).await.unwrap();
    let again = take(&mut receiver, 2).await;
    assert_eq!(again.iter().map(|delivery| delivery.delivery_count).collect::<Vec<_>>(), [1, 0]);

    let mut dead = soon(acme.bus.receiver(ReceiverOptions { dead_letter_queue: true })).await.unwrap();
    assert_eq!(dead.entity(), format!("{ACME}/$DeadLetterQueue"));
    dead.add_credit(1).await.unwrap();
    let dead_letter = take(&mut dead, 1).await.remove(0);
    assert_eq!(dead_letter.message_id.as_deref(), Some("m4"));
    assert_eq!(dead_letter.properties["DeadLetterReason"], "Undecodable");
    assert_eq!(dead_letter.properties["DeadLetterErrorDescription"], "no body that we can read");
    dead.settle(&[dead_letter.tag], &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).dead_lettered == 0)).await;
}

#[tokio::test]
async fn settlements_with_gaps_and_out_of_order_reach_just_the_deliveries_that_they_name() {
    let local = local().await;
    publish(&local, &messages(20)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(20).await;
    let taken = take(&mut receiver, 20).await;
    let even: Vec<DeliveryTag> = taken.iter().step_by(2).rev().map(|delivery| delivery.tag.clone()).collect();
    receiver.settle(&even, &Settlement::Complete).await.unwrap();
    // Settled ones are passed over.
    receiver.settle(&even, &Settlement::Abandon).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).totals.completed == 10)).await;
    let left = local.broker().peek(ACME, 0, 20).unwrap();
    assert!(left.iter().all(|peeked| matches!(peeked.state, State::Locked)), "{left:?}");
    assert_eq!(left.len(), 10);
    assert_eq!(counts(local.broker(), ACME).totals.abandoned, 0);
}

#[tokio::test]
async fn a_tag_of_an_earlier_link_settles_nothing() {
    let local = local().await;
    publish(&local, &messages(2)).await;
    let acme = Client::acme(&local);
    let mut first = acme.receiver(1).await;
    let stale = tags(&take(&mut first, 1).await);
    let mut second = acme.receiver(1).await;
    let fresh = tags(&take(&mut second, 1).await);
    second.settle(&stale, &Settlement::Complete).await.unwrap();
    second.settle(&fresh, &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).totals.completed == 1)).await;
    let left = local.broker().peek(ACME, 0, 2).unwrap();
    assert_eq!(left[0].contents.message_id.as_deref(), Some("m0"), "only the second link's own is gone");
}

#[tokio::test]
async fn a_burst_is_taken_without_waiting() {
    let local = local().await;
    publish(&local, &messages(500)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(500).await;
    let mut taken = take(&mut receiver, 1).await;
    while taken.len() < 500 {
        match receiver.try_next() {
            Some(delivery) => taken.push(delivery),
            None => taken.extend(take(&mut receiver, 1).await),
        }
    }
    assert!(receiver.try_next().is_none());
    assert_eq!(ids(&taken), messages(500).iter().map(|message| message.message_id.clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_next_that_is_given_up_loses_no_delivery() {
    let local = local().await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(100).await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    let mut taken: Vec<String> = Vec::new();
    let all = messages(100);
    let mut sending = pin!(async {
        for message in &all {
            sender.send(std::slice::from_ref(message)).await.unwrap();
        }
    });
    let mut sent = false;
    soon(poll_fn(|cx| {
        if !sent {
            sent = sending.as_mut().poll(cx).is_ready();
        }
        // A fresh future each time, dropped when it is not ready.
        while let Poll::Ready(delivery) = pin!(receiver.next()).poll(cx) {
            taken.push(delivery.unwrap().message_id.unwrap());
        }
        if taken.len() == 100 { Poll::Ready(()) } else { Poll::Pending }
    }))
    .await;
    assert_eq!(taken, all.iter().map(|message| message.message_id.clone()).collect::<Vec<_>>());
}

#[tokio::test]
async fn closing_gives_back_what_was_not_taken_and_spares_its_deliveries() {
    let local = local().await;
    publish(&local, &messages(50)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(40).await;
    take(&mut receiver, 5).await;
    soon(receiver.close()).await;
    let left = counts(local.broker(), ACME);
    assert_eq!((left.active, left.locked), (45, 5), "what was taken stays locked for us");
    assert!(local.broker().peek(ACME, 0, 50).unwrap().iter().all(|peeked| peeked.delivery_count == 0));
}

#[tokio::test]
async fn dropping_a_receiver_in_the_middle_harms_no_other_link() {
    let local = local().await;
    publish(&local, &messages(1000)).await;
    let acme = Client::acme(&local);
    let mut stays = acme.receiver(1).await;
    let kept = take(&mut stays, 1).await;
    for _ in 0..20 {
        let mut dropped = acme.receiver(30).await;
        take(&mut dropped, 1).await;
    }
    stays.settle(&tags(&kept), &Settlement::Complete).await.unwrap();
    stays.add_credit(1).await.unwrap();
    take(&mut stays, 1).await;
    // One taken from each of the twenty is held until its lock ends; all else came back.
    soon(local.broker().wait_until(|broker| counts(broker, ACME).locked == 21 && broker.links().len() == 1)).await;
    assert_eq!(local.broker().connections(), 1, "it is still the first connection");
}

#[tokio::test]
async fn a_lost_lock_shows_as_a_redelivery() {
    let local = local().await;
    publish(&local, &messages(1)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(2).await;
    let first = take(&mut receiver, 1).await;
    assert_eq!(local.broker().expire_locks(ACME).unwrap(), 1);
    receiver.settle(&tags(&first), &Settlement::Complete).await.unwrap();
    let second = take(&mut receiver, 1).await;
    assert_eq!(second[0].sequence_number, first[0].sequence_number);
    assert_eq!(second[0].enqueued_at, first[0].enqueued_at);
    receiver.settle(&tags(&second), &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).totals.completed == 1)).await;
}
