//! What a caller looks at before large files come.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::CheckConfig;
use super::cache::Commit;
use super::download::{Download, Remote};
use super::remote::RemoteFile;
use crate::weights::{Source, WeightFile};
use qwen3_vl_core::load::LoadError;

/// Looks at weights by their headers. The folder has the small files; of the weights, any piece can
/// be read.
pub(crate) type CheckWeights =
    Arc<dyn Fn(&Path, Vec<WeightFile>) -> Result<(), LoadError> + Send + Sync>;

/// Checks of a model before its large files come: an error of one ends the download.
#[derive(Clone)]
pub struct Checks {
    /// Of `config.json`, before all other files.
    pub(super) config: CheckConfig,
    /// Of all small files and the headers of the weights; of GGUF files, first the vision tower.
    pub(super) weights: CheckWeights,
}

impl Checks {
    pub(crate) fn new(config: CheckConfig, weights: CheckWeights) -> Self {
        Self { config, weights }
    }

    /// Of `config.json` alone.
    pub(super) fn of_config(config: CheckConfig) -> Self {
        Self::new(config, Arc::new(|_, _| Ok(())))
    }
}

impl fmt::Debug for Checks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checks").finish_non_exhaustive()
    }
}

impl Download {
    /// Checks weights by their headers. If those cannot be read, the download goes on: it will fail
    /// with a text of its own, or the load looks at what came.
    pub(super) fn look_at(
        &self,
        commit: &Commit,
        names: &[String],
        remotes: &[Remote],
        check: &CheckWeights,
    ) -> Result<(), LoadError> {
        self.progress
            .says(&format!("looking at the headers of {}", self.id));
        let folder = self.repo.snapshot(commit);
        let failed = Arc::new(AtomicBool::new(false));
        let mut files = Vec::new();
        for name in names {
            let remote = remotes.iter().find(|remote| remote.name == *name);
            files.push(match remote {
                Some(remote) => WeightFile {
                    name: name.clone(),
                    length: remote.size,
                    source: Source::Remote(Box::new(RemoteFile {
                        client: self.client.clone(),
                        path: self.path(commit, name),
                        size: remote.size,
                        stop: self.stop.clone(),
                        failed: failed.clone(),
                        piece: Mutex::default(),
                    })),
                },
                None => match WeightFile::open(&folder.join(name)) {
                    Ok(file) => file,
                    // The load says why.
                    Err(_) => return Ok(()),
                },
            });
        }
        let checked = check(&folder, files);
        match (self.is_stopped(), failed.load(Ordering::Relaxed)) {
            (true, _) => Err(LoadError::Cancelled),
            (_, true) => Ok(()),
            _ => checked,
        }
    }
}
