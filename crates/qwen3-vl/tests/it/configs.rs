//! `config.json` as transformers 5.17 reads it: defaults, both spellings, and values that are
//! refused.

use std::fs;
use std::path::Path;

use qwen3_vl::config::{Config, Rope};
use serde_json::{Value, json};

fn demo() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo/config.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn read(config: &Value) -> Result<Config, String> {
    Config::from_json(config.to_string().as_bytes()).map_err(|error| error.to_string())
}

/// The demo's configuration, changed.
fn changed(change: impl FnOnce(&mut Value)) -> Result<Config, String> {
    let mut config = demo();
    change(&mut config);
    read(&config)
}

fn refused(change: impl FnOnce(&mut Value), words: &[&str]) {
    let error = changed(change).expect_err("it was read");
    for word in words {
        assert!(error.contains(word), "{error} lacks {word:?}");
    }
}

fn text(settings: Value) -> impl FnOnce(&mut Value) {
    move |config| {
        let all = config["text_config"].as_object_mut().unwrap();
        all.extend(settings.as_object().unwrap().clone());
    }
}

fn vision(settings: Value) -> impl FnOnce(&mut Value) {
    move |config| {
        let all = config["vision_config"].as_object_mut().unwrap();
        all.extend(settings.as_object().unwrap().clone());
    }
}

/// The values of `Qwen3VLConfig()` in transformers 5.17.
#[test]
fn what_is_absent_is_as_in_transformers() {
    // The defaults of the two parts do not fit: out_hidden_size is 3584, hidden_size 4096.
    let minimal = json!({
        "model_type": "qwen3_vl",
        "vision_config": {"out_hidden_size": 4096},
    });
    let Config {
        model_type: _,
        image_token_id,
        video_token_id,
        vision_start_token_id,
        vision_end_token_id,
        tie_word_embeddings,
        text_config: text,
        vision_config: vision,
        quantization,
    } = read(&minimal).unwrap();
    assert!(quantization.is_none());
    assert_eq!((image_token_id, video_token_id), (151_655, 151_656));
    assert_eq!(
        (vision_start_token_id, vision_end_token_id),
        (151_652, 151_653)
    );
    assert!(!tie_word_embeddings);
    assert_eq!((text.vocab_size, text.hidden_size), (151_936, 4096));
    assert_eq!(
        (text.intermediate_size, text.num_hidden_layers),
        (22_016, 32)
    );
    assert_eq!(
        (text.num_attention_heads, text.num_key_value_heads),
        (32, 32)
    );
    assert_eq!(
        (text.head_dim, text.max_position_embeddings),
        (128, 128_000)
    );
    assert_eq!(
        (text.hidden_act.as_str(), text.attention_bias),
        ("silu", false)
    );
    assert_eq!((text.rms_norm_eps, text.num_experts), (1e-6, 0));
    let rope = Rope {
        theta: 500_000.0,
        section: [24, 20, 20],
    };
    assert_eq!(text.rope, rope);
    assert_eq!((vision.depth, vision.hidden_size), (27, 1152));
    assert_eq!((vision.intermediate_size, vision.num_heads), (4304, 16));
    assert_eq!((vision.in_channels, vision.patch_size), (3, 16));
    assert_eq!(
        (vision.spatial_merge_size, vision.temporal_patch_size),
        (2, 2)
    );
    assert_eq!(vision.num_position_embeddings, 2304);
    assert_eq!(vision.deepstack_visual_indexes, [8, 16, 24]);
    assert_eq!(vision.hidden_act, "gelu_pytorch_tanh");
    assert_eq!(vision.rope_theta, 10_000.0);
}

