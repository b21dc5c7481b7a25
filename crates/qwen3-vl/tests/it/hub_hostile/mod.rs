//! What a hub, a mirror and the hosts that they redirect to cannot do. docs/security.md lists the
//! promises.
//!
//! Every case ends with `Case::check`: only the cache was written, and no path in it leads out of
//! it.

mod bounds;
mod content;
mod paths;
mod token;
