//! Settings, and what is refused of them by name.

use serde_json::{Map, Value};

use super::{Bits, Groups, Quantization};
use crate::config::ConfigError;
use crate::quote::value;

/// Rows and columns of an FP8 block where the configuration does not say (transformers:
/// `FineGrainedFP8Config`).
const BLOCK: (usize, usize) = (128, 128);
/// Columns of a group where the configuration does not say (transformers: `AwqConfig`,
/// `GPTQConfig`).
const GROUP: usize = 128;

/// Most kinds of groups or blocks that a checkpoint may have: each layer is tried with all of them.
pub(super) const KINDS: usize = 64;

/// What is supported, for the error that names what is not.
const SUPPORTED: &str = "supported are fp8 (E4M3), awq (4 bits, version gemm), gptq (4 or 8 bits) \
                         and compressed-tensors (pack-quantized with 4 or 8 bits, float-quantized). \
                         Or use the checkpoint that is not quantised, and the property \
                         quantization, which rounds weights while they are loaded";

/// One object of settings, and where it stands, for errors.
pub(super) struct Settings<'a> {
    file: &'static str,
    name: &'static str,
    fields: &'a Map<String, Value>,
}

impl<'a> Settings<'a> {
    pub(super) fn new(
        file: &'static str,
        name: &'static str,
        settings: &'a Value,
    ) -> Result<Self, ConfigError> {
        match settings.as_object() {
            Some(fields) => Ok(Self { file, name, fields }),
            None => Err(ConfigError::Unsupported {
                file,
                reason: format!("{name} is {}, not an object", value(settings)),
            }),
        }
    }

    pub(super) fn quantization(&self) -> Result<Quantization, ConfigError> {
        let Some(method) = self.get("quant_method") else {
            return self.refuse("quant_method", "an unnamed method");
        };
        match method.as_str() {
            Some("fp8") => self.fp8(),
            Some("awq") => self.awq(),
            Some("gptq") => self.gptq(),
            Some("compressed-tensors") => self.compressed_tensors(),
            _ => self.refuse("quant_method", &value(method)),
        }
    }

    /// transformers: `FineGrainedFP8Config`. How activations are rounded does not matter: here they
    /// are not.
    fn fp8(&self) -> Result<Quantization, ConfigError> {
        if let Some(fmt) = self.get("fmt").filter(|fmt| *fmt != "e4m3") {
            return self.refuse("fmt", &value(fmt));
        }
        let block = match self.get("weight_block_size") {
            None => BLOCK,
            Some(sizes) => self.block("weight_block_size", sizes)?,
        };
        let blocks = vec![block];
        Ok(Quantization::Fp8 { blocks })
    }

    /// AutoAWQ's `AwqConfig`. GPTQModel calls the version `checkpoint_format`.
    fn awq(&self) -> Result<Quantization, ConfigError> {
        let names = ["version", "checkpoint_format", "format"];
        let version = names
            .into_iter()
            .find_map(|name| Some((name, self.get(name)?)));
        if let Some((name, version)) = version {
            let is_gemm = |version: &str| version.eq_ignore_ascii_case("gemm");
            if !version.as_str().is_some_and(is_gemm) {
                return self.refuse(name, &value(version));
            }
        }
        let bits = self.get("bits").or_else(|| self.get("w_bit"));
        let size = self.get("group_size").or_else(|| self.get("q_group_size"));
        match bits.map_or(Ok(Bits::Four), |bits| self.bits(Some(bits)))? {
            Bits::Eight => self.refuse("bits", "8 with quant_method awq"),
            bits => Ok(Quantization::Awq(Groups {
                bits,
                size: self.group_size(size)?,
            })),
        }
    }

    /// AutoGPTQ's `BaseQuantizeConfig` and GPTQModel's `QuantizeConfig`.
    fn gptq(&self) -> Result<Quantization, ConfigError> {
        let marlin = self.get("is_marlin_format");
        if let Some(marlin) = marlin.filter(|marlin| **marlin != Value::Bool(false)) {
            return self.refuse("is_marlin_format", &value(marlin));
        }
        if let Some(word) = self.get("pack_dtype").filter(|word| *word != "int32") {
            return self.refuse("pack_dtype", &value(word));
        }
        let mut zero_offset = 1;
        for name in ["checkpoint_format", "format"] {
            match self.get(name) {
                None => continue,
                Some(format) if format == "gptq" => (),
                Some(format) if format == "gptq_v2" => zero_offset = 0,
                Some(format) => return self.refuse(name, &value(format)),
            }
            break;
        }
        let rule = Groups {
            bits: self.bits(self.get("bits"))?,
            size: self.group_size(self.get("group_size"))?,
        };
        let mut groups = vec![rule];
        let dynamic = self.get("dynamic").and_then(Value::as_object);
        for (_, overrides) in dynamic.into_iter().flatten() {
            // False, or nothing: layers that are left as they were.
            let Some(fields) = overrides.as_object() else {
                continue;
            };
            let overrides = Self { fields, ..*self };
            let other = Groups {
                bits: match overrides.get("bits") {
                    None => rule.bits,
                    bits => self.bits(bits)?,
                },
                size: match overrides.get("group_size") {
                    None => rule.size,
                    size => self.group_size(size)?,
                },
            };
            if !groups.contains(&other) {
                groups.push(other);
            }
            if groups.len() > KINDS {
                return self.refuse("dynamic", "a list of too many kinds of groups");
            }
        }
        Ok(Quantization::Gptq {
            zero_offset,
            groups,
        })
    }

    /// A field; none if it is null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// 4 or 8.
    pub(super) fn bits(&self, bits: Option<&Value>) -> Result<Bits, ConfigError> {
        match bits.and_then(Value::as_u64) {
            Some(4) => Ok(Bits::Four),
            Some(8) => Ok(Bits::Eight),
            _ => self.refuse("bits", &bits.map_or("not given".into(), value)),
        }
    }

    /// Columns of a group; -1 is a whole row. Without it, as in transformers.
    pub(super) fn group_size(&self, size: Option<&Value>) -> Result<Option<usize>, ConfigError> {
        let Some(size) = size else {
            return Ok(Some(GROUP));
        };
        match size.as_i64() {
            Some(-1) => Ok(None),
            Some(size @ 1..=0x7fff_ffff) => Ok(Some(size as usize)),
            _ => self.refuse("group_size", &value(size)),
        }
    }

    /// Rows and columns of a block.
    pub(super) fn block(&self, name: &str, sizes: &Value) -> Result<(usize, usize), ConfigError> {
        let size = |value: &Value| value.as_u64().filter(|size| (1..1 << 31).contains(size));
        match sizes.as_array().map(Vec::as_slice) {
            Some([rows, columns]) => match (size(rows), size(columns)) {
                (Some(rows), Some(columns)) => Ok((rows as usize, columns as usize)),
                _ => self.refuse(name, "not two sizes"),
            },
            _ => self.refuse(name, &value(sizes)),
        }
    }

    pub(super) fn refuse<T>(&self, field: &str, found: &str) -> Result<T, ConfigError> {
        Err(ConfigError::Unsupported {
            file: self.file,
            reason: format!(
                "the weights are quantised in a way that is not supported ({}: {field} is {found}): \
                 {SUPPORTED}",
                self.name
            ),
        })
    }
}
