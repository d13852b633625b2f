//! The pipeline against real services, so that `waybill-local` stays honest.

use std::env;

use anyhow::{Result, bail};

use crate::steps::{cargo, step};

/// What has to be known, as the binaries themselves read it.
const NEEDED: [(&str, &str); 3] = [
    (
        "WAYBILL_PUBLISHER__SERVICE_BUS_CONNECTION_STRING",
        "of the namespace, with the right to send to the topic: Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…",
    ),
    (
        "WAYBILL_PUBLISHER__BLOB_CONNECTION_STRING",
        "of the storage account: DefaultEndpointsProtocol=https;AccountName=…;AccountKey=…;EndpointSuffix=core.windows.net",
    ),
    (
        "WAYBILL_SUBSCRIBER__TENANT__URL",
        "of TenantService, whose grants lead to a subscription of that topic and to that container",
    ),
];
const CREDENTIAL: &str = "WAYBILL_SUBSCRIBER__TENANT__";
const MORE: &str = "\
and who the subscriber is to TenantService, one of
  WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN  a fixed token, or …_BEARER_TOKEN_FILE
  WAYBILL_SUBSCRIBER__TENANT__ENTRA__…      SCOPE, DIRECTORY_ID, CLIENT_ID with CERTIFICATE_FILES or CLIENT_SECRET_FILE, or
                                            MANAGED_IDENTITY=true, or WORKLOAD_IDENTITY=true (docs/credentials.md)
where it differs from the default, also
  WAYBILL_PUBLISHER__TOPIC (exports), WAYBILL_PUBLISHER__CONTAINER (batchtoprocess), …__TRANSPORT and …__CA_FILE of both sides

The subscription should be for this alone: whatever lies in it is received and settled. Against `waybill-local` (--tls: then with CA_FILE) the
variables are what its ready file holds.";

pub(crate) fn test() -> Result<()> {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let missing: Vec<_> = NEEDED.iter().filter(|(name, _)| !is_set(name)).collect();
    let shows_itself = env::vars_os().any(|(name, _)| {
        let name = name.to_string_lossy().into_owned();
        name.strip_prefix(CREDENTIAL)
            .is_some_and(|rest| rest.starts_with("BEARER_TOKEN") || rest.starts_with("ENTRA__"))
    });
    if !missing.is_empty() || !shows_itself {
        for (name, what) in NEEDED {
            println!("  {} {name}\n      {what}", if is_set(name) { "set    " } else { "MISSING" });
        }
        println!("  {} a credential\n\n{MORE}", if shows_itself { "set    " } else { "MISSING" });
        bail!("the real services are not named; set what is missing above");
    }
    step("binaries", cargo(["build", "--package", "waybill-cli", "--bins"]))?;
    let live = "live::the_pipeline_against_real_services_brings_each_row_once";
    step("live", cargo(["test", "--package", "waybill-tests", "--", "--ignored", "--nocapture", "--exact", live]))
}
