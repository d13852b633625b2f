use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    time::SystemTime,
};

use rand::RngExt as _;
use tempfile::TempDir;
use waybill_azure::blob::BlobHeaders;

use super::*;

const URI: &str = "https://account.blob.core.windows.net/batchtoprocess/a.jsonl.gz";
const DAY: Duration = Duration::from_secs(86_400);

fn cache(dir: &Path, bytes_max: u64) -> Arc<Cache> {
    let options = CacheOptions { dir: dir.to_owned(), bytes_max, age_max: 30 * DAY };
    Arc::new(Cache::new(options, OffsetDateTime::now_utc))
}

fn facts(etag: &str, bytes: &[u8]) -> BlobFacts {
    let (etag, length) = (etag.to_owned(), bytes.len() as u64);
    BlobFacts { etag, length, headers: BlobHeaders::default(), content_encoding: None }
}

/// Bytes that differ at every place.
fn content(length: usize) -> Vec<u8> {
    (0..length as u32).flat_map(|number| number.wrapping_mul(2_654_435_761).to_be_bytes()).take(length).collect()
}

async fn keep(cache: &Arc<Cache>, uri: &str, etag: &str, bytes: &[u8]) {
    let mut draft = cache.begin(uri, &facts(etag, bytes)).await.expect("there is room");
    for piece in bytes.chunks(100_000) {
        draft.add(piece).await;
    }
    draft.keep().await;
}

/// What is read of a copy up to its end or its first wrong block.
async fn read(copy: &Copy, from: u64) -> (Vec<u8>, Option<io::Error>) {
    let mut read = Vec::new();
    while from + (read.len() as u64) < copy.length() {
        match copy.read(from + read.len() as u64).await {
            Ok(bytes) => read.extend_from_slice(&bytes),
            Err(error) => return (read, Some(error)),
        }
    }
    (read, None)
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn what_was_kept_is_read_from_any_byte_on_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("a/b");
    for length in [0, 1, 262_143, 262_144, 262_145, 1_000_000] {
        let bytes = content(length);
        keep(&cache(&dir, 1 << 30), URI, "\"0x1\"", &bytes).await;
        let copy = cache(&dir, 1 << 30).find(URI).await.unwrap();
        assert_eq!((copy.etag(), copy.length()), ("\"0x1\"", length as u64));
        for from in [0, 1, 262_143, 262_144, 262_145, length].into_iter().filter(|from| *from <= length) {
            let (read, end) = read(&copy, from as u64).await;
            assert!(end.is_none() && read == bytes[from..], "{length} bytes from {from}");
        }
    }
    assert_eq!(names(&dir).len(), 1, "one copy for an address, and nothing else");
    assert!(cache(&dir, 1 << 30).find("https://elsewhere/a").await.is_none());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let copy = dir.join(names(&dir).first().unwrap());
        assert_eq!((mode(&dir), mode(&copy)), (0o700, 0o600));
    }
}

#[tokio::test]
async fn a_copy_that_was_changed_anywhere_never_gives_a_wrong_byte_and_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), 1 << 30);
    let bytes = content(600_000);
    keep(&cache, URI, "\"0x1\"", &bytes).await;
    let path = folder.path().join(names(folder.path()).first().unwrap());
    let good = fs::read(&path).unwrap();
    let mut random = rand::rng();
    let places = (0..120).chain(good.len() - 10..good.len()).chain((0..60).map(|_| random.random_range(0..good.len())));
    for at in places.collect::<Vec<_>>() {
        let mut changed = good.clone();
        changed[at] ^= 1 << random.random_range(0..8);
        fs::write(&path, &changed).unwrap();
        let Some(copy) = cache.find(URI).await else {
            assert!(!path.exists(), "byte {at}: it is removed");
            continue;
        };
        let (read, end) = read(&copy, 0).await;
        assert!(end.is_some() && bytes.starts_with(&read), "byte {at}");
        cache.doubt(URI, &copy, end.unwrap()).await;
        assert!(!path.exists(), "byte {at}: it is removed");
    }
    for length in [0, 3, 50, 300_000, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        assert!(cache.find(URI).await.is_none() && !path.exists(), "{length} bytes are left");
    }
    // Two blocks that changed places have right bytes, but not there.
    let blocks_at = good.len() - 600_000 - 3 * 4;
    let mut swapped = good.clone();
    let (first, second) = swapped[blocks_at..blocks_at + 2 * 262_148].split_at_mut(262_148);
    first.swap_with_slice(second);
    fs::write(&path, &swapped).unwrap();
    let (read, end) = read(&cache.find(URI).await.unwrap(), 0).await;
    assert!(end.is_some() && read.is_empty());
    let damaged = cache.figures().damaged;
    keep(&cache, URI, "\"0x1\"", &bytes).await;
    assert_eq!(self::read(&cache.find(URI).await.unwrap(), 0).await.0, bytes);
    assert_eq!(cache.figures().damaged, damaged);
}

