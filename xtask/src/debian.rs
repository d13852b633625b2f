//! Debian packages that Python packages are built with: installed where we may, else named.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Result, bail};

use crate::steps::step;

/// What a build from C needs, how it is recognised, and the package that has it.
struct Need {
    what: &'static str,
    found_by: &'static [&'static str],
    package: &'static str,
}

const NEEDS: [Need; 3] = [
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

/// Makes sure that a Python package with C in it can be built.
pub(crate) fn to_build_python_packages() -> Result<()> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| !need.is_met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let may_install = is_root() && Path::new("/usr/bin/apt-get").exists();
    if !may_install {
        let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
        bail!(
            "missing: {}; the tests build an AMQP library from C (Debian: apt-get install {})",
            what.join(", "),
            packages.join(" ")
        );
    }
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends", "--quiet"]).args(packages);
    step("Debian packages", install)
}

impl Need {
    fn is_met(&self) -> bool {
        let Some((program, arguments)) = self.found_by.split_first() else { return true };
        let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
