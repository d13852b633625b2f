//! The client assertion: a JWT that says who we are, signed with the certificate's key (RFC 7523; RFC 7515 for its form).

use async_trait::async_trait;
use azure_core::{
    error::ErrorKind,
    http::{ClientMethodOptions, Url},
};
use azure_identity::ClientAssertion;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::SignatureScheme;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;

use super::{
    AccessTokenOptions, ClientCertificate, Signing,
    certificate::{self, CertificateProblem, Certified},
};

/// Microsoft recommends five to ten minutes.
const LIFE: time::Duration = time::Duration::minutes(10);
/// What the authority's clock may be behind ours.
const EARLIER: time::Duration = time::Duration::minutes(1);

/// Signs an assertion for each new token.
#[derive(Debug)]
pub(super) struct Assertions {
    client: ClientCertificate,
    audience: String,
    now: fn() -> OffsetDateTime,
}

impl Assertions {
    pub(super) fn new(client: ClientCertificate, options: &AccessTokenOptions) -> Self {
        let authority = options.authority.as_ref().map(Url::to_string);
        let authority = authority
            .or_else(|| std::env::var("AZURE_AUTHORITY_HOST").ok())
            .unwrap_or_else(|| "https://login.microsoftonline.com".to_owned());
        let audience = format!("{}/{}/oauth2/v2.0/token", authority.trim_end_matches('/'), client.directory_id);
        Self { client, audience, now: options.now }
    }
}

#[async_trait]
impl ClientAssertion for Assertions {
    async fn secret(&self, _options: Option<ClientMethodOptions<'_>>) -> azure_core::Result<String> {
        let (client, audience, now) = (self.client.clone(), self.audience.clone(), (self.now)());
        // Reads files, and may derive a key from a password.
        let signed = tokio::task::spawn_blocking(move || {
            let certified = certificate::newest(&client, now)?;
            sign(&certified, &client, &audience, now)
        });
        let signed = signed.await.unwrap_or_else(|error| Err(CertificateProblem(error.to_string())));
        signed.map_err(|problem| azure_core::Error::new(ErrorKind::Credential, problem))
    }
}

fn sign(
    certified: &Certified,
    client: &ClientCertificate,
    audience: &str,
    now: OffsetDateTime,
) -> Result<String, CertificateProblem> {
    let (algorithm, scheme) = match client.signing {
        Signing::Ps256 => ("PS256", SignatureScheme::RSA_PSS_SHA256),
        Signing::Rs256 => ("RS256", SignatureScheme::RSA_PKCS1_SHA256),
    };
    let thumbprint = URL_SAFE_NO_PAD.encode(Sha256::digest(&certified.der));
    let header = json!({"alg": algorithm, "typ": "JWT", "x5t#S256": thumbprint});
    let claims = json!({
        "aud": audience,
        "iss": client.client_id,
        "sub": client.client_id,
        "jti": uuid::Uuid::new_v4().to_string(),
        "iat": now.unix_timestamp(),
        "nbf": (now - EARLIER).unix_timestamp(),
        "exp": (now + LIFE).unix_timestamp(),
    });
    let signed =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let failed = |problem: String| CertificateProblem(format!("the client certificate's key cannot sign: {problem}"));
    let signer =
        certified.key.key.choose_scheme(&[scheme]).ok_or_else(|| failed(format!("it knows no {algorithm}")))?;
    let signature = signer.sign(signed.as_bytes()).map_err(|error| failed(error.to_string()))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
