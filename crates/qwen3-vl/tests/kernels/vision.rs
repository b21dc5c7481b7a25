//! Kernels of the vision tower's blocks; for attention see `attention`.

use half::bf16;
use qwen3_vl::cpu::{activation, norm};

use crate::emulated::{Value, close, random, wide};
use crate::launch;

fn add_layer_norm<T: Value>(rows: usize, width: usize, with_delta: bool) {
    let mut sum: Vec<T> = random("sum", rows * width, 1);
    let delta: Vec<T> = random("delta", rows * width, 2);
    let [delta_bias, weight, bias] =
        ["delta_bias", "weight", "bias"].map(|name| random::<T>(name, width, 3));
    let mut want_sum = wide(&sum);
    if with_delta {
        activation::add(&mut want_sum, &wide(&delta));
        activation::add(&mut want_sum, &wide(&delta_bias));
    }
    let mut want = vec![0.0; want_sum.len()];
    norm::layer_norm(&want_sum, &wide(&weight), &wide(&bias), 1e-6, &mut want);
    let mut out = vec![T::default(); sum.len()];
    let delta = if with_delta {
        delta.as_ptr()
    } else {
        std::ptr::null()
    };
    launch!(
        &format!("add_layer_norm_{}", T::NAME),
        (rows, 1, 1),
        256,
        sum.as_mut_ptr(),
        delta,
        delta_bias.as_ptr(),
        weight.as_ptr(),
        bias.as_ptr(),
        out.as_mut_ptr(),
        width as u32,
        1e-6f32,
    );
    // delta + delta_bias is rounded too.
    close("sum", &sum, &want_sum, 2.0);
    close("add_layer_norm", &out, &want, 4.0);
}

#[test]
fn add_layer_norm_is_that_of_the_cpu() {
    for width in [8, 64, 1152, 4096] {
        for with_delta in [true, false] {
            add_layer_norm::<f32>(3, width, with_delta);
            add_layer_norm::<bf16>(3, width, with_delta);
        }
    }
}

fn bias_gelu<T: Value>(rows: usize, width: usize) {
    let mut x: Vec<T> = random("x", rows * width, 1);
    let bias: Vec<T> = random("bias", width, 2);
    let mut want = wide(&x);
    activation::add(&mut want, &wide(&bias));
    activation::gelu_tanh(&mut want);
    let groups = x.len() / 8;
    launch!(
        &format!("bias_gelu_{}", T::NAME),
        (groups.div_ceil(256), 1, 1),
        256,
        x.as_mut_ptr(),
        bias.as_ptr(),
        width as u32,
        groups as u32,
    );
    // The sum is rounded too.
    close("bias_gelu", &x, &want, 2.0);
}

#[test]
fn bias_gelu_is_that_of_the_cpu() {
    for (rows, width) in [(1, 8), (3, 136), (5, 4304)] {
        bias_gelu::<f32>(rows, width);
        bias_gelu::<bf16>(rows, width);
    }
}

fn vision_rope<T: Value>(heads: usize, half: usize) {
    let (grid, grids) = (6usize, 2usize);
    let width = heads * 2 * half;
    let mut qkv: Vec<T> = random("qkv", grid * grids * 3 * width, 1);
    let bias: Vec<T> = random("bias", 3 * width, 3);
    let angles: Vec<f32> = random("angles", grid * half, 2);
    let (cos, sin): (Vec<f32>, Vec<f32>) = angles.iter().map(|a| (a.cos(), a.sin())).unzip();
    let mut want = wide(&qkv);
    activation::add(&mut want, &wide(&bias));
    for patches in want.chunks_exact_mut(grid * 3 * width) {
        let mut rotated = vec![0.0; grid * 2 * width];
        norm::rotate(
            patches,
            3 * width,
            (2 * heads, 2 * half),
            (&cos, &sin),
            &mut rotated,
        );
        let rows = patches.chunks_exact_mut(3 * width);
        for (row, rotated) in rows.zip(rotated.chunks_exact(2 * width)) {
            row[..2 * width].copy_from_slice(rotated);
        }
    }
    let count = (grid * grids * 3 * heads * half) as u64;
    launch!(
        &format!("vision_rope_{}", T::NAME),
        ((count as usize).div_ceil(256), 1, 1),
        256,
        qkv.as_mut_ptr(),
        bias.as_ptr(),
        cos.as_ptr(),
        sin.as_ptr(),
        grid as u32,
        heads as u32,
        half as u32,
        count,
    );
    // Values are rounded after adding the bias, before the rotation.
    close("vision_rope", &qkv, &want, 2.0);
}

#[test]
fn vision_rope_is_that_of_the_cpu() {
    for half in [16, 36] {
        vision_rope::<f32>(2, half);
        vision_rope::<bf16>(3, half);
    }
}
