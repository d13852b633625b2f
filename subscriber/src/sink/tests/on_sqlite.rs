//! What every database must do, in SQLite.

use super::world::{self, sqlite::World};

#[path = "bad_rows.rs"]
mod bad_rows;
#[path = "beginning.rs"]
mod beginning;
#[path = "columns.rs"]
mod columns;
#[path = "filtering.rs"]
mod filtering;
#[path = "foreign_keys.rs"]
mod foreign_keys;
#[path = "order.rs"]
mod order;
#[path = "parking.rs"]
mod parking;
#[path = "rebuilding.rs"]
mod rebuilding;
#[path = "streams.rs"]
mod streams;
#[path = "upgrade.rs"]
mod upgrade;
#[path = "user_tables.rs"]
mod user_tables;
#[path = "waiting.rs"]
mod waiting;
#[path = "whole.rs"]
mod whole;
#[path = "widening.rs"]
mod widening;
