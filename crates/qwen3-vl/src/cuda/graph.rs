//! Decode steps as CUDA graphs: a step is recorded once for a number of rows, and replayed with
//! other metadata at the same addresses. The host then launches once per step, not once per kernel.

use std::collections::HashMap;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::{
    CUgraphInstantiate_flags, CUstreamCaptureMode, CUstreamCaptureStatus,
};
use candle_core::cuda_backend::cudarc::driver::{CudaGraph, CudaStream};
use candle_core::{CudaDevice, Device, Result, Tensor, bail};

use super::decoder::{TextKernels, metadata};
use super::launch::device;
use super::pass::Pass;
use super::sync;
use super::workspace::Workspace;
use crate::model::attention_metadata::AttentionMetadata;
use crate::model::{Chunk, SequenceSlice, TextModel};
use crate::quote::brief;

/// Most rows of a recorded step; steps are recorded for powers of two.
const MOST_ROWS: usize = 64;
/// Most KV blocks of all sequences of a recorded step together: two million tokens.
const PAGES: usize = 16 << 10;

/// Recorded steps by their number of rows.
pub struct Graphs {
    steps: HashMap<usize, Step>,
    /// Whether steps are recorded.
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

/// A step of a fixed number of rows, in memory of its own.
struct Step {
    // The first field, so that the graph is dropped before the memory that it uses.
    state: State,
    pass: Pass,
    /// `[rows, vocabulary]`
    logits: Tensor,
    frequencies: Tensor,
    axes: Tensor,
}

enum State {
    /// It has not run. The first run loads kernels and lets cuBLAS choose kernels, which cannot be
    /// recorded.
    Fresh,
    /// It has run.
    Warm,
    /// It is recorded.
    Recorded(CudaGraph),
    /// It cannot be recorded, for this reason.
    Refused(String),
}

// SAFETY: a graph may be used by any thread, one at a time (CUDA driver API, "graph object thread
// safety"), and a `Graphs` is owned by one thread.
unsafe impl Send for Step {}

impl Graphs {
    /// Number of recorded steps.
    pub fn recorded(&self) -> usize {
        let recorded = |step: &&Step| matches!(step.state, State::Recorded(_));
        self.steps.values().filter(recorded).count()
    }

    /// The steps that cannot be recorded: their rows, and the reason.
    pub fn refused(&self) -> impl Iterator<Item = (usize, &str)> {
        self.steps
            .iter()
            .filter_map(|(rows, step)| match &step.state {
                State::Refused(why) => Some((*rows, why.as_str())),
                _ => None,
            })
    }
}

/// Logits `[slices, vocabulary]` of a decode step: every slice has one text token and one output.
/// None if the pass is not such a step, or too large. Cache blocks are reserved.
///
/// # Errors
///
/// If the device fails.
pub fn decode(
    model: &TextModel,
    slices: &[SequenceSlice<'_>],
    workspace: &mut Workspace,
) -> Result<Option<Tensor>> {
    let single = |slice: &SequenceSlice<'_>| {
        slice.chunk.len() == 1 && slice.outputs == 1 && slice.chunk.vision.is_empty()
    };
    let rows = slices.len().next_power_of_two();
    if slices.is_empty() || rows > MOST_ROWS || !slices.iter().all(single) {
        return Ok(None);
    }
    let on = model.norm.weight().device().clone();
    let device = device(&on)?;
    let mut metadata = metadata(model, slices)?;
    metadata.pad(rows);
    if metadata.pages.len() > PAGES {
        return Ok(None);
    }
    let step = match workspace.graphs.steps.remove(&rows) {
        Some(step) => step,
        None => Step::new(model, &metadata, workspace, &on)?,
    };
    // A failed step is not put back.
    let (logits, step) = step.run(model, &metadata, workspace, &on, device)?;
    workspace.graphs.steps.insert(rows, step);
    logits.narrow(0, 0, slices.len()).map(Some)
}

impl Step {
    fn new(
        model: &TextModel,
        metadata: &AttentionMetadata,
        workspace: &mut Workspace,
        on: &Device,
    ) -> Result<Self> {
        let (frequencies, axes) = workspace.rope(&model.rope, on)?;
        let mut most = metadata.clone();
        most.pages.resize(PAGES, 0);
        let shape = (metadata.ids.len(), model.embeddings.rows()?);
        Ok(Self {
            state: State::Fresh,
            pass: Pass::empty(&most, frequencies.elem_count(), device(on)?)?,
            logits: Tensor::zeros(shape, model.norm.dtype(), on)?,
            frequencies,
            axes,
        })
    }

    fn run(
        mut self,
        model: &TextModel,
        metadata: &AttentionMetadata,
        workspace: &mut Workspace,
        on: &Device,
        device: &CudaDevice,
    ) -> Result<(Tensor, Self)> {
        self.pass.write(metadata, device, &mut workspace.staging)?;
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
        Ok((self.logits.clone(), self))
    }

    /// Runs the kernels of the step, from its metadata to its logits.
    fn kernels(&self, model: &TextModel, on: &Device, device: &CudaDevice) -> Result<()> {
        self.pass.turn(&self.frequencies, &self.axes, device)?;
        // No slices are needed: every sequence has one query, and only text is decoded.
        let mut kernels = TextKernels::new(model, &self.pass, &[], on)?;
        match model.logits(&mut kernels, &Chunk::default())? {
            Some(logits) => self.logits.slice_set(&logits, 0, 0),
            None => bail!("a decode step without logits"),
        }
    }

    /// Records the kernels; the inner error is the reason if the driver or a library refuses.
    ///
    /// # Errors
    ///
    /// If the stream does not leave capture mode, which makes it unusable.
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
        // The step frees all memory that it allocates while it is recorded; the rest it owns.
        let kernels = self.kernels(model, on, device);
        // Memory that a failed recording frees causes an error that cudarc keeps for its next call,
        // which would then return before it ends the capture.
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
