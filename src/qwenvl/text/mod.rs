//! The request pad `text`: what it says (`timeline`), what the threads tell it and it waits for
//! (`stream`), what it pushes (`pad`).

#[cfg(test)]
mod model_check;
pub(super) mod pad;
mod stream;
mod timeline;

pub(super) use self::stream::{Mark, Phase, Text};
pub(super) use self::timeline::Placing;
use super::{monitor, sync};
