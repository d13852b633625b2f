//! Publishes changes as compressed files, and one message for each.
