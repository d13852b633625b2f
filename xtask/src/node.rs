//! Packages for Node.js, installed once per lock file: Microsoft's JavaScript SDKs, Azurite, and an AMQP library.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::steps::step;

/// The oldest version that the packages run on.
const NODE_MIN: u32 = 20;
/// What `npm ci` reads: what is wanted, what exactly that is, and how to install it.
const SOURCES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

/// A folder in `cache` whose `node_modules` holds exactly what the lock file in `sources` names.
pub(crate) fn packages(sources: &Path, cache: &Path) -> Result<PathBuf> {
    let lock = sources.join("package-lock.json");
    let wanted = std::fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let folder = cache.join("node");
    let made_of = folder.join("made-of.txt");
    if std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == wanted) {
        return Ok(folder);
    }
    check_tools()?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for file in SOURCES {
        std::fs::copy(sources.join(file), folder.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let mut install = Command::new("npm");
    // None of the packages needs a script of its own to be installed, so none runs.
    install.args(["ci", "--ignore-scripts", "--no-progress", "--loglevel=error"]).current_dir(&folder);
    step("Node packages", install).context("is the package registry reachable?")?;
    std::fs::write(&made_of, wanted).with_context(|| format!("cannot write {}", made_of.display()))?;
    Ok(folder)
}

fn check_tools() -> Result<()> {
    let missing =
        || anyhow!("the tests run Microsoft's SDKs; install Node.js and npm (Debian: apt-get install nodejs npm)");
    let node = version("node").ok_or_else(missing).context("no node")?;
    version("npm").ok_or_else(missing).context("no npm")?;
    let major = node.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < NODE_MIN) {
        bail!("node is {node}, and Microsoft's SDKs need {NODE_MIN} or later; install a newer Node.js");
    }
    Ok(())
}

/// What a tool says to `--version`, if it is there.
fn version(tool: &str) -> Option<String> {
    let output = Command::new(tool).arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
