//! FP8: transformers' `Fp8Dequantize`, compressed-tensors' float-quantized.

use half::bf16;
use proptest::prelude::*;

use super::*;

/// A matrix in FP8, by its meaning.
pub struct Fp8 {
    pub shape: (usize, usize),
    pub bytes: Vec<u8>,
    pub block: (usize, usize),
    /// Down and across.
    pub blocks: (usize, usize),
    pub scales: Vec<f32>,
}

impl Fp8 {
    pub fn new(shape: (usize, usize), block: (usize, usize), seed: u64) -> Self {
        let mut random = Random(seed);
        let blocks = (shape.0.div_ceil(block.0), shape.1.div_ceil(block.1));
        let byte = |random: &mut Random| loop {
            // All numbers, also those below the normal ones.
            let byte = random.below(256) as u8;
            if byte & 0x7f != 0x7f {
                return byte;
            }
        };
        let bytes = (0..shape.0 * shape.1).map(|_| byte(&mut random)).collect();
        let scales = (0..blocks.0 * blocks.1)
            .map(|_| random.value() / 300.0)
            .collect();
        Self {
            shape,
            bytes,
            block,
            blocks,
            scales,
        }
    }

    /// `value * scale` in f32.
    pub fn weights(&self) -> Vec<f32> {
        let weight = |(index, byte): (usize, &u8)| {
            let (row, column) = (index / self.shape.1, index % self.shape.1);
            let block = row / self.block.0 * self.blocks.1 + column / self.block.1;
            e4m3(*byte) * self.scales[block]
        };
        self.bytes.iter().enumerate().map(weight).collect()
    }

    pub fn tensors(&self, scales: &'static str, dtype: Dtype, shape: &[usize]) -> Tensors {
        let bytes = self.scales.iter().flat_map(|scale| match dtype {
            Dtype::BF16 => bf16::from_f32(*scale).to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(*scale).to_le_bytes().to_vec(),
            _ => scale.to_le_bytes().to_vec(),
        });
        let weight = (
            Dtype::F8_E4M3,
            vec![self.shape.0, self.shape.1],
            self.bytes.clone(),
        );
        named([
            ("weight", weight),
            (scales, (dtype, shape.to_vec(), bytes.collect())),
        ])
    }

    /// With scales that a type has.
    pub fn rounded(mut self, dtype: Dtype) -> Self {
        for scale in &mut self.scales {
            *scale = match dtype {
                Dtype::BF16 => bf16::from_f32(*scale).to_f32(),
                Dtype::F16 => f16::from_f32(*scale).to_f32(),
                _ => *scale,
            };
        }
        self
    }
}

/// OCP 8-bit floating point, E4M3: bias 7, no infinities.
pub fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let magnitude = match exponent {
        0 => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }
}

fn quantization(blocks: &[(usize, usize)]) -> Quantization {
    let blocks = blocks.to_vec();
    Quantization::Fp8 { blocks }
}

fn check(matrix: &Fp8, tensors: &Tensors, blocks: &[(usize, usize)]) {
    let layer = load(tensors, &quantization(blocks), matrix.shape).unwrap();
    assert_eq!(layer.quantised().as_deref(), Some("fp8"));
    assert_is(&layer, &matrix.weights(), matrix.shape);
    let bytes = matrix.bytes.len() + 4 * matrix.scales.len();
    assert_eq!(layer.bytes(), bytes);
}

#[test]
fn blocks_of_128_and_the_rest() {
    for dtype in [Dtype::BF16, Dtype::F16, Dtype::F32] {
        let matrix = Fp8::new((200, 1100), (128, 128), 1).rounded(dtype);
        for scales in ["weight_scale_inv", "weight_scale", "scale"] {
            let shape = [matrix.blocks.0, matrix.blocks.1];
            check(
                &matrix,
                &matrix.tensors(scales, dtype, &shape),
                &[(128, 128)],
            );
        }
    }
}

/// Their shapes tell what scales are of.
#[test]
fn scales_of_rows_and_of_the_whole() {
    let shape = (40, 300);
    let rows = Fp8::new(shape, (1, 300), 2);
    for scales in [&[40, 1][..], &[40]] {
        let tensors = rows.tensors("weight_scale", Dtype::F32, scales);
        check(&rows, &tensors, &[]);
        check(&rows, &tensors, &[(128, 128)]);
    }
    let whole = Fp8::new(shape, (40, 300), 3);
    for scales in [&[1, 1][..], &[1], &[]] {
        check(
            &whole,
            &whole.tensors("weight_scale", Dtype::F32, scales),
            &[],
        );
    }
}

/// Activations that were rounded with a fixed scale are not rounded here.
#[test]
fn scales_of_activations_are_passed_over() {
    let matrix = Fp8::new((40, 300), (40, 300), 4);
    for name in ["input_scale", "activation_scale"] {
        let mut tensors = matrix.tensors("weight_scale", Dtype::F32, &[1]);
        let scale = (Dtype::F32, vec![1], 1f32.to_le_bytes().to_vec());
        tensors.extend(named([(name, scale)]));
        check(&matrix, &tensors, &[]);
    }
}

/// A layer with a bias, as in the vision tower.
#[test]
fn a_bias_is_added() {
    let matrix = Fp8::new((40, 300), (128, 128), 5);
    let mut tensors = matrix.tensors("weight_scale_inv", Dtype::F32, &[1, 3]);
    let bias: Vec<f32> = (0..40).map(|index| index as f32).collect();
    let bytes = bias.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensors.extend(named([("bias", (Dtype::F32, vec![40], bytes))]));
    let weights = opened(&tensors, &quantization(&[(128, 128)]));
    let layer = Linear::load_with_bias(&weights, LAYER, (40, 300)).unwrap();
    let x = Tensor::zeros((2, 300), DType::F32, &Device::Cpu).unwrap();
    let out: Vec<Vec<f32>> = layer.forward(&x).unwrap().to_vec2().unwrap();
    assert_eq!(out, [bias.clone(), bias]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_shape(
        shape in (1..150_usize, 1..300_usize),
        block in prop::sample::select(
            vec![(128, 128), (64, 32), (1, 128), (128, 1), (3, 5), (1000, 17)]
        ),
        dtype in prop::sample::select(vec![Dtype::BF16, Dtype::F16, Dtype::F32]),
        seed: u64,
    ) {
        let matrix = Fp8::new(shape, block, seed).rounded(dtype);
        let scales = [matrix.blocks.0, matrix.blocks.1];
        check(&matrix, &matrix.tensors("weight_scale_inv", dtype, &scales), &[block]);
    }
}
