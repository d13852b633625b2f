//! Clients that want more to be held for them than they send: over real sockets, with the memory of the process looked at.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::{io::AsyncWriteExt as _, task::JoinSet, time::timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::client::{Bench, Client, Give, Got, message};
use super::hostile::{Bystander, attached, frame, is_alone, peak_mib};
use super::sockets::{Far, LONG, end, pipe};
use super::tls::{Served, served, web_socket};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::amqp::frame::{AMQP_HEADER, Kind, SASL_HEADER};
use crate::amqp::performative as p;
use crate::broker::{Filter, QueueOptions, Rule, SqlFilter};

/// A list of arrays of 65,536 nulls each: as a tree it would take two hundred thousand times its bytes.
fn swollen(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    out.list(|list| (0..bytes / 10).for_each(|_| list.array(0x40, 65_536, |_| {})));
    out
}

/// A client's first bytes up to `open`, which says this of itself.
fn opening(properties: &[u8]) -> Vec<u8> {
    let init = frame(Kind::Sasl, 0x41, &[], |list| list.symbol("ANONYMOUS"));
    let open = frame(Kind::Amqp, p::OPEN, &[], |list| {
        list.text("greedy");
        (0..8).for_each(|_| list.null());
        list.raw(properties);
    });
    [&SASL_HEADER[..], &init, &AMQP_HEADER, &open].concat()
}

/// A request with such a value in its properties and in its body.
fn request(value: &[u8]) -> Vec<u8> {
    let mut out = vec![0x00, 0x53, 0x74];
    out.map(|map| {
        map.text("operation");
        map.raw(value);
    });
    out.extend([0x00, 0x53, 0x77]);
    out.raw(value);
    out
}

/// Sends a delivery on handle 1 in frames of 60,000 bytes.
fn deliver(client: &mut Client, payload: &[u8]) {
    let mut pieces = payload.chunks(60_000).peekable();
    let mut id = Some(0);
    while let Some(piece) = pieces.next() {
        client.transfer_part(1, id.take(), 0, pieces.peek().is_some(), piece);
    }
}

async fn session_ends(served: &Served, script: &Client) {
    let mut far = Far::replay(served.tcp().await, script).await;
    let (condition, text) = far.expect(p::END).await.error(0);
    assert_eq!(condition, "amqp:decode-error");
    assert!(text.contains("more elements than its size allows"), "{text}");
}

#[tokio::test]
async fn values_that_are_small_on_the_wire_and_vast_in_memory_cost_nothing() {
    if !is_alone("greedy::values_that_are_small_on_the_wire_and_vast_in_memory_cost_nothing") {
        return;
    }
    let served = served().await;
    served.bench.broker.add_subscription("exports", "other", Default::default()).unwrap();
    let sql = SqlFilter::new("a = 1 OR sys.CorrelationId = 'x'").unwrap();
    served.bench.broker.add_rule("exports/subscriptions/other", Rule::new("sql", Filter::Sql(sql))).unwrap();
    let mut bystander = Bystander::new(&served).await;
    bystander.is_served().await;
    let before = peak_mib();

    // Without a token: what a client says of itself, and what it asks of `$cbs`.
    let mut far = Far::new(served.tcp().await);
    far.stream.write_all(&opening(&swollen(60_000))).await.unwrap();
    far.expect(p::OPEN).await;
    let mut script = Bench::new().client();
    script.attach_sender(0, 1, "$cbs");
    deliver(&mut script, &request(&swollen(25_000)));
    session_ends(&served, &script).await;

    // With one: `$management`, whose requests may be larger, and a filter that looks into a message.
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "jobs/$management");
    deliver(&mut script, &request(&swollen(500_000)));
    session_ends(&served, &script).await;
    bystander.is_served().await;
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "exports");
    let mut far = attached(served.tcp().await, &script).await;
    let from = script.sent.len();
    let mut greedy = Vec::new();
    greedy.described_list(0x73, |list| {
        (0..5).for_each(|_| list.null());
        list.raw(&swollen(20_000));
    });
    greedy.extend([0x00, 0x53, 0x74]);
    greedy.map(|map| {
        map.text("a");
        map.raw(&swollen(20_000));
    });
    script.transfer(1, 7, &[greedy, message("x")[message("x").len() - 6..].to_vec()].concat());
    far.go_on(&script, from).await;
    assert_eq!(far.expect(p::DISPOSITION).await.outcome(), (0x24, None));

    let grown = peak_mib() - before;
    assert!(grown < 16, "{grown} MiB");
    drop((far, bystander));
    served.end().await;
}

