//! The sinks that a configuration can name.

use std::path::Path;

use tokio::sync::mpsc;
use waybill_contracts::{Entities, Format};

use super::{
    Applied, DirFormat, DirSink, EntityBatch, Guarantee, PostgresSink, Progress, Sink, SinkError, SinkOpenError,
    SqliteSink, StdoutSink, WaitsEnded, WholeFiles,
};
use crate::{
    FileKey,
    apply::{EntityPlan, EntityPlans},
};

/// A sink named by `sqlite:PATH`, `postgres://…`, `dir:PATH` or `stdout`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AnySink {
    /// `sqlite:PATH`
    Sqlite(SqliteSink),
    /// `postgres://…`
    Postgres(PostgresSink),
    /// `dir:PATH`
    Dir(DirSink),
    /// `stdout`
    Stdout(StdoutSink),
}

/// Opens the sink that a text names: `sqlite:PATH`, `postgres://…`, `dir:PATH` (JSON Lines; `dir+csv:PATH`
/// and the like in another format, `dir+same:PATH` in each file's own) or `stdout`. A sink that cannot keep its own
/// progress has it in the folder `data`, which is there.
///
/// # Errors
/// [`SinkOpenError::Unsupported`] for any other; then what the sink's own `open` says.
pub async fn open(name: &str, entities: &Entities, data: &Path) -> Result<AnySink, SinkOpenError> {
    Ok(match Named::read(name)? {
        Named::Sqlite(path) => AnySink::Sqlite(SqliteSink::open(path, entities).await?),
        Named::Postgres => AnySink::Postgres(PostgresSink::open(name, entities).await?),
        Named::Dir(path, format) => AnySink::Dir(DirSink::open_as(path, format).await?),
        Named::Stdout => AnySink::Stdout(StdoutSink::open(&data.join("stdout.sqlite")).await?),
    })
}

/// Whether [`open`] would do: tries what it does, and takes it back. `false` where there is nothing yet, so that it would be made.
///
/// # Errors
/// As [`open`].
pub async fn check(name: &str, entities: &Entities) -> Result<bool, SinkOpenError> {
    match Named::read(name)? {
        Named::Sqlite(path) if !path.exists() => {
            EntityPlans::compile(entities)?;
            match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                Some(folder) if !folder.is_dir() => {
                    Err(SinkOpenError::of(name, format!("there is no folder {}; make it", folder.display()), false))
                }
                _ => Ok(false),
            }
        }
        Named::Sqlite(path) => SqliteSink::check(path, entities).await.map(|()| true),
        Named::Postgres => PostgresSink::check(name, entities).await.map(|()| true),
        Named::Dir(path, _) if !path.exists() => Ok(false),
        Named::Dir(path, _) => DirSink::check(path).await.map(|()| true),
        Named::Stdout => Ok(true),
    }
}

/// What the text means.
enum Named<'a> {
    Sqlite(&'a Path),
    Postgres,
    Dir(&'a Path, DirFormat),
    Stdout,
}

impl<'a> Named<'a> {
    fn read(name: &'a str) -> Result<Self, SinkOpenError> {
        let unsupported = |problem: &str| {
            let problem =
                format!("{problem}; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout");
            Err(SinkOpenError::Unsupported { given: shown(name), problem })
        };
        match name.split_once(':') {
            Some((kind, "")) if kind == "sqlite" || dir_format(kind).is_some() => {
                unsupported(&format!("{kind}: needs a path"))
            }
            Some(("sqlite", path)) => Ok(Self::Sqlite(Path::new(path))),
            Some(("postgres" | "postgresql", _)) => Ok(Self::Postgres),
            None if name == "stdout" => Ok(Self::Stdout),
            Some((kind, path)) => match dir_format(kind) {
                Some(format) => Ok(Self::Dir(Path::new(path), format)),
                None => unsupported("there is no sink of this kind"),
            },
            None => unsupported("there is no sink of this name"),
        }
    }
}

/// What may be told of a sink's name. One that is mistyped may hold a password, as an address may.
#[must_use]
pub fn shown(name: &str) -> String {
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-_.".contains(&byte))
    };
    match name.split_once(':') {
        Some((kind, _)) if kind == "sqlite" || dir_format(kind).is_some() => name.to_owned(),
        Some((kind, _)) if is_word(kind) => format!("{kind}:…"),
        None if is_word(name) => name.to_owned(),
        _ => "…".to_owned(),
    }
}

