//! Products with matrices as they are stored.

use half::bf16;
use qwen3_vl::cpu::matmul::matmul_t;
use qwen3_vl::cpu::stored::{StoredFormat, StoredMatrix, StoredScales};
use qwen3_vl_testing::matrices::{self, FORMATS, Matrix};

use crate::emulated::{Value, close, random, wide};
use crate::launch;

/// Which rows of a matrix the rows of a result are of.
pub enum Grouping<'a> {
    /// All of all.
    None,
    /// Those of the expert of each.
    Each(&'a [u32]),
    /// Likewise: rows sorted by expert, and stretches of them.
    Sorted(&'a [u32], &'a [[u32; 3]]),
}

/// Columns of x in the order of the matrix's.
fn arranged<T: Value>(w: &StoredMatrix<'_>, x: &[T]) -> Vec<T> {
    let rows = x.len() / w.inputs;
    if w.order.is_none() && w.columns == w.inputs {
        return x.to_vec();
    }
    let mut out = vec![T::of(f32::NAN); rows * w.columns];
    let order = w.order.as_ref().map_or(std::ptr::null(), Vec::as_ptr);
    launch!(
        &format!("arrange_{}", T::NAME),
        (w.columns.div_ceil(256), rows, 1),
        256,
        x.as_ptr(),
        order,
        out.as_mut_ptr(),
        w.inputs as u32,
        w.columns as u32,
    );
    out
}

/// Runs `gemv` or `tile` as the host does. The result has `outputs` columns, `count` rows.
pub fn product<T: Value, O: Value>(
    kernel: &str,
    w: &StoredMatrix<'_>,
    x: &[T],
    grouping: &Grouping<'_>,
    (outputs, count, share): (usize, usize, usize),
) -> Vec<O> {
    let x = arranged(w, x);
    let mut out = vec![O::of(f32::NAN); outputs * count];
    let (scales, scale_type) = match &w.scales {
        StoredScales::None => (std::ptr::null(), 0),
        StoredScales::F32(scales) => (scales.as_ptr().cast::<u8>(), 0),
        StoredScales::F16(scales) => (scales.as_ptr().cast(), 1),
        StoredScales::BF16(scales) => (scales.as_ptr().cast(), 2_u32),
    };
    let zeros = w.zeros.map_or(std::ptr::null(), <[u8]>::as_ptr);
    let numbers = [outputs, w.columns, w.pitch, w.groups, w.block, w.zero];
    let [rows, columns, pitch, groups, block, zero] = numbers.map(|number| number as u32);
    // Results of another type are logits.
    let format = match O::NAME == T::NAME {
        true => w.format.name(),
        false => "router",
    };
    let (count_, share) = (count as u32, share as u32);
    if kernel == "gemv" {
        let (experts, together, down) = match grouping {
            Grouping::Each(experts) => (experts.as_ptr(), 1, count),
            _ => (std::ptr::null(), count.next_power_of_two(), 1),
        };
        let rows_of_block = if together < 4 { 4 } else { 8 };
        let name = format!("gemv_{}_{}_{together}", format, T::NAME);
        launch!(
            &name,
            (outputs.div_ceil(rows_of_block), down, 1),
            128,
            x.as_ptr(),
            w.values.as_ptr(),
            scales,
            zeros,
            w.index.as_ptr(),
            out.as_mut_ptr(),
            experts,
            rows,
            columns,
            pitch,
            groups,
            block,
            zero,
            scale_type,
            count_,
            share,
        );
        return out;
    }
    let (stretches, slots, down) = match grouping {
        Grouping::Sorted(slots, stretches) => (stretches.as_ptr(), slots.as_ptr(), stretches.len()),
        _ => (std::ptr::null(), std::ptr::null(), count.div_ceil(64)),
    };
    launch!(
        &format!("tile_{}_{}", format, T::NAME),
        (outputs.div_ceil(64), down, 1),
        128,
        x.as_ptr(),
        w.values.as_ptr(),
        scales,
        zeros,
        w.index.as_ptr(),
        out.as_mut_ptr(),
        stretches,
        slots,
        rows,
        columns,
        pitch,
        groups,
        block,
        zero,
        scale_type,
        count_,
        share,
    );
    out
}

fn multiplies<T: Value>(name: &str, matrix: &Matrix, (rows, inputs): (usize, usize), m: usize) {
    let x: Vec<T> = random("x", m * inputs, 7);
    let want = matrix.product(&wide(&x), m);
    let stored = matrix.stored().unwrap();
    let sizes = (rows, m, 1);
    let what = format!("{name} [{rows}, {inputs}] of {m}");
    if m <= 8 {
        let got: Vec<T> = product("gemv", &stored, &x, &Grouping::None, sizes);
        close(&format!("gemv {what}"), &got, &want, 1.0);
    }
    // Weights are rounded too.
    let got: Vec<T> = product("tile", &stored, &x, &Grouping::None, sizes);
    close(&format!("tile {what}"), &got, &want, 2.0);
}

