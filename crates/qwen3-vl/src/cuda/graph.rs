//! Decode steps as CUDA graphs: what a step of so many rows does is recorded once, and repeated with other
//! numbers in the same places. The host then says "go" once, not once a kernel.

use std::collections::HashMap;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode, CUstreamCaptureStatus,
};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream};
use candle_core::{CudaDevice, Device, Result, Tensor, bail};

use super::decoder::{TextKernels, plan};
use super::launch::device;
use super::pass::Pass;
use super::sync;
use super::workspace::Workspace;
use crate::model::attention_metadata::AttentionMetadata;
use crate::model::{Chunk, SequenceSlice, TextModel};
use crate::quote::brief;

/// The most rows of a recorded step; they are recorded for powers of two.
const MOST_ROWS: usize = 64;
/// Pages that the sequences of a recorded step may have together: two million tokens.
const PAGES: usize = 16 << 10;

/// Recorded steps by their rows.
pub struct Graphs {
    steps: HashMap<usize, Step>,
    /// Whether steps are recorded at all.
    pub enabled: bool,
}

impl Default for Graphs {
    fn default() -> Self {
        Self {
            steps: HashMap::new(),
            enabled: true,
        }
    }
}

/// A step of so many rows, in memory of its own.
struct Step {
    // Before what it reads and writes, so that it goes first.
    state: State,
    pass: Pass,
    /// `[rows, vocabulary]`
    scores: Tensor,
    frequencies: Tensor,
    axes: Tensor,
}

enum State {
    /// It has not run: the first run loads kernels and lets cuBLAS choose, which cannot be recorded.
    Fresh,
    /// It has run.
    Warm,
    /// It is recorded.
    Recorded(CudaGraph),
    /// It could not be recorded, and why.
    Refused(String),
}

// SAFETY: a graph may be used by any thread, one at a time (CUDA driver API, "graph object thread safety"),
// and whoever has a `Graphs` has it alone.
unsafe impl Send for Step {}

impl Graphs {
    /// Steps that have been recorded.
    pub fn recorded(&self) -> usize {
        let recorded = |step: &&Step| matches!(step.state, State::Recorded(_));
        self.steps.values().filter(recorded).count()
    }

    /// Why steps could not be recorded, each with its rows.
    pub fn refused(&self) -> impl Iterator<Item = (usize, &str)> {
        self.steps
            .iter()
            .filter_map(|(rows, step)| match &step.state {
                State::Refused(why) => Some((*rows, why.as_str())),
                _ => None,
            })
    }
}

/// Scores `[parts, vocabulary]` of a step in which every part has one token and asks for one output. None
/// if it is not such a step. The caches have room.
///
/// # Errors
///
/// If the device fails.
pub fn decode(
    model: &TextModel,
    parts: &[SequenceSlice<'_>],
    workspace: &mut Workspace,
) -> Result<Option<Tensor>> {
    let single = |part: &SequenceSlice<'_>| {
        part.chunk.len() == 1 && part.outputs == 1 && part.chunk.vision.is_empty()
    };
    let rows = parts.len().next_power_of_two();
    if parts.is_empty() || rows > MOST_ROWS || !parts.iter().all(single) {
        return Ok(None);
    }
    let on = model.norm.weight().device().clone();
    let device = device(&on)?;
    let mut plan = plan(model, parts)?;
    plan.fill(rows);
    if plan.pages.len() > PAGES {
        return Ok(None);
    }
    let step = match workspace.graphs.steps.remove(&rows) {
        Some(step) => step,
        None => Step::new(model, &plan, workspace, &on)?,
    };
    // A step that fails is not kept.
    let (scores, step) = step.run(model, &plan, workspace, &on, device)?;
    workspace.graphs.steps.insert(rows, step);
    scores.narrow(0, 0, parts.len()).map(Some)
}

impl Step {
    fn new(
        model: &TextModel,
        plan: &AttentionMetadata,
        workspace: &mut Workspace,
        on: &Device,
    ) -> Result<Self> {
        let (frequencies, axes) = workspace.rope(&model.rope, on)?;
        let mut most = plan.clone();
        most.pages.resize(PAGES, 0);
        let shape = (plan.ids.len(), model.embeddings.rows()?);
        Ok(Self {
            state: State::Fresh,
            pass: Pass::empty(&most, frequencies.elem_count(), device(on)?)?,
            scores: Tensor::zeros(shape, model.norm.dtype(), on)?,
            frequencies,
            axes,
        })
    }

    fn run(
        mut self,
        model: &TextModel,
        plan: &AttentionMetadata,
        workspace: &mut Workspace,
        on: &Device,
        device: &CudaDevice,
    ) -> Result<(Tensor, Self)> {
        self.pass.write(plan, device, &mut workspace.staging)?;
        self.state = match self.state {
            State::Warm if workspace.graphs.enabled => match self.record(model, on, device)? {
                Ok(graph) => State::Recorded(graph),
                Err(why) => State::Refused(why),
            },
            state => state,
        };
        match &self.state {
            State::Recorded(graph) if workspace.graphs.enabled => graph.launch().w()?,
            _ => self.kernels(model, on, device)?,
        }
        if matches!(self.state, State::Fresh) {
            self.state = State::Warm;
        }
        Ok((self.scores.clone(), self))
    }

    /// The kernels of the step, from its numbers to its scores.
    fn kernels(&self, model: &TextModel, on: &Device, device: &CudaDevice) -> Result<()> {
        self.pass.turn(&self.frequencies, &self.axes, device)?;
        // All queries are single ones, and nothing but text is decoded.
        let mut kernels = TextKernels::new(model, &self.pass, &[], on)?;
        match model.logits(&mut kernels, &Chunk::default())? {
            Some(logits) => self.scores.slice_set(&logits, 0, 0),
            None => bail!("a decode step without logits"),
        }
    }

    /// Records the kernels; why not, if the driver or a library does not let them be recorded.
    ///
    /// # Errors
    ///
    /// If the stream does not leave its recording: nothing works on it then.
    fn record(
        &self,
        model: &TextModel,
        on: &Device,
        device: &CudaDevice,
    ) -> Result<std::result::Result<CudaGraph, String>> {
        if sync::is_on() {
            return Ok(Err("QWEN3_VL_SYNC is on".into()));
        }
        let stream = device.cuda_stream();
        stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .w()?;
        // All memory that is taken meanwhile is given back meanwhile: what the graph needs, it has.
        let kernels = self.kernels(model, on, device);
        // Memory that a failed recording gave back makes an error that cudarc keeps for its next call,
        // which would then return before it ends the recording.
        let freed = stream.context().check_err();
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let mut graph = stream.end_capture(flags);
        let status = |stream: &CudaStream| stream.capture_status().w();
        if status(&stream)? != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            graph = stream.end_capture(flags);
        }
        if status(&stream)? != CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            bail!("the stream does not leave the recording of a step");
        }
        Ok(match (kernels, freed, graph) {
            (Ok(()), Ok(()), Ok(Some(graph))) => Ok(graph),
            (Err(error), ..) => Err(brief(&error)),
            (_, Err(error), _) | (.., Err(error)) => Err(error.to_string()),
            (.., Ok(None)) => Err("there was nothing to record".into()),
        })
    }
}
