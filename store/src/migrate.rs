//! Whose file it is, and which steps brought it to its schema.

/// One numbered step. Steps are append-only: a released one never changes.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// What it does, for logs.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

/// What a database of ours looks like. The schema version (`PRAGMA user_version`) is the number of steps taken.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// `PRAGMA application_id`: says whose file it is.
    pub application_id: i32,
    /// What it is called in errors: `inbox`, `outbox`, `sink`.
    pub name: &'static str,
    /// The steps from an empty file on.
    pub migrations: &'static [Migration],
    /// Whether a file with tables of others, and no application id, may be taken as well: a sink lies in the user's own
    /// database. Then the version is kept in a table `_waybill_schema` instead of the pragmas.
    pub shared_with_user: bool,
}
