//! Weights that are damaged, cut off, or not those of the configuration.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/demo.rs"]
#[allow(dead_code)]
mod demo;

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use half::{bf16, f16};
use qwen3_vl::backend::{Event, Generation, Question, WindowHead};
use qwen3_vl::config::Config;
use qwen3_vl::frames::{Frame, Size, VisionInput};
use qwen3_vl::load::{DtypeChoice, LoadError, LoadOptions, Progress, Quantization, load};
use qwen3_vl::model::{Model, Target, Weights, WeightsError};
use qwen3_vl::testing::{Checkpoint, clip, write_checkpoint};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use tempfile::TempDir;

const WEIGHTS: &str = "model.safetensors";

type Tensors = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn tensors(folder: &Path) -> Tensors {
    let bytes = fs::read(folder.join(WEIGHTS)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let all = file.tensors().into_iter();
    all.map(|(name, view)| {
        let parts = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
        (name, parts)
    })
    .collect()
}

fn write(folder: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join(WEIGHTS)).unwrap();
}

/// The demo model with other tensors.
fn changed(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let copy = demo::demo();
    let mut all = tensors(copy.path());
    change(&mut all);
    write(copy.path(), &all);
    copy
}

const EMBED: &str = "model.language_model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn model(folder: &Path) -> Result<Model, String> {
    let config = Config::from_json(&fs::read(folder.join("config.json")).unwrap()).unwrap();
    let target = Target::cpu();
    let device = target.device.clone();
    let mut weights = Weights::open(folder, target).map_err(|e| e.to_string())?;
    Model::load(config, &mut weights, device).map_err(|e| e.to_string())
}

