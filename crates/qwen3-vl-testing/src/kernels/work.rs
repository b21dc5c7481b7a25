//! The work of our own matrix products.

use qwen3_vl::cuda::launch::Argument;
use qwen3_vl::cuda::profile::Timed;

/// Kernels of ours that are matrix products.
const PRODUCTS: [&str; 2] = ["gemv_", "tile_"];

/// Whether a kernel is one.
pub(super) fn is_product(kernel: &str) -> bool {
    PRODUCTS.iter().any(|of| kernel.starts_with(of))
}

/// What is between two kernels besides products.
pub(super) fn between(from: &str, to: &str) -> (String, (f64, f64)) {
    let kind = |name: &str| name.split("_bf16").next().unwrap_or(name).to_owned();
    let name = format!("between {} and {}", kind(from), kind(to));
    (name, (0.0, 0.0))
}

/// Bytes and operations of one of our products; none of another kernel. Of experts in stretches it
/// is not known how many there are: bytes are of as few as hold all rows.
pub(super) fn of_product(kernel: &Timed, bytes_of_value: usize) -> Option<(f64, f64)> {
    let place = PRODUCTS.iter().position(|of| kernel.name.starts_with(of))?;
    let words = kernel.arguments.iter().map(|argument| match argument {
        Argument::Long(value) => *value as usize,
        Argument::Word(value) => *value as usize,
        Argument::Real(_) => 0,
    });
    let words: Vec<usize> = words.collect();
    // Six addresses, a list or two, then numbers.
    let grouped = *words.get(6)? != 0;
    let &[outputs, columns, pitch, groups, _, _, scale_type, rows, _] = words.get(7 + place..)?
    else {
        return None;
    };
    let (scale, zero) = (
        if scale_type == 0 { 4 } else { 2 },
        usize::from(words[3] != 0),
    );
    let is_fp8 = kernel.name.contains("_fp8_");
    // A line of scales belongs to many rows there, to one at least.
    let of_row = pitch + if is_fp8 { 4 } else { groups * (scale + zero) };
    let matrices = match (grouped, place) {
        (false, _) => 1,
        (true, 0) => kernel.grid.1,
        (true, _) => rows.div_ceil(64),
    };
    let values = rows * (columns + outputs) * bytes_of_value;
    let bytes = matrices * outputs * of_row + values;
    Some((bytes as f64, 2.0 * (rows * columns * outputs) as f64))
}
