//! The routing of a mixture of experts.

use half::bf16;
use qwen3_vl::cpu::experts::weighted_sums;

use crate::emulated::{Value, close, random, wide};
use crate::launch;

/// By the definition: an expert is chosen if fewer than `top` come before it.
fn chosen(logits: &[f32], top: usize) -> (Vec<u32>, Vec<f32>) {
    let before = |e: usize| {
        let ahead = |(o, l): &(usize, &f32)| **l > logits[e] || (**l == logits[e] && *o < e);
        logits.iter().enumerate().filter(ahead).count()
    };
    let experts: Vec<usize> = (0..logits.len()).filter(|e| before(*e) < top).collect();
    let sum: f64 = experts.iter().map(|e| f64::from(logits[*e]).exp()).sum();
    let weight = |e: &usize| (f64::from(logits[*e]).exp() / sum) as f32;
    (
        experts.iter().map(|e| *e as u32).collect(),
        experts.iter().map(weight).collect(),
    )
}

fn route(logits: &[f32], count: usize, top: usize) -> (Vec<u32>, Vec<f32>) {
    let rows = logits.len() / count;
    let (mut experts, mut weights) = (vec![u32::MAX; rows * top], vec![f32::NAN; rows * top]);
    launch!(
        "route",
        (rows, 1, 1),
        32,
        logits.as_ptr(),
        experts.as_mut_ptr(),
        weights.as_mut_ptr(),
        count as u32,
        top as u32,
    );
    (experts, weights)
}

#[test]
fn the_most_probable_experts_are_chosen() {
    for (count, top) in [(8, 2), (128, 8), (5, 5), (1, 1), (33, 3), (1024, 64)] {
        let rows = 7;
        let mut logits: Vec<f32> = random("logits", rows * count, count as u64);
        // Equal ones: the first are chosen.
        logits[..count].fill(0.5);
        for logit in &mut logits[count..2 * count] {
            *logit = logit.round();
        }
        let (experts, weights) = route(&logits, count, top);
        for (row, logits) in logits.chunks(count).enumerate() {
            let (want, want_weights) = chosen(logits, top);
            let of_row = row * top..(row + 1) * top;
            assert_eq!(experts[of_row.clone()], want, "row {row} of {count}");
            close("weights", &weights[of_row], &want_weights, 10.0);
        }
    }
}

#[test]
fn rows_are_sorted_by_expert_in_stretches() {
    for (rows, experts, seed) in [(40, 7, 1), (1, 3, 2), (700, 4, 3), (300, 300, 4)] {
        let random: Vec<f32> = random("experts", rows, seed);
        let of: Vec<u32> = random
            .iter()
            .map(|v| (v.abs() * 1e4) as u32 % experts)
            .collect();
        let (mut slots, mut starts) = (vec![u32::MAX; rows], vec![u32::MAX; experts as usize + 1]);
        launch!(
            "sort_slots",
            (experts as usize, 1, 1),
            256,
            of.as_ptr(),
            slots.as_mut_ptr(),
            starts.as_mut_ptr(),
            rows as u32,
        );
        let mut want: Vec<u32> = (0..rows as u32).collect();
        want.sort_by_key(|slot| of[*slot as usize]);
        assert_eq!(slots, want);
        for expert in 0..=experts {
            let before = of.iter().filter(|e| **e < expert).count();
            assert_eq!(starts[expert as usize] as usize, before);
        }
        let most = rows / 64 + rows.min(experts as usize);
        let mut stretches = vec![[u32::MAX; 3]; most];
        launch!(
            "stretch_slots",
            (1, 1, 1),
            256,
            starts.as_ptr(),
            stretches.as_mut_ptr(),
            experts,
            most as u32,
        );
        let real: Vec<_> = stretches.iter().filter(|s| s[1] < s[2]).collect();
        assert_eq!(real.iter().map(|s| s[2] - s[1]).sum::<u32>(), rows as u32);
        let mut next = 0;
        for [expert, first, end] in real {
            assert!(*first == next && end - first <= 64);
            let mut slots = slots[*first as usize..*end as usize].iter();
            assert!(slots.all(|slot| of[*slot as usize] == *expert));
            next = *end;
        }
        assert!(stretches.iter().all(|s| s[2] <= rows as u32));
    }
}

fn sums<T: Value>() {
    let (rows, top, width) = (3, 8, 300);
    let results: Vec<T> = random("results", rows * top * width, 1);
    // In bf16 the reference rounds weights first.
    let weights = random::<T>("weights", rows * top, 2);
    let weights = wide(&weights);
    let all = wide(&results);
    let slices: Vec<&[f32]> = all.chunks(width).collect();
    let choices: Vec<u32> = (0..(rows * top) as u32).collect();
    let want = weighted_sums(&slices, &choices, &weights, (rows, width));
    let mut out = vec![T::of(f32::NAN); rows * width];
    launch!(
        &format!("weighted_sums_{}", T::NAME),
        (width.div_ceil(256), rows, 1),
        256,
        results.as_ptr(),
        weights.as_ptr(),
        out.as_mut_ptr(),
        width as u32,
        top as u32,
    );
    close("weighted_sums", &out, &want, 4.0);
}

#[test]
fn weighted_sums_are_those_of_the_cpu() {
    sums::<f32>();
    sums::<bf16>();
}
