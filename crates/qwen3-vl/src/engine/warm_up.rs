//! Runs a device's first steps before the model is used.

use super::runner::{Runner, StepError};
use crate::model::{Chunk, SequenceSlice};
use qwen3_vl_core::frames::{Frame, Size, VisionInput};

/// Side of the encoded frames, in units of patch size times merge size: 256 pixels for Qwen3-VL.
const SIDE: u32 = 8;
/// Tokens to prefill.
const TOKENS: u32 = 64;
/// Decode steps: the first runs kernel by kernel, the second is recorded, the third repeats it.
const STEPS: u32 = 3;

impl Runner {
    /// Encodes two frames and decodes a few tokens on a GPU, where libraries choose kernels, take
    /// memory and record a step on first use. On a CPU it does nothing. Returns warnings about what
    /// works, but not as it should.
    ///
    /// # Errors
    ///
    /// See [`StepError`].
    pub fn warm_up(&mut self) -> Result<Vec<String>, StepError> {
        if self.parts.model.kv.device().is_cpu() {
            return Ok(Vec::new());
        }
        let vision = &self.parts.model.config.vision_config;
        let side = SIDE * (vision.patch_size * vision.spatial_merge_size) as u32;
        let size = Size {
            width: side,
            height: side,
        };
        let frame = Frame {
            rgb: vec![0; side as usize * side as usize * 3].into(),
            size,
            seconds: 0.0,
        };
        self.encode(&[VisionInput::Pair([frame.clone(), frame])])?;
        let mut state = self.parts.model.new_state();
        for step in 0..=STEPS {
            let count = if step == 0 { TOKENS } else { 1 };
            let positions = (0..count).map(|i| [state.len() as u32 + i; 3]);
            let chunk = Chunk {
                ids: vec![0; count as usize],
                positions: positions.collect(),
                vision: Vec::new(),
            };
            let mut slices = [SequenceSlice {
                chunk: &chunk,
                state: &mut state,
                outputs: 1,
            }];
            self.executor.forward(&self.parts.model, &mut slices)?;
        }
        Ok(self.executor.notices(&self.parts.model))
    }
}
