//! From the name of a model to a running backend.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use candle_core::{DType, Device, DeviceLocation};

use crate::backend::local::LocalBackend;
use crate::backend::{Backend, Generation, ModelInfo};
use crate::config::{Config, GenerationConfig, PreprocessorConfig};
use crate::cpu::pool::{Flag, Pool};
use crate::engine::runner::{Runner, RunnerParts};
pub use crate::model::Quantization;
use crate::model::linear::Linear;
use crate::model::{Model, Target, Weights, quantized};
use crate::tokenizer::Tokenizer;

/// Where the checkpoint's files are.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// Files inside the program: name and content.
    Embedded {
        /// Name that answers carry.
        name: String,
        /// File name and bytes, as they would lie in a checkpoint folder.
        files: &'static [(&'static str, &'static [u8])],
    },
    /// A folder as Hugging Face lays it out.
    Folder(PathBuf),
    /// A hub id such as `Qwen/Qwen3-VL-4B-Instruct`.
    Hub {
        /// `owner/name`.
        id: String,
        /// Branch, tag or commit; `main` if none.
        revision: Option<String>,
    },
}

/// Which device computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DeviceChoice {
    /// The first CUDA device if this build and this machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by number.
    Cuda(usize),
}

/// How weights are kept and, on a GPU, what it computes in. The CPU always computes in f32. With a
/// [`Quantization`] this is the type of what that leaves alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DtypeChoice {
    /// CPU: as stored in the checkpoint (exact). CUDA: bf16.
    #[default]
    Auto,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
    /// Single precision.
    F32,
}

/// A name that is none of the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}: use {choices}")]
pub struct UnknownChoice {
    pub(crate) what: &'static str,
    pub(crate) name: String,
    pub(crate) choices: &'static str,
}

impl FromStr for DeviceChoice {
    type Err = UnknownChoice;

    /// `auto`, `cpu`, `cuda` (the first) or `cuda:N`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        let device = match name {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            _ => name
                .strip_prefix("cuda:")
                .and_then(|n| n.parse().ok())
                .map(Self::Cuda),
        };
        device.ok_or_else(|| UnknownChoice {
            what: "device",
            name: name.into(),
            choices: "auto, cpu, cuda or cuda:N",
        })
    }
}

impl DeviceChoice {
    /// The device.
    ///
    /// # Errors
    ///
    /// [`LoadError::Device`] if it is none that this build and machine have.
    pub fn open(self) -> Result<Device, LoadError> {
        Ok(match self {
            Self::Cpu => Device::Cpu,
            // Without a driver this is an error, which auto takes as "no GPU".
            Self::Auto if cfg!(feature = "cuda") => cuda(0).unwrap_or(Device::Cpu),
            Self::Auto => Device::Cpu,
            Self::Cuda(n) => cuda(n).map_err(|e| {
                LoadError::Device(format!(
                    "device cuda:{n} cannot be used ({}): use device=cpu, or a build with the cuda \
                     feature on a machine with an NVIDIA driver",
                    brief(&e)
                ))
            })?,
        })
    }

    /// What `Auto` stands for on this machine.
    #[must_use]
    pub fn resolved(self) -> Self {
        // Without a driver this is an error.
        static GPU: LazyLock<bool> = LazyLock::new(|| cfg!(feature = "cuda") && cuda(0).is_ok());
        match self {
            Self::Auto if *GPU => Self::Cuda(0),
            Self::Auto => Self::Cpu,
            chosen => chosen,
        }
    }
}

#[cfg(feature = "cuda")]
use crate::cuda::device::open as cuda;

#[cfg(not(feature = "cuda"))]
fn cuda(n: usize) -> candle_core::Result<Device> {
    // An error that says so.
    Device::new_cuda(n)
}

impl FromStr for DtypeChoice {
    type Err = UnknownChoice;

    /// `auto`, `bf16`, `f16` or `f32`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        match name {
            "auto" => Ok(Self::Auto),
            "bf16" => Ok(Self::Bf16),
            "f16" => Ok(Self::F16),
            "f32" => Ok(Self::F32),
            _ => Err(UnknownChoice {
                what: "dtype",
                name: name.into(),
                choices: "auto, bf16, f16 or f32",
            }),
        }
    }
}

impl DtypeChoice {
    /// What `Auto` stands for on this device, where the checkpoint has no say.
    #[must_use]
    pub fn on(self, device: DeviceChoice) -> Self {
        match (self, device) {
            (Self::Auto, DeviceChoice::Cuda(_)) => Self::Bf16,
            (dtype, _) => dtype,
        }
    }
}

