//! What a publisher says of itself at `/health/live`, `/health/ready` and `/metrics`. What each means stands in
//! `docs/publishing.md`.

use std::{fmt, time::Duration};

use crate::{
    health::{self, Serving, Told},
    metrics::{self, Labels, Page, label, truth},
};
use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};
use serde::Serialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::timeout;
use waybill_publisher::{
    FollowState, Publisher, RelayState,
    change_log::{ChangeLog, Holder, LogStatus},
    figures::Figures,
    outbox::{AnyOutbox, Counts, NamedTo, Outbox, OutboxError},
};

/// How long a database may take to say what waits; without it the page has all but that.
const PATIENCE: Duration = Duration::from_secs(5);
/// Series of what waits: services choose the names of types, so there is an end to what they cost.
const TYPES_MAX: usize = 100;

const NAMED_HELP: &str = "Up to which number of the type manifests that were sent name all";

/// A publisher that is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The publisher.
    pub publisher: Publisher<AnyOutbox>,
    /// The change log that it follows, if any.
    pub log: Option<ChangeLog>,
}

/// Why it cannot do all that it was asked to do.
#[derive(Debug, Serialize)]
struct Problem {
    part: &'static str,
    problem: String,
}

/// Begins to answer at this address, if there is one.
///
/// # Errors
/// As [`health::serve`].
pub async fn serve(
    address: Option<&str>,
    publisher: &Publisher<AnyOutbox>,
    log: Option<&ChangeLog>,
) -> anyhow::Result<Option<Serving>> {
    let asked = Asked { publisher: publisher.clone(), log: log.cloned() };
    health::serve("waybill-publisher", address, asked).await
}

impl Asked {
    /// Whoever stands by for another is as it should be.
    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut tell = |part, problem: String| problems.push(Problem { part, problem });
        match &*self.publisher.relay().borrow() {
            RelayState::Attached | RelayState::Standby => {}
            RelayState::Stopped => tell("bus", "it begins, or has ended".to_owned()),
            RelayState::Waiting { problem, .. } => tell("bus", problem.clone()),
            RelayState::NoOutbox(problem) | RelayState::GaveUp(problem) => tell("outbox", problem.clone()),
        }
        if self.log.is_some() {
            match &*self.publisher.following().borrow() {
                FollowState::Active | FollowState::Standby => {}
                FollowState::Stopped => tell("change log", "it begins, or has ended".to_owned()),
                FollowState::Waiting(problem) => tell("change log", problem.clone()),
            }
            if let Some(silent) = self.publisher.log_silent_for() {
                let problem = format!("its database is slow or out of reach: no answer for {} s", silent.as_secs());
                tell("change log", problem);
            }
        }
        problems
    }

    /// Its figures now.
    pub async fn snapshot(&self) -> Snapshot {
        let asked = async {
            let exports = self.publisher.outbox().counts().await.ok();
            let paused = self.publisher.outbox().paused().await.ok();
            let manifests = async {
                let (outbox, name) = (self.publisher.outbox(), self.publisher.name());
                Ok::<_, OutboxError>((outbox.manifested_at().await?, outbox.named_to(name, outbox.epoch()).await?))
            };
            let manifests = manifests.await.ok();
            let log = match &self.log {
                Some(log) => log.status().await.ok(),
                None => None,
            };
            (exports, paused.map(|paused| paused.len()), manifests, log)
        };
        // The health says what is wrong.
        let (exports, paused, manifests, log) = timeout(PATIENCE, asked).await.unwrap_or_default();
        Snapshot {
            figures: self.publisher.figures(),
            ready: self.ready().0,
            exports,
            paused,
            manifests,
            log,
            now: OffsetDateTime::now_utc(),
        }
    }
}

impl Told for Asked {
    fn live(&self) -> (bool, Value) {
        let stuck = self.publisher.stuck();
        (stuck.is_empty(), json!({ "live": stuck.is_empty(), "stuck": stuck }))
    }

    fn ready(&self) -> (bool, Value) {
        let (stuck, problems) = (self.publisher.stuck(), self.problems());
        let ready = stuck.is_empty() && problems.is_empty();
        (ready, json!({ "ready": ready, "stuck": stuck, "problems": problems }))
    }

    async fn page(&self) -> String {
        metrics::page(self.snapshot().await)
    }
}

/// Its figures at one moment.
#[derive(Debug)]
pub struct Snapshot {
    figures: Figures,
    ready: bool,
    exports: Option<Counts>,
    paused: Option<usize>,
    /// When they were made last, and how far they name each sequence.
    manifests: Option<(OffsetDateTime, Vec<NamedTo>)>,
    log: Option<LogStatus>,
    now: OffsetDateTime,
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        page.gauges("publisher_build_info", "Always 1", None, [(version, 1.0)])?;
        page.gauge("publisher_ready", "1 while /health/ready answers 200", None, truth(self.ready))?;
        self.counts(&mut page)?;
        self.outbox(&mut page)?;
        self.manifests(&mut page)?;
        self.log(&mut page)
    }
}