#[tokio::test]
async fn a_copy_that_is_not_whole_is_never_there() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), 1 << 30);
    let bytes = content(600_000);
    for (given, keeps) in [(0, false), (300_000, false), (600_000, false), (300_000, true), (0, true)] {
        let mut draft = cache.begin(URI, &facts("\"0x1\"", &bytes)).await.unwrap();
        draft.add(&bytes[..given]).await;
        if keeps {
            draft.keep().await;
        } else {
            drop(draft);
        }
        assert!(cache.find(URI).await.is_none(), "{given} {keeps}");
        assert!(names(folder.path()).is_empty());
        assert_eq!(cache.figures().bytes, 0);
    }
    // More than was said is no copy either.
    let mut draft = cache.begin(URI, &facts("\"0x1\"", &bytes[..10])).await.unwrap();
    draft.add(&bytes).await;
    draft.keep().await;
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn those_that_were_not_used_for_longest_go_first_and_old_ones_go() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), 450_000);
    let bytes = content(100_000);
    let uri = |number: u32| format!("{URI}-{number}");
    let age = |number: u32, used_before: Duration, made_before: Duration| {
        let file = File::options().write(true).open(cache.path(&uri(number))).unwrap();
        let now = SystemTime::from(OffsetDateTime::now_utc()) - Duration::from_secs(1);
        let times = fs::FileTimes::new().set_accessed(now - used_before).set_modified(now - made_before);
        file.set_times(times).unwrap();
    };
    for number in 0..4 {
        keep(&cache, &uri(number), "\"0x1\"", &bytes).await;
        age(number, DAY * (4 - number), DAY * 5);
    }
    cache.hit(&cache.find(&uri(0)).await.unwrap());
    keep(&cache, &uri(4), "\"0x1\"", &bytes).await;
    let there = async || {
        let mut there = Vec::new();
        for number in 0..6 {
            if cache.find(&uri(number)).await.is_some() {
                there.push(number);
            }
        }
        there
    };
    assert_eq!(there().await, [0, 2, 3, 4]);
    assert!(cache_use(folder.path()).unwrap().bytes <= 450_000);
    age(3, Duration::ZERO, DAY * 31);
    assert!(cache.find(&uri(3)).await.is_none(), "nobody reads it any more");
    // Whoever comes later looks through it.
    let later = super::tests::cache(folder.path(), 450_000);
    keep(&later, &uri(5), "\"0x1\"", &bytes).await;
    assert_eq!(there().await, [0, 2, 4, 5]);
    assert_eq!(cache_use(folder.path()).unwrap().copies, 4);
    let larger = content(450_001);
    assert!(cache.begin(&uri(6), &facts("\"0x1\"", &larger)).await.is_none(), "it would have no room");
    assert_eq!(there().await, [0, 2, 4, 5], "and nothing went for it");
}

/// Gives a copy another time at which it was made and used.
fn at(cache: &Cache, uri: &str, time: SystemTime) {
    let file = File::options().write(true).open(cache.path(uri)).unwrap();
    file.set_times(fs::FileTimes::new().set_accessed(time).set_modified(time)).unwrap();
}

#[tokio::test]
async fn old_copies_go_without_another_one_and_a_dry_run_only_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, now) = (cache(folder.path(), 450_000), OffsetDateTime::now_utc());
    let bytes = content(100_000);
    for uri in ["old", "young"] {
        keep(&cache, uri, "\"0x1\"", &bytes).await;
    }
    at(&cache, "old", SystemTime::from(now) - DAY * 31);
    fs::write(folder.path().join("unfinished-of-a-dead-process"), "").unwrap();
    let prune = |bytes_max, dry_run| {
        let options = CacheOptions { bytes_max, ..cache.options.clone() };
        prune_cache(&options, now, dry_run).unwrap().copies
    };
    assert_eq!((prune(450_000, true), names(folder.path()).len()), (1, 3), "nothing is gone");
    cache.clear_up().await;
    assert_eq!(names(folder.path()).len(), 1);
    assert_eq!(cache.figures().bytes, cache_use(folder.path()).unwrap().bytes);
    assert!(cache.find("young").await.is_some());
    assert_eq!((prune(450_000, false), prune(1_000, true), prune(1_000, false)), (0, 1, 1), "old, and too many");
    assert!(names(folder.path()).is_empty());
    cache.clear_up().await;
    assert_eq!(cache.figures().bytes, 0);
    fs::remove_dir(folder.path()).unwrap();
    assert_eq!(prune(1_000, false), 0, "it need not be there");
}

