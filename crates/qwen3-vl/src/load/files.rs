//! Reads a checkpoint's files, from a folder or from the program.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use qwen3_vl_core::load::{LoadError, Progress};

use super::{LoadOptions, ModelSource, invalid, look};
use crate::config::{
    ChatTemplateFiles, Config, GenerationConfig, ProcessorFiles, Processors, Quantization,
    chat_template,
};
use crate::file::{self, LFS_ADVICE, is_lfs_pointer};
use crate::folder;
use crate::quote::shortened;
use crate::tokenizer::{Tokenizer, TokenizerError};
use crate::weights::gguf::GgufModel;
use crate::weights::{self, QuantizeAtLoad, Target, Weights, WeightsError};

/// A checkpoint's files.
pub(super) enum Files {
    Folder(PathBuf),
    Embedded(&'static [(&'static str, &'static [u8])]),
    Gguf(Box<GgufModel>),
}

/// The parsed configuration files.
pub(super) struct Configs {
    pub(super) config: Config,
    pub(super) generation: GenerationConfig,
    pub(super) processors: Processors,
    /// The chat template, if the checkpoint has one.
    pub(super) chat_template: Option<String>,
}

/// Finds a model's name and files, and downloads them if they are at the hub.
pub(super) fn locate(
    options: &LoadOptions,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<(String, Files), LoadError> {
    let mmproj = options.mmproj.as_deref();
    match &options.source {
        ModelSource::Embedded { name, files } => {
            ensure_none(mmproj)?;
            Ok((name.clone(), Files::Embedded(files)))
        }
        ModelSource::Folder(path) => Ok((path.display().to_string(), local(path, options)?)),
        ModelSource::Hub { id, revision } => {
            ensure_none(mmproj)?;
            // An unsupported model is refused before its weights are downloaded.
            let checks = look::checks(id, options);
            let folder = crate::hub::fetch(id, revision.as_deref(), checks, progress, cancel)
                .map_err(|error| neither_id_nor_path(id, error))?;
            Ok((id.clone(), Files::Folder(folder)))
        }
        ModelSource::HubGguf { id, file, revision } => {
            ensure_not_rounded(options)?;
            let name = format!("{id}/{file}");
            let revision = revision.as_deref();
            let check = look::check_gguf(&name, options);
            let files = (file.as_str(), mmproj);
            let (text, vision) =
                crate::hub::fetch_gguf(id, files, revision, check, progress, cancel)
                    .map_err(|error| neither_id_nor_path(&name, error))?;
            Ok((name, Files::gguf(&text, Some(&vision))?))
        }
    }
}

/// The files at a path: a GGUF file, or a folder with one or with a checkpoint.
pub(super) fn local(path: &Path, options: &LoadOptions) -> Result<Files, LoadError> {
    let mmproj = options.mmproj.as_deref();
    if let Some(text) = folder::gguf(path)? {
        ensure_not_rounded(options)?;
        return Files::gguf(&text, mmproj);
    }
    folder::ensure_folder(path)?;
    ensure_none(mmproj)?;
    Ok(Files::Folder(path.into()))
}

fn ensure_none(mmproj: Option<&Path>) -> Result<(), LoadError> {
    match mmproj {
        None => Ok(()),
        Some(_) => Err(LoadError::Invalid(
            "mmproj names the vision tower of a GGUF file, and the model is none".into(),
        )),
    }
}

/// The weights of a GGUF file are in its own types already.
fn ensure_not_rounded(options: &LoadOptions) -> Result<(), LoadError> {
    match options.quantization {
        QuantizeAtLoad::None => Ok(()),
        asked => Err(LoadError::Invalid(format!(
            "quantization={} rounds the weights of safetensors: a GGUF file has its own types, so \
             leave it at none, and take a file in the type that you want",
            asked.as_str()
        ))),
    }
}

/// Adds to the error that the id may have been meant as a path.
fn neither_id_nor_path(id: &str, error: LoadError) -> LoadError {
    match error {
        LoadError::NotFound(text) => LoadError::NotFound(format!(
            "{text} (if a path was meant: there is no folder {} here)",
            shortened(id)
        )),
        other => other,
    }
}

impl Files {
    /// Whether [`QuantizeAtLoad`] is for them.
    pub(super) fn can_be_rounded(&self) -> bool {
        !matches!(self, Self::Gguf(_))
    }

    /// A language model in GGUF with the vision tower that is named or lies beside it.
    fn gguf(text: &Path, vision: Option<&Path>) -> Result<Self, LoadError> {
        let model = GgufModel::open(text, vision).map_err(invalid)?;
        Ok(Self::Gguf(Box::new(model)))
    }

    /// Reads the configuration files, `config.json` first, because it tells whether the model is
    /// supported.
    pub(super) fn configs(&self) -> Result<Configs, LoadError> {
        let mut config = match self {
            Self::Gguf(model) => Config::from_gguf(model).map_err(invalid)?,
            _ => Config::from_json(&self.read("config.json")?).map_err(invalid)?,
        };
        if config.quantization.is_none()
            && let Some(json) = self.find("quantize_config.json")?
        {
            let older = Quantization::from_quantize_config(&json).map_err(invalid)?;
            config.quantization = Some(older);
        }
        let generation = self.generation()?;
        let vocabulary = config.text_config.vocab_size;
        let beyond = |id: &&u32| **id as usize >= vocabulary;
        if let Some(id) = generation.eos_token_id.iter().find(beyond) {
            let place = match self {
                Self::Gguf(model) => format!("{}: tokenizer.ggml.", shortened(model.text().file())),
                _ => "generation_config.json: ".into(),
            };
            return Err(LoadError::Invalid(format!(
                "{place}eos_token_id {id} is beyond the vocabulary (vocab_size = {vocabulary})"
            )));
        }
        Ok(Configs {
            processors: self.processors(&config)?,
            chat_template: self.chat_template()?,
            config,
            generation,
        })
    }

    fn generation(&self) -> Result<GenerationConfig, LoadError> {
        if let Self::Gguf(model) = self {
            return GenerationConfig::from_gguf(model).map_err(invalid);
        }
        match self.find("generation_config.json")? {
            Some(json) => GenerationConfig::from_json(&json).map_err(invalid),
            None => Ok(GenerationConfig::default()),
        }
    }

    fn processors(&self, config: &Config) -> Result<Processors, LoadError> {
        if let Self::Gguf(model) = self {
            return Processors::from_gguf(model, &config.vision_config).map_err(invalid);
        }
        let processor = self.find("processor_config.json")?;
        let image = self.find("preprocessor_config.json")?;
        let video = self.find("video_preprocessor_config.json")?;
        let files = ProcessorFiles {
            processor: processor.as_deref(),
            image: image.as_deref(),
            video: video.as_deref(),
        };
        Processors::from_files(files, &config.vision_config).map_err(invalid)
    }

    fn chat_template(&self) -> Result<Option<String>, LoadError> {
        if let Self::Gguf(model) = self {
            let template = model.text().text("tokenizer.chat_template");
            return Ok(template.map_err(invalid)?.map(str::to_owned));
        }
        let processor = self.find("processor_config.json")?;
        let legacy = self.find("chat_template.json")?;
        let jinja = self.find("chat_template.jinja")?;
        let tokenizer = self.find("tokenizer_config.json")?;
        let files = ChatTemplateFiles {
            processor: processor.as_deref(),
            legacy: legacy.as_deref(),
            jinja: jinja.as_deref(),
            tokenizer: tokenizer.as_deref(),
        };
        chat_template(files).map_err(invalid)
    }

    /// The tokenizer.
    pub(super) fn tokenizer(&self) -> Result<Tokenizer, LoadError> {
        match self {
            Self::Gguf(model) => Tokenizer::from_gguf(model).map_err(invalid),
            _ => Tokenizer::from_json(&self.read("tokenizer.json")?).map_err(invalid),
        }
    }

    /// The error of its tokenizer.
    pub(super) fn unfit(&self, error: TokenizerError) -> LoadError {
        match self {
            Self::Gguf(model) => invalid(error.of_gguf(model.text())),
            _ => invalid(error),
        }
    }

    /// Checks that the large files exist, without reading them.
    pub(super) fn ensure_complete(&self) -> Result<(), LoadError> {
        let Self::Folder(folder) = self else {
            return Ok(());
        };
        ensure_file(folder, &folder.join("tokenizer.json"))?;
        let weights = weights::files(folder).map_err(invalid)?;
        weights
            .iter()
            .try_for_each(|path| ensure_file(folder, path))
    }

    /// Reads a file that every checkpoint has.
    fn read(&self, name: &str) -> Result<Vec<u8>, LoadError> {
        self.find(name)?.ok_or_else(|| match self {
            Self::Folder(folder) => folder::lacks(folder, name),
            _ => LoadError::Invalid(format!("the embedded model has no {name}")),
        })
    }

    fn find(&self, name: &str) -> Result<Option<Vec<u8>>, LoadError> {
        let folder = match self {
            Self::Embedded(files) => {
                let file = files.iter().find(|(file, _)| *file == name);
                return Ok(file.map(|(_, bytes)| bytes.to_vec()));
            }
            Self::Gguf(_) => return Ok(None),
            Self::Folder(folder) => folder,
        };
        let path = folder.join(name);
        let limit = match name {
            "tokenizer.json" => file::TOKENIZER_LIMIT,
            _ => file::CONFIG_LIMIT,
        };
        match file::read_bounded(&path, limit) {
            Ok(bytes) if is_lfs_pointer(&bytes) => Err(pointer(&path)),
            Ok(bytes) => Ok(Some(bytes)),
            // A dangling link is an error: the file was meant to exist.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_symlink() => Ok(None),
            Err(e) => Err(unreadable(&path, &e)),
        }
    }

    pub(super) fn weights(&self, target: Target) -> Result<Weights, LoadError> {
        let opened = match self {
            Self::Folder(folder) => Weights::open(folder, target),
            Self::Gguf(model) => Weights::gguf(model, target),
            Self::Embedded(files) => {
                let name = "model.safetensors";
                let (_, bytes) = files
                    .iter()
                    .find(|(file, _)| *file == name)
                    .ok_or_else(|| {
                        LoadError::Invalid(format!("the embedded model has no {name}"))
                    })?;
                Weights::embedded(bytes, target)
            }
        };
        opened.map_err(|error| match (self, &error) {
            (Self::Folder(folder), WeightsError::Io { path, source })
                if source.kind() == io::ErrorKind::NotFound =>
            {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                folder::lacks(folder, &name)
            }
            _ => invalid(error),
        })
    }
}

/// Checks that a file exists and is no Git LFS pointer.
fn ensure_file(folder: &Path, path: &Path) -> Result<(), LoadError> {
    let (file, length) = match file::open_regular(path) {
        Ok(opened) => opened,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Err(folder::lacks(folder, &name));
        }
        Err(e) => return Err(unreadable(path, &e)),
    };
    let mut start = Vec::new();
    let read = file.take(length.min(100)).read_to_end(&mut start);
    read.map_err(|e| unreadable(path, &e))?;
    match is_lfs_pointer(&start) {
        true => Err(pointer(path)),
        false => Ok(()),
    }
}

fn pointer(path: &Path) -> LoadError {
    LoadError::Invalid(format!("{}: {LFS_ADVICE}", shortened(path.display())))
}

fn unreadable(path: &Path, error: &io::Error) -> LoadError {
    let (path, remedy) = (shortened(path.display()), file::remedy(error));
    LoadError::Invalid(format!("{path}: {error}{remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_is_not_found_may_have_been_a_path() {
        let error = LoadError::NotFound("huggingface.co cannot be reached".into());
        let text = neither_id_nor_path("models/q", error).to_string();
        assert_eq!(
            text,
            "huggingface.co cannot be reached (if a path was meant: there is no folder models/q \
             here)"
        );
        let cancelled = neither_id_nor_path("models/q", LoadError::Cancelled);
        assert!(matches!(cancelled, LoadError::Cancelled));
    }
}
