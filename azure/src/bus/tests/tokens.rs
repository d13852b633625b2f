//! Tokens end, are rotated and are refused, between any two frames.

use futures::FutureExt;
use waybill_local::{amqp::TokenEnd, keys::TokenKind};

use super::*;

/// The signature as the services compare it.
fn signature(sas: &Secret) -> String {
    let (_, rest) = sas.expose().split_once("sig=").unwrap();
    let encoded = rest.split('&').next().unwrap();
    percent_encoding::percent_decode_str(encoded).decode_utf8().unwrap().into_owned()
}

/// How often the bus took a token.
fn puts(local: &Local) -> u64 {
    local.keys().tokens_used(TokenKind::Bus).iter().map(|used| used.uses).sum()
}

#[tokio::test]
async fn a_new_token_is_put_on_the_open_connection_and_links_stay_attached() {
    let local = local().await;
    let (publisher, acme) = (Client::publisher(&local), Client::acme(&local));
    let sender = publisher.sender().await;
    let mut receiver = acme.receiver(10).await;
    let mut dead = soon(acme.bus.receiver(ReceiverOptions { dead_letter_queue: true })).await.unwrap();
    dead.add_credit(1).await.unwrap();
    let links = local.broker().links();

    for round in 0..5 {
        let old = [&publisher, &acme].map(|client| client.tokens.with(|state| state.sas.clone()));
        publisher.tokens.renew();
        acme.tokens.renew();
        // One put for the topic, two for the subscription and its dead-letter queue. Once a newer token is in its place,
        // the end of the old one cuts nothing.
        soon(async {
            while puts(&local) < 3 * (round + 2) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        old.iter().for_each(|sas| local.keys().refuse(&signature(sas)));
        let id = format!("round {round}");
        soon(sender.send(&[message(&id)])).await.unwrap();
        assert_eq!(ids(&take(&mut receiver, 1).await), [id.as_str()]);
    }
    assert_eq!(local.broker().links(), links, "the same links on the same connections");
    assert!(acme.tokens.refusals().is_empty());
}

#[tokio::test]
async fn a_link_whose_token_dies_ends_and_the_next_one_renews_once() {
    let local = local().await;
    publish(&local, &messages(3)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(3).await;
    let taken = take(&mut receiver, 2).await;
    local.rotate(Some("acme")).unwrap();

    let error = loop {
        if let Err(error) = soon(receiver.next()).await {
            break error;
        }
    };
    assert!(matches!(&error, BusError::Detached { .. }), "{error:?}");
    assert!(!error.needs_person(), "the next attach mends it");
    assert!(soon(receiver.next()).await.is_err(), "only errors come after the first");
    assert!(receiver.settle(&tags(&taken), &Settlement::Complete).await.is_err());

    let mut again = acme.receiver(3).await;
    assert_eq!(acme.tokens.refusals(), [1], "one renewal, which names the token that died");
    local.broker().expire_locks(ACME).unwrap();
    let redelivered = take(&mut again, 3).await;
    assert_eq!(ids(&redelivered), ["m0", "m1", "m2"]);
    again.settle(&tags(&redelivered), &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).totals.completed == 3)).await;
    assert_eq!(local.broker().connections(), 1, "the connection stayed");
}

#[tokio::test]
async fn links_that_die_with_one_token_cost_one_renewal_together() {
    let local = local().await;
    let acme = Client::acme(&local);
    let mut main = acme.receiver(1).await;
    let mut dead = soon(acme.bus.receiver(ReceiverOptions { dead_letter_queue: true })).await.unwrap();
    dead.add_credit(1).await.unwrap();
    local.rotate(Some("acme")).unwrap();
    assert!(soon(main.next()).await.is_err());
    let mut main = acme.receiver(1).await;
    // The other link's owner notices only now, when a new token is long in place.
    assert!(soon(dead.next()).await.is_err());
    soon(acme.bus.receiver(ReceiverOptions { dead_letter_queue: true })).await.unwrap();
    publish(&local, &messages(1)).await;
    take(&mut main, 1).await;
    assert_eq!(acme.tokens.refusals(), [1]);
}

#[tokio::test]
async fn a_token_that_expires_cuts_its_link_in_either_of_azures_words() {
    for token_end in [TokenEnd::UnauthorizedAccess, TokenEnd::DetachForced] {
        let local = Arc::new(Local::builder().token_end(token_end).start().await.unwrap());
        let tokens = TestTokens::new(&local, Holder::Tenant("acme".to_owned()), Duration::from_secs(1));
        let bus = Bus::new(Arc::clone(&tokens) as Arc<dyn TokenSource>, options());
        let mut receiver = soon(bus.receiver(ReceiverOptions::default())).await.unwrap();
        receiver.add_credit(1).await.unwrap();
        let error = soon(receiver.next()).await.unwrap_err();
        assert!(matches!(&error, BusError::Detached { .. }), "{error:?}");
        soon(bus.receiver(ReceiverOptions::default())).await.unwrap();
        assert_eq!(tokens.refusals(), [1], "{token_end:?}");
    }
}

#[tokio::test]
async fn a_sender_whose_token_died_tells_it_and_the_next_one_renews() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    local.keys().refuse(&signature(&publisher.tokens.with(|state| state.sas.clone())));
    soon(local.broker().wait_until(|broker| broker.links().is_empty())).await;
    // The detach may still be on its way; whatever is sent before it arrives is not taken.
    let error = soon(sender.send(&messages(1))).await.unwrap_err();
    assert!(matches!(&error, BusError::Detached { .. }), "{error:?}");
    soon(publisher.sender().await.send(&messages(1))).await.unwrap();
    assert_eq!(publisher.tokens.refusals(), [1]);
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 1);
}

