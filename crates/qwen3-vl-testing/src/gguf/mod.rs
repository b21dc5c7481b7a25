//! Checkpoints as GGUF files, written by the rules of llama.cpp's converter; blocks are made by
//! candle.

pub(crate) mod names;
mod tiny;
mod tokenizer;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::{fs, io};

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value as Json;

pub use tiny::tiny;
pub use tokenizer::set_tokenizer;
pub use writer::{GgufFile, TensorData, Value, bools, f32s, i32s, texts};

/// Says in which type a tensor is stored, given its name as Hugging Face has it and its shape.
pub type Choose<'a> = dyn Fn(&str, &[usize]) -> GgmlDType + 'a;

/// A model as two files.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The language model.
    pub text: GgufFile,
    /// The vision tower.
    pub vision: GgufFile,
}

impl Converted {
    /// Writes `model.gguf` and `mmproj.gguf` into a folder.
    ///
    /// # Errors
    ///
    /// Those of writing.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        fs::write(folder.join("model.gguf"), self.text.bytes())?;
        fs::write(folder.join("mmproj.gguf"), self.vision.bytes())
    }
}

/// A checkpoint's tensors.
struct Tensors(Vec<u8>);

impl Tensors {
    fn open(folder: &Path) -> io::Result<Self> {
        fs::read(folder.join("model.safetensors")).map(Self)
    }

    /// Gives names, shapes and values of all, in order.
    fn each(
        &self,
        mut each: impl FnMut(&str, &[usize], Vec<f32>) -> io::Result<()>,
    ) -> io::Result<()> {
        let file = SafeTensors::deserialize(&self.0).map_err(io::Error::other)?;
        let mut names = file.names();
        names.sort_unstable();
        for name in names {
            let tensor = file.tensor(name).map_err(io::Error::other)?;
            each(name, tensor.shape(), widened(&tensor)?)?;
        }
        Ok(())
    }
}

fn widened(tensor: &TensorView<'_>) -> io::Result<Vec<f32>> {
    let halves = || {
        let (halves, _) = tensor.data().as_chunks::<2>();
        halves.iter().copied()
    };
    match tensor.dtype() {
        Dtype::F32 => {
            let (values, _) = tensor.data().as_chunks::<4>();
            Ok(values.iter().map(|v| f32::from_le_bytes(*v)).collect())
        }
        Dtype::BF16 => Ok(halves().map(|v| bf16::from_le_bytes(v).to_f32()).collect()),
        Dtype::F16 => Ok(halves().map(|v| f16::from_le_bytes(v).to_f32()).collect()),
        other => Err(io::Error::other(format!("a tensor of type {other:?}"))),
    }
}

/// Values in a type of ggml.
fn stored(values: Vec<f32>, shape: &[usize], dtype: GgmlDType) -> io::Result<QTensor> {
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu);
    let stored = tensor.and_then(|tensor| QTensor::quantize(&tensor, dtype));
    stored.map_err(io::Error::other)
}

/// The number of a type in a file.
pub fn kind(dtype: GgmlDType) -> u32 {
    match dtype {
        GgmlDType::F32 => 0,
        GgmlDType::F16 => 1,
        GgmlDType::Q4_0 => 2,
        GgmlDType::Q4_1 => 3,
        GgmlDType::Q5_0 => 6,
        GgmlDType::Q5_1 => 7,
        GgmlDType::Q8_0 => 8,
        GgmlDType::Q8_1 => 9,
        GgmlDType::Q2K => 10,
        GgmlDType::Q3K => 11,
        GgmlDType::Q4K => 12,
        GgmlDType::Q5K => 13,
        GgmlDType::Q6K => 14,
        GgmlDType::Q8K => 15,
        GgmlDType::BF16 => 30,
    }
}

