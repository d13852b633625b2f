//! Containers, blobs and blocks in memory: what exists, and what a write does to it. Pure but for the chunks it holds.
//!
//! A committed blob is never changed in place: a reader keeps the one that it began with, whatever happens meanwhile.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;

use super::{
    block_list::{BlockId, Sizes, Source},
    error::StorageError,
    request::{Conditions, Metadata, Properties, Tier, Version},
    spool::Chunk,
};

/// Most blocks of a blob that wait for a commit.
const UNCOMMITTED_MAX: usize = 100_000;

/// How long the name of a deleted container stays taken ("Delete Container": at least 30 seconds).
const DELETING: Duration = Duration::from_secs(30);

/// All containers of the account.
#[derive(Debug, Default)]
pub(super) struct Containers {
    containers: BTreeMap<String, Container>,
    /// Names that are not free again yet, and until when.
    deleting: HashMap<String, OffsetDateTime>,
    /// Grows with each write, so that no two versions share an ETag.
    last_etag: u64,
}

/// One container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) version: Version,
    pub(super) metadata: Metadata,
    slots: BTreeMap<String, Slot>,
}

/// How much lies in a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerUsage {
    name: String,
    /// Committed blobs.
    blobs: usize,
    /// Of committed blobs.
    bytes: u64,
    /// Blocks that wait for a commit.
    uncommitted_blocks: usize,
}

/// What is known under one blob name.
#[derive(Debug, Default)]
struct Slot {
    committed: Option<Arc<Blob>>,
    uncommitted: BTreeMap<BlockId, Arc<Chunk>>,
}

/// A committed blob.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub(super) version: Version,
    pub(super) created: OffsetDateTime,
    pub(super) properties: Properties,
    pub(super) metadata: Metadata,
    /// `None` while nobody has set it: then it is the account's.
    pub(super) tier: Option<Tier>,
    pub(super) content: Content,
    blocks: Arc<Vec<(BlockId, Arc<Chunk>)>>,
}

/// A blob's bytes: chunks in order, each with the place where it begins.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    chunks: Arc<Vec<(u64, Arc<Chunk>)>>,
    len: u64,
}

impl Content {
    fn new(chunks: impl Iterator<Item = Arc<Chunk>>) -> Self {
        let mut len = 0;
        let mut placed = Vec::new();
        for chunk in chunks.filter(|chunk| chunk.len() > 0) {
            let from = len;
            len += chunk.len();
            placed.push((from, chunk));
        }
        Self { chunks: Arc::new(placed), len }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The next bytes from `from`, at least one while `from` is below `to`.
    pub(super) async fn read(&self, from: u64, to: u64) -> std::io::Result<bytes::Bytes> {
        let after = self.chunks.partition_point(|(begin, _)| *begin <= from);
        let (begin, chunk) = &self.chunks[after - 1];
        chunk.read(from - begin, chunk.len().min(to - begin)).await
    }
}

/// What a write brings besides its bytes.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) properties: Properties,
    pub(super) metadata: Metadata,
    pub(super) tier: Option<Tier>,
    pub(super) conditions: Conditions,
    /// False when the credential may create but not overwrite.
    pub(super) may_overwrite: bool,
}

/// A page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

/// A line of a listing.
#[derive(Debug)]
pub(super) enum Entry {
    Blob {
        name: String,
        blob: Arc<Blob>,
    },
    /// Blocks were staged under this name and nothing was committed.
    Uncommitted {
        name: String,
    },
    Prefix(String),
}

/// What is listed.
#[derive(Debug)]
pub(super) struct ListQuery<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    pub(super) marker: &'a str,
    pub(super) max: usize,
    pub(super) uncommitted: bool,
}

impl Containers {
    /// A new version: an ETag that no other version had, and the time in whole seconds, as HTTP knows it.
    fn version(&mut self, now: OffsetDateTime) -> Version {
        let micros = u64::try_from(now.unix_timestamp_nanos() / 1_000).unwrap_or(0);
        self.last_etag = micros.max(self.last_etag + 1);
        let last_modified = now.replace_nanosecond(0).expect("0 is a nanosecond");
        Version { etag: format!("\"0x{:016X}\"", self.last_etag), last_modified }
    }

