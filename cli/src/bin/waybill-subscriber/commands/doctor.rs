//! `doctor`: everything that a run needs, tried in the order in which it is needed. Changes nothing: no message is taken, no
//! database made, and what a run does to the sink's tables is taken back.

use std::{collections::BTreeSet, fmt::Display, path::Path, sync::Arc, time::Duration};

use time::OffsetDateTime;
use waybill_azure::{
    Grant, OnePlace, Service, TokenSource,
    blob::{Container, ContainerOptions},
    bus::{Bus, ReceiverOptions, Transport},
    http::{HttpClient, HttpOptions, try_proxy},
};
use waybill_cli::{
    args::Common,
    checks::Checks,
    exit::Outcome,
    output::{instant, many},
    settings::subscriber::Settings,
    settings::tenant::Reached,
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    grants::{Credential, Grants},
    inbox::Inbox as _,
    sink,
};

use super::types::{say_unseen, unseen};

/// For one question to somebody else.
const PATIENCE: Duration = Duration::from_secs(20);
/// Entra ID and storage take five minutes and more; an assertion of ours lives ten.
const SKEW_MAX: time::Duration = time::Duration::minutes(2);

struct Doctor {
    checks: Checks,
}

pub(crate) async fn doctor(common: &Common, settings: anyhow::Result<Settings>) -> anyhow::Result<Outcome> {
    let mut doctor = Doctor { checks: Checks::new(common) };
    let local = common.local.as_deref();
    let config = doctor.config(settings)?;
    let settings = config.as_ref().map(|(settings, _)| settings);
    let reached = doctor.access_token(settings, local).await?;
    doctor.clock(reached.as_ref()).await?;
    let grants = doctor.tenant_service(settings, reached.as_ref()).await?;
    doctor.proxy(reached.as_ref(), grants.as_ref()).await?;
    doctor.bus(settings, reached.as_ref(), grants.as_ref()).await?;
    doctor.storage(reached.as_ref(), grants.as_ref()).await?;
    doctor.inbox(config.as_ref()).await?;
    doctor.sink(config.as_ref()).await?;
    doctor.checks.end()
}

/// TenantService's answer.
struct Granted {
    tokens: Arc<dyn TokenSource>,
    /// Each with one place or more.
    bus: Vec<Grant>,
    storage: Vec<Grant>,
}

impl Granted {
    /// The tokens of one place.
    fn only(&self, grant: &Grant) -> Arc<dyn TokenSource> {
        Arc::new(OnePlace::of(Arc::clone(&self.tokens), grant))
    }
}

impl Doctor {
    fn config(&mut self, settings: anyhow::Result<Settings>) -> anyhow::Result<Option<(Settings, Entities)>> {
        const CHECK: &str = "configuration";
        let read = settings.and_then(|settings| {
            let entities = settings.checked_entities()?;
            Ok((settings, entities))
        });
        match read {
            Ok((settings, entities)) => {
                let known = match entities.0.len() {
                    1 => "1 entity".to_owned(),
                    many => format!("{many} entities"),
                };
                self.checks.ok(CHECK, format_args!("readable; {known}; data in {}", settings.data.display()))?;
                Ok(Some((settings, entities)))
            }
            Err(error) => self.checks.failed(CHECK, format_args!("{error:#}")).map(|()| None),
        }
    }

    async fn access_token(
        &mut self,
        settings: Option<&Settings>,
        local: Option<&Path>,
    ) -> anyhow::Result<Option<Reached>> {
        const CHECK: &str = "access token";
        let Some(settings) = settings else { return self.checks.not_tried(CHECK).map(|()| None) };
        let reached = match settings.tenant(local).await {
            Ok(reached) => reached,
            Err(error) => return self.checks.failed(CHECK, format_args!("{error:#}")).map(|()| None),
        };
        let Credential::Entra(tokens) = &reached.credential else {
            self.checks.ok(CHECK, format_args!("a fixed bearer token, for development"))?;
            return Ok(Some(reached));
        };
        let until = match tokens.certificate_until().await {
            Ok(Some(until)) => format!("; the certificate is valid until {}", instant(until)),
            Ok(None) => String::new(),
            // The clock, which is looked at next, may be why.
            Err(error) => {
                self.checks.failed(CHECK, error)?;
                return Ok(Some(reached));
            }
        };
        match tokens.token().await {
            Ok(_) => self.checks.ok(CHECK, format_args!("issued by Entra ID{until}"))?,
            Err(error) => self.failed_there(CHECK, format_args!("{error}{until}"))?,
        }
        Ok(Some(reached))
    }

