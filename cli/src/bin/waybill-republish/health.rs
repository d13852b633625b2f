//! What a republisher says of itself at `/health/live`, `/health/ready` and `/metrics`: what its two sides say, and what it
//! did with files and rows. What each means stands in `docs/republish.md`.

use std::fmt;

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder};
use serde_json::{Value, json};
use waybill_cli::{
    health::{self, Serving, Told, publisher, subscriber},
    metrics::{self, Page, label},
};
use waybill_republish::figures::Figures;

use crate::{PROGRAM, settings::Republishing};

#[derive(Clone)]
struct Asked {
    republisher: Republishing,
    from: subscriber::Asked,
    to: publisher::Asked,
}

/// Begins to answer at this address, if there is one.
pub(crate) async fn serve(address: Option<&str>, republisher: &Republishing) -> anyhow::Result<Option<Serving>> {
    let from = subscriber::Asked(republisher.subscriber().clone());
    let to = publisher::Asked { publisher: republisher.publisher().clone(), log: None };
    health::serve(PROGRAM, address, Asked { republisher: republisher.clone(), from, to }).await
}

impl Told for Asked {
    fn live(&self) -> (bool, Value) {
        let ((from, subscriber), (to, publisher)) = (self.from.live(), self.to.live());
        let live = from && to;
        (live, json!({ "live": live, "subscriber": subscriber, "publisher": publisher }))
    }

    fn ready(&self) -> (bool, Value) {
        let ((from, subscriber), (to, publisher)) = (self.from.ready(), self.to.ready());
        let problem = self.republisher.problem();
        let ready = from && to && problem.is_none();
        let problems: Vec<_> =
            problem.map(|problem| json!({ "part": "storage of the output", "problem": problem })).into_iter().collect();
        (ready, json!({ "ready": ready, "problems": problems, "subscriber": subscriber, "publisher": publisher }))
    }

    async fn page(&self) -> String {
        let (from, to) = tokio::join!(self.from.snapshot(), self.to.snapshot());
        let ours = Snapshot(self.republisher.figures());
        metrics::page_of(vec![Box::new(ours), Box::new(from), Box::new(to)])
    }
}

#[derive(Debug)]
struct Snapshot(Figures);

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, Figures { rows, .. }) = (Page::new(encoder), self.0);
        let outcomes = |all: &[(&str, u64)]| -> Vec<_> {
            all.iter().map(|(outcome, many)| (label("outcome", outcome), *many)).collect()
        };
        let files = outcomes(&[
            ("republished", self.0.files_republished),
            ("repeated", self.0.files_repeated),
            ("empty", self.0.files_empty),
            ("quarantined", self.0.files_quarantined),
            ("put-off", self.0.tries_put_off),
        ]);
        page.counters("republish_files", "Files taken, by what became of them", None, files)?;
        let rows = outcomes(&[
            ("passed", rows.rows_passed),
            ("deleted", rows.rows_deleted),
            ("unwanted", rows.rows_unwanted),
            ("left-out", rows.rows_left_out),
        ]);
        page.counters("republish_rows", "Rows of republished files, by what became of them", None, rows)
    }
}
