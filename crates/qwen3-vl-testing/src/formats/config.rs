//! What publishers write as `quantization_config`.

use safetensors::Dtype;
use serde_json::{Value, json};

use super::pack::{AWQ_GROUP, BLOCK, Method};
use crate::checkpoint::merged;

/// `ignored` are the linear layers that stay as they are.
pub(super) fn quantization_config(method: Method, ignored: &[String]) -> Value {
    match method {
        Method::Float8 { block: true, .. } => json!({
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "modules_to_not_convert": ignored,
            "quant_method": "fp8",
            "weight_block_size": [BLOCK, BLOCK],
        }),
        Method::Float8 { .. } => {
            let common = json!({"num_bits": 8, "symmetric": true, "type": "float"});
            let weights = arguments(&[&common, &json!({"strategy": "channel"})]);
            let activations = json!({"dynamic": true, "observer": null, "strategy": "token"});
            let activations = arguments(&[&common, &activations]);
            compressed(&weights, &activations, "float-quantized", ignored)
        }
        Method::Awq => {
            // Parts of names.
            let mut parts = vec!["visual"];
            if ignored.iter().any(|name| name.ends_with("mlp.gate")) {
                parts.push("mlp.gate");
            }
            json!({
                "bits": 4,
                "group_size": AWQ_GROUP,
                "modules_to_not_convert": parts,
                "quant_method": "awq",
                "version": "gemm",
                "zero_point": true,
            })
        }
        Method::Gptq {
            bits,
            group,
            symmetric,
            by_activation,
            version,
        } => {
            let format = match version {
                1 => "gptq",
                _ => "gptq_v2",
            };
            json!({
                "bits": bits,
                "checkpoint_format": format,
                "desc_act": by_activation,
                "dynamic": {"-:model\\.visual\\..*": {}},
                "format": format,
                "group_size": group.map_or(-1, |group| group as i64),
                "lm_head": false,
                "meta": {
                    "damp_auto_increment": 0.01,
                    "damp_percent": 0.05,
                    "mse": 0.0,
                    "quantizer": ["gptqmodel:7.7.0"],
                    "static_groups": false,
                    "true_sequential": true,
                    "uri": "https://github.com/modelcloud/gptqmodel",
                },
                "method": "gptq",
                "pack_dtype": "int32",
                "quant_method": "gptq",
                "sym": symmetric,
            })
        }
        Method::Packed {
            bits,
            group,
            symmetric,
        } => {
            let weights = arguments(&[&json!({
                "group_size": group,
                "num_bits": bits,
                "strategy": if group.is_some() { "group" } else { "channel" },
                "symmetric": symmetric,
                "type": "int",
            })]);
            compressed(&weights, &Value::Null, "pack-quantized", ignored)
        }
        Method::Gguf => Value::Null,
    }
}

fn arguments(more: &[&Value]) -> Value {
    let common = json!({
        "actorder": null,
        "block_structure": null,
        "dynamic": false,
        "group_size": null,
        "observer": "minmax",
        "observer_kwargs": {},
    });
    let parts: Vec<&Value> = std::iter::once(&common)
        .chain(more.iter().copied())
        .collect();
    merged(&parts)
}

fn compressed(weights: &Value, activations: &Value, format: &str, ignored: &[String]) -> Value {
    json!({
        "config_groups": {"group_0": {
            "format": format,
            "input_activations": activations,
            "output_activations": null,
            "targets": ["Linear"],
            "weights": weights,
        }},
        "format": format,
        "global_compression_ratio": null,
        "ignore": ignored,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "sparsity_config": {},
        "transform_config": {},
        "version": "0.12.2",
    })
}

/// Type of tensors that are not quantised.
pub(super) fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F16 => "float16",
        _ => "bfloat16",
    }
}
