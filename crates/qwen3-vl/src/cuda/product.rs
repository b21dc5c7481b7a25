//! Products with matrices as they are stored (`kernels/gemv.cu`, `kernels/tile.cu`).

use candle_core::{DType, Result, Tensor, bail};

use super::launch::{Argument, address, device_of, first_value, launch, unwritten};
use super::matrix::DeviceMatrix;
use super::suffix;

/// Most rows that are multiplied by vectors of the matrix; more are multiplied by tiles.
pub const FEW_ROWS: usize = 8;
/// Columns from which on a warp has work for all its threads: below, a library's product of a dense
/// matrix is taken.
const LONG: usize = 512;
/// Threads of a block of both kernels, and threads of a warp.
const THREADS: u32 = 128;
const WARPS: usize = THREADS as usize / 32;
/// Rows of x and of the matrix of a tile.
pub(super) const TILE: usize = 64;

/// Which expert's rows of a matrix each row of the result is of.
pub(super) enum Grouping {
    /// Of each row, u32: for few rows.
    Each(Tensor),
    /// Rows sorted by expert, u32, and stretches of [`TILE`] of them `[stretches, 3]`, u32.
    Sorted(Tensor, Tensor),
}

/// `x Wᵀ` of a dense matrix for few rows; none if another product does it.
///
/// # Errors
///
/// If the shapes do not fit or the device fails.
pub fn few_rows(weight: &Tensor, x: &Tensor) -> Result<Option<Tensor>> {
    let (rows, columns) = x.dims2()?;
    let ours = (1..=FEW_ROWS).contains(&rows)
        && columns >= LONG
        && x.is_contiguous()
        && x.dtype() == weight.dtype();
    match DeviceMatrix::dense(weight).filter(|_| ours) {
        Some(matrix) => matrix.product(x).map(Some),
        None => Ok(None),
    }
}