/// Those of `Qwen3VLMoeConfig()`.
#[test]
fn a_mixture_of_experts_has_other_defaults() {
    let minimal = json!({
        "model_type": "qwen3_vl_moe",
        "vision_config": {"out_hidden_size": 2048},
    });
    let config = read(&minimal).unwrap();
    let text = &config.text_config;
    assert_eq!((text.hidden_size, text.intermediate_size), (2048, 5632));
    assert_eq!((text.num_hidden_layers, text.num_experts), (24, 60));
    assert_eq!(
        (text.num_attention_heads, text.num_key_value_heads),
        (16, 16)
    );
    // hidden_size / num_attention_heads, the only default there.
    assert_eq!(text.head_dim, 128);
    assert_eq!(
        (text.num_experts_per_tok, text.moe_intermediate_size),
        (4, 1408)
    );
    assert_eq!(
        (text.decoder_sparse_step, &text.mlp_only_layers[..]),
        (1, &[][..])
    );
    assert!((0..24).all(|layer| text.is_sparse(layer)));
    // The spelling of transformers 5.
    let experts = |value: Value| {
        let mut config = minimal.clone();
        config["text_config"] = value;
        read(&config).unwrap()
    };
    for count in [
        json!({"num_experts": 8}),
        json!({"num_local_experts": 8}),
        // By an `attribute_map`, whose second name is set last.
        json!({"num_experts": 9, "num_local_experts": 8}),
    ] {
        assert_eq!(experts(count).text_config.num_experts, 8);
    }
    let none = experts(json!({"num_experts": 0, "decoder_sparse_step": 0})).text_config;
    assert!((0..24).all(|layer| !none.is_sparse(layer)));
    for none in [json!(null), json!(0)] {
        assert_eq!(experts(json!({"head_dim": none})).text_config.head_dim, 128);
    }
}

#[test]
fn a_dense_model_has_heads_of_128_unless_it_says_otherwise() {
    let config = changed(|config| {
        let text = config["text_config"].as_object_mut().unwrap();
        text.remove("head_dim");
        text["rope_scaling"]["mrope_section"] = json!([24, 20, 20]);
    });
    assert_eq!(config.unwrap().text_config.head_dim, 128);
}

#[test]
fn key_value_heads_of_null_are_as_many_as_heads() {
    let config = changed(text(json!({"num_key_value_heads": null}))).unwrap();
    assert_eq!(config.text_config.num_key_value_heads, 4);
}

#[test]
fn experts_of_a_dense_model_are_ignored() {
    let ignored = json!({
        "num_experts": 128,
        "num_local_experts": "many",
        "mlp_only_layers": 3,
        "norm_topk_prob": false,
        "decoder_sparse_step": 0,
    });
    let text = changed(text(ignored)).unwrap().text_config;
    assert!((0..4).all(|layer| !text.is_sparse(layer)));
}

