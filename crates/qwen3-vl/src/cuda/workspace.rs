//! What passes on a device keep between them.

use candle_core::{Device, Result, Tensor};

use super::graph::Graphs;
use super::patches::Frames;
use super::staging::Staging;
use crate::model::rope::TextRope;

/// Of one thread that runs a model on a device.
#[derive(Default)]
pub struct Workspace {
    /// The way to the device for the language model.
    pub staging: Staging,
    /// The way for the vision tower: a slot is free again when its stream has come there, which the
    /// language model must not wait for.
    pub vision_staging: Staging,
    /// The way of frames to it.
    pub frames: Frames,
    /// Decode steps that can be repeated.
    pub graphs: Graphs,
    rope: Option<(Tensor, Tensor)>,
}

impl Workspace {
    /// Steps that are not recorded, and why.
    pub fn notices(&self) -> Vec<String> {
        let refused = self.graphs.refused();
        let notices = refused.map(|(rows, why)| {
            format!("decode steps of {rows} rows are not recorded, which makes them slower: {why}")
        });
        notices.collect()
    }

    /// Frequencies and the axes that they turn with, on the device.
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