#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_copy_old_and_no_more_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let (cache, now) = (cache(folder.path(), 250_000), SystemTime::from(OffsetDateTime::now_utc()));
    let bytes = content(100_000);
    let there = async || {
        let mut there = Vec::new();
        for uri in ["a", "b", "c", "d"] {
            if cache.find(uri).await.is_some() {
                there.push(uri);
            }
        }
        there
    };
    keep(&cache, "a", "\"0x1\"", &bytes).await;
    keep(&cache, "b", "\"0x1\"", &bytes).await;
    // Made while the clock was ahead, or it is behind now.
    at(&cache, "a", now + DAY * 400);
    at(&cache, "b", now - DAY);
    cache.clear_up().await;
    assert_eq!(there().await, ["a", "b"]);
    keep(&cache, "c", "\"0x1\"", &bytes).await;
    assert_eq!(there().await, ["b", "c"], "nobody knows how old it is");
    at(&cache, "b", now + DAY * 400);
    at(&cache, "c", now + DAY * 401);
    keep(&cache, "d", "\"0x1\"", &bytes).await;
    assert_eq!(there().await, ["c", "d"], "in their order, where all are of another clock");
}

#[tokio::test]
async fn copies_in_the_making_are_never_more_than_there_may_be_and_nothing_goes_for_what_has_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), 450_000);
    let bytes = content(100_000);
    keep(&cache, URI, "\"0x1\"", &bytes).await;
    let large = content(200_000);
    let mut drafts = Vec::new();
    for number in 0..8 {
        drafts.extend(cache.begin(&format!("{URI}-{number}"), &facts("\"0x1\"", &large)).await);
    }
    assert_eq!(drafts.len(), 2);
    assert!(cache.figures().bytes <= 450_000);
    drop(drafts);
    keep(&cache, "another", "\"0x1\"", &large).await;
    assert!(cache.find("another").await.is_some(), "their room is given back");
}

#[tokio::test]
async fn a_copy_that_cannot_be_read_now_or_was_replaced_stays() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache(folder.path(), 1 << 30);
    keep(&cache, URI, "\"0x1\"", b"one").await;
    let one = cache.find(URI).await.unwrap();
    for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::Other, io::ErrorKind::OutOfMemory] {
        cache.doubt(URI, &one, kind.into()).await;
    }
    assert_eq!(read(&cache.find(URI).await.unwrap(), 0).await.0, b"one");
    assert_eq!((cache.figures().failed, cache.figures().damaged), (3, 0));
    keep(&cache, URI, "\"0x2\"", b"other").await;
    cache.doubt(URI, &one, io::ErrorKind::InvalidData.into()).await;
    assert_eq!(read(&cache.find(URI).await.unwrap(), 0).await.0, b"other", "only the one that was read was not right");
    let other = cache.find(URI).await.unwrap();
    cache.doubt(URI, &other, io::ErrorKind::InvalidData.into()).await;
    assert!(cache.find(URI).await.is_none());
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_where_others_may_write_and_what_is_no_file_are_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    keep(&cache(&dir, 1 << 30), URI, "\"0x1\"", b"bytes").await;
    let mode = |mode| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    for open in [0o777, 0o770, 0o702] {
        mode(open);
        let cache = cache(&dir, 1 << 30);
        assert!(cache.find(URI).await.is_none());
        assert!(cache.begin(URI, &facts("\"0x1\"", b"bytes")).await.is_none());
        assert_eq!(cache.figures().failed, 2, "{open:o}");
    }
    mode(0o755);
    let cache = cache(&dir, 1 << 30);
    let copy = cache.path(URI);
    assert!(cache.find(URI).await.is_some());
    fs::rename(&copy, folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), &copy).unwrap();
    assert!(cache.find(URI).await.is_none(), "it leads out of the folder");
    // Nobody writes into it: to open it would take for ever.
    assert!(Command::new("mkfifo").arg(dir.join("unfinished-pipe")).status().unwrap().success());
    keep(&self::cache(&dir, 1 << 30), "another", "\"0x1\"", b"bytes").await;
}