/// `Qwen3VLMoeTextDecoderLayer`: experts where the layer is not in the list and the number of
/// layers up to it is a multiple of the step.
#[test]
fn layers_with_experts() {
    let sparse = |step: usize, dense: Value| {
        let config = json!({
            "model_type": "qwen3_vl_moe",
            "text_config": {"decoder_sparse_step": step, "mlp_only_layers": dense},
            "vision_config": {"out_hidden_size": 2048},
        });
        let text = read(&config).unwrap().text_config;
        (0..9)
            .filter(|layer| text.is_sparse(*layer))
            .collect::<Vec<_>>()
    };
    assert_eq!(sparse(1, json!(null)), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(sparse(1, json!([0, 3, 8])), [1, 2, 4, 5, 6, 7]);
    assert_eq!(sparse(2, json!([])), [1, 3, 5, 7]);
    assert_eq!(sparse(3, json!([2, 4])), [5, 8]);
    // As Python has it: no layer has such a number.
    assert_eq!(sparse(2, json!([-1, 1000, 1])), [3, 5, 7]);
    assert!(sparse(10, json!([])).is_empty());
}

#[test]
fn settings_of_experts_are_checked() {
    let with = |text: Value| {
        let config = json!({
            "model_type": "qwen3_vl_moe",
            "text_config": text,
            "vision_config": {"out_hidden_size": 2048},
        });
        read(&config)
    };
    for (setting, named) in [
        (json!({"num_experts": 4097}), "num_experts = 4097"),
        (json!({"num_experts": 3}), "num_experts_per_tok = 4"),
        (json!({"num_experts_per_tok": 0}), "num_experts_per_tok = 0"),
        (
            json!({"num_experts_per_tok": 61}),
            "num_experts_per_tok = 61",
        ),
        (
            json!({"moe_intermediate_size": 0}),
            "moe_intermediate_size = 0",
        ),
        (
            json!({"moe_intermediate_size": 1 << 24}),
            "moe_intermediate_size",
        ),
        (json!({"decoder_sparse_step": 0}), "decoder_sparse_step = 0"),
        (json!({"norm_topk_prob": false}), "norm_topk_prob = false"),
        (json!({"mlp_only_layers": ["x"]}), "config.json"),
        (json!({"decoder_sparse_step": -1}), "config.json"),
    ] {
        let error = with(setting).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    for fine in [
        json!({"num_experts": 4}),
        json!({"num_experts": 4096, "num_experts_per_tok": 4096}),
        json!({"norm_topk_prob": true}),
        json!({"norm_topk_prob": null}),
    ] {
        with(fine).unwrap();
    }
}

/// `RotaryEmbeddingConfigMixin.convert_rope_params_to_dict`.
#[test]
fn rope_settings_in_all_spellings() {
    let of = |settings: Value| {
        changed(|config| {
            let all = config["text_config"].as_object_mut().unwrap();
            for name in ["rope_scaling", "rope_parameters", "rope_theta"] {
                all.remove(name);
            }
            all.extend(settings.as_object().unwrap().clone());
        })
        .map(|config| config.text_config.rope)
    };
    let section = [6, 5, 5];
    let rope = |theta| Rope { theta, section };
    let plain = json!({"rope_type": "default", "mrope_section": section});
    let with_theta = json!({"rope_type": "default", "mrope_section": section, "rope_theta": 7.0});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "mrope_section": section});
    let yarn_by_type = json!({"type": "yarn", "factor": 4.0, "mrope_section": section});
    for (settings, theta) in [
        (json!({"rope_scaling": plain, "rope_theta": 9.0}), 9.0),
        (json!({"rope_scaling": plain}), 500_000.0),
        (json!({"rope_scaling": with_theta, "rope_theta": 9.0}), 7.0),
        (json!({"rope_parameters": with_theta}), 7.0),
        (json!({"rope_parameters": plain, "rope_theta": 9.0}), 9.0),
        // The older name wins, unless it is empty.
        (
            json!({"rope_scaling": plain, "rope_parameters": with_theta, "rope_theta": 9.0}),
            9.0,
        ),
        (
            json!({"rope_scaling": {}, "rope_parameters": with_theta}),
            7.0,
        ),
        (
            json!({"rope_scaling": null, "rope_parameters": with_theta}),
            7.0,
        ),
        (
            json!({"rope_scaling": plain, "rope_parameters": yarn, "rope_theta": 9.0}),
            9.0,
        ),
        // The newer name of the type wins.
        (
            json!({"rope_scaling": {"rope_type": "default", "type": "yarn", "mrope_section": section},
                   "rope_theta": 9.0}),
            9.0,
        ),
        (
            json!({"rope_scaling": {"mrope_section": section}, "rope_theta": 9.0}),
            9.0,
        ),
    ] {
        assert_eq!(of(settings.clone()), Ok(rope(theta)), "{settings}");
    }
    for settings in [
        json!({"rope_scaling": yarn}),
        json!({"rope_scaling": yarn_by_type}),
        json!({"rope_parameters": yarn}),
        json!({"rope_parameters": yarn_by_type}),
        json!({"rope_scaling": yarn_by_type, "rope_parameters": plain}),
    ] {
        let error = of(settings.clone()).expect_err("it was read");
        assert!(
            error.contains("rope_type \"yarn\" is not supported"),
            "{settings}: {error}"
        );
    }
    for kind in ["linear", "dynamic", "llama3", "longrope", "mrope", "axial"] {
        let error = of(json!({"rope_scaling": {"type": kind, "mrope_section": section}}));
        assert!(error.expect_err(kind).contains(kind));
    }
    let error = of(json!({"rope_scaling": {"rope_type": null, "mrope_section": section}}));
    assert!(error.expect_err("null").contains("rope_type null"));
    for section in [
        json!([6, 5]),
        json!(16),
        json!([6.0, 5.0, 5.0]),
        json!([-1, 12, 5]),
    ] {
        let error = of(json!({"rope_parameters": {"mrope_section": section}})).unwrap_err();
        assert!(error.contains("mrope_section is"), "{error}");
    }
}

