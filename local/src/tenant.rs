//! TenantService: gives a tenant that shows its bearer token, or an access token of one of its applications, the endpoints
//! and the tokens for them.
//!
//! A token's end is a whole second, because a SAS cannot say it finer. It is rounded up, so a token lives at least as long
//! as was configured, and less than a second longer; when tokens that end then were refused by a fault script, one more.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use serde_json::json;
use time::OffsetDateTime;
use waybill_contracts::{BlobEndpoint, BusEndpoint, TEMPORARY_ENDPOINTS_PATH, TemporaryEndpoints};

use crate::{
    broker::Now,
    fault::{Faults, Refusal},
    keys::{KeyError, Keys, Resource, StorageQuery},
    listen::{Body, Handler, Line, Upload, json},
    log::{Lines, printable, say},
    stats::Stats,
};

/// What was said of late about refusals.
static SAID: Lines = Lines::new();

/// A tenant as TenantService knows it.
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) bearer_token: String,
    /// `exports/subscriptions/acme`.
    pub(crate) entity: String,
    /// Letters of `sp` in its SAS for containers.
    pub(crate) permissions: String,
    /// What its grants name, when that is not its subscription and the container.
    pub(crate) offers: Mutex<Option<Vec<Offer>>>,
}

/// A namespace and a storage account, and who signs their tokens.
pub(crate) struct Site {
    pub(crate) keys: Arc<Keys>,
    /// `amqp://127.0.0.1:5672`.
    pub(crate) bus_endpoint: String,
    /// `http://127.0.0.1:10000/devstoreaccount1`.
    pub(crate) blob_endpoint: String,
}

/// One place of a grant, and how long the token for it lives. Made by [`Local::bus_offer`](crate::Local::bus_offer) and
/// [`Local::blob_offer`](crate::Local::blob_offer).
#[derive(Clone)]
pub struct Offer {
    pub(crate) site: Arc<Site>,
    pub(crate) at: Place,
    pub(crate) life: Option<Duration>,
}

/// What is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A path on the bus.
    Entity(String),
    /// A container.
    Container(String),
}

impl Offer {
    /// How long the token lives (default: as all tokens of grants); rounded up to whole seconds.
    #[must_use]
    pub fn life(mut self, life: Duration) -> Self {
        self.life = Some(life);
        self
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("at", &self.at).field("life", &self.life).finish_non_exhaustive()
    }
}

/// The service.
pub(crate) struct TenantService {
    pub(crate) tenants: Vec<Tenant>,
    pub(crate) site: Arc<Site>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) now: Now,
    pub(crate) container: String,
    pub(crate) token_life: Mutex<Duration>,
}

