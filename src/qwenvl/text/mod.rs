//! The request pad `text`: what it says (`timeline`), what the threads tell it and it waits for
//! (`stream`), what it pushes (`pad`), and to whom (`recorder`).

#[cfg(test)]
mod model_check;
pub(super) mod pad;
mod recorder;
mod stream;
mod timeline;

pub(super) use self::stream::{Mark, Phase, Text};
pub(super) use self::timeline::Placing;
use super::{monitor, sync};
