//! `attach=window`: holds the video until its windows have ended; the source pad's task then pushes
//! it with their descriptions. `queue` decides which entry may leave, `stream` takes the other
//! threads' reports and waits, `pad` is the pad and its task.

#[cfg(test)]
mod model_check;
pub(super) mod pad;
mod queue;
mod stream;

pub(super) use self::queue::StreamPosition;
pub(super) use self::stream::{HeldBuffers, Item};
use super::{monitor, sync};
