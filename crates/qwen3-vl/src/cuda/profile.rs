//! Events around kernels, for `engine profile`.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::sys::CUevent_flags;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaStream};

use super::launch::Argument;
use super::sync::Launched;

/// A kernel that was launched, with the moments before and behind it.
pub struct Timed {
    /// Its name.
    pub name: String,
    /// Blocks in each direction.
    pub grid: (usize, usize, usize),
    /// What it was given.
    pub arguments: Vec<Argument>,
    start: CudaEvent,
    end: CudaEvent,
}

thread_local! {
    static KERNELS: RefCell<Option<Vec<Timed>>> = const { RefCell::new(None) };
}

/// Does something with events around each kernel that this thread launches meanwhile.
pub fn record<T>(act: impl FnOnce() -> T) -> (T, Vec<Timed>) {
    KERNELS.set(Some(Vec::new()));
    let done = act();
    (done, KERNELS.take().unwrap_or_default())
}

/// The moment before a kernel, if this thread records.
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

/// Notes a kernel that [`begin`] gave the start of.
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

/// The moment up to which a stream has been told what to do.
///
/// # Errors
///
/// If the device fails.
pub fn moment(stream: &Arc<CudaStream>) -> Result<CudaEvent> {
    // Not the default here, which has no time.
    stream
        .record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
        .w()
}

/// Seconds from a moment that the device has reached to a later one.
///
/// # Errors
///
/// If the device has failed.
pub fn seconds(from: &CudaEvent, to: &CudaEvent) -> Result<f64> {
    Ok(f64::from(from.elapsed_ms(to).w()?) / 1e3)
}

impl Timed {
    /// Seconds that the kernel took, once the device has done it.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    pub fn seconds(&self) -> Result<f64> {
        seconds(&self.start, &self.end)
    }

    /// Seconds from a moment before to the start of the kernel.
    ///
    /// # Errors
    ///
    /// If the device has failed.
    pub fn since(&self, moment: &CudaEvent) -> Result<f64> {
        seconds(moment, &self.start)
    }

    /// The moment when the kernel had ended.
    pub fn end(&self) -> &CudaEvent {
        &self.end
    }
}
