//! The download thread.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use super::answer::Answer;
use super::cache::{Commit, Etag, Repo};
use super::error::HubError;
use super::explain::explain;
use super::http::Client;
use super::part::{Announced, Part, first_byte};
use super::progress::Shared;
use super::slot::Slot;
use super::{CheckWeights, Checks, Hub, Wanted, snapshot, space, together};
use crate::file::read_bounded;
use crate::quote::quoted_bytes;
use qwen3_vl_core::load::LoadError;

/// Bytes to come from which on headers are looked at first.
const LARGE: u64 = 8 << 20;

/// Most bytes of a hub's description of a model.
const INFO_LIMIT: u64 = 8 << 20;

/// The download of one model.
pub(super) struct Download {
    pub hub: Hub,
    pub client: Client,
    pub id: String,
    pub revision: String,
    pub repo: Repo,
    /// Snapshot of the revision when it was last downloaded.
    pub cached: Option<PathBuf>,
    pub wanted: Wanted,
    pub progress: Arc<Shared>,
    /// Receives the snapshot's folder or the error.
    pub result: Sender<Result<PathBuf, LoadError>>,
    /// Set when the download is cancelled.
    pub stop: Arc<AtomicBool>,
    /// Keeps other threads from downloading this model.
    pub slot: Slot,
}

/// A file of the model at the hub.
pub(super) struct Remote {
    pub name: String,
    pub etag: Etag,
    pub size: u64,
}

impl Download {
    pub(super) fn run(self) {
        let folder = self.folder();
        let Self { result, slot, .. } = self;
        // The receiver of the result may download again at once.
        drop(slot);
        // The receiver is gone if the download was cancelled.
        let _ = result.send(folder);
    }

    fn folder(&self) -> Result<PathBuf, LoadError> {
        let id = &self.id;
        let asking = format!("asking for {id}");
        self.progress.says(&asking);
        let (commit, available) = match self.info() {
            Ok(info) => info,
            Err(e) => {
                return match &self.cached {
                    Some(folder) if e.is_for_now() => Ok(folder.clone()),
                    _ => Err(self.explain(&asking, &e)),
                };
            }
        };

        // All files come from one commit, even if the branch moves meanwhile.
        let folder = self.repo.snapshot(&commit);
        match &self.wanted {
            Wanted::Checkpoint(checks) => self.checkpoint(&commit, &folder, &available, checks)?,
            Wanted::Gguf(names, check) => {
                let names = names.files(&available).map_err(|why| self.unusable(&why))?;
                self.fetch_weights(&commit, &[], &names, check)?;
            }
        }

        // Last: until here the branch stands for the commit that was complete before.
        if self.revision != commit.as_str() {
            self.repo
                .write_ref(&self.revision, &commit)
                .map_err(|e| self.explain(&format!("keeping {id}"), &e.into()))?;
        }
        Ok(folder)
    }

    /// Brings the files of a checkpoint.
    fn checkpoint(
        &self,
        commit: &Commit,
        folder: &Path,
        available: &BTreeSet<String>,
        checks: &Checks,
    ) -> Result<(), LoadError> {
        let unusable = |why: String| self.unusable(&why);
        let first = snapshot::first_files(available).map_err(unusable)?;
        self.fetch(commit, &[snapshot::CONFIG.to_string()])?;
        let config = folder.join(snapshot::CONFIG);
        let config = read_bounded(&config, snapshot::limit(snapshot::CONFIG))
            .map_err(|e| self.explain("reading config.json", &e.into()))?;
        (checks.config)(&config)?;

        // The index names the shards, whose sizes give the total.
        let (mut weights, small): (Vec<_>, Vec<_>) = first
            .into_iter()
            .partition(|name| name.ends_with(".safetensors"));
        self.fetch(commit, &small)?;
        if weights.is_empty() {
            let shards = snapshot::shards(folder).map_err(unusable)?;
            if let Some(name) = shards.difference(available).next() {
                return Err(unusable(format!("its index names {name}, which it lacks")));
            }
            weights.extend(shards);
        }
        self.fetch_weights(commit, &small, &weights, &checks.weights)
    }

