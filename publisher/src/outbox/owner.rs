//! Who is still there: a locked file per opened outbox. The operating system gives the lock back when the process ends,
//! however it ends, so nobody waits for a lease to lapse.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// An opened outbox. Dropping it makes its plans abandoned.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) id: String,
    path: PathBuf,
    _locked: File,
}

impl Owner {
    /// Registers a new owner in the folder beside `outbox`.
    pub(super) fn register(outbox: &Path) -> io::Result<Self> {
        let folder = folder(outbox);
        std::fs::create_dir_all(&folder)?;
        let id = Uuid::now_v7().to_string();
        let path = folder.join(&id);
        let file = File::create_new(&path)?;
        // Nobody knows the id yet, so nobody has locked it.
        file.lock()?;
        Ok(Self { id, path, _locked: file })
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Where an open file cannot be removed, whoever finds it abandoned removes it.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Whether the owner is gone. In doubt it is not: its plans then wait for the next look.
pub(super) fn is_gone(outbox: &Path, id: &str) -> bool {
    let path = folder(outbox).join(id);
    match File::options().write(true).open(&path) {
        Err(error) => error.kind() == io::ErrorKind::NotFound,
        Ok(file) => {
            let gone = file.try_lock().is_ok();
            if gone {
                drop(std::fs::remove_file(&path));
            }
            gone
        }
    }
}

/// Takes the one lock of the relay, unless another process or outbox has it.
pub(super) fn lock_relay(outbox: &Path) -> io::Result<Option<File>> {
    let file = File::options().create(true).truncate(false).write(true).open(beside(outbox, ".relay"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn folder(outbox: &Path) -> PathBuf {
    beside(outbox, ".owners")
}

fn beside(outbox: &Path, suffix: &str) -> PathBuf {
    let mut name = outbox.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