/// The rows of both matrices.
fn head_and_embeddings(model: &Model) -> (Vec<f32>, Vec<f32>) {
    use candle_core::{DType, Device, Tensor};
    let (head, embeddings) = (
        model.text.linears().last().unwrap(),
        model.text.embeddings(),
    );
    let hidden = embeddings.dim(1).unwrap();
    let eye = Tensor::eye(hidden, DType::F32, &Device::Cpu).unwrap();
    let rows = head
        .forward(&eye)
        .unwrap()
        .t()
        .unwrap()
        .contiguous()
        .unwrap();
    let flat = |t: &Tensor| {
        t.to_dtype(DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap()
    };
    (flat(&rows), flat(embeddings))
}

fn values((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    assert_eq!(*dtype, Dtype::BF16);
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|b| bf16::from_le_bytes(*b).to_f32())
        .collect()
}

#[test]
fn a_head_of_its_own_is_used_though_the_configuration_ties_it() {
    let original = tensors(demo::demo().path());
    let own = {
        let (dtype, shape, bytes) = original[EMBED].clone();
        let values = bytes.as_chunks().0.iter();
        let other = values.flat_map(|b| (-bf16::from_le_bytes(*b)).to_le_bytes());
        (dtype, shape, other.collect::<Vec<u8>>())
    };
    let with = |head: Option<_>, embed: bool| {
        let copy = changed(|all| {
            all.extend(head.map(|head| (HEAD.to_owned(), head)));
            if !embed {
                all.remove(EMBED);
            }
        });
        head_and_embeddings(&model(copy.path()).unwrap())
    };
    let (embed, other) = (values(&original[EMBED]), values(&own));
    assert_eq!(with(None, true), (embed.clone(), embed.clone()));
    assert_eq!(
        with(Some(original[EMBED].clone()), true),
        (embed.clone(), embed.clone())
    );
    assert_eq!(with(Some(own.clone()), true), (other.clone(), embed));
    // The one that is there is both.
    assert_eq!(with(Some(own), false), (other.clone(), other));
}

/// transformers adds or takes away one `model.`: files of the model without its head lack it.
#[test]
fn names_with_one_model_more_or_less_are_the_same() {
    let original = tensors(demo::demo().path());
    let renamed = |rename: fn(&str) -> String| {
        let copy = changed(|all| {
            *all = all
                .drain()
                .map(|(name, data)| (rename(&name), data))
                .collect();
        });
        head_and_embeddings(&model(copy.path()).unwrap())
    };
    let embed = values(&original[EMBED]);
    let same = (embed.clone(), embed.clone());
    assert_eq!(renamed(|name| name.replacen("model.", "", 1)), same);
    assert_eq!(renamed(|name| format!("model.{name}")), same);

    // So this is a head, and not to be passed by.
    let other = |name: &str| {
        changed(|all| {
            let (dtype, shape, bytes) = all[EMBED].clone();
            let negative = bytes.as_chunks().0.iter();
            let negative = negative.flat_map(|b| (-bf16::from_le_bytes(*b)).to_le_bytes());
            let head = (dtype, shape, negative.collect());
            all.insert(name.into(), head);
        })
    };
    let (head, table) = head_and_embeddings(&model(other("model.lm_head.weight").path()).unwrap());
    let negative: Vec<f32> = embed.iter().map(|value| -value).collect();
    assert_eq!((head, table), (negative, embed));
    let name = "language_model.embed_tokens.weight";
    demo::refused(other(name).path(), &[name, EMBED, "are the same one"]);
}

/// transformers makes a random one, with a warning.
#[test]
fn an_untied_model_has_a_head() {
    let untied = demo::with("config.json", |config| {
        config["tie_word_embeddings"] = serde_json::json!(false);
    });
    demo::refused(untied.path(), &[HEAD, "is missing"]);
}

#[test]
fn it_is_said_that_the_head_is_one_of_its_own() {
    let said = |folder: &Path| {
        let mut said = Vec::new();
        let progress = &mut |progress: Progress| said.push(progress.what);
        load(&demo::options(folder), progress, &AtomicBool::new(false)).unwrap();
        said.iter().any(|what| what.contains("lm_head"))
    };
    assert!(!said(demo::demo().path()));
    let other = changed(|all| {
        let (dtype, shape, mut bytes) = all[EMBED].clone();
        bytes[0] ^= 1;
        all.insert(HEAD.into(), (dtype, shape, bytes));
    });
    assert!(said(other.path()));
}

#[test]
fn it_is_said_which_settings_are_not_applied() {
    let model = demo::with("generation_config.json", |config| {
        config["no_repeat_ngram_size"] = 3.into();
    });
    let mut said = Vec::new();
    let progress = &mut |progress: Progress| said.push(progress.what);
    load(
        &demo::options(model.path()),
        progress,
        &AtomicBool::new(false),
    )
    .unwrap();
    assert!(
        said.iter()
            .any(|what| what.contains("sets no_repeat_ngram_size, which is not")),
        "{said:?}"
    );
}

#[test]
fn a_head_of_another_shape_is_refused() {
    let model = changed(|all| {
        let (dtype, shape, bytes) = all[EMBED].clone();
        let half = (
            dtype,
            vec![shape[0] / 2, shape[1]],
            bytes[..bytes.len() / 2].to_vec(),
        );
        all.insert(HEAD.into(), half);
    });
    demo::refused(model.path(), &[HEAD, "[256, 128]", "[512, 128]"]);
}

/// Of every kind: matrices, norms, biases, the first and the last of their values, in each way that
/// they are loaded.
#[test]
fn weights_that_are_no_numbers_are_named() {
    let names = [
        EMBED,
        "model.language_model.layers.1.mlp.down_proj.weight",
        "model.language_model.layers.3.input_layernorm.weight",
        "model.visual.blocks.0.attn.qkv.bias",
        "model.visual.pos_embed.weight",
        "model.visual.patch_embed.proj.weight",
    ];
    for (index, name) in names.into_iter().enumerate() {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][index % 3];
        let model = changed(|all| {
            let (_, _, bytes) = all.get_mut(name).unwrap();
            let at = if index % 2 == 0 { 0 } else { bytes.len() - 2 };
            bytes[at..at + 2].copy_from_slice(&bf16::from_f32(bad).to_le_bytes());
        });
        for quantization in [Quantization::None, Quantization::Q8_0] {
            let error = load_with(model.path(), DtypeChoice::Auto, quantization).unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains(name) && error.contains("no finite numbers"),
                "{error}"
            );
        }
    }
}

