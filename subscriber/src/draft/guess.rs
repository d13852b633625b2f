//! Guesses by names and values: keys, versions, and who refers to whom.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use waybill_contracts::{ColumnType, VersionType};

use super::{Sample, column::Column};

/// Columns of a composite key, most.
const KEY_PARTS_MAX: usize = 3;
/// Columns that are tried as parts of a composite key, most: bounds how many combinations there are.
const PARTS_TRIED_MAX: usize = 12;
/// Of a column's values so many hundredths are a parent's keys, else it does not refer to it.
const FOUND_PERCENT_MIN: usize = 80;

/// A name without case and punctuation: `product_id`, `ProductID` and `productId` are one.
pub(super) fn plain(name: &str) -> String {
    name.chars().filter(|character| character.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// How much a column is named like a key of this sample: 0 for not at all.
fn likeness(sample: &Sample, column: &Column) -> u8 {
    let (name, base) = (plain(&column.name), plain(&sample.entity));
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| name.ends_with(suffix));
    let is_own = name == "id"
        || name.strip_prefix(&base).is_some_and(|rest| ["id", "code", "no", "number", "key"].contains(&rest));
    if is_own {
        4
    } else if ends(&["guid", "uuid"]) {
        1
    } else if ends(&["id"]) {
        3
    } else if ends(&["code", "no", "number", "key", "sku"]) {
        2
    } else {
        0
    }
}

/// The best key by its columns' places: unique, never null, named like one. `None` when there is none.
pub(super) fn key(sample: &Sample) -> Option<Vec<usize>> {
    let columns = &sample.columns;
    let whole: Vec<usize> =
        (0..columns.len()).filter(|at| columns[*at].values == sample.rows && columns[*at].may_be_key()).collect();
    let is_version = |at: &usize| version(sample).is_some_and(|(version, _)| version == *at);
    // A time alone is nobody's key, nor is what says when a row was changed.
    let is_time = |at: &usize| matches!(columns[*at].kind(), Some(ColumnType::Timestamp | ColumnType::Date));
    let mut named: Vec<usize> = whole.iter().copied().filter(|at| likeness(sample, &columns[*at]) > 0).collect();
    named.sort_by_key(|at| (std::cmp::Reverse(likeness(sample, &columns[*at])), *at));
    let single = named
        .iter()
        .find(|at| likeness(sample, &columns[**at]) > 1 && !is_time(at) && is_unique(sample, &[**at], None));
    if let Some(at) = single {
        return Some(vec![*at]);
    }
    let mut parts: Vec<usize> = named.iter().copied().filter(|at| likeness(sample, &columns[*at]) > 1).collect();
    parts.sort_unstable();
    // What else tells rows of one parent apart: from when on, which line, which name.
    parts.extend(whole.iter().filter(|at| !named.contains(at) && !is_version(at)));
    parts.truncate(PARTS_TRIED_MAX);
    for size in 2..=KEY_PARTS_MAX {
        let found = combinations(&parts, size)
            .find(|parts| likeness(sample, &columns[parts[0]]) > 1 && is_unique(sample, parts, None));
        if found.is_some() {
            return found;
        }
    }
    // Several versions of a row may be in the sample.
    let versions = version(sample).map(|(at, _)| at);
    let several = named.iter().find(|at| {
        likeness(sample, &columns[**at]) > 2
            && !is_time(at)
            && versions.is_some()
            && is_unique(sample, &[**at], versions)
    });
    let unnamed = || whole.iter().find(|at| !is_time(at) && is_unique(sample, &[**at], None));
    several.or_else(|| named.iter().find(|at| is_unique(sample, &[**at], None))).or_else(unnamed).map(|at| vec![*at])
}

/// Chosen places in their order.
fn combinations(of: &[usize], size: usize) -> impl Iterator<Item = Vec<usize>> + '_ {
    let most = 1_u32 << of.len();
    let of_size = (1..most).filter(move |bits| bits.count_ones() as usize == size);
    let mut all: Vec<Vec<usize>> =
        of_size.map(|bits| (0..of.len()).filter(|at| bits & (1 << at) != 0).map(|at| of[at]).collect()).collect();
    // Those of the first places first.
    all.sort_by_key(|places: &Vec<usize>| {
        places.iter().map(|place| of.iter().position(|at| at == place)).collect::<Vec<_>>()
    });
    all.into_iter()
}

