//! Vision tokens of the inputs that were encoded last.
//!
//! Windows that overlap are given the same frames at the same time, in one piece of memory. The
//! tokens of an input depend on nothing but its pixels, so it is encoded once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::model::VisionTokens;
use qwen3_vl_core::frames::{Frame, VisionInput};

/// What an input looks like to the language model.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// Its tokens.
    pub tokens: VisionTokens,
    /// Rows and columns of merged tokens.
    pub merged: (u32, u32),
    /// Rows and columns of patches.
    pub patches: (u32, u32),
}

/// See the module's text.
pub struct VisionCache {
    /// Tokens that are kept, at most, unless one input has more: those that still come for the
    /// input of an overlapping window come while it is encoded, or right after.
    most: u32,
    /// The inputs keep their frames in memory, so that no other frame is taken for them.
    recent: VecDeque<(VisionInput, Encoded)>,
    tokens: u32,
}

impl VisionCache {
    /// An empty one that keeps at most `most` tokens.
    pub fn new(most: u32) -> Self {
        Self {
            most,
            recent: VecDeque::new(),
            tokens: 0,
        }
    }

    /// What is known of an input with the same frames.
    pub fn find(&self, input: &VisionInput) -> Option<&Encoded> {
        let known = self.recent.iter().rev();
        known
            .into_iter()
            .find(|(other, _)| same(input, other))
            .map(|(_, encoded)| encoded)
    }

    /// Keeps what was encoded, and forgets the oldest. The last one stays however large it is:
    /// whoever waits for it finds it here.
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

/// Whether two inputs are of the same frames: the same pixels in memory, at the same size.
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
            // The same pixels, but not the same memory: nobody has compared them.
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
        // One that is larger than all of it is kept alone, until the next one.
        cache.keep(inputs[0].clone(), encoded(TOKENS + 1));
        let known: Vec<bool> = inputs.iter().map(|i| cache.find(i).is_some()).collect();
        assert_eq!(known, [true, false, false, false]);
        cache.keep(inputs[1].clone(), encoded(1));
        assert!(cache.find(&inputs[0]).is_none() && cache.tokens == 1);
    }
}
