//! `--health`: what is told, when it changes, that the documented table is what is printed, and what is never said.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use waybill_local::Local;

use super::binaries::{ITEM, PATIENCE, Running, beside_local, command, publish, run, send};

const RUN: [&str; 9] = [
    "run",
    "--local",
    "local.json",
    "--entities",
    "entities.toml",
    "--sink",
    "sqlite:a.sqlite",
    "--health",
    "127.0.0.1:0",
];
const SAYS: &str = "waybill-subscriber: health and metrics at ";

struct Watched {
    running: Running,
    address: String,
}

impl Watched {
    async fn start(folder: &TempDir) -> Self {
        std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
        let mut running = Running::start(command(folder, "waybill-subscriber", &RUN));
        let address = running.says(SAYS).await;
        Self { running, address }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.address)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn json(&self, path: &str) -> (u16, Value) {
        let (status, text) = self.get(path).await;
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// Asks until the answer is what is wanted.
    async fn until(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
        let asking = async {
            loop {
                let (status, text) = self.get(path).await;
                if wanted(status, &text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} never said it"))
    }
}

/// With a file that is done, one that is quarantined, a message that is no waybill, and rows that cannot be used.
async fn busy() -> (TempDir, Local, Watched) {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("more.csv"), "ItemID,Price\n3,7.00\n,9.00\n").unwrap();
    let watched = Watched::start(&folder).await;
    run(publish(&folder, &["item.csv", "more.csv"])).await.with(0);
    send(local.ready_file(), "nothing", "m1").await;
    let uri = r#""uri":"https://elsewhere.example/c/b","contentType":"text/csv""#;
    send(local.ready_file(), format!(r#"{{"blobType":"ItemChanges","correlationId":"c",{uri}}}"#), "m2").await;
    watched
        .until("/metrics", |_, page| {
            page.contains("waybill_files_done_total 2\n")
                && page.contains("waybill_files_quarantined_total{reason=\"foreign-uri\"} 1\n")
                && page.contains("waybill_backlog_messages{type=\"\",state=\"quarantined\"} 1.0\n")
        })
        .await;
    (folder, local, watched)
}

/// By its name: its type and the names of its labels.
type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// From the page. A metric of which there is no series yet has no labels.
fn printed(page: &str) -> Metrics {
    let mut metrics = Metrics::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(metric) = line.strip_prefix("# TYPE ") {
            let (name, kind) = metric.split_once(' ').unwrap();
            current = name.to_owned();
            metrics.insert(current.clone(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
            assert!(line.starts_with(&current), "{line} stands under {current}");
            let (labels, _) = labels.rsplit_once('}').unwrap();
            let names = labels.split("\",").map(|label| label.split_once('=').unwrap().0.to_owned());
            metrics.get_mut(&current).unwrap().1.extend(names.filter(|name| name != "le"));
        }
    }
    metrics
}

/// From the table.
fn documented() -> Metrics {
    let guide = include_str!("../../../docs/operations.md");
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    let rows = guide.lines().filter(|line| line.starts_with("| `waybill_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), names(cells[3])))
    })
    .collect()
}

#[tokio::test]
async fn the_documented_metrics_are_those_that_are_printed() {
    let (_folder, _local, watched) = busy().await;
    let (status, page) = watched.get("/metrics").await;
    assert_eq!(status, 200);
    let (printed, documented) = (printed(&page), documented());
    let names = |metrics: &Metrics| metrics.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&printed), names(&documented));
    for (name, (kind, labels)) in &printed {
        let (said, named) = &documented[name];
        assert_eq!(kind, said, "{name}");
        assert!(labels == named || labels.is_empty(), "{name}: {labels:?}, but {named:?} are documented");
    }
    let with_labels = printed.values().filter(|(_, labels)| !labels.is_empty()).count();
    let wanted = documented.values().filter(|(_, labels)| !labels.is_empty()).count();
    // Nothing was lost, so there is no reason why.
    assert_eq!(with_labels + 1, wanted, "each metric with labels was seen with a series, but for reconnects");
    for wanted in [
        "waybill_ready 1.0",
        "waybill_messages_saved_total{queue=\"messages\",as=\"file\"} 3",
        "waybill_messages_saved_total{queue=\"messages\",as=\"quarantined\"} 1",
        "waybill_messages_settled_total{queue=\"messages\",how=\"completed\"} 4",
        "waybill_link_attached{queue=\"messages\"} 1.0",
        "waybill_token_renewals_total{reason=\"first\"} 1",
        "waybill_rows_total{outcome=\"inserted\"} 3",
        "waybill_rows_total{outcome=\"bad\"} 1",
        "waybill_received_to_done_seconds_count 2",
        "waybill_received_to_done_seconds_bucket{le=\"+Inf\"} 2",
        "waybill_commit_duration_seconds_count 2",
        "waybill_circuit_open{dependency=\"sink\"} 0.0",
    ] {
        assert!(page.lines().any(|line| line == wanted), "{wanted} is not in\n{page}");
    }
    for metric in printed.keys() {
        assert!(page.contains(&format!("# HELP {metric} ")), "{metric} has no help");
    }
}

#[test]
fn the_guide_speaks_only_of_metrics_that_are_in_its_table() {
    let (guide, known) = (include_str!("../../../docs/operations.md"), documented());
    let words = guide.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    let spoken: BTreeSet<&str> = words.filter(|word| word.starts_with("waybill_")).collect();
    assert!(spoken.len() >= known.len() && known.len() > 20, "{spoken:?}");
    for name in spoken {
        assert!(known.contains_key(name), "{name} is no metric");
    }
}

#[tokio::test]
async fn readiness_follows_the_link_and_says_why_and_liveness_does_not() {
    let (_folder, local, watched) = busy().await;
    let (status, ready) = watched.json("/health/ready").await;
    assert_eq!((status, &ready["ready"], &ready["problems"]), (200, &true.into(), &Value::Array(Vec::new())));
    local.stop().await;
    let text = watched.until("/health/ready", |status, text| status == 503 && text.contains("\"link\"")).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    let problems = told["problems"].as_array().unwrap();
    let link = problems.iter().find(|problem| problem["part"] == "link").unwrap();
    assert!(!link["problem"].as_str().unwrap().is_empty());
    assert_eq!(watched.json("/health/live").await.0, 200, "a restart would mend nothing");
    let page = watched.get("/metrics").await.1;
    assert!(
        page.contains("waybill_ready 0.0\n") && page.contains("waybill_link_attached{queue=\"messages\"} 0.0\n"),
        "{page}"
    );
    assert!(page.contains("waybill_reconnects_total{queue=\"messages\",reason="), "{page}");
}

#[tokio::test]
async fn only_three_pages_are_there_and_they_can_only_be_read() {
    let (folder, _local) = beside_local().await;
    let watched = Watched::start(&folder).await;
    assert_eq!(watched.get("/").await.0, 404);
    let client = reqwest::Client::new();
    let posted = client.post(format!("{}/health/live", watched.address)).send().await.unwrap();
    assert_eq!((posted.status().as_u16(), posted.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    let head = client.head(format!("{}/health/live", watched.address)).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (200, ""));
    let ended = watched.running.terminate().await.with(0);
    assert!(!ended.err.contains("error"), "{}", ended.err);
}

#[tokio::test]
async fn an_address_that_cannot_be_used_is_said_before_anything_begins() {
    let (folder, _local) = beside_local().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    for (address, wanted) in [
        (
            "everywhere",
            "health: \"everywhere\" is no address; write 9464 or 127.0.0.1:9464 for this machine alone".to_owned(),
        ),
        (":9464", "health: \":9464\" is no address".to_owned()),
        ("127.0.0.1:99999", "health: \"127.0.0.1:99999\" is no address".to_owned()),
        (&taken.to_string(), format!("cannot listen at {taken} for health and metrics; give another address")),
        // A port alone is one of this machine.
        (&taken.port().to_string(), format!("cannot listen at {taken} for health and metrics")),
    ] {
        let receive = ["receive", "--local", "local.json", "--health", address];
        let err = run(command(&folder, "waybill-subscriber", &receive)).await.with(1).err;
        assert!(err.contains(&wanted), "{err}");
    }
}

#[tokio::test]
async fn status_tells_another_shell_how_it_goes() {
    let (folder, local, watched) = busy().await;
    let soon = (time::OffsetDateTime::now_utc() + Duration::from_secs(7_200)).replace_nanosecond(0).unwrap();
    let soon = soon.format(&time::format_description::well_known::Rfc3339).unwrap();
    let at_risk = serde_json::json!({
        "blobType": "ItemChanges", "correlationId": "c2", "uri": "https://elsewhere.example/c/d", "contentType": "text/csv",
        "properties": { "waybill": { "expiresAt": soon } },
    });
    send(local.ready_file(), at_risk.to_string(), "m3").await;
    watched.until("/metrics", |_, page| page.contains("waybill_files_at_risk 1.0\n")).await;

    let status =
        async |format: &str| run(command(&folder, "waybill-subscriber", &["status", "--format", format])).await.with(0);
    let told = async || {
        loop {
            let told = status("json").await.json();
            if told["workers"][0]["attached"] == true && told["workers"][0]["lagMs"].is_u64() {
                return told;
            }
        }
    };
    let told = tokio::time::timeout(PATIENCE, told()).await.expect("it never told of itself");
    let worker = &told["workers"][0];
    assert_eq!(
        (&worker["receives"], &worker["works"], &worker["stopped"]),
        (&true.into(), &true.into(), &false.into())
    );
    for at in ["startedAt", "seenAt", "lastContactAt", "busTokenEndsAt", "blobTokenEndsAt"] {
        assert!(worker[at].is_string(), "{at} in {worker}");
    }
    let quarantined = |blob_type: &str, messages: u64| serde_json::json!({ "blobType": blob_type, "state": "quarantined", "messages": messages });
    assert_eq!(told["backlog"], serde_json::json!([quarantined("", 1), quarantined("ItemChanges", 2)]));
    assert_eq!((&told["atRisk"], &told["firstAtRisk"][0]["expiresAt"]), (&1.into(), &Value::from(soon)));

    let text = status("text").await.out;
    for wanted in ["SUBSCRIBER", " ready ", "BUS TOKEN", "NOT DONE", "retention at risk: 1 file not done"] {
        assert!(text.contains(wanted), "{wanted} is not in\n{text}");
    }
    watched.running.terminate().await.with(3);
    let text = status("text").await.out;
    assert!(text.contains(" stopped "), "{text}");
}

#[tokio::test]
async fn no_page_and_no_status_holds_a_token() {
    let (folder, local, watched) = busy().await;
    local.rotate(None).unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    watched.until("/metrics", |_, page| page.contains("waybill_files_done_total 3\n")).await;
    let mut said = String::new();
    for path in ["/metrics", "/health/live", "/health/ready", "/elsewhere"] {
        said.push_str(&watched.get(path).await.1);
    }
    for format in ["text", "json"] {
        let status = run(command(&folder, "waybill-subscriber", &["status", "--format", format])).await.with(0);
        said.push_str(&status.out);
        said.push_str(&status.err);
    }
    assert!(said.contains("waybill_token_remaining_seconds{service=\"bus\"}"));
    for secret in ["sig=", "sig%3d", "SharedAccessSignature", local.ready_file().bearer_token.as_str()] {
        assert!(!said.contains(secret), "{secret} is in\n{said}");
    }
}