    fn unusable(&self, why: &str) -> LoadError {
        LoadError::Invalid(format!("{} cannot be used: {why}", self.id))
    }

    /// The commit of the revision, and the names of its files.
    fn info(&self) -> Result<(Commit, BTreeSet<String>), HubError> {
        let (id, revision) = (&self.id, self.revision.replace('/', "%2F"));
        let path = format!("/api/models/{id}/revision/{revision}");
        let response = self.client.get(&path, None)?;
        let mut json = Vec::new();
        self.client
            .read(response.into_body(), INFO_LIMIT, |piece| {
                json.extend_from_slice(piece);
                Ok(())
            })?;
        if json.len() as u64 > INFO_LIMIT {
            return Err(HubError::TooLarge {
                name: "what it says about the model".into(),
                size: json.len() as u64,
                limit: INFO_LIMIT,
            });
        }
        let answer = Answer::parse(&json, &self.revision)?;
        Ok((answer.commit, answer.files))
    }

    /// Downloads small files.
    fn fetch(&self, commit: &Commit, names: &[String]) -> Result<(), LoadError> {
        for name in names {
            let what = format!("downloading {name}");
            self.progress.says(&what);
            if let Some(remote) = self.wanted(commit, name)? {
                self.bring(commit, &remote, &what, false)?;
            }
        }
        Ok(())
    }

    /// Downloads the weights, if they pass. Gets all sizes first, because progress counts all files.
    fn fetch_weights(
        &self,
        commit: &Commit,
        here: &[String],
        names: &[String],
        check: &CheckWeights,
    ) -> Result<(), LoadError> {
        let folder = self.repo.snapshot(commit);
        let size = |name: &String| fs::metadata(folder.join(name)).map_or(0, |file| file.len());
        let mut found: u64 = here.iter().map(size).sum();
        let mut wanted = Vec::new();
        for name in names {
            match self.wanted(commit, name)? {
                Some(remote) => wanted.push(remote),
                None => found += size(name),
            }
        }
        let coming = wanted.iter().map(|remote| remote.size);
        self.progress.total(coming.fold(found, u64::saturating_add));
        self.progress.found(found);
        let coming = wanted.iter().map(|remote| self.missing(remote));
        let coming = coming.fold(0, u64::saturating_add);
        if coming >= LARGE {
            self.look_at(commit, names, &wanted, check)?;
        }
        space::ensure(self.repo.folder(), coming)
            .map_err(|e| self.explain(&format!("downloading {}", self.id), &e))?;
        let what = match &wanted[..] {
            [only] => format!("downloading {}", only.name),
            all => format!("downloading {} files", all.len()),
        };
        self.progress.says(&what);
        let bring = |remote: &Remote| self.bring(commit, remote, &what, true);
        together::each(&wanted, bring, || {
            self.stop.store(true, Ordering::Relaxed);
            self.client.shut_down();
        })
    }