fn is_unique(sample: &Sample, parts: &[usize], version: Option<usize>) -> bool {
    let parts: Vec<usize> = parts.iter().copied().chain(version).collect();
    let mut seen = HashSet::with_capacity(sample.rows);
    sample.rows > 0 && tuples(sample, &parts).all(|tuple| seen.insert(tuple))
}

/// A hash of these columns for each row in which none of them is null.
fn tuples<'s>(sample: &'s Sample, parts: &'s [usize]) -> impl Iterator<Item = u64> + 's {
    (0..sample.rows).filter_map(move |row| {
        let mut hasher = DefaultHasher::new();
        for part in parts {
            match sample.columns[*part].hashes.get(row) {
                Some(0) | None => return None,
                Some(hash) => hash.hash(&mut hasher),
            }
        }
        Some(hasher.finish())
    })
}

/// The column that says when or how often a row was changed, and how it compares.
pub(super) fn version(sample: &Sample) -> Option<(usize, VersionType)> {
    let named = |column: &Column| {
        let name = plain(&column.name);
        let is_change = ["modif", "updat", "chang"].iter().any(|part| name.contains(part));
        let is_version = ["version", "revision", "rowversion", "timestamp", "ts"].contains(&name.as_str())
            || name.ends_with("version");
        (is_change, is_version)
    };
    let candidates = sample.columns.iter().enumerate().filter(|(_, column)| column.values == sample.rows);
    let mut best = None;
    for (at, column) in candidates {
        let (is_change, is_version) = named(column);
        let found = match column.kind() {
            Some(ColumnType::Timestamp) if is_change => (3, VersionType::Timestamp),
            Some(ColumnType::Timestamp) if is_version => (2, VersionType::Timestamp),
            Some(ColumnType::Text) if column.is_local_time() && (is_change || is_version) => (1, VersionType::Text),
            Some(ColumnType::Integer) if is_version => (1, VersionType::Integer),
            _ => continue,
        };
        if best.is_none_or(|((score, _), _)| score < found.0) {
            best = Some((found, at));
        }
    }
    best.map(|((_, kind), at)| (at, kind))
}

/// A reference that names and values speak for.
#[derive(Debug)]
pub(super) struct Guess {
    /// Columns, in the order of the parent's key.
    pub(super) fields: Vec<usize>,
    /// The parent, by its place.
    pub(super) parent: usize,
    /// Different values, and those that are no key of the parent's sample.
    pub(super) values: usize,
    pub(super) missing: usize,
    /// The parent refers, by others perhaps, to this entity too.
    pub(super) closes_circle: bool,
}

/// What the rows of each sample refer to.
pub(super) fn all_references(samples: &[Sample]) -> Vec<Vec<Guess>> {
    let mut all: Vec<Vec<Guess>> = (0..samples.len()).map(|at| references(samples, at)).collect();
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); samples.len()];
    for (child, guesses) in all.iter_mut().enumerate() {
        for guess in guesses.iter_mut().filter(|guess| guess.parent != child) {
            guess.closes_circle = reaches(&parents, guess.parent, child);
            if !guess.closes_circle {
                parents[child].push(guess.parent);
            }
        }
    }
    all
}

fn reaches(parents: &[Vec<usize>], from: usize, to: usize) -> bool {
    let (mut seen, mut open) = (HashSet::from([from]), vec![from]);
    while let Some(at) = open.pop() {
        if at == to {
            return true;
        }
        open.extend(parents[at].iter().filter(|next| seen.insert(**next)));
    }
    false
}

