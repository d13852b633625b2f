//! Connections, sessions and links: how they open, what they are refused, how they end.

use super::client::{Bench, Got, message};
use crate::amqp::codec::Value;
use crate::amqp::connection::Ending;
use crate::amqp::encode::Write as _;
use crate::amqp::frame::{self, AMQP_HEADER, Kind, SASL_HEADER};
use crate::amqp::performative as p;
use crate::broker::{LinkRole, Which};

fn codes(frames: &[Got]) -> Vec<u8> {
    frames.iter().filter_map(|got| got.code).collect()
}

#[test]
fn sasl_offers_four_mechanisms_and_takes_one_round() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.bytes(&SASL_HEADER);
    client.read(usize::MAX);
    client.unread.drain(..8);
    let offered = client.frames().remove(0);
    let names: Vec<_> = offered.field(0).elements().iter().filter_map(Value::as_text).collect();
    assert_eq!(names, ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"]);
}

#[test]
fn an_unknown_mechanism_is_refused_and_the_connection_ends() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.bytes(&SASL_HEADER);
    client.read(usize::MAX);
    client.unread.clear();
    let mut init = Vec::new();
    frame::write(&mut init, Kind::Sasl, 0, |out| out.described_list(0x41, |list| list.symbol("GSSAPI")));
    client.bytes(&init);
    assert_eq!(client.expect(0x44).number(0), 1);
    assert_eq!(client.engine.ending(), Some(Ending::Close));
}

#[test]
fn a_client_without_sasl_may_open_too() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.bytes(&AMQP_HEADER);
    client.read(usize::MAX);
    assert_eq!(client.unread.drain(..8).collect::<Vec<_>>(), AMQP_HEADER);
    client.frame(0, p::OPEN, |list| list.text("c"));
    let open = client.expect(p::OPEN);
    assert_eq!((open.number(2), open.number(3), open.number(4)), (65_536, 255, 120_000));
}

#[test]
fn another_protocol_is_answered_with_the_header_that_we_speak() {
    for hello in [&b"GET / HT"[..], b"AMQP\x02\x01\x00\x00", b"X"] {
        let bench = Bench::new();
        let mut client = bench.raw_client();
        client.bytes(hello);
        client.read(usize::MAX);
        assert_eq!(client.unread, SASL_HEADER);
        assert_eq!(client.engine.ending(), Some(Ending::Close));
    }
}

#[test]
fn a_header_and_its_frames_may_come_byte_by_byte() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    let mut hello = AMQP_HEADER.to_vec();
    frame::write(&mut hello, Kind::Amqp, 0, |out| out.described_list(p::OPEN, |list| list.text("c")));
    let mut waiting = Vec::new();
    for byte in hello {
        waiting.push(byte);
        let used = client.engine.consume(&waiting, client.at);
        waiting.drain(..used);
    }
    client.read(usize::MAX);
    client.unread.drain(..8);
    assert_eq!(codes(&client.frames()), [p::OPEN]);
}

#[test]
fn the_attach_is_answered_with_source_and_target_exactly_as_they_came() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    // Wide forms, an odd spelling, an option nobody reads: Python compares what comes back with what it sent.
    let mut source = vec![0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x28, 0xd0];
    let address = b"amqps://localhost/JOBS";
    source.extend(u32::try_from(4 + 2 + address.len() + 1).unwrap().to_be_bytes());
    source.extend([0, 0, 0, 2, 0xa1, u8::try_from(address.len()).unwrap()]);
    source.extend(address);
    source.push(0x43);
    client.frame(0, p::ATTACH, |list| {
        list.text("name");
        list.uint(7);
        list.bool(true);
        list.ubyte(0);
        list.ubyte(1);
        list.raw(&source);
        list.null();
    });
    client.engine.turn(client.at);
    let output = client.engine.output().to_vec();
    assert!(output.windows(source.len()).any(|window| window == source));
    let attach = client.expect(p::ATTACH);
    assert_eq!(attach.field(0), &Value::Text("name".into()));
    assert_eq!((attach.number(1), attach.field(2)), (7, &Value::Bool(false)));
    assert_eq!((attach.number(3), attach.number(4)), (0, 1), "the settle modes that were asked for");
    assert_eq!(attach.number(9), 0, "Python detaches without an initial-delivery-count");
    assert_eq!(attach.number(10), 1_048_576);
    assert!(matches!(attach.field(13), Value::Map(_)), "Python reads the properties without asking");
    assert_eq!(attach.field(6), &Value::Null, "JavaScript's target is null and stays so");
}

