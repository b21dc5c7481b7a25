//! Matrices on the device in the layout that `kernels/stored.cuh` reads.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};

use crate::cpu::stored::{StoredFormat, StoredMatrix, StoredScales};

/// What 16-byte loads need of the columns of a dense matrix.
const COLUMNS: usize = 16;

/// A matrix `[rows, inputs]`, or some rows of one. Joined matrices lie one below the other.
#[derive(Clone, Debug)]
pub struct DeviceMatrix {
    pub(super) format: StoredFormat,
    pub(super) rows: usize,
    pub(super) inputs: usize,
    /// Places of columns, which 16 divides.
    pub(super) columns: usize,
    /// `[rows, …]`, rows one behind the other.
    pub(super) values: Tensor,
    /// FP8: `[lines, groups]`; integers: `[rows, groups]`.
    pub(super) scales: Option<Tensor>,
    /// `[rows, groups]`, u8.
    pub(super) zeros: Option<Tensor>,
    /// FP8: the line of each row; integers: the group of each 32 columns; u32.
    pub(super) index: Option<Tensor>,
    /// The column at each place, u32.
    pub(super) order: Option<Tensor>,
    pub(super) groups: usize,
    pub(super) block: usize,
    pub(super) zero: usize,
    /// Index and order on the host, by which matrices are known to fit together.
    host: Arc<Host>,
}

#[derive(Debug, PartialEq)]
struct Host {
    index: Vec<u32>,
    order: Option<Vec<u32>>,
}

impl DeviceMatrix {
    /// Copies a matrix to a device.
    ///
    /// # Errors
    ///
    /// If the device has no memory or is not a CUDA device.
    pub fn upload(matrix: StoredMatrix<'_>, device: &Device) -> Result<Self> {
        let StoredMatrix { rows, groups, .. } = matrix;
        let by_groups = |count: usize| (count / groups.max(1), groups);
        let pitch = matrix.pitch;
        let words = |words: &[u32]| Tensor::from_slice(words, words.len(), device);
        let scales = match &matrix.scales {
            StoredScales::None => None,
            StoredScales::F32(s) => {
                Some(Tensor::from_slice::<_, f32>(s, by_groups(s.len()), device)?)
            }
            StoredScales::F16(s) => {
                Some(Tensor::from_slice::<_, f16>(s, by_groups(s.len()), device)?)
            }
            StoredScales::BF16(s) => Some(Tensor::from_slice::<_, bf16>(
                s,
                by_groups(s.len()),
                device,
            )?),
        };
        let zeros = matrix.zeros;
        let zeros = zeros.map(|zeros| Tensor::from_slice(zeros, by_groups(zeros.len()), device));
        let order = matrix.order.as_deref().map(words).transpose()?;
        Ok(Self {
            format: matrix.format,
            rows,
            inputs: matrix.inputs,
            columns: matrix.columns,
            values: Tensor::from_slice::<_, u8>(&matrix.values, (rows, pitch), device)?,
            scales,
            zeros: zeros.transpose()?,
            index: match matrix.index.is_empty() {
                true => None,
                false => Some(words(&matrix.index)?),
            },
            order,
            groups,
            block: matrix.block,
            zero: matrix.zero,
            host: Arc::new(Host {
                index: matrix.index,
                order: matrix.order,
            }),
        })
    }

    /// A dense matrix `[rows, columns]`, which stays where it is. None if the kernels cannot read
    /// it.
    pub fn dense(weight: &Tensor) -> Option<Self> {
        let (rows, inputs) = weight.dims2().ok()?;
        let readable = weight.device().is_cuda()
            && super::is_supported(weight.dtype())
            && weight.is_contiguous()
            && inputs.is_multiple_of(COLUMNS);
        readable.then(|| Self {
            format: StoredFormat::Dense,
            rows,
            inputs,
            columns: inputs,
            values: weight.clone(),
            scales: None,
            zeros: None,
            index: None,
            order: None,
            groups: 0,
            block: 0,
            zero: 0,
            host: Arc::new(Host {
                index: Vec::new(),
                order: None,
            }),
        })
    }

