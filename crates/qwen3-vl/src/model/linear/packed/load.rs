//! From the tensors of a layer to the one layout that is multiplied.

use candle_core::DType;
use half::{bf16, f16};

use super::Matrix;
use super::layout::{Format, Layout};
use super::words::{Words, read_words};
use crate::config::quantization::{Bits, Groups, Quantization};
use crate::cpu::packed::{Columns, PackedInt8, PackedMatrix, Scales, Zeros, is_scale};
use crate::weights::{StoredTensor, Weights, WeightsError, ensure_memory, type_name};

/// Loads the layer `name` of integers in `tensor`. Besides what it becomes, the integers of this
/// one layer are in memory.
///
/// # Errors
///
/// See [`WeightsError`].
pub(super) fn load(
    weights: &Weights,
    name: &str,
    tensor: &str,
    shape: (usize, usize),
    int8: bool,
) -> Result<(Format, Matrix), WeightsError> {
    let integers = format!("{name}.{tensor}");
    let (format, all_groups, zero_offset) = rules(&integers, tensor, weights.quantization())?;
    // The shape of the integers tells their bits.
    let layouts = [Bits::Four, Bits::Eight].into_iter();
    let layouts = layouts.filter(|bits| all_groups.iter().any(|groups| groups.bits == *bits));
    let layouts: Vec<_> = layouts.map(|bits| Layout::new(format, bits)).collect();
    let shapes: Vec<_> = layouts.iter().map(|l| l.integers.shape(shape)).collect();
    let (index, stored) = weights.stored_as(&integers, &shapes)?;
    ensure_type(&*stored, format, &[DType::I32], "I32")?;
    let layout = layouts[index];
    layout.ensure_fits(&integers, shape)?;

    let bits = layout.integers.bits;
    let layer = Layer {
        weights,
        name,
        shape,
        layout,
    };
    let table = layer.scales(all_groups.iter().filter(|groups| groups.bits == bits))?;
    let columns = layer.columns(&table)?;
    let zeros = layer.zeros(&table, &columns, zero_offset)?;
    let scales = table.of(shape.0, columns.groups());
    layer.check_shape()?;

    let wide = bits == Bits::Eight;
    // As in the file, and as laid out.
    let bytes = match int8 {
        false => PackedMatrix::bytes_of(shape.0, &columns, wide),
        true => PackedInt8::bytes_of(shape.0, &columns, wide),
    };
    ensure_memory(&integers, stored.size().saturating_add(bytes))?;
    let words = Words::read(&*stored, layout.integers, shape)?;
    let fill = |rows, out: &mut [u8]| words.rows(rows, out);
    let of_groups = (scales, zeros);
    let matrix = match int8 {
        false => PackedMatrix::new(shape.0, columns, wide, of_groups, fill).map(Matrix::Exact),
        true => PackedInt8::new(shape.0, columns, wide, of_groups, fill).map(Matrix::Fast),
    };
    let matrix = matrix.ok_or_else(|| WeightsError::Memory(integers.clone()))?;
    Ok((format, matrix))
}

/// The format of a layer that has `tensor`, what its groups may be, and what is added to a zero
/// point.
fn rules<'a>(
    name: &str,
    tensor: &str,
    said: Option<&'a Quantization>,
) -> Result<(Format, &'a [Groups], u8), WeightsError> {
    match (tensor, said) {
        ("qweight", Some(Quantization::Awq(groups))) => {
            Ok((Format::Awq, std::slice::from_ref(groups), 0))
        }
        (
            "qweight",
            Some(Quantization::Gptq {
                zero_offset,
                groups,
            }),
        ) => Ok((Format::Gptq, groups, *zero_offset)),
        ("weight_packed", Some(Quantization::CompressedTensors { groups })) => {
            Ok((Format::CompressedTensors, groups, 0))
        }
        _ => {
            let said = said.map_or("nothing of it".into(), ToString::to_string);
            Err(WeightsError::Unfit {
                name: name.into(),
                reason: format!("is of a quantised layer, and quantization_config says {said}"),
            })
        }
    }
}

/// That a part of a layer has a type that its format can have.
fn ensure_type(
    stored: &dyn StoredTensor,
    format: Format,
    types: &[DType],
    expected: &'static str,
) -> Result<(), WeightsError> {
    match types.contains(&stored.stored_dtype()) {
        true => Ok(()),
        false => Err(WeightsError::Part {
            name: stored.name().into(),
            found: type_name(stored.stored_dtype()),
            format: format.name(),
            expected,
        }),
    }
}

/// Scales as the file has them.
struct Table {
    values: Vec<f32>,
    dtype: DType,
    /// Whether a row of the file is one of outputs, else of groups.
    by_rows: bool,
    /// In a row of weights.
    groups: usize,
    /// Columns of a group; none if a row is one.
    size: Option<usize>,
}

