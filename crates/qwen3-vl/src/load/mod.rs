//! Loads a model by its name and starts a backend.

mod estimate;
mod files;
mod fit;
mod info;
mod look;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod lost_device;
mod quantised;
mod target;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::compute::Compute;
use crate::config::GenerationConfig;
use crate::cpu::bf16::Bf16Isa;
use crate::cpu::pool::{Flag, Pool};
use crate::cuda;
use crate::device::{DeviceChoice, DtypeChoice, free_memory};
use crate::engine::runner::{Runner, RunnerParts};
use crate::local::LocalBackend;
use crate::model::Model;
use crate::quote::shortened;
use crate::tokenizer::Tokenizer;
use crate::weights::QuantizeAtLoad;
use qwen3_vl_core::KvMemory;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::load::{LoadError, Progress};
use qwen3_vl_core::prompt::Special;

/// The source of a checkpoint's files.
#[derive(Clone, Debug)]
pub enum ModelSource {
    /// Files inside the program: name and content.
    Embedded {
        /// Model name in answers.
        name: String,
        /// Names and bytes of the files of a checkpoint folder.
        files: &'static [(&'static str, &'static [u8])],
    },
    /// A checkpoint folder in Hugging Face's layout, a GGUF file of a language model (the first one
    /// if it is split), or a folder with one.
    Folder(PathBuf),
    /// A hub id such as `Qwen/Qwen3-VL-4B-Instruct`.
    Hub {
        /// `owner/name`.
        id: String,
        /// Branch, tag or commit; `main` if none.
        revision: Option<String>,
    },
    /// A GGUF file on the hub.
    HubGguf {
        /// `owner/name`.
        id: String,
        /// The file's path in the repository.
        file: String,
        /// Branch, tag or commit; `main` if none.
        revision: Option<String>,
    },
}

/// The model to load, and how.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Source of the files.
    pub source: ModelSource,
    /// The vision tower of a GGUF file: a path, or the name of a file beside the model. None is the
    /// `mmproj*.gguf` that lies there.
    pub mmproj: Option<PathBuf>,
    /// Device.
    pub device: DeviceChoice,
    /// Type of the weights.
    pub dtype: DtypeChoice,
    /// The format to which the language model's linear layers are quantized, whatever type they are
    /// stored in.
    pub quantization: QuantizeAtLoad,
    /// Arithmetic of products on the CPU; none is fast for weights that are quantised, in the
    /// checkpoint or at load, and exact for others. On a GPU it changes nothing.
    pub compute: Option<Compute>,
    /// Memory for the KV cache; by default half of what is free when the weights are loaded.
    pub kv_memory: Option<KvMemory>,
}

/// Checks quickly, without loading and without a network, whether a load can succeed: the folder
/// exists, its model is supported, and all files are there. A hub id is not checked.
///
/// # Errors
///
/// As [`load`].
pub fn check(options: &LoadOptions) -> Result<(), LoadError> {
    let ModelSource::Folder(path) = &options.source else {
        return Ok(());
    };
    let files = files::local(path, options)?;
    quantised::ensure_applies(&files.configs()?.config, options)?;
    files.ensure_complete()
}

/// Checks whether a model with this `config.json` is supported.
///
/// # Errors
///
/// [`LoadError::Invalid`] if it is not; the text names what is not supported.
pub fn check_config(json: &[u8]) -> Result<(), LoadError> {
    crate::config::Config::from_json(json)
        .map(drop)
        .map_err(invalid)
}

/// Loads a model that is not shared with other callers. Blocks, for minutes if it downloads;
/// returns soon after `cancel` is set.
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
    let info = info::model_info(name, options, &runner)?;
    let backend = LocalBackend::start(info, runner)
        .map_err(|e| LoadError::Unavailable(format!("no thread for the engine: {e}")))?;
    Ok(Arc::new(backend))
}

