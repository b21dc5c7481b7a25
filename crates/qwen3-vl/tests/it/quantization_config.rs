//! `quantization_config` as the tools that quantise write it, and what is refused by name.

use std::fs;
use std::path::Path;

use qwen3_vl::config::Config;
use qwen3_vl::config::quantization::{Bits, Groups, Quantization};
use serde_json::{Value, json};

const FOUR: Bits = Bits::Four;
const EIGHT: Bits = Bits::Eight;

fn read(change: impl FnOnce(&mut Value)) -> Result<Option<Quantization>, String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut config);
    let config = Config::from_json(config.to_string().as_bytes());
    config
        .map(|config| config.quantization)
        .map_err(|error| error.to_string())
}

fn of(settings: &Value) -> Result<Option<Quantization>, String> {
    read(|config| config["quantization_config"] = settings.clone())
}

fn groups(bits: Bits, size: impl Into<Option<usize>>) -> Groups {
    let size = size.into();
    Groups { bits, size }
}

fn assert_reads(settings: Value, expected: Quantization, shown: &str) {
    let found = of(&settings).unwrap().unwrap();
    assert_eq!(found, expected, "{settings}");
    assert_eq!(found.to_string(), shown, "{settings}");
}

fn assert_refused(settings: &Value, words: &[&str]) {
    let error = of(settings).expect_err(&settings.to_string());
    for word in words
        .iter()
        .chain(&["quantised", "supported are", "property quantization"])
    {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}

fn fp8(blocks: &[(usize, usize)]) -> Quantization {
    let blocks = blocks.to_vec();
    Quantization::Fp8 { blocks }
}

fn with(mut settings: Value, name: &str, value: Value) -> Value {
    settings[name] = value;
    settings
}

#[test]
fn fp8_has_blocks() {
    let qwen = json!({
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
        "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head", "model.visual.x"],
    });
    assert_reads(qwen.clone(), fp8(&[(128, 128)]), "fp8");
    assert_reads(json!({"quant_method": "fp8"}), fp8(&[(128, 128)]), "fp8");
    let other = with(qwen.clone(), "weight_block_size", json!([1, 32]));
    assert_reads(other, fp8(&[(1, 32)]), "fp8");
    assert_refused(&with(qwen.clone(), "fmt", json!("e5m2")), &["fmt", "e5m2"]);
    for sizes in [
        json!([128]),
        json!([0, 128]),
        json!("128"),
        json!([128, -1]),
    ] {
        let settings = with(qwen.clone(), "weight_block_size", sizes);
        assert_refused(&settings, &["weight_block_size"]);
    }
}

#[test]
fn awq_is_gemm_of_four_bits() {
    let awq = json!({
        "quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm",
        "zero_point": true, "modules_to_not_convert": ["visual"],
    });
    let expected = |size: Option<usize>| Quantization::Awq(groups(FOUR, size));
    assert_reads(awq.clone(), expected(Some(128)), "awq 4-bit");
    assert_reads(
        with(awq.clone(), "version", json!("GEMM")),
        expected(Some(128)),
        "awq 4-bit",
    );
    assert_reads(
        with(awq.clone(), "group_size", json!(-1)),
        expected(None),
        "awq 4-bit",
    );
    assert_reads(
        json!({"quant_method": "awq"}),
        expected(Some(128)),
        "awq 4-bit",
    );
    // As GPTQModel writes it.
    let gptqmodel = json!({
        "quant_method": "awq", "method": "awq", "format": "gemm", "checkpoint_format": "gemm",
        "bits": 4, "group_size": 32, "pack_dtype": "int32",
    });
    assert_reads(gptqmodel.clone(), expected(Some(32)), "awq 4-bit");
    for version in ["gemv", "gemv_fast", "marlin", "llm-awq", "exllama"] {
        assert_refused(
            &with(awq.clone(), "version", json!(version)),
            &["version", version],
        );
        let settings = with(gptqmodel.clone(), "checkpoint_format", json!(version));
        assert_refused(&settings, &["checkpoint_format", version]);
    }
    for bits in [json!(8), json!(3), json!("4")] {
        assert_refused(&with(awq.clone(), "bits", bits), &["bits"]);
    }
    assert_refused(&with(awq, "group_size", json!(0)), &["group_size"]);
}

