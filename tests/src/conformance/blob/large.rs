//! Bodies that are larger than what `local` may keep in memory.

use std::{path::Path, process::Stdio, time::Duration};

use bytes::Bytes;
use tokio::{
    process::Command,
    time::{sleep, timeout},
};
use waybill_azure::{
    blob::{BlobHeaders, Container, ContainerOptions},
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::ReadyFile;

use crate::harness::{PATIENCE, binary, tokens};

const MIB: usize = 1 << 20;
const BLOCK: usize = 8 * MIB;
const BLOCKS: usize = 128;
/// The program itself, 32 MiB of small bodies, and what its allocator keeps back.
const MEMORY_MAX: u64 = 128 << 20;

/// Bytes that differ from block to block.
fn block(number: usize, length: usize) -> Bytes {
    let pattern = (number as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes();
    pattern.repeat(length / pattern.len()).into()
}

/// The largest resident set of a process so far, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

async fn ready(path: &Path) -> ReadyFile {
    let written = timeout(PATIENCE, async {
        loop {
            match std::fs::read(path) {
                Ok(json) => return serde_json::from_slice(&json).expect("a ready file"),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    });
    written.await.expect("local is ready in time")
}

#[tokio::test]
async fn a_gigabyte_up_in_blocks_and_down_again_and_another_that_is_never_committed_take_little_memory_of_local() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("local.json");
    let mut run = Command::new(binary("waybill-local"));
    run.args(["run", "--random-ports", "--ready-file"]).arg(&path);
    run.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let mut local = run.spawn().expect("local starts");
    let pid = local.id().expect("it runs");
    let tokens = tokens(&ready(&path).await);
    let http = HttpClient::new(&HttpOptions::default()).expect("a client");
    let container = Container::new(http, tokens, ContainerOptions::default());

    let forgotten = container.upload("never-committed");
    for number in 0..BLOCKS * 8 {
        forgotten.stage(block(number, MIB)).await.expect("a block is staged");
    }
    let upload = container.upload("large");
    for number in 0..BLOCKS {
        upload.stage(block(number, BLOCK)).await.expect("a block is staged");
    }
    let headers = BlobHeaders { content_type: "application/octet-stream".to_owned(), ..BlobHeaders::default() };
    let written = upload.commit(&headers).await.expect("the blob is committed");
    assert_eq!(written.length, (BLOCKS * BLOCK) as u64);

    let mut download = container.download("large", 0, Some(&written.etag)).await.expect("it opens");
    let (mut at, mut expected) = (0, block(0, BLOCK));
    while let Some(bytes) = download.next().await.expect("it is read") {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let offset = at % BLOCK;
            if offset == 0 {
                expected = block(at / BLOCK, BLOCK);
            }
            let (now, later) = rest.split_at(rest.len().min(BLOCK - offset));
            assert!(now == &expected[offset..offset + now.len()], "at byte {at}");
            at += now.len();
            rest = later;
        }
    }
    assert_eq!(at, BLOCKS * BLOCK);
    let peak = peak_memory(pid);
    assert!(peak < MEMORY_MAX, "{} MiB", peak >> 20);
    local.kill().await.expect("local ends");
}