    /// The matrices one below the other. None if they are not stored alike.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn join(parts: &[&Self]) -> Result<Option<Self>> {
        let Some(first) = parts.first() else {
            return Ok(None);
        };
        if !parts.iter().all(|part| part.fits(first)) {
            return Ok(None);
        }
        let below = |part: fn(&Self) -> Option<&Tensor>| -> Result<Option<Tensor>> {
            let all: Option<Vec<&Tensor>> = parts.iter().copied().map(part).collect();
            all.map(|all| Tensor::cat(&all, 0)).transpose()
        };
        let Some(values) = below(|part| Some(&part.values))? else {
            bail!("matrices without values");
        };
        let mut joined = Self {
            rows: parts.iter().map(|part| part.rows).sum(),
            values,
            scales: below(|part| part.scales.as_ref())?,
            zeros: below(|part| part.zeros.as_ref())?,
            ..(*first).clone()
        };
        if first.format == StoredFormat::Fp8 {
            let (mut index, mut lines) = (Vec::with_capacity(joined.rows), 0);
            for part in parts {
                index.extend(part.host.index.iter().map(|line| line + lines));
                lines += part.scales.as_ref().map_or(Ok(0), |s| s.dim(0))? as u32;
            }
            let on_device = Tensor::from_slice(&index, index.len(), first.values.device())?;
            joined.index = Some(on_device);
            joined.host = Arc::new(Host { index, order: None });
        }
        Ok(Some(joined))
    }

    /// Whether the other matrix may lie below this one.
    fn fits(&self, other: &Self) -> bool {
        let scales = |of: &Self| of.scales.as_ref().map(Tensor::dtype);
        let by_columns = match self.format {
            StoredFormat::Fp8 => true,
            _ => Arc::ptr_eq(&self.host, &other.host) || self.host == other.host,
        };
        self.format == other.format
            && self.values.dtype() == other.values.dtype()
            && (self.inputs, self.columns) == (other.inputs, other.columns)
            && (self.groups, self.block, self.zero) == (other.groups, other.block, other.zero)
            && scales(self) == scales(other)
            && self.zeros.is_some() == other.zeros.is_some()
            && by_columns
    }

    /// Some of its rows, in the same memory.
    ///
    /// # Errors
    ///
    /// If it has fewer.
    pub fn narrow(&self, first: usize, rows: usize) -> Result<Self> {
        let some = |of: &Tensor| of.narrow(0, first, rows);
        let all = self.clone();
        let zeros = all.zeros.as_ref().map(some).transpose()?;
        let mut part = Self {
            rows,
            values: some(&all.values)?,
            zeros,
            ..all
        };
        if self.format == StoredFormat::Fp8 {
            part.index = part.index.as_ref().map(some).transpose()?;
            part.host = Arc::new(Host {
                index: self.host.index[first..first + rows].to_vec(),
                order: None,
            });
        } else {
            part.scales = part.scales.as_ref().map(some).transpose()?;
        }
        Ok(part)
    }

    /// Rows and columns.
    pub fn dims(&self) -> (usize, usize) {
        (self.rows, self.inputs)
    }

    /// Bytes from row to row.
    pub(super) fn pitch(&self) -> usize {
        self.values.elem_count() * self.values.dtype().size_in_bytes() / self.rows.max(1)
    }

    /// The type of its values, if they are numbers.
    pub(super) fn dense_dtype(&self) -> Option<DType> {
        (self.format == StoredFormat::Dense).then(|| self.values.dtype())
    }

    /// Memory that it takes; of a part, without what it shares with others.
    pub fn bytes(&self) -> usize {
        let bytes = |of: &Tensor| of.elem_count() * of.dtype().size_in_bytes();
        let scales = match (&self.scales, self.format) {
            (Some(scales), StoredFormat::Fp8) => {
                let lines = &self.host.index;
                let ends = lines.first().zip(lines.last());
                let lines = ends.map_or(0, |(first, last)| last - first + 1);
                lines as usize * self.groups * scales.dtype().size_in_bytes()
            }
            (Some(scales), _) => bytes(scales),
            (None, _) => 0,
        };
        bytes(&self.values) + scales + self.zeros.as_ref().map_or(0, bytes)
    }
}