#[test]
fn doubles_are_read_as_singles() {
    let original = tensors(demo::demo().path());
    let double = |value: f64| {
        changed(|all| {
            let (dtype, _, bytes) = all.get_mut(EMBED).unwrap();
            let wide = bytes.as_chunks().0.iter();
            let mut wide: Vec<f64> = wide.map(|b| bf16::from_le_bytes(*b).to_f64()).collect();
            if value != 0.0 {
                *wide.last_mut().unwrap() = value;
            }
            (*dtype, *bytes) = (
                Dtype::F64,
                wide.iter().flat_map(|v| v.to_le_bytes()).collect(),
            );
        })
    };
    let embed = values(&original[EMBED]);
    let read = head_and_embeddings(&model(double(0.0).path()).unwrap());
    assert_eq!(read, (embed.clone(), embed));
    for quantization in [Quantization::None, Quantization::Q8_0] {
        load_with(double(0.0).path(), DtypeChoice::Auto, quantization).unwrap();
        // There is no such single.
        let large = load_with(double(1e300).path(), DtypeChoice::Auto, quantization);
        let error = large.unwrap_err().to_string();
        assert!(
            error.contains(EMBED) && error.contains("no finite"),
            "{error}"
        );
    }
    let whole = changed(|all| {
        let (dtype, shape, bytes) = all.get_mut(EMBED).unwrap();
        (*dtype, *bytes) = (Dtype::I8, vec![0; shape.iter().product()]);
    });
    demo::refused(
        whole.path(),
        &[EMBED, "has type I8", "F64, F32, BF16 and F16"],
    );
}

/// The types have their exponents in other places.
#[test]
fn no_numbers_are_found_in_every_type() {
    let bits = |dtype, bad: f32| match dtype {
        Dtype::F64 => f64::from(bad).to_le_bytes().to_vec(),
        Dtype::F32 => bad.to_le_bytes().to_vec(),
        Dtype::F16 => f16::from_f32(bad).to_le_bytes().to_vec(),
        _ => bf16::from_f32(bad).to_le_bytes().to_vec(),
    };
    let name = "model.language_model.norm.weight";
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        let with = |value: f32| {
            changed(|all| {
                let (_, shape, bytes) = all.remove(name).unwrap();
                let values = bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| bf16::from_le_bytes(*b).to_f32());
                let mut values: Vec<f32> = values.collect();
                *values.last_mut().unwrap() = value;
                let bytes = values
                    .into_iter()
                    .flat_map(|value| bits(dtype, value))
                    .collect();
                all.insert(name.into(), (dtype, shape, bytes));
            })
        };
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            demo::refused(with(bad).path(), &[name, "no finite numbers"]);
        }
        // The largest number of f16, and less than the smallest.
        for good in [65504.0, -65504.0, 1e-7, 0.0, -0.0] {
            demo::load(with(good).path()).unwrap();
        }
    }
}

#[test]
fn weights_too_large_for_f16_are_named() {
    let name = "model.language_model.layers.0.mlp.up_proj.weight";
    let large = changed(|all| {
        let (_, _, bytes) = all.get_mut(name).unwrap();
        bytes[..2].copy_from_slice(&bf16::from_f32(70_000.0).to_le_bytes());
    });
    assert!(load_with(large.path(), DtypeChoice::Auto, Quantization::None).is_ok());
    let error = load_with(large.path(), DtypeChoice::F16, Quantization::None).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains(name) && error.contains("too large for f16"),
        "{error}"
    );
}

fn load_with(
    folder: &Path,
    dtype: DtypeChoice,
    quantization: Quantization,
) -> Result<(), LoadError> {
    let options = LoadOptions {
        dtype,
        quantization,
        ..demo::options(folder)
    };
    load(&options, &mut |_| (), &AtomicBool::new(false)).map(drop)
}

#[test]
fn tensors_without_a_place_are_named() {
    for name in [
        "model.language_model.layers.4.mlp.up_proj.weight",
        "model.language_model.layers.0.self_attn.q_proj.bias",
        "model.visual.blocks.9.norm1.weight",
    ] {
        let model = changed(|all| {
            let any = all["model.language_model.norm.weight"].clone();
            all.insert(name.into(), any);
        });
        demo::refused(model.path(), &["1 tensors have no place", name]);
    }
    // Buffers of older versions, and parts that are no part of the model.
    let model = changed(|all| {
        let any = all["model.language_model.norm.weight"].clone();
        all.insert(
            "model.language_model.rotary_emb.inv_freq".into(),
            any.clone(),
        );
        all.insert("score.weight".into(), any);
    });
    demo::load(model.path()).unwrap();
}

