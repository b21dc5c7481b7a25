//! A staging ring: small uploads that do not wait for the device, through pinned memory that it
//! reads by itself.

use std::sync::Arc;

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DeviceRepr, PinnedHostSlice, ValidAsZeroBits,
};
use candle_core::{CudaDevice, Result};

/// Copies that may be in progress at a time.
const SLOTS: usize = 4;

/// A ring of pinned buffers.
pub struct Staging<T = u64> {
    slots: Vec<Slot<T>>,
    next: usize,
}

struct Slot<T> {
    memory: PinnedHostSlice<T>,
    /// Signals that the device has read it.
    read: Option<CudaEvent>,
}

impl<T> Slot<T> {
    fn wait(&mut self) -> Result<()> {
        match self.read.take() {
            Some(read) => read.synchronize().w(),
            None => Ok(()),
        }
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        // If this fails, the device had failed before and no longer reads the memory.
        let _ = self.wait();
    }
}

impl<T> Default for Staging<T> {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            next: 0,
        }
    }
}

impl<T: DeviceRepr + ValidAsZeroBits + Copy + 'static> Staging<T> {
    /// Copies `values` to the front of `to`, in the order of the device's stream.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn copy(&mut self, values: &[T], to: &mut CudaSlice<T>, device: &CudaDevice) -> Result<()> {
        self.copy_parts(&[values], to, &device.cuda_stream())
    }

    /// Copies the parts to the front of `to`, one behind the other, in the order of `stream`.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn copy_parts(
        &mut self,
        parts: &[&[T]],
        to: &mut CudaSlice<T>,
        stream: &Arc<CudaStream>,
    ) -> Result<()> {
        let count = parts.iter().map(|part| part.len()).sum();
        let slot = self.slot(count, stream)?;
        slot.wait()?;
        let memory = &mut slot.memory.as_mut_slice().w()?[..count];
        let mut rest = &mut *memory;
        for part in parts {
            let (first, behind) = std::mem::take(&mut rest).split_at_mut(part.len());
            first.copy_from_slice(part);
            rest = behind;
        }
        stream.memcpy_htod(&*memory, to).w()?;
        slot.read = Some(stream.record_event(None).w()?);
        Ok(())
    }

    /// The next slot of the ring, with memory for `count` values.
    fn slot(&mut self, count: usize, stream: &Arc<CudaStream>) -> Result<&mut Slot<T>> {
        let index = self.next % SLOTS;
        self.next += 1;
        let small = self
            .slots
            .get(index)
            .is_none_or(|slot| slot.memory.len() < count);
        if small {
            // SAFETY: it is written before it is read; all-zero memory is a valid T anyway.
            let memory = unsafe { stream.context().alloc_pinned(count.next_power_of_two()) }.w()?;
            let slot = Slot { memory, read: None };
            match self.slots.get_mut(index) {
                Some(old) => *old = slot,
                None => self.slots.push(slot),
            }
        }
        Ok(&mut self.slots[index])
    }
}