    pub(super) fn create(
        &mut self,
        name: &str,
        metadata: Metadata,
        now: OffsetDateTime,
    ) -> Result<Version, StorageError> {
        if self.containers.contains_key(name) {
            return Err(StorageError::container_exists());
        }
        self.deleting.retain(|_, until| *until > now);
        if self.deleting.contains_key(name) {
            return Err(StorageError::container_being_deleted());
        }
        let version = self.version(now);
        let container = Container { version: version.clone(), metadata, slots: BTreeMap::new() };
        self.containers.insert(name.to_owned(), container);
        Ok(version)
    }

    /// Gives the name of a deleted container free before its time: nobody waits for a name here but clients.
    pub(super) fn free(&mut self, name: &str) {
        self.deleting.remove(name);
    }

    pub(super) fn delete(
        &mut self,
        name: &str,
        conditions: &Conditions,
        now: OffsetDateTime,
    ) -> Result<(), StorageError> {
        conditions.check_change(&self.container(name)?.version)?;
        self.containers.remove(name);
        self.deleting.retain(|_, until| *until > now);
        self.deleting.insert(name.to_owned(), now + DELETING);
        Ok(())
    }

    pub(super) fn set_container_metadata(
        &mut self,
        name: &str,
        metadata: Metadata,
        conditions: &Conditions,
        now: OffsetDateTime,
    ) -> Result<Version, StorageError> {
        conditions.check_change(&self.container(name)?.version)?;
        let version = self.version(now);
        let container = self.container_mut(name)?;
        container.metadata = metadata;
        container.version = version.clone();
        Ok(version)
    }

    /// How much lies in each container.
    pub(super) fn usage(&self) -> Vec<ContainerUsage> {
        let of = |(name, container): (&String, &Container)| {
            let committed = || container.slots.values().filter_map(|slot| slot.committed.as_ref());
            ContainerUsage {
                name: name.clone(),
                blobs: committed().count(),
                bytes: committed().map(|blob| blob.content.len()).sum(),
                uncommitted_blocks: container.slots.values().map(|slot| slot.uncommitted.len()).sum(),
            }
        };
        self.containers.iter().map(of).collect()
    }

    pub(super) fn container(&self, name: &str) -> Result<&Container, StorageError> {
        self.containers.get(name).ok_or_else(StorageError::container_not_found)
    }

    fn container_mut(&mut self, name: &str) -> Result<&mut Container, StorageError> {
        self.containers.get_mut(name).ok_or_else(StorageError::container_not_found)
    }

    /// Containers by name, from `marker` on.
    pub(super) fn list(&self, prefix: &str, marker: &str, max: usize) -> (Vec<(&str, &Container)>, Option<String>) {
        let from = marker.max(prefix).to_owned();
        let mut found = self.containers.range(from..).take_while(|(name, _)| name.starts_with(prefix));
        let page = found.by_ref().take(max).map(|(name, container)| (name.as_str(), container)).collect();
        (page, found.next().map(|(name, _)| name.clone()))
    }

    /// A committed blob.
    pub(super) fn blob(&self, container: &str, name: &str) -> Result<Arc<Blob>, StorageError> {
        let slot = self.container(container)?.slots.get(name);
        slot.and_then(|slot| slot.committed.clone()).ok_or_else(StorageError::blob_not_found)
    }

    /// Whether a write would be taken now. The commit asks again; this is for refusing before the body arrives.
    pub(super) fn check_write(&self, container: &str, name: &str, commit: &Commit) -> Result<(), StorageError> {
        let existing = self.container(container)?.slots.get(name).and_then(|slot| slot.committed.as_ref());
        commit.conditions.check_write(existing.map(|blob| &blob.version))?;
        if existing.is_some() && !commit.may_overwrite {
            return Err(StorageError::unauthorized_overwrite());
        }
        Ok(())
    }