    async fn clock(&mut self, reached: Option<&Reached>) -> anyhow::Result<()> {
        const CHECK: &str = "clock";
        let Some(reached) = reached else { return self.checks.not_tried(CHECK) };
        let there = match asked(reached) {
            Ok(http) => http.clock_of(&reached.url, PATIENCE).await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match there {
            Ok(None) => self.checks.ok(CHECK, format_args!("TenantService does not say what time it has")),
            Ok(Some(there)) => {
                let skew = OffsetDateTime::now_utc() - there;
                let seconds = skew.whole_seconds();
                if skew.abs() <= SKEW_MAX {
                    self.checks.ok(CHECK, format_args!("{seconds} s from TenantService's"))
                } else {
                    let text = format_args!(
                        "this machine's is {seconds} s from TenantService's; set it by NTP, tokens depend on it"
                    );
                    self.checks.failed(CHECK, text)
                }
            }
            Err(error) => self.failed_there(CHECK, format_args!("{error:#}")),
        }
    }

    async fn tenant_service(
        &mut self,
        settings: Option<&Settings>,
        reached: Option<&Reached>,
    ) -> anyhow::Result<Option<Granted>> {
        const CHECK: &str = "TenantService";
        let (Some(settings), Some(reached)) = (settings, reached) else {
            return self.checks.not_tried(CHECK).map(|()| None);
        };
        let grants = asked(reached).and_then(|http| {
            let credential = reached.credential.clone();
            Ok(Grants::new(http, &reached.url, credential, settings.grant_layout(), OffsetDateTime::now_utc)?)
        });
        let tokens: Arc<dyn TokenSource> = match grants {
            Ok(grants) => grants,
            Err(error) => return self.checks.failed(CHECK, format_args!("{error:#}")).map(|()| None),
        };
        let granted = async {
            let bus = tokens.grants(Service::Bus, None).await?;
            let storage = tokens.grants(Service::Blob, None).await?;
            Ok::<_, waybill_azure::GrantError>((bus, storage))
        };
        match granted.await {
            Ok((bus, storage)) => {
                let ends = bus.iter().chain(&storage).map(|grant| grant.expires_at).min();
                let ends = ends.map(instant).unwrap_or_default();
                let places = match (bus.len(), storage.len()) {
                    (1, 1) => String::new(),
                    (bus, storage) => {
                        format!("; {} on the bus, {}", many(bus as u64, "place"), many(storage as u64, "container"))
                    }
                };
                self.checks.ok(CHECK, format_args!("tokens until {ends}{places}"))?;
                Ok(Some(Granted { tokens, bus, storage }))
            }
            Err(error) => self.failed_there(CHECK, format_args!("{error}")).map(|()| None),
        }
    }

    async fn proxy(&mut self, reached: Option<&Reached>, granted: Option<&Granted>) -> anyhow::Result<()> {
        const CHECK: &str = "proxy";
        let Some(reached) = reached else { return self.checks.not_tried(CHECK) };
        let mut places = vec![("TenantService", &reached.url)];
        if let Some(Granted { bus, storage, .. }) = granted {
            places.extend(bus.iter().map(|grant| ("bus", &grant.endpoint)));
            places.extend(storage.iter().map(|grant| ("storage", &grant.endpoint)));
        }
        // Entities and containers of one host are one.
        let mut hosts = BTreeSet::new();
        places.retain(|(what, url)| hosts.insert((*what, url.host_str(), url.port())));
        let mut behind = Vec::new();
        for (what, url) in places {
            match try_proxy(url, reached.ca_file.as_deref(), PATIENCE).await {
                Ok(Some(proxy)) => behind.push(format!("{what} by {proxy}")),
                Ok(None) => {}
                Err(error) => return self.checks.failed(CHECK, format_args!("{what}: {error}")),
            }
        }
        if behind.is_empty() {
            self.checks.ok(CHECK, format_args!("none"))
        } else {
            self.checks.ok(CHECK, format_args!("{}", behind.join(", ")))
        }
    }

    async fn bus(
        &mut self,
        settings: Option<&Settings>,
        reached: Option<&Reached>,
        granted: Option<&Granted>,
    ) -> anyhow::Result<()> {
        const CHECK: &str = "Service Bus";
        let (Some(settings), Some(reached), Some(granted)) = (settings, reached, granted) else {
            return self.checks.not_tried(CHECK);
        };
        for grant in &granted.bus {
            let bus = Bus::new(granted.only(grant), settings.bus_options(reached.ca_file.clone()));
            // Without credit no message comes.
            let attached = bus.receiver(ReceiverOptions::default()).await;
            let way = match bus.transport().await {
                Some(Transport::WebSocket) => "over WebSocket",
                _ => "over AMQP",
            };
            let at = named(grant, &granted.bus);
            match attached {
                Ok(receiver) => {
                    self.checks.ok(CHECK, format_args!("{at}attached to {} {way}", receiver.entity()))?;
                    receiver.close().await;
                }
                Err(error) => self.failed_there(CHECK, format_args!("{at}{error}"))?,
            }
            bus.close().await;
        }
        Ok(())
    }

    async fn storage(&mut self, reached: Option<&Reached>, granted: Option<&Granted>) -> anyhow::Result<()> {
        const CHECK: &str = "storage";
        let (Some(reached), Some(granted)) = (reached, granted) else {
            return self.checks.not_tried(CHECK);
        };
        let http = match asked(reached) {
            Ok(http) => http,
            Err(error) => return self.checks.failed(CHECK, format_args!("{error:#}")),
        };
        for grant in &granted.storage {
            let container = Container::new(http.clone(), granted.only(grant), ContainerOptions::default());
            let at = named(grant, &granted.storage);
            match container.check().await {
                Ok(()) => self.checks.ok(CHECK, format_args!("{at}the container {} can be read", grant.entity))?,
                Err(error) => self.failed_there(CHECK, format_args!("{at}{error}"))?,
            }
        }
        Ok(())
    }

    async fn inbox(&mut self, config: Option<&(Settings, Entities)>) -> anyhow::Result<()> {
        const CHECK: &str = "inbox";
        let Some((settings, entities)) = config else { return self.checks.not_tried(CHECK) };
        let found = async {
            let announced = match settings.inbox_if_there().await? {
                Some(inbox) => Some(inbox.types().await?),
                None => None,
            };
            Ok::<_, anyhow::Error>((announced, settings.inbox_place()?))
        };
        match found.await {
            Ok((Some(announced), place)) => {
                let unseen = say_unseen(&unseen(settings, entities, &announced), &announced);
                let unseen = unseen.map(|text| format!("; {text}")).unwrap_or_default();
                self.checks.ok(CHECK, format_args!("{place}{unseen}"))
            }
            Ok((None, place)) => self.checks.ok(CHECK, format_args!("not there yet; `run` makes it: {place}")),
            Err(error) => self.checks.failed(CHECK, format_args!("{error:#}")),
        }
    }

    async fn sink(&mut self, config: Option<&(Settings, Entities)>) -> anyhow::Result<()> {
        const CHECK: &str = "sink";
        let Some((settings, entities)) = config else { return self.checks.not_tried(CHECK) };
        let found = async { Ok::<_, anyhow::Error>(sink::check(settings.sink()?, entities).await?) };
        match found.await {
            Ok(true) => self.checks.ok(CHECK, format_args!("opens")),
            Ok(false) => self.checks.ok(CHECK, format_args!("not there yet; `run` makes it")),
            Err(error) => self.checks.failed(CHECK, format_args!("{error:#}")),
        }
    }

    /// Whoever was asked may not have been reached at all.
    fn failed_there(&mut self, check: &'static str, detail: impl Display) -> anyhow::Result<()> {
        let detail = detail.to_string();
        let unreached = ["cannot connect", "no answer within", "took longer than"].iter().any(|of| detail.contains(of));
        // A proxy's errors say themselves what helps.
        let advice = match check {
            _ if !unreached || detail.contains("the proxy ") => "",
            "access token" => {
                "; check `authority`, and that a firewall or proxy lets this machine out (docs/networks.md)"
            }
            "Service Bus" | "storage" => "; check that a firewall or proxy lets this machine out (docs/networks.md)",
            _ => {
                "; check `url` under [subscriber.tenant], and that a firewall or proxy lets this machine out (docs/networks.md)"
            }
        };
        self.checks.failed(check, format_args!("{detail}{advice}"))
    }
}

/// Which of several places is meant.
fn named(grant: &Grant, all: &[Grant]) -> String {
    if all.len() > 1 { format!("{}: ", grant.place()) } else { String::new() }
}

/// The client as a run has it.
fn asked(reached: &Reached) -> anyhow::Result<HttpClient> {
    Ok(HttpClient::new(&HttpOptions { ca_file: reached.ca_file.clone(), ..HttpOptions::default() })?)
}
