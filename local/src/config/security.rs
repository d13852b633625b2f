//! Who may do what: policies of the bus, applications of the token authority, and when keys are rotated.

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use serde::Deserialize;
use tokio_rustls::rustls::pki_types::ServerName;
use uuid::Uuid;

use super::{Config, ConfigError};
use crate::{
    keys::{Right, Rights, Role},
    rotation::Schedule,
};

/// The directory that applications are registered in when the configuration names none.
pub const DIRECTORY_ID: &str = "10ca1000-0000-4000-8000-000000000001";
/// The application that is registered when the configuration names none.
pub const CLIENT_ID: &str = "10ca1000-0000-4000-8000-000000000002";

/// A shared access policy: a key with rights, of the namespace or of one entity.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Its name: `skn` in a token.
    pub name: String,
    /// The key, which signs as the text that it is.
    pub key: String,
    /// What it is for; default the namespace.
    pub entity: Option<String>,
    /// Some of `Send`, `Listen`, `Manage`; the last needs the others, as in Azure.
    pub rights: BTreeSet<Right>,
}

impl PolicyConfig {
    /// What the key allows.
    #[must_use]
    pub fn rights(&self) -> Rights {
        self.rights.iter().copied().collect()
    }
}

/// An application that is registered with the token authority.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientConfig {
    /// Its client id, a GUID.
    pub id: String,
    /// The tenant that TenantService takes it for.
    pub tenant: String,
    /// Its certificate, or several, in PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its secret.
    pub secret: Option<String>,
    /// What it may do with the services themselves; default nothing.
    #[serde(default)]
    pub roles: BTreeSet<Role>,
}

/// The token authority.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorityConfig {
    /// The directory of all applications, a GUID; default [`DIRECTORY_ID`].
    pub directory_id: String,
    /// How long access tokens live, in seconds; default 3600.
    pub access_token_life_s: u64,
    /// Whether a client assertion may be used only once; default no, because Microsoft's libraries show one again for as
    /// long as it lives.
    pub assertions_once: bool,
}

impl Default for AuthorityConfig {
    fn default() -> Self {
        Self { directory_id: DIRECTORY_ID.to_owned(), access_token_life_s: 3600, assertions_once: false }
    }
}

impl fmt::Debug for PolicyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicyConfig")
            .field("name", &self.name)
            .field("entity", &self.entity)
            .field("rights", &self.rights)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("id", &self.id)
            .field("tenant", &self.tenant)
            .field("certificate_file", &self.certificate_file)
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// `rotate_every_s` and `rotate_grace_s`.
pub(super) fn schedule(every_s: Option<u64>, grace_s: Option<u64>) -> Result<Option<Schedule>, ConfigError> {
    let refuse = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
    match (every_s, grace_s.unwrap_or(0)) {
        (None, 0) => Ok(None),
        (None, _) => refuse("rotate_grace_s", "is given without rotate_every_s"),
        (Some(every), grace) => {
            let schedule = Schedule { every: Duration::from_secs(every), grace: Duration::from_secs(grace) };
            check_schedule(schedule).map(|()| Some(schedule))
        }
    }
}

fn check_schedule(schedule: Schedule) -> Result<(), ConfigError> {
    let refuse = |key, problem: &str| Err(ConfigError::Value { key, problem: problem.to_owned() });
    if schedule.every.is_zero() {
        return refuse("rotate_every_s", "is 0; leave it out for no rotation");
    }
    if schedule.grace >= schedule.every {
        return refuse("rotate_grace_s", "must be less than rotate_every_s");
    }
    Ok(())
}

