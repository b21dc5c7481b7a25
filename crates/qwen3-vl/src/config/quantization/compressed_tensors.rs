//! compressed-tensors: what llm-compressor writes.

use serde_json::Value;

use super::settings::{KINDS, Settings};
use super::{Bits, Groups, Quantization};
use crate::config::ConfigError;
use crate::quote::{quoted, value};

/// How weights of one of the `config_groups` are stored (compressed-tensors: `QuantizationArgs`).
enum Scheme {
    Integers(Groups),
    /// FP8 and a block, where the shape of the scales does not tell it.
    Fp8(Option<(usize, usize)>),
}

impl Settings<'_> {
    /// compressed-tensors: `QuantizationConfig`.
    pub(super) fn compressed_tensors(&self) -> Result<Quantization, ConfigError> {
        for name in ["sparsity_config", "transform_config", "kv_cache_scheme"] {
            let is_set = |found: &&Value| found.as_object().is_none_or(|map| !map.is_empty());
            // `sparsity_config` may say that there is none.
            let is_dense = |found: &&Value| found.get("format").is_some_and(|f| f == "dense");
            let found = self
                .get(name)
                .filter(is_set)
                .filter(|found| !is_dense(found));
            if let Some(found) = found {
                return self.refuse(name, &value(found));
            }
        }
        let is_packed = match self.get("format") {
            Some(format) if format == "pack-quantized" => true,
            Some(format) if format == "float-quantized" => false,
            Some(format) => return self.refuse("format", &value(format)),
            None => return self.refuse("format", "not given"),
        };
        let (mut groups, mut blocks) = (Vec::new(), Vec::new());
        let all = self.get("config_groups").and_then(Value::as_object);
        if all.is_some_and(|all| all.len() > KINDS) {
            return self.refuse("config_groups", "a list of too many kinds");
        }
        for (_, group) in all.into_iter().flatten() {
            match self.scheme(group, is_packed)? {
                Scheme::Integers(found) => groups.push(found),
                Scheme::Fp8(block) => blocks.extend(block),
            }
        }
        match is_packed {
            true if groups.is_empty() => self.refuse("config_groups", "empty"),
            true => Ok(Quantization::CompressedTensors { groups }),
            false => Ok(Quantization::Fp8 { blocks }),
        }
    }

    fn scheme(&self, group: &Value, is_packed: bool) -> Result<Scheme, ConfigError> {
        let field = |value: &'_ Value, name: &str| value.get(name).cloned().unwrap_or_default();
        let format = field(group, "format");
        let expected = match is_packed {
            true => "pack-quantized",
            false => "float-quantized",
        };
        if !format.is_null() && format != expected {
            return self.refuse("format of one of config_groups", &value(&format));
        }
        // FP8 activations are kept as they are, which is more exact. Integers that were meant to
        // meet integers are another method.
        let inputs = field(group, "input_activations");
        let (kind, bits) = (field(&inputs, "type"), field(&inputs, "num_bits"));
        if !inputs.is_null() && (kind != "float" || bits != 8) {
            let found = format!("{} with {} bits", value(&kind), value(&bits));
            return self.refuse("input_activations", &found);
        }
        let weights = field(group, "weights");
        let (kind, strategy) = (field(&weights, "type"), field(&weights, "strategy"));
        let size = field(&weights, "group_size");
        let strategy = strategy.as_str().map(str::to_ascii_lowercase);
        if is_packed {
            // Both have defaults in `QuantizationArgs`.
            if !kind.is_null() && kind != "int" {
                return self.refuse("type of weights", &value(&kind));
            }
            let bits = match field(&weights, "num_bits") {
                Value::Null => Bits::Eight,
                bits => self.bits(Some(&bits))?,
            };
            let size = match strategy.as_deref() {
                Some("channel") => None,
                Some("group") => self.group_size(Some(&size))?,
                None if !size.is_null() => self.group_size(Some(&size))?,
                None => return self.refuse("strategy", "not given"),
                Some(other) => return self.refuse("strategy", &quoted(other)),
            };
            return Ok(Scheme::Integers(Groups { bits, size }));
        }
        let bits = field(&weights, "num_bits");
        if kind != "float" || !(bits.is_null() || bits == 8) {
            let found = format!("{} with {} bits", value(&kind), value(&bits));
            return self.refuse("type of weights", &found);
        }
        Ok(Scheme::Fp8(match strategy.as_deref() {
            Some("tensor" | "channel") | None => None,
            Some("group") => self.group_size(Some(&size))?.map(|columns| (1, columns)),
            Some("block") => {
                let sizes = field(&weights, "block_structure");
                Some(self.block("block_structure", &sizes)?)
            }
            Some(other) => return self.refuse("strategy", &quoted(other)),
        }))
    }
}
