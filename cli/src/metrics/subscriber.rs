//! A subscriber's figures as a page for Prometheus. What each means stands in `docs/operations.md`.

use std::{collections::BTreeMap, fmt};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, registry::Unit};
use time::OffsetDateTime;
use waybill_subscriber::{
    figures::{Distribution, Figures, QueueFigures},
    health::Health,
    inbox::{Backlog, State, TypeBacklog},
};

use crate::{
    metrics::{Labels, Page, label, labels, truth, with_zeros},
    work::Local,
};

/// Series of the backlog: publishers choose the names of types, so there is an end to what they cost.
const TYPES_MAX: usize = 100;
/// What is summed up of the others; no blobType is empty.
const OTHERS: &str = "(others)";

/// Its figures now.
#[derive(Debug)]
pub struct Snapshot {
    figures: Figures,
    health: Health,
    backlog: Option<Backlog>,
    now: OffsetDateTime,
}

/// Of a subscriber that is not there yet, all that is known.
#[derive(Debug)]
pub struct NotBegun;

impl Collector for NotBegun {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        process(&mut Page::new(encoder), false)
    }
}

/// One of its figures.
type OfQueue = fn(&QueueFigures) -> u64;

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page::new(encoder);
        process(&mut page, self.health.is_ready())?;
        if let Some(backlog) = &self.backlog {
            waiting(backlog, &mut page)?;
        }
        self.bus(&mut page)?;
        self.tokens_and_storage(&mut page)?;
        self.files_and_rows(&mut page)?;
        self.dependencies(&mut page)
    }
}

impl Snapshot {
    /// Without a backlog, where the inbox did not say it.
    #[must_use]
    pub fn of(subscriber: &Local, backlog: Option<Backlog>) -> Self {
        let (figures, health) = (subscriber.figures(), subscriber.health());
        Self { figures, health, backlog, now: OffsetDateTime::now_utc() }
    }

