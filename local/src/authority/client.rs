//! The applications: registered by the configuration, or one that is made for this run, so that a newcomer can try a
//! credential library at once.

use std::collections::BTreeSet;

use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use uuid::Uuid;
use waybill_contracts::LocalClient;

use crate::{
    config::{CLIENT_ID, ClientConfig, Config},
    keys::{Application, Certificate, Role},
    tls::{CertificateError, dated},
};

/// A client made for this run.
pub(crate) struct Made {
    pub(crate) application: Application,
    /// Its certificate and its key.
    pub(crate) pem: String,
}

/// Makes the client of a tenant, with a certificate, a secret and every role. Takes some tens of milliseconds.
pub(crate) fn make(tenant: &str) -> Result<Made, CertificateError> {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
    let certificate = dated("waybill-local development client").self_signed(&key)?;
    let application = Application {
        id: CLIENT_ID.to_owned(),
        tenant: tenant.to_owned(),
        certificates: vec![Certificate::from_der(certificate.der())?],
        secret: Some(Uuid::new_v4().simple().to_string()),
        roles: BTreeSet::from([Role::BusOwner, Role::BlobContributor]),
    };
    Ok(Made { application, pem: format!("{}{}", certificate.pem(), key.serialize_pem()) })
}

/// Why an application cannot be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Its certificate file cannot be read.
    #[error("client {id}: the certificate file {path} cannot be read; check the path and its permissions")]
    Unreadable {
        /// The client id.
        id: String,
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Its certificate cannot be used.
    #[error("client {id}: the certificate file {path} {problem}")]
    Certificate {
        /// The client id.
        id: String,
        /// The file.
        path: String,
        /// What is wrong, and what may stand there.
        problem: String,
    },
}

/// Registers the applications of a configuration.
pub(crate) fn registered(config: &Config) -> Result<Vec<Application>, ClientError> {
    config.clients.iter().map(application).collect()
}

fn application(client: &ClientConfig) -> Result<Application, ClientError> {
    let certificates = match &client.certificate_file {
        None => Vec::new(),
        Some(file) => {
            let (id, path) = (client.id.clone(), file.display().to_string());
            let pem = std::fs::read(file).map_err(|source| ClientError::Unreadable {
                id: id.clone(),
                path: path.clone(),
                source,
            })?;
            Certificate::all_in_pem(&pem).map_err(|error| ClientError::Certificate {
                id,
                path,
                problem: error.to_string(),
            })?
        }
    };
    Ok(Application {
        id: client.id.to_lowercase(),
        tenant: client.tenant.clone(),
        certificates,
        secret: client.secret.clone().filter(|secret| !secret.is_empty()),
        roles: client.roles.clone(),
    })
}

/// As the ready file has it.
pub(crate) fn shown(application: &Application, directory: &str, certificate_file: Option<String>) -> LocalClient {
    LocalClient {
        directory_id: directory.to_owned(),
        client_id: application.id.clone(),
        tenant: application.tenant.clone(),
        certificate_file,
        client_secret: application.secret.clone(),
    }
}
