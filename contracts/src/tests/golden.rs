//! Access to `golden/`, and the test that nothing in it lies unread. A golden file is never edited: it stands for what
//! somebody may have sent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// The bytes of `golden/{folder}/{name}`.
pub(super) fn read(folder: &str, name: &str) -> Vec<u8> {
    let path = root().join(folder).join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The same as text.
pub(super) fn read_text(folder: &str, name: &str) -> String {
    String::from_utf8(read(folder, name)).unwrap()
}

fn files(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            let name = path.strip_prefix(root()).unwrap().components();
            found.insert(name.map(|part| part.as_os_str().to_str().unwrap()).collect::<Vec<_>>().join("/"));
        }
    }
}

#[test]
fn every_golden_file_is_read_by_a_test_and_only_once() {
    let mut found = BTreeSet::new();
    files(&root(), &mut found);
    let mut expected = BTreeSet::new();
    let read = [
        super::messages::golden(),
        super::grants::golden(),
        super::entities::golden(),
        super::ready::golden(),
        super::manifests::golden(),
    ];
    for name in read.into_iter().flatten() {
        assert!(expected.insert(name.clone()), "{name} is listed twice");
    }
    assert_eq!(found, expected);
}