    /// Bytes of a file that are missing from both the blob and its incomplete file.
    fn missing(&self, remote: &Remote) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.len());
        let here = length(self.repo.blob(&remote.etag));
        let here = here.max(length(self.repo.incomplete(&remote.etag)));
        remote.size.saturating_sub(here)
    }

    /// The hub's metadata of a file; none if the snapshot has the file.
    fn wanted(&self, commit: &Commit, name: &str) -> Result<Option<Remote>, LoadError> {
        if self.is_stopped() {
            return Err(LoadError::Cancelled);
        }
        if self.repo.snapshot(commit).join(name).is_file() {
            return Ok(None);
        }
        self.remote(commit, name)
            .map(Some)
            .map_err(|e| self.explain(&format!("downloading {name}"), &e))
    }

    fn remote(&self, commit: &Commit, name: &str) -> Result<Remote, HubError> {
        let head = self.client.head(&self.path(commit, name))?;
        let lacks = |what: &str| HubError::Protocol(format!("it gives no {what} for {name}"));
        let found = head.commit.ok_or_else(|| lacks("commit"))?;
        if found != commit.as_str().as_bytes() {
            return Err(HubError::Protocol(format!(
                "it gives {name} of the commit {} instead",
                quoted_bytes(&found)
            )));
        }
        let etag = head.etag.ok_or_else(|| lacks("ETag"))?;
        let etag = Etag::parse(&etag).ok_or_else(|| {
            HubError::Protocol(format!("it gives {name} the ETag {}", quoted_bytes(&etag)))
        })?;
        let size = head.size.ok_or_else(|| lacks("size"))?;
        let limit = snapshot::limit(name);
        if size > limit {
            let name = name.into();
            return Err(HubError::TooLarge { name, size, limit });
        }
        let name = name.into();
        Ok(Remote { name, etag, size })
    }

    pub(super) fn path(&self, commit: &Commit, name: &str) -> String {
        format!("/{}/resolve/{}/{name}", self.id, commit.as_str())
    }

    /// Downloads and links a file; `what` is said meanwhile.
    fn bring(
        &self,
        commit: &Commit,
        remote: &Remote,
        what: &str,
        counts: bool,
    ) -> Result<(), LoadError> {
        self.content(commit, remote, what, counts)
            .and_then(|()| Ok(self.repo.link(commit, &remote.name, &remote.etag)?))
            .map_err(|e| self.explain(&format!("downloading {}", remote.name), &e))
    }

    /// Ensures that the blob is downloaded.
    fn content(
        &self,
        commit: &Commit,
        remote: &Remote,
        what: &str,
        counts: bool,
    ) -> Result<(), HubError> {
        let blob = self.repo.blob(&remote.etag);
        let is_there = || fs::metadata(&blob).is_ok_and(|blob| blob.len() == remote.size);
        if !is_there() {
            let _lock = self.repo.lock(&remote.etag, || {
                let name = &remote.name;
                self.progress
                    .says(&format!("waiting for another program to download {name}"));
                self.go_on()
            })?;
            self.progress.says(what);
            if !is_there() {
                return self.receive(commit, remote, counts);
            }
        }
        if counts {
            self.progress.found(remote.size);
        }
        Ok(())
    }

    /// Receives the missing bytes of a blob, whose lock the caller holds.
    fn receive(&self, commit: &Commit, remote: &Remote, counts: bool) -> Result<(), HubError> {
        let path = self.repo.incomplete(&remote.etag);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)?;
        let announced = Announced {
            size: remote.size,
            sha256: remote.etag.sha256(),
        };
        let mut part = Part::new(file, announced, counts.then_some(&*self.progress));
        part.resume(|| self.go_on())?;
        if part.left() > 0 {
            let path = self.path(commit, &remote.name);
            let response = self.client.get(&path, Some(part.have()))?;
            part.start_at(first_byte(&response, remote.size)?)?;
            let read = self
                .client
                .read(response.into_body(), part.left(), |piece| {
                    self.go_on()?;
                    part.add(piece)
                });
            match read {
                // `finish` reports how much is missing.
                Err(e) if e.is_early_end() => (),
                read => read?,
            }
        }
        self.go_on()?;
        match part.finish() {
            Ok(()) => Ok(fs::rename(&path, self.repo.blob(&remote.etag))?),
            Err(e) => {
                if !matches!(e, HubError::Cut { .. } | HubError::Disk(_)) {
                    // The content is wrong, so resuming is useless.
                    let _ = fs::remove_file(&path);
                }
                Err(e)
            }
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn go_on(&self) -> Result<(), HubError> {
        match self.is_stopped() {
            true => Err(HubError::Cancelled),
            false => Ok(()),
        }
    }

    fn explain(&self, what: &str, error: &HubError) -> LoadError {
        explain(&self.hub, &self.id, &self.revision, what, error)
    }
}
