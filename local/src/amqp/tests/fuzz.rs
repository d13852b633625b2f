//! Whatever comes over the wire, the engine neither panics nor lets its buffers grow, and ends what it cannot understand.

use proptest::collection::vec;
use proptest::prelude::*;

use super::client::{Bench, Client, Give, message};
use crate::amqp::encode::Write as _;
use crate::amqp::frame::{self, Kind};
use crate::amqp::performative as p;

/// Few in an ordinary run; `PROPTEST_CASES` sets more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}

/// A client that has used most of what there is.
fn busy(bench: &Bench) -> Client {
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b", "c"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 10);
    client.attach_sender(0, 3, "jobs/$management");
    client.attach_receiver(0, 4, "jobs/$management", 0);
    client.credit(0, 4, 0, 10);
    client.take();
    client
}

/// Valid frames, as a client would send them next.
fn valid_frames() -> Vec<Vec<u8>> {
    let frame = |code: u8, payload: &[u8], write: &dyn Fn(&mut crate::amqp::encode::Compound<'_>)| {
        let mut out = Vec::new();
        frame::write(&mut out, Kind::Amqp, 0, |out| {
            out.described_list(code, write);
            out.extend_from_slice(payload);
        });
        out
    };
    let mut request = Vec::new();
    request.described_list(0x73, |list| {
        list.ulong(1);
        for _ in 0..3 {
            list.null();
        }
        list.text("client");
    });
    request.extend([0x00, 0x53, 0x74]);
    request.map(|map| {
        map.text("operation");
        map.text("com.microsoft:peek-message");
    });
    request.extend([0x00, 0x53, 0x77]);
    request.map(|map| {
        map.text("from-sequence-number");
        map.long(1);
        map.text("message-count");
        map.int(5);
    });
    vec![
        frame(p::TRANSFER, &message("hello"), &|list| {
            list.uint(1);
            list.uint(50);
            list.binary(b"tag");
            list.uint(0);
            list.bool(false);
            list.bool(false);
        }),
        frame(p::TRANSFER, &request, &|list| {
            list.uint(3);
            list.uint(51);
            list.binary(b"tag");
        }),
        frame(p::FLOW, &[], &|list| {
            for value in [4, 100, 0, 100, 2, 0, 20] {
                list.uint(value);
            }
            list.null();
            list.bool(true);
            list.bool(true);
        }),
        frame(p::DISPOSITION, &[], &|list| {
            list.bool(true);
            list.uint(0);
            list.uint(9);
            list.bool(false);
            list.described_list(0x25, |list| {
                list.described_list(0x1d, |list| {
                    list.symbol("com.microsoft:dead-letter");
                    list.null();
                    list.map(|map| {
                        map.symbol("DeadLetterReason");
                        map.text("r");
                    });
                });
            });
        }),
        frame(p::ATTACH, &[], &|list| {
            list.text("again");
            list.uint(9);
            list.bool(true);
            list.ubyte(0);
            list.ubyte(1);
            list.described_list(0x28, |source| source.text("exports/subscriptions/acme"));
            list.described_list(0x29, |target| target.text("client"));
        }),
        frame(p::DETACH, &[], &|list| {
            list.uint(2);
            list.bool(true);
        }),
        frame(p::BEGIN, &[], &|list| {
            list.null();
            list.uint(0);
            list.uint(10);
            list.uint(10);
        }),
        frame(p::END, &[], &|_| {}),
        frame(p::CLOSE, &[], &|_| {}),
    ]
}