/// Attaches links with long names until the connection is closed; says how many there were.
fn links_with_long_names(client: &mut Client) -> (usize, String) {
    let name = "n".repeat(50_000);
    for count in 0..100_000_usize {
        let (channel, handle) = (u16::try_from(1 + count / 256).unwrap(), u32::try_from(count % 256).unwrap());
        if handle == 0 {
            client.begin(channel, 100);
        }
        client.frame(channel, p::ATTACH, |list| {
            list.text(&format!("{count}{name}"));
            list.uint(handle);
            list.bool(true);
            list.ubyte(2);
            list.null();
            list.described_list(0x28, |source| source.text("$cbs"));
            list.described_list(0x29, |target| target.text("client"));
        });
        if let Some(close) = closed(&client.take()) {
            return (count, close);
        }
    }
    panic!("the connection is never closed");
}

/// The text of a close that says that a limit was exceeded.
fn closed(frames: &[Got]) -> Option<String> {
    let (condition, text) = frames.iter().find(|got| got.code == Some(p::CLOSE))?.error(0);
    assert_eq!(condition, "amqp:resource-limit-exceeded", "{text}");
    Some(text)
}

#[test]
fn the_names_of_links_count_and_more_for_who_has_no_token() {
    let (links, text) = links_with_long_names(&mut Bench::new().client());
    assert!(links <= 5 && text.contains("without a token"), "{links}: {text}");
    let (links, text) = links_with_long_names(&mut Bench::new().trusted());
    assert!((1_000..1_400).contains(&links) && text.contains("67108864"), "{links}: {text}");
}

#[test]
fn a_connection_has_as_many_links_as_azures_and_not_one_more() {
    let mut client = Bench::new().trusted();
    // Two links to `$cbs` are there.
    for link in 0..4_997_u32 {
        let (channel, handle) = (u16::try_from(1 + link / 256).unwrap(), link % 256);
        if handle == 0 {
            client.begin(channel, 100);
        }
        let frames = client.attach_sender(channel, handle, "jobs");
        assert!(frames.iter().any(|got| got.code == Some(p::ATTACH)), "link {link}: {frames:?}");
    }
    client.begin(100, 100);
    let frames = client.attach_sender(100, 0, "jobs");
    let (condition, text) = frames[0].error(0);
    assert_eq!((frames[0].code, condition.as_str()), (Some(p::END), "amqp:resource-limit-exceeded"));
    assert!(text.contains("4999"), "{text}");
}

/// A request on handle 11 with this message-id, encoded.
fn ask(client: &mut Client, id: u32, message_id: &[u8], operation: &str, count: i32) {
    let mut request = Vec::new();
    request.described_list(0x73, |list| list.raw(message_id));
    request.extend([0x00, 0x53, 0x74]);
    request.map(|map| {
        map.text("operation");
        map.text(operation);
    });
    request.extend([0x00, 0x53, 0x77]);
    request.map(|map| {
        map.text("from-sequence-number");
        map.long(0);
        map.text("message-count");
        map.int(count);
    });
    client.transfer(11, id, &request);
}

#[test]
fn answers_that_nobody_reads_count_by_their_bytes() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let body = "x".repeat(30_000);
    client.send(1, &[body.as_str(); 30]);
    client.attach_receiver(0, 10, "jobs/$management", 2);
    client.attach_sender(0, 11, "jobs/$management");
    let held = client.engine.held_bytes();
    let mut asked = 0;
    let text = loop {
        ask(&mut client, asked, &[0x53, 1], "com.microsoft:peek-message", 100);
        asked += 1;
        if let Some(text) = closed(&client.take()) {
            break text;
        }
        assert!(client.engine.held_bytes() < 66 * 1024 * 1024, "{asked} answers");
    };
    assert!((60..80).contains(&asked), "{asked} answers of 1 MB fit into 64 MiB; {text}");
    assert!(held < 10_000, "{held} bytes for a handful of links");
    assert_eq!(client.engine.held_bytes(), 0);
}

