//! A Python environment with Microsoft's SDKs, made once per list of requirements.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{debian, steps::step};

/// The interpreter of an environment in `cache` that holds exactly `requirements`.
pub(crate) fn environment(requirements: &Path, cache: &Path) -> Result<PathBuf> {
    let wanted =
        std::fs::read_to_string(requirements).with_context(|| format!("cannot read {}", requirements.display()))?;
    let folder = cache.join("python");
    let interpreter = folder.join("bin/python");
    let made_of = folder.join("made-of.txt");
    if interpreter.exists() && std::fs::read_to_string(&made_of).is_ok_and(|made_of| made_of == wanted) {
        return Ok(interpreter);
    }
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        bail!(
            "no python3: the tests run Microsoft's SDKs; install Python 3 (Debian: apt-get install python3 python3-venv)"
        );
    }
    debian::to_build_python_packages()?;
    let mut make = Command::new("python3");
    make.args(["-m", "venv", "--clear"]).arg(&folder);
    step("Python environment", make).context("is the venv module there? (Debian: apt-get install python3-venv)")?;
    let mut install = Command::new(&interpreter);
    install.args(["-m", "pip", "install", "--quiet", "--requirement"]).arg(requirements);
    step("Python packages", install).context("is the package registry reachable?")?;
    std::fs::write(&made_of, wanted).with_context(|| format!("cannot write {}", made_of.display()))?;
    Ok(interpreter)
}
