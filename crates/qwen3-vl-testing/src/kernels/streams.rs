//! Work on one stream must not wait for another stream.

use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::stream::launch_host_function;
use candle_core::{Device, Result};

use super::load_options;
use crate::parity::{self, Error};
use crate::{Check, Checkpoint, sequence};
use qwen3_vl::cuda::launch::device;
use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::engine::sequence::Sequence;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::clip::clip;
use qwen3_vl_core::frames::{Frame, Size, VisionInput};
use qwen3_vl_core::request::{Request, SamplingParams};

/// The longest time that a stream is blocked: far longer than the steps that must not wait for it.
const HELD: Duration = Duration::from_secs(5);
/// Decode steps: more than there are upload buffers.
const STEPS: usize = 12;

/// Decodes while the vision tower has two batches to encode and its stream is blocked.
///
/// # Errors
///
/// If the checkpoint cannot be written or loaded, or the device fails.
pub fn check(
    on: DeviceChoice,
    dtype: DtypeChoice,
    say: &mut dyn FnMut(Check),
) -> std::result::Result<(), Error> {
    let folder = std::env::temp_dir().join(format!("qwen3-vl-streams-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let loaded = parity::load(Checkpoint::DenseTied, &folder, load_options(on, dtype));
    std::fs::remove_dir_all(&folder)?;
    let mut runner = loaded?;
    let head = WindowHead::default();
    let mut window = sequence::window(&runner, 0, &head);
    sequence::ask(&mut window, request(), 0, Instant::now());
    runner.advance(&mut window)?;
    while !window.status().decoding {
        runner.forward(vec![(&mut window, usize::MAX)])?;
    }
    // The first steps allocate pinned memory and record, which may wait for all streams.
    decode(&mut runner, &mut window)?;
    let mut others: Vec<Sequence> = (1..=4)
        .map(|id| sequence::window(&runner, id, &head))
        .collect();
    for other in &mut others {
        other.push(pair(other.id() as u32), 0, Instant::now());
    }
    let (warm, held) = others.split_at_mut(2);
    for other in warm {
        runner.encode_next(&mut [other])?;
    }
    poll_encoded(&mut runner)?;

    let gate = Gate::close(runner.parts.model.vision.device())?;
    for other in held {
        runner.encode_next(&mut [other])?;
    }
    decode(&mut runner, &mut window)?;
    let waited = gate.open();
    poll_encoded(&mut runner)?;
    let name = format!("decode steps that wait for vision, {dtype:?}");
    say(Check::count(name, usize::from(waited), 0.0));
    Ok(())
}

fn request() -> Request {
    Request {
        prompt: "Count.".into(),
        max_tokens: 10 * STEPS as u32,
        sampling: SamplingParams::default(),
        seed: 0,
        emit_tokens: false,
        repetition_guard: 0,
    }
}

fn pair(nth: u32) -> VisionInput {
    let size = Size {
        width: 96,
        height: 64,
    };
    let frame = |t: u32| Frame {
        rgb: clip(t, size, nth).into(),
        size,
        seconds: 0.0,
    };
    VisionInput::Pair([frame(0), frame(1)])
}

fn decode(runner: &mut Runner, window: &mut Sequence) -> std::result::Result<(), Error> {
    for _ in 0..STEPS {
        runner.forward(vec![(window, 1)])?;
    }
    Ok(())
}

fn poll_encoded(runner: &mut Runner) -> std::result::Result<(), Error> {
    while let Some(batch) = runner.poll_encoded(true) {
        batch.failed.map_or(Ok(()), Err)?;
    }
    Ok(())
}

/// A gate that blocks a stream.
struct Gate(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    /// Blocks the device's stream until the gate is opened, at most for [`HELD`].
    fn close(on: &Device) -> Result<Self> {
        let stream = device(on)?.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let shared = Arc::<Shared>::default();
        let theirs = Arc::into_raw(Arc::clone(&shared)).cast_mut().cast();
        // SAFETY: the function takes the reference that it is given, once.
        unsafe { launch_host_function(stream.cu_stream(), hold_up, theirs) }.w()?;
        Ok(Self(shared))
    }

    /// Unblocks the stream. Returns whether it went on before, because a wait took [`HELD`].
    fn open(self) -> bool {
        let mut is_open = self
            .0
            .is_open
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *is_open, true);
        self.0.opened.notify_all();
        before
    }
}

unsafe extern "C" fn hold_up(shared: *mut c_void) {
    // SAFETY: `close` gave this reference away.
    let shared = unsafe { Arc::from_raw(shared.cast::<Shared>().cast_const()) };
    let is_open = shared
        .is_open
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let waited = shared
        .opened
        .wait_timeout_while(is_open, HELD, |is_open| !*is_open);
    *waited.unwrap_or_else(PoisonError::into_inner).0 = true;
}
