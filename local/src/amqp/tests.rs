//! The endpoint as clients meet it, mostly without sockets: frames in, frames out, time moved by hand.

mod client;
mod codec;
mod delivery;
mod entities;
mod faults;
mod flow;
mod fuzz;
mod greedy;
mod hostile;
mod lifetime;
mod limits;
mod links;
mod log_lines;
mod management;
mod rules;
mod scheduled;
mod sockets;
mod tls;
mod tokens;