/// `dir` for JSON Lines, `dir+csv` and the like for another format, `dir+same` for each file's own.
fn dir_format(kind: &str) -> Option<DirFormat> {
    match kind.strip_prefix("dir")?.strip_prefix('+') {
        None if kind == "dir" => Some(DirFormat::Of(Format::JsonLines)),
        None => None,
        Some("same") => Some(DirFormat::Same),
        Some(suffix) => Format::from_suffix(suffix).map(DirFormat::Of),
    }
}

#[deny(clippy::missing_trait_methods)]
impl Sink for AnySink {
    fn guarantee(&self) -> Guarantee {
        match self {
            Self::Sqlite(sink) => sink.guarantee(),
            Self::Postgres(sink) => sink.guarantee(),
            Self::Dir(sink) => sink.guarantee(),
            Self::Stdout(sink) => sink.guarantee(),
        }
    }

    fn commit_bytes(&self) -> usize {
        match self {
            Self::Sqlite(sink) => sink.commit_bytes(),
            Self::Postgres(sink) => sink.commit_bytes(),
            Self::Dir(sink) => sink.commit_bytes(),
            Self::Stdout(sink) => sink.commit_bytes(),
        }
    }

    fn sorts_in(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(sink) => sink.sorts_in(),
            Self::Postgres(sink) => sink.sorts_in(),
            Self::Dir(sink) => sink.sorts_in(),
            Self::Stdout(sink) => sink.sorts_in(),
        }
    }

    async fn may_sort(&self, entity: &EntityPlan) -> Result<bool, SinkError> {
        match self {
            Self::Sqlite(sink) => sink.may_sort(entity).await,
            Self::Postgres(sink) => sink.may_sort(entity).await,
            Self::Dir(sink) => sink.may_sort(entity).await,
            Self::Stdout(sink) => sink.may_sort(entity).await,
        }
    }

    async fn begin_again(&self, file: &FileKey, at: Progress) -> Result<(), SinkError> {
        match self {
            Self::Sqlite(sink) => sink.begin_again(file, at).await,
            Self::Postgres(sink) => sink.begin_again(file, at).await,
            Self::Dir(sink) => sink.begin_again(file, at).await,
            Self::Stdout(sink) => sink.begin_again(file, at).await,
        }
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        match self {
            Self::Sqlite(sink) => sink.progress(file).await,
            Self::Postgres(sink) => sink.progress(file).await,
            Self::Dir(sink) => sink.progress(file).await,
            Self::Stdout(sink) => sink.progress(file).await,
        }
    }

    async fn look_ahead(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<EntityBatch, SinkError> {
        match self {
            Self::Sqlite(sink) => sink.look_ahead(file, from, batch).await,
            Self::Postgres(sink) => sink.look_ahead(file, from, batch).await,
            Self::Dir(sink) => sink.look_ahead(file, from, batch).await,
            Self::Stdout(sink) => sink.look_ahead(file, from, batch).await,
        }
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        match self {
            Self::Sqlite(sink) => sink.apply(file, from, batch).await,
            Self::Postgres(sink) => sink.apply(file, from, batch).await,
            Self::Dir(sink) => sink.apply(file, from, batch).await,
            Self::Stdout(sink) => sink.apply(file, from, batch).await,
        }
    }

    fn whole_files(&self) -> WholeFiles {
        match self {
            Self::Sqlite(sink) => sink.whole_files(),
            Self::Postgres(sink) => sink.whole_files(),
            Self::Dir(sink) => sink.whole_files(),
            Self::Stdout(sink) => sink.whole_files(),
        }
    }

    async fn apply_whole(
        &self,
        file: &FileKey,
        batches: mpsc::Receiver<EntityBatch>,
    ) -> Result<Option<Applied>, SinkError> {
        match self {
            Self::Sqlite(sink) => sink.apply_whole(file, batches).await,
            Self::Postgres(sink) => sink.apply_whole(file, batches).await,
            Self::Dir(sink) => sink.apply_whole(file, batches).await,
            Self::Stdout(sink) => sink.apply_whole(file, batches).await,
        }
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        match self {
            Self::Sqlite(sink) => sink.end_waits().await,
            Self::Postgres(sink) => sink.end_waits().await,
            Self::Dir(sink) => sink.end_waits().await,
            Self::Stdout(sink) => sink.end_waits().await,
        }
    }
}
