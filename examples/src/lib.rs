//! What the examples share: the AdventureWorks data of `examples/data`, as changes to publish and as a truth to compare a
//! database with; and a playground for examples that only subscribe.

pub mod adventureworks;
pub mod playground;