#[test]
fn a_message_id_that_an_answer_would_repeat_has_a_limit() {
    let mut client = Bench::new().trusted();
    client.attach_receiver(0, 10, "jobs/$management", 2);
    client.attach_sender(0, 11, "jobs/$management");
    client.credit(0, 10, 0, 10);
    let encoded = |length: usize| {
        let mut id = Vec::new();
        id.text(&"i".repeat(length));
        id
    };
    ask(&mut client, 0, &encoded(1_000), "com.microsoft:peek-message", 1);
    assert_eq!(client.receive().len(), 1);
    ask(&mut client, 1, &encoded(60_000), "com.microsoft:peek-message", 1);
    let (condition, text) = client.expect(p::END).error(0);
    assert_eq!(condition, "amqp:invalid-field");
    assert!(text.contains("message-id") && text.contains("1024"), "{text}");
}

#[test]
fn what_waits_for_credit_or_for_a_window_is_counted_until_it_is_gone() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let body = "x".repeat(30_000);
    client.send(1, &[body.as_str(); 10]);
    client.attach_receiver(0, 10, "jobs/$management", 2);
    client.attach_sender(0, 11, "jobs/$management");
    client.attach_receiver(0, 2, "jobs", 0);
    let base = client.engine.held_bytes();

    ask(&mut client, 20, &[0x53, 1], "com.microsoft:peek-message", 8);
    client.take();
    assert!(client.engine.held_bytes() > base + 400_000, "an answer waits for credit");
    // A window of one frame: the rest waits for more.
    client.flow_with_window(0, Some(10), 0, 1, false, Some((0, 3)));
    client.take();
    assert!(client.engine.held_bytes() > base + 400_000, "and for the window");
    client.flow_with_window(0, None, 0, 0, false, Some((0, 1_000)));
    client.take();
    assert_eq!(client.engine.held_bytes(), base);

    // Deliveries that a link was cut with are not counted on.
    client.flow_with_window(0, Some(2), 0, 5, false, Some((0, 0)));
    client.transfer_part(1, Some(100), 0, true, &[0; 40_000]);
    ask(&mut client, 21, &[0x53, 2], "com.microsoft:peek-message", 8);
    client.take();
    assert!(client.engine.held_bytes() > base + 440_000);
    for handle in [1, 2, 10, 11] {
        client.frame(0, p::DETACH, |list| {
            list.uint(handle);
            list.bool(true);
        });
    }
    client.take();
    let links_to_cbs = client.engine.held_bytes();
    assert!(links_to_cbs < base && links_to_cbs > 1_000, "{links_to_cbs} of {base}");
}

#[test]
fn links_that_were_refused_count_until_the_client_has_agreed() {
    let mut client = Bench::new().client();
    let base = client.engine.held_bytes();
    for handle in 0..90 {
        client.attach_sender(0, handle, "jobs");
    }
    assert_eq!(client.engine.held_bytes(), base + 90 * 512);
    for handle in 0..90 {
        client.frame(0, p::DETACH, |list| {
            list.uint(handle);
            list.bool(true);
        });
    }
    client.take();
    assert_eq!(client.engine.held_bytes(), base);
}

/// Flows that want no answer, so many.
fn flows(count: usize) -> Vec<u8> {
    let mut client = Bench::new().trusted();
    let from = client.sent.len();
    client.flow_with_window(0, None, 0, 0, false, Some((0, 100)));
    client.sent[from..].repeat(count)
}

#[test]
fn a_connection_with_much_to_do_gives_others_their_turn() {
    let mut client = Bench::new().trusted();
    let input = flows(500_000);
    let (mut used, mut turns) = (0, 0);
    while used < input.len() {
        used += client.engine.consume(&input[used..], client.at);
        turns += 1;
        assert_eq!(client.engine.input_waits(), used < input.len());
    }
    assert!(turns > 3, "half a million frames in {turns} turns");
}

