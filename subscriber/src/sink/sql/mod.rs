//! SQL databases: one algorithm, a dialect each.
