//! The thread that talks to the hub.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use hf_hub::Repo;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};

use super::explain::{explain, is_unreachable};
use super::{Hub, repo, snapshot};
use crate::load::{LoadError, Progress};

/// What the thread has to say.
pub(super) enum Update {
    /// A percent more.
    Progress(Progress),
    /// Bytes have come.
    Alive,
    /// The end: the folder, or why not.
    Finished(Result<PathBuf, LoadError>),
}

/// One model to bring here.
pub(super) struct Download {
    pub hub: Hub,
    pub repo: Repo,
    /// Folder of the revision as it was when last seen.
    pub cached: Option<PathBuf>,
    pub updates: Sender<Update>,
    /// Set when nobody waits any more.
    pub stop: Arc<AtomicBool>,
}

impl Download {
    pub(super) fn run(self) {
        let result = self.folder();
        // Nobody listens any more when the download was cancelled.
        let _ = self.updates.send(Update::Finished(result));
    }

    fn folder(&self) -> Result<PathBuf, LoadError> {
        let id = self.repo.url();
        let asking = format!("asking for {id}");
        let api = ApiBuilder::from_cache(self.hub.cache())
            .with_endpoint(self.hub.endpoint.clone())
            .with_token(self.hub.token.clone())
            .with_progress(false)
            .build()
            .map_err(|e| self.explain(&asking, &e))?;
        let info = match api.repo(self.repo.clone()).info() {
            Ok(info) => info,
            Err(e) => {
                return match &self.cached {
                    Some(folder) if is_unreachable(&e) => Ok(folder.clone()),
                    _ => Err(self.explain(&asking, &e)),
                };
            }
        };
        if info.sha.is_empty() || !info.sha.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(LoadError::Invalid(format!(
                "{asking}: {:?} is no commit",
                info.sha
            )));
        }

        // All files of one commit, even if the branch moves meanwhile.
        let pinned = repo(&id, &info.sha);
        let folder = self
            .hub
            .cache()
            .repo(pinned.clone())
            .pointer_path(&info.sha);
        let remote = api.repo(pinned);
        let unusable = |why: String| LoadError::Invalid(format!("{id} cannot be used: {why}"));
        let available: BTreeSet<String> = info
            .siblings
            .into_iter()
            .map(|file| file.rfilename)
            .collect();
        for name in snapshot::first_files(&available).map_err(unusable)? {
            self.file(&api, &remote, &folder, &name)?;
        }
        for name in snapshot::shards(&folder).map_err(unusable)? {
            if !available.contains(&name) {
                return Err(unusable(format!("its index names {name}, which it lacks")));
            }
            self.file(&api, &remote, &folder, &name)?;
        }

        // Last: until here the branch stands for the commit that was complete before.
        self.hub
            .cache()
            .repo(self.repo.clone())
            .create_ref(&info.sha)
            .map_err(|e| self.explain(&format!("keeping {id}"), &e.into()))?;
        Ok(folder)
    }

    fn file(
        &self,
        api: &Api,
        remote: &ApiRepo,
        folder: &Path,
        name: &str,
    ) -> Result<(), LoadError> {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(());
        }
        let what = format!("downloading {name}");
        let metadata = api
            .metadata(&remote.url(name))
            .map_err(|e| self.explain(&what, &e))?;
        if self.link_known(&metadata, &path) {
            return Ok(());
        }
        let mut meter = Meter {
            download: self,
            what: what.clone(),
            size: 0,
            done: 0,
            percent: None,
        };
        match catch_unwind(AssertUnwindSafe(|| {
            remote.download_with_progress(name, &mut meter)
        })) {
            Ok(Ok(_)) => {}
            Ok(Err(e)) => return Err(self.explain(&what, &e)),
            Err(payload) if payload.is::<Stop>() => return Err(LoadError::Cancelled),
            Err(payload) => resume_unwind(payload),
        }
        let size = meter.size as u64;
        let have = fs::metadata(&path).map_or(0, |file| file.len());
        if have == size {
            return Ok(());
        }
        put_back(&path, have < size);
        Err(LoadError::Invalid(format!(
            "{what}: the connection ended after {have} of {size} bytes. Try again: it goes on there"
        )))
    }

    /// Links a file whose content came with another commit. hf-hub would download it again.
    fn link_known(&self, metadata: &Metadata, path: &Path) -> bool {
        let blob = self.hub.cache().repo(self.repo.clone());
        let blob = blob.blob_path(metadata.etag());
        let known = fs::metadata(&blob).is_ok_and(|blob| blob.len() == metadata.size() as u64);
        let (Some(name), Some(folder)) = (blob.file_name(), path.parent()) else {
            return false;
        };
        known
            && fs::create_dir_all(folder).is_ok()
            && symlink(Path::new("../../blobs").join(name), path).is_ok()
    }

    fn explain(&self, what: &str, error: &ApiError) -> LoadError {
        let id = self.repo.url();
        explain(&self.hub, &id, self.repo.revision(), what, error)
    }
}

#[cfg(unix)]
use std::os::unix::fs::symlink;

#[cfg(not(unix))]
fn symlink(_: PathBuf, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Takes a file that has not its whole size out of the snapshot; what there is of it becomes again
/// the part that the next download goes on from, if it can. Errors show then.
fn put_back(pointer: &Path, resumable: bool) {
    let blob = fs::canonicalize(pointer);
    let _ = fs::remove_file(pointer);
    if let Ok(blob) = blob {
        let _ = if resumable {
            fs::rename(&blob, blob.with_extension("part"))
        } else {
            fs::remove_file(&blob)
        };
    }
}

/// Unwinds a download that nobody waits for.
struct Stop;

/// Counts the bytes of one file.
struct Meter<'a> {
    download: &'a Download,
    what: String,
    size: usize,
    done: usize,
    percent: Option<u32>,
}

impl Meter<'_> {
    fn tell(&mut self) {
        if self.download.stop.load(Ordering::Relaxed) {
            // hf-hub has no other way to leave a download. This does not run the panic hook, and
            // the part that has come stays for the next time.
            resume_unwind(Box::new(Stop));
        }
        let percent = (self.done as u64 * 100)
            .checked_div(self.size as u64)
            .map_or(100, |percent| percent.min(100) as u32);
        let update = if self.percent == Some(percent) {
            Update::Alive
        } else {
            Update::Progress(Progress {
                what: self.what.clone(),
                percent,
            })
        };
        self.percent = Some(percent);
        // If nobody listens, `stop` is about to be set.
        let _ = self.download.updates.send(update);
    }
}

impl hf_hub::api::Progress for &mut Meter<'_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.size, self.done) = (size, 0);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        self.tell();
    }

    fn finish(&mut self) {}
}