#[test]
fn gptq_has_two_formats_and_rules_for_some_layers() {
    let gptq = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": true, "sym": true,
        "lm_head": false, "checkpoint_format": "gptq", "format": "gptq", "pack_dtype": "int32",
    });
    let expected = |zero_offset, all: &[Groups]| Quantization::Gptq {
        zero_offset,
        groups: all.to_vec(),
    };
    let usual = groups(FOUR, 128);
    assert_reads(gptq.clone(), expected(1, &[usual]), "gptq 4-bit");
    let older = json!({"quant_method": "gptq", "bits": 8, "group_size": -1});
    assert_reads(older, expected(1, &[groups(EIGHT, None)]), "gptq 8-bit");
    let second = with(gptq.clone(), "checkpoint_format", json!("gptq_v2"));
    assert_reads(second, expected(0, &[usual]), "gptq 4-bit");
    let dynamic = json!({
        "-:.*visual.*": {},
        "+:.*down_proj.*": {"bits": 8, "group_size": 64},
        ".*up_proj.*": {"group_size": 32},
        ".*gate_proj.*": {"desc_act": false},
        ".*o_proj.*": false,
    });
    let found = of(&with(gptq.clone(), "dynamic", dynamic))
        .unwrap()
        .unwrap();
    let Quantization::Gptq { groups: all, .. } = found else {
        panic!("{found:?}")
    };
    assert_eq!((all[0], all.len()), (usual, 3));
    assert!(all.contains(&groups(EIGHT, 64)) && all.contains(&groups(FOUR, 32)));

    for (name, value) in [
        ("bits", json!(3)),
        ("bits", json!(2)),
        ("bits", Value::Null),
        ("group_size", json!(-2)),
        ("pack_dtype", json!("int16")),
        ("checkpoint_format", json!("marlin")),
        ("checkpoint_format", json!("gptq_p")),
        ("is_marlin_format", json!(true)),
    ] {
        assert_refused(&with(gptq.clone(), name, value.clone()), &[name]);
    }
    let dynamic = json!({".*": {"bits": 3}});
    assert_refused(&with(gptq, "dynamic", dynamic), &["bits", "3"]);
}

#[test]
fn the_older_file_of_gptq() {
    let read = |settings: Value| {
        let found = Quantization::from_quantize_config(settings.to_string().as_bytes());
        found.map_err(|error| error.to_string())
    };
    let found = read(json!({"bits": 4, "group_size": 64, "desc_act": false}));
    let expected = Quantization::Gptq {
        zero_offset: 1,
        groups: vec![groups(FOUR, 64)],
    };
    assert_eq!(found.unwrap(), expected);
    let error = read(json!({"bits": 3})).unwrap_err();
    assert!(
        error.starts_with("quantize_config.json: ") && error.contains("bits"),
        "{error}"
    );
    assert!(read(json!([])).is_err());
}

/// A configuration of llm-compressor with one group.
fn compressed(format: &str, weights: Value, inputs: Value) -> Value {
    json!({
        "quant_method": "compressed-tensors", "format": format,
        "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": weights,
            "input_activations": inputs, "output_activations": null,
        }},
        "ignore": ["lm_head", "re:.*visual.*"], "kv_cache_scheme": null,
        "quantization_status": "compressed", "sparsity_config": {}, "transform_config": {},
    })
}

