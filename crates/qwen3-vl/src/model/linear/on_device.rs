//! Matrices on a GPU that are not dense, as they are stored.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Result, Tensor};

use crate::cpu::blocks::{BlockFormat, BlockMatrix};
use crate::cpu::quantized::Format;
use crate::cpu::stored::StoredMatrix;
use crate::cuda::DeviceMatrix;
use crate::weights::{Weights, WeightsError, on_device};

/// A weight `[out, in]` that kernels of our own multiply.
#[derive(Clone, Debug)]
pub struct DeviceWeight {
    matrix: DeviceMatrix,
    kind: Kind,
}

/// What it is to users.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// How a checkpoint has it quantised: `awq 4-bit`.
    Quantised(String),
    /// ggml's blocks.
    Blocks(GgmlDType),
}

impl DeviceWeight {
    /// Copies a matrix that a checkpoint has quantised like `label` says.
    ///
    /// # Errors
    ///
    /// If the device cannot hold it.
    pub(super) fn quantised(
        matrix: StoredMatrix<'_>,
        label: String,
        device: &Device,
    ) -> Result<Self> {
        Ok(Self {
            matrix: DeviceMatrix::upload(matrix, device)?,
            kind: Kind::Quantised(label),
        })
    }

    /// Copies a matrix in ggml's blocks; none if there are no kernels for them.
    ///
    /// # Errors
    ///
    /// If the device cannot hold it.
    pub(super) fn blocks(matrix: &BlockMatrix, device: &Device) -> Result<Option<Self>> {
        let stored = matrix.stored().filter(|_| device.is_cuda());
        let uploaded = stored.map(|stored| DeviceMatrix::upload(stored, device));
        let kind = Kind::Blocks(matrix.dtype());
        Ok(uploaded.transpose()?.map(|matrix| Self { matrix, kind }))
    }

    /// Rounds a matrix of a checkpoint to blocks while it is loaded; none if there are no kernels
    /// for these.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(super) fn round(
        weights: &Weights,
        name: &str,
        (out, input): (usize, usize),
        format: Format,
    ) -> std::result::Result<Option<Self>, WeightsError> {
        let (shape, dtype) = ([out, input], format.dtype());
        let Some(blocks) = BlockFormat::of(dtype).filter(|_| weights.device().is_cuda()) else {
            return Ok(None);
        };
        let bytes = format.bytes(out.saturating_mul(input));
        let tensor = weights.stored(name, &shape, bytes)?.tensor(&Device::Cpu)?;
        let rounded = QTensor::quantize(&tensor, dtype).and_then(|of| Ok(of.data()?.into_owned()));
        let matrix = BlockMatrix::new(blocks, (out, input), on_device(name, rounded)?);
        let uploaded = matrix.map(|matrix| Self::blocks(&matrix, weights.device()));
        on_device(name, uploaded.transpose().map(Option::flatten))
    }

    /// Joins the weights, one below the other; the parts become views of the result. None if they
    /// are not stored alike.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub(super) fn join(parts: &mut [&mut Self]) -> Result<Option<Self>> {
        let matrices: Vec<&DeviceMatrix> = parts.iter().map(|part| &part.matrix).collect();
        let alike = parts.windows(2).all(|pair| pair[0].kind == pair[1].kind);
        let joined = match alike {
            true => DeviceMatrix::join(&matrices)?,
            false => None,
        };
        let (Some(matrix), Some(first)) = (joined, parts.first()) else {
            return Ok(None);
        };
        let kind = first.kind.clone();
        let joined = Self { matrix, kind };
        let mut first = 0;
        for part in parts {
            let rows = part.outputs();
            **part = joined.narrow(first, rows)?;
            first += rows;
        }
        Ok(Some(joined))
    }

    /// Some rows, in the same memory.
    ///
    /// # Errors
    ///
    /// If there are fewer.
    pub(super) fn narrow(&self, first: usize, rows: usize) -> Result<Self> {
        Ok(Self {
            matrix: self.matrix.narrow(first, rows)?,
            kind: self.kind.clone(),
        })
    }

    /// `x Wᵀ` for `x` `[rows, in]`, in the type of `x`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub(super) fn product(&self, x: &Tensor) -> Result<Tensor> {
        self.matrix.product(x)
    }

    /// The matrix.
    pub(super) fn matrix(&self) -> &DeviceMatrix {
        &self.matrix
    }

    /// Rows of the matrix.
    pub(super) fn outputs(&self) -> usize {
        self.matrix.dims().0
    }

    /// Type of the blocks, if it is stored in them.
    pub(super) fn format(&self) -> Option<GgmlDType> {
        match self.kind {
            Kind::Blocks(dtype) => Some(dtype),
            Kind::Quantised(_) => None,
        }
    }

    /// How the checkpoint had it quantised; none for blocks.
    pub(super) fn label(&self) -> Option<&str> {
        match &self.kind {
            Kind::Blocks(_) => None,
            Kind::Quantised(label) => Some(label),
        }
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> usize {
        self.matrix.bytes()
    }
}