/// The checkpoint in a folder as GGUF, its tensors in the types that `choose` says.
///
/// # Errors
///
/// Those of reading, and a tensor that the converter does not know.
pub fn convert(folder: &Path, choose: &Choose<'_>) -> io::Result<Converted> {
    let config: Json = serde_json::from_slice(&fs::read(folder.join("config.json"))?)?;
    let (text, vision) = (&config["text_config"], &config["vision_config"]);
    let taps = integers(&vision["deepstack_visual_indexes"]);
    let mut files = Converted {
        text: GgufFile::default(),
        vision: GgufFile::default(),
    };
    set_text(&mut files.text, text, taps.len());
    set_vision(&mut files.vision, vision, &taps);
    let rows = text["vocab_size"].as_u64().unwrap_or(0) as usize;
    let json = fs::read(folder.join("tokenizer.json"))?;
    set_tokenizer(&mut files.text, &json, rows)?;
    Tensors::open(folder)?.each(|name, shape, values| {
        let file = match name.starts_with("model.visual.") {
            true => &mut files.vision,
            false => &mut files.text,
        };
        let dtype = choose(name, shape);
        for (name, shape, values) in parts(name, shape, values, &taps)? {
            let bytes = stored(values, &shape, dtype)?;
            let bytes = bytes.data().map_err(io::Error::other)?.into_owned();
            file.tensors.push(TensorData {
                name,
                shape,
                kind: kind(dtype),
                bytes,
                offset: None,
            });
        }
        Ok(())
    })?;
    Ok(files)
}

type Part = (String, Vec<usize>, Vec<f32>);

/// The tensors of a file that one of a checkpoint becomes.
fn parts(name: &str, shape: &[usize], values: Vec<f32>, taps: &[usize]) -> io::Result<Vec<Part>> {
    if name == "model.visual.patch_embed.proj.weight" {
        // [D, 3, 2, 16, 16]: a convolution for each of two frames.
        let frame = |frame: usize| {
            let size = shape[3] * shape[4];
            let frames = values.chunks_exact(size).skip(frame).step_by(2);
            frames.flatten().copied().collect()
        };
        let shape = vec![shape[0], shape[1], shape[3], shape[4]];
        return Ok(vec![
            ("v.patch_embd.weight".into(), shape.clone(), frame(0)),
            ("v.patch_embd.weight.1".into(), shape, frame(1)),
        ]);
    }
    if let Some((layer, part)) = name.split_once(".mlp.experts.") {
        let layer = layer.trim_start_matches("model.language_model.layers.");
        // [experts, in, out] becomes [experts, out, in]; gate and up are apart.
        let (rows, columns) = (shape[1], shape[2]);
        let turned = |columns_of: std::ops::Range<usize>| -> Vec<f32> {
            let experts = values.chunks_exact(rows * columns);
            let turn = |matrix: &[f32]| -> Vec<f32> {
                let column = |column| (0..rows).map(move |row| (row, column));
                let places = columns_of.clone().flat_map(column);
                places
                    .map(|(row, column)| matrix[row * columns + column])
                    .collect()
            };
            experts.flat_map(turn).collect()
        };
        let named = |part: &str, width: usize, values| {
            let name = format!("blk.{layer}.ffn_{part}_exps.weight");
            (name, vec![shape[0], width, rows], values)
        };
        return Ok(match part {
            "down_proj" => vec![named("down", columns, turned(0..columns))],
            _ => {
                let half = columns / 2;
                vec![
                    named("gate", half, turned(0..half)),
                    named("up", half, turned(half..columns)),
                ]
            }
        });
    }
    let renamed = names::of(name, taps);
    let renamed = renamed.ok_or_else(|| io::Error::other(format!("no name for {name}")))?;
    Ok(vec![(renamed, shape.into(), values)])
}

