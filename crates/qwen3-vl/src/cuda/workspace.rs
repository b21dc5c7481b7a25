//! Memory that passes on a device reuse.

use candle_core::{Device, Result, Tensor};

use super::graph::Graphs;
use super::patches::Frames;
use super::staging::Staging;
use crate::model::rope::TextRope;

/// The workspace of one thread that runs a model on a device.
#[derive(Default)]
pub struct Workspace {
    /// The language model's staging ring.
    pub staging: Staging,
    /// The vision tower's staging ring. Its slots are freed by the vision stream, which the
    /// language model must not wait for.
    pub vision_staging: Staging,
    /// Upload of frames to the vision tower.
    pub frames: Frames,
    /// Recorded decode steps.
    pub graphs: Graphs,
    rope: Option<(Tensor, Tensor)>,
}

impl Workspace {
    /// Warnings about steps that cannot be recorded.
    pub fn notices(&self) -> Vec<String> {
        let refused = self.graphs.refused();
        let notices = refused.map(|(rows, why)| {
            format!("decode steps of {rows} rows are not recorded, which makes them slower: {why}")
        });
        notices.collect()
    }

    /// Frequencies, and the axes whose positions they rotate by, on the device.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn rope(&mut self, rope: &TextRope, device: &Device) -> Result<(Tensor, Tensor)> {
        if let Some(known) = &self.rope {
            return Ok(known.clone());
        }
        let (frequencies, axes): (Vec<f32>, Vec<u32>) = rope
            .frequencies()
            .iter()
            .map(|(frequency, axis)| (*frequency, *axis as u32))
            .unzip();
        let count = axes.len();
        let made = (
            Tensor::from_vec(frequencies, count, device)?,
            Tensor::from_vec(axes, count, device)?,
        );
        Ok(self.rope.insert(made).clone())
    }
}