    fn bus(&self, page: &mut Page<'_>) -> fmt::Result {
        let Figures { messages, dead_letters, .. } = &self.figures;
        let queues = [("messages", messages), ("dead-letters", dead_letters)];
        let each = |of: OfQueue| queues.map(|(name, queue)| (label("queue", name), of(queue)));
        let kinds = |name: &'static str, kinds: &[(&str, OfQueue)]| -> Vec<(Labels, u64)> {
            let of = |(kind, of): &(&str, OfQueue)| {
                queues.map(|(queue, figures)| (labels("queue", queue, name, kind), of(figures)))
            };
            kinds.iter().flat_map(of).collect()
        };
        page.counters(
            "messages_received",
            "Messages that the bus delivered, redeliveries among them",
            None,
            each(|queue| queue.received),
        )?;
        let admitted = kinds(
            "as",
            &[
                ("file", |queue| queue.saved),
                ("duplicate", |queue| queue.duplicates),
                ("redelivery", |queue| queue.redelivered),
                ("quarantined", |queue| queue.quarantined),
            ],
        );
        page.counters("messages_saved", "Messages that are in the inbox, by what they were there", None, admitted)?;
        let settled = kinds(
            "how",
            &[
                ("completed", |queue| queue.completed),
                ("released", |queue| queue.released),
                ("dead-lettered", |queue| queue.dead_lettered),
            ],
        );
        page.counters("messages_settled", "Messages that went back to the bus, by how", None, settled)?;
        page.counters(
            "dead_letters_left",
            "Dead letters that cannot be decoded and stay in their queue, each once per link",
            None,
            [(Labels::new(), dead_letters.left_in_place)],
        )?;
        let attached = queues.map(|(name, queue)| (label("queue", name), truth(queue.attached)));
        page.gauges("link_attached", "1 while a link to the bus is attached", None, attached)?;
        page.counters("links_opened", "Links to the bus that were attached", None, each(|queue| queue.links))?;
        let lost = queues.iter().flat_map(|(name, queue)| {
            queue.lost.iter().map(|(reason, lost)| (labels("queue", name, "reason", reason), *lost))
        });
        page.counters(
            "reconnects",
            "Links that were lost or could not be attached, by why; each is tried again",
            None,
            lost,
        )?;
        let contact = self.figures.last_contact.map(|ago| (Labels::new(), seconds_of(self.now - ago)));
        page.gauges("bus_last_contact_timestamp", "When anything was heard of the bus", Some(Unit::Seconds), contact)?;
        histogram(
            page,
            "enqueued_to_received",
            "From the bus's time of a new file's message to ours",
            &messages.enqueued_to_received,
        )
    }

    fn tokens_and_storage(&self, page: &mut Page<'_>) -> fmt::Result {
        if let Some(tokens) = &self.figures.tokens {
            let remaining = [("bus", tokens.bus_remaining), ("storage", tokens.blob_remaining)];
            let remaining = remaining.into_iter().filter_map(|(service, remaining)| {
                remaining.map(|remaining| (label("service", service), remaining.as_secs_f64()))
            });
            page.gauges("token_remaining", "How long the token lives on", Some(Unit::Seconds), remaining)?;
            let renewals = tokens.renewals.iter().map(|(reason, many)| (label("reason", reason.as_str()), *many));
            page.counters("token_renewals", "Renewals of the tokens, by why", None, renewals)?;
            let requests = with_zeros(&["granted", "refused", "unavailable"], &tokens.requests, "result");
            page.counters("tenant_requests", "Requests to TenantService, by what came of them", None, requests)?;
        }
        let storage = &self.figures.storage;
        let requests = [("ok", storage.requests.saturating_sub(storage.failed)), ("failed", storage.failed)];
        page.counters(
            "storage_requests",
            "Requests to storage, each try by itself",
            None,
            requests.map(|(result, many)| (label("result", result), many)),
        )?;
        page.counters(
            "storage_received",
            "What came from storage",
            Some(Unit::Bytes),
            [(Labels::new(), storage.received_bytes)],
        )?;
        let cache = self.figures.cache.unwrap_or_default();
        page.counters(
            "cache_files",
            "Files that were read from the cache, or downloaded because it did not have them",
            None,
            [("hit", cache.hits), ("miss", cache.misses)].map(|(result, files)| (label("result", result), files)),
        )?;
        page.counters(
            "cache_failures",
            "Copies in the cache that were not right, and those that could not be written or read",
            None,
            [("damaged", cache.damaged), ("unwritable", cache.failed)]
                .map(|(what, copies)| (label("what", what), copies)),
        )?;
        page.gauge("cache", "What the copies in the cache take", Some(Unit::Bytes), cache.bytes as f64)
    }

    fn files_and_rows(&self, page: &mut Page<'_>) -> fmt::Result {
        let Figures { files, rows, .. } = &self.figures;
        let one = |many| [(Labels::new(), many)];
        page.counters("files_done", "Files worked to their end", None, one(files.done))?;
        let sorting = "Large files that are read and sorted now, before any of their rows takes effect";
        page.gauge("files_sorting", sorting, None, files.sorting as f64)?;
        page.counters("files_sorted", "Large files that were sorted by their keys", None, one(files.sorted))?;
        let begun_again = "Sorted files that began again, because their rows come in another order now";
        page.counters("files_begun_again", begun_again, None, one(files.begun_again))?;
        page.counters(
            "files_retried",
            "Tries that ended early and are repeated, by whose fault it is",
            None,
            with_zeros(&["storage", "sink", "inbox", "file"], &files.put_off, "because"),
        )?;
        let quarantined = files.quarantined.iter().map(|(reason, many)| (label("reason", reason.as_str()), *many));
        page.counters("files_quarantined", "Files put aside for a person, by why", None, quarantined)?;
        page.counters("files_expired", "Files that are gone and past their time", None, one(files.expired))?;
        histogram(
            page,
            "received_to_done",
            "From a file's message being saved to its last row",
            &files.received_to_done,
        )?;
        let became = [
            ("inserted", rows.inserted),
            ("updated", rows.updated),
            ("deleted", rows.deleted),
            ("ignored", rows.ignored),
            ("superseded", rows.superseded),
            ("filtered", rows.filtered),
            ("parked", rows.parked),
            ("bad", rows.bad),
            ("left-out", rows.left_out),
        ];
        let became = became.map(|(outcome, many)| (label("outcome", outcome), many));
        page.counters("rows", "Rows of files, by what became of them", None, became)?;
        page.counters("rows_released", "Parked rows that took effect after all", None, one(rows.released))?;
        page.counters(
            "rows_rescued",
            "Rows in effect with a value that did not fit its column",
            None,
            one(rows.rescued),
        )
    }

    fn dependencies(&self, page: &mut Page<'_>) -> fmt::Result {
        let figures = &self.figures;
        let circuits = || figures.circuits.iter().map(|circuit| (label("dependency", circuit.dependency), circuit));
        let open = circuits().map(|(labels, circuit)| (labels, truth(circuit.open)));
        page.gauges("circuit_open", "1 while the last thing known of a dependency is a failure", None, open)?;
        let opened = circuits().map(|(labels, circuit)| (labels, circuit.opened));
        page.counters("circuit_opened", "Pauses because a dependency failed", None, opened)?;
        histogram(page, "commit_duration", "Commits of the sink that took effect", &figures.commits)?;
        let failed = [("inbox", figures.inbox_calls_failed), ("sink", figures.sink_calls_failed)];
        page.counters(
            "database_calls_failed",
            "Calls that a database did not answer, or could not do",
            None,
            failed.map(|(database, many)| (label("database", database), many)),
        )
    }
}

