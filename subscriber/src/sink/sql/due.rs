//! Keys whose waiting rows are to be let go: the children of what was let go last come first.

use super::tables::TableId;

/// What is left to do. Rows are let go some at a time, and what waits for those comes before the rest of them: so at most one
/// portion is held of each level of a tree, whatever waits in all. `K`: a key, or several whose rows are let go together.
#[derive(Debug)]
pub(super) struct Due<K> {
    open: Vec<Open<K>>,
}

/// What is there, and waited for.
#[derive(Debug)]
struct Open<K> {
    table: TableId,
    key: K,
    /// The number of the last row that was let go.
    after: i64,
}

impl<K> Due<K> {
    pub(super) fn new(arrived: Vec<(TableId, K)>) -> Self {
        let mut due = Self { open: Vec::new() };
        due.add(arrived);
        due
    }

    fn add(&mut self, arrived: Vec<(TableId, K)>) {
        self.open.extend(arrived.into_iter().map(|(table, key)| Open { table, key, after: 0 }));
    }

    /// The table and the key that rows wait for, and after which of them to go on.
    pub(super) fn next(&self) -> Option<(TableId, &K, i64)> {
        self.open.last().map(|open| (open.table, &open.key, open.after))
    }

    /// Some rows that waited for the next one were let go, and now these keys are there. `more`: the last row's number, unless
    /// there are no others.
    pub(super) fn let_go(&mut self, more: Option<i64>, arrived: Vec<(TableId, K)>) {
        match (self.open.last_mut(), more) {
            (Some(open), Some(after)) => open.after = after,
            // A chain is no longer for what is behind.
            (Some(_), None) => drop(self.open.pop()),
            (None, _) => {}
        }
        self.add(arrived);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a tree go: `children` are those of a key. Gives how many keys came, and how many were held at most.
    fn let_all_go(root: &str, portion: usize, children: impl Fn(&str) -> usize) -> (usize, usize) {
        let mut due = Due::new(vec![(TableId(0), root.to_owned())]);
        let (mut come, mut most) = (0, 0);
        while let Some((table, key, after)) = due.next() {
            let (from, count) = (usize::try_from(after).unwrap(), children(key));
            let to = count.min(from + portion);
            let arrived: Vec<_> = (from..to).map(|nth| (table, format!("{key}.{nth}"))).collect();
            come += arrived.len();
            due.let_go((to < count).then(|| i64::try_from(to).unwrap()), arrived);
            most = most.max(due.open.len());
        }
        (come, most)
    }

    #[test]
    fn what_waits_for_rows_that_waited_is_let_go_before_the_rest_of_them() {
        let level = |key: &str| key.matches('.').count();
        let wide = |key: &str| [100_000, 2, 1, 0][level(key)];
        assert_eq!(let_all_go("r", 50, wide), (100_000 * 5, 52), "a portion of the many, and one of what is below");
        let chain = |key: &str| usize::from(level(key) < 2_000);
        assert_eq!(let_all_go("r", 50, chain), (2_000, 1));
    }
}
