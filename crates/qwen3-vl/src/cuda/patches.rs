//! Uploads frames and cuts them into normalised patches on the device.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, DevicePtr};
use candle_core::{DType, Device, Result, Tensor, bail};

use super::launch::{address, device, launch_each, unwritten};
use super::staging::Staging;
use super::suffix;
use crate::cpu::patchify::{Cut, normalised_levels};
use qwen3_vl_core::frames::{Frame, VisionInput};

/// Batches of frames on the device at a time: the one being cut, and the next.
const UPLOAD_BUFFERS: usize = 2;

/// Uploads frames on a stream of its own, so that the next frames arrive while the last ones are
/// encoded.
#[derive(Default)]
pub struct Frames {
    staging: Staging<u8>,
    copies: Option<Arc<CudaStream>>,
    buffers: [Option<UploadBuffer>; UPLOAD_BUFFERS],
    next: usize,
}

struct UploadBuffer {
    memory: CudaSlice<u8>,
    /// Signals that its frames have been read.
    free: Option<CudaEvent>,
}

impl Frames {
    /// The patches of inputs of one size, `[patches of all, 3 * temporal * patch * patch]` (twin:
    /// [`crate::cpu::patchify::patchify()`]).
    ///
    /// # Errors
    ///
    /// If there are no inputs, a frame has fewer bytes than its size needs, or the device fails.
    pub fn patches(
        &mut self,
        inputs: &[VisionInput],
        cut: &Cut,
        dtype: DType,
        on: &Device,
    ) -> Result<Tensor> {
        let Some(first) = inputs.first() else {
            bail!("no frames");
        };
        let size = first.size();
        let bytes = size.width as usize * size.height as usize * 3;
        let mut parts: Vec<&[u8]> = Vec::new();
        for input in inputs {
            let frames: &[Frame] = match input {
                VisionInput::Pair(pair) => pair,
                VisionInput::Image(frame) => std::slice::from_ref(frame),
            };
            for time in 0..cut.temporal {
                match frames[time.min(frames.len() - 1)].rgb.get(..bytes) {
                    Some(rgb) => parts.push(rgb),
                    None => bail!("a frame of less than {bytes} bytes"),
                }
            }
        }
        let levels = normalised_levels(cut.mean, cut.std);
        let levels = Tensor::from_vec(levels.concat(), (3, 256), on)?;
        let (device, stream) = (device(on)?, device(on)?.cuda_stream());
        let length = 3 * cut.temporal * cut.patch * cut.patch;
        let of_input = (size.width as usize / cut.patch) * (size.height as usize / cut.patch);
        let rows = inputs.len() * of_input;
        // SAFETY: the kernel writes all of it.
        let out = unsafe { unwritten((rows, length), dtype, device)? };

        let buffer = self.upload(&parts, &stream)?;
        let frames = {
            let (frames, _in_use) = buffer.memory.device_ptr(&stream);
            frames
        };
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX).into();
        let arguments = [
            frames.into(),
            address(&levels)?.into(),
            address(&out)?.into(),
            number(cut.patch),
            number(cut.merge),
            number(cut.temporal),
            size.height.into(),
            size.width.into(),
            ((rows * length) as u64).into(),
        ];
        let name = format!("patchify_{}", suffix(dtype)?);
        // SAFETY: the arguments of patchify.cu; the buffer holds all frames, and `Runner::check`
        // has checked that sides are multiples of patch * merge.
        unsafe { launch_each(device, &name, rows * length, &arguments)? };
        buffer.free = Some(stream.record_event(None).w()?);
        Ok(out)
    }

    /// Copies bytes to an upload buffer; `stream` waits for them.
    fn upload(&mut self, parts: &[&[u8]], stream: &Arc<CudaStream>) -> Result<&mut UploadBuffer> {
        let copies = match &mut self.copies {
            Some(copies) => copies,
            none => none.insert(stream.context().new_stream().w()?),
        };
        let count: usize = parts.iter().map(|part| part.len()).sum();
        let buffer = &mut self.buffers[self.next % UPLOAD_BUFFERS];
        self.next += 1;
        let fits = buffer
            .as_ref()
            .is_some_and(|buffer| buffer.memory.len() >= count);
        if !fits {
            let memory = stream.alloc_zeros::<u8>(count).w()?;
            // The copy stream must not write before `stream` has allocated the memory.
            copies.join(stream).w()?;
            *buffer = Some(UploadBuffer { memory, free: None });
        }
        let Some(buffer) = buffer else {
            bail!("no upload buffer for frames");
        };
        if let Some(free) = buffer.free.take() {
            copies.wait(&free).w()?;
        }
        self.staging.copy_parts(parts, &mut buffer.memory, copies)?;
        stream.join(copies).w()?;
        Ok(buffer)
    }
}
