//! Reads pieces of a file at the hub: the headers of weights, before the rest comes.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HubError;
use super::http::Client;
use super::part::start;
use crate::weights::ReadAt;

/// Fewest bytes that are asked for at once: more than most headers of safetensors have.
const AHEAD: u64 = 256 << 10;

/// A file at the hub.
pub(super) struct RemoteFile {
    pub client: Client,
    /// Path of its address.
    pub path: String,
    pub size: u64,
    /// Set when the download is cancelled.
    pub stop: Arc<AtomicBool>,
    /// Set when a piece did not come.
    pub failed: Arc<AtomicBool>,
    /// The last piece, and where it begins.
    pub piece: Mutex<(u64, Vec<u8>)>,
}

impl fmt::Debug for RemoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.path, self.size)
    }
}

impl ReadAt for RemoteFile {
    fn read_at(&self, start: u64, out: &mut [u8]) -> io::Result<()> {
        let end = start.checked_add(out.len() as u64);
        let end = end.filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut piece = self.piece.lock().unwrap_or_else(PoisonError::into_inner);
        if !copy(&piece, start, out) {
            let ahead = end.max(start.saturating_add(AHEAD)).min(self.size);
            let bytes = self.fetch(start..ahead).inspect_err(|_| {
                self.failed.store(true, Ordering::Relaxed);
            });
            *piece = (start, bytes.map_err(io::Error::other)?);
            if !copy(&piece, start, out) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

/// Copies the bytes from `start` on if the piece has all of them.
fn copy((first, bytes): &(u64, Vec<u8>), start: u64, out: &mut [u8]) -> bool {
    let inside = start.checked_sub(*first).and_then(|inside| {
        let inside = usize::try_from(inside).ok()?;
        bytes.get(inside..inside.checked_add(out.len())?)
    });
    inside.map(|bytes| out.copy_from_slice(bytes)).is_some()
}

impl RemoteFile {
    fn fetch(&self, part: Range<u64>) -> Result<Vec<u8>, HubError> {
        let response = self.client.get_part(&self.path, part.clone())?;
        let first = start(&response, self.size)?;
        if first != part.start {
            return Err(HubError::Protocol(format!(
                "it sends from byte {first} on, {} was asked for",
                part.start
            )));
        }
        let wanted = part.end - part.start;
        let mut bytes = Vec::new();
        self.client.read(response.into_body(), wanted, |piece| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(HubError::Cancelled);
            }
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        // A hub that knows no ranges sends the whole file.
        bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        match bytes.len() as u64 {
            have if have < wanted => Err(HubError::Cut { have, size: wanted }),
            _ => Ok(bytes),
        }
    }
}
