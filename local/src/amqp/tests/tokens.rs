//! Tokens: what they open, what ends with them, and what keeps a link alive.

use std::time::Duration;

use super::client::{Bench, Client, Got, HOST, message};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::amqp::performative as p;
use crate::amqp::{EndpointOptions, TokenEnd};

const ACME: &str = "exports/subscriptions/acme";

/// A client that put a token of the tenant `acme` for its subscription, good for `life` seconds.
fn acme(bench: &Bench, life: i64) -> Client {
    let mut client = bench.client();
    assert_eq!(client.put_token(ACME, &bench.keys.bus_token("acme", HOST, bench.now_seconds() + life).unwrap()), 202);
    client
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.keys.add_tenant("acme", ACME);
    bench
}

fn refusal(frames: &[Got]) -> (String, String) {
    let detach = frames.iter().find(|got| got.code == Some(p::DETACH)).unwrap_or_else(|| panic!("{frames:#?}"));
    assert_eq!(detach.field(1), &Value::Bool(true), "closed");
    detach.error(2)
}

#[test]
fn without_a_token_nothing_attaches_and_nothing_is_learned_about_what_exists() {
    let bench = bench();
    let mut client = bench.client();
    for (handle, address) in [(1, "jobs"), (2, "exports"), (3, "nowhere"), (4, "jobs/$management")] {
        let frames = client.attach_sender(0, handle, address);
        assert_eq!(frames[0].field(6), &Value::Null, "a null target says that it is refused");
        assert_eq!(refusal(&frames).0, "amqp:unauthorized-access");
        let frames = client.attach_receiver(0, handle + 10, address, 0);
        assert_eq!(frames[0].field(5), &Value::Null);
        let (condition, text) = refusal(&frames);
        assert_eq!(condition, "amqp:unauthorized-access");
        assert!(text.contains(address), "{text}");
    }
    assert!(bench.broker.links().is_empty());
}

#[test]
fn a_token_opens_its_entity_and_what_lies_below_and_nothing_beside_it() {
    let bench = bench();
    let mut client = acme(&bench, 60);
    let open = [ACME, "Exports/Subscriptions/ACME/$DeadLetterQueue", "exports/subscriptions/acme/$management"];
    for (handle, address) in (1..).zip(open) {
        let frames = client.attach_receiver(0, handle, address, 0);
        assert!(frames.iter().all(|got| got.code != Some(p::DETACH)), "{address}: {frames:#?}");
    }
    for (handle, address) in (20..).zip(["exports/subscriptions/acme2", "exports", "jobs", "exports/subscriptions"]) {
        assert_eq!(refusal(&client.attach_receiver(0, handle, address, 0)).0, "amqp:unauthorized-access", "{address}");
    }
}

#[test]
fn a_listen_token_does_not_send() {
    let bench = bench();
    bench.keys.add_tenant("jobs", "jobs");
    let mut client = bench.client();
    let token = bench.keys.bus_token("jobs", HOST, bench.now_seconds() + 60).unwrap();
    assert_eq!(client.put_token("jobs", &token), 202);
    assert_eq!(client.attach_receiver(0, 1, "jobs", 0).len(), 1);
    let (condition, text) = refusal(&client.attach_sender(0, 2, "jobs"));
    assert_eq!(condition, "amqp:unauthorized-access");
    assert!(text.contains("'Send'"), "{text}");
}

#[test]
fn a_bad_token_is_refused_with_its_reason_and_an_earlier_one_stays() {
    let bench = bench();
    let mut client = acme(&bench, 60);
    let other = bench.keys.root_bus_token(HOST, "jobs", bench.now_seconds() + 60);
    let forged = bench.token(ACME, 60).replace("se=1", "se=2");
    for (token, word) in [
        (forged, "InvalidSignature"),
        (bench.token(ACME, -1), "ExpiredToken"),
        ("rubbish".to_owned(), "MalformedToken"),
        (other, "InvalidAudience"),
    ] {
        let (status, text) = client.put_token_answer(ACME, &token);
        assert_eq!(status, 401);
        assert!(text.contains(word), "{text}");
    }
    assert_eq!(client.attach_receiver(0, 1, ACME, 0).len(), 1, "the first token is good still");
}

#[test]
fn a_put_token_that_is_none_is_answered_clearly() {
    let bench = bench();
    let mut client = bench.client();
    let answer = client.request(101, None, |map| pair(map, "operation", "steal"), |out| out.text("x"));
    assert_eq!(answer.section(0x74).get("status-code"), Some(&Value::Int(501)));
    let answer = client.request(101, None, |map| pair(map, "operation", "put-token"), |out| out.text("x"));
    assert_eq!(answer.section(0x74).get("status-code"), Some(&Value::Int(400)));
}

fn pair(map: &mut crate::amqp::encode::Compound<'_>, key: &str, value: &str) {
    map.text(key);
    map.text(value);
}