impl Table {
    /// Those of some groups, row by row, in the type of the file.
    fn of(&self, rows: usize, groups: &[usize]) -> Scales {
        let place = |row: usize, group: usize| match self.by_rows {
            true => row * self.groups + group,
            false => group * rows + row,
        };
        let row = |row| groups.iter().map(move |group| place(row, *group));
        let all = (0..rows).flat_map(row).map(|place| self.values[place]);
        match self.dtype {
            DType::F16 => Scales::F16(all.map(f16::from_f32).collect()),
            DType::BF16 => Scales::BF16(all.map(bf16::from_f32).collect()),
            _ => Scales::F32(all.collect()),
        }
    }
}

/// A layer in its file.
struct Layer<'a> {
    weights: &'a Weights,
    name: &'a str,
    /// Outputs and inputs.
    shape: (usize, usize),
    layout: Layout,
}

impl Layer<'_> {
    fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// The scales, whose shape tells which groups they are of.
    fn scales<'g>(&self, groups: impl Iterator<Item = &'g Groups>) -> Result<Table, WeightsError> {
        let (rows, columns) = self.shape;
        let by_rows = self.layout.scales_by_rows;
        let groups: Vec<&Groups> = groups.collect();
        let shape = |groups: &&Groups| match by_rows {
            true => vec![rows, groups.in_row(columns)],
            false => vec![groups.in_row(columns), rows],
        };
        let (name, shapes) = (self.part(self.layout.scales), groups.iter().map(shape));
        let shapes: Vec<_> = shapes.collect();
        let (index, stored) = self.weights.stored_as(&name, &shapes)?;
        let types = [DType::F16, DType::BF16, DType::F32];
        ensure_type(&*stored, self.layout.format, &types, "F16, BF16 or F32")?;
        let values = stored.widen(0..shapes[index].iter().product())?;
        if !values.iter().all(|scale| is_scale(*scale)) {
            return Err(WeightsError::NotFinite(name.clone()));
        }
        Ok(Table {
            values,
            dtype: stored.stored_dtype(),
            by_rows,
            groups: groups[index].in_row(columns),
            size: groups[index].size,
        })
    }

    /// The order of the columns: by the index of groups if there is one, else in sequence.
    fn columns(&self, scales: &Table) -> Result<Columns, WeightsError> {
        let (format, count) = (self.layout.format, self.shape.1);
        let in_sequence = || Columns::in_sequence(count, scales.size.unwrap_or(count));
        let name = self.part(format.index());
        if !self.weights.contains(&name) {
            return Ok(in_sequence());
        }
        let shape = [count];
        let stored = self.weights.stored(&name, &shape, 0)?;
        ensure_type(&*stored, format, &[DType::I32], "I32")?;
        let index = read_words(&*stored)?;
        // compressed-tensors: -1 is in an index that was never filled.
        if format == Format::CompressedTensors && index.contains(&u32::MAX) {
            return Ok(in_sequence());
        }
        match index.iter().find(|group| **group as usize >= scales.groups) {
            None => {
                let index: Vec<usize> = index.into_iter().map(|group| group as usize).collect();
                Ok(Columns::by_index(&index))
            }
            Some(group) => Err(WeightsError::Unfit {
                name: name.clone(),
                reason: format!("names group {}, there are {}", *group as i32, scales.groups),
            }),
        }
    }

    /// The zero points of the groups that have columns.
    fn zeros(&self, scales: &Table, columns: &Columns, offset: u8) -> Result<Zeros, WeightsError> {
        let (format, packing) = (self.layout.format, self.layout.zero_points);
        let name = self.part(self.layout.zeros);
        // compressed-tensors has none where they are in the middle.
        if format == Format::CompressedTensors && !self.weights.contains(&name) {
            return Ok(Zeros::Same(1 << (packing.bits.count() - 1)));
        }
        let size = (self.shape.0, scales.groups);
        let shape = packing.shape(size);
        let stored = self.weights.stored(&name, &shape, 0)?;
        ensure_type(&*stored, format, &[DType::I32], "I32")?;
        let words = Words::read(&*stored, packing, size)?;
        let row = |row| columns.groups().iter().map(move |group| (row, *group));
        let all = (0..size.0).flat_map(row);
        let all = all.map(|(row, group)| words.get(row, group));
        Ok(Zeros::new(all.collect(), offset))
    }

    /// That the shape which compressed-tensors stores as a tensor is that of the layer.
    fn check_shape(&self) -> Result<(), WeightsError> {
        let name = self.layout.shape.map(|part| self.part(part));
        let Some(name) = name.filter(|name| self.weights.contains(name)) else {
            return Ok(());
        };
        let stored = self.weights.stored(&name, &[2], 0)?;
        let types = [DType::I64, DType::I32];
        ensure_type(&*stored, self.layout.format, &types, "I64")?;
        let size = stored.stored_dtype().size_in_bytes();
        let mut bytes = vec![0; 2 * size];
        stored.read(0, &mut bytes)?;
        // Least byte first. A negative number becomes a large one, which is no size.
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |all, b| all << 8 | u64::from(*b))
        };
        let found: Vec<u64> = bytes.chunks_exact(size).map(number).collect();
        match found == [self.shape.0 as u64, self.shape.1 as u64] {
            true => Ok(()),
            false => Err(WeightsError::Unfit {
                name: name.clone(),
                reason: format!("says {found:?}, config.json asks for {:?}", self.shape),
            }),
        }
    }
}