/// Feeds bytes in chunks as a socket would, with turns between.
fn feed(client: &mut Client, bytes: &[u8], chunk: usize) {
    let mut waiting = Vec::new();
    for piece in bytes.chunks(chunk.max(1)) {
        waiting.extend_from_slice(piece);
        let used = client.engine.consume(&waiting, client.at);
        assert!(used <= waiting.len());
        waiting.drain(..used);
        client.engine.turn(client.at);
        assert!(client.engine.output().len() < 2_000_000);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn random_bytes_from_the_start(bytes in vec(any::<u8>(), 0..400), chunk in 1..50_usize) {
        let bench = Bench::new();
        feed(&mut bench.raw_client(), &bytes, chunk);
    }

    #[test]
    fn random_bodies_in_valid_frames(bodies in vec(vec(any::<u8>(), 0..60), 1..10), channel in 0..3_u16) {
        let bench = Bench::new();
        let mut client = busy(&bench);
        let mut bytes = Vec::new();
        for body in &bodies {
            frame::write(&mut bytes, Kind::Amqp, channel, |out| out.extend_from_slice(body));
        }
        feed(&mut client, &bytes, 1_000);
    }

    #[test]
    fn valid_frames_in_any_order_with_some_bytes_changed(
        order in vec(0..9_usize, 1..20),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        chunk in 1..200_usize,
    ) {
        let bench = Bench::new();
        let mut client = busy(&bench);
        let frames = valid_frames();
        let mut bytes: Vec<u8> = order.iter().flat_map(|index| frames[*index].clone()).collect();
        for (at, to) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *to;
        }
        feed(&mut client, &bytes, chunk);
        // Whatever happened to it, the broker serves the next one, and no lock or waiter is left over.
        drop(client);
        let mut other = bench.trusted();
        bench.broker.expire_locks("jobs").unwrap();
        other.attach_sender(0, 1, "jobs");
        other.send(1, &["after"]);
        other.attach_receiver(0, 2, "jobs", 0);
        other.credit(0, 2, 0, 1_000);
        // What was changed may hold texts that are none, which pass as they are: only the end is looked at.
        prop_assert!(other.take().iter().any(|got| got.code == Some(p::TRANSFER) && got.payload.ends_with(b"after")));
        prop_assert_eq!(bench.broker.connections(), 1);
    }

    #[test]
    fn messages_are_neither_lost_nor_handed_to_two_whatever_receivers_do(
        steps in vec((0..3_usize, 0..8_u8), 1..80),
    ) {
        let bench = Bench::with(crate::broker::QueueOptions {
            max_delivery_count: u32::MAX,
            lock_duration: super::client::LOCK,
            ..crate::broker::QueueOptions::default()
        });
        let mut sender = bench.trusted();
        sender.attach_sender(0, 1, "jobs");
        let mut receivers: Vec<(Client, Vec<u32>, u32)> = (0..3).map(|_| {
            let mut client = bench.trusted();
            client.attach_receiver(0, 2, "jobs", 0);
            client.take();
            (client, Vec::new(), 0)
        }).collect();
        let (mut sent, mut completed) = (0_u64, 0_u64);
        for (who, what) in steps {
            if what == 0 {
                sender.send(1, &["x", "y"]);
                sent += 2;
            }
            let (client, held, seen) = &mut receivers[who];
            match what {
                1 => client.credit(0, 2, *seen, 3),
                2 => client.flow(0, 2, *seen, 2, true),
                3 => client.pass(super::client::LOCK / 3),
                4..8 => if let Some(id) = held.pop() {
                    let give = [Give::Accepted, Give::Accepted, Give::Released, Give::Modified][usize::from(what) - 4];
                    client.settle(id, id, give);
                },
                _ => {}
            }
            let frames = client.take();
            held.extend(super::client::deliveries(&frames).iter().map(|got| got.delivery_id));
            for flow in frames.iter().filter(|got| got.code == Some(p::FLOW)) {
                *seen = u32::try_from(flow.number(5)).unwrap();
            }
            *seen = (*seen).max(client.delivered(2));
            completed += frames.iter()
                .filter(|got| got.code == Some(p::DISPOSITION) && got.outcome().0 == 0x24)
                .map(|_| 1).sum::<u64>();
            let counts = bench.broker.counts("jobs").unwrap();
            prop_assert_eq!(counts.totals.completed, completed);
            prop_assert_eq!(sent, completed + u64::try_from(counts.active + counts.locked).unwrap());
        }
        // In the end somebody gets everything that is left.
        bench.broker.expire_locks("jobs").unwrap();
        let mut last = bench.trusted();
        last.attach_receiver(0, 2, "jobs", 1);
        last.credit(0, 2, 0, 10_000);
        for (client, ..) in receivers.drain(..) {
            drop(client);
        }
        bench.broker.expire_locks("jobs").unwrap();
        let got = u64::try_from(last.receive().len()).unwrap();
        prop_assert_eq!(got + completed, sent);
    }
}
