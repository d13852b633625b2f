//! One file a task; each runs with no arguments.
