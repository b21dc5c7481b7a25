//! What a hub, a mirror or whoever they redirect to cannot do. docs/security.md lists the promises.
//!
//! Every case ends with `Case::check`: nothing was written but the cache, and no path in it leads
//! out of it.

mod bounds;
mod content;
mod paths;
mod token;