#[test]
fn an_unknown_entity_is_not_found_in_either_direction() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    for (handle, sends) in [(1, true), (2, false)] {
        let frames =
            if sends { client.attach_sender(0, handle, "nope") } else { client.attach_receiver(0, handle, "nope", 0) };
        assert_eq!(codes(&frames), [p::ATTACH, p::DETACH]);
        assert_eq!(frames[0].field(if sends { 6 } else { 5 }), &Value::Null);
        let (condition, text) = frames[1].error(2);
        assert_eq!(condition, "amqp:not-found");
        assert!(text.contains("'nope'"), "{text}");
    }
}

#[test]
fn links_that_cannot_be_are_refused_with_what_to_do() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    let sender = |client: &mut super::client::Client, handle, address| client.attach_sender(0, handle, address);
    let receiver = |client: &mut super::client::Client, handle, address| client.attach_receiver(0, handle, address, 0);
    let cases = [
        (sender(&mut client, 1, "exports/subscriptions/acme"), "amqp:not-allowed", "send to its queue or topic"),
        (sender(&mut client, 2, "jobs/$deadletterqueue"), "amqp:not-allowed", "send to its queue or topic"),
        (receiver(&mut client, 3, "exports"), "amqp:not-allowed", "receive from a subscription"),
        (receiver(&mut client, 4, "exports/$deadletterqueue"), "amqp:not-found", "could not be found"),
        (sender(&mut client, 5, "nope/$management"), "amqp:not-found", "could not be found"),
    ];
    for (frames, condition, words) in cases {
        let error = frames[1].error(2);
        assert_eq!(error.0, condition);
        assert!(error.1.contains(words), "{}", error.1);
    }
}

#[test]
fn sessions_transactions_and_dynamic_nodes_are_refused_clearly() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    let mut attach = |handle: u32, role: bool, source: &dyn Fn(&mut Vec<u8>), target: &dyn Fn(&mut Vec<u8>)| {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        source(&mut from);
        target(&mut to);
        client.frame(0, p::ATTACH, |list| {
            list.text("n");
            list.uint(handle);
            list.bool(role);
            list.ubyte(0);
            list.ubyte(0);
            list.raw(&from);
            list.raw(&to);
            list.null();
            list.null();
            list.uint(0);
        });
        client.expect(p::DETACH).error(2)
    };
    let plain = |out: &mut Vec<u8>| out.described_list(0x29, |list| list.text("client"));
    let with_session = |out: &mut Vec<u8>| {
        out.described_list(0x28, |list| {
            list.text("jobs");
            for _ in 0..6 {
                list.null();
            }
            list.map(|map| {
                map.symbol("com.microsoft:session-filter");
                map.text("s");
            });
        });
    };
    assert_eq!(attach(1, true, &with_session, &plain).0, "amqp:not-allowed");
    let coordinator = |out: &mut Vec<u8>| out.described_list(0x30, |_| {});
    assert_eq!(attach(2, false, &plain, &coordinator).0, "amqp:not-implemented");
    let dynamic = |out: &mut Vec<u8>| {
        out.described_list(0x28, |list| {
            for _ in 0..4 {
                list.null();
            }
            list.bool(true);
        });
    };
    assert_eq!(attach(3, true, &dynamic, &plain).0, "amqp:not-implemented");
    let nameless = |out: &mut Vec<u8>| out.described_list(0x29, |_| {});
    assert_eq!(attach(4, false, &plain, &nameless).0, "amqp:invalid-field");
}

#[test]
fn links_and_connections_are_listed_while_they_live() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "Jobs");
    client.attach_receiver(0, 2, "exports/Subscriptions/acme/$DeadLetterQueue", 0);
    let mut seen: Vec<_> = bench.broker.links().into_iter().map(|link| (link.entity, link.role)).collect();
    seen.sort_by_key(|(entity, _)| entity.clone());
    let dead = "exports/subscriptions/acme/$deadletterqueue".to_owned();
    assert_eq!(seen, [(dead, LinkRole::Receiver), ("jobs".to_owned(), LinkRole::Sender)]);
    client.frame(0, p::DETACH, |list| {
        list.uint(1);
        list.bool(true);
    });
    client.expect(p::DETACH);
    assert_eq!((bench.broker.links().len(), bench.broker.connections()), (1, 1));
    drop(client);
    assert_eq!((bench.broker.links().len(), bench.broker.connections()), (0, 0));
}

