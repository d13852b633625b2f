//! The subscriber against the services of `waybill-local`, one part at a time.

mod atomic;
mod caching;
mod cancelling;
mod draft;
mod files;
mod grants;
mod health;
mod looking;
mod manifests;
mod opening;
mod places;
mod receiving;
mod reconciling;
mod scheduling;
mod segments;
mod sink;
mod sorting;
mod starting;
mod stopping;
mod together;
mod waiting;
mod working;
mod world;
