//! Loads changed folders, and says what is wrong with what comes of it.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use qwen3_vl::device::{DeviceChoice, DtypeChoice};
use qwen3_vl::load::{self, LoadOptions, ModelSource};
use qwen3_vl::weights::QuantizeAtLoad;
use qwen3_vl_core::load::LoadError;

use crate::allocator;
use crate::ask;
use crate::folder::Folder;
use crate::panics;

/// Bytes beside twice those of a folder: threads, the KV cache of a window, parsed JSON and what
/// an answer needs.
const BESIDE: usize = 32 << 20;

/// Longest text of an error.
const LONGEST: usize = 3000;

/// Where the files are when they are loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Disk,
    /// In the program.
    Program,
}

/// Cases that are made of one folder.
pub struct Cases {
    base: Folder,
    /// Tensors and keys of its files.
    names: Vec<String>,
    place: Place,
    count: usize,
    answered: usize,
    wrong: Vec<String>,
    slowest: (Duration, String),
    largest: (usize, String),
}

impl Cases {
    /// `names` are those of tensors and keys in the files of `base`, which must work as it is.
    pub fn new(base: Folder, mut names: Vec<String>, place: Place) -> Self {
        names.extend(base.names().map(str::to_owned));
        if place == Place::Program {
            names.push("the embedded model".into());
        }
        let mut cases = Self {
            base,
            names,
            place,
            count: 0,
            answered: 0,
            wrong: Vec::new(),
            slowest: Default::default(),
            largest: Default::default(),
        };
        cases.add("nothing", |_| ());
        assert_eq!(cases.answered, 1, "{:?}", cases.wrong);
        cases
    }

    pub fn base(&self) -> &Folder {
        &self.base
    }

    /// Tries the folder with another content of a file.
    pub fn put(&mut self, what: impl Into<String>, name: &str, bytes: Vec<u8>) {
        self.add(what, |folder| folder.put(name, bytes));
    }

    /// Tries the folder with a change.
    pub fn add(&mut self, what: impl Into<String>, change: impl FnOnce(&mut Folder)) {
        let what = what.into();
        let mut folder = self.base.clone();
        change(&mut folder);
        let panics = panics::count();
        let start = Instant::now();
        let (answered, largest) = allocator::peak(|| self.judge(&folder));
        let took = start.elapsed();
        self.count += 1;
        let mut wrong = |reason: String| self.wrong.push(format!("{what}: {reason}"));
        match answered {
            Ok(answered) => self.answered += usize::from(answered),
            Err(reason) => wrong(reason),
        }
        if panics::count() != panics {
            wrong(format!("it panicked: {}", panics::last()));
        }
        let limit = 2 * folder.size() + BESIDE;
        if largest > limit {
            wrong(format!("{largest} bytes of memory, more than {limit}"));
        }
        if took > self.slowest.0 {
            self.slowest = (took, what.clone());
        }
        let beyond = largest.saturating_sub(2 * folder.size());
        if beyond > self.largest.0 {
            self.largest = (beyond, what);
        }
    }

    /// Whether a model was loaded and answered. An error says what is wrong.
    fn judge(&self, folder: &Folder) -> Result<bool, String> {
        let written = folder.write();
        let source = match self.place {
            Place::Disk => ModelSource::Folder(written.path().into()),
            Place::Program => ModelSource::Embedded {
                name: "embedded".into(),
                files: folder.leaked(),
            },
        };
        let options = LoadOptions {
            source,
            mmproj: None,
            device: DeviceChoice::Cpu,
            dtype: DtypeChoice::Auto,
            quantization: QuantizeAtLoad::None,
            compute: None,
            kv_memory: Some(qwen3_vl_core::KvMemory::Bytes(4 << 20)),
        };
        let checked = load::check(&options);
        let loaded = load::load(&options, &mut |_| (), &AtomicBool::new(false));
        match (checked, loaded) {
            (Err(error), Ok(_)) => Err(format!("check refuses what is loaded: {error}")),
            (Err(error), Err(other)) => {
                self.clear(folder, &error)?;
                self.clear(folder, &other)?;
                Ok(false)
            }
            (Ok(()), Err(error)) => self.clear(folder, &error).map(|()| false),
            (Ok(()), Ok(backend)) => {
                let (request, events) = ask::ask(
                    &*backend,
                    ask::pairs(1, ask::SMALL, 0),
                    ask::question(0.0, 2),
                );
                // One terminal event, which may be a failure.
                ask::end(&events);
                drop(request);
                Ok(true)
            }
        }
    }

    /// That an error is one line that names a file, a tensor or a field.
    fn clear(&self, folder: &Folder, error: &LoadError) -> Result<(), String> {
        let text = error.to_string();
        let named = self.names.iter().map(String::as_str).chain(folder.names());
        let mut named = named.filter(|name| !name.is_empty());
        let layer = |name: &str| name.rsplit_once('.').map(|(layer, _)| layer.to_owned());
        let is_named = named.any(|name| {
            text.contains(name)
                || layer(name).is_some_and(|layer| layer.contains('.') && text.contains(&layer))
        });
        let wrong = match text.as_str() {
            "" => "an empty error",
            _ if text.chars().any(char::is_control) => "an error of several lines",
            _ if text.len() > LONGEST => "a long error",
            _ if !is_named => "an error that names nothing",
            _ => return Ok(()),
        };
        Err(format!("{wrong}: {text:?}"))
    }

    /// Fails if anything was wrong.
    #[allow(clippy::print_stdout)]
    pub fn end(self) {
        println!(
            "{} cases, {} of them answered; at most {} bytes beside twice the files ({}); at most \
             {:?} ({})",
            self.count,
            self.answered,
            self.largest.0,
            self.largest.1,
            self.slowest.0,
            self.slowest.1
        );
        let count = self.wrong.len();
        assert!(
            self.wrong.is_empty(),
            "{count} of {}:\n{}",
            self.count,
            self.wrong.join("\n")
        );
    }
}
