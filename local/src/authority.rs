//! The token authority: stands in the place of `https://login.microsoftonline.com`, and gives access tokens to registered
//! applications that prove themselves with a certificate or a secret.
//!
//! | request | answer |
//! |---|---|
//! | `POST /{directory}/oauth2/v2.0/token` | an access token |
//! | `GET /{directory}/v2.0/.well-known/openid-configuration` | where everything is |
//! | `GET /{directory}/discovery/v2.0/keys` | the key that tokens are checked with |
//! | `GET /common/discovery/instance` | that this authority is one |
//!
//! # Sources
//! "OAuth 2.0 client credentials flow on the Microsoft identity platform"; what `azure-identity` (Python and JavaScript)
//! was seen to ask.

mod assertion;
pub(crate) mod client;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value as Json, json};
use uuid::Uuid;

pub use self::client::ClientError;
use self::{
    assertion::{Check, Used},
    refusal::Refusal,
};
use crate::{
    broker::Now,
    fault::Faults,
    keys::{AccessError, AccessTokens, Application, Keys, Resource, StorageQuery},
    listen::{Body, Handler, Line, Upload, is_loopback_host, json},
    log::{Lines, printable, say},
};

/// What was said of late about refusals.
static SAID: Lines = Lines::new();

/// Longest request for a token.
const BODY_MAX: usize = 64 * 1024;

/// The authority.
pub(crate) struct Authority {
    pub(crate) tokens: Arc<AccessTokens>,
    keys: Arc<Keys>,
    faults: Arc<Faults>,
    /// `https://localhost:8443`.
    url: String,
    used: Used,
    /// Whether an assertion may be used only once.
    assertions_once: bool,
    now: Now,
}

impl Authority {
    /// An authority whose tokens `keys` takes from now on.
    pub(crate) fn new(
        tokens: Arc<AccessTokens>,
        keys: Arc<Keys>,
        faults: Arc<Faults>,
        url: String,
        assertions_once: bool,
        now: Now,
    ) -> Self {
        keys.take_access_tokens(Arc::clone(&tokens));
        Self { tokens, keys, faults, url, used: Used::default(), assertions_once, now }
    }

