//! The request pad `text`: the order and times of its output (`timeline`), the reports of the other
//! threads and the wait of its task (`stream`), the pad (`pad`), and the search for a
//! `splitmuxsink` behind it (`recorder`).

#[cfg(test)]
mod model_check;
pub(super) mod pad;
mod recorder;
mod stream;
mod timeline;

pub(super) use self::stream::{Mark, Phase, Text};
pub(super) use self::timeline::Placing;
use super::{monitor, sync};
