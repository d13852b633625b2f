//! Blob Storage by Microsoft's SDKs: the same cases against `local` and against Azurite, so that our idea of it is not
//! only ours.

mod identity;
mod large;
mod ours;

use tokio::sync::watch;
use waybill_azure::Generation;

use super::{Suite, azurite::Azurite, node_client, python_client};
use crate::harness::World;

/// What publishers, subscribers and the people who try them out do, and each class of errors that they may meet.
const OPERATIONS: &[&str] = &[
    "create_container",
    "create_container_that_exists",
    "create_container_with_a_wrong_name",
    "container_exists",
    "container_properties",
    "set_container_metadata",
    "list_containers",
    "delete_container",
    "delete_container_conditions",
    "recreate_a_deleted_container",
    "public_access_is_refused",
    "container_not_found",
    "account_information",
    "put_blob",
    "put_empty_blob",
    "put_blob_without_overwriting",
    "put_blob_conditions",
    "put_blob_that_must_exist",
    "put_large_blob_in_parallel_blocks",
    "put_stream_of_unknown_length",
    "put_blob_with_a_tier",
    "transactional_md5",
    "transactional_crc64",
    "stage_and_commit_in_another_order",
    "commit_conditions",
    "commit_reuses_committed_blocks",
    "commit_of_an_unknown_block",
    "block_ids_of_two_lengths",
    "get_block_list",
    "get_blob",
    "get_range",
    "get_range_beyond_the_end",
    "get_range_with_md5",
    "get_in_parallel_ranges",
    "get_conditions",
    "get_the_rest_of_a_blob_that_was_replaced",
    "get_missing_blob",
    "head_missing_blob",
    "blob_exists",
    "get_archived_blob",
    "set_http_headers",
    "set_blob_metadata",
    "set_metadata_with_a_wrong_name",
    "list_blobs",
    "list_blobs_by_delimiter",
    "list_blobs_in_pages",
    "list_blobs_with_metadata",
    "list_uncommitted_blobs",
    "delete_blob",
    "delete_blob_conditions",
    "wrong_account_key",
    "account_sas",
    "account_sas_without_the_permission",
    "account_sas_for_another_kind_of_resource",
    "account_sas_for_another_service",
    "container_sas",
    "container_sas_is_not_for_another_container",
    "container_sas_cannot_delete_its_container",
    "blob_sas",
    "blob_sas_is_not_for_another_blob",
    "sas_without_the_permission",
    "sas_that_may_create_may_not_overwrite",
    "sas_that_has_ended",
    "sas_that_has_not_begun",
    "sas_with_a_wrong_signature",
    "sas_for_https_only",
    "sas_for_other_addresses",
    "sas_replaces_headers_of_the_answer",
    "no_credential",
    "request_ids_come_back",
    "leases_are_refused",
    "snapshots_are_refused",
    "copies_are_refused",
    "append_and_page_blobs_are_refused",
    "tags_are_refused",
    "stored_access_policies_are_refused",
    "batches_are_refused",
];

/// The asynchronous Python client shares its requests with the other one, but not how they are sent and streamed.
const OPERATIONS_ASYNC: &[&str] = &[
    "container_that_exists",
    "put_and_get",
    "put_and_get_in_parallel_parts",
    "put_stream_of_unknown_length",
    "stage_and_commit_once",
    "conditions",
    "what_is_missing",
    "list_in_pages",
    "sas_and_its_limits",
    "delete",
];

async fn every_operation_by_every_client(title: &'static str, connection_string: &str) {
    let mut suite = Suite::new(title, OPERATIONS);
    for (client, mut command) in [
        ("azure-storage-blob (Python)", python_client("blob_cases.py")),
        ("@azure/storage-blob (JavaScript)", node_client("blob_cases.cjs")),
    ] {
        command.arg(connection_string);
        suite.run(client, command).await;
    }
    suite.finish();
}

async fn the_asynchronous_client(title: &'static str, connection_string: &str) {
    let mut suite = Suite::new(title, OPERATIONS_ASYNC);
    let mut command = python_client("blob_cases_async.py");
    command.arg(connection_string);
    suite.run("azure-storage-blob.aio (Python)", command).await;
    suite.finish();
}

#[tokio::test]
async fn microsofts_sdks_find_in_local_the_blob_storage_that_they_know() {
    let world = World::new().await;
    let connection_string = &world.local.ready_file().blob_connection_string;
    every_operation_by_every_client("Blob Storage of waybill-local", connection_string).await;
    the_asynchronous_client("Blob Storage of waybill-local, asynchronously", connection_string).await;
    world.end().await;
}

#[tokio::test]
async fn the_same_blob_cases_pass_against_azurite() {
    let azurite = Azurite::start().await;
    every_operation_by_every_client("Blob Storage of Azurite", &azurite.connection_string()).await;
    the_asynchronous_client("Blob Storage of Azurite, asynchronously", &azurite.connection_string()).await;
    azurite.end().await;
}

/// Which token is handed out: the next one where the one that is current was refused.
fn renewed(current: &watch::Sender<Generation>, refused: Option<Generation>) -> Generation {
    current.send_if_modified(|current| {
        let renew = refused.is_some_and(|refused| refused >= *current);
        current.0 += u64::from(renew);
        renew
    });
    *current.borrow()
}