impl TenantService {
    fn tenant_of(&self, request: &Request<&mut Upload>) -> Result<&Tenant, String> {
        let header = request.headers().get(header::AUTHORIZATION).ok_or("the request has no Authorization header")?;
        let header = header.to_str().map_err(|_| "the Authorization header is not text")?;
        let (scheme, token) = header.split_once(' ').ok_or("the Authorization header is not 'Bearer TOKEN'")?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err("the Authorization header is not 'Bearer TOKEN'".to_owned());
        }
        let token = token.trim();
        if let Some(tenant) = self.tenants.iter().find(|tenant| tenant.bearer_token == token) {
            return Ok(tenant);
        }
        let unknown = "no tenant has this bearer token; the ready file names each tenant's";
        if !token.contains('.') || !self.site.keys.takes_access_tokens() {
            return Err(unknown.to_owned());
        }
        let access = self.site.keys.check_access(token, Resource::TenantService, (self.now)().unix_timestamp());
        let access = access.map_err(|refusal| refusal.to_string())?;
        let name = &access.application.tenant;
        self.tenants
            .iter()
            .find(|tenant| tenant.name == *name)
            .ok_or_else(|| format!("the application of this token is of the tenant {name:?}, which is not known"))
    }

    pub(crate) fn set_token_life(&self, life: Duration) {
        *self.token_life.lock().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// What a tenant's grants name from now on, in this order.
    pub(crate) fn set_offers(&self, tenant: &str, offers: Vec<Offer>) -> Result<(), KeyError> {
        let unknown = || KeyError::UnknownTenant { name: tenant.to_owned() };
        let tenant = self.tenants.iter().find(|known| known.name == tenant).ok_or_else(unknown)?;
        *tenant.offers.lock().unwrap_or_else(PoisonError::into_inner) = Some(offers);
        Ok(())
    }

    fn grant(&self, tenant: &Tenant) -> Result<TemporaryEndpoints, KeyError> {
        let usual = *self.token_life.lock().unwrap_or_else(PoisonError::into_inner);
        let offers = tenant.offers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let offers = offers.unwrap_or_else(|| {
            let offer = |at| Offer { site: Arc::clone(&self.site), at, life: None };
            vec![offer(Place::Entity(tenant.entity.clone())), offer(Place::Container(self.container.clone()))]
        });
        let mut answer = TemporaryEndpoints { service_bus: Vec::new(), blob_storage: Vec::new() };
        for Offer { site, at, life } in offers {
            let keys = &site.keys;
            let mut expires_at = end_of_life((self.now)(), life.unwrap_or(usual));
            let good = keys.first_good_end(&tenant.name, expires_at.unix_timestamp());
            expires_at += time::Duration::seconds(good - expires_at.unix_timestamp());
            match at {
                Place::Entity(entity_path) => answer.service_bus.push(BusEndpoint {
                    endpoint: site.bus_endpoint.clone(),
                    sas_token: keys.bus_token_for(
                        &tenant.name,
                        &entity_path,
                        "127.0.0.1",
                        expires_at.unix_timestamp(),
                    )?,
                    entity_path,
                    expires_at: Some(expires_at),
                }),
                Place::Container(container) => {
                    let stored = |at: OffsetDateTime| {
                        keys.container_token(&tenant.name, &container, &tenant.permissions, at.unix_timestamp())
                    };
                    let mut sas_token = stored(expires_at)?;
                    // Two tokens with one end are the same token: one that a fault script refused is not issued again.
                    while StorageQuery::parse(&sas_token).get("sig").is_some_and(|sig| keys.is_refused(sig)) {
                        expires_at += time::Duration::SECOND;
                        sas_token = stored(expires_at)?;
                    }
                    answer.blob_storage.push(BlobEndpoint {
                        endpoint: site.blob_endpoint.clone(),
                        container,
                        sas_token,
                        expires_at: Some(expires_at),
                    });
                }
            }
        }
        Ok(answer)
    }

    async fn answer(&self, request: &Request<&mut Upload>, line: &Line) -> Response<Body> {
        if request.uri().path() != TEMPORARY_ENDPOINTS_PATH {
            let message = format!("there is nothing here; grants are at {TEMPORARY_ENDPOINTS_PATH}");
            return refusal(StatusCode::NOT_FOUND, "NotFound", &message);
        }
        if *request.method() != Method::GET {
            let mut response =
                refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "grants are fetched with GET");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
            return response;
        }
        let tenant = self.tenant_of(request);
        let mut why = tenant.as_ref().err().cloned().unwrap_or_default();
        let name = tenant.as_ref().ok().map(|tenant| tenant.name.as_str());
        let to_do = self.faults.on_grant(name, line.id());
        self.faults.delay(&to_do).await;
        if let Some(fate) = to_do.fate {
            self.stats.grant(name, false);
            line.meet(fate).await;
        }
        let response = match (to_do.refuse, tenant) {
            (Some((with, retry_after)), _) => {
                "a fault script says so".clone_into(&mut why);
                let status = match with {
                    Refusal::Status(status) => {
                        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
                    }
                    _ => StatusCode::TOO_MANY_REQUESTS,
                };
                let code = status.canonical_reason().unwrap_or("Error").replace(' ', "");
                let mut response = refusal(status, &code, &why);
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
                }
                response
            }
            (None, Err(problem)) => {
                let mut response = refusal(StatusCode::UNAUTHORIZED, "Unauthorized", &problem);
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                response
            }
            (None, Ok(tenant)) => match self.grant(tenant) {
                Ok(grant) => json(StatusCode::OK, &grant),
                Err(error) => {
                    why = error.to_string();
                    refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &why)
                }
            },
        };
        self.stats.grant(name, response.status() == StatusCode::OK);
        if response.status() != StatusCode::OK {
            let status = response.status().as_u16();
            let (from, tenant, why) = (line.peer(), name.unwrap_or_default(), printable(&why));
            say!(SAID, warn, "tenant: grant refused", %from, tenant, status, %why);
        }
        if let Some(reset) = to_do.drop_answer {
            line.drop_answer(reset).await;
        }
        response
    }
}

impl Handler for TenantService {
    async fn handle(&self, request: Request<&mut Upload>, line: &Line) -> Response<Body> {
        self.answer(&request, line).await
    }
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    json(status, &json!({ "error": { "code": code, "message": message } }))
}

/// The first whole second that is not before `now + life`.
fn end_of_life(now: OffsetDateTime, life: Duration) -> OffsetDateTime {
    let end = now.saturating_add(time::Duration::try_from(life).unwrap_or(time::Duration::MAX));
    let whole = end.replace_nanosecond(0).unwrap_or(end);
    if whole == end { end } else { whole.saturating_add(time::Duration::SECOND) }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_token_ends_at_the_first_whole_second_after_its_life() {
        let now = datetime!(2027-01-15 08:00:00.000_000_001 UTC);
        assert_eq!(end_of_life(now, Duration::from_secs(2)), datetime!(2027-01-15 08:00:03 UTC));
        assert_eq!(end_of_life(now, Duration::from_nanos(999_999_999)), datetime!(2027-01-15 08:00:01 UTC));
        let now = datetime!(2027-01-15 08:00:00 UTC);
        assert_eq!(end_of_life(now, Duration::from_secs(2)), datetime!(2027-01-15 08:00:02 UTC));
        assert_eq!(end_of_life(now, Duration::from_millis(1)), datetime!(2027-01-15 08:00:01 UTC));
    }
}