#[tokio::test]
async fn where_nothing_can_be_written_there_is_no_copy_and_nothing_else_happens() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "in its way").unwrap();
    let cache = cache(&file.join("cache"), 1 << 30);
    for failed in [2, 4] {
        assert!(cache.find(URI).await.is_none());
        assert!(cache.begin(URI, &facts("\"0x1\"", b"bytes")).await.is_none());
        assert_eq!(cache.figures().failed, failed);
        assert_eq!(cache.figures().bytes, 0);
    }
}

/// A file system of a megabyte, where one may be mounted.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs"]).arg(folder.path()).status();
        mounted.is_ok_and(|status| status.success()).then(|| Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_means_no_copy_and_copies_again_when_there_is_room() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: nothing may be mounted here");
        return;
    };
    let cache = cache(disk.0.path(), 1 << 30);
    let (small, large) = (content(400_000), content(2_000_000));
    keep(&cache, "a", "\"0x1\"", &small).await;
    let mut draft = cache.begin("b", &facts("\"0x1\"", &large)).await.unwrap();
    for piece in large.chunks(100_000) {
        draft.add(piece).await;
    }
    draft.keep().await;
    assert!(cache.find("b").await.is_none());
    assert_eq!(cache.figures().failed, 1, "once for the file, not for each block");
    assert_eq!(read(&cache.find("a").await.unwrap(), 0).await.0, small, "what was there is there");
    keep(&cache, "c", "\"0x1\"", &small).await;
    assert_eq!(read(&cache.find("c").await.unwrap(), 0).await.0, small, "what had been written of it is gone");
}

/// Writes copies in a process of its own until it is killed.
async fn child(folder: &Path) {
    let cache = cache(folder, 3_000_000);
    println!("writing");
    for number in 0_u32.. {
        let length = 300_000 + number as usize % 7 * 50_000;
        keep(&cache, &format!("{URI}-{}", number % 5), &format!("\"{length}\""), &content(length)).await;
    }
}

fn spawn(folder: &Path) -> std::process::Child {
    let name = "cache::tests::processes_that_share_a_folder_and_are_killed_anywhere_leave_whole_copies";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("WAYBILL_TEST_CHILD", folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
    assert!(lines.map_while(Result::ok).any(|line| line.contains("writing")), "it began");
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_share_a_folder_and_are_killed_anywhere_leave_whole_copies() {
    if let Some(folder) = std::env::var_os("WAYBILL_TEST_CHILD") {
        return child(Path::new(&folder)).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let ours = cache(folder.path(), 3_000_000);
    let mut random = rand::rng();
    let mut copies = 0;
    for _ in 0..6 {
        let mut children = [spawn(folder.path()), spawn(folder.path())];
        let (wanted, began) = (random.random_range(5..20), std::time::Instant::now());
        let mut looks = 0;
        // The first copy takes its time where others are at work.
        while looks < wanted || copies == 0 {
            assert!(began.elapsed() < Duration::from_secs(60), "no copy is ever whole");
            looks += 1;
            for number in 0..5 {
                let Some(copy) = ours.find(&format!("{URI}-{number}")).await else { continue };
                let (read, end) = read(&copy, 0).await;
                assert!(
                    end.is_none() && read == content(copy.length() as usize),
                    "whole and right, whoever replaces it"
                );
                assert_eq!(copy.etag(), format!("\"{}\"", copy.length()));
                copies += 1;
            }
        }
        for child in &mut children {
            // SIGKILL.
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    assert_eq!(ours.figures().damaged, 0);
    // One that lives is left alone; those of the dead go when the folder is looked through.
    let mut living = ours.begin("living", &facts("\"0x1\"", &content(300_000))).await.unwrap();
    let unfinished = || names(folder.path()).into_iter().filter(|name| name.starts_with(UNFINISHED)).count();
    let another = cache(folder.path(), 3_000_000);
    keep(&another, URI, "\"0x1\"", b"bytes").await;
    assert_eq!(unfinished(), 1, "the living one's");
    living.add(&content(300_000)).await;
    living.keep().await;
    assert!(ours.find("living").await.is_some());
    assert_eq!(unfinished(), 0);
}