/// What to load and how.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where the files are.
    pub source: ModelSource,
    /// Device.
    pub device: DeviceChoice,
    /// Type of the weights.
    pub dtype: DtypeChoice,
    /// What the linear layers of the language model are rounded to, whatever type they are stored in.
    pub quantization: Quantization,
    /// Bytes for the KV cache; none is half of the memory that is free when the model is loaded.
    pub kv_memory: Option<u64>,
}

/// How far loading has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for instance `downloading model.safetensors`.
    pub what: String,
    /// 0 to 100.
    pub percent: u32,
}

/// What [`load`] looks like.
pub type LoadFn = Arc<
    dyn Fn(
            &LoadOptions,
            &mut dyn FnMut(Progress),
            &AtomicBool,
        ) -> Result<Arc<dyn Backend>, LoadError>
        + Send
        + Sync,
>;

/// Why a model could not be loaded; the text says what to do.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LoadError {
    /// There is no such model.
    #[error("{0}")]
    NotFound(String),
    /// The files are there but cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The device is missing or too small.
    #[error("{0}")]
    Device(String),
    /// `cancel` was set.
    #[error("loading was cancelled")]
    Cancelled,
}

/// Loads a model for the caller alone. Blocks, for minutes when it downloads; returns soon after
/// `cancel` is set.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load(
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<Arc<dyn Backend>, LoadError> {
    let (name, runner) = load_runner(options, progress, cancel)?;
    let info = model_info(name, options, &runner)?;
    let backend = LocalBackend::start(info, runner)
        .map_err(|e| LoadError::Device(format!("no thread for the engine: {e}")))?;
    Ok(Arc::new(backend))
}

/// Loads a model without starting an engine, for checks and benchmarks. Returns its name too.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load_runner(
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<(String, Runner), LoadError> {
    let (name, files) = locate(&options.source, progress, cancel)?;
    let target = target(options)?;
    let cancelled = || match cancel.load(Ordering::Relaxed) {
        true => Err(LoadError::Cancelled),
        false => Ok(()),
    };
    cancelled()?;
    progress(Progress {
        what: "reading the checkpoint".into(),
        percent: 0,
    });
    let config = Config::from_json(&files.read("config.json")?).map_err(invalid)?;
    let tokenizer = Tokenizer::from_json(&files.read("tokenizer.json")?).map_err(invalid)?;
    let generation = files.generation()?;
    let video = files.preprocessor("video_preprocessor_config.json")?;
    let image = files.preprocessor("preprocessor_config.json")?;
    cancelled()?;
    progress(Progress {
        what: "loading weights".into(),
        percent: 10,
    });
    let eyes = eyes(&target.device)?;
    let mut weights = files.weights(target)?;
    let pool = Pool::new(&Flag::default());
    let model = pool.install(|| Model::load(config, &mut weights, eyes));
    drop(pool);
    let model = model.map_err(invalid)?;
    cancelled()?;
    progress(Progress {
        what: "ready".into(),
        percent: 100,
    });
    let bytes = options
        .kv_memory
        .or_else(|| Some(free_memory(model.kv.device())? / 2))
        .unwrap_or(u64::MAX);
    let kv_blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / model.kv.block_bytes().max(1);
    let mut stop = generation.eos_token_id.to_vec();
    if stop.is_empty() {
        stop = tokenizer.default_stop_tokens();
    }
    let parts = RunnerParts {
        model,
        tokenizer,
        stop,
        generation,
        video,
        image,
        kv_blocks,
    };
    Ok((name, Runner::new(parts)))
}

/// Bytes that are free where the cache will be; none if nobody says.
pub(crate) fn free_memory(device: &Device) -> Option<u64> {
    match device {
        Device::Cpu => free_system_memory(),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => u64::try_from(crate::cuda::device::free_memory(device).ok()?).ok(),
        _ => None,
    }
}

fn free_system_memory() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The first line of an error of candle's, which may carry a backtrace.
pub(crate) fn brief(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().into()
}

fn invalid(error: impl std::fmt::Display) -> LoadError {
    LoadError::Invalid(error.to_string())
}

/// A checkpoint's files, wherever they are.
enum Files {
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
}