#[tokio::test]
async fn a_wrong_key_is_unauthorized_after_exactly_one_renewal() {
    let local = local().await;
    let acme = Client::acme(&local);
    acme.tokens.with(|state| state.wrong_key = true);
    acme.tokens.renew();
    let error = soon(acme.bus.receiver(ReceiverOptions::default())).await.unwrap_err();
    assert!(matches!(&error, BusError::Unauthorized { problem, .. } if problem.starts_with("401")), "{error:?}");
    assert!(error.needs_person());
    assert_eq!(acme.tokens.refusals(), [2]);
    assert!(!error.to_string().contains("sig="), "{error}");

    // Once the key is right the same bus works again.
    acme.tokens.with(|state| state.wrong_key = false);
    acme.receiver(1).await;
    assert_eq!(acme.tokens.refusals(), [2, 3]);
    assert_eq!(local.broker().connections(), 1);
}

#[tokio::test]
async fn a_missing_right_is_unauthorized_after_exactly_one_renewal() {
    let local = local().await;
    // A tenant's token is for its own subscription, and not for the topic.
    let acme = Client::acme(&local);
    acme.tokens.with(|state| TOPIC.clone_into(&mut state.entity));
    for renewals in 1..=2 {
        let error = soon(acme.bus.sender()).await.unwrap_err();
        assert!(matches!(&error, BusError::Unauthorized { entity, .. } if entity == TOPIC), "{error:?}");
        assert!(error.needs_person() && error.had_no_effect());
        assert_eq!(acme.tokens.refusals().len(), renewals, "one for each time that somebody asks");
    }
}

#[tokio::test]
async fn links_go_on_with_the_old_token_while_the_issuer_is_down() {
    let local = local().await;
    let (publisher, acme) = (Client::publisher(&local), Client::acme(&local));
    let mut receiver = acme.receiver(1).await;
    acme.tokens.with(|state| {
        state.down =
            Some(GrantError::Unavailable { service: Service::Bus, problem: "503".to_owned(), retry_after: None });
    });
    acme.tokens.renew();
    soon(publisher.sender().await.send(&messages(1))).await.unwrap();
    take(&mut receiver, 1).await;
    let error = soon(acme.bus.receiver(ReceiverOptions { dead_letter_queue: true })).await.unwrap_err();
    assert!(matches!(error, BusError::Grant(GrantError::Unavailable { .. })), "{error:?}");
    assert!(receiver.next().now_or_never().is_none(), "the link is still attached");
}

#[tokio::test]
async fn a_grant_that_moves_takes_the_connection_with_it() {
    let (here, there) = (local().await, local().await);
    let acme = Client::acme(&here);
    let mut receiver = acme.receiver(1).await;
    acme.tokens.with(|state| state.endpoint = endpoint(there.ports().amqp));
    acme.tokens.renew();
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(matches!(&error, BusError::Disconnected { problem } if problem.contains("another endpoint")), "{error:?}");
    // The token of `here` means nothing over there, and is never shown to the old place again.
    soon(here.broker().wait_until(|broker| broker.connections() == 0)).await;
    let error = soon(acme.bus.receiver(ReceiverOptions::default())).await.unwrap_err();
    assert!(matches!(error, BusError::Unauthorized { .. }), "{error:?}");
    assert_eq!(there.broker().connections(), 1);
}
