//! `--local READY_FILE`: waits for the file and reads it.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use waybill_contracts::ReadyFile;

/// How long the file is waited for: `local` is ready in well under a second, and may just be starting.
const PATIENCE: Duration = Duration::from_secs(30);

/// The ready file's content.
///
/// # Errors
/// When it does not appear within 30 seconds, or is no ready file.
pub async fn ready_file(path: &Path) -> anyhow::Result<ReadyFile> {
    let began = Instant::now();
    let mut told = false;
    let text = loop {
        match tokio::fs::read_to_string(path).await {
            Ok(text) => break text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if began.elapsed() > PATIENCE {
                    bail!(
                        "{} did not appear within {} s; is `waybill-local run --ready-file {}` running?",
                        path.display(),
                        PATIENCE.as_secs(),
                        path.display()
                    );
                }
                if !told && began.elapsed() > Duration::from_secs(1) {
                    eprintln!(
                        "waiting up to {} s for {}, which `waybill-local run --ready-file {}` writes",
                        PATIENCE.as_secs(),
                        path.display(),
                        path.display()
                    );
                    told = true;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    };
    serde_json::from_str(&text).with_context(|| format!("{} is no ready file of waybill-local", path.display()))
}
