//! `doctor`: everything that a run needs, tried in the order in which it is needed. Nothing of it stays: what is written into a
//! database is rolled back, and a file that is made in the container is deleted again. Sends nothing, makes no database.

use std::{path::Path, time::Duration};

use anyhow::{Context, anyhow, ensure};
use time::OffsetDateTime;
use tokio::time::timeout;
use waybill_azure::{
    Service,
    blob::{BlobHeaders, Container, ContainerOptions},
    bus::Bus,
    http::{HttpClient, HttpOptions},
};
use waybill_cli::{
    args::Common,
    checks::Checks,
    exit::Outcome,
    output::many,
    settings::publisher::{Reached, Settings},
};
use waybill_contracts::ExportId;
use waybill_publisher::{
    change_log::{ChangeLog, LogStatus},
    outbox::{AnyOutbox, Outbox},
};

use super::change_log::{held_back, unproven, waiting_in_words};

/// For one question to somebody else.
const PATIENCE: Duration = Duration::from_secs(20);
/// Storage and the bus take five minutes and more; an assertion to Entra ID lives ten.
const SKEW_MAX: time::Duration = time::Duration::minutes(2);
/// Where the file is that is made and deleted: no type has such a name.
const PROBE: &str = "waybill-doctor";

/// Of storage.
const NOT_MADE: &str = "it can be read, and no file can be made in it, or nobody answered; give the key or role the right to create and write";

struct Doctor {
    checks: Checks,
}

pub(crate) async fn doctor(common: &Common, settings: anyhow::Result<Settings>) -> anyhow::Result<Outcome> {
    let mut doctor = Doctor { checks: Checks::new(common) };
    let settings = doctor.configuration(settings)?;
    let settings = settings.as_ref();
    let log = match settings {
        Some(settings) if settings.has_change_log() => doctor.change_log(settings).await?,
        _ => None,
    };
    doctor.outbox(settings, log.as_ref()).await?;
    let reached = doctor.keys(settings, common.local.as_deref()).await?;
    let reached = reached.as_ref();
    doctor.storage(reached).await?;
    doctor.bus(reached).await?;
    doctor.clock(reached).await?;
    doctor.checks.end()
}

impl Doctor {
    fn configuration(&mut self, settings: anyhow::Result<Settings>) -> anyhow::Result<Option<Settings>> {
        const CHECK: &str = "configuration";
        let read = settings.and_then(|settings| {
            settings.compression()?;
            let types = settings.follow_options()?.types.len() as u64;
            Ok((settings, types))
        });
        self.told(CHECK, read, |(settings, types)| {
            let of_types = if *types == 0 { String::new() } else { format!("; {} of its own", many(*types, "type")) };
            format!("readable; publisher {}; data in {}{of_types}", settings.name(), settings.data().display())
        })
        .map(|read| read.map(|(settings, _)| settings))
    }

    async fn change_log(&mut self, settings: &Settings) -> anyhow::Result<Option<ChangeLog>> {
        const CHECK: &str = "change log";
        const HORIZON: &str = "horizon";
        let found = async {
            let log = settings.needed_change_log().await?;
            log.check().await?;
            log.try_writing().await.context(
                "it cannot be written as a publisher needs it; give its user all rights on the log's tables, or name the database that \
                 takes writes",
            )?;
            let status = log.status().await?;
            Ok::<_, anyhow::Error>((log, status))
        };
        let Some((log, status)) = self.told(CHECK, found.await, |(_, status)| well(status))? else {
            self.checks.not_tried(HORIZON)?;
            return Ok(None);
        };
        // What keeps changes from being published is a failure here, also where nobody did anything wrong.
        if let Some(problem) = stuck(&status).or_else(|| unproven(&status)) {
            self.checks.failed("its files", problem)?;
        }
        match held_back(&status) {
            Some(held) => self.checks.failed(HORIZON, held)?,
            None => self.checks.ok(HORIZON, "no open transaction holds changes back")?,
        }
        Ok(Some(log))
    }

    async fn outbox(&mut self, settings: Option<&Settings>, log: Option<&ChangeLog>) -> anyhow::Result<()> {
        const CHECK: &str = "outbox";
        let Some(settings) = settings else { return self.checks.not_tried(CHECK) };
        let found = async {
            let (outbox, place) = settings.outbox_if_there().await?;
            let Some(outbox) = outbox else {
                if let Some(log) = log {
                    log.check_no_outbox().await?;
                }
                return Ok(format!("not there yet; `run` makes it: {place}"));
            };
            outbox.try_writing().await.context(
                "it cannot be written; give its user all rights on the outbox's tables, or make room on its disk",
            )?;
            if let Some(log) = log {
                log.check_outbox(&outbox).await?;
            }
            in_words(&outbox).await
        };
        let found = found.await;
        self.told(CHECK, found, Clone::clone).map(drop)
    }

    async fn keys(&mut self, settings: Option<&Settings>, local: Option<&Path>) -> anyhow::Result<Option<Reached>> {
        const CHECK: &str = "keys";
        let Some(settings) = settings else { return self.checks.not_tried(CHECK).map(|()| None) };
        let reached = async {
            let reached = settings.reached(local).await?;
            // A key signs, an identity asks for a token.
            reached.tokens.grant(Service::Bus, None).await?;
            reached.tokens.grant(Service::Blob, None).await?;
            anyhow::Ok(reached)
        };
        let reached = timeout(PATIENCE, reached).await.unwrap_or_else(|_| Err(none()));
        self.told(CHECK, reached, |_| "there are tokens for the bus and for storage".to_owned())
    }

