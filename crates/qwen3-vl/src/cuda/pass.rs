//! An [`AttentionMetadata`] on the device.

use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::{CudaDevice, DType, Result, Tensor, bail};

use super::launch::{address, launch_each, unwritten};
use super::staging::Staging;
#[cfg(doc)]
use crate::model::attention_metadata::Tile;
use crate::model::attention_metadata::{AttentionMetadata, Sequence};

/// The metadata that the kernels of a pass read. Its addresses are valid until it is dropped.
pub struct Pass {
    /// Number of rows.
    pub rows: usize,
    /// Address of the rows' ids, u32.
    pub ids: u64,
    /// Address and number of the rows whose hidden states are wanted, u32.
    pub outputs: (u64, usize),
    /// Address of the rows' slots, u64.
    pub slots: u64,
    /// Address of the block tables of all sequences, u64.
    pub pages: u64,
    /// Address and number of the [`Sequence`]s with one query.
    pub decoding: (u64, usize),
    /// Address and number of the [`Sequence`]s with more queries.
    pub prefilling: (u64, usize),
    /// Address and number of the latter's [`Tile`]s.
    pub tiles: (u64, usize),
    /// Cosines and sines `[rows, head_dim / 2, 2]`, f32, once [`Pass::turn`] has run.
    pub angles: Tensor,
    positions: u64,
    memory: CudaSlice<u64>,
    offsets: Offsets,
}

/// Offsets of the fields in one allocation, in words of 8 bytes. Pages are last, so that an
/// allocation for many pages is copied only as far as it is used.
#[derive(Clone, Copy, Debug)]
struct Offsets {
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

impl Offsets {
    fn new(metadata: &AttentionMetadata) -> Self {
        let mut end = 0;
        let mut part = |bytes: usize| {
            let first = end;
            end += bytes.div_ceil(8);
            first
        };
        Self {
            slots: part(8 * metadata.slots.len()),
            ids: part(4 * metadata.ids.len()),
            positions: part(4 * metadata.positions.len()),
            outputs: part(4 * metadata.outputs.len()),
            decoding: part(size_of_val(&metadata.decoding[..])),
            prefilling: part(size_of_val(&metadata.prefilling[..])),
            tiles: part(size_of_val(&metadata.tiles[..])),
            pages: part(8 * metadata.pages.len()),
            end,
        }
    }

    /// The metadata as words.
    fn pack(&self, metadata: &AttentionMetadata) -> Vec<u64> {
        let mut words = vec![0; self.pages + metadata.pages.len()];
        let sequences = |of: &[Sequence]| -> Vec<u32> {
            let words = of.iter().flat_map(|s| [s.query, s.queries, s.keys, s.page]);
            words.collect()
        };
        let tiles: Vec<u32> = metadata
            .tiles
            .iter()
            .flat_map(|tile| [tile.sequence, tile.first])
            .collect();
        for (first, halves) in [
            (self.ids, &metadata.ids),
            (self.positions, &metadata.positions),
            (self.outputs, &metadata.outputs),
            (self.decoding, &sequences(&metadata.decoding)),
            (self.prefilling, &sequences(&metadata.prefilling)),
            (self.tiles, &tiles),
        ] {
            // The device and its hosts are little-endian.
            for (word, pair) in words[first..].iter_mut().zip(halves.chunks(2)) {
                let high = pair.get(1).copied().unwrap_or(0);
                *word = u64::from(pair[0]) | u64::from(high) << 32;
            }
        }
        words[self.slots..][..metadata.slots.len()].copy_from_slice(&metadata.slots);
        words[self.pages..].copy_from_slice(&metadata.pages);
        words
    }
}

impl Pass {
    /// Copies metadata to the device, for heads of 2 * `half` values.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn new(
        metadata: &AttentionMetadata,
        half: usize,
        device: &CudaDevice,
        staging: &mut Staging,
    ) -> Result<Self> {
        let mut pass = Self::empty(metadata, half, device)?;
        pass.write(metadata, device, staging)?;
        Ok(pass)
    }

    /// Allocates a pass for metadata of the same sizes, with at most as many pages.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn empty(metadata: &AttentionMetadata, half: usize, device: &CudaDevice) -> Result<Self> {
        let offsets = Offsets::new(metadata);
        let memory = device.alloc_zeros::<u64>(offsets.end.max(1))?;
        let base = {
            let (base, _in_use) = memory.device_ptr(memory.stream());
            base
        };
        let at = |word: usize| base + 8 * word as u64;
        let rows = metadata.ids.len();
        // SAFETY: `turn` writes all of them before they are read. Sizes are at least 1, because a
        // device cannot allocate 0 bytes.
        let angles = unsafe { unwritten((rows.max(1), half.max(1), 2), DType::F32, device)? };
        Ok(Self {
            rows,
            ids: at(offsets.ids),
            outputs: (at(offsets.outputs), metadata.outputs.len()),
            slots: at(offsets.slots),
            pages: at(offsets.pages),
            decoding: (at(offsets.decoding), metadata.decoding.len()),
            prefilling: (at(offsets.prefilling), metadata.prefilling.len()),
            tiles: (at(offsets.tiles), metadata.tiles.len()),
            angles,
            positions: at(offsets.positions),
            memory,
            offsets,
        })
    }

    /// Whether the metadata fits.
    pub fn holds(&self, metadata: &AttentionMetadata) -> bool {
        metadata.ids.len() == self.rows
            && metadata.outputs.len() == self.outputs.1
            && metadata.decoding.len() == self.decoding.1
            && metadata.prefilling.len() == self.prefilling.1
            && metadata.tiles.len() == self.tiles.1
            && self.offsets.pages + metadata.pages.len() <= self.memory.len()
    }

    /// Overwrites the metadata.
    ///
    /// # Errors
    ///
    /// If it [does not fit](Pass::holds) or the device fails.
    pub fn write(
        &mut self,
        metadata: &AttentionMetadata,
        device: &CudaDevice,
        staging: &mut Staging,
    ) -> Result<()> {
        if !self.holds(metadata) {
            bail!("a pass of {} rows for {}", self.rows, metadata.ids.len());
        }
        staging.copy(&self.offsets.pack(metadata), &mut self.memory, device)
    }

    /// Computes the angles of the positions: frequency j rotates by the position of axis `axes[j]`.
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
