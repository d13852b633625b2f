//! What an inbox costs: `cargo bench -p waybill-subscriber --bench inbox -- sqlite:FILE | postgres://… [ROWS] [json]`.
//!
//! Saves messages of a kilobyte one at a time and 100 at a time, in turns with what the disk can do at best: the same bytes
//! appended to a file and made durable (beside FILE, or in the temporary folder). Then it fills the inbox up to ROWS (a
//! million; 0 for none) and asks it what a subscriber and its operator ask. The inbox should be a new one; in PostgreSQL it is
//! in the schema `waybill_bench`. With `json` the last line is an object with all figures.

use std::{
    fs::File,
    io::Write as _,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use waybill_subscriber::inbox::{
    Announced, AnyInbox, End, FileDone, Inbox, ListFilter, PostgresInbox, PostgresInboxOptions, PublisherSequence,
    SqliteInbox, State, Wanted, WorkerId, conformance::arrival,
};

/// Of each turn.
const LONG: Duration = Duration::from_secs(1);
/// Inbox and disk take turns, so that both meet the same disk.
const TURNS: usize = 5;
/// Of a message's body.
const BYTES: usize = 1_024;
/// Asked as often; the middle counts.
const ASKED: usize = 21;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|text| !text.starts_with("--")).collect();
    let [name, rest @ ..] = arguments.as_slice() else { panic!("name an inbox: sqlite:FILE or postgres://…") };
    let as_json = rest.iter().any(|text| text == "json");
    let rows = rest.iter().find(|text| *text != "json");
    let rows = rows.map_or(1_000_000, |text| text.parse().expect("a number of rows"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let figures = runtime.block_on(measure(name, rows));
    if as_json {
        println!("{}", serde_json::Value::Object(figures.0));
    }
}

/// By name.
#[derive(Default)]
struct Figures(serde_json::Map<String, serde_json::Value>);

impl Figures {
    fn note(&mut self, name: &str, figure: f64) {
        self.0.insert(name.to_owned(), ((figure * 1_000.0).round() / 1_000.0).into());
    }
}

/// Appends so many bytes and waits until they are on disk; once.
fn append(file: &mut File, bytes: &[u8]) {
    file.write_all(bytes).expect("room");
    file.sync_data().expect("a disk");
}

fn middle(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

async fn measure(name: &str, rows: i64) -> Figures {
    let mut figures = Figures::default();
    let inbox = match name.strip_prefix("sqlite:") {
        Some(path) => AnyInbox::Sqlite(SqliteInbox::open(path.as_ref(), Default::default()).await.expect("a file")),
        None => {
            let options = PostgresInboxOptions { schema: "waybill_bench".to_owned(), ..Default::default() };
            AnyInbox::Postgres(PostgresInbox::open(name, options).await.expect("a database"))
        }
    };
    let beside = name.strip_prefix("sqlite:").map_or_else(
        || std::env::temp_dir().join(format!("waybill-bench-{}", std::process::id())),
        |path| format!("{path}.raw").into(),
    );
    let mut raw = File::create(&beside).expect("a file");
    let mut next = 0;
    for many in [1_i64, 100] {
        let bytes = vec![b'x'; BYTES * many as usize];
        let (mut saved, mut appended, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let (mut times, began) = (0, Instant::now());
            while began.elapsed() < LONG {
                append(&mut raw, &bytes);
                times += many;
            }
            let disk = times as f64 / began.elapsed().as_secs_f64();
            let (before, began) = (next, Instant::now());
            while began.elapsed() < LONG {
                next = admit(&inbox, next, many).await;
            }
            let rate = (next - before) as f64 / began.elapsed().as_secs_f64();
            saved.push(rate);
            appended.push(disk);
            ratios.push(rate / disk);
        }
        let (saved, appended, ratio) = (middle(saved), middle(appended), middle(ratios));
        println!("{many} at a time: {saved:.0} messages/s saved, {appended:.0} appended raw: {ratio:.2} of it");
        figures.note(&format!("saved{many}PerSecond"), saved);
        figures.note(&format!("raw{many}PerSecond"), appended);
        figures.note(&format!("saved{many}OfRaw"), ratio);
    }
    drop(std::fs::remove_file(&beside));
    if rows == 0 {
        return figures;
    }
    while next < rows {
        next = admit(&inbox, next, 1_000.min(rows - next)).await;
    }
    println!("{next} rows; resident {} MiB", resident());
    figures.note("rows", next as f64);

    let (wanted, worker) = (Wanted::default(), WorkerId("bench".to_owned()));
    ask(&mut figures, "lease of 4, and their ends", async || {
        for file in inbox.lease(&worker, 4, &wanted).await.expect("files") {
            assert!(inbox.finish(&file.lease, End::Done(FileDone::default())).await.expect("an answer"));
        }
    })
    .await;
    ask(&mut figures, "lease of 4", async || {
        assert_eq!(inbox.lease(&worker, 4, &wanted).await.expect("files").len(), 4);
    })
    .await;
    let of_type = Wanted { types: Some(vec!["Type3".to_owned()]), ..Wanted::default() };
    ask(&mut figures, "lease of 4 of one type of seven", async || {
        assert_eq!(inbox.lease(&worker, 4, &of_type).await.expect("files").len(), 4);
    })
    .await;
    ask(&mut figures, "status", async || {
        let counts = inbox.counts().await.expect("counts");
        assert!(counts.saved as i64 > rows / 2);
        inbox.pending(&wanted).await.expect("what is due");
        inbox.backlog().await.expect("what waits");
        inbox.workers().await.expect("who works");
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
        ask(&mut figures, what, async || {
            let rows = inbox.list(&ListFilter { most: 50, ..filter.clone() }).await.expect("rows");
            assert!(!rows.is_empty());
        })
        .await;
    }
    println!("resident {} MiB", resident());
    figures.note("residentMiB", resident() as f64);
    figures
}

async fn admit(inbox: &AnyInbox, from: i64, many: i64) -> i64 {
    // Most are of one type, and of some the time is short.
    let message = |number: i64| {
        let blob_type = if number % 10 == 0 { number / 10 % 7 } else { 3 };
        let mut arrival = arrival(number, &number.to_string(), &format!("Type{blob_type}"));
        if let Announced::File(waybill) = &mut arrival.announced {
            // As long as messages are, and with a number in a sequence, as ours have.
            let more = BYTES.saturating_sub(waybill.body.len() + 2);
            waybill.body.push_str(&" ".repeat(more));
            // Those between every tenth message are a sequence without gaps.
            waybill.sequence = (number % 10 != 0).then(|| PublisherSequence {
                publisher: "shop".to_owned(),
                epoch: "e".to_owned(),
                sequence: (number - number / 10).unsigned_abs(),
            });
        }
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

async fn ask(figures: &mut Figures, what: &str, question: impl AsyncFn()) {
    let mut took = Vec::new();
    for _ in 0..ASKED {
        let began = Instant::now();
        question().await;
        took.push(began.elapsed());
    }
    took.sort();
    let ms = |at: usize| took.get(at).map_or(0.0, |took| took.as_secs_f64() * 1_000.0);
    figures.note(&format!("{what}, ms"), ms(ASKED / 2));
    println!("{what}: {:.2} ms, the slowest of {ASKED} {:.2} ms", ms(ASKED / 2), ms(ASKED - 1));
}

/// Of this process alone, without the database's.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1_024
}
