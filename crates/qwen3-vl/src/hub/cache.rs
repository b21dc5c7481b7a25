//! The cache of Hugging Face's tools, with the folders, names and locks of huggingface_hub
//! (`file_download.py`), so that both share downloads.
//!
//! ```text
//! models--owner--name/blobs/ETAG               content, once
//! models--owner--name/blobs/ETAG.incomplete    what has come of it
//! models--owner--name/snapshots/COMMIT/NAME    link to a blob
//! models--owner--name/refs/REVISION            the commit that a branch stood for
//! .locks/models--owner--name/ETAG.lock         held while a blob is written
//! ```
//!
//! Paths consist of checked types only ([`Commit`], [`Etag`], names from `snapshot`), so no answer
//! of a hub can leave the cache.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::error::HubError;
use crate::file::read_bounded;

/// Time between two attempts to take a lock.
const POLL: Duration = Duration::from_millis(50);

/// A commit: 40 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit(String);

impl Commit {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 40 && text.iter().all(hex))
            .then(|| Self(String::from_utf8_lossy(text).into_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a blob: letters and digits only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Etag(String);

impl Etag {
    /// Parses an `ETag` header, like `_normalize_etag` of huggingface_hub.
    pub(super) fn parse(header: &[u8]) -> Option<Self> {
        let text = header.strip_prefix(b"W/").unwrap_or(header);
        let text = text.strip_prefix(b"\"").unwrap_or(text);
        let text = text.strip_suffix(b"\"").unwrap_or(text);
        let plain = text.iter().all(u8::is_ascii_alphanumeric);
        (plain && (1..=128).contains(&text.len()))
            .then(|| Self(String::from_utf8_lossy(text).into_owned()))
    }

    /// The SHA-256 of the content, if the etag is one, as for large files.
    pub(super) fn sha256(&self) -> Option<&str> {
        let is_hash = self.0.len() == 64 && self.0.bytes().all(|b| b.is_ascii_hexdigit());
        is_hash.then_some(&self.0)
    }
}

/// One model's part of the cache.
#[derive(Clone, Debug)]
pub(super) struct Repo {
    folder: PathBuf,
    locks: PathBuf,
}

impl Repo {
    /// `id` is a checked owner and name.
    pub(super) fn new(cache: &Path, id: &str) -> Self {
        let name = format!("models--{}", id.replace('/', "--"));
        Self {
            folder: cache.join(&name),
            locks: cache.join(".locks").join(name),
        }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    pub(super) fn blob(&self, etag: &Etag) -> PathBuf {
        self.folder.join("blobs").join(&etag.0)
    }

    /// The file to which a blob is downloaded.
    pub(super) fn incomplete(&self, etag: &Etag) -> PathBuf {
        self.folder
            .join("blobs")
            .join(format!("{}.incomplete", etag.0))
    }

    /// The commit of a checked revision when it was last resolved.
    pub(super) fn read_ref(&self, revision: &str) -> Option<Commit> {
        let text = read_bounded(&self.folder.join("refs").join(revision), 4096).ok()?;
        Commit::parse(text.trim_ascii())
    }

    /// Stores the commit of a checked revision. Writes nothing if it is stored already.
    pub(super) fn write_ref(&self, revision: &str, commit: &Commit) -> io::Result<()> {
        if self.read_ref(revision).as_ref() == Some(commit) {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, commit.as_str())
    }

    /// Links a file of a snapshot to a downloaded blob.
    pub(super) fn link(&self, commit: &Commit, name: &str, etag: &Etag) -> io::Result<()> {
        let pointer = self.snapshot(commit).join(name);
        if pointer.is_file() {
            return Ok(());
        }
        if let Some(folder) = pointer.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(&pointer) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => (),
        }
        // From a folder of the snapshot it is as many folders further.
        let up = "../".repeat(name.matches('/').count());
        let target = Path::new(&format!("{up}../../blobs")).join(&etag.0);
        match symlink(target, &pointer) {
            // Another process made the link first.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // The file system has no links: moves the blob, like huggingface_hub.
            Err(_) => fs::rename(self.blob(etag), &pointer),
            Ok(()) => Ok(()),
        }
    }

    /// Waits until no other process writes the blob. Dropping the returned file releases the lock.
    ///
    /// `waiting` is called while another process holds the lock; its error ends the wait.
    pub(super) fn lock(
        &self,
        etag: &Etag,
        mut waiting: impl FnMut() -> Result<(), HubError>,
    ) -> Result<File, HubError> {
        fs::create_dir_all(&self.locks)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.locks.join(format!("{}.lock", etag.0)))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => {
                    waiting()?;
                    thread::sleep(POLL);
                }
                Err(TryLockError::Error(e)) => return Err(e.into()),
            }
        }
    }
}

#[cfg(unix)]
use std::os::unix::fs::symlink;

#[cfg(not(unix))]
fn symlink(_: PathBuf, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_names_and_nothing_else() {
        let name = |header: &[u8]| Etag::parse(header).map(|etag| etag.0);
        let sha = "5".repeat(64);
        assert_eq!(name(b"\"abc123\"").as_deref(), Some("abc123"));
        assert_eq!(name(b"W/\"abc\"").as_deref(), Some("abc"));
        assert_eq!(name(b"abc").as_deref(), Some("abc"));
        assert!(Etag::parse(sha.as_bytes()).unwrap().sha256().is_some());
        assert!(Etag::parse(b"abc").unwrap().sha256().is_none());
        assert!(
            Etag::parse("g".repeat(64).as_bytes())
                .unwrap()
                .sha256()
                .is_none()
        );
        for bad in [
            &b""[..],
            b"\"\"",
            b"../../x",
            b"\"..\"",
            b"\".\"",
            b"/etc/passwd",
            b"a/b",
            b"a\\b",
            b"a.incomplete",
            b"a b",
            b"a\0b",
            b"\xc3\xa9",
            "a".repeat(129).as_bytes(),
        ] {
            assert_eq!(name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn commits_are_full_hashes() {
        assert!(Commit::parse("0123456789abcdef0123456789abcdef01234567".as_bytes()).is_some());
        for bad in [
            "",
            "main",
            "../../../x",
            &"A".repeat(40),
            &"g".repeat(40),
            &"a".repeat(39),
        ] {
            assert_eq!(Commit::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_ref_that_is_no_commit_is_none() {
        let cache = tempfile::tempdir().unwrap();
        let repo = Repo::new(cache.path(), "owner/name");
        let commit = Commit::parse(&[b'a'; 40]).unwrap();
        repo.write_ref("refs/pr/1", &commit).unwrap();
        assert_eq!(repo.read_ref("refs/pr/1"), Some(commit));
        fs::write(repo.folder().join("refs/main"), "../../../elsewhere").unwrap();
        assert_eq!(repo.read_ref("main"), None);
    }
}
