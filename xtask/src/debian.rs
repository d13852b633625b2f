//! Debian packages: installed where we may, else named.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::steps::step;

/// Something that must be there, how it is recognised, and the package that has it.
struct Need {
    what: &'static str,
    found_by: &'static [&'static str],
    package: &'static str,
}

const TO_BUILD: [Need; 3] = [
    Need { what: "pkg-config", found_by: &["pkg-config", "--version"], package: "pkg-config" },
    Need {
        what: "Python's headers",
        found_by: &[
            "python3",
            "-c",
            "import os, sysconfig; os.stat(os.path.join(sysconfig.get_paths()['include'], 'Python.h'))",
        ],
        package: "python3-dev",
    },
    Need { what: "OpenSSL's headers", found_by: &["pkg-config", "--exists", "openssl"], package: "libssl-dev" },
];

/// Programs that read gzip in their own ways. `gunzip` and Node.js are there anyway.
const READERS: [Need; 3] = [
    Need { what: "busybox", found_by: &["busybox", "true"], package: "busybox" },
    Need {
        what: "PHP with zlib",
        found_by: &["php", "-r", "exit((int) !extension_loaded('zlib'));"],
        package: "php-cli",
    },
    Need { what: "a JDK", found_by: &["javac", "-version"], package: "default-jdk-headless" },
];

/// libFuzzer comes as its source.
const TO_FUZZ: [Need; 1] = [Need { what: "a compiler of C++", found_by: &["c++", "--version"], package: "g++" }];

/// Makes sure that libFuzzer can be built.
pub(crate) fn to_fuzz() -> Result<()> {
    meet(&TO_FUZZ, "libFuzzer is built from C++")
}

/// Makes sure that a Python package with C in it can be built.
pub(crate) fn to_build_python_packages() -> Result<()> {
    meet(&TO_BUILD, "the tests build an AMQP library from C")
}

/// Makes sure that the programs are there that read our files in tests.
pub(crate) fn to_read_our_files() -> Result<()> {
    meet(&READERS, "the tests read our files with them")
}

fn meet(needs: &[Need], why: &str) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
    install(&packages, &format!("missing: {}; {why}", what.join(", ")))
}

/// Installs packages, or says `why` they are needed and how to get them.
pub(crate) fn install(packages: &[&str], why: &str) -> Result<()> {
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        bail!("{why} (Debian: apt-get install {})", packages.join(" "));
    }
    // On a new machine the list of packages is empty or old.
    let mut update = Command::new("apt-get");
    update.args(["update", "--quiet"]);
    step("Debian's list of packages", update)?;
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "--quiet"]).args(packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    step("Debian packages", install)
}

impl Need {
    fn is_met(&self) -> bool {
        let Some((program, arguments)) = self.found_by.split_first() else { return true };
        let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

pub(crate) fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
