//! `attach=window`: the video is held here until its windows have ended, and leaves with their
//! descriptions from the source pad's own task. `queue` decides what may leave when, `stream` takes
//! what the threads report and waits, `pad` is the pad and its task.

#[cfg(test)]
mod model_check;
pub(super) mod pad;
mod queue;
mod stream;

pub(super) use self::queue::StreamPosition;
pub(super) use self::stream::{HeldBuffers, Item};
use super::{monitor, sync};
