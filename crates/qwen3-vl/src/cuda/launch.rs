//! Launches kernels by name, with plain addresses.

use std::ffi::c_void;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::cudarc::driver::result::launch_kernel;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use super::sync::Launched;
use super::{functions, profile};

/// An argument of a kernel, of the size that the kernel's source declares.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// An address on the device, or a 64-bit number.
    Long(u64),
    /// A 32-bit number.
    Word(u32),
    /// A 32-bit floating-point number.
    Real(f32),
}

impl From<u64> for Argument {
    fn from(value: u64) -> Self {
        Self::Long(value)
    }
}

impl From<u32> for Argument {
    fn from(value: u32) -> Self {
        Self::Word(value)
    }
}

impl From<f32> for Argument {
    fn from(value: f32) -> Self {
        Self::Real(value)
    }
}

impl Argument {
    /// The address at which the driver reads the value.
    fn place(&self) -> *mut c_void {
        match self {
            Self::Long(value) => (&raw const *value).cast_mut().cast(),
            Self::Word(value) => (&raw const *value).cast_mut().cast(),
            Self::Real(value) => (&raw const *value).cast_mut().cast(),
        }
    }
}

/// Launches a kernel in a grid of blocks of `threads` threads, on the device's stream.
///
/// # Errors
///
/// If the driver refuses the launch; the error names the kernel and its grid. A later call reports
/// a fault of the kernel itself, unless [`sync`](super::sync) is on.
///
/// # Safety
///
/// The arguments match the kernel's source in number, order and size. The memory that they point at
/// is as large as the grid and the arguments imply, belongs to this device, and is not freed before
/// the stream has run the kernel; freeing it later on the same stream is fine.
pub unsafe fn launch(
    device: &CudaDevice,
    name: &str,
    (x, y, z): (usize, usize, usize),
    threads: u32,
    arguments: &[Argument],
) -> Result<()> {
    if x * y * z == 0 {
        return Ok(());
    }
    let stream = device.cuda_stream();
    let function = functions::find(stream.context(), name)?;
    let launched = Launched {
        name,
        grid: (x, y, z),
        threads,
    };
    launched.before(&stream)?;
    stream.context().bind_to_thread().w()?;
    let mut places: Vec<*mut c_void> = arguments.iter().map(Argument::place).collect();
    let timed = profile::begin(&stream)?;
    // SAFETY: the caller guarantees it; the driver reads the arguments before it returns.
    unsafe {
        launch_kernel(
            function,
            (x as u32, y as u32, z as u32),
            (threads, 1, 1),
            0,
            stream.cu_stream(),
            &mut places,
        )
    }
    .map_err(|e| launched.failed(e))?;
    profile::end(timed, &launched, arguments, &stream)?;
    launched.after(&stream)
}

/// Launches a kernel with a thread for each of `count` values; `count` is its last argument.
///
/// # Safety
///
/// See [`launch`].
pub unsafe fn launch_each(
    device: &CudaDevice,
    name: &str,
    count: usize,
    arguments: &[Argument],
) -> Result<()> {
    let grid = (count.div_ceil(256), 1, 1);
    // SAFETY: the caller guarantees it.
    unsafe { launch(device, name, grid, 256, arguments) }
}

/// The device of a tensor.
pub fn device_of(tensor: &Tensor) -> Result<&CudaDevice> {
    device(tensor.device())
}

/// The CUDA device of a device; an error if it is another kind.
pub fn device(device: &Device) -> Result<&CudaDevice> {
    match device {
        Device::Cuda(device) => Ok(device),
        _ => bail!("not on a CUDA device"),
    }
}

/// The device address of a contiguous tensor.
pub fn address(tensor: &Tensor) -> Result<u64> {
    if !tensor.is_contiguous() {
        bail!("a CUDA kernel needs contiguous input");
    }
    first_value(tensor)
}

/// The device address of a tensor's first value, whatever its strides.
pub fn first_value(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("not on a CUDA device");
    };
    let start = match tensor.dtype() {
        DType::F32 => base::<f32>(storage)?,
        DType::BF16 => base::<bf16>(storage)?,
        DType::F16 => base::<f16>(storage)?,
        DType::U32 => base::<u32>(storage)?,
        DType::U8 => base::<u8>(storage)?,
        other => bail!("no kernels for {other:?}"),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

fn base<
    T: candle_core::cuda_backend::CudaDType + candle_core::cuda_backend::cudarc::driver::DeviceRepr,
>(
    storage: &CudaStorage,
) -> Result<u64> {
    let slice = storage.as_cuda_slice::<T>()?;
    let (address, _in_use) = slice.device_ptr(slice.stream());
    Ok(address)
}

/// An uninitialized tensor for a kernel to write.
///
/// # Safety
///
/// The kernel writes every value.
pub unsafe fn unwritten(
    shape: impl Into<Shape>,
    dtype: DType,
    device: &CudaDevice,
) -> Result<Tensor> {
    // SAFETY: the caller guarantees it.
    unsafe { Tensor::empty(shape, dtype, &Device::Cuda(device.clone())) }
}
