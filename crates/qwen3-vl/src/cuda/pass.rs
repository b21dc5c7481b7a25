//! A [`AttentionMetadata`] on the device.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType, Result, Tensor, bail};

use super::launch::{address, launch_each, unwritten};
use super::staging::Staging;
#[cfg(doc)]
use crate::model::attention_metadata::Tile;
use crate::model::attention_metadata::{AttentionMetadata, Sequence};

/// What the kernels of a pass read. Its addresses are valid as long as it lives.
pub struct Pass {
    /// Rows of all sequences.
    pub rows: usize,
    /// Address of the rows' ids, u32.
    pub ids: u64,
    /// Of the rows whose hidden states are asked for, u32, and how many they are.
    pub outputs: (u64, usize),
    /// Of where their keys go, u64.
    pub slots: u64,
    /// Of the pages of all sequences, u64.
    pub pages: u64,
    /// Of the [`Sequence`]s with one query, and how many they are.
    pub decoding: (u64, usize),
    /// Likewise those with more.
    pub prefilling: (u64, usize),
    /// Likewise their [`Tile`]s.
    pub tiles: (u64, usize),
    /// Cosines and sines `[rows, head_dim / 2, 2]`, f32, once [`Pass::turn`] has run.
    pub angles: Tensor,
    positions: u64,
    memory: CudaSlice<u64>,
    place: Place,
}

/// Where the parts of a plan lie in one piece of memory, in words of 8 bytes. Pages are last, so
/// that of a piece with room for many only a part must be copied.
#[derive(Clone, Copy, Debug)]
struct Place {
    slots: usize,
    ids: usize,
    positions: usize,
    outputs: usize,
    decoding: usize,
    prefilling: usize,
    tiles: usize,
    pages: usize,
    end: usize,
}

impl Place {
    fn new(plan: &AttentionMetadata) -> Self {
        let mut end = 0;
        let mut part = |bytes: usize| {
            let first = end;
            end += bytes.div_ceil(8);
            first
        };
        Self {
            slots: part(8 * plan.slots.len()),
            ids: part(4 * plan.ids.len()),
            positions: part(4 * plan.positions.len()),
            outputs: part(4 * plan.outputs.len()),
            decoding: part(size_of_val(&plan.decoding[..])),
            prefilling: part(size_of_val(&plan.prefilling[..])),
            tiles: part(size_of_val(&plan.tiles[..])),
            pages: part(8 * plan.pages.len()),
            end,
        }
    }

    /// The plan as words.
    fn pack(&self, plan: &AttentionMetadata) -> Vec<u64> {
        let mut words = vec![0; self.pages + plan.pages.len()];
        let sequences = |of: &[Sequence]| -> Vec<u32> {
            let words = of.iter().flat_map(|s| [s.query, s.queries, s.keys, s.page]);
            words.collect()
        };
        let tiles: Vec<u32> = plan
            .tiles
            .iter()
            .flat_map(|tile| [tile.sequence, tile.first])
            .collect();
        for (first, halves) in [
            (self.ids, &plan.ids),
            (self.positions, &plan.positions),
            (self.outputs, &plan.outputs),
            (self.decoding, &sequences(&plan.decoding)),
            (self.prefilling, &sequences(&plan.prefilling)),
            (self.tiles, &tiles),
        ] {
            // The device is little-endian, as are all hosts that it has.
            for (word, pair) in words[first..].iter_mut().zip(halves.chunks(2)) {
                let high = pair.get(1).copied().unwrap_or(0);
                *word = u64::from(pair[0]) | u64::from(high) << 32;
            }
        }
        words[self.slots..][..plan.slots.len()].copy_from_slice(&plan.slots);
        words[self.pages..].copy_from_slice(&plan.pages);
        words
    }
}

impl Pass {
    /// A plan on the device, for heads of which `half` values turn with the other half.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn new(
        plan: &AttentionMetadata,
        half: usize,
        device: &CudaDevice,
        staging: &mut Staging,
    ) -> Result<Self> {
        let mut pass = Self::empty(plan, half, device)?;
        pass.write(plan, device, staging)?;
        Ok(pass)
    }

    /// Room for plans like this one, with at most as many pages.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn empty(plan: &AttentionMetadata, half: usize, device: &CudaDevice) -> Result<Self> {
        let place = Place::new(plan);
        let memory = device.alloc_zeros::<u64>(place.end.max(1))?;
        let base = {
            let (base, _in_use) = memory.device_ptr(memory.stream());
            base
        };
        let at = |word: usize| base + 8 * word as u64;
        let rows = plan.ids.len();
        // SAFETY: `turn` writes all of them before anything reads them.
        // Memory of no size is none that a device gives.
        let angles = unsafe { unwritten((rows.max(1), half.max(1), 2), DType::F32, device)? };
        Ok(Self {
            rows,
            ids: at(place.ids),
            outputs: (at(place.outputs), plan.outputs.len()),
            slots: at(place.slots),
            pages: at(place.pages),
            decoding: (at(place.decoding), plan.decoding.len()),
            prefilling: (at(place.prefilling), plan.prefilling.len()),
            tiles: (at(place.tiles), plan.tiles.len()),
            angles,
            positions: at(place.positions),
            memory,
            place,
        })
    }

    /// Whether there is room for the plan.
    pub fn holds(&self, plan: &AttentionMetadata) -> bool {
        plan.ids.len() == self.rows
            && plan.outputs.len() == self.outputs.1
            && plan.decoding.len() == self.decoding.1
            && plan.prefilling.len() == self.prefilling.1
            && plan.tiles.len() == self.tiles.1
            && self.place.pages + plan.pages.len() <= self.memory.len()
    }

    /// Puts another plan in the place of the last.
    ///
    /// # Errors
    ///
    /// If it [does not fit](Pass::holds) or the device fails.
    pub fn write(
        &mut self,
        plan: &AttentionMetadata,
        device: &CudaDevice,
        staging: &mut Staging,
    ) -> Result<()> {
        if !self.holds(plan) {
            bail!("a pass of {} rows for {}", self.rows, plan.ids.len());
        }
        staging.copy(&self.place.pack(plan), &mut self.memory, device)
    }

    /// Finds the angles of the positions: frequency j turns with axis j.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn turn(&self, frequencies: &Tensor, axes: &Tensor, device: &CudaDevice) -> Result<()> {
        let (rows, (_, half, _)) = (self.rows, self.angles.dims3()?);
        if frequencies.dims() != [half] || axes.dims() != [half] {
            bail!("{half} angles of {:?}", frequencies.shape());
        }
        let arguments = [
            self.positions.into(),
            address(frequencies)?.into(),
            address(axes)?.into(),
            address(&self.angles)?.into(),
            (half as u32).into(),
            ((rows * half) as u32).into(),
        ];
        // SAFETY: the arguments of rope.cu; positions are of `rows` rows.
        unsafe { launch_each(device, "rope_table", rows * half, &arguments) }
    }
}
