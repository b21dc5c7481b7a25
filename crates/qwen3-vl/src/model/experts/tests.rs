//! The sparse block against its definition.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use super::*;
use crate::config::Config;
use crate::model::activation::silu_mul;
use crate::weights::Target;

const HIDDEN: usize = 64;
const INNER: usize = 48;
const EXPERTS: usize = 16;
const TOP: usize = 3;
const NAME: &str = "model.language_model.layers.0.mlp";

fn value(seed: usize, i: usize) -> f32 {
    let mixed = (i + 1).wrapping_mul(seed * 2_654_435_761 + 40_503) % 1_000_003;
    mixed as f32 / 1_000_003.0 * 2.0 - 1.0
}

fn values(seed: usize, count: usize, scale: f32) -> Vec<f32> {
    (0..count).map(|i| value(seed, i) * scale).collect()
}

/// Router `[experts, hidden]`, gates and ups `[experts, 2 * inner, hidden]`, downs
/// `[experts, hidden, inner]`.
struct Values([Vec<f32>; 3]);

impl Values {
    fn new() -> Self {
        let scale = |inputs: usize| (3.0 / inputs as f32).sqrt();
        Self([
            values(1, EXPERTS * HIDDEN, scale(HIDDEN)),
            values(2, EXPERTS * 2 * INNER * HIDDEN, scale(HIDDEN)),
            values(3, EXPERTS * HIDDEN * INNER, scale(INNER)),
        ])
    }

    fn block(&self) -> SparseMoeBlock {
        let tensors = [
            (".gate.weight", vec![EXPERTS, HIDDEN]),
            (".experts.gate_up_proj", vec![EXPERTS, 2 * INNER, HIDDEN]),
            (".experts.down_proj", vec![EXPERTS, HIDDEN, INNER]),
        ];
        let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
        for ((name, shape), values) in tensors.into_iter().zip(&self.0) {
            let first = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let place = [first, data.len()];
            let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": place});
            header.insert(format!("{NAME}{name}"), entry);
        }
        let header = serde_json::Value::Object(header).to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.extend(data);
        let weights = Weights::embedded(file.leak(), Target::cpu()).unwrap();
        let config = json!({
            "model_type": "qwen3_vl_moe",
            "text_config": {
                "hidden_size": HIDDEN,
                "moe_intermediate_size": INNER,
                "num_experts": EXPERTS,
                "num_experts_per_tok": TOP,
                "head_dim": 128,
            },
            "vision_config": {"out_hidden_size": HIDDEN},
        });
        let config = Config::from_json(config.to_string().as_bytes()).unwrap();
        SparseMoeBlock::load(&weights, NAME, &config.text_config).unwrap()
    }

    /// What the block makes of a row, in f64.
    fn defined(&self, x: &[f32]) -> Vec<f64> {
        let Self([router, gate_up, down]) = self;
        let product = |w: &[f32], x: &[f64]| -> Vec<f64> {
            let rows = w.chunks(x.len());
            rows.map(|w| w.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum())
                .collect()
        };
        let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let logits = product(router, &x);
        let mut order: Vec<usize> = (0..EXPERTS).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
        let sum: f64 = order[..TOP].iter().map(|e| logits[*e].exp()).sum();
        let mut out = vec![0.0; HIDDEN];
        for expert in &order[..TOP] {
            let both = product(matrix(gate_up, *expert, 2 * INNER * HIDDEN), &x);
            let (gate, up) = both.split_at(INNER);
            let inner: Vec<f64> = gate
                .iter()
                .zip(up)
                .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
                .collect();
            let given = product(matrix(down, *expert, HIDDEN * INNER), &inner);
            for (out, given) in out.iter_mut().zip(given) {
                *out += logits[*expert].exp() / sum * given;
            }
        }
        out
    }
}

/// One expert's matrix of a stack, of `size` values.
fn matrix(stack: &[f32], expert: usize, size: usize) -> &[f32] {
    &stack[expert * size..][..size]
}

fn rows_of(count: usize) -> Tensor {
    Tensor::from_vec(
        values(4, count * HIDDEN, 2.0),
        (count, HIDDEN),
        &Device::Cpu,
    )
    .unwrap()
}

fn forward(block: &SparseMoeBlock, x: &Tensor) -> Vec<Vec<f32>> {
    let given = block.forward(x, |expert, rows| expert.forward(rows, silu_mul));
    given.unwrap().to_vec2().unwrap()
}

#[test]
fn equals_the_definition() {
    let values = Values::new();
    let block = values.block();
    // One row, a few for each expert, and as many as take another kernel.
    for count in [1, 7, 200] {
        let x = rows_of(count);
        let rows: Vec<Vec<f32>> = x.to_vec2().unwrap();
        for (row, given) in rows.iter().zip(forward(&block, &x)) {
            for (given, wanted) in given.iter().zip(values.defined(row)) {
                assert!(
                    (f64::from(*given) - wanted).abs() < 1e-4,
                    "{given} {wanted}"
                );
            }
        }
    }
}

/// candle's operations, which run on other devices.
#[test]
fn sums_are_the_same_with_candle_s_operations() {
    let block = Values::new().block();
    let x = rows_of(9);
    let routing = Routing::new(&block.logits(&x).unwrap(), EXPERTS, TOP);
    let given: Vec<Tensor> = routing
        .experts
        .iter()
        .map(|(expert, choices)| {
            let rows = rows(&x, &routing.tokens[choices.clone()]).unwrap();
            block.experts[*expert].forward(&rows, silu_mul).unwrap()
        })
        .collect();
    let ours: Vec<Vec<f32>> = add_on_cpu(&x, &given, &routing).unwrap().to_vec2().unwrap();
    let theirs: Vec<Vec<f32>> = block.add(&x, &given, &routing).unwrap().to_vec2().unwrap();
    for (ours, theirs) in ours.concat().iter().zip(theirs.concat()) {
        assert!((ours - theirs).abs() < 1e-5, "{ours} {theirs}");
    }
}

/// The choice of experts does not depend on the other rows of the pass.
#[test]
fn a_row_s_logits_are_the_same_bits_in_every_pass() {
    let block = Values::new().block();
    let all = rows_of(100);
    let together = block.logits(&all).unwrap();
    for (first, count) in [(0, 1), (3, 5), (17, 16), (40, 60), (99, 1)] {
        let some = block.logits(&all.narrow(0, first, count).unwrap()).unwrap();
        assert_eq!(some, together[first * EXPERTS..][..count * EXPERTS]);
    }
}

/// A decode step takes as long as it takes to read its weights. It reads those of the chosen
/// experts, each once.
#[test]
fn only_the_chosen_experts_are_read() {
    let block = Values::new().block();
    let bytes = |mlp: &GatedMlp| mlp.linears().map(Linear::bytes).sum::<usize>();
    let one = bytes(&block.experts[0]);
    for count in [1, 2, 40] {
        let (x, read) = (rows_of(count), AtomicUsize::new(0));
        let given = block.forward(&x, |expert, rows| {
            read.fetch_add(bytes(expert), Ordering::Relaxed);
            expert.forward(rows, silu_mul)
        });
        given.unwrap();
        let read = read.into_inner() + block.router.bytes();
        let active = (TOP * count).min(EXPERTS) * one;
        assert!(read * 10 <= active * 11, "{read} of {active}");
    }
}