/// Loads a model without starting an engine, for checks and benchmarks. Returns the model's name
/// and a runner.
///
/// # Errors
///
/// See [`LoadError`].
pub fn load_runner(
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<(String, Runner), LoadError> {
    let (name, files) = files::locate(options, progress, cancel)?;
    let target = target::target(options)?;
    let cancelled = || match cancel.load(Ordering::Relaxed) {
        true => Err(LoadError::Cancelled),
        false => Ok(()),
    };
    cancelled()?;
    progress(Progress {
        what: "reading the checkpoint".into(),
        percent: 0,
    });
    let configs = files.configs()?;
    quantised::ensure_applies(&configs.config, options)?;
    let tokenizer = files.tokenizer()?;
    let tokenizer = match &configs.chat_template {
        Some(template) => tokenizer.with_template(template),
        None => Ok(tokenizer),
    };
    let tokenizer = tokenizer.map_err(|error| files.unfit(error))?;
    let fits = tokenizer.check(&configs.config);
    fits.map_err(|error| files.unfit(error))?;
    let others = &configs.generation.not_applied;
    if !others.is_empty() {
        progress(Progress {
            what: format!(
                "generation_config.json sets {}, which is not applied: transformers may answer \
                 otherwise",
                others.join(", ")
            ),
            percent: 0,
        });
    }
    cancelled()?;
    let vision_device = DeviceChoice::beside(&target.device)?;
    let mut weights = files.weights(target)?;
    weights.set_quantization(configs.config.quantization.clone());
    estimate::ensure_fits(&name, &files, &configs.config, &weights, options)?;
    let smallest = estimate::smallest_kv_cache(&configs.config, weights.dtype());
    let (watch, size) = (weights.watch(), weights.size());
    let pool = Pool::new(&Flag::default());
    let load = || pool.install(|| Model::load(configs.config, &mut weights, vision_device));
    let model = watch
        .run(size, load, progress, cancel)
        .map_err(|e| LoadError::Unavailable(format!("no thread to load the weights: {e}")))?;
    drop(pool);
    cancelled()?;
    let mut model = model.map_err(invalid)?;
    if let Some(platform) = cuda::platform(&model.text, &model.vision) {
        model.run_on(platform);
    }
    if model.text.own_head {
        let what = "config.json ties lm_head to the embeddings, but the file has another one: that \
                    is used, as transformers does";
        progress(Progress {
            what: what.into(),
            percent: 99,
        });
    }
    if options.compute == Some(Compute::Fast)
        && model.kv.device().is_cpu()
        && Bf16Isa::of_this_cpu().is_none()
    {
        let what = "compute=fast: this CPU has no bf16 products (AVX512-BF16), so weights that are \
                    not quantised are multiplied in f32";
        progress(Progress {
            what: what.into(),
            percent: 99,
        });
    }
    cancelled()?;
    let bytes = match options.kv_memory.unwrap_or_default() {
        KvMemory::Bytes(bytes) => bytes,
        share => free_memory(model.kv.device()).map_or(u64::MAX, |free| {
            // A small share leaves enough for a window, if that is free.
            share.of(free).max(smallest.min(free))
        }),
    };
    let kv_blocks = usize::try_from(bytes).unwrap_or(usize::MAX) / model.kv.block_bytes().max(1);
    let parts = RunnerParts {
        model,
        stop: stop_tokens(&configs.generation, &tokenizer),
        tokenizer: Arc::new(tokenizer),
        generation: configs.generation,
        video: configs.processors.video,
        image: configs.processors.image,
        kv_blocks,
    };
    let mut runner = Runner::new(parts);
    let notices = runner.warm_up();
    for what in notices.map_err(|e| LoadError::Unavailable(shortened(e)))? {
        progress(Progress { what, percent: 99 });
    }
    if let Some(left) = weights.left_out() {
        progress(Progress {
            what: format!("tensors that the model has no place for are left out: {left}"),
            percent: 99,
        });
    }
    cancelled()?;
    progress(Progress {
        what: "ready".into(),
        percent: 100,
    });
    Ok((name, runner))
}

/// Ids that end an answer: those of the checkpoint and, because the prompt has turns, always the
/// end of a turn.
fn stop_tokens(generation: &GenerationConfig, tokenizer: &Tokenizer) -> Vec<u32> {
    let mut stop = generation.eos_token_id.clone();
    if stop.is_empty() {
        return tokenizer.default_stop_tokens();
    }
    let end = tokenizer.special(Special::ImEnd);
    if !stop.contains(&end) {
        stop.push(end);
    }
    stop
}

fn invalid(error: impl std::fmt::Display) -> LoadError {
    LoadError::Invalid(shortened(error))
}