impl Snapshot {
    fn counts(&self, page: &mut Page<'_>) -> fmt::Result {
        let figures = &self.figures;
        for (name, help, unit, count) in [
            ("files_planned", "Files that were fixed in the change log", None, figures.files_planned),
            ("changes_planned", "Changes in them", None, figures.changes_planned),
            ("changes_refused", "Changes that no file can hold", None, figures.changes_refused),
            ("exports_uploaded", "Exports whose blob was committed", None, figures.exports_uploaded),
            ("exports_failed", "Tries at an export that came to nothing", None, figures.exports_failed),
            ("rows_uploaded", "Rows in committed blobs", None, figures.rows_uploaded),
            ("uploaded", "What was committed, as stored", Some(Unit::Bytes), figures.bytes_uploaded),
            ("messages_sent", "Messages that the broker accepted", None, figures.messages_sent),
            ("messages_refused", "Times that the broker refused a message", None, figures.messages_refused),
            ("sends_failed", "Batches that an outage of the bus held back", None, figures.sends_failed),
            ("exports_pruned", "Exports whose term was over and that were forgotten", None, figures.exports_pruned),
            ("deletions_refused", "Times that storage kept a blob that was over", None, figures.deletions_refused),
        ] {
            page.counters(&format!("publisher_{name}"), help, unit, [(Labels::new(), count)])?;
        }
        Ok(())
    }

    fn outbox(&self, page: &mut Page<'_>) -> fmt::Result {
        let states = self.exports.iter().flat_map(|exports| {
            [
                ("planned", exports.planned),
                ("uploaded", exports.uploaded),
                ("sent", exports.sent),
                ("void", exports.void),
            ]
        });
        let states = states.map(|(state, count)| (label("state", state), count as f64));
        page.gauges("publisher_exports", "Exports in the outbox, by state", None, states)?;
        let oldest = self.exports.map(|exports| (Labels::new(), self.seconds_since(exports.waiting_since)));
        let help = "Since when the oldest uploaded export waits for its message, 0 when none does";
        page.gauges("publisher_oldest_unsent", help, Some(Unit::Seconds), oldest)?;
        let paused = self.paused.map(|paused| (Labels::new(), paused as f64));
        page.gauges("publisher_types_paused", "Types whose messages a person holds back", None, paused)
    }

    fn manifests(&self, page: &mut Page<'_>) -> fmt::Result {
        let (at, named_to) = self.manifests.as_ref().map(|(at, named)| (*at, named)).unzip();
        let age = at.map(|at| (Labels::new(), self.seconds_since(Some(at))));
        let help = "How long ago somebody looked last for what manifests are to name";
        page.gauges("publisher_manifest_age", help, Some(Unit::Seconds), age)?;
        let unsent = named_to.map(|named| (Labels::new(), named.iter().map(|of| of.unsent).sum::<u64>() as f64));
        page.gauges("publisher_manifests_unsent", "Manifests that are fixed, and not made or not sent", None, unsent)?;
        let named = named_to.into_iter().flatten().take(TYPES_MAX);
        let named = named.map(|named| (label("type", &named.blob_type), named.up_to as f64));
        page.gauges("publisher_manifest_named_to", NAMED_HELP, None, named)
    }

    fn log(&self, page: &mut Page<'_>) -> fmt::Result {
        let log = || self.log.iter();
        let one = |value: f64| (Labels::new(), value);
        let mut types: Vec<_> = log().flat_map(|log| &log.types).collect();
        types.sort_by_key(|of| std::cmp::Reverse(of.waiting));
        let waiting = types.iter().take(TYPES_MAX).map(|of| (label("type", &of.blob_type), of.waiting as f64));
        let help = "Changes in no file yet, by type; no more than 100,000 are counted";
        page.gauges("publisher_changes_waiting", help, None, waiting)?;
        let help = "Since when the oldest change waits for its file, 0 when none does";
        let oldest = log().map(|log| one(self.seconds_since(log.waiting_since)));
        page.gauges("publisher_oldest_change", help, Some(Unit::Seconds), oldest)?;
        let open = log().map(|log| one(log.open_files.len() as f64));
        page.gauges("publisher_files_open", "Files that are planned and not uploaded, up to 100", None, open)?;
        let stuck = log().map(|log| one(log.open_files.iter().filter(|file| file.problem.is_some()).count() as f64));
        page.gauges("publisher_files_stuck", "Those of them that cannot be made by their own fault", None, stuck)?;
        let followed = log().map(|log| one(truth(log.followed)));
        page.gauges("publisher_log_followed", "1 while a publisher, any, follows the log", None, followed)?;
        // One whose begin our role may not know has been there for a second at least.
        let since = |holder: &Holder| holder.since.unwrap_or(self.now - Duration::from_secs(1));
        let horizon = log().map(|log| one(self.seconds_since(log.held_back_by.as_ref().map(since))));
        let help = "For how long the oldest open transaction has held changes back, 0 when none does";
        page.gauges("publisher_horizon_age", help, Some(Unit::Seconds), horizon)
    }

    fn seconds_since(&self, at: Option<OffsetDateTime>) -> f64 {
        at.map_or(0.0, |at| (self.now - at).as_seconds_f64().max(0.0))
    }
}
