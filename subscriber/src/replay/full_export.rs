//! Full exports from which tables can be derived without the files before them.
//!
//! A full export holds all rows of its type as of one number: what an earlier file brought is in it too, or was deleted. So it stands
//! for files that nobody has any more, if it is whole, and if no other file could tell more of the rows: its type alone makes a table
//! of rows with a key, and one publisher with one epoch has ever sent files of it. Whether no row of it is bad shows when the
//! table is derived. Between two that would do, the later one is taken: it needs fewer files.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use waybill_contracts::{Entities, Snapshot};

use crate::{
    FileKey,
    apply::{Begin, Side},
    inbox::{Announced, Arrival, InboxRow, State, Waybill},
};

/// Full exports of a type that are looked at, the latest ones.
const LOOKED_AT_MAX: usize = 16;

/// A full export whose parts all took effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullExport {
    /// Its place.
    pub begin: Begin,
    /// In their order.
    pub parts: Vec<Part>,
}

/// A part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its number in the inbox.
    pub id: i64,
    /// The file.
    pub file: FileKey,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct FullExports {
    /// Those that stand for the files before them, the latest of a type first.
    pub whole: Vec<FullExport>,
    /// Those that do not, likewise.
    pub unfit: Vec<UnfitFullExport>,
}

/// A full export at which no table can begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfitFullExport {
    /// Where it is.
    pub begin: Begin,
    /// Why.
    pub flaw: Flaw,
}

/// Why a full export does not stand for the files before it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Flaw {
    /// Its type has no entity: each row is an event, and those that are gone are in no full export.
    NoKey,
    /// Other types make the table too.
    SeveralTypes {
        /// The entity.
        entity: String,
        /// All of them.
        types: Vec<String>,
    },
    /// Other publishers or epochs have sent files of the type.
    SeveralSources {
        /// How many there are.
        sources: u64,
    },
    /// A file without a number may be older or newer.
    Unnumbered {
        /// Its number in the inbox.
        id: i64,
    },
    /// Parts did not come.
    PartsMissing {
        /// How many.
        missing: u64,
        /// The first of them.
        first: u64,
        /// How many there are in all.
        of: u64,
    },
    /// A part did not take effect.
    PartNotDone {
        /// Which.
        part: u64,
        /// Its number in the inbox.
        id: i64,
        /// Where it is in its life.
        state: State,
    },
    /// Messages say different things of it.
    Contradiction {
        /// The number in the inbox of one of them.
        id: i64,
    },
    /// The blob of a part does not say that it is one.
    NotInBlob {
        /// Its number in the inbox.
        id: i64,
    },
    /// The blob of a part is gone.
    BlobGone {
        /// Its number in the inbox.
        id: i64,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => write!(f, "its type has no entity, so that rows which are gone since are in no full export"),
            Self::SeveralTypes { entity, types } => {
                write!(f, "entity {entity:?} is made of several types: {}", types.join(", "))
            }
            Self::SeveralSources { sources } => write!(
                f,
                "files of its type came from {sources} publishers or epochs, and it says nothing of what the others deleted"
            ),
            Self::Unnumbered { id } => write!(f, "file {id} of its type has no number, and may be older or newer"),
            Self::PartsMissing { missing: 1, first, of } => write!(f, "part {first} of {of} never came"),
            Self::PartsMissing { missing, first, of } => {
                write!(f, "{missing} of its {of} parts never came, the first of them part {first}")
            }
            Self::PartNotDone { part, id, state: state @ (State::Saved | State::Working) } => {
                write!(f, "part {part}, file {id}, is {state}; let `waybill-subscriber process` work it first")
            }
            Self::PartNotDone { part, id, state } => write!(f, "part {part}, file {id}, is {state}"),
            Self::Contradiction { id } => write!(f, "the message of file {id} contradicts that of another part"),
            Self::NotInBlob { id } => write!(
                f,
                "the blob of file {id} does not say of itself what its message says, that it is this part of a full export of this type; \
                 a message alone proves nothing"
            ),
            Self::BlobGone { id } => write!(f, "the blob of file {id} is gone"),
        }
    }
}