    async fn answer(&self, request: Request<&mut Upload>, line: &Line) -> Result<Json, Refusal> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().trim_matches('/').to_owned();
        let (directory, rest) = path.split_once('/').unwrap_or((&path, ""));
        match (&parts.method, rest) {
            (&Method::GET, "discovery/instance") if directory == "common" => Ok(self.instance()),
            (&Method::GET, "v2.0/.well-known/openid-configuration" | ".well-known/openid-configuration") => {
                self.check_directory(directory).map(|()| self.configuration())
            }
            (&Method::GET, "discovery/v2.0/keys" | "discovery/keys") => {
                self.check_directory(directory)?;
                self.tokens.key_set().map_err(|error| not_issued(&error))
            }
            (&Method::POST, "oauth2/v2.0/token") => {
                self.check_directory(directory)?;
                let body = Limited::new(body, BODY_MAX).collect().await.map_err(|error| {
                    Refusal::request(90_023, format!("The request could not be read: {error}; it may have 64 KiB."))
                })?;
                self.answer_token(&String::from_utf8_lossy(&body.to_bytes()), line).await
            }
            (_, "oauth2/v2.0/token") => {
                let text = format!("The endpoint only accepts POST requests. Received a {} request.", parts.method);
                Err(Refusal::request(900_561, text))
            }
            _ => {
                let text = "There is nothing here. There are /{directory}/oauth2/v2.0/token, \
                            /{directory}/v2.0/.well-known/openid-configuration and /{directory}/discovery/v2.0/keys.";
                Err(Refusal::new(StatusCode::NOT_FOUND, "invalid_request", 900_144, text))
            }
        }
    }

    /// Answers a request for a token as fault scripts want it.
    async fn answer_token(&self, form: &str, line: &Line) -> Result<Json, Refusal> {
        let form = StorageQuery::parse(&form.replace('+', "%20"));
        let to_do = self.faults.on_token(form.get("client_id").unwrap_or_default(), line.id());
        self.faults.delay(&to_do).await;
        if let Some(fate) = to_do.fate {
            line.meet(fate).await;
        }
        if let Some((refusal, retry_after)) = to_do.refuse {
            return Err(Refusal::scripted(refusal, retry_after));
        }
        let answer = self.token(&form);
        if let Some(reset) = to_do.drop_answer {
            line.drop_answer(reset).await;
        }
        answer
    }

    fn check_directory(&self, directory: &str) -> Result<(), Refusal> {
        if directory.eq_ignore_ascii_case(&self.tokens.directory) {
            return Ok(());
        }
        let text = format!(
            "Tenant '{directory}' not found. Check to make sure you have the correct tenant ID; here it is '{}'.",
            self.tokens.directory
        );
        Err(Refusal::request(90_002, text))
    }

    /// Issues a token for the form of a request.
    fn token(&self, form: &StorageQuery) -> Result<Json, Refusal> {
        let needed =
            |name: &str| form.get(name).filter(|value| !value.is_empty()).ok_or_else(|| Refusal::missing(name));
        let grant = needed("grant_type")?;
        if grant != "client_credentials" {
            let text = format!("The app requested an unsupported grant type '{grant}'.");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "unsupported_grant_type", 70_003, text));
        }
        let id = needed("client_id")?;
        let scope = needed("scope")?;
        let application = self.tokens.application(id).ok_or_else(|| {
            let text = format!(
                "Application with identifier '{id}' was not found in the directory '{}'. This can happen if the \
                 application has not been installed by the administrator of the tenant.",
                self.tokens.directory
            );
            Refusal::new(StatusCode::BAD_REQUEST, "unauthorized_client", 700_016, text)
        })?;
        let by_certificate = self.authenticate(application, form)?;
        let audience = audience(scope, &self.tokens.directory)?;
        let (token, life) = self
            .keys
            .issue_access(application, audience, by_certificate, (self.now)())
            .map_err(|error| not_issued(&error))?;
        tracing::info!(client = application.id, scope, "access token issued");
        Ok(json!({ "token_type": "Bearer", "expires_in": life, "ext_expires_in": life, "access_token": token }))
    }

    /// Whether it proved itself with a certificate; else it did with a secret.
    fn authenticate(&self, application: &Application, form: &StorageQuery) -> Result<bool, Refusal> {
        if let Some(assertion) = form.get("client_assertion") {
            let kind = form.get("client_assertion_type").ok_or_else(|| Refusal::missing("client_assertion_type"))?;
            if kind != assertion::TYPE {
                let text =
                    format!("The client_assertion_type '{kind}' is not supported; it must be '{}'.", assertion::TYPE);
                return Err(Refusal::request(70_002, text));
            }
            let check = Check {
                application,
                is_audience: &|audience| self.is_audience(audience),
                used: &self.used,
                once: self.assertions_once,
                now: (self.now)(),
            };
            return check.assertion(assertion).map(|()| true);
        }
        match (form.get("client_secret"), &application.secret) {
            (Some(shown), Some(secret)) if shown == secret => Ok(false),
            (Some(_), _) => {
                let text = format!(
                    "Invalid client secret provided. Ensure the secret being sent in the request is the client secret \
                     value, not the client secret ID, for a secret added to app '{}'.",
                    application.id
                );
                Err(Refusal::client(7_000_215, text))
            }
            (None, _) => {
                let text = "'client_assertion', 'client_secret' or 'request' is required for the 'client_credentials' \
                            grant type.";
                Err(Refusal::client(7_000_216, text))
            }
        }
    }

    /// The token endpoint, or the issuer, spelt with any name of this machine or with the one that it gives out.
    fn is_audience(&self, audience: &str) -> bool {
        let split = |url: &str| {
            let (host, path) = url.strip_prefix("https://")?.split_once('/')?;
            let port = host.rsplit_once(':').map_or("443", |(_, port)| port).to_owned();
            Some((host.to_lowercase(), port, path.trim_end_matches('/').to_lowercase()))
        };
        let directory = self.tokens.directory.to_lowercase();
        let ours = [format!("{directory}/oauth2/v2.0/token"), format!("{directory}/v2.0")];
        let Some((our_host, our_port, _)) = split(&format!("{}/", self.url)) else { return false };
        split(audience).is_some_and(|(host, port, path)| {
            (is_loopback_host(&host) && port == our_port || host == our_host) && ours.contains(&path)
        })
    }

    /// OpenID Connect Discovery 1.0, section 3.
    fn configuration(&self) -> Json {
        let base = format!("{}/{}", self.url, self.tokens.directory);
        json!({
            "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "jwks_uri": format!("{base}/discovery/v2.0/keys"),
            "response_modes_supported": ["query"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "grant_types_supported": ["client_credentials"],
            "scopes_supported": ["openid"],
            "issuer": self.tokens.issuer,
            // Clients insist that it is named; nothing is there, because nobody signs in.
            "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
            "tenant_region_scope": null,
            "cloud_instance_name": self.host(),
        })
    }

    fn instance(&self) -> Json {
        let host = self.host();
        json!({
            "tenant_discovery_endpoint":
                format!("{}/{}/v2.0/.well-known/openid-configuration", self.url, self.tokens.directory),
            "api-version": "1.1",
            "metadata": [{ "preferred_network": host, "preferred_cache": host, "aliases": [host] }],
        })
    }

    fn host(&self) -> &str {
        self.url.trim_start_matches("https://")
    }
}

fn not_issued(error: &AccessError) -> Refusal {
    tracing::error!(%error, "the token authority cannot do its work");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", 90_033, error.to_string())
}

/// The audience of the one scope that is asked for.
fn audience<'a>(scope: &'a str, directory: &str) -> Result<&'a str, Refusal> {
    let invalid = |code, text| Refusal::new(StatusCode::BAD_REQUEST, "invalid_scope", code, text);
    if scope.trim().contains(' ') {
        let text = format!("The provided request must include a single resource's '/.default' scope: '{scope}'.");
        return Err(invalid(70_011, text));
    }
    let resource = scope.trim().strip_suffix("/.default").ok_or_else(|| {
        let text = format!(
            "The provided value for scope {scope} is not valid. Client credential flows must have a scope value with \
             /.default suffixed to the resource identifier (application ID URI)."
        );
        invalid(1_002_012, text)
    })?;
    if Resource::of(resource).is_none() {
        let text = format!("The resource principal named {resource} was not found in the tenant named {directory}.");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_resource", 500_011, text));
    }
    Ok(resource)
}

impl Handler for Authority {
    async fn handle(&self, request: Request<&mut Upload>, line: &Line) -> Response<Body> {
        let correlation = request.headers().get("client-request-id").and_then(|id| id.to_str().ok());
        let correlation = correlation.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned);
        let mut response = match self.answer(request, line).await {
            Ok(answer) => json(StatusCode::OK, &answer),
            Err(refusal) => {
                let why = printable(&refusal.text);
                say!(SAID, warn, "no access token", from = %line.peer(), code = refusal.code, why = %why);
                refusal.response((self.now)(), &correlation)
            }
        };
        if let Ok(value) = correlation.parse() {
            response.headers_mut().insert("client-request-id", value);
        }
        response.headers_mut().insert(header::PRAGMA, header::HeaderValue::from_static("no-cache"));
        response
    }
}
