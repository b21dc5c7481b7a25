//! What a hub, a mirror or whoever they redirect to cannot do. docs/security.md lists the promises.
//!
//! Every case ends with `Case::check`: nothing was written but the cache, and no path in it leads
//! out of it.

#![allow(clippy::unwrap_used)]

#[path = "../support/hub_case.rs"]
mod hub_case;
#[path = "../support/hub_server.rs"]
mod hub_server;

mod bounds;
mod content;
mod paths;
mod token;