    /// Put Blob: replaces what is there, blocks that wait for a commit included.
    pub(super) fn put_blob(
        &mut self,
        container: &str,
        name: &str,
        chunk: Chunk,
        commit: Commit,
        now: OffsetDateTime,
    ) -> Result<Version, StorageError> {
        self.check_write(container, name, &commit)?;
        let content = Content::new(std::iter::once(Arc::new(chunk)));
        self.replace(container, name, content, Vec::new(), commit, now)
    }

    /// Put Block.
    pub(super) fn put_block(
        &mut self,
        container: &str,
        name: &str,
        id: BlockId,
        chunk: Chunk,
    ) -> Result<(), StorageError> {
        let slot = self.container_mut(container)?.slots.entry(name.to_owned()).or_default();
        if slot.uncommitted.keys().next().is_some_and(|other| other.len() != id.len()) {
            return Err(StorageError::invalid_blob_or_block());
        }
        if slot.uncommitted.len() >= UNCOMMITTED_MAX && !slot.uncommitted.contains_key(&id) {
            return Err(StorageError::block_count_exceeds());
        }
        slot.uncommitted.insert(id, Arc::new(chunk));
        Ok(())
    }

    /// Put Block List: makes the blob of the listed blocks and forgets the staged ones.
    pub(super) fn put_block_list(
        &mut self,
        container: &str,
        name: &str,
        list: &[(Source, BlockId)],
        commit: Commit,
        now: OffsetDateTime,
    ) -> Result<Version, StorageError> {
        self.check_write(container, name, &commit)?;
        let slot = self.container(container)?.slots.get(name);
        let committed: HashMap<&[u8], &Arc<Chunk>> = slot
            .and_then(|slot| slot.committed.as_ref())
            .map(|blob| blob.blocks.iter().map(|(id, chunk)| (id.as_bytes(), chunk)).collect())
            .unwrap_or_default();
        let mut blocks = Vec::with_capacity(list.len());
        for (source, id) in list {
            let staged = || slot.and_then(|slot| slot.uncommitted.get(id));
            let kept = || committed.get(id.as_bytes()).copied();
            let found = match source {
                Source::Committed => kept(),
                Source::Uncommitted => staged(),
                Source::Latest => staged().or_else(kept),
            };
            blocks.push((id.clone(), Arc::clone(found.ok_or_else(StorageError::invalid_block_list)?)));
        }
        let content = Content::new(blocks.iter().map(|(_, chunk)| Arc::clone(chunk)));
        self.replace(container, name, content, blocks, commit, now)
    }

    fn replace(
        &mut self,
        container: &str,
        name: &str,
        content: Content,
        blocks: Vec<(BlockId, Arc<Chunk>)>,
        commit: Commit,
        now: OffsetDateTime,
    ) -> Result<Version, StorageError> {
        let version = self.version(now);
        let slot = self.container_mut(container)?.slots.entry(name.to_owned()).or_default();
        let created = slot.committed.as_ref().map_or(version.last_modified, |blob| blob.created);
        slot.uncommitted.clear();
        slot.committed = Some(Arc::new(Blob {
            version: version.clone(),
            created,
            properties: commit.properties,
            metadata: commit.metadata,
            tier: commit.tier,
            content,
            blocks: Arc::new(blocks),
        }));
        Ok(version)
    }

    /// Fault: gives a committed blob another version, with these bytes or its own.
    pub(super) fn make_new_version(&mut self, container: &str, name: &str, chunk: Option<Chunk>, now: OffsetDateTime) {
        let Ok(blob) = self.blob(container, name) else { return };
        let version = self.version(now);
        let mut blob = Blob { version, ..Blob::clone(&blob) };
        if let Some(chunk) = chunk {
            blob.content = Content::new(std::iter::once(Arc::new(chunk)));
            blob.blocks = Arc::default();
            blob.properties.content_md5 = None;
        }
        if let Ok(container) = self.container_mut(container) {
            container.slots.entry(name.to_owned()).or_default().committed = Some(Arc::new(blob));
        }
    }