/// Checks what the types do not.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key, problem: String| Err(ConfigError::Value { key, problem });
    if let Some(schedule) = config.rotation {
        check_schedule(schedule)?;
    }
    for policy in &config.policies {
        let rights = policy.rights();
        if policy.name.is_empty() || policy.key.is_empty() {
            return refuse("policies", format!("has an empty name or key ({:?})", policy.name));
        }
        if rights == Rights::default() || (rights.manage && rights != Rights::ALL) {
            let problem = "needs some of Send, Listen, Manage as rights, and Manage needs the other two, as in Azure";
            return refuse("policies", format!("{:?} {problem}", policy.name));
        }
    }
    if Uuid::parse_str(&config.authority.directory_id).is_err() {
        return refuse("authority.directory_id", format!("is {:?}; use a GUID", config.authority.directory_id));
    }
    if config.authority.access_token_life_s == 0 {
        return refuse("authority.access_token_life_s", "is 0; a token lives at least 1 s".to_owned());
    }
    if let Some(host) = &config.host
        && !matches!(ServerName::try_from(host.as_str()), Ok(ServerName::DnsName(_)))
    {
        return refuse("host", format!("is {host:?}; use a DNS name such as azure.example"));
    }
    let needs_tls = [
        ("host", config.host.is_some()),
        ("ca_file", config.ca_file.is_some()),
        ("client_file", config.client_file.is_some()),
        ("clients", !config.clients.is_empty()),
    ];
    if let Some((key, _)) = needs_tls.into_iter().find(|(_, given)| *given && !config.tls) {
        return refuse(key, "is given without TLS; set tls = true, or use --tls".to_owned());
    }
    let mut ids = BTreeSet::new();
    for client in &config.clients {
        if Uuid::parse_str(&client.id).is_err() {
            return refuse("clients", format!("has the id {:?}; use a GUID", client.id));
        }
        if !ids.insert(client.id.to_lowercase()) {
            return refuse("clients", format!("names {:?} twice", client.id));
        }
        if !config.tenants.iter().any(|tenant| tenant.name == client.tenant) {
            return refuse("clients", format!("{} is of {:?}, and no tenant is called so", client.id, client.tenant));
        }
        if client.certificate_file.is_none() && client.secret.as_ref().is_none_or(String::is_empty) {
            return refuse("clients", format!("{} has neither certificate_file nor secret", client.id));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5e0b1f6e-0000-4000-8000-000000000000";

    #[track_caller]
    fn refused(text: &str, says: &str) {
        let error = Config::parse(text).expect_err(text).to_string();
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn policies_need_rights_that_azure_knows() {
        let policy = |rights: &str| format!("[[policies]]\nname = \"p\"\nkey = \"k\"\nrights = {rights}\n");
        let config = Config::parse(&policy(r#"["Send", "Listen"]"#)).unwrap();
        assert_eq!(config.policies[0].rights(), Rights { send: true, listen: true, manage: false });
        refused(&policy("[]"), "needs some of Send, Listen, Manage");
        refused(&policy(r#"["Manage"]"#), "Manage needs the other two");
        refused(&policy(r#"["Own"]"#), "unknown variant `Own`");
        refused(&policy(r#"["Send"]"#).replace("\"k\"", "\"\""), "empty name or key");
    }

    #[test]
    fn a_rotation_has_a_grace_shorter_than_itself() {
        let schedule = Config::parse("rotate_every_s = 60\nrotate_grace_s = 59\n").unwrap().rotation.unwrap();
        assert_eq!((schedule.every.as_secs(), schedule.grace.as_secs()), (60, 59));
        assert_eq!(Config::parse("rotate_every_s = 1").unwrap().rotation.unwrap().grace, Duration::ZERO);
        refused("rotate_every_s = 60\nrotate_grace_s = 60\n", "rotate_grace_s must be less than rotate_every_s");
        refused("rotate_grace_s = 60\n", "without rotate_every_s");
        refused("rotate_every_s = 0\n", "leave it out");
    }

    #[test]
    fn a_host_needs_tls_and_is_a_name() {
        refused("host = \"azure.example\"", "host is given without TLS");
        for wrong in ["", "10.0.0.1", "https://azure.example", "azure.example:5671", "a b"] {
            refused(&format!("tls = true\nhost = {wrong:?}"), "use a DNS name");
        }
    }

    #[test]
    fn clients_need_tls_an_id_a_tenant_and_a_proof() {
        let client = format!("tls = true\n[[clients]]\nid = \"{ID}\"\ntenant = \"acme\"\nsecret = \"s3cret\"\n");
        let config = Config::parse(&client).unwrap();
        assert!(!format!("{config:?}").contains("s3cret"));
        refused(&client.replace("tls = true", ""), "clients is given without TLS");
        refused(&client.replace(ID, "acme-app"), "use a GUID");
        refused(&client.replace("\"acme\"", "\"nobody\""), "no tenant is called so");
        refused(&client.replace("secret = \"s3cret\"", ""), "neither certificate_file nor secret");
        refused(&client.replace("s3cret", ""), "neither certificate_file nor secret");
        let twice = format!("{client}{}", client.replace("tls = true", ""));
        refused(&twice, "twice");
        refused(&format!("{client}roles = [\"Owner\"]\n"), "unknown variant `Owner`");
        refused("[authority]\ndirectory_id = \"contoso\"\n", "use a GUID");
        refused("[authority]\naccess_token_life_s = 0\n", "at least 1 s");
    }
}