impl FullExport {
    /// Whether a table that begins here does without this file.
    #[must_use]
    pub fn replaces(&self, row: &InboxRow) -> bool {
        if row.blob_type.as_ref() != Some(&self.begin.blob_type) {
            return false;
        }
        let number = row.sequence_number;
        let Some(Arrival { announced: Announced::File(waybill), .. }) = super::arrival_of(row.clone()) else {
            return false;
        };
        self.begin.side(&waybill.metadata.blob_type, &waybill.position(number)) == Some(Side::Before)
    }

    /// Whether a file of the type of which nothing but its key is known any more is its publisher's. Then it is before it: those
    /// after it are all known.
    #[must_use]
    pub fn may_replace(&self, file: &FileKey) -> bool {
        file.as_str().starts_with(FileKey::of_export(&self.begin.publisher, "").as_str())
    }

    /// As unfit for this reason.
    #[must_use]
    pub fn unfit(self, flaw: Flaw) -> UnfitFullExport {
        UnfitFullExport { begin: self.begin, flaw }
    }
}

/// Goes over the files of an inbox.
pub(super) struct Search<'e> {
    entities: &'e Entities,
    types: BTreeMap<String, OfType>,
}

#[derive(Default)]
struct OfType {
    sources: BTreeSet<(String, String)>,
    unnumbered: Option<i64>,
    /// By place, id, publisher and epoch.
    candidates: BTreeMap<(u64, String, String, String), Candidate>,
}

struct Candidate {
    of: u64,
    parts: BTreeMap<u64, (Part, State)>,
    contradiction: Option<i64>,
}

impl<'e> Search<'e> {
    pub(super) fn new(entities: &'e Entities) -> Self {
        Self { entities, types: BTreeMap::new() }
    }

    pub(super) fn see(&mut self, id: i64, state: State, waybill: Waybill) {
        let snapshot = waybill.snapshot();
        let Waybill { key, metadata, sequence, .. } = waybill;
        let of_type = self.types.entry(metadata.blob_type).or_default();
        let Some(sequence) = sequence else {
            of_type.unnumbered = Some(id);
            return;
        };
        of_type.sources.insert((sequence.publisher.clone(), sequence.epoch.clone()));
        let Some(Snapshot { id: snapshot, part, of, as_of }) = snapshot else { return };
        let place = (as_of, snapshot, sequence.publisher, sequence.epoch);
        let new = || Candidate { of, parts: BTreeMap::new(), contradiction: None };
        let candidate = of_type.candidates.entry(place).or_insert_with(new);
        if candidate.of != of || candidate.parts.insert(part, (Part { id, file: key }, state)).is_some() {
            candidate.contradiction = Some(id);
        }
        if of_type.candidates.len() > LOOKED_AT_MAX {
            of_type.candidates.pop_first();
        }
    }

    /// Somebody has sent files of a type, which may be forgotten by now.
    pub(super) fn source(&mut self, blob_type: &str, publisher: &str, epoch: &str) {
        if let Some(of_type) = self.types.get_mut(blob_type) {
            of_type.sources.insert((publisher.to_owned(), epoch.to_owned()));
        }
    }

    pub(super) fn finish(self) -> FullExports {
        let mut found = FullExports::default();
        for (blob_type, of_type) in self.types {
            let of_type_flaw = flaw_of_type(self.entities, &blob_type).or_else(|| of_type.flaw());
            for ((as_of, snapshot, publisher, epoch), candidate) in of_type.candidates.into_iter().rev() {
                let flaw = of_type_flaw.clone().or_else(|| candidate.flaw());
                let begin = Begin { blob_type: blob_type.clone(), publisher, epoch, as_of, snapshot };
                match flaw {
                    Some(flaw) => found.unfit.push(UnfitFullExport { begin, flaw }),
                    None => {
                        let parts = candidate.parts.into_values().map(|(part, _)| part).collect();
                        found.whole.push(FullExport { begin, parts });
                    }
                }
            }
        }
        found
    }
}

