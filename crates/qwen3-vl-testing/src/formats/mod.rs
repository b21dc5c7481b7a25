//! Small checkpoints of every weight format with weights by formula, which Rust packs from the
//! formats' definitions. `tools/reference/make_formats.py` has public tools make the same files.

mod config;
mod fill;
mod gguf;
mod pack;
mod real;
mod save;

use std::path::Path;
use std::{fs, io};

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::checkpoint::{Dimensions, Experts, SMALL, Vision, config_v4, merged, write_configs};
use crate::gguf::GgufFile;
use crate::weights::hash_fill;
use crate::{tokenizer_dir, tokens};
use config::{dtype_name, quantization_config};
use fill::Matrix;
use pack::{Method, encoded};
pub use real::write_real_format;
use save::{Stored, fused, save, save_scales_apart};

/// A checkpoint in one of the formats, with the official vocabulary.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// Name as in the golden files.
    pub name: &'static str,
    seed: u64,
    method: Method,
    /// Type of what is not quantised.
    dtype: Dtype,
    /// Width of the MLP, or of each expert.
    intermediate: usize,
    experts: bool,
    tied: bool,
    /// All experts in one tensor, transposed.
    fused: bool,
    /// Scales in a file of their own.
    scales_apart: bool,
}

const BASE: Format = Format {
    name: "",
    seed: 0,
    method: Method::Gguf,
    dtype: Dtype::BF16,
    intermediate: 384,
    experts: false,
    tied: false,
    fused: false,
    scales_apart: false,
};

const FLOAT8: Method = Method::Float8 {
    block: true,
    scale: "weight_scale_inv",
    dtype: Dtype::BF16,
};

const fn gptq(
    bits: u32,
    group: Option<usize>,
    symmetric: bool,
    by_activation: bool,
    version: u32,
) -> Method {
    Method::Gptq {
        bits,
        group,
        symmetric,
        by_activation,
        version,
    }
}

const fn packed(bits: u32, group: Option<usize>, symmetric: bool) -> Method {
    Method::Packed {
        bits,
        group,
        symmetric,
    }
}

