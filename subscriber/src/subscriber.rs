//! The subscriber as one thing: builder, run, staged stop.

/// Everything a subscriber does, ready to run.
#[derive(Debug)]
pub struct Subscriber {}

/// Makes a [`Subscriber`].
#[derive(Debug)]
pub struct SubscriberBuilder {}