/// Nothing is made of the layers that are there before it is known that the others are.
#[test]
fn absurd_depths_cost_nothing() {
    let start = Instant::now();
    for (part, field, missing) in [
        (
            "text_config",
            "num_hidden_layers",
            "model.language_model.layers.4.",
        ),
        ("vision_config", "depth", "model.visual.blocks.4."),
    ] {
        let model = demo::with("config.json", |config| {
            config[part][field] = serde_json::json!((1 << 24) - 1);
        });
        demo::refused(model.path(), &[missing, "is missing"]);
    }
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_file_is_as_long_as_its_header_says() {
    let copy = demo::demo();
    let path = copy.path().join(WEIGHTS);
    let good = fs::read(&path).unwrap();
    for length in [0, 7, 8, 9, 1000, good.len() - 1] {
        fs::write(&path, &good[..length]).unwrap();
        demo::refused(copy.path(), &["model.safetensors is damaged"]);
    }
    let mut long = good.clone();
    long.push(0);
    fs::write(&path, long).unwrap();
    demo::refused(copy.path(), &["is damaged", &(good.len() + 1).to_string()]);
    for header in [u64::MAX, 1 << 63, 100_000_001, good.len() as u64] {
        let mut bytes = good.clone();
        bytes[..8].copy_from_slice(&header.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        demo::refused(copy.path(), &["is damaged", &header.to_string()]);
    }
    // A header that is too long, in a file that has as much and more.
    let mut bytes = good.clone();
    bytes[..8].copy_from_slice(&100_000_001_u64.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 40).unwrap();
    demo::refused(copy.path(), &["its header would have 100000001 bytes"]);
    // A header that speaks of terabytes that a sparse file does have.
    let header =
        br#"{"x":{"dtype":"F32","shape":[274877906944],"data_offsets":[0,1099511627776]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    fs::write(&path, &bytes).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(bytes.len() as u64 + (1 << 40)).unwrap();
    demo::refused(copy.path(), &["is missing"]);
}

/// What happens when a model is copied over one that is being loaded. Mapped files end the process
/// then, with SIGBUS.
#[test]
fn weights_that_are_cut_off_while_they_are_loaded_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_checkpoint(folder.path(), Checkpoint::DenseUntied).unwrap();
    let path = folder.path().join(WEIGHTS);
    let length = fs::metadata(&path).unwrap().len();
    let config = fs::read(folder.path().join("config.json")).unwrap();
    let open = || Weights::open(folder.path(), Target::cpu()).unwrap();

    // Between the header and the tensors.
    let mut weights = open();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(length / 2).unwrap();
    let config = Config::from_json(&config).unwrap();
    let error = Model::load(config.clone(), &mut weights, Target::cpu().device).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("is damaged") && error.contains("cut off"),
        "{error}"
    );

    // While tensors are read, again and again. The content is lost: zeros are numbers too.
    let stop = Arc::new(AtomicBool::new(false));
    let cutter = thread::spawn({
        let stop = stop.clone();
        move || {
            while !stop.load(Ordering::Relaxed) {
                file.set_len(length / 4).unwrap();
                file.set_len(length).unwrap();
            }
            file.set_len(length).unwrap();
        }
    });
    for _ in 0..5 {
        // The header is in the first quarter.
        if let Ok(mut weights) = Weights::open(folder.path(), Target::cpu()) {
            match Model::load(config.clone(), &mut weights, Target::cpu().device) {
                Ok(_) => (),
                Err(error) => assert!(error.to_string().contains("is damaged"), "{error}"),
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    cutter.join().unwrap();
}

/// Weights may all be numbers, and what is computed with them none.
#[test]
fn a_model_that_overflows_says_so_instead_of_talking() {
    let model = changed(|all| {
        let (_, _, bytes) = all.get_mut("model.language_model.norm.weight").unwrap();
        let large = bf16::MAX.to_le_bytes();
        bytes.as_chunks_mut().0.iter_mut().for_each(|b| *b = large);
    });
    let backend = demo::load(model.path()).unwrap();
    let size = Size {
        width: 128,
        height: 96,
    };
    for temperature in [0.0, 0.7] {
        let (tx, rx) = channel();
        let sink = move |event| {
            let _ = tx.send(event);
        };
        let mut window = backend.open(WindowHead::default(), Box::new(sink));
        let frame = |time: u32| Frame {
            rgb: clip(time, size, 0).into(),
            size,
            seconds: f64::from(time),
        };
        window.push(VisionInput::Pair([frame(0), frame(1)]));
        let question = Question {
            prompt: "What is there?".into(),
            max_tokens: 8,
            generation: Generation {
                temperature,
                ..Generation::default()
            },
            seed: 7,
            emit_tokens: false,
            repetition_guard: 0,
        };
        let _request = window.close(question);
        let end = rx.recv_timeout(Duration::from_secs(60)).unwrap();
        let text = format!("{end:?}");
        assert!(
            matches!(end, Event::Failed(_)) && text.contains("no numbers (NaN)"),
            "{text}"
        );
    }
}

/// A file may be of terabytes without having them, and fit its configuration.
#[test]
fn what_no_memory_holds_is_an_error() {
    let (hidden, heads) = (1usize << 15, 1usize << 20);
    let copy = demo::with("config.json", |config| {
        config["text_config"]["hidden_size"] = hidden.into();
        config["text_config"]["num_attention_heads"] = heads.into();
        config["vision_config"]["out_hidden_size"] = hidden.into();
    });
    let large = "model.language_model.layers.0.self_attn.q_proj.weight";
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, (_, mut shape, _)) in tensors(copy.path()) {
        match name.as_str() {
            EMBED => shape[1] = hidden,
            _ if name == large => shape = vec![heads * 32, hidden],
            _ if name.ends_with("input_layernorm.weight") => shape = vec![hidden],
            _ => (),
        }
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry =
            serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name, entry);
    }
    let header = serde_json::Value::Object(header).to_string();
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend(header.as_bytes());
    fs::write(copy.path().join(WEIGHTS), &start).unwrap();
    let file = OpenOptions::new()
        .write(true)
        .open(copy.path().join(WEIGHTS))
        .unwrap();
    file.set_len((start.len() + end) as u64).unwrap();
    for quantization in [Quantization::None, Quantization::Q8_0, Quantization::Q4K] {
        let loaded = load_with(copy.path(), DtypeChoice::Auto, quantization);
        let error = loaded.unwrap_err().to_string();
        assert!(
            error.contains("not enough memory") && error.contains(large),
            "{error}"
        );
    }
}

#[test]
fn an_index_names_files_beside_it() {
    let copy = demo::demo();
    let shard = "model-00001-of-00001.safetensors";
    fs::rename(copy.path().join(WEIGHTS), copy.path().join(shard)).unwrap();
    let index = copy.path().join("model.safetensors.index.json");
    let named = |name: &str| {
        let map = serde_json::json!({"weight_map": {EMBED: name}});
        fs::write(&index, map.to_string()).unwrap();
    };
    named(shard);
    demo::load(copy.path()).unwrap();
    // A folder is no file with weights, whatever its name.
    fs::create_dir(copy.path().join(WEIGHTS)).unwrap();
    demo::load(copy.path()).unwrap();
    fs::remove_dir(copy.path().join(WEIGHTS)).unwrap();
    for strange in ["../x.safetensors", "/etc/passwd", "..", "", "a/b", "."] {
        named(strange);
        demo::refused_at_once(copy.path(), &["is not a plain file name"]);
    }
    named("gone.safetensors");
    demo::refused_at_once(copy.path(), &["gone.safetensors"]);
    for bad in [
        "",
        "{",
        "[]",
        "{}",
        "{\"weight_map\": []}",
        "{\"weight_map\": {}}",
    ] {
        fs::write(&index, bad).unwrap();
        demo::refused_at_once(copy.path(), &["model.safetensors.index.json is damaged"]);
    }
}

#[test]
fn an_error_is_short_whatever_a_file_holds() {
    let long = "x\n".repeat(5_000_000);
    let copy = demo::demo();
    let header =
        serde_json::json!({long.clone(): {"dtype": long, "shape": [], "data_offsets": [0, 0]}});
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(copy.path().join(WEIGHTS), bytes).unwrap();
    let error = demo::refused(copy.path(), &["is damaged"]);
    assert!(
        error.len() < 3000 && !error.contains('\n'),
        "{} bytes",
        error.len()
    );
    assert!(matches!(
        Weights::open(copy.path(), Target::cpu()),
        Err(WeightsError::Damaged { .. })
    ));
}
