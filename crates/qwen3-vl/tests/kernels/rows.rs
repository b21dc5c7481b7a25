//! Kernels over rows of values.

use half::bf16;
use qwen3_vl::cpu::patchify::Cut;
use qwen3_vl::cpu::patchify::patchify;
use qwen3_vl::cpu::{activation, norm};
use qwen3_vl_core::frames::{Frame, Size, VisionInput};

use crate::emulated::{Value, close, random, wide};
use crate::launch;

fn add_rms_norm<T: Value>(rows: usize, width: usize, with_delta: bool) {
    let mut sum: Vec<T> = random("sum", rows * width, 1);
    let delta: Vec<T> = random("delta", rows * width, 2);
    let weight: Vec<T> = random("weight", width, 3);
    let mut want_sum = wide(&sum);
    if with_delta {
        activation::add(&mut want_sum, &wide(&delta));
    }
    let mut want = vec![0.0; want_sum.len()];
    norm::rms_norm(&want_sum, &wide(&weight), 1e-6, &mut want);
    let mut out = vec![T::default(); sum.len()];
    let delta = if with_delta {
        delta.as_ptr()
    } else {
        std::ptr::null()
    };
    launch!(
        &format!("add_rms_norm_{}", T::NAME),
        (rows, 1, 1),
        256,
        sum.as_mut_ptr(),
        delta,
        weight.as_ptr(),
        out.as_mut_ptr(),
        width as u32,
        1e-6f32,
    );
    close("sum", &sum, &want_sum, 1.0);
    // The sum, the normalised value and the result are rounded.
    close("add_rms_norm", &out, &want, 3.0);
}

#[test]
fn add_rms_norm_is_that_of_the_cpu() {
    for width in [8, 64, 2056, 4096] {
        for with_delta in [true, false] {
            add_rms_norm::<f32>(3, width, with_delta);
            add_rms_norm::<bf16>(3, width, with_delta);
        }
    }
}

fn silu_mul<T: Value>(rows: usize, width: usize, pitch: usize) {
    let (gate, up): (Vec<T>, Vec<T>) = (
        random("gate", rows * pitch, 1),
        random("up", rows * pitch, 2),
    );
    let row = |of: &[T]| -> Vec<f32> {
        of.chunks_exact(pitch)
            .flat_map(|row| wide(&row[..width]))
            .collect()
    };
    let mut want = row(&gate);
    activation::silu_mul(&mut want, &row(&up));
    let mut out = vec![T::default(); rows * width];
    launch!(
        &format!("silu_mul_{}", T::NAME),
        (out.len().div_ceil(256), 1, 1),
        256,
        gate.as_ptr(),
        up.as_ptr(),
        out.as_mut_ptr(),
        width as u32,
        pitch as u32,
        out.len() as u64,
    );
    // The result of silu is rounded too.
    close("silu_mul", &out, &want, 2.0);
}

#[test]
fn silu_mul_is_that_of_the_cpu() {
    for (rows, width, pitch) in [(1, 1000, 1000), (3, 70, 140)] {
        silu_mul::<f32>(rows, width, pitch);
        silu_mul::<bf16>(rows, width, pitch);
    }
}

/// Rows of several heads, whose queries each attend to one key more than the last.
fn softmax<T: Value>((heads, queries, keys): (usize, usize, usize), seen: usize) {
    let mut scores: Vec<T> = random("scores", heads * queries * keys, keys as u64);
    let scale = 0.7f32;
    let mut want = vec![0.0; scores.len()];
    let rows = want.chunks_exact_mut(keys).zip(scores.chunks_exact(keys));
    for (row, (want, scores)) in rows.enumerate() {
        let seen = (seen + row % queries).min(keys);
        let scores = scores[..seen]
            .iter()
            .map(|score| f64::from(scale * score.wide()));
        let weights: Vec<f64> = scores.map(f64::exp).collect();
        let sum: f64 = weights.iter().sum();
        for (want, weight) in want.iter_mut().zip(weights) {
            *want = (weight / sum) as f32;
        }
    }
    launch!(
        &format!("softmax_{}", T::NAME),
        (heads * queries, 1, 1),
        256,
        scores.as_mut_ptr(),
        queries as u32,
        keys as u32,
        seen as u32,
        scale,
    );
    close("softmax", &scores, &want, 1.0);
}

