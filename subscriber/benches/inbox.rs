//! What an inbox costs: `cargo bench -p waybill-subscriber --bench inbox -- sqlite:FILE | postgres://… [ROWS]`.
//!
//! Saves messages one at a time and 100 at a time, then fills the inbox up to ROWS (a million) and asks it what a
//! subscriber and its operator ask. The inbox should be a new one; in PostgreSQL it is in the schema `waybill_bench`.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use waybill_subscriber::inbox::{
    Announced, AnyInbox, End, FileDone, Inbox, ListFilter, PostgresInbox, PostgresInboxOptions, SqliteInbox, State,
    Wanted, WorkerId, conformance::arrival,
};

const LONG: Duration = Duration::from_secs(3);
/// Asked as often; the middle counts.
const ASKED: usize = 21;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with("--")).collect();
    let [name, rest @ ..] = arguments.as_slice() else { panic!("name an inbox: sqlite:FILE or postgres://…") };
    let rows = rest.first().map_or(1_000_000, |text| text.parse().expect("a number of rows"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(measure(name, rows));
}

async fn measure(name: &str, rows: i64) {
    let inbox = match name.strip_prefix("sqlite:") {
        Some(path) => AnyInbox::Sqlite(SqliteInbox::open(path.as_ref(), Default::default()).await.expect("a file")),
        None => {
            let options = PostgresInboxOptions { schema: "waybill_bench".to_owned(), ..Default::default() };
            AnyInbox::Postgres(PostgresInbox::open(name, options).await.expect("a database"))
        }
    };
    let mut next = 0;
    for many in [1, 100] {
        let (before, began) = (next, Instant::now());
        while began.elapsed() < LONG {
            next = admit(&inbox, next, many).await;
        }
        let rate = (next - before) as f64 / began.elapsed().as_secs_f64();
        println!("admit, {many} at a time: {rate:.0} messages/s");
    }
    while next < rows {
        next = admit(&inbox, next, 1_000.min(rows - next)).await;
    }
    println!("{next} rows; resident {} MiB", resident());

    let (wanted, worker) = (Wanted::default(), WorkerId("bench".to_owned()));
    ask("lease of 4, and their ends", async || {
        for file in inbox.lease(&worker, 4, &wanted).await.expect("files") {
            assert!(inbox.finish(&file.lease, End::Done(FileDone::default())).await.expect("an answer"));
        }
    })
    .await;
    ask("lease of 4", async || {
        assert_eq!(inbox.lease(&worker, 4, &wanted).await.expect("files").len(), 4);
    })
    .await;
    let of_type = Wanted { types: Some(vec!["Type3".to_owned()]), since: None };
    ask("lease of 4 of one type of seven", async || {
        assert_eq!(inbox.lease(&worker, 4, &of_type).await.expect("files").len(), 4);
    })
    .await;
    ask("status (counts and what is due)", async || {
        let counts = inbox.counts().await.expect("counts");
        assert!(counts.saved as i64 > rows / 2);
        inbox.pending(&wanted).await.expect("what is due");
    })
    .await;
    let lists = [
        ("list of 50", ListFilter::default()),
        ("list of 50 of a state", ListFilter { state: Some(State::Done), ..ListFilter::default() }),
        ("list of 50 of a type", ListFilter { blob_type: Some("Type3".to_owned()), ..ListFilter::default() }),
        ("list of a correlation id", ListFilter { correlation_id: Some("c-77".to_owned()), ..ListFilter::default() }),
        ("list of a page in the middle", ListFilter { before: Some(rows / 2), ..ListFilter::default() }),
    ];
    for (what, filter) in lists {
        ask(what, async || {
            let rows = inbox.list(&ListFilter { most: 50, ..filter.clone() }).await.expect("rows");
            assert!(!rows.is_empty());
        })
        .await;
    }
    println!("resident {} MiB", resident());
}

async fn admit(inbox: &AnyInbox, from: i64, many: i64) -> i64 {
    // Most are of one type, and of some the time is short.
    let message = |number: i64| {
        let blob_type = if number % 10 == 0 { number / 10 % 7 } else { 3 };
        let mut arrival = arrival(number, &number.to_string(), &format!("Type{blob_type}"));
        if number % 20 == 0
            && let Announced::File(waybill) = &mut arrival.announced
        {
            waybill.expires_at = Some(OffsetDateTime::now_utc() + Duration::from_secs(3600));
        }
        arrival
    };
    let answers = inbox.admit((from..from + many).map(message).collect()).await.expect("room");
    assert_eq!(answers.len() as i64, many);
    from + many
}

async fn ask(what: &str, question: impl AsyncFn()) {
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        question().await;
        took.push(began.elapsed());
    }
    took.sort();
    let ms = |at: usize| took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1_000.0);
    println!("{what}: {:.2} ms, the slowest of {ASKED} {:.2} ms", ms(ASKED / 2), ms(ASKED - 1));
}

/// Of this process alone, without the database's.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1_024
}
