//! Files that a process writes for its users and takes away when it ends.

use std::{
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};

/// What was written where, so that a file which another process has replaced meanwhile is left alone.
#[derive(Debug, Default)]
pub(crate) struct OwnFiles {
    written: Mutex<Vec<(PathBuf, [u8; 32])>>,
}

impl OwnFiles {
    /// Writes a file: under another name first, then renamed, so that who waits for it reads it whole. Only the owner may
    /// read it. Returns its absolute path.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> io::Result<PathBuf> {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // `tempfile` opens it for its owner only.
        let mut file = tempfile::Builder::new().prefix(".waybill-").tempfile_in(directory)?;
        file.write_all(content)?;
        file.persist(path).map_err(|error| error.error)?;
        let path = fs::canonicalize(path)?;
        self.written().push((path.clone(), Sha256::digest(content).into()));
        Ok(path)
    }

    /// Removes what is still as it was written.
    pub(crate) fn remove(&self) {
        let written = std::mem::take(&mut *self.written());
        for (path, digest) in written {
            if fs::read(&path).is_ok_and(|now| Sha256::digest(&now).as_slice() == digest)
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "a file could not be removed; remove it by hand");
            }
        }
    }

    fn written(&self) -> std::sync::MutexGuard<'_, Vec<(PathBuf, [u8; 32])>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnFiles {
    fn drop(&mut self) {
        self.remove();
    }
}