#[tokio::test]
async fn what_is_left_of_a_turn_is_done_in_the_next_though_nothing_more_comes() {
    let bench = Bench::new();
    let mut script = Bench::new().trusted();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let mut far = Far::replay(pipe(&bench, &mut tasks, &stop), &script).await;
    far.expect(p::DISPOSITION).await;
    let from = script.sent.len();
    script.attach_sender(0, 1, "jobs");
    let input = [flows(200_000), script.sent[from..].to_vec()].concat();
    far.stream.write_all(&input).await.unwrap();
    assert_eq!(far.expect(p::ATTACH).await.number(1), 1);
    drop(far);
    end(stop, tasks).await;
}

#[test]
fn properties_that_settling_adds_do_not_go_beyond_the_size_of_the_entity() {
    let bench = Bench::with(QueueOptions { max_size_bytes: 200_000, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["x"; 20]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 20);
    let first = client.receive()[0].delivery_id;
    let abandon = |client: &mut Client, value: &str| {
        client.frame(0, p::DISPOSITION, |list| {
            list.bool(true);
            list.uint(first);
            list.uint(first + 19);
            list.bool(false);
            list.described_list(0x27, |list| {
                list.null();
                list.null();
                list.map(|map| {
                    map.symbol("note");
                    map.text(value);
                });
            });
        });
        client.take()
    };
    let answers = |frames: &[Got]| -> Vec<(i64, Option<String>)> {
        let answers = frames.iter().filter(|got| got.code == Some(p::DISPOSITION));
        let size = |got: &Got| got.number(2) - got.number(1) + 1;
        answers.map(|got| (size(got), got.outcome().1.map(|(condition, _)| condition))).collect()
    };
    let full = Some("amqp:resource-limit-exceeded".to_owned());
    assert_eq!(answers(&abandon(&mut client, &"v".repeat(50_000))), [(3, None), (17, full)]);
    assert!(bench.broker.counts("jobs").unwrap().bytes < 200_000);
}

#[test]
fn deferred_messages_are_brought_as_many_as_an_answer_holds() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let body = "x".repeat(30_000);
    client.send(1, &vec![body.as_str(); 300]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.flow_with_window(0, Some(2), 0, 300, false, Some((0, 1_000_000)));
    assert_eq!(client.receive().len(), 300);
    client.settle(0, 1_000, Give::Deferred);
    client.take();
    client.attach_receiver(0, 10, "jobs/$management", 2);
    client.attach_sender(0, 11, "jobs/$management");
    client.flow_with_window(0, Some(10), 0, 10, false, Some((0, 1_000_000)));
    let mut bring = |last: i64| {
        let answer = client.request(
            11,
            None,
            |map| {
                map.text("operation");
                map.text("com.microsoft:receive-by-sequence-number");
            },
            |out| {
                out.map(|map| {
                    map.text("sequence-numbers");
                    map.array(0x81, u32::try_from(last).unwrap(), |out| {
                        (1..=last).for_each(|number| out.extend(number.to_be_bytes()));
                    });
                });
            },
        );
        answer.section(0x74).get("statusCode").and_then(Value::as_int).unwrap()
    };
    assert_eq!(bring(300), 403, "18 MB");
    assert_eq!(bring(200), 200);
}

#[test]
fn answers_that_are_never_settled_are_forgotten() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.attach_receiver(0, 10, "$cbs", 0);
    client.attach_sender(0, 11, "$cbs");
    client.flow_with_window(0, Some(10), 0, u32::MAX, false, Some((0, u32::MAX)));
    for id in 0..25_000 {
        ask(&mut client, id, &[0x53, 1], "put-token", 1);
        if id % 100 == 0 {
            client.take();
        }
    }
    assert!(client.engine.unsettled() <= 10_000, "{} remembered", client.engine.unsettled());
}

/// A client's ping over WebSocket, masked with zeros.
fn ping(payload: &[u8]) -> Vec<u8> {
    let size = u8::try_from(payload.len()).unwrap();
    [&[0x89, 0x80 | size, 0, 0, 0, 0][..], payload].concat()
}

