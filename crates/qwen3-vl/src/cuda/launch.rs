//! How kernels are run: by name, with plain addresses.

use std::ffi::c_void;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::DevicePtr;
use candle_core::cuda_backend::cudarc::driver::result::launch_kernel;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use super::sync::Launched;
use super::{functions, profile};

/// An argument of a kernel, of the size that its source says.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// Where values lie on the device, or a 64-bit number.
    Long(u64),
    /// A 32-bit number.
    Word(u32),
    /// A number of 32 bits with a fraction.
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
    /// Where the driver finds the value.
    fn place(&self) -> *mut c_void {
        match self {
            Self::Long(value) => (&raw const *value).cast_mut().cast(),
            Self::Word(value) => (&raw const *value).cast_mut().cast(),
            Self::Real(value) => (&raw const *value).cast_mut().cast(),
        }
    }
}

/// Runs a kernel in a grid of blocks of `threads` threads, on the device's stream.
///
/// # Errors
///
/// If the driver refuses, with the kernel's name and grid. A fault of the kernel itself is the
/// error of a later call, unless [`sync`](super::sync) is on.
///
/// # Safety
///
/// The arguments are those of the kernel's source, in number, order and size, and what they point
/// at is as large as the grid and they say. It belongs to this device and is not freed before the
/// stream has come that far, which holds for whatever is freed on the stream later.
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
    // SAFETY: the caller's; the driver reads the arguments before it returns.
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

/// Runs a kernel that has a thread for each of `count` values, whose number is its last argument.
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
    // SAFETY: the caller's.
    unsafe { launch(device, name, grid, 256, arguments) }
}

/// The device of a tensor.
pub fn device_of(tensor: &Tensor) -> Result<&CudaDevice> {
    device(tensor.device())
}

/// The same device by its kind.
pub fn device(device: &Device) -> Result<&CudaDevice> {
    match device {
        Device::Cuda(device) => Ok(device),
        _ => bail!("not on a CUDA device"),
    }
}

/// Where a tensor's first value lies on the device, and those behind it without gaps.
pub fn address(tensor: &Tensor) -> Result<u64> {
    if !tensor.is_contiguous() {
        bail!("a CUDA kernel needs contiguous input");
    }
    first_value(tensor)
}

/// Where a tensor's first value lies, whatever its strides.
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

/// A tensor for a kernel to write.
///
/// # Safety
///
/// The kernel writes every value.
pub unsafe fn unwritten(
    shape: impl Into<Shape>,
    dtype: DType,
    device: &CudaDevice,
) -> Result<Tensor> {
    // SAFETY: the caller's.
    unsafe { Tensor::empty(shape, dtype, &Device::Cuda(device.clone())) }
}
