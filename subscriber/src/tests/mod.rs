//! The subscriber against the services of `waybill-local`, one part at a time.

mod draft;
mod files;
mod grants;
mod health;
mod looking;
mod receiving;
mod reconciling;
mod sink;
mod waiting;
mod working;
mod world;
