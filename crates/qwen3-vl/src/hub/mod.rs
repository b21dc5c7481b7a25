//! Resolves a hub id to a folder of files: finds them in the local cache of Hugging Face's tools,
//! or downloads missing files into that cache.
//!
//! Environment variables, as for those tools: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`,
//! `HF_TOKEN_PATH`, `HF_HUB_DISABLE_IMPLICIT_TOKEN`, `HF_HUB_OFFLINE`; `HTTPS_PROXY`, `HTTP_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`.
//!
//! A hub, a mirror and the hosts that they redirect to are not trusted: only the cache is written,
//! only the hub gets the token, and size, time and redirects are bounded (docs/security.md).

mod answer;
mod cache;
mod checks;
mod download;
mod environment;
mod error;
mod explain;
mod gguf;
mod http;
mod location;
mod pace;
mod part;
mod progress;
mod proxy;
mod remote;
mod slot;
mod snapshot;
mod space;
mod together;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::quote::{quoted, shortened};
use answer::Answer;
use cache::{Commit, Repo};
pub(crate) use checks::CheckWeights;
pub use checks::Checks;
use download::Download;
use explain::explain;
use gguf::GgufNames;
use http::Client;
use progress::{Reporter, Shared};
pub use proxy::Proxies;
use qwen3_vl_core::load::{LoadError, Progress};
use slot::Slot;

/// The revision that is fetched if none is given.
pub const DEFAULT_REVISION: &str = "main";

/// Time between two polls for cancellation in [`Hub::fetch`].
const POLL: Duration = Duration::from_millis(50);

/// Checks whether the model with this `config.json` is supported, before its weights are
/// downloaded.
pub type CheckConfig = fn(&[u8]) -> Result<(), LoadError>;