    /// Changes what a blob carries, not its bytes.
    pub(super) fn change(
        &mut self,
        container: &str,
        name: &str,
        conditions: &Conditions,
        now: OffsetDateTime,
        change: impl FnOnce(&mut Blob),
    ) -> Result<Version, StorageError> {
        let blob = self.blob(container, name)?;
        conditions.check_change(&blob.version)?;
        let version = self.version(now);
        let mut blob = Blob { version: version.clone(), ..Blob::clone(&blob) };
        change(&mut blob);
        let slot = self.container_mut(container)?.slots.entry(name.to_owned()).or_default();
        slot.committed = Some(Arc::new(blob));
        Ok(version)
    }

    /// Set Blob Tier: the version stays.
    pub(super) fn set_tier(&mut self, container: &str, name: &str, tier: Tier) -> Result<(), StorageError> {
        let blob = self.blob(container, name)?;
        let slot = self.container_mut(container)?.slots.entry(name.to_owned()).or_default();
        slot.committed = Some(Arc::new(Blob { tier: Some(tier), ..Blob::clone(&blob) }));
        Ok(())
    }

    /// Deletes a committed blob, and what was staged under its name.
    pub(super) fn delete_blob(
        &mut self,
        container: &str,
        name: &str,
        conditions: &Conditions,
    ) -> Result<(), StorageError> {
        let blob = self.blob(container, name)?;
        conditions.check_change(&blob.version)?;
        self.container_mut(container)?.slots.remove(name);
        Ok(())
    }

    /// The committed blob, its blocks, and the blocks that wait for a commit.
    pub(super) fn block_list(
        &self,
        container: &str,
        name: &str,
    ) -> Result<(Option<Arc<Blob>>, Sizes, Sizes), StorageError> {
        let slot = self.container(container)?.slots.get(name).ok_or_else(StorageError::blob_not_found)?;
        let committed = slot.committed.as_ref().map(|blob| sizes(blob.blocks.iter().map(|(id, chunk)| (id, chunk))));
        Ok((slot.committed.clone(), committed.unwrap_or_default(), sizes(slot.uncommitted.iter())))
    }

    /// A page of a container's blobs, by name.
    pub(super) fn list_blobs(&self, container: &str, query: &ListQuery<'_>) -> Result<Page, StorageError> {
        let mut page = Page::default();
        let mut group: Option<String> = None;
        let from = query.marker.max(query.prefix).to_owned();
        for (name, slot) in self.container(container)?.slots.range(from..) {
            let Some(rest) = name.strip_prefix(query.prefix) else { break };
            if group.as_ref().is_some_and(|group| name.starts_with(group.as_str())) {
                continue;
            }
            if slot.committed.is_none() && !query.uncommitted {
                continue;
            }
            let split = query.delimiter.and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
            let entry = match (split.and_then(|end| rest.get(..end)), &slot.committed) {
                (Some(below), _) => {
                    let prefix = format!("{}{below}", query.prefix);
                    group = Some(prefix.clone());
                    Entry::Prefix(prefix)
                }
                (None, Some(blob)) => Entry::Blob { name: name.clone(), blob: Arc::clone(blob) },
                (None, None) => Entry::Uncommitted { name: name.clone() },
            };
            if page.entries.len() == query.max {
                page.next = Some(match entry {
                    Entry::Prefix(name) | Entry::Blob { name, .. } | Entry::Uncommitted { name } => name,
                });
                break;
            }
            page.entries.push(entry);
        }
        Ok(page)
    }
}

fn sizes<'a>(blocks: impl Iterator<Item = (&'a BlockId, &'a Arc<Chunk>)>) -> Sizes {
    blocks.map(|(id, chunk)| (id.clone(), chunk.len())).collect()
}