impl DeviceMatrix {
    /// `x Wᵀ` for `x` `[rows, columns]`, in the type of `x`; in f32 arithmetic, in bf16 with more
    /// than [`FEW_ROWS`] rows of it.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub fn product(&self, x: &Tensor) -> Result<Tensor> {
        match suffix(x.dtype()) {
            Ok(_) => self.multiply(x, x.dtype()),
            Err(_) => self
                .multiply(&x.to_dtype(DType::F32)?, DType::F32)?
                .to_dtype(x.dtype()),
        }
    }

    /// The product in f32, of a dense matrix.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub(super) fn logits(&self, x: &Tensor) -> Result<Tensor> {
        self.multiply(x, DType::F32)
    }

    fn multiply(&self, x: &Tensor, to: DType) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        let (outputs, inputs) = self.dims();
        if columns != inputs || rows == 0 {
            bail!("stored-matmul-t: [{rows}, {columns}] with [{outputs}, {inputs}]");
        }
        let (x, device) = (self.arranged(x)?, device_of(x)?);
        // SAFETY: the kernels write all rows.
        let out = unsafe { unwritten((rows, outputs), to, device)? };
        let few = rows <= FEW_ROWS;
        let of_x = if few {
            rows.next_power_of_two()
        } else {
            rows.div_ceil(TILE)
        };
        let no_rows = [0_u64.into(), 0_u64.into()];
        match few {
            true => self.gemv(&x, &out, (of_x, 1), no_rows[0], (outputs, rows, 1))?,
            false => self.tile(&x, &out, of_x, no_rows, (outputs, rows, 1))?,
        }
        Ok(out)
    }

    /// The product of each of `choices` rows with the `outputs` rows of its expert. Row `i` is of
    /// row `i / share` of `x`.
    ///
    /// # Errors
    ///
    /// If the shapes do not fit or the device fails.
    pub(super) fn grouped(
        &self,
        x: &Tensor,
        grouping: &Grouping,
        outputs: usize,
        (choices, share): (usize, usize),
    ) -> Result<Tensor> {
        let (rows, columns) = x.dims2()?;
        if columns != self.inputs
            || rows == 0
            || rows * share != choices
            || !self.rows.is_multiple_of(outputs.max(1))
        {
            bail!("experts: [{rows}, {columns}] with {:?}", self.dims());
        }
        let (x, device) = (self.arranged(x)?, device_of(x)?);
        // SAFETY: the kernels write all rows: each is in one stretch.
        let out = unsafe { unwritten((choices, outputs), x.dtype(), device)? };
        let sizes = (outputs, choices, share);
        match grouping {
            Grouping::Each(experts) => {
                self.gemv(&x, &out, (1, choices), address(experts)?.into(), sizes)?;
            }
            Grouping::Sorted(slots, stretches) => {
                let lists = [address(stretches)?.into(), address(slots)?.into()];
                self.tile(&x, &out, stretches.dim(0)?, lists, sizes)?;
            }
        }
        Ok(out)
    }

    /// `x` with its columns in the order of the matrix, and zeros where it has none.
    fn arranged(&self, x: &Tensor) -> Result<Tensor> {
        if self.order.is_none() && self.columns == self.inputs {
            return Ok(x.clone());
        }
        let (rows, columns) = x.dims2()?;
        let device = device_of(x)?;
        // SAFETY: the kernel writes all places.
        let out = unsafe { unwritten((rows, self.columns), x.dtype(), device)? };
        let arguments = [
            address(x)?.into(),
            self.order.as_ref().map_or(Ok(0), address)?.into(),
            address(&out)?.into(),
            (columns as u32).into(),
            (self.columns as u32).into(),
        ];
        let name = format!("arrange_{}", suffix(x.dtype())?);
        let grid = (self.columns.div_ceil(256), rows, 1);
        // SAFETY: the arguments of tile.cu; `order` has as many places as `out` has columns.
        unsafe { launch(device, &name, grid, 256, &arguments)? };
        Ok(out)
    }

    /// `together` rows of x by each row of the matrix; `down` rows of the result in y.
    fn gemv(
        &self,
        x: &Tensor,
        out: &Tensor,
        (together, down): (usize, usize),
        experts: Argument,
        sizes: (usize, usize, usize),
    ) -> Result<()> {
        let of_warp = if together < 4 { 1 } else { 2 };
        let grid = (sizes.0.div_ceil(WARPS * of_warp), down, 1);
        let name = format!("gemv_{}_{together}", self.kernel(x, out)?);
        let arguments = self.arguments(x, out, &[experts], sizes)?;
        // SAFETY: the arguments of gemv.cu; the callers check the sizes.
        unsafe { launch(device_of(x)?, &name, grid, THREADS, &arguments) }
    }

    fn tile(
        &self,
        x: &Tensor,
        out: &Tensor,
        down: usize,
        lists: [Argument; 2],
        sizes: (usize, usize, usize),
    ) -> Result<()> {
        let grid = (sizes.0.div_ceil(TILE), down, 1);
        let name = format!("tile_{}", self.kernel(x, out)?);
        let arguments = self.arguments(x, out, &lists, sizes)?;
        // SAFETY: the arguments of tile.cu; the callers check the sizes.
        unsafe { launch(device_of(x)?, &name, grid, THREADS, &arguments) }
    }

    /// Format and type in a kernel's name.
    fn kernel(&self, x: &Tensor, out: &Tensor) -> Result<String> {
        let format = match self.dense_dtype() {
            Some(dtype) if dtype != x.dtype() => bail!("{dtype:?} weights of {:?}", x.dtype()),
            Some(_) if out.dtype() != x.dtype() => "router",
            _ => self.format.name(),
        };
        Ok(format!("{format}_{}", suffix(x.dtype())?))
    }

    /// The arguments of both kernels, which differ in `lists`.
    fn arguments(
        &self,
        x: &Tensor,
        out: &Tensor,
        lists: &[Argument],
        (outputs, rows, share): (usize, usize, usize),
    ) -> Result<Vec<Argument>> {
        let place = |of: &Option<Tensor>| of.as_ref().map_or(Ok(0), address);
        let scale_type = match self.scales.as_ref().map(Tensor::dtype) {
            Some(DType::F16) => 1,
            Some(DType::BF16) => 2,
            _ => 0,
        };
        let mut all: Vec<Argument> = vec![
            address(x)?.into(),
            first_value(&self.values)?.into(),
            place(&self.scales)?.into(),
            place(&self.zeros)?.into(),
            place(&self.index)?.into(),
            address(out)?.into(),
        ];
        all.extend(lists);
        let numbers = [
            outputs,
            self.columns,
            self.pitch(),
            self.groups,
            self.block,
            self.zero,
            scale_type,
            rows,
            share,
        ];
        all.extend(numbers.map(|number| Argument::from(number as u32)));
        Ok(all)
    }
}