const fn of(name: &'static str, seed: u64, method: Method) -> Format {
    let dtype = match method {
        Method::Awq | Method::Gptq { .. } => Dtype::F16,
        _ => Dtype::BF16,
    };
    Format {
        name,
        seed,
        method,
        dtype,
        ..BASE
    }
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 19] = [
        // Blocks of 128 do not divide 320, nor the 64 rows of keys and values.
        Self {
            intermediate: 320,
            scales_apart: true,
            ..of("fp8-block", 101, FLOAT8)
        },
        Self {
            intermediate: 320,
            tied: true,
            ..of(
                "fp8-block-f32",
                102,
                Method::Float8 {
                    block: true,
                    scale: "weight_scale_inv",
                    dtype: Dtype::F32,
                },
            )
        },
        of(
            "fp8-channel",
            153,
            Method::Float8 {
                block: false,
                scale: "weight_scale",
                dtype: Dtype::BF16,
            },
        ),
        Self {
            experts: true,
            fused: true,
            ..of("fp8-moe-fused", 104, FLOAT8)
        },
        Self {
            intermediate: 192,
            experts: true,
            ..of("fp8-moe-experts", 155, FLOAT8)
        },
        of("awq", 111, Method::Awq),
        Self {
            experts: true,
            ..of("awq-moe", 112, Method::Awq)
        },
        of("gptq", 121, gptq(4, Some(128), true, false, 1)),
        of("gptq-desc-act", 122, gptq(4, Some(128), false, true, 1)),
        of("gptq-v2", 123, gptq(4, Some(64), false, false, 2)),
        of("gptq-8bit", 124, gptq(8, Some(128), true, false, 1)),
        Self {
            tied: true,
            ..of("gptq-column", 125, gptq(4, None, true, false, 1))
        },
        of("ct", 131, packed(4, Some(128), true)),
        Self {
            intermediate: 320,
            ..of("ct-asym", 132, packed(4, Some(32), false))
        },
        of("ct-channel", 133, packed(4, None, true)),
        of("ct-8bit", 154, packed(8, Some(128), true)),
        Self {
            intermediate: 160,
            experts: true,
            ..of("ct-moe", 135, packed(4, Some(32), true))
        },
        Self {
            intermediate: 320,
            tied: true,
            ..of("gguf", 141, Method::Gguf)
        },
        Self {
            intermediate: 512,
            experts: true,
            ..of("gguf-moe", 142, Method::Gguf)
        },
    ];

    /// The one of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        const { &Self::ALL }
            .iter()
            .find(|format| format.name == name)
    }

    /// Whether its files are GGUF, which holds the tokenizer too.
    pub fn is_gguf(&self) -> bool {
        self.method == Method::Gguf
    }

    /// Writes its files into the folder `dir`, which is created. Of GGUF that is all; the others
    /// lack the tokenizer, see [`super::write_tokenizer`].
    ///
    /// # Errors
    ///
    /// Those of writing, and for GGUF those of [`super::tokenizer_dir`].
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let dimensions = self.dimensions();
        if self.is_gguf() {
            let tokenizer = fs::read(tokenizer_dir()?.join("tokenizer.json"))?;
            fs::create_dir_all(dir)?;
            for (name, file) in gguf::files(&dimensions, self.seed, &tokenizer)? {
                fs::write(dir.join(name), file.bytes())?;
            }
            return Ok(());
        }
        self.write_safetensors(dir, &dimensions)
    }

    /// [`Format::write`] with the tokenizer, and so the few tokens, of the checkpoint in the folder
    /// `other`. Not for GGUF: see [`Format::gguf_like`].
    ///
    /// # Errors
    ///
    /// Those of reading and writing.
    pub fn write_like(&self, dir: &Path, other: &Path) -> io::Result<()> {
        self.write_safetensors(dir, &self.dimensions_like(other)?)?;
        tokens::adopt(dir, other)
    }

    /// The files of a checkpoint in GGUF by their names, with the tokenizer of the one in the folder
    /// `other`.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn gguf_like(&self, other: &Path) -> io::Result<Vec<(String, GgufFile)>> {
        let tokenizer = fs::read(other.join("tokenizer.json"))?;
        gguf::files(&self.dimensions_like(other)?, self.seed, &tokenizer)
    }

    fn dimensions_like(&self, other: &Path) -> io::Result<Dimensions> {
        Ok(Dimensions {
            vocabulary: tokens::count(other)?,
            ..self.dimensions()
        })
    }

    fn write_safetensors(&self, dir: &Path, dimensions: &Dimensions) -> io::Result<()> {
        self.write_configs(dir, dimensions)?;
        let tensors = self.tensors(dimensions);
        match self.scales_apart {
            true => save_scales_apart(dir, tensors),
            false => save(&dir.join("model.safetensors"), &tensors),
        }
    }

    fn write_configs(&self, dir: &Path, dimensions: &Dimensions) -> io::Result<()> {
        let mut layers = dimensions.tensors();
        layers.retain(|(name, shape)| {
            shape.len() == 2 && !name.contains("embed") && !is_quantised(name)
        });
        let mut ignored: Vec<String> = layers.iter().map(|(name, _)| module(name)).collect();
        ignored.sort_unstable();
        write_configs(dir, dimensions, dtype_name(self.dtype))?;
        let quantised = json!({"quantization_config": quantization_config(self.method, &ignored)});
        let plain = config_v4(dimensions, dtype_name(self.dtype));
        let config: Value = merged(&[&plain, &quantised]);
        fs::write(dir.join("config.json"), serde_json::to_vec_pretty(&config)?)
    }

    fn dimensions(&self) -> Dimensions {
        Dimensions {
            hidden: 256,
            layers: 2,
            heads: 8,
            intermediate: self.intermediate,
            tied: self.tied,
            experts: self.experts.then_some(Experts {
                count: 4,
                active: 2,
                intermediate: self.intermediate,
            }),
            vision: Vision {
                depth: 3,
                taps: &[0, 2],
                ..SMALL.vision
            },
            ..SMALL
        }
    }

    fn tensors(&self, dimensions: &Dimensions) -> Vec<Stored> {
        let mut tensors = Vec::new();
        for (name, shape) in dimensions.tensors() {
            if is_quantised(&name) {
                tensors.extend(self.quantised(&name, &shape));
            } else {
                let values = hash_fill(&name, &shape, self.seed);
                tensors.push(Stored {
                    bytes: encoded(values, self.dtype),
                    name,
                    dtype: self.dtype,
                    shape,
                });
            }
        }
        tensors
    }

    /// What becomes of one of the language model's matrices, or of a stack of experts.
    fn quantised(&self, name: &str, shape: &[usize]) -> Vec<Stored> {
        let [experts, columns, rows] = *shape else {
            let module = module(name);
            let parts = self.matrix(&module, shape[0], shape[1]);
            return named(module, parts).collect();
        };
        let (layer, kind) = name.rsplit_once('.').unwrap_or_default();
        let kinds: &[&str] = match kind {
            "gate_up_proj" => &["gate_proj", "up_proj"],
            _ => &["down_proj"],
        };
        let each = (0..experts).flat_map(|e| kinds.iter().map(move |kind| (e, kind)));
        let each = each.map(|(e, kind)| format!("{layer}.{e}.{kind}"));
        let packed = each.map(|module| {
            let parts = self.matrix(&module, rows / kinds.len(), columns);
            (module, parts)
        });
        match self.fused {
            true => fused(name, kinds.len(), packed),
            false => packed
                .flat_map(|(module, parts)| named(module, parts))
                .collect(),
        }
    }

    fn matrix(&self, module: &str, rows: usize, columns: usize) -> Vec<pack::Part> {
        self.method.pack(&Matrix {
            module,
            rows,
            columns,
            seed: self.seed,
        })
    }
}

fn named(module: String, parts: Vec<pack::Part>) -> impl Iterator<Item = Stored> {
    parts.into_iter().map(move |part| Stored {
        name: format!("{module}.{}", part.name),
        dtype: part.dtype,
        shape: part.shape,
        bytes: part.bytes,
    })
}

fn module(name: &str) -> String {
    name.strip_suffix(".weight").unwrap_or(name).into()
}

/// Whether a tensor is one of the language model's linear layers or of its experts'.
fn is_quantised(name: &str) -> bool {
    name.contains(".language_model.") && (name.contains("_proj.") || name.contains(".experts."))
}
