//! What the tests leave behind, looked through for tokens: temporary folders and the database's files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::postgres::Postgres;

/// A signature is an HMAC-SHA-256 in base64, 44 characters or more where some are escaped: what is shorter is none.
const SIGNATURE_MIN: usize = 43;

/// The temporary folder of a run of the tests; goes when it is dropped.
pub(crate) struct Left(PathBuf);

impl Left {
    pub(crate) fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("waybill-tests-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self(folder))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }

    /// After the whole suite: no file holds the signature of a SAS.
    pub(crate) fn assert_no_token(&self, postgres: &Postgres) -> Result<()> {
        let (mut found, mut files) = (Vec::new(), 0);
        for folder in [&self.0, &postgres.folder] {
            look_below(folder, &mut found, &mut files);
        }
        ensure!(found.is_empty(), "tokens were left in {found:?}");
        println!("── no token in the {files} files that the tests left, those of PostgreSQL among them");
        Ok(())
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn look_below(folder: &Path, found: &mut Vec<PathBuf>, files: &mut u64) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => look_below(&path, found, files),
            Ok(kind) if kind.is_file() => {
                let Ok(bytes) = std::fs::read(&path) else { continue };
                *files += 1;
                if has_signature(&bytes) {
                    found.push(path);
                }
            }
            _ => {}
        }
    }
}

fn has_signature(bytes: &[u8]) -> bool {
    let is_of_it = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/%=-_".contains(byte);
    let mut rest = bytes;
    while let Some(at) = rest.windows(4).position(|window| window == b"sig=") {
        rest = rest.get(at + 4..).unwrap_or_default();
        if rest.iter().take_while(|byte| is_of_it(byte)).count() >= SIGNATURE_MIN {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_told_from_what_only_looks_like_one() {
        assert!(has_signature(b"?sv=1&sig=x&sig=AbCdEfGhIjKlMnOpQrStUvWxYz0123456789%2B%2Fabcdef%3D&se=2"));
        assert!(!has_signature(b"sig=*** sig=secret sig="));
    }
}
