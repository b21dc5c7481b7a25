//! `QWEN3_VL_SYNC=1`: the host waits for the device before and after each kernel.
//!
//! A device reports a fault at the next call. With these waits that call belongs to the kernel that
//! caused the fault. Decode steps are not recorded then.

use std::fmt::Display;
use std::sync::{Arc, LazyLock};

use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{Error, Result};

/// Whether the environment variable is set to 1.
pub fn is_on() -> bool {
    static ON: LazyLock<bool> =
        LazyLock::new(|| std::env::var_os("QWEN3_VL_SYNC").is_some_and(|value| value == "1"));
    *ON
}

/// A kernel with its grid, as errors name it.
pub struct Launched<'a> {
    /// Its name.
    pub name: &'a str,
    /// Blocks in x, y and z.
    pub grid: (usize, usize, usize),
    /// Threads per block.
    pub threads: u32,
}

impl Display for Launched<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, (x, y, z), threads) = (self.name, self.grid, self.threads);
        write!(
            f,
            "kernel {name}, grid {x} x {y} x {z} of {threads} threads"
        )
    }
}

impl Launched<'_> {
    /// The error of a launch, with the kernel's name.
    pub fn failed(&self, error: impl Display) -> Error {
        Error::msg(format!("{self}: {error}"))
    }

    /// Waits, if [`is_on`], for all work before the kernel.
    ///
    /// # Errors
    ///
    /// If that work failed: an operation of candle or cuBLAS, or a copy.
    pub fn before(&self, stream: &Arc<CudaStream>) -> Result<()> {
        wait(stream).map_err(|e| Error::msg(format!("what ran before {self}: {e}")))
    }

    /// Waits, if [`is_on`], for the kernel.
    ///
    /// # Errors
    ///
    /// If it failed.
    pub fn after(&self, stream: &Arc<CudaStream>) -> Result<()> {
        wait(stream).map_err(|e| self.failed(e))
    }
}

fn wait(
    stream: &Arc<CudaStream>,
) -> std::result::Result<(), candle_core::cuda_backend::cudarc::driver::DriverError> {
    match is_on() {
        true => stream.synchronize(),
        false => Ok(()),
    }
}