#[tokio::test]
async fn pings_whose_pongs_nobody_reads_cost_nothing() {
    if !is_alone("greedy::pings_whose_pongs_nobody_reads_cost_nothing") {
        return;
    }
    let served = served().await;
    let mut bystander = Bystander::new(&served).await;
    bystander.is_served().await;
    let before = peak_mib();
    let opened = Bench::new().trusted().sent;
    for (first, payload) in
        [(&b""[..], &[b'p'; 120][..]), (b"", b""), (&SASL_HEADER, &[b'p'; 120]), (&opened, &[b'p'; 120])]
    {
        let mut socket = web_socket(served.tcp().await).await;
        for piece in first.chunks(50_000) {
            socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        let burst = ping(payload).repeat(1_000);
        let raw = socket.get_mut();
        let mut sent = 0_usize;
        // Whoever is not read any further has filled the sockets; 64 MiB do not fit into them.
        while sent < 64 << 20
            && let Ok(written) = timeout(Duration::from_millis(500), raw.write_all(&burst)).await
        {
            written.unwrap();
            sent += burst.len();
        }
        assert!(sent < 64 << 20, "{} bytes first, pings of {}: all were read", first.len(), payload.len());
        bystander.is_served().await;
    }
    let grown = peak_mib() - before;
    assert!(grown < 16, "{grown} MiB");
    drop(bystander);
    served.end().await;
}

#[tokio::test]
async fn pings_whose_pongs_are_read_are_answered_one_by_one_and_frames_come_through_between() {
    let served = served().await;
    let mut socket = web_socket(served.tcp().await).await;
    let opened = Bench::new().trusted().sent;
    let (mut pongs, mut frames) = (0, 0);
    for (number, piece) in opened.chunks(1 + opened.len() / 100).enumerate() {
        let payload = Bytes::from(format!("{number}"));
        socket.send(Message::Ping(payload.clone())).await.unwrap();
        socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
        loop {
            match timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Pong(answer) if answer == payload => break,
                Message::Binary(_) => frames += 1,
                other => panic!("{other:?}"),
            }
        }
        pongs += 1;
    }
    while frames < 3 {
        assert!(timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap().is_binary());
        frames += 1;
    }
    assert!(pongs > 50, "{pongs}");
    served.end().await;
}

#[tokio::test]
async fn a_message_of_web_socket_that_is_never_whole_is_held_for_a_client_with_a_token_only() {
    let served = served().await;
    let opened = Bench::new().client().sent;
    let trusted = Bench::new().trusted().sent;
    // One that is not the last, and pings between the fragments.
    let fragment = |first: u8| {
        let mut bytes = vec![first, 0xff];
        bytes.extend(20_000_u64.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([0; 20_000]);
        [bytes, ping(b"still here")].concat()
    };
    for (first, most) in [(&b""[..], 96 << 10), (&opened, 96 << 10), (&trusted, 512 << 10)] {
        let mut socket = web_socket(served.tcp().await).await;
        for piece in first.chunks(50_000) {
            socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
        }
        let sending = async {
            let (mut reader, mut writer) = tokio::io::split(socket.get_mut());
            let send = async {
                let mut sent = 0;
                while sent < 2 << 20 && writer.write_all(&fragment(if sent == 0 { 0x02 } else { 0x00 })).await.is_ok() {
                    sent += 20_000;
                }
            };
            let read = async {
                let mut read = Vec::new();
                drop(tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut read).await);
                read
            };
            tokio::join!(read, send).0
        };
        let read = timeout(LONG, sending).await.expect("it is ended");
        // A close with 1009, after the pongs of what was held.
        let pongs = read.windows(12).filter(|window| *window == b"\x8a\x0astill here").count();
        assert!((most / 20_000 - 1..=most / 20_000 + 2).contains(&pongs), "{pongs} fragments of {most}");
        assert!(read.ends_with(b"\x88\x02\x03\xf1"), "{:?}", &read[read.len().saturating_sub(8)..]);
    }
    served.end().await;
}