/// `attribute_map` of `Qwen3VLVisionConfig`.
#[test]
fn the_vision_tower_s_heads_have_two_names() {
    let config = changed(|config| {
        let vision = config["vision_config"].as_object_mut().unwrap();
        vision.remove("num_heads");
        vision.insert("num_attention_heads".into(), json!(2));
    });
    assert_eq!(config.unwrap().vision_config.num_heads, 2);
}

#[test]
fn the_vision_tower_has_a_base_of_its_own() {
    let theta = |settings| changed(vision(settings)).map(|c| c.vision_config.rope_theta);
    assert_eq!(theta(json!({"rope_theta": 7.0})), Ok(7.0));
    let axial = json!({"rope_parameters": {"rope_type": "axial", "rope_theta": 8.0}});
    assert_eq!(theta(axial), Ok(8.0));
    let error = theta(json!({"rope_parameters": {"type": "yarn"}})).unwrap_err();
    assert!(error.contains("vision rope_type \"yarn\""), "{error}");
}

#[test]
fn values_that_compute_nothing_are_refused() {
    for theta in [
        json!(0),
        json!(-1.0),
        json!(null),
        json!("1"),
        json!(1e39),
        json!(1e-46),
        // Its frequencies are finite, but infinite times a position.
        json!(1e-37),
    ] {
        let settings = json!({"rope_theta": theta, "rope_scaling": {"mrope_section": [6, 5, 5]}});
        refused(text(settings), &["rope_theta"]);
        refused(vision(json!({"rope_theta": theta})), &["rope_theta"]);
    }
    for eps in [
        json!(-1e-6),
        json!(1.0),
        json!(1e300),
        json!(null),
        json!("1e-6"),
    ] {
        let named = if eps.is_number() {
            "rms_norm_eps"
        } else {
            "expected f64"
        };
        refused(text(json!({"rms_norm_eps": eps})), &[named]);
    }
    for (field, word) in [("hidden_act", "silu"), ("vision", "gelu_pytorch_tanh")] {
        match field {
            "vision" => refused(vision(json!({"hidden_act": "gelu"})), &["hidden_act", word]),
            field => refused(text(json!({field: "gelu"})), &[field, word]),
        }
    }
    refused(text(json!({"attention_bias": true})), &["attention_bias"]);
    let off = json!({"mrope_interleaved": false, "mrope_section": [6, 5, 5]});
    refused(text(json!({"rope_scaling": off})), &["mrope_interleaved"]);
}

#[test]
fn sums_and_products_do_not_wrap() {
    let half = 1u64 << 63;
    for section in [
        json!([half, half, 16]),
        json!([half + 8, half, 8]),
        json!([u64::MAX, 17, 0]),
        json!([u64::MAX - 1, 1, 17]),
        // Twice the sum wraps.
        json!([half, 16, 0]),
        json!([u64::MAX, u64::MAX, u64::MAX]),
    ] {
        let settings = json!({"rope_scaling": {"mrope_section": section}});
        refused(
            text(settings),
            &["mrope_section", "does not sum to head_dim / 2"],
        );
    }
    let large = (1 << 24) - 1;
    refused(
        vision(json!({"spatial_merge_size": large})),
        &["out of range"],
    );
    refused(vision(json!({"patch_size": large})), &["out of range"]);
    let wide = json!({"hidden_size": 1 << 23, "num_heads": 1, "spatial_merge_size": 64});
    refused(vision(wide), &["merged width", "out of range"]);
    refused(
        text(json!({"num_attention_heads": large, "head_dim": large})),
        &["num_attention_heads x head_dim", "out of range"],
    );
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for value in [json!(0), json!(1u64 << 24), json!(u64::MAX)] {
            refused(text(json!({field: value})), &[field, "out of range"]);
        }
        for value in [json!(-1), json!(1.5), json!("1"), json!([1]), json!(1e30)] {
            refused(text(json!({field: value})), &["config.json: invalid"]);
        }
    }
    for field in [
        "depth",
        "num_heads",
        "num_position_embeddings",
        "out_hidden_size",
    ] {
        for value in [json!(0), json!(u64::MAX)] {
            refused(vision(json!({field: value})), &[field, "out of range"]);
        }
    }
}