/// What the rows of a sample refer to.
fn references(samples: &[Sample], at: usize) -> Vec<Guess> {
    let child = &samples[at];
    let mut guesses = Vec::new();
    for (field, column) in child.columns.iter().enumerate().filter(|(_, column)| column.may_be_key()) {
        let best = (0..samples.len())
            .filter_map(|parent| refers(samples, at, field, column, parent))
            .max_by_key(|found| found.0);
        guesses.extend(best.map(|(_, guess)| guess));
    }
    for (parent, other) in samples.iter().enumerate().filter(|(parent, other)| *parent != at && other.key.len() > 1) {
        let fields: Vec<usize> = other.key.iter().filter_map(|part| place(child, &other.columns[*part])).collect();
        // With one key for both, nobody says who is whose parent; and a row's details are not its parents.
        let is_same_key = fields.iter().all(|field| child.key.contains(field));
        let is_detail = child.key.iter().all(|part| fields.contains(part));
        if fields.len() == other.key.len() && !is_same_key && !is_detail {
            let keys: Vec<u64> = sorted(tuples(other, &other.key).collect());
            let values = sorted(tuples(child, &fields).collect());
            guesses.extend(weigh(other, fields, parent, &values, &keys));
        }
    }
    guesses
}

fn sorted(mut values: Vec<u64>) -> Vec<u64> {
    values.sort_unstable();
    values.dedup();
    values
}

/// The column of this name and type.
fn place(sample: &Sample, like: &Column) -> Option<usize> {
    sample.columns.iter().position(|column| plain(&column.name) == plain(&like.name) && column.kind() == like.kind())
}

/// Whether a column refers to this parent, and how much its name says so.
fn refers(
    samples: &[Sample],
    child: usize,
    field: usize,
    column: &Column,
    parent: usize,
) -> Option<((u8, usize), Guess)> {
    let (of, to) = (&samples[child], &samples[parent]);
    let [key] = *to.key else { return None };
    let key_column = &to.columns[key];
    if (child == parent && key == field) || column.kind() != key_column.kind() {
        return None;
    }
    let (name, key_name, base) = (plain(&column.name), plain(&key_column.name), plain(&to.entity));
    // An `id` says nothing by itself.
    let is_telling = key_name.len() > 2 && !["key", "code", "guid", "uuid", "name"].contains(&key_name.as_str());
    let by_entity =
        |name: &str| name.strip_suffix("id").or_else(|| name.strip_suffix("code")).unwrap_or(name).ends_with(&base);
    let strength = if is_telling && name == key_name {
        if key_name.starts_with(&base) { 4 } else { 2 }
    } else if name.len() > base.len() && by_entity(&name) {
        3
    } else if (is_telling && name.ends_with(&key_name)) || (child == parent && name == format!("parent{key_name}")) {
        1
    } else {
        return None;
    };
    let (keys, values) = (key_column.distinct(), column.distinct());
    // Two tables with one key: the one that it is named after is the parent, else the one with more rows.
    if child != parent && of.key == [field] {
        let is_named_after = |sample: &Sample| name.starts_with(&plain(&sample.entity));
        let is_child =
            if is_named_after(to) != is_named_after(of) { is_named_after(to) } else { values.len() < keys.len() };
        if !is_child {
            return None;
        }
    }
    let guess = weigh(to, vec![field], parent, &values, &keys)?;
    Some(((strength, base.len()), guess))
}

fn weigh(to: &Sample, fields: Vec<usize>, parent: usize, values: &[u64], keys: &[u64]) -> Option<Guess> {
    let missing = values.iter().filter(|value| keys.binary_search(value).is_err()).count();
    let found = values.len() - missing;
    // Of a sample that was not read to its end, the other keys may follow.
    let is_enough = if to.is_cut { found > 0 } else { found * 100 >= values.len() * FOUND_PERCENT_MIN };
    (found > 0 && is_enough).then_some(Guess { fields, parent, values: values.len(), missing, closes_circle: false })
}

/// Other columns that would do as a key, named like one.
pub(super) fn other_keys(sample: &Sample) -> Vec<usize> {
    let would_do = |at: &usize| {
        let column = &sample.columns[*at];
        sample.key != [*at] && column.values == sample.rows && column.may_be_key() && likeness(sample, column) > 0
    };
    (0..sample.columns.len()).filter(would_do).filter(|at| is_unique(sample, &[*at], None)).collect()
}