fn process(page: &mut Page<'_>, is_ready: bool) -> fmt::Result {
    let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
    page.gauges("build_info", "Always 1", None, [(version, 1.0)])?;
    page.gauge("ready", "1 while /health/ready answers 200", None, truth(is_ready))
}

fn waiting(backlog: &Backlog, page: &mut Page<'_>) -> fmt::Result {
    let mut most: Vec<&TypeBacklog> = backlog.by_type.iter().collect();
    most.sort_by_key(|of| std::cmp::Reverse(of.messages));
    let named = most.len().min(TYPES_MAX);
    let mut others = BTreeMap::<State, u64>::new();
    for of in most.split_off(named) {
        *others.entry(of.state).or_default() += of.messages;
    }
    let of = |blob_type: &str, state: State, messages: u64| {
        (labels("type", blob_type, "state", state.as_str()), messages as f64)
    };
    let series = most.into_iter().map(|series| of(&series.blob_type, series.state, series.messages));
    let others = others.into_iter().map(|(state, messages)| of(OTHERS, state, messages));
    page.gauges("backlog_messages", "Messages that are not done, by type and state", None, series.chain(others))?;
    let oldest = backlog.oldest_waiting.unwrap_or_default().as_secs_f64();
    page.gauge("oldest_waiting", "Since when the oldest message waits, 0 when none does", Some(Unit::Seconds), oldest)?;
    page.gauge(
        "files_at_risk",
        "Files not done whose blobs may be deleted within a day",
        None,
        backlog.at_risk as f64,
    )?;
    let missing = "Files that no message announced, though later ones of their publishers' sequences came";
    page.gauge("files_missing", missing, None, backlog.missing as f64)
}

/// In seconds.
fn histogram(page: &mut Page<'_>, name: &str, help: &str, of: &Distribution) -> fmt::Result {
    page.histogram(name, help, of.sum, of.count, &of.buckets)
}

fn seconds_of(at: OffsetDateTime) -> f64 {
    at.unix_timestamp_nanos() as f64 / 1e9
}