#[test]
fn deepstack_taps_ascend_within_the_tower() {
    for taps in [json!([2, 1]), json!([1, 1]), json!([4]), json!([u64::MAX])] {
        refused(
            vision(json!({"deepstack_visual_indexes": taps})),
            &["deepstack_visual_indexes"],
        );
    }
    let many: Vec<usize> = (0..5).collect();
    let settings = json!({"depth": 8, "deepstack_visual_indexes": many});
    refused(
        vision(settings),
        &["deepstack_visual_indexes", "num_hidden_layers"],
    );
    assert!(changed(vision(json!({"deepstack_visual_indexes": []}))).is_ok());
}

/// Patches are cut from two frames of three channels; other shapes are refused.
#[test]
fn only_pairs_of_frames_of_three_channels() {
    for frames in [1, 4] {
        refused(
            vision(json!({"temporal_patch_size": frames})),
            &["temporal_patch_size = 2"],
        );
    }
    refused(vision(json!({"in_channels": 1})), &["in_channels = 3"]);
}

#[test]
fn token_ids_are_within_the_vocabulary() {
    for field in [
        "image_token_id",
        "video_token_id",
        "vision_start_token_id",
        "vision_end_token_id",
    ] {
        let beyond = |config: &mut Value| config[field] = json!(512);
        refused(beyond, &[field, "512", "beyond the vocabulary"]);
        // The default is an id of the official vocabulary.
        let absent = |config: &mut Value| {
            config.as_object_mut().unwrap().remove(field);
        };
        refused(absent, &[field, "beyond the vocabulary"]);
    }
    let same = |config: &mut Value| config["image_token_id"] = json!(511);
    refused(same, &["image_token_id", "video_token_id"]);
}

#[test]
fn other_models_are_called_by_their_names() {
    for (name, title) in [
        ("qwen2_5_vl", "Qwen2.5-VL"),
        ("qwen2_vl", "Qwen2-VL"),
        ("qwen3_5", "Qwen3.5"),
        ("qwen3_5_moe", "Qwen3.5"),
        ("llava", "LLaVA"),
        ("something_new", "something_new"),
    ] {
        // Other fields of such a file need not be valid.
        let error = read(&json!({"model_type": name})).unwrap_err();
        for word in ["model_type", name, title, "only Qwen3-VL is supported"] {
            assert!(error.contains(word), "{error} lacks {word}");
        }
    }
    for config in [
        json!({}),
        json!({"model_type": null}),
        json!({"model_type": ["qwen3_vl"]}),
    ] {
        assert!(read(&config).unwrap_err().contains("model_type"));
    }
}

/// An error never carries more of a file than a line.
#[test]
fn errors_are_short_and_on_one_line() {
    let long = "x\n\u{1b}[2J".repeat(2_000_000);
    let errors = [
        changed(|config| config["model_type"] = json!(long)),
        changed(|config| config["text_config"] = json!(long)),
        changed(|config| config["text_config"]["hidden_act"] = json!(long)),
        changed(|config| config["text_config"]["hidden_size"] = json!(long)),
        changed(|config| config["text_config"]["rope_scaling"]["rope_type"] = json!(long)),
        changed(|config| config["text_config"]["rope_scaling"]["mrope_section"] = json!(long)),
        changed(|config| config["image_token_id"] = json!(long)),
        changed(|config| config["quantization_config"] = json!({"quant_method": long})),
        Config::from_json(long.as_bytes()).map_err(|error| error.to_string()),
    ];
    for error in errors {
        let error = error.expect_err("it was read");
        assert!(error.len() < 2000, "{} bytes", error.len());
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn files_that_hold_no_object_are_refused() {
    for json in [
        "",
        "{",
        "[]",
        "null",
        "1",
        "\"text\"",
        "{\"model_type\": NaN}",
    ] {
        let error = Config::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("config.json: "), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Config::from_json(deep.as_bytes()).is_err());
    for part in ["text_config", "vision_config"] {
        refused(|config| config[part] = json!([1]), &[part, "not an object"]);
    }
}