#[test]
fn compressed_tensors_are_packed_integers() {
    let weights = |bits: u32, size: Value, strategy: &str| {
        json!({
            "num_bits": bits, "type": "int", "strategy": strategy, "group_size": size,
            "symmetric": true, "actorder": null, "dynamic": false, "block_structure": null,
        })
    };
    let packed = |weights| compressed("pack-quantized", weights, Value::Null);
    let expected = |all: &[Groups]| Quantization::CompressedTensors {
        groups: all.to_vec(),
    };
    let usual = packed(weights(4, json!(128), "group"));
    assert_reads(
        usual.clone(),
        expected(&[groups(FOUR, 128)]),
        "compressed-tensors 4-bit",
    );
    let channel = packed(weights(8, Value::Null, "channel"));
    assert_reads(
        channel,
        expected(&[groups(EIGHT, None)]),
        "compressed-tensors 8-bit",
    );
    let mut two = usual.clone();
    two["config_groups"]["group_1"] = json!({"weights": weights(8, json!(32), "group")});
    let both = expected(&[groups(FOUR, 128), groups(EIGHT, 32)]);
    assert_reads(two, both, "compressed-tensors 4-bit");

    for format in [
        "nvfp4-pack-quantized",
        "int-quantized",
        "mixed-precision",
        "naive-quantized",
        "marlin-24",
        "dense",
    ] {
        assert_refused(
            &with(usual.clone(), "format", json!(format)),
            &["format", format],
        );
    }
    assert_refused(&with(usual.clone(), "format", Value::Null), &["format"]);
    assert_refused(&packed(weights(3, json!(128), "group")), &["bits"]);
    assert_refused(
        &packed(weights(4, json!(128), "token")),
        &["strategy", "token"],
    );
    assert_refused(&packed(weights(4, json!(0), "group")), &["group_size"]);
    let float = with(weights(4, json!(16), "group"), "type", json!("float"));
    assert_refused(&packed(float), &["type of weights"]);
    assert_refused(
        &with(usual.clone(), "config_groups", json!({})),
        &["config_groups"],
    );
    for (name, value) in [
        ("sparsity_config", json!({"format": "sparse-24-bitmask"})),
        ("transform_config", json!({"config_groups": {"R1": {}}})),
        ("kv_cache_scheme", json!({"num_bits": 8, "type": "float"})),
    ] {
        assert_refused(&with(usual.clone(), name, value), &[name]);
    }
    let dense = with(usual, "sparsity_config", json!({"format": "dense"}));
    assert!(of(&dense).is_ok());
    let integers = json!({"num_bits": 8, "type": "int", "dynamic": true, "strategy": "token"});
    let both = compressed("pack-quantized", weights(4, json!(128), "group"), integers);
    assert_refused(&both, &["input_activations", "int"]);
}

#[test]
fn compressed_tensors_are_fp8_too() {
    let weights = |strategy: &str| json!({"num_bits": 8, "type": "float", "strategy": strategy});
    let inputs = json!({"num_bits": 8, "type": "float", "dynamic": true, "strategy": "token"});
    let float = |weights| compressed("float-quantized", weights, inputs.clone());
    for strategy in ["channel", "tensor"] {
        assert_reads(float(weights(strategy)), fp8(&[]), "fp8");
    }
    let blocks = with(weights("block"), "block_structure", json!([128, 64]));
    assert_reads(float(blocks), fp8(&[(128, 64)]), "fp8");
    let groups = with(weights("group"), "group_size", json!(32));
    assert_reads(float(groups), fp8(&[(1, 32)]), "fp8");
    assert_refused(&float(weights("block")), &["block_structure"]);
    let four = with(weights("channel"), "num_bits", json!(4));
    assert_refused(&float(four), &["type of weights", "4 bits"]);
    let integers = json!({"num_bits": 8, "type": "int", "dynamic": false});
    let static_int8 = compressed("float-quantized", weights("channel"), integers);
    assert_refused(&static_int8, &["input_activations", "int"]);
}

#[test]
fn other_methods_are_called_by_their_names() {
    for method in [
        "bitsandbytes",
        "mxfp4",
        "auto-round",
        "aqlm",
        "modelopt",
        "fbgemm_fp8",
    ] {
        assert_refused(&json!({"quant_method": method, "bits": 4}), &[method]);
    }
    assert_refused(&json!({}), &["unnamed"]);
    assert_refused(&json!({"quant_method": 8}), &["quant_method", "8"]);
    let error = of(&json!("awq")).unwrap_err();
    assert!(
        error.contains("quantization_config") && error.contains("not an object"),
        "{error}"
    );
    assert_eq!(of(&Value::Null), Ok(None));
}

#[test]
fn it_may_stand_in_the_text_config_and_have_its_older_name() {
    let fp8 = json!({"quant_method": "fp8"});
    let outside = read(|config| config["compression_config"] = fp8.clone());
    assert!(outside.unwrap().is_some());
    for name in ["quantization_config", "compression_config"] {
        let inside = read(|config| config["text_config"][name] = fp8.clone());
        assert!(inside.unwrap().is_some(), "{name}");
    }
}