#[test]
fn a_message_is_answered_before_the_detach_that_follows_it() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut burst = Vec::new();
    frame::write(&mut burst, Kind::Amqp, 0, |out| {
        out.described_list(p::TRANSFER, |list| {
            list.uint(1);
            list.uint(0);
            list.binary(b"t");
            list.uint(0);
        });
        out.extend(message("a"));
    });
    frame::write(&mut burst, Kind::Amqp, 0, |out| {
        out.described_list(p::DETACH, |list| {
            list.uint(1);
            list.bool(true);
        });
    });
    client.bytes(&burst);
    assert_eq!(codes(&client.take()), [p::DISPOSITION, p::DETACH]);
}

#[test]
fn a_closed_link_keeps_its_locks_until_they_end() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 1);
    client.receive();
    drop(client);
    assert_eq!(bench.broker.counts("jobs").unwrap().locked, 1);
}

#[test]
fn a_client_that_ends_and_closes_is_agreed_with() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.frame(0, p::END, |_| {});
    assert_eq!(codes(&client.take()), [p::END]);
    client.begin(0, 100);
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["on a new session of the same channel"]);
    client.frame(0, p::CLOSE, |_| {});
    assert_eq!(codes(&client.take()), [p::CLOSE]);
    assert_eq!(client.engine.ending(), Some(Ending::Close));
}

#[test]
fn a_close_after_a_long_silence_is_agreed_with_too() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.pass(std::time::Duration::from_secs(100));
    client.frame(0, p::CLOSE, |_| {});
    assert_eq!(codes(&client.take()), [p::CLOSE]);
}

#[test]
fn frames_on_what_was_never_begun_or_attached_end_the_right_thing() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.begin(1, 100);
    client.transfer(9, 0, &message("a"));
    let end = client.expect(p::END);
    assert_eq!(end.error(0).0, "amqp:session:unattached-handle");
    // The other session lives; what was under way on the ended one is dropped until the client agrees.
    client.transfer(9, 1, &message("a"));
    assert!(client.take().is_empty());
    client.attach_sender(1, 1, "jobs");
    client.frame(0, p::END, |_| {});
    assert!(client.take().is_empty(), "it was ended already");
    client.begin(0, 100);
    client.frame(7, p::FLOW, |list| {
        list.uint(0);
        list.uint(1);
        list.uint(0);
        list.uint(1);
    });
    assert_eq!(client.expect(p::CLOSE).error(0).0, "amqp:not-allowed");
}

#[test]
fn a_handle_or_channel_in_use_is_refused() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    assert_eq!(client.attach_sender(0, 1, "jobs")[0].error(0).0, "amqp:session:handle-in-use");
    let mut client = bench.trusted();
    client.frame(0, p::BEGIN, |list| {
        list.null();
        list.uint(0);
        list.uint(1);
        list.uint(1);
    });
    assert_eq!(client.expect(p::CLOSE).error(0).0, "amqp:not-allowed");
}

#[test]
fn the_faults_detach_close_and_reset_only_whom_they_mean() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut receiver = bench.trusted();
    receiver.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    receiver.attach_receiver(0, 2, "jobs", 0);

    assert_eq!(bench.broker.detach_links("exports/subscriptions/acme"), Ok(1));
    let detach = receiver.expect(p::DETACH);
    assert_eq!((detach.number(0), detach.error(2).0.as_str()), (1, "amqp:link:detach-forced"));
    assert!(sender.take().is_empty());
    assert!(bench.broker.detach_links("nope").is_err());

    assert_eq!(bench.broker.close_connections(&Which::Receivers), 1);
    let close = receiver.expect(p::CLOSE);
    assert_eq!(close.error(0).0, "amqp:connection:forced");
    receiver.frame(0, p::CLOSE, |_| {});
    receiver.take();
    assert_eq!(receiver.engine.ending(), Some(Ending::Close));

    assert_eq!(bench.broker.reset_connections(&Which::Entity("Jobs".to_owned())), 1);
    sender.take();
    assert_eq!(sender.engine.ending(), Some(Ending::Reset));
    assert_eq!(bench.broker.reset_connections(&Which::Entity("exports".to_owned())), 0);
}

#[test]
fn an_entity_cannot_be_made_twice_or_under_a_name_that_is_none() {
    use crate::broker::{BrokerError, QueueOptions, TopicOptions};
    let bench = Bench::new();
    let options = QueueOptions::default;
    assert_eq!(bench.broker.add_queue("JOBS", options()), Err(BrokerError::Exists("JOBS".into())));
    assert_eq!(bench.broker.add_topic("jobs", TopicOptions::default()), Err(BrokerError::Exists("jobs".into())));
    assert_eq!(bench.broker.add_subscription("jobs", "s", options()), Err(BrokerError::NotATopic("jobs".into())));
    for name in ["", "$cbs", "a//b", "a/$management", &"x".repeat(261), "sb://host/a"] {
        assert_eq!(bench.broker.add_queue(name, options()), Err(BrokerError::BadName(name.into())));
    }
    assert_eq!(bench.broker.entities(), ["exports", "exports/subscriptions/acme", "jobs"]);
}

