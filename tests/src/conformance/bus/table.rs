//! What became of every operation with every client, for people.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use super::operations::{Client, Operation};

/// What a client told of a case.
pub(super) struct Outcome {
    pub(super) error: Option<String>,
    pub(super) seconds: f64,
}

/// Operation × client.
pub(super) struct Table<'a> {
    operations: &'a [Operation],
    columns: Vec<(Client, BTreeMap<String, Outcome>)>,
}

/// What stands in a cell.
enum Cell<'a> {
    Ok,
    NotInSdk(&'static str),
    Failed(&'a str),
}

impl<'a> Table<'a> {
    pub(super) fn new(operations: &'a [Operation], columns: Vec<(Client, BTreeMap<String, Outcome>)>) -> Self {
        Self { operations, columns }
    }

    fn cell<'o>(operation: &Operation, client: Client, outcomes: &'o BTreeMap<String, Outcome>) -> Cell<'o> {
        match (operation.why_not(client), outcomes.get(operation.name)) {
            (Some(reason), None) => Cell::NotInSdk(reason),
            (Some(_), Some(_)) => Cell::Failed("the list says that this client has no such case, and it has"),
            (None, None) => Cell::Failed("the client told nothing of it"),
            (None, Some(outcome)) => outcome.error.as_deref().map_or(Cell::Ok, Cell::Failed),
        }
    }

    /// One line for each case that failed or is missing, and for each that nobody asked for.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (client, outcomes) in &self.columns {
            for operation in self.operations {
                if let Cell::Failed(why) = Self::cell(operation, *client, outcomes) {
                    failures.push(format!("{}, {}: {why}", client.name(), operation.name));
                }
            }
            let known = |name: &String| self.operations.iter().any(|operation| operation.name == name);
            let unknown = outcomes.keys().filter(|name| !known(name));
            failures.extend(unknown.map(|name| format!("{}, {name}: the list has no such operation", client.name())));
        }
        failures
    }

    /// The table, with a note for every reason why a client has no case.
    pub(super) fn markdown(&self) -> String {
        let mut notes: Vec<&str> = Vec::new();
        let mut text = String::from("| | operation |");
        self.columns.iter().for_each(|(client, _)| {
            write!(text, " {} |", client.name()).expect("text grows");
        });
        write!(text, "\n|---|---|{}\n", "---|".repeat(self.columns.len())).expect("text grows");
        let mut area = "";
        for operation in self.operations {
            let heading = if operation.area == area { "" } else { operation.area };
            area = operation.area;
            write!(text, "| {heading} | `{}` |", operation.name).expect("text grows");
            for (client, outcomes) in &self.columns {
                let cell = match Self::cell(operation, *client, outcomes) {
                    Cell::Ok => "ok".to_owned(),
                    Cell::Failed(_) => "**FAILED**".to_owned(),
                    Cell::NotInSdk(reason) => {
                        let known = notes.iter().position(|note| *note == reason);
                        let note = known.unwrap_or_else(|| {
                            notes.push(reason);
                            notes.len() - 1
                        });
                        format!("not in SDK ({})", note + 1)
                    }
                };
                write!(text, " {cell} |").expect("text grows");
            }
            text.push('\n');
        }
        text.push('\n');
        for (note, reason) in notes.iter().enumerate() {
            writeln!(text, "{}. {reason}", note + 1).expect("text grows");
        }
        text
    }

    /// How many of what, and how long it took.
    pub(super) fn summary(&self) -> String {
        let mut text = self.markdown();
        for (client, outcomes) in &self.columns {
            let failed = outcomes.values().filter(|outcome| outcome.error.is_some()).count();
            let slowest = outcomes.iter().max_by(|a, b| a.1.seconds.total_cmp(&b.1.seconds));
            let slowest =
                slowest.map_or(String::new(), |(name, outcome)| format!("; slowest: {name}, {:.1} s", outcome.seconds));
            writeln!(text, "{}: {} cases, {failed} failed{slowest}", client.name(), outcomes.len())
                .expect("text grows");
        }
        text
    }

    pub(super) fn write(&self, path: &Path) {
        std::fs::write(path, self.markdown())
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
}

#[cfg(test)]
mod tests {
    use super::super::operations::operations;
    use super::*;

    fn ok() -> Outcome {
        Outcome { error: None, seconds: 0.1 }
    }

    #[test]
    fn a_case_that_is_missing_failed_or_not_in_the_list_is_a_failure() {
        let operations = operations();
        let client = Client::Python;
        let has = |operation: &&Operation| operation.why_not(client).is_none();
        let mut outcomes: BTreeMap<String, Outcome> =
            operations.iter().filter(has).map(|operation| (operation.name.to_owned(), ok())).collect();
        let failures = |outcomes| Table::new(&operations, vec![(client, outcomes)]).failures();

        outcomes.remove("complete");
        outcomes.insert("abandon".to_owned(), Outcome { error: Some("boom".to_owned()), seconds: 0.1 });
        outcomes.insert("no-token".to_owned(), ok());
        outcomes.insert("teleport".to_owned(), ok());
        assert_eq!(
            failures(outcomes),
            [
                "Python, complete: the client told nothing of it",
                "Python, abandon: boom",
                "Python, no-token: the list says that this client has no such case, and it has",
                "Python, teleport: the list has no such operation",
            ]
        );
    }
}