/// What speaks against any full export of a type.
fn flaw_of_type(entities: &Entities, blob_type: &str) -> Option<Flaw> {
    match entities.for_type(blob_type) {
        None => Some(Flaw::NoKey),
        Some(entity) if entity.types.len() > 1 => {
            Some(Flaw::SeveralTypes { entity: entity.name.clone(), types: entity.types.clone() })
        }
        Some(_) => None,
    }
}

impl OfType {
    fn flaw(&self) -> Option<Flaw> {
        if self.sources.len() > 1 {
            return Some(Flaw::SeveralSources { sources: self.sources.len() as u64 });
        }
        self.unnumbered.map(|id| Flaw::Unnumbered { id })
    }
}

impl Candidate {
    fn flaw(&self) -> Option<Flaw> {
        if let Some(id) = self.contradiction {
            return Some(Flaw::Contradiction { id });
        }
        // A message keeps `part` between 1 and `of`.
        let missing = self.of - self.parts.len() as u64;
        if missing > 0 {
            let first = (1..).zip(self.parts.keys()).find(|(expected, part)| expected != *part);
            let first = first.map_or(self.parts.len() as u64 + 1, |(expected, _)| expected);
            return Some(Flaw::PartsMissing { missing, first, of: self.of });
        }
        let not_done = self.parts.iter().find(|(_, (_, state))| *state != State::Done);
        not_done.map(|(part, (Part { id, .. }, state))| Flaw::PartNotDone { part: *part, id: *id, state: *state })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::receive::announced;

    const ENTITIES: &str = r#"
        [entity.item]
        types = ["Item"]
        key = ["id"]
        [entity.price]
        types = ["Price", "Discount"]
        key = ["id"]
        version = { field = "v", type = "integer" }
    "#;

    /// A file as its message says it.
    struct File(&'static str, &'static str, Option<u64>, Option<(&'static str, u64, u64, u64)>);

    fn search(files: &[(File, State)]) -> FullExports {
        let entities = Entities::parse(ENTITIES, "entities.toml").unwrap();
        let mut search = Search::new(&entities);
        for (id, (File(blob_type, epoch, sequence, snapshot), state)) in (1..).zip(files) {
            let mut extras = format!(r#""exportId":"{id}","publisher":"shop""#);
            if let Some(sequence) = sequence {
                write!(extras, r#","epoch":"{epoch}","sequence":{sequence}"#).unwrap();
            }
            if let Some((name, part, of, as_of)) = snapshot {
                write!(extras, r#","snapshot":{{"id":"{name}","part":{part},"of":{of},"asOf":{as_of}}}"#).unwrap();
            }
            let body = format!(
                r#"{{"blobType":"{blob_type}","correlationId":"c","uri":"https://a.example/b/{id}","contentType":"text/csv",
                     "contentEncoding":null,"properties":{{"waybill":{{{extras}}}}}}}"#
            );
            let Announced::File(waybill) = announced(body.as_bytes()) else { panic!("{body}") };
            search.see(id, *state, *waybill);
        }
        search.finish()
    }

    fn change(blob_type: &'static str, sequence: u64) -> (File, State) {
        (File(blob_type, "e", Some(sequence), None), State::Done)
    }

    fn part(sequence: u64, snapshot: (&'static str, u64, u64, u64)) -> (File, State) {
        (File("Item", "e", Some(sequence), Some(snapshot)), State::Done)
    }

    fn flaws(found: &FullExports) -> Vec<String> {
        found.unfit.iter().map(|of| format!("{} {}: {}", of.begin.snapshot, of.begin.as_of, of.flaw)).collect()
    }

    #[test]
    fn a_full_export_is_whole_with_all_its_parts_and_the_latest_comes_first() {
        let found = search(&[
            part(4, ("a", 1, 1, 3)),
            change("Item", 5),
            part(9, ("b", 2, 2, 5)),
            part(7, ("b", 1, 2, 5)),
            change("Other", 1),
        ]);
        assert_eq!(flaws(&found), Vec::<String>::new());
        let whole: Vec<_> = found.whole.iter().map(|of| (of.begin.snapshot.as_str(), of.begin.as_of)).collect();
        assert_eq!(whole, [("b", 5), ("a", 3)]);
        assert_eq!(found.whole[0].parts.iter().map(|part| part.id).collect::<Vec<_>>(), [4, 3], "in their order");
    }

    #[test]
    fn whatever_it_lacks_is_told() {
        let quarantined = |(file, _): (File, State)| (file, State::Quarantined);
        let saved = |(file, _): (File, State)| (file, State::Saved);
        for (files, flaw) in [
            (vec![part(4, ("a", 2, 3, 3)), part(5, ("a", 3, 3, 3))], "part 1 of 3 never came"),
            (
                vec![part(4, ("a", 1, 5, 3)), part(5, ("a", 3, 5, 3))],
                "3 of its 5 parts never came, the first of them part 2",
            ),
            (vec![part(4, ("a", 1, 2, 3))], "part 2 of 2 never came"),
            (vec![part(4, ("a", 1, 2, 3)), quarantined(part(5, ("a", 2, 2, 3)))], "part 2, file 2, is quarantined"),
            (
                vec![saved(part(4, ("a", 1, 1, 3)))],
                "part 1, file 1, is saved; let `waybill-subscriber process` work it first",
            ),
            (
                vec![part(4, ("a", 1, 2, 3)), part(5, ("a", 2, 2, 3)), part(6, ("a", 2, 2, 3))],
                "the message of file 3 contradicts that of another part",
            ),
            (
                vec![part(4, ("a", 1, 1, 3)), part(5, ("a", 2, 2, 3))],
                "the message of file 2 contradicts that of another part",
            ),
            (
                vec![part(4, ("a", 1, 1, 3)), (File("Item", "f", Some(1), None), State::Done)],
                "files of its type came from 2 publishers or epochs, and it says nothing of what the others deleted",
            ),
            (
                vec![part(4, ("a", 1, 1, 3)), (File("Item", "", None, None), State::Done)],
                "file 2 of its type has no number, and may be older or newer",
            ),
            (
                vec![(File("Price", "e", Some(4), Some(("a", 1, 1, 3))), State::Done)],
                "entity \"price\" is made of several types: Price, Discount",
            ),
            (
                vec![(File("Log", "e", Some(4), Some(("a", 1, 1, 3))), State::Done)],
                "its type has no entity, so that rows which are gone since are in no full export",
            ),
        ] {
            let found = search(&files);
            assert_eq!(found.whole, []);
            assert_eq!(flaws(&found), [format!("a 3: {flaw}")]);
        }
    }

    #[test]
    fn whoever_ever_sent_files_of_the_type_counts_though_they_are_forgotten() {
        let entities = Entities::parse(ENTITIES, "entities.toml").unwrap();
        let mut search = Search::new(&entities);
        search.source("Item", "shop", "e");
        assert!(search.types.is_empty(), "of a type without a file there is no full export");
        search.types.insert("Item".to_owned(), OfType::default());
        search.source("Item", "shop", "e");
        search.source("Item", "shop", "e");
        assert_eq!(search.types["Item"].flaw(), None);
        search.source("Item", "another", "e");
        assert_eq!(search.types["Item"].flaw(), Some(Flaw::SeveralSources { sources: 2 }));
    }

    #[test]
    fn only_the_latest_ones_are_looked_at() {
        let files: Vec<_> = (1..=30).map(|n| part(n + 1, ("a", 1, 1, n))).collect();
        let found = search(&files);
        assert_eq!((found.whole.len(), found.whole[0].begin.as_of), (LOOKED_AT_MAX, 30));
    }

    #[test]
    fn it_does_without_what_is_before_it_and_what_is_its_publishers() {
        let found = search(&[part(4, ("a", 1, 1, 3))]);
        let of = &found.whole[0];
        assert!(of.may_replace(&FileKey::of_export("shop", "x")));
        assert!(!of.may_replace(&FileKey::of_export("shopping", "x")));
        assert!(!of.may_replace(&FileKey::of_uri("https://a.example/b/1")));
    }
}