/// Attaches a sender to `jobs` under a name.
fn attach_named(client: &mut super::client::Client, channel: u16, handle: u32, name: &str) -> Vec<Got> {
    client.frame(channel, p::ATTACH, |list| {
        list.text(name);
        list.uint(handle);
        list.bool(false);
        list.ubyte(0);
        list.ubyte(0);
        list.described_list(0x28, |source| source.text("client"));
        list.described_list(0x29, |target| target.text("jobs"));
        list.null();
        list.null();
        list.uint(0);
    });
    client.take()
}

#[test]
fn a_link_name_in_use_is_stolen_by_the_newer_link_of_that_direction() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.begin(1, 100);
    attach_named(&mut client, 0, 1, "worker");
    for (channel, handle) in [(0, 2), (1, 2)] {
        let frames = attach_named(&mut client, channel, handle, "worker");
        assert_eq!(codes(&frames), [p::DETACH, p::ATTACH, p::FLOW]);
        assert_eq!(frames[0].error(2).0, "amqp:link:stolen");
        assert_eq!(bench.broker.links().len(), 1);
    }
    let frames = attach_named(&mut client, 1, 3, "another");
    assert_eq!(codes(&frames), [p::ATTACH, p::FLOW]);
    client.transfer(1, 0, &message("on a link that was stolen"));
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 0);
    // The same name and handle again, after the client agreed, is a new link.
    client.frame(0, p::DETACH, |list| {
        list.uint(1);
        list.bool(true);
    });
    client.take();
    assert_eq!(codes(&attach_named(&mut client, 0, 1, "worker")), [p::DETACH, p::ATTACH, p::FLOW]);
    client.send(1, &["a"]);
}

#[test]
fn a_link_that_is_detached_for_a_while_is_answered_so_and_attached_anew() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.frame(0, p::DETACH, |list| {
        list.uint(1);
        list.bool(false);
    });
    assert_eq!(client.expect(p::DETACH).field(1), &Value::Bool(false));
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
}

#[test]
fn a_link_that_goes_in_the_middle_of_a_large_delivery_leaves_the_session_whole() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut large = vec![0x00, 0x53, 0x75];
    large.binary(&vec![b'x'; 200_000]);
    let parts: Vec<_> = large.chunks(60_000).collect();
    for (place, part) in parts.iter().enumerate() {
        client.transfer_part(1, (place == 0).then_some(0), 0, place + 1 < parts.len(), part);
    }
    client.attach_receiver(0, 2, "jobs", 0);
    // A window of two frames after the answer to put-token: the delivery stops in its middle.
    client.flow_with_window(0, Some(2), 0, 1, false, Some((1, 2)));
    let begun = client.take();
    assert_eq!(begun.iter().filter(|got| got.code == Some(p::TRANSFER)).count(), 2);
    client.frame(0, p::DETACH, |list| {
        list.uint(2);
        list.bool(true);
    });
    client.expect(p::DETACH);
    client.attach_receiver(0, 3, "jobs", 0);
    client.send(1, &["small"]);
    client.flow_with_window(0, Some(3), 0, 1, false, Some((3, 1_000)));
    let got = client.receive();
    assert_eq!(got.len(), 1, "and nothing of the one before");
    assert_eq!(got[0].body(), "small", "the large one is locked still");
}

#[test]
fn a_transfer_or_a_settlement_in_a_transaction_is_refused() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.attach_receiver(0, 2, "jobs", 0);
    client.send(1, &["a"]);
    client.credit(0, 2, 0, 1);
    let id = client.receive()[0].delivery_id;
    let transactional = |list: &mut crate::amqp::encode::Compound<'_>| {
        list.described_list(0x34, |list| list.binary(b"txn"));
    };
    client.frame_with(0, p::TRANSFER, &message("b"), |list| {
        list.uint(1);
        list.uint(1);
        list.binary(b"t");
        list.uint(0);
        list.bool(false);
        list.bool(false);
        list.null();
        transactional(list);
    });
    let (condition, text) = client.expect(p::DETACH).error(2);
    assert_eq!(condition, "amqp:not-implemented");
    assert!(text.contains("transactions"), "{text}");
    client.frame(0, p::DISPOSITION, |list| {
        list.bool(true);
        list.uint(id);
        list.uint(id);
        list.bool(false);
        transactional(list);
    });
    assert_eq!(client.expect(p::END).error(0).0, "amqp:not-implemented");
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.locked), (0, 1), "nothing of either took effect");
}
