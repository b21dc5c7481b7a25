//! What candle's CPU backend lacks or does slowly: products with 16-bit weights in f32 arithmetic,
//! attention without copies, activations over all cores. Plain slices; `model` wraps them as
//! candle operations.

pub mod activation;
pub mod attention;
pub mod dot;
pub mod matmul;
pub mod vector;