#[test]
fn a_link_is_cut_in_the_second_in_which_its_token_dies() {
    let bench = bench();
    let mut client = acme(&bench, 60);
    client.attach_receiver(0, 1, ACME, 0);
    client.credit(0, 1, 0, 10);
    client.pass(Duration::from_millis(59_999));
    assert!(client.take().iter().all(|got| got.code != Some(p::DETACH)));
    assert!(client.engine.deadline() <= client.at + Duration::from_millis(1), "the engine wants to be woken in time");
    client.pass(Duration::from_millis(1));
    let detach = client.expect(p::DETACH);
    assert_eq!((detach.number(0), detach.field(1)), (1, &Value::Bool(true)));
    let (condition, text) = detach.error(2);
    assert_eq!(condition, "amqp:unauthorized-access");
    assert_eq!(text, "ExpiredToken: The token is expired. Expiration time: '2026-11-18 11:07:40Z'.");
    assert!(bench.broker.links().is_empty());
    // The connection and `$cbs` live: a fresh token opens the door again.
    client.frame(0, p::DETACH, |list| {
        list.uint(1);
        list.bool(true);
    });
    let token = bench.keys.bus_token("acme", HOST, bench.now_seconds() + 60).unwrap();
    assert_eq!(client.put_token(ACME, &token), 202);
    assert_eq!(client.attach_receiver(0, 1, ACME, 0).len(), 1);
}

#[test]
fn azures_other_form_of_a_dead_token_is_detach_forced() {
    let bench = bench();
    let mut client =
        bench.client_with(EndpointOptions { token_end: TokenEnd::DetachForced, ..EndpointOptions::default() });
    client.handshake(65_536, None);
    client.begin(0, 100);
    client.cbs_links();
    client.put_token("jobs", &bench.token("jobs", 5));
    client.attach_sender(0, 1, "jobs");
    client.pass(Duration::from_secs(5));
    let (condition, text) = client.expect(p::DETACH).error(2);
    assert_eq!(condition, "amqp:link:detach-forced");
    assert!(text.contains("Code: RenewToken") && text.contains("jobs"), "{text}");
}

#[test]
fn a_newer_token_on_the_same_connection_keeps_attached_links_alive() {
    let bench = bench();
    let mut client = acme(&bench, 60);
    client.attach_receiver(0, 1, ACME, 0);
    client.credit(0, 1, 0, 10);
    for _ in 0..5 {
        client.pass(Duration::from_secs(40));
        let token = bench.keys.bus_token("acme", HOST, bench.now_seconds() + 60).unwrap();
        assert_eq!(client.put_token(ACME, &token), 202);
    }
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "exports");
    sender.send(1, &["still there"]);
    assert_eq!(client.receive()[0].body(), "still there");
}

#[test]
fn what_is_on_its_way_when_the_token_dies_is_settled_or_comes_again() {
    let bench = bench();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "exports");
    sender.send(1, &["a"]);
    let mut client = acme(&bench, 5);
    client.attach_receiver(0, 1, ACME, 0);
    client.credit(0, 1, 0, 10);
    let id = client.receive()[0].delivery_id;
    client.pass(Duration::from_secs(5));
    client.expect(p::DETACH);
    // Too late: the link is gone, so nothing is settled, and nothing is lost.
    client.settle(id, id, super::client::Give::Accepted);
    let counts = bench.broker.counts(ACME).unwrap();
    assert_eq!((counts.locked, counts.totals.completed), (1, 0));
    client.pass(Duration::from_secs(5));
    assert_eq!(bench.broker.peek(ACME, 0, 1).unwrap()[0].delivery_count, 1, "one delivery per lost link");
}

#[test]
fn a_rotation_cuts_the_links_of_that_tenant_at_once_and_no_others() {
    let bench = bench();
    bench.broker.add_subscription("exports", "beta", crate::broker::QueueOptions::default()).unwrap();
    bench.keys.add_tenant("beta", "exports/subscriptions/beta");
    let mut client = acme(&bench, 3_600);
    let token = bench.keys.bus_token("beta", HOST, bench.now_seconds() + 3_600).unwrap();
    client.put_token("exports/subscriptions/beta", &token);
    client.attach_receiver(0, 1, ACME, 0);
    client.attach_receiver(0, 2, "exports/subscriptions/beta", 0);
    let before = *bench.keys.revocations().borrow();
    bench.keys.rotate(Some("acme")).unwrap();
    assert_ne!(*bench.keys.revocations().borrow(), before, "which wakes the connections");
    let detach = client.expect(p::DETACH);
    assert_eq!(detach.number(0), 1);
    let (condition, text) = detach.error(2);
    assert_eq!(condition, "amqp:unauthorized-access");
    assert!(text.contains("RevokedToken"), "{text}");
    assert_eq!(bench.broker.links().len(), 1);
}