    async fn storage(&mut self, reached: Option<&Reached>) -> anyhow::Result<()> {
        const CHECK: &str = "storage";
        let Some(reached) = reached else { return self.checks.not_tried(CHECK) };
        let tried = probe(reached).await;
        self.told(CHECK, tried, Clone::clone).map(drop)
    }

    async fn bus(&mut self, reached: Option<&Reached>) -> anyhow::Result<()> {
        const CHECK: &str = "bus";
        let Some(reached) = reached else { return self.checks.not_tried(CHECK) };
        let bus = async {
            let bus = Bus::new(std::sync::Arc::clone(&reached.tokens), reached.bus_options.clone());
            let sender = bus.sender().await;
            bus.close().await;
            anyhow::Ok(sender.map(|_| "a link to the topic opens; nothing was sent".to_owned())?)
        };
        let tried = in_time(bus).await;
        self.told(CHECK, tried, Clone::clone).map(drop)
    }

    async fn clock(&mut self, reached: Option<&Reached>) -> anyhow::Result<()> {
        const CHECK: &str = "clock";
        let Some(reached) = reached else { return self.checks.not_tried(CHECK) };
        let there = async {
            let grant = reached.tokens.grant(Service::Blob, None).await?;
            let there = client(reached)?.clock_of(&grant.endpoint, PATIENCE).await?;
            let Some(there) = there else { return Ok("storage does not say what time it has".to_owned()) };
            let skew = OffsetDateTime::now_utc() - there;
            let seconds = skew.whole_seconds();
            ensure!(
                skew.abs() <= SKEW_MAX,
                "this machine's is {seconds} s from storage's; set it by NTP, tokens and terms depend on it"
            );
            anyhow::Ok(format!("{seconds} s from storage's"))
        };
        let tried = in_time(there).await;
        self.told(CHECK, tried, Clone::clone).map(drop)
    }

    /// Says what was found, and gives it back if it is well.
    fn told<T>(
        &mut self,
        check: &'static str,
        found: anyhow::Result<T>,
        detail: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<Option<T>> {
        match found {
            Ok(found) => self.checks.ok(check, detail(&found)).map(|()| Some(found)),
            Err(error) => self.checks.failed(check, format_args!("{error:#}")).map(|()| None),
        }
    }
}

fn none() -> anyhow::Error {
    anyhow!("no answer in {} s", PATIENCE.as_secs())
}

async fn in_time<T>(asked: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(none()))
}

fn well(status: &LogStatus) -> String {
    let LogStatus { log, followed, .. } = status;
    let by = if *followed { "a publisher follows it" } else { "nobody follows it; `waybill-publisher run` does" };
    format!("{log}: can be written; {} not planned yet; {by}", waiting_in_words(status))
}

/// A file that cannot be made, by its own fault.
fn stuck(status: &LogStatus) -> Option<String> {
    let stuck = status.open_files.iter().find_map(|file| Some((&file.blob_type, file.problem.as_deref()?)));
    stuck.map(|(blob_type, problem)| format!("a file of {blob_type} cannot be made: {problem}"))
}

async fn in_words(outbox: &AnyOutbox) -> anyhow::Result<String> {
    let counts = outbox.counts().await?;
    let to_send = many(counts.uploaded, "message");
    Ok(format!("{}: can be written; epoch {}, {to_send} to send", outbox.shown(), outbox.epoch()))
}

fn client(reached: &Reached) -> anyhow::Result<HttpClient> {
    Ok(HttpClient::new(&HttpOptions { ca_file: reached.ca_file.clone(), ..HttpOptions::default() })?)
}

/// Reads, makes and deletes in the container, as a run and `prune` do.
async fn probe(reached: &Reached) -> anyhow::Result<String> {
    let tokens = std::sync::Arc::clone(&reached.tokens);
    let container = Container::new(client(reached)?, tokens, ContainerOptions::default());
    in_time(async { Ok(container.check().await?) }).await?;
    let name = format!("{PROBE}/{}", ExportId::random().as_str());
    let upload = container.upload(&name);
    let staged = in_time(async { Ok(upload.stage("waybill-publisher doctor".into()).await?) }).await;
    staged.context(NOT_MADE)?;
    let headers = BlobHeaders { content_type: "text/plain".to_owned(), ..BlobHeaders::default() };
    let made = in_time(async { Ok(upload.commit(&headers).await?) }).await;
    // Whatever that met: the file may be there.
    let deleted = in_time(async { Ok(container.delete(&name).await?) }).await;
    made.with_context(|| format!("{NOT_MADE}, and delete {name} if it is left over"))?;
    deleted.with_context(|| {
        format!(
            "a file was made in it, and cannot be deleted, or nobody answered: `prune` needs that right, and that no policy or hold keeps \
             files; give it, and delete {name}, which is left over"
        )
    })?;
    Ok("the container answers: a file was made in it, and deleted again".to_owned())
}
