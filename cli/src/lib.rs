//! What the binaries share: settings from file, environment and flags; logs; output for people and programs; signals.

pub mod args;
pub mod checks;
pub mod exit;
pub mod health;
pub mod local;
pub mod metrics;
pub mod output;
pub mod progress;
pub mod settings;
pub mod signals;
pub mod starter;
pub mod work;

#[cfg(test)]
mod tests;
