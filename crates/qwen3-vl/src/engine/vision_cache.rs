//! Caches the vision tokens of the latest inputs.
//!
//! Overlapping windows get the same frames at the same time, in shared memory. An input's tokens
//! depend only on its pixels, so it is encoded once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::VisionTokens;
use qwen3_vl_core::frames::{Frame, VisionInput};

/// An encoded input, as the language model takes it.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Its vision tokens.
    pub tokens: VisionTokens,
    /// Rows and columns of merged tokens.
    pub merged: (u32, u32),
    /// Rows and columns of patches.
    pub patches: (u32, u32),
}

/// Keeps the latest encoded inputs; see the module.
pub struct VisionCache {
    /// Most tokens to keep, unless one input has more. Overlapping windows ask for an input while
    /// it is encoded or right after, so a few suffice.
    most: u32,
    /// Holding the inputs keeps their frames in memory, so that no other frame gets the same
    /// address.
    recent: VecDeque<(VisionInput, Encoded)>,
    tokens: u32,
}

impl VisionCache {
    /// An empty cache of at most `most` tokens.
    pub fn new(most: u32) -> Self {
        Self {
            most,
            recent: VecDeque::new(),
            tokens: 0,
        }
    }

    /// The tokens of an input with the same frames.
    pub fn find(&self, input: &VisionInput) -> Option<&Encoded> {
        let known = self.recent.iter().rev();
        known
            .into_iter()
            .find(|(other, _)| same(input, other))
            .map(|(_, encoded)| encoded)
    }

    /// Adds an input and drops the oldest ones. The last input stays however large it is, because
    /// the windows that await it look here.
    pub fn keep(&mut self, input: VisionInput, encoded: Encoded) {
        self.tokens += count(&encoded);
        self.recent.push_back((input, encoded));
        while self.tokens > self.most
            && self.recent.len() > 1
            && let Some((_, oldest)) = self.recent.pop_front()
        {
            self.tokens -= count(&oldest);
        }
    }
}

fn count(encoded: &Encoded) -> u32 {
    encoded.merged.0 * encoded.merged.1
}

/// Whether two inputs share their frames: the same pixels in memory, at the same size.
pub fn same(a: &VisionInput, b: &VisionInput) -> bool {
    let frame = |a: &Frame, b: &Frame| a.size == b.size && Arc::ptr_eq(&a.rgb, &b.rgb);
    match (a, b) {
        (VisionInput::Pair(a), VisionInput::Pair(b)) => frame(&a[0], &b[0]) && frame(&a[1], &b[1]),
        (VisionInput::Image(a), VisionInput::Image(b)) => frame(a, b),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use qwen3_vl_core::frames::Size;

    const TOKENS: u32 = 2048;

    fn frame(value: u8, seconds: f64) -> Frame {
        Frame {
            rgb: vec![value; 12].into(),
            size: Size {
                width: 2,
                height: 2,
            },
            seconds,
        }
    }

    fn encoded(rows: u32) -> Encoded {
        Encoded {
            tokens: VisionTokens {
                embeddings: Tensor::new(&[[0f32]], &Device::Cpu).unwrap(),
                deepstack: Vec::new(),
            },
            merged: (rows, 1),
            patches: (2 * rows, 2),
        }
    }

    #[test]
    fn the_same_frames_are_known_whatever_their_times() {
        let mut cache = VisionCache::new(TOKENS);
        let (a, b) = (frame(1, 0.0), frame(2, 0.5));
        cache.keep(VisionInput::Pair([a.clone(), b.clone()]), encoded(3));
        let later = |frame: &Frame| Frame {
            seconds: 7.0,
            ..frame.clone()
        };
        let again = VisionInput::Pair([later(&a), later(&b)]);
        assert_eq!(cache.find(&again).map(count), Some(3));
        let others = [
            VisionInput::Pair([b.clone(), a.clone()]),
            VisionInput::Pair([a.clone(), a.clone()]),
            VisionInput::Image(a.clone()),
            // The same pixels, but not the same memory: pixels are not compared.
            VisionInput::Pair([frame(1, 0.0), frame(2, 0.5)]),
        ];
        assert!(others.iter().all(|other| cache.find(other).is_none()));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut cache = VisionCache::new(TOKENS);
        let inputs: Vec<_> = (0..4).map(|i| VisionInput::Image(frame(i, 0.0))).collect();
        for input in &inputs {
            cache.keep(input.clone(), encoded(TOKENS / 2));
        }
        let known: Vec<bool> = inputs.iter().map(|i| cache.find(i).is_some()).collect();
        assert_eq!(known, [false, false, true, true]);
        // An input larger than the cache is kept alone, until the next one.
        cache.keep(inputs[0].clone(), encoded(TOKENS + 1));
        let known: Vec<bool> = inputs.iter().map(|i| cache.find(i).is_some()).collect();
        assert_eq!(known, [true, false, false, false]);
        cache.keep(inputs[1].clone(), encoded(1));
        assert!(cache.find(&inputs[0]).is_none() && cache.tokens == 1);
    }
}
