//! What a server uses while a client works.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::program::Said;

/// What the kernel counts processor time in. Source: proc(5), `USER_HZ`, which is 100 on Linux.
const TICKS_A_SECOND: f64 = 100.0;

pub(super) fn beside(pid: u32, messages: u64, client: &[String]) -> Result<Said> {
    let (program, arguments) = client.split_first().context("no client is named")?;
    let before = processor_seconds(pid)?;
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("{program} cannot be started"))?;
    ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let used = processor_seconds(pid)? - before;
    let last = String::from_utf8(output.stdout)?;
    let mut said: Said = serde_json::from_str(last.trim()).with_context(|| format!("{program} says no JSON"))?;
    said.figures.insert("µs of the server's CPU a message".to_owned(), used * 1e6 / messages as f64);
    Ok(said)
}

/// Source: proc(5), `/proc/PID/stat`, fields 14 and 15.
pub(super) fn processor_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The second field is the name in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / TICKS_A_SECOND)
}