#[test]
fn a_sender_is_cut_too_and_its_last_message_is_answered_first() {
    let bench = bench();
    let mut client = bench.client();
    client.put_token("jobs", &bench.token("jobs", 5));
    client.attach_sender(0, 1, "jobs");
    client.transfer(1, 0, &message("a"));
    client.pass(Duration::from_secs(5));
    let codes: Vec<_> = client.take().iter().map(|got| got.code.unwrap()).collect();
    assert_eq!(codes, [p::DISPOSITION, p::DETACH]);
    // The client has not heard of it yet: what it sends meanwhile is not taken.
    client.transfer(1, 1, &message("b"));
    assert!(client.take().is_empty());
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1);
}

#[test]
fn a_link_on_the_namespace_token_survives_the_end_of_its_own() {
    let bench = bench();
    let mut client = bench.trusted();
    client.put_token("jobs", &bench.token("jobs", 5));
    client.attach_receiver(0, 1, "jobs", 0);
    client.pass(Duration::from_secs(5));
    assert!(client.take().iter().all(|got| got.code != Some(p::DETACH)));
}

#[test]
fn tokens_of_one_connection_open_nothing_on_another() {
    let bench = bench();
    let _trusted = bench.trusted();
    let mut stranger = bench.client();
    assert_eq!(refusal(&stranger.attach_sender(0, 1, "jobs")).0, "amqp:unauthorized-access");
}

#[test]
fn a_policy_that_may_only_send_sends_and_does_not_receive() {
    let bench = bench();
    let send = crate::keys::Rights { send: true, ..crate::keys::Rights::default() };
    bench.keys.add_policy("send-only", "k", Some("jobs"), send);
    let keys = crate::keys::Keys::new("send-only", "k", "a", "").unwrap();
    let token = keys.root_bus_token(HOST, "jobs", bench.now_seconds() + 60);
    let mut client = bench.client();
    assert_eq!(client.put_token("jobs", &token), 202);
    assert_eq!(client.attach_sender(0, 1, "jobs")[0].code, Some(p::ATTACH));
    client.send(1, &["in"]);
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1);
    let (condition, text) = refusal(&client.attach_receiver(0, 2, "jobs", 0));
    assert_eq!(condition, "amqp:unauthorized-access");
    assert!(text.contains("'Listen'"), "{text}");
    let (status, text) = client.put_token_answer("exports", &token);
    assert!(status == 401 && text.contains("InvalidAudience"), "{text}");
}

#[test]
fn a_token_for_another_host_is_for_another_audience() {
    let bench = bench();
    let mut client = bench.client();
    let token = bench.keys.root_bus_token("other.example", "jobs", bench.now_seconds() + 60);
    let (status, text) = client.put_token_answer("jobs", &token);
    assert!(status == 401 && text.contains("InvalidAudience"), "{text}");
}

#[test]
fn a_rotation_with_a_grace_cuts_links_when_it_ends_unless_they_renewed() {
    let bench = bench();
    let mut idle = acme(&bench, 3_600);
    idle.attach_receiver(0, 1, ACME, 0);
    let mut diligent = acme(&bench, 3_600);
    diligent.attach_receiver(0, 1, ACME, 0);
    let rotation = bench.keys.rotate_keeping(None).unwrap();
    let fresh = bench.keys.bus_token("acme", HOST, bench.now_seconds() + 3_600).unwrap();
    assert_eq!(diligent.put_token(ACME, &fresh), 202);
    for client in [&mut idle, &mut diligent] {
        client.pass(Duration::from_secs(1));
        assert!(client.take().iter().all(|got| got.code != Some(p::DETACH)));
    }
    bench.keys.end_grace(rotation);
    assert!(idle.expect(p::DETACH).error(2).1.contains("RevokedToken"));
    diligent.pass(Duration::from_secs(1));
    assert!(diligent.take().iter().all(|got| got.code != Some(p::DETACH)));
}

#[test]
fn a_connection_keeps_tokens_for_a_thousand_audiences_and_says_so_of_the_next() {
    let bench = bench();
    let mut client = bench.client();
    for number in 0..1_000 {
        let token = bench.keys.bus_token("acme", HOST, bench.now_seconds() + 60 + number).unwrap();
        assert_eq!(client.put_token(&format!("{ACME}/{number}"), &token), 202, "{number}");
    }
    client.credit(0, 100, 1_000, 1_000);
    let used = bench.keys.tokens_used(crate::keys::TokenKind::Bus).len();
    let fresh = bench.keys.bus_token("acme", HOST, bench.now_seconds() + 3_600).unwrap();
    assert_eq!(client.put_token(&format!("{ACME}/1000"), &fresh), 403);
    assert_eq!(bench.keys.tokens_used(crate::keys::TokenKind::Bus).len(), used, "it was not accepted");
    assert_eq!(client.put_token(&format!("{ACME}/7"), &fresh), 202, "one that is known may be renewed");
    assert_eq!(client.put_token(&"a".repeat(2_000), &fresh), 400);
}
