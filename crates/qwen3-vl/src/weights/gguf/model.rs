//! The files of one model.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::find::{self, Split};
use super::{Gguf, GgufError, Metadata, TensorInfo};
use crate::quote::quoted;
use crate::weights::WeightsError;

/// Architectures of the language model.
const TEXT: [&str; 2] = ["qwen3vl", "qwen3vlmoe"];

/// A folder with more entries is not looked at further.
const MOST_ENTRIES: usize = 10_000;

/// A language model, which may lie in several files, and its vision tower.
#[derive(Debug)]
pub struct GgufModel {
    /// Has the metadata.
    first: Arc<Gguf>,
    /// The other parts of the language model.
    rest: Vec<Arc<Gguf>>,
    vision: Arc<Gguf>,
}

impl GgufModel {
    /// Opens the language model in a file, with all its parts, and its vision tower: `mmproj`, or
    /// what lies beside the file.
    ///
    /// # Errors
    ///
    /// Files that are missing, damaged or do not belong together; types that cannot be read.
    pub(crate) fn open(path: &Path, mmproj: Option<&Path>) -> Result<Self, WeightsError> {
        let name = file_name(path);
        if find::is_vision(&name) {
            let reason = "it is the vision tower alone: give the file of the language model";
            return Err(error(&name, reason).into());
        }
        let first = Gguf::open(path)?;
        // A later part does not say what it is of.
        let rest = other_parts(path, &first)?;
        architecture(&first, &TEXT)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let vision = match mmproj {
            Some(named) => beside(folder, named),
            None => {
                let names = names(folder);
                let found = find::vision(names.iter().map(String::as_str));
                folder.join(found.map_err(|reason| error(&name, reason))?)
            }
        };
        Ok(Self::new(first, rest, Gguf::open(&vision)?)?)
    }

    /// Joins files that have been opened: the first of the language model, its other parts, and the
    /// vision tower.
    ///
    /// # Errors
    ///
    /// If they are not of a Qwen3-VL.
    pub fn new(first: Gguf, rest: Vec<Gguf>, vision: Gguf) -> Result<Self, GgufError> {
        architecture(&first, &TEXT)?;
        architecture(&vision, &["clip"])?;
        Ok(Self {
            first: Arc::new(first),
            rest: rest.into_iter().map(Arc::new).collect(),
            vision: Arc::new(vision),
        })
    }

    /// What the language model's first file says.
    pub(crate) fn text(&self) -> &Metadata {
        self.first.metadata()
    }

    /// What the vision tower's file says.
    pub(crate) fn vision(&self) -> &Metadata {
        self.vision.metadata()
    }

    /// A tensor of the language model, by its own name.
    pub(crate) fn text_tensor(&self, name: &str) -> Option<&TensorInfo> {
        let mut files = [&self.first].into_iter().chain(&self.rest);
        files.find_map(|file| file.tensor(name))
    }

    /// A tensor of the vision tower, by its own name.
    pub(crate) fn vision_tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.vision.tensor(name)
    }

    /// All files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Arc<Gguf>> {
        let text = [&self.first].into_iter().chain(&self.rest);
        text.chain([&self.vision])
    }
}

/// The path of the one language model in a folder; none if there is none.
///
/// # Errors
///
/// If there are several.
pub(crate) fn in_folder(folder: &Path) -> Result<Option<PathBuf>, GgufError> {
    let names = names(folder);
    match find::text(names.iter().map(String::as_str)) {
        Ok(name) => Ok(name.map(|name| folder.join(name))),
        Err(reason) => Err(error(&folder.display().to_string(), reason)),
    }
}

/// A file by its path, or by its name beside the model.
fn beside(folder: &Path, named: &Path) -> PathBuf {
    let beside = folder.join(named);
    match !named.exists() && beside.exists() {
        true => beside,
        false => named.into(),
    }
}

/// The other parts of a model of which `first` was given.
fn other_parts(path: &Path, first: &Gguf) -> Result<Vec<Gguf>, WeightsError> {
    let count = split_key(first, "split.count")?.unwrap_or(1);
    if count <= 1 {
        return Ok(Vec::new());
    }
    let (name, wrong) = (file_name(path), |reason| first.metadata.error(reason));
    let Some(split) = Split::of(&name).filter(|split| u64::from(split.count) == count) else {
        let reason = format!("it is part of a model of {count} files, named as no part of it is");
        return Err(wrong(reason).into());
    };
    if split.no != 1 || split_key(first, "split.no")? != Some(0) {
        let reason = format!(
            "it is a later part of a model: give {}",
            quoted(&split.part(1))
        );
        return Err(wrong(reason).into());
    }
    let total = first.metadata.integer("split.tensors.count")?;
    let mut rest = Vec::new();
    for no in 2..=split.count {
        let part = Gguf::open(&path.with_file_name(split.part(no)))?;
        let says = (
            split_key(&part, "split.no")?,
            split_key(&part, "split.count")?,
        );
        if says != (Some(u64::from(no) - 1), Some(count)) {
            let reason = format!("it is not part {no} of {count} of {}", quoted(&name));
            return Err(part.metadata.error(reason).into());
        }
        rest.push(part);
    }
    let mut names = HashSet::new();
    for part in [first].into_iter().chain(&rest) {
        if let Some(twice) = part.tensors.keys().find(|name| !names.insert(*name)) {
            let reason = format!("another part has the tensor {} too", quoted(twice));
            return Err(part.metadata.error(reason).into());
        }
    }
    let found = names.len() as u64;
    match total.is_none_or(|total| total == found) {
        true => Ok(rest),
        false => {
            let total = total.unwrap_or(0);
            let reason = format!("its parts have {found} tensors together, not {total}");
            Err(error(&name, reason).into())
        }
    }
}

fn split_key(file: &Gguf, key: &str) -> Result<Option<u64>, GgufError> {
    file.metadata.integer(key)
}

/// That a file is of one of these architectures.
fn architecture(file: &Gguf, wanted: &[&str]) -> Result<(), GgufError> {
    let found = file.metadata.text("general.architecture")?;
    if found.is_some_and(|found| wanted.contains(&found)) {
        return Ok(());
    }
    let found = found.map_or("missing".into(), quoted);
    let reason = match wanted {
        ["clip"] => format!("general.architecture is {found}, not that of an mmproj (clip)"),
        _ => format!(
            "general.architecture is {found}: only Qwen3-VL is supported ({})",
            wanted.join(", ")
        ),
    };
    Err(file.metadata.error(reason))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    // The folder of a plain file name.
    let folder = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.take(MOST_ENTRIES).collect()
}

fn error(file: &str, reason: impl Into<String>) -> GgufError {
    GgufError {
        file: file.into(),
        reason: reason.into(),
    }
}
