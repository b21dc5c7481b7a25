//! Writes an incomplete blob and checks it against its announced size and hash.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use sha2::{Digest, Sha256};
use ureq::http::Response;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::error::HubError;
use super::http::number;
use super::progress::Shared;
use crate::quote::quoted_bytes;

/// The byte at which an answer starts; an error if the file does not have the announced size.
pub(super) fn first_byte<T>(response: &Response<T>, size: u64) -> Result<u64, HubError> {
    let wrong = |what: String| HubError::Protocol(format!("{what} of a file of {size} bytes"));
    let length = number(response.headers().get(CONTENT_LENGTH))?;
    let first = start(response, size)?;
    match length {
        Some(length) if length != size - first => {
            Err(wrong(format!("it sends {length} bytes from {first} on")))
        }
        _ => Ok(first),
    }
}

/// The byte at which an answer starts, whatever its length.
pub(super) fn start<T>(response: &Response<T>, size: u64) -> Result<u64, HubError> {
    let wrong = |what: String| HubError::Protocol(format!("{what} of a file of {size} bytes"));
    let (first, total) = match response.headers().get(CONTENT_RANGE) {
        Some(range) if response.status() == 206 => {
            let text = range.to_str().unwrap_or_default();
            let parsed = text.strip_prefix("bytes ").and_then(|text| {
                let (range, total) = text.split_once('/')?;
                let first = range.split_once('-')?.0.parse().ok()?;
                Some((first, total.parse().ok()?))
            });
            parsed.ok_or_else(|| wrong(format!("it sends {}", quoted_bytes(range.as_bytes()))))?
        }
        _ => (0, size),
    };
    match total != size || first > size {
        true => Err(wrong(format!("it sends {first} to {total}"))),
        false => Ok(first),
    }
}

/// The size and hash that the hub has announced for a blob.
#[derive(Clone, Copy)]
pub(super) struct Announced<'a> {
    pub size: u64,
    /// Hexadecimal, if known.
    pub sha256: Option<&'a str>,
}

/// An incomplete blob.
pub(super) struct Part<'a> {
    file: File,
    announced: Announced<'a>,
    /// Counts every byte.
    progress: Option<&'a Shared>,
    hash: Sha256,
    have: u64,
}

impl<'a> Part<'a> {
    pub(super) fn new(file: File, announced: Announced<'a>, progress: Option<&'a Shared>) -> Self {
        Self {
            file,
            announced,
            progress,
            hash: Sha256::new(),
            have: 0,
        }
    }

    /// Bytes received.
    pub(super) fn have(&self) -> u64 {
        self.have
    }

    /// Bytes still missing.
    pub(super) fn left(&self) -> u64 {
        self.announced.size.saturating_sub(self.have)
    }

    /// Hashes the bytes received earlier, to resume behind them. Calls `go_on` before each
    /// megabyte; its error ends it.
    pub(super) fn resume(
        &mut self,
        go_on: impl Fn() -> Result<(), HubError>,
    ) -> Result<(), HubError> {
        if self.file.metadata()?.len() > self.announced.size {
            self.file.set_len(0)?;
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            go_on()?;
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.hash.update(&buffer[..read]);
            self.have += read as u64;
        }
        if let Some(progress) = self.progress {
            progress.found(self.have);
        }
        Ok(())
    }

    /// Starts at the hub's first byte: the requested one, or 0 to start again.
    pub(super) fn start_at(&mut self, first: u64) -> Result<(), HubError> {
        if first == self.have {
            return Ok(());
        }
        if first != 0 {
            return Err(HubError::Protocol(format!(
                "it sends from byte {first} on, {} was asked for",
                self.have
            )));
        }
        if let Some(progress) = self.progress {
            progress.lost(self.have);
        }
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hash, self.have) = (Sha256::new(), 0);
        Ok(())
    }

    /// Writes the next bytes, but none beyond the announced size.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<(), HubError> {
        self.have += piece.len() as u64;
        if self.have > self.announced.size {
            return Ok(());
        }
        self.file.write_all(piece)?;
        self.hash.update(piece);
        if let Some(progress) = self.progress {
            progress.came(piece.len() as u64);
        }
        Ok(())
    }

    /// Checks that the content is the announced one.
    pub(super) fn finish(mut self) -> Result<(), HubError> {
        let (have, Announced { size, sha256 }) = (self.have, self.announced);
        if have < size {
            return Err(HubError::Cut { have, size });
        }
        if have > size {
            return Err(HubError::Protocol(format!(
                "it sends more than the {size} bytes that it announced"
            )));
        }
        self.file.flush()?;
        let hash = format!("{:x}", self.hash.finalize());
        match sha256 {
            Some(expected) if !expected.eq_ignore_ascii_case(&hash) => Err(HubError::Damaged),
            _ => Ok(()),
        }
    }
}