/// The same values as a safetensors checkpoint: plain numbers in the types that `choose` says,
/// those in blocks as candle widens them. The other files are copied.
///
/// # Errors
///
/// Those of reading and writing.
pub fn write_stored(from: &Path, to: &Path, choose: &Choose<'_>) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_name() != "model.safetensors" {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    let mut all = Vec::new();
    Tensors::open(from)?.each(|name, shape, values| {
        let tensor = stored(values, shape, choose(name, shape))?;
        let (dtype, bytes) = match tensor.dtype() {
            GgmlDType::F16 => (Dtype::F16, tensor.data()),
            GgmlDType::BF16 => (Dtype::BF16, tensor.data()),
            _ => {
                let wide = tensor
                    .dequantize(&Device::Cpu)
                    .and_then(|t| t.flatten_all());
                let wide = wide.and_then(|wide| wide.to_vec1::<f32>());
                let bytes = |wide: Vec<f32>| wide.into_iter().flat_map(f32::to_le_bytes).collect();
                (
                    Dtype::F32,
                    wide.map(|wide| std::borrow::Cow::Owned(bytes(wide))),
                )
            }
        };
        let bytes = bytes.map_err(io::Error::other)?.into_owned();
        all.push((name.to_owned(), (dtype, shape.to_vec(), bytes)));
        Ok(())
    })?;
    let views: Result<Vec<_>, _> = all
        .iter()
        .map(|(name, (dtype, shape, bytes))| {
            TensorView::new(*dtype, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect();
    let views = views.map_err(io::Error::other)?;
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), &to.join("model.safetensors"))
        .map_err(io::Error::other)
}

fn integers(list: &Json) -> Vec<usize> {
    let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let number = |value: &Json| value.as_u64().map(|n| n as usize);
    list.iter().filter_map(number).collect()
}

fn u32_of(value: &Json) -> Value {
    Value::U32(value.as_u64().unwrap_or(0) as u32)
}

/// As `TextModel.set_gguf_parameters`.
fn set_text(file: &mut GgufFile, text: &Json, taps: usize) {
    let experts = [&text["num_experts"], &text["num_local_experts"]];
    let experts = experts.into_iter().find(|value| value.is_u64());
    let name = match experts {
        None => "qwen3vl",
        Some(_) => "qwen3vlmoe",
    };
    let rope = match text["rope_scaling"].is_object() {
        true => &text["rope_scaling"],
        false => &text["rope_parameters"],
    };
    let theta = [&rope["rope_theta"], &text["rope_theta"]];
    let theta = theta.into_iter().find_map(Json::as_f64).unwrap_or(0.0);
    file.set("general.architecture", name);
    file.set("general.type", "model");
    let mut set = |key: &str, value: Value| file.set(&format!("{name}.{key}"), value);
    for (key, field) in [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
        ("attention.value_length", "head_dim"),
    ] {
        set(key, u32_of(&text[field]));
    }
    set("n_deepstack_layers", Value::U32(taps as u32));
    set("rope.freq_base", Value::F32(theta as f32));
    let epsilon = text["rms_norm_eps"].as_f64().unwrap_or(0.0) as f32;
    set("attention.layer_norm_rms_epsilon", Value::F32(epsilon));
    let sections = integers(&rope["mrope_section"]).into_iter().chain([0]);
    let sections = sections.map(|n| Value::I32(n as i32)).collect();
    set("rope.dimension_sections", Value::Array(5, sections));
    if let Some(experts) = experts {
        set("expert_count", u32_of(experts));
        set("expert_used_count", u32_of(&text["num_experts_per_tok"]));
        set(
            "expert_feed_forward_length",
            u32_of(&text["moe_intermediate_size"]),
        );
    }
}

/// As `Qwen3VLVisionModel.set_gguf_parameters`.
fn set_vision(file: &mut GgufFile, vision: &Json, taps: &[usize]) {
    file.set("general.architecture", "clip");
    file.set("general.type", "mmproj");
    file.set("clip.has_vision_encoder", Value::Bool(true));
    file.set("clip.projector_type", "qwen3vl_merger");
    file.set("clip.use_gelu", Value::Bool(true));
    let mut set = |key: &str, value: Value| file.set(&format!("clip.vision.{key}"), value);
    for (key, field) in [
        ("block_count", "depth"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_heads"),
        ("patch_size", "patch_size"),
        ("projection_dim", "out_hidden_size"),
        ("spatial_merge_size", "spatial_merge_size"),
    ] {
        set(key, u32_of(&vision[field]));
    }
    let number = |field: &str| vision[field].as_u64().unwrap_or(0);
    let side = number("num_position_embeddings").isqrt() * number("patch_size");
    set("image_size", Value::U32(side as u32));
    set("attention.layer_norm_epsilon", Value::F32(1e-6));
    let halves = Value::Array(6, vec![Value::F32(0.5); 3]);
    set("image_mean", halves.clone());
    set("image_std", halves);
    let tapped = (0..number("depth") as usize).map(|block| Value::Bool(taps.contains(&block)));
    set("is_deepstack_layers", Value::Array(7, tapped.collect()));
}
