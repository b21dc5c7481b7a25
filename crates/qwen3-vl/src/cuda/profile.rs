//! Records events around kernels, for `engine profile`.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream};

use super::launch::Argument;
use super::sync::Launched;

/// A launched kernel, with the events before and behind it.
pub struct Timed {
    /// Its name.
    pub name: String,
    /// Blocks in x, y and z.
    pub grid: (usize, usize, usize),
    /// Its arguments.
    pub arguments: Vec<Argument>,
    start: CudaEvent,
    end: CudaEvent,
}

thread_local! {
    static KERNELS: RefCell<Option<Vec<Timed>>> = const { RefCell::new(None) };
}

/// Runs `act`, with events around each kernel that it launches on this thread.
pub fn record<T>(act: impl FnOnce() -> T) -> (T, Vec<Timed>) {
    KERNELS.set(Some(Vec::new()));
    let done = act();
    (done, KERNELS.take().unwrap_or_default())
}

/// An event before a kernel, if this thread records.
///
/// # Errors
///
/// If the device fails.
pub fn begin(stream: &Arc<CudaStream>) -> Result<Option<CudaEvent>> {
    match KERNELS.with_borrow(Option::is_some) {
        true => moment(stream).map(Some),
        false => Ok(None),
    }
}

/// Records a kernel whose start [`begin`] returned.
///
/// # Errors
///
/// If the device fails.
pub fn end(
    start: Option<CudaEvent>,
    launched: &Launched<'_>,
    arguments: &[Argument],
    stream: &Arc<CudaStream>,
) -> Result<()> {
    let Some(start) = start else {
        return Ok(());
    };
    let timed = Timed {
        name: launched.name.into(),
        grid: launched.grid,
        arguments: arguments.into(),
        start,
        end: moment(stream)?,
    };
    KERNELS.with_borrow_mut(|kernels| kernels.get_or_insert_default().push(timed));
    Ok(())
}

/// An event behind the work that a stream has been given so far.
///
/// # Errors
///
/// If the device fails.
pub fn moment(stream: &Arc<CudaStream>) -> Result<CudaEvent> {
    // cudarc's default events carry no time.
    stream
        .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        .w()
}

/// Seconds between two events that the device has reached.
///
/// # Errors
///
/// If the device has failed.
pub fn seconds(from: &CudaEvent, to: &CudaEvent) -> Result<f64> {
    Ok(f64::from(from.elapsed_ms(to).w()?) / 1e3)
}

impl Timed {
    /// Seconds that the kernel took; the device must have finished it.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    pub fn seconds(&self) -> Result<f64> {
        seconds(&self.start, &self.end)
    }

    /// Seconds from an earlier event to the start of the kernel.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    pub fn since(&self, moment: &CudaEvent) -> Result<f64> {
        seconds(moment, &self.start)
    }

    /// The event behind the kernel.
    pub fn end(&self) -> &CudaEvent {
        &self.end
    }
}
