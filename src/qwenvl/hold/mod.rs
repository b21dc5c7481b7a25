//! `attach=window`: the video is held here until its windows have ended, and leaves with their
//! descriptions from the source pad's own task. What may leave when (`queue`), what the threads tell
//! it and it waits for (`stream`), the pad and its task (`pad`).

#[cfg(test)]
mod model_check;
pub(super) mod pad;
mod queue;
mod stream;

pub(super) use self::queue::StreamPosition;
pub(super) use self::stream::{HeldBuffers, Item};
use super::{monitor, sync};