/// Sizes that tiles, warps and blocks do not divide, and one whole tile.
#[test]
fn products_are_those_of_the_cpu() {
    for (index, (name, in_blocks, make)) in FORMATS.iter().enumerate() {
        for (rows, inputs, m) in [
            (5, 208, 1),
            (70, 331, 3),
            (130, 96, 8),
            (64, 704, 64),
            (9, 400, 67),
        ] {
            let inputs = if *in_blocks {
                inputs / 256 * 256 + 256
            } else {
                inputs
            };
            let matrix = make((rows, inputs), index as u64).unwrap();
            multiplies::<f32>(name, &matrix, (rows, inputs), m);
            multiplies::<bf16>(name, &matrix, (rows, inputs), m);
        }
    }
}

fn dense<T: Value>((rows, inputs): (usize, usize), m: usize) {
    let (x, w): (Vec<T>, Vec<T>) = (random("x", m * inputs, 1), random("w", rows * inputs, 2));
    let want = matmul_t(&wide(&x), &wide(&w), (m, rows, inputs));
    let stored = as_stored(&w, (rows, inputs));
    let sizes = (rows, m, 1);
    if m <= 8 {
        let got: Vec<T> = product("gemv", &stored, &x, &Grouping::None, sizes);
        close("gemv dense", &got, &want, 1.0);
    }
    let got: Vec<T> = product("tile", &stored, &x, &Grouping::None, sizes);
    close("tile dense", &got, &want, 1.0);
    let got: Vec<f32> = product("tile", &stored, &x, &Grouping::None, sizes);
    close("logits", &got, &want, 2.0);
    let got: Vec<f32> = product("gemv", &stored, &x[..inputs], &Grouping::None, (rows, 1, 1));
    close("logits of a row", &got, &want[..rows], 2.0);
}

/// A dense matrix.
pub fn as_stored<T: Value>(w: &[T], (rows, inputs): (usize, usize)) -> StoredMatrix<'_> {
    // SAFETY: any bytes are bytes.
    let values = unsafe { std::slice::from_raw_parts(w.as_ptr().cast::<u8>(), size_of_val(w)) };
    let rows_of_bytes = (values.into(), inputs * size_of::<T>());
    StoredMatrix::new(StoredFormat::Dense, (rows, inputs), rows_of_bytes)
}

#[test]
fn dense_products_are_those_of_the_cpu() {
    for (rows, inputs, m) in [(5, 208, 1), (70, 336, 3), (130, 96, 8), (9, 400, 67)] {
        dense::<f32>((rows, inputs), m);
        dense::<bf16>((rows, inputs), m);
    }
}

/// A row's result has the same bits with any others.
#[test]
fn few_rows_do_not_depend_on_each_other() {
    for (name, _, make) in FORMATS {
        let (rows, inputs, m) = (20, 512, 8);
        let matrix = make((rows, inputs), 5).unwrap();
        let stored = matrix.stored().unwrap();
        let x: Vec<f32> = random("x", m * inputs, 3);
        let of = |x: &[f32], m| -> Vec<f32> {
            product("gemv", &stored, x, &Grouping::None, (rows, m, 1))
        };
        let all = of(&x, m);
        for together in [1, 2, 3] {
            let some = of(&x[..together * inputs], together);
            assert_eq!(some, all[..together * rows], "{name}: {together} rows");
        }
    }
}

/// Of random experts, the results of each row's: by few rows, and by stretches of sorted ones.
#[test]
fn grouped_products_are_those_of_each_expert() {
    let (experts, outputs, inputs, rows, top) = (6, 40, 256, 30, 3);
    let of_rows: Vec<u32> = (0..rows * top)
        .map(|i| (i * 5 + i / 7) as u32 % 5)
        .collect();
    let mut slots: Vec<u32> = (0..of_rows.len() as u32).collect();
    slots.sort_by_key(|slot| of_rows[*slot as usize]);
    let mut stretches = Vec::new();
    for expert in 0..experts as u32 {
        let first = of_rows.iter().filter(|e| **e < expert).count() as u32;
        let count = of_rows.iter().filter(|e| **e == expert).count() as u32;
        let starts = (0..count).step_by(64);
        stretches.extend(starts.map(|at| [expert, first + at, first + (at + 64).min(count)]));
    }
    stretches.push([0, 0, 0]);
    for (name, make) in [
        (
            "fp8",
            matrices::fp8((experts * outputs, inputs), (32, 128), 1),
        ),
        (
            "4 bits",
            matrices::packed((experts * outputs, inputs), (64, false), (1, false), 2).unwrap(),
        ),
        (
            "8 bits",
            matrices::packed((experts * outputs, inputs), (0, true), (0, true), 3).unwrap(),
        ),
    ] {
        for share in [top, 1] {
            let x: Vec<f32> = random("x", rows * top / share * inputs, 4);
            let all = make.product(&x, rows * top / share);
            let want: Vec<f32> = (0..rows * top)
                .flat_map(|slot| {
                    let first = slot / share * experts * outputs + of_rows[slot] as usize * outputs;
                    all[first..first + outputs].to_vec()
                })
                .collect();
            let (stored, sizes) = (make.stored().unwrap(), (outputs, rows * top, share));
            let each = Grouping::Each(&of_rows);
            let got: Vec<f32> = product("gemv", &stored, &x, &each, sizes);
            close(&format!("gemv of experts in {name}"), &got, &want, 1.0);
            let sorted = Grouping::Sorted(&slots, &stretches);
            let got: Vec<f32> = product("tile", &stored, &x, &sorted, sizes);
            close(&format!("tiles of experts in {name}"), &got, &want, 1.0);
        }
    }
}