#[test]
fn softmax_is_its_definition() {
    for (shape, seen) in [
        ((2, 1, 1), 1),
        ((2, 3, 5), 3),
        ((1, 4, 700), 697),
        ((2, 3, 300), 300),
    ] {
        softmax::<f32>(shape, seen);
        softmax::<bf16>(shape, seen);
    }
}

#[test]
fn embed_takes_the_rows() {
    let (width, ids) = (300, [5u32, 0, 5, 9]);
    let table: Vec<bf16> = random("table", 10 * width, 1);
    let mut out = vec![bf16::NAN; ids.len() * width];
    launch!(
        "embed_bf16",
        (ids.len(), 1, 1),
        256,
        ids.as_ptr(),
        table.as_ptr(),
        out.as_mut_ptr(),
        width as u32,
    );
    let want: Vec<bf16> = ids
        .iter()
        .flat_map(|id| &table[*id as usize * width..][..width])
        .copied()
        .collect();
    assert_eq!(out, want);
}

/// Cosines and sines of rows, and the kernel's table, which is compared with them.
fn angles(rows: usize, half: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let positions: Vec<[u32; 3]> = (0..rows as u32)
        .map(|i| [i * 700, 3 + i, 90_000 - i])
        .collect();
    let (frequencies, axes): (Vec<f32>, Vec<u32>) = (0..half)
        .map(|j| (10f32.powf(-(j as f32) / 8.0), j as u32 % 3))
        .unzip();
    let mut angles = vec![f32::NAN; rows * half * 2];
    launch!(
        "rope_table",
        (2, 1, 1),
        256,
        positions.as_ptr(),
        frequencies.as_ptr(),
        axes.as_ptr(),
        angles.as_mut_ptr(),
        half as u32,
        (rows * half) as u32,
    );
    let turned = positions.iter().flat_map(|position| {
        let turns = frequencies.iter().zip(&axes);
        turns.map(|(frequency, axis)| position[*axis as usize] as f32 * frequency)
    });
    let (cos, sin): (Vec<f32>, Vec<f32>) = turned.map(|angle| (angle.cos(), angle.sin())).unzip();
    let (got_cos, got_sin): (Vec<f32>, Vec<f32>) =
        angles.chunks_exact(2).map(|of| (of[0], of[1])).unzip();
    close("cosines", &got_cos, &cos, 1.0);
    close("sines", &got_sin, &sin, 1.0);
    (cos, sin, angles)
}