/// Ensures that a model's files are in the local cache, and returns their folder.
///
/// `revision` is a branch, tag or commit; `main` if none. `checks` are made before weights are
/// downloaded. `progress` is called about twice a second with the bytes of all files so far.
/// Blocks; returns within 100 ms after `cancel` is set, and a later call resumes the download.
///
/// # Errors
///
/// If there is no such model, permission is lacking, the network fails with nothing cached, or the
/// download is cut short. The text says what to do.
pub fn fetch(
    id: &str,
    revision: Option<&str>,
    checks: Checks,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<PathBuf, LoadError> {
    let hub = Hub::from_variables(|name| std::env::var(name).ok())?;
    hub.bring(id, revision, Wanted::Checkpoint(checks), progress, cancel)
}

/// Brings a GGUF file of a model onto this machine, the other parts of it and its vision tower,
/// which is `mmproj` or else chosen by name. Gives the paths of both. Everything else is as in
/// [`fetch`].
///
/// # Errors
///
/// See [`fetch`]; no such file, no vision tower or several.
pub(crate) fn fetch_gguf(
    id: &str,
    (file, mmproj): (&str, Option<&Path>),
    revision: Option<&str>,
    check: CheckWeights,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Result<(PathBuf, PathBuf), LoadError> {
    let hub = Hub::from_variables(|name| std::env::var(name).ok())?;
    hub.bring_gguf(id, (file, mmproj), revision, check, progress, cancel)
}

/// The commit and the first files that would be fetched after this answer of a hub: of a checkpoint,
/// or for that GGUF file. For fuzzing.
///
/// # Errors
///
/// Why nothing would be fetched.
#[doc(hidden)]
pub fn files_of_answer(json: &[u8], gguf: Option<&str>) -> Result<(String, Vec<String>), String> {
    let answer = Answer::parse(json, DEFAULT_REVISION).map_err(|e| e.to_string())?;
    let names = match gguf {
        None => snapshot::first_files(&answer.files)?,
        Some(file) => GgufNames::new(file, None)?.files(&answer.files)?,
    };
    Ok((answer.commit.as_str().into(), names))
}

/// What of a repository is fetched.
#[derive(Clone)]
enum Wanted {
    /// The files of a checkpoint, if it passes.
    Checkpoint(Checks),
    /// GGUF files, if they pass.
    Gguf(GgufNames, CheckWeights),
}

impl Wanted {
    /// Whether a folder has all of it.
    fn is_complete(&self, snapshot: &Path) -> bool {
        match self {
            Self::Checkpoint(_) => snapshot::is_complete(snapshot),
            Self::Gguf(names, _) => names.find(snapshot).is_some(),
        }
    }
}

/// A hub and the cache for what comes from it.
#[derive(Clone)]
pub struct Hub {
    /// Address without a slash at the end.
    pub endpoint: String,
    /// Folder that holds `models--owner--name` folders.
    pub cache: PathBuf,
    /// Token for gated and private models.
    pub token: Option<String>,
    /// Never use the network.
    pub offline: bool,
    /// How long the hub may stay silent before a request fails.
    pub stall_timeout: Duration,
    /// Proxies on the way to the hub.
    pub proxies: Proxies,
}

impl fmt::Debug for Hub {
    // Hides the token and passwords, because logs are passed on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("endpoint", &location::shown(&self.endpoint))
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .field("stall_timeout", &self.stall_timeout)
            .finish_non_exhaustive()
    }
}

impl Hub {
    /// [`fetch`] without a check of the configuration.
    ///
    /// # Errors
    ///
    /// See [`fetch`].
    pub fn fetch(
        &self,
        id: &str,
        revision: Option<&str>,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<PathBuf, LoadError> {
        self.fetch_checked(id, revision, |_| Ok(()), progress, cancel)
    }

    /// See [`fetch`].
    ///
    /// # Errors
    ///
    /// See [`fetch`].
    pub fn fetch_checked(
        &self,
        id: &str,
        revision: Option<&str>,
        check: CheckConfig,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<PathBuf, LoadError> {
        let wanted = Wanted::Checkpoint(Checks::of_config(check));
        self.bring(id, revision, wanted, progress, cancel)
    }

    /// Brings a GGUF file of a model onto this machine, the other parts of it and its vision tower,
    /// which is `mmproj` or else chosen by name. Gives the paths of both. What the files hold is not
    /// looked at. Everything else is as in [`fetch`].
    ///
    /// # Errors
    ///
    /// See [`fetch`]; no such file, no vision tower or several.
    pub fn fetch_gguf(
        &self,
        id: &str,
        file: &str,
        mmproj: Option<&Path>,
        revision: Option<&str>,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<(PathBuf, PathBuf), LoadError> {
        let check: CheckWeights = Arc::new(|_, _| Ok(()));
        self.bring_gguf(id, (file, mmproj), revision, check, progress, cancel)
    }

    fn bring_gguf(
        &self,
        id: &str,
        (file, mmproj): (&str, Option<&Path>),
        revision: Option<&str>,
        check: CheckWeights,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<(PathBuf, PathBuf), LoadError> {
        let mmproj = mmproj.map(Path::to_string_lossy);
        let names = GgufNames::new(file, mmproj.as_deref()).map_err(LoadError::NotFound)?;
        let wanted = Wanted::Gguf(names.clone(), check);
        let snapshot = self.bring(id, revision, wanted, progress, cancel)?;
        names.find(&snapshot).ok_or_else(|| {
            let snapshot = shortened(snapshot.display());
            LoadError::Invalid(format!("files of {id} are gone from {snapshot}"))
        })
    }

    /// Gives the folder of a commit that has what is wanted.
    fn bring(
        &self,
        id: &str,
        revision: Option<&str>,
        wanted: Wanted,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Result<PathBuf, LoadError> {
        let revision = revision.unwrap_or(DEFAULT_REVISION);
        check_names(id, revision)?;
        let repo = Repo::new(&self.cache, id);
        let cached = cached(&repo, revision, &wanted);
        if let Some(folder) = &cached
            && (self.offline || Commit::parse(revision.as_bytes()).is_some())
        {
            return Ok(folder.clone());
        }
        if self.offline {
            return Err(LoadError::NotFound(format!(
                "{id} (revision {revision}) is not in {}, and HF_HUB_OFFLINE forbids to download \
                 it",
                shortened(self.cache.display())
            )));
        }
        let client = Client::new(self)
            .map_err(|e| explain(self, id, revision, &format!("asking for {id}"), &e))?;
        let Some(slot) = wait_for_slot(&repo, id, progress, cancel) else {
            return Err(LoadError::Cancelled);
        };

        // On a thread of its own, so that a silent network cannot delay cancellation.
        let (result, ended) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared::default());
        let download = Download {
            hub: self.clone(),
            client: client.clone(),
            id: id.into(),
            revision: revision.into(),
            repo,
            cached,
            wanted,
            progress: shared.clone(),
            result,
            stop: stop.clone(),
            slot,
        };
        thread::Builder::new()
            .name("qwen3-vl-hub".into())
            .spawn(move || download.run())
            .map_err(|e| LoadError::Invalid(format!("no thread for the download: {e}")))?;

        let mut reporter = Reporter::default();
        loop {
            match ended.recv_timeout(POLL) {
                Ok(result) => {
                    if result.is_ok() {
                        reporter
                            .last(Instant::now(), shared.now())
                            .map(&mut *progress);
                    }
                    return result;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(LoadError::Invalid(format!(
                        "the download of {id} broke off"
                    )));
                }
            }
            if let Some(step) = reporter.report(Instant::now(), shared.now()) {
                progress(step);
            }
            client.end_overdue();
            if cancel.load(Ordering::Relaxed) {
                stop.store(true, Ordering::Relaxed);
                // Ends the thread's reads and writes.
                client.shut_down();
                return Err(LoadError::Cancelled);
            }
        }
    }
}

/// Waits until no other thread of this process downloads the model; none if cancelled.
fn wait_for_slot(
    repo: &Repo,
    id: &str,
    progress: &mut dyn FnMut(Progress),
    cancel: &AtomicBool,
) -> Option<Slot> {
    let mut is_told = false;
    loop {
        if cancel.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(slot) = Slot::take(repo.folder()) {
            return Some(slot);
        }
        if !is_told {
            progress(Progress {
                what: format!("waiting for another download of {id}"),
                percent: 0,
            });
            is_told = true;
        }
        thread::sleep(POLL);
    }
}

/// The folder of a revision of which all that is wanted was downloaded before.
fn cached(repo: &Repo, revision: &str, wanted: &Wanted) -> Option<PathBuf> {
    let commit = repo.read_ref(revision);
    let commit = commit.or_else(|| Commit::parse(revision.as_bytes()))?;
    let snapshot = repo.snapshot(&commit);
    wanted.is_complete(&snapshot).then_some(snapshot)
}

/// Checks names, which become parts of paths and addresses.
fn check_names(id: &str, revision: &str) -> Result<(), LoadError> {
    let plain = |part: &str| {
        (1..=200).contains(&part.len())
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() != 2 || !parts.into_iter().all(plain) {
        return Err(LoadError::NotFound(format!(
            "{} is neither a folder nor a hub id such as Qwen/Qwen3-VL-4B-Instruct",
            quoted(id)
        )));
    }
    if !revision.split('/').all(plain) {
        return Err(LoadError::NotFound(format!(
            "{} is not a revision: give a branch, a tag or a commit",
            quoted(revision)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_cache_are_refused() {
        let long = format!("a/{}", "b".repeat(300));
        for id in [
            "demo", "a/b/c", "../x", "a/..", "a/", "/a", "a b/c", "", &long,
        ] {
            assert!(check_names(id, "main").is_err(), "{id}");
        }
        for revision in ["", "../main", "a//b", "a b"] {
            assert!(check_names("a/b", revision).is_err(), "{revision}");
        }
        assert!(check_names("Qwen/Qwen3-VL-4B-Instruct", "refs/pr/1").is_ok());
    }
}