fn locate(
    source: &ModelSource,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<(String, Files), LoadError> {
    match source {
        ModelSource::Embedded { name, files } => Ok((name.clone(), Files::Embedded(files))),
        ModelSource::Folder(folder) if folder.is_dir() => {
            Ok((folder.display().to_string(), Files::Folder(folder.clone())))
        }
        ModelSource::Folder(folder) => Err(LoadError::NotFound(format!(
            "there is no folder {}: give demo, a checkpoint's folder or a hub id such as \
             Qwen/Qwen3-VL-4B-Instruct",
            folder.display()
        ))),
        ModelSource::Hub { id, revision } => {
            let folder = crate::hub::fetch(id, revision.as_deref(), progress, cancel)?;
            Ok((id.clone(), Files::Folder(folder)))
        }
    }
}

impl Files {
    fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        self.find(name)?.ok_or_else(|| {
            LoadError::Invalid(match self {
                Self::Folder(folder) => format!(
                    "{} has no {name}: it is not a checkpoint as Hugging Face lays it out",
                    folder.display()
                ),
                Self::Embedded(_) => format!("the embedded model has no {name}"),
            })
        })
    }

    fn find(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        match self {
            Self::Embedded(files) => Ok(files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| bytes.to_vec())),
            Self::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(LoadError::Invalid(format!(
                    "{}: {e}",
                    folder.join(name).display()
                ))),
            },
        }
    }

    fn generation(&self) -> Result<GenerationConfig, LoadError> {
        match self.find("generation_config.json")? {
            Some(json) => GenerationConfig::from_json(&json).map_err(invalid),
            None => Ok(GenerationConfig::default()),
        }
    }

    fn preprocessor(&self, name: &'static str) -> Result<PreprocessorConfig, LoadError> {
        PreprocessorConfig::from_json(name, &self.read(name)?).map_err(invalid)
    }

    fn weights(&self, target: Target) -> Result<Weights, LoadError> {
        match self {
            Self::Folder(folder) => Weights::open(folder, target).map_err(invalid),
            Self::Embedded(files) => {
                let name = "model.safetensors";
                let (_, bytes) = files
                    .iter()
                    .find(|(file, _)| *file == name)
                    .ok_or_else(|| {
                        LoadError::Invalid(format!("the embedded model has no {name}"))
                    })?;
                Weights::embedded(bytes, target).map_err(invalid)
            }
        }
    }
}

/// Where the vision tower goes.
fn eyes(device: &Device) -> Result<Device, LoadError> {
    match device.location() {
        DeviceLocation::Cuda { gpu_id } => DeviceChoice::Cuda(gpu_id).open(),
        _ => Ok(device.clone()),
    }
}

fn target(options: &LoadOptions) -> Result<Target, LoadError> {
    let device = options.device.open()?;
    let store = match options.dtype {
        DtypeChoice::Auto => None,
        DtypeChoice::Bf16 => Some(DType::BF16),
        DtypeChoice::F16 => Some(DType::F16),
        DtypeChoice::F32 => Some(DType::F32),
    };
    Ok(match device {
        Device::Cpu => Target {
            device,
            compute: DType::F32,
            store,
            quantization: options.quantization,
        },
        _ => {
            let compute = store.unwrap_or(DType::BF16);
            Target {
                device,
                compute,
                store: Some(compute),
                quantization: options.quantization,
            }
        }
    })
}

fn model_info(
    name: String,
    options: &LoadOptions,
    runner: &Runner,
) -> Result<ModelInfo, LoadError> {
    let vision = &runner.parts.model.config.vision_config;
    let range = |c: &PreprocessorConfig| (c.size.shortest_edge, c.size.longest_edge);
    let device = match (runner.parts.model.kv.device(), options.device) {
        (Device::Cpu, _) => "cpu".into(),
        (_, DeviceChoice::Cuda(n)) => format!("cuda:{n}"),
        _ => "cuda:0".into(),
    };
    let layers: Vec<_> = runner
        .parts
        .model
        .text
        .linears()
        .map(Linear::format)
        .collect();
    Ok(ModelInfo {
        name,
        backend: "local",
        device,
        quantization: quantized::summary(options.quantization, &layers),
        factor: u32::try_from(vision.patch_size * vision.spatial_merge_size).map_err(invalid)?,
        temporal_patch: vision.temporal_patch_size as u32,
        video_pixels: range(&runner.parts.video),
        image_pixels: range(&runner.parts.image),
        generation: generation_defaults(&runner.parts.generation),
        time_tokens: runner.time_tokens().map_err(invalid)?,
        limits: *runner.limits(),
    })
}

/// The checkpoint's way of decoding; what it does not say is as on the model card of the Instruct
/// models (temperature 0.7, top-p 0.8, top-k 20, presence penalty 1.5).
fn generation_defaults(config: &GenerationConfig) -> Generation {
    if config.do_sample == Some(false) {
        return Generation {
            repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
            ..Generation::default()
        };
    }
    Generation {
        temperature: config.temperature.unwrap_or(0.7),
        top_p: config.top_p.unwrap_or(0.8),
        top_k: config.top_k.unwrap_or(20),
        presence_penalty: config.presence_penalty.unwrap_or(1.5),
        repetition_penalty: config.repetition_penalty.unwrap_or(1.0),
    }
}