fn rope_write<T: Value>(head: usize) {
    let (rows, heads, kv_heads, eps) = (5usize, 4usize, 2usize, 1e-6f32);
    let (cos, sin, angles) = angles(rows, head / 2);
    // Queries, keys and values side by side, as in a joined product.
    let pitch = (heads + 2 * kv_heads) * head;
    let qkv: Vec<T> = random("qkv", rows * pitch, 1);
    let (q_weight, k_weight): (Vec<T>, Vec<T>) = (random("q", head, 2), random("k", head, 3));
    let kv = kv_heads * head;
    // Two layers of keys and values, of which the second is written; row 2 is a padding row.
    let kept = |row: usize| row != 2;
    let mut cache = vec![T::of(9.0); 4 * rows * kv];
    let layer = (2 * rows * kv * size_of::<T>()) as u64;
    let to_values = (rows * kv * size_of::<T>()) as u64;
    let slot = |row: usize| (rows - 1 - row) * kv;
    let first = cache.as_mut_ptr();
    let slots: Vec<u64> = (0..rows)
        .map(|row| match kept(row) {
            true => first.wrapping_add(slot(row)) as u64,
            false => 0,
        })
        .collect();
    let mut out = vec![T::default(); rows * heads * head];
    let (k, v) = (
        &raw const qkv[heads * head],
        &raw const qkv[(heads + kv_heads) * head],
    );
    let width = pitch as u32;
    launch!(
        &format!("rope_write_{}_{head}", T::NAME),
        ((heads + 2 * kv_heads).div_ceil(4), rows, 1),
        128,
        qkv.as_ptr(),
        width,
        k,
        width,
        v,
        width,
        q_weight.as_ptr(),
        k_weight.as_ptr(),
        angles.as_ptr(),
        slots.as_ptr(),
        layer,
        to_values,
        out.as_mut_ptr(),
        heads as u32,
        kv_heads as u32,
        eps,
    );
    let twin = |first: usize, heads: usize, weight: &[T]| {
        let rows = qkv.chunks_exact(pitch);
        let x: Vec<f32> = rows
            .flat_map(|row| wide(&row[first..][..heads * head]))
            .collect();
        let (mut normed, mut rotated) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        norm::rms_norm(&x, &wide(weight), eps, &mut normed);
        norm::rotate(
            &normed,
            heads * head,
            (heads, head),
            (&cos, &sin),
            &mut rotated,
        );
        rotated
    };
    close("queries", &out, &twin(0, heads, &q_weight), 2.0);
    let keys = twin(heads * head, kv_heads, &k_weight);
    let second = &cache[2 * rows * kv..];
    for row in 0..rows {
        let (got, values) = (
            &second[slot(row)..][..kv],
            &second[rows * kv + slot(row)..][..kv],
        );
        if kept(row) {
            close("keys", got, &keys[row * kv..][..kv], 2.0);
            assert_eq!(
                values,
                &qkv[row * pitch + (heads + kv_heads) * head..][..kv]
            );
        } else {
            assert!(got.iter().chain(values).all(|value| *value == T::of(9.0)));
        }
    }
    assert!(
        cache[..2 * rows * kv]
            .iter()
            .all(|value| *value == T::of(9.0)),
        "another layer"
    );
}

#[test]
fn rope_write_is_norm_rotation_and_the_cache() {
    for head in [32, 64, 128] {
        rope_write::<f32>(head);
        rope_write::<bf16>(head);
    }
}

fn patches<T: Value>(inputs: &[VisionInput], (patch, merge, temporal): (usize, usize, usize)) {
    let (mean, std) = ([0.5, 0.4, 0.3], [0.5, 0.25, 0.2]);
    let cut = Cut {
        patch,
        merge,
        temporal,
        mean,
        std,
    };
    let size = inputs[0].size();
    let mut frames: Vec<u8> = Vec::new();
    for input in inputs {
        match input {
            VisionInput::Pair(pair) => pair.iter().for_each(|frame| frames.extend(&frame.rgb[..])),
            VisionInput::Image(frame) => (0..temporal).for_each(|_| frames.extend(&frame.rgb[..])),
        }
    }
    let want: Vec<T> = inputs
        .iter()
        .flat_map(|input| patchify(input, &cut))
        .map(T::of)
        .collect();
    let levels: Vec<f32> = (0..3)
        .flat_map(|c| {
            (0..256).map(move |level| (level as f32 - mean[c] * 255.0) / (std[c] * 255.0))
        })
        .collect();
    let mut out = vec![T::default(); want.len()];
    let [patch, merge, temporal] = [patch, merge, temporal].map(|n| n as u32);
    launch!(
        &format!("patchify_{}", T::NAME),
        (want.len().div_ceil(256), 1, 1),
        256,
        frames.as_ptr(),
        levels.as_ptr(),
        out.as_mut_ptr(),
        patch,
        merge,
        temporal,
        size.height,
        size.width,
        want.len() as u64,
    );
    assert_eq!(out, want);
}

#[test]
fn patchify_is_that_of_the_cpu_to_the_bit() {
    let size = Size {
        width: 24,
        height: 16,
    };
    let frame = |seed: u32| Frame {
        rgb: (0..size.width * size.height * 3)
            .map(|i| (i * 7 + seed * 91 + i * i / 5) as u8)
            .collect(),
        size,
        seconds: 0.0,
    };
    let pairs = [
        VisionInput::Pair([frame(1), frame(2)]),
        VisionInput::Pair([frame(3), frame(4)]),
    ];
    patches::<f32>(&pairs, (4, 2, 2));
    patches::<bf16>(&pairs, (4, 2, 2));
    patches::<f32>(&[VisionInput::Image(frame(5))], (8, 1, 2));
}
