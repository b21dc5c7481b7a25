//! Errors of requests and downloads.

use std::io;

use super::http::MAX_REDIRECTS;
use crate::amounts::amount;

/// Why a request or a download failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HubError {
    /// The request failed.
    #[error("{0}")]
    Request(#[from] ureq::Error),
    /// The request failed through a proxy, given by host and port.
    #[error("through the proxy {proxy}: {source}")]
    Proxied { proxy: String, source: ureq::Error },
    /// This variable names a proxy that cannot be used.
    #[error(
        "the proxy in {0} cannot be used: give one as http://HOST:PORT (SOCKS is not supported)"
    )]
    Proxy(String),
    /// The address of the hub is invalid.
    #[error("HF_ENDPOINT must be http://HOST or https://HOST, without a user or a query")]
    Endpoint,
    /// An answer other than 2xx.
    #[error("status {0}")]
    Status(u16),
    /// Too many redirects.
    #[error("it redirects more than {MAX_REDIRECTS} times")]
    Redirects,
    /// A redirect that is not followed: not to http or https, or from https to http.
    #[error("it redirects to {0}, which is not followed")]
    Redirect(String),
    /// The answer violates the hub's protocol.
    #[error("{0}")]
    Protocol(String),
    /// A file is larger than its kind may be.
    #[error("{name} has {size} bytes, more than the {limit} that are read of it")]
    TooLarge { name: String, size: u64, limit: u64 },
    /// The connection ended early.
    #[error("the connection ended after {have} of {size} bytes")]
    Cut { have: u64, size: u64 },
    /// Bytes arrive too slowly.
    #[error("it sends less than {0} bytes a second")]
    Slow(u64),
    /// The content does not match its hash.
    #[error("what came does not have the SHA-256 that the hub names")]
    Damaged,
    /// The disk has too little free space for the download.
    #[error("{} are to come, and {} are free", amount(*needed), amount(*free))]
    Full { needed: u64, free: u64 },
    /// The token has characters that a header must not have.
    #[error("the token holds characters that no token has")]
    Token,
    /// Reading or writing the cache failed.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// The download was cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl HubError {
    /// Whether the hub could not be reached or is out of order, so that the cache may help.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Status(status) => *status >= 500,
            Self::Slow(_) => true,
            Self::Request(error) | Self::Proxied { source: error, .. } => matches!(
                error,
                ureq::Error::Io(_)
                    | ureq::Error::Timeout(_)
                    | ureq::Error::HostNotFound
                    | ureq::Error::ConnectionFailed
                    | ureq::Error::ConnectProxyFailed(_)
                    | ureq::Error::Tls(_)
                    | ureq::Error::Rustls(_)
            ),
            _ => false,
        }
    }

    /// Whether the hub may answer later, so that the cache serves meanwhile.
    pub(super) fn is_for_now(&self) -> bool {
        matches!(self, Self::Status(408 | 429)) || self.is_unreachable()
    }

    /// Whether the connection ended before the answer did.
    pub(super) fn is_early_end(&self) -> bool {
        match self {
            Self::Request(ureq::Error::Io(e)) => e.kind() == io::ErrorKind::UnexpectedEof,
            _ => false,
        }
    }

    /// Whether it was reached and then stayed silent.
    pub(super) fn is_silence(&self) -> bool {
        use ureq::Timeout;
        match self {
            Self::Request(ureq::Error::Timeout(which))
            | Self::Proxied {
                source: ureq::Error::Timeout(which),
                ..
            } => !matches!(which, Timeout::Resolve | Timeout::Connect),
            _ => false,
        }
    }
}
