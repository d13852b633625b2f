//! Clients that want more to be held for them than they send: over real sockets, with the memory of the process looked at.

use tokio::io::AsyncWriteExt as _;

use super::client::{Bench, Client, message};
use super::hostile::{Bystander, attached, frame, is_alone, peak_mib};
use super::sockets::Far;
use super::tls::{Served, served};
use crate::amqp::encode::Write as _;
use crate::amqp::frame::{AMQP_HEADER, Kind, SASL_HEADER};
use crate::amqp::performative as p;
use crate::broker::{Filter, Rule, SqlFilter};

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
