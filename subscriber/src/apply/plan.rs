//! An entity as the sink needs it, and what each row of a batch comes to.
