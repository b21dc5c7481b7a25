//! Reads files of a checkpoint safely, for a path may be anything: a silent pipe, a device, a
//! sparse file of terabytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// Most bytes of a configuration; released ones have a few thousand. Parsed JSON takes up to eleven
/// times the memory.
pub(crate) const CONFIG_LIMIT: u64 = 4 << 20;
/// Most bytes of `tokenizer.json`: Qwen's has 11 MB.
pub(crate) const TOKENIZER_LIMIT: u64 = 32 << 20;
/// Most bytes of `model.safetensors.index.json`, which has about a hundred for each tensor.
pub(crate) const INDEX_LIMIT: u64 = 32 << 20;

/// Opens a regular file and returns its length. Refuses others: opening a pipe would wait for a
/// writer.
///
/// # Errors
///
/// Those of the system; [`io::ErrorKind::InvalidInput`] if it is not a regular file.
pub(crate) fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    // Checked before opening, which could block, and again after, because the file may have
    // changed.
    regular(&fs::metadata(path)?)?;
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    Ok((file, metadata.len()))
}

/// Reads all bytes of a regular file.
///
/// # Errors
///
/// Those of [`open_regular`]; [`io::ErrorKind::FileTooLarge`] if it has more than `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let (file, length) = open_regular(path)?;
    let too_large = || {
        let text = format!("it has more than the {limit} bytes that such a file may have");
        io::Error::new(io::ErrorKind::FileTooLarge, text)
    };
    if length > limit {
        return Err(too_large());
    }
    // It may grow while it is read.
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(too_large()),
        false => Ok(bytes),
    }
}

fn regular(metadata: &fs::Metadata) -> io::Result<()> {
    let text = match metadata.file_type() {
        kind if kind.is_file() => return Ok(()),
        kind if kind.is_dir() => "it is a folder, not a file",
        _ => "it is a pipe, a socket or a device, not a file",
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// What to do about a file that cannot be read.
pub(crate) fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": let the user that runs this read it",
        io::ErrorKind::InvalidInput => ": put the file itself there",
        io::ErrorKind::FileTooLarge => ": it is not the one of a checkpoint",
        _ => ": fetch or save it again",
    }
}

/// Whether these are the first bytes of a Git LFS pointer, which replaces a file that has not been
/// fetched.
pub(crate) fn is_lfs_pointer(bytes: &[u8]) -> bool {
    bytes.starts_with(b"version https://git-lfs.github.com/spec/")
}

/// The advice for a Git LFS pointer.
pub(crate) const LFS_ADVICE: &str = "it is a Git LFS pointer, not the file itself: run `git lfs \
                                     pull` in that folder, or download the files again";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_counts_the_bytes_that_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, [7; 100]).unwrap();
        assert_eq!(read_bounded(&path, 100).unwrap(), [7; 100]);
        let error = read_bounded(&path, 99).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn files_that_grow_while_they_are_read_end_at_the_limit() {
        // The system reports a length of 0 for this file.
        let path = Path::new("/proc/self/status");
        assert_eq!(fs::metadata(path).unwrap().len(), 0);
        let error = read_bounded(path, 10).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_sparse_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        let error = read_bounded(&path, CONFIG_LIMIT).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let text = open_regular(folder.path()).unwrap_err().to_string();
        assert!(text.contains("folder"), "{text}");
        let missing = open_regular(&folder.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        #[cfg(unix)]
        for device in ["/dev/zero", "/dev/null"] {
            let text = open_regular(Path::new(device)).unwrap_err().to_string();
            assert!(text.contains("device"), "{text}");
        }
    }
}
