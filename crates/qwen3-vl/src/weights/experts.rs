//! Stacked experts of a file, presented one by one.
//!
//! Qwen's files stack the experts of a layer in two tensors (transformers:
//! `Qwen3VLMoeTextExperts`), `mlp.experts.gate_up_proj` and `mlp.experts.down_proj`, and the scales
//! of FP8 weights in `gate_up_proj_scale_inv` and `down_proj_scale_inv`. This source presents each
//! expert's matrices under the names and in the layout of linear layers, like a file that stores
//! every expert by itself. So no other code needs to know about stacks.

use std::collections::HashMap;
use std::sync::Arc;

use super::WeightsError;
use super::safetensors::Safetensors;
use super::source::{StoredTensor, TensorHeader, TensorSource};
use super::transposed::Transposed;
use crate::config::MOST_EXPERTS;
use crate::quote::quoted;

/// Most matrices of experts in a file. The largest model has 36,096, and scales of as many. A few
/// bytes of a file may stand for each, which takes hundreds of bytes of memory.
const MOST_MATRICES: usize = 1 << 17;

/// A file whose stacks are presented as the experts' own matrices.
#[derive(Debug)]
pub(super) struct PerExpert {
    file: Safetensors,
    /// By the names under which they are presented.
    parts: HashMap<String, Part>,
}

/// A matrix in a stack.
#[derive(Clone, Debug)]
struct Part {
    /// Name of the stack.
    stack: Arc<str>,
    expert: usize,
    /// Its index among the expert's matrices in the stack, and their number.
    place: (usize, usize),
}

/// The file itself, or if it has stacks, a source that presents their experts one by one.
///
/// # Errors
///
/// [`WeightsError::Experts`] if a stack has another shape than `[experts, rows, columns]`,
/// [`WeightsError::Twice`] if the file also has an expert of a stack by itself.
pub(super) fn split(file: Safetensors) -> Result<Box<dyn TensorSource>, WeightsError> {
    let mut parts = HashMap::new();
    for name in file.names() {
        let Some((prefix, matrices, tensor)) = stack(&name) else {
            continue;
        };
        let stack: Arc<str> = name.as_str().into();
        for expert in 0..experts(&file, &name)? {
            for (index, matrix) in matrices.iter().enumerate() {
                let part = Part {
                    stack: stack.clone(),
                    expert,
                    place: (index, matrices.len()),
                };
                let own = format!("{prefix}{expert}.{matrix}.{tensor}");
                if file.shape(&own).is_some() {
                    return Err(WeightsError::Twice {
                        one: quoted(&name),
                        other: quoted(&own),
                    });
                }
                parts.insert(own, part);
            }
        }
        if parts.len() > MOST_MATRICES {
            return Err(refused(&file, &name, "is one stack of experts too many"));
        }
    }
    match parts.is_empty() {
        true => Ok(Box::new(file)),
        false => Ok(Box::new(PerExpert { file, parts })),
    }
}

/// Splits the name of a stack: the prefix of its experts' names, which of their matrices it holds,
/// and which tensor of these matrices.
fn stack(name: &str) -> Option<(&str, &'static [&'static str], &'static str)> {
    const EXPERTS: &str = ".mlp.experts.";
    let (prefix, stack) = name.split_at(name.rfind(EXPERTS)? + EXPERTS.len());
    let (gate_up, down) = (&["gate_proj", "up_proj"][..], &["down_proj"][..]);
    let (matrices, tensor) = match stack {
        "gate_up_proj" => (gate_up, "weight"),
        "down_proj" => (down, "weight"),
        "gate_up_proj_scale_inv" => (gate_up, "weight_scale_inv"),
        "down_proj_scale_inv" => (down, "weight_scale_inv"),
        _ => return None,
    };
    Some((prefix, matrices, tensor))
}

/// The number of experts in a stack.
fn experts(file: &Safetensors, name: &str) -> Result<usize, WeightsError> {
    match file.shape(name) {
        Some(&[experts, rows, columns])
            if (1..=MOST_EXPERTS).contains(&experts) && rows > 0 && columns > 0 =>
        {
            Ok(experts)
        }
        _ => Err(refused(file, name, "is no stack of experts' matrices")),
    }
}

fn refused(file: &Safetensors, name: &str, reason: &'static str) -> WeightsError {
    WeightsError::Experts {
        name: quoted(name),
        found: file.shape(name).unwrap_or_default().to_vec(),
        reason,
    }
}

impl TensorSource for PerExpert {
    fn names(&self) -> Vec<String> {
        let others = self.file.names().into_iter();
        let others = others.filter(|name| stack(name).is_none());
        others.chain(self.parts.keys().cloned()).collect()
    }

    fn size(&self) -> usize {
        self.file.size()
    }

    fn header(&self, name: &str) -> Result<TensorHeader, WeightsError> {
        let Some(part) = self.parts.get(name) else {
            return self.file.header(name);
        };
        let stack = self.file.header(&part.stack)?;
        let experts = self.file.shape(&part.stack).and_then(|shape| shape.first());
        let parts = experts.map_or(1, |experts| *experts * part.place.1).max(1);
        Ok(TensorHeader {
            values: stack.values / parts,
            bytes: stack.bytes / parts,
            ..stack
        })
    }

    fn find<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let Some(part) = self.parts.get(name) else {
            return self.file.find(name, shape);
        };
        let stack = self.file.shape(&part.stack).unwrap_or_default();
        let (&[_, rows, columns], &[out, input]) = (stack, shape) else {
            return Err(WeightsError::Shape {
                name: name.into(),
                found: stack.to_vec(),
                expected: shape.into(),
            });
        };
        let (index, matrices) = part.place;
        let all = out.saturating_mul(matrices);
        let (linear, transposed) = (
            (rows, columns) == (all, input),
            (rows, columns) == (input, all),
        );
        let expert = part.expert * rows * columns;
        match (linear, transposed) {
            (true, false) => {
                let first = expert + index * out * input;
                self.file.part(&part.stack, name, shape, first, None)
            }
            (false, true) => {
                let transposed = Transposed::new(index * out, columns);
                let lies = Some(transposed);
                self.file.part(&part.stack, name, shape, expert, lies)
            }
            // transformers would take this for the layout of linear layers.
            (true, true) => Err(refused(
                &self.file,
                &part.stack,
                "does not tell which axis is the input: store each expert by itself",
            )),
            (false, false) => Err(WeightsError::Shape {
                name: part.stack.as_ref().into(),
                found: stack.to_vec(),
                expected: vec![stack[0], input, all],
            }),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
