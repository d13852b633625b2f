//! Azurite, Microsoft's emulator of storage: a second opinion on what Blob Storage is.

use std::{process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::harness::node_packages;

/// Until it listens. It reads some hundred files first.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// Its account and key, which its manual names; the same as those of `local`.
const ACCOUNT: &str = "AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running Azurite on a port of its own. Dropping it ends the process and removes what it stored.
pub(crate) struct Azurite {
    endpoint: String,
    process: Child,
    /// Its output stays open, so that it never writes into a closed pipe.
    output: BufReader<ChildStdout>,
    folder: TempDir,
}

impl Azurite {
    pub(crate) async fn start() -> Self {
        Self::start_with(tempfile::tempdir().expect("a folder for Azurite"), &[]).await
    }

    /// In a folder of the caller's, where it finds the files that options name.
    pub(crate) async fn start_with(folder: TempDir, options: &[&str]) -> Self {
        let mut command = Command::new("node");
        command.arg(node_packages().join("node_modules/azurite/dist/src/blob/main.js"));
        // The SDKs are newer than Azurite and name versions that it does not know; what it does not do it refuses.
        command.args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--silent", "--skipApiVersionCheck"]);
        command.args(["--disableTelemetry", "--location"]).arg(folder.path());
        command.args(options).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().expect("node is installed");
        let mut output = BufReader::new(process.stdout.take().expect("its output is ours"));
        let listening = timeout(START_PATIENCE, async {
            loop {
                let mut line = String::new();
                let read = output.read_line(&mut line).await.expect("its output is text");
                assert!(read > 0, "Azurite ended before it listened");
                if let Some((_, address)) = line.split_once("successfully listens on ") {
                    return address.trim().to_owned();
                }
            }
        });
        let address = listening.await.expect("Azurite listens in time");
        Self { endpoint: format!("{address}/devstoreaccount1"), process, output, folder }
    }

    /// The address of the account.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn connection_string(&self) -> String {
        format!("DefaultEndpointsProtocol=http;{ACCOUNT};BlobEndpoint={};", self.endpoint)
    }

    pub(crate) async fn end(mut self) {
        self.process.kill().await.expect("Azurite ends");
        drop(self.output);
        self.folder.close().expect("its folder is removed");
    }
}
