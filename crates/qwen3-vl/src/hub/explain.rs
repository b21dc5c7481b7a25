//! Explains errors to users: what failed and what to do.

use std::io;

use super::error::HubError;
use super::{Hub, location};
use crate::quote::shortened;
use qwen3_vl_core::load::LoadError;

/// The error of doing `what` for the model `id`.
pub(super) fn explain(
    hub: &Hub,
    id: &str,
    revision: &str,
    what: &str,
    error: &HubError,
) -> LoadError {
    let endpoint = location::shown(&hub.endpoint);
    let cache = shortened(hub.cache.display());
    if error.is_silence() {
        return LoadError::NotFound(format!(
            "{what}: {endpoint} has been silent for {} s. Try again later: what is there is kept",
            hub.stall_timeout.as_secs_f32()
        ));
    }
    if let HubError::Status(status @ 500..) = error {
        return LoadError::NotFound(format!(
            "{what}: {endpoint} is out of order (status {status}). Try again later, or give the \
             folder of a checkpoint as the model"
        ));
    }
    if let HubError::Slow(_) = error {
        return LoadError::NotFound(format!(
            "{what}: {endpoint} is too slow ({error}). Try again later: what is there is kept"
        ));
    }
    if error.is_unreachable() {
        return LoadError::NotFound(format!(
            "{what}: {endpoint} cannot be reached ({error}). Check the network, set HTTPS_PROXY or \
             HF_ENDPOINT where one is needed, or give the folder of a checkpoint as the model"
        ));
    }
    match error {
        HubError::Cancelled => LoadError::Cancelled,
        HubError::Status(404) => LoadError::NotFound(format!(
            "{what}: {endpoint} has no model {id} with revision {revision}. Check the spelling"
        )),
        HubError::Status(401 | 403) => {
            let advice = match hub.token {
                None => "set HF_TOKEN to a token of an account that may use it",
                Some(_) => "the token in HF_TOKEN (or stored) does not allow it",
            };
            LoadError::NotFound(format!(
                "{what}: {endpoint} has no public model {id}. Check the spelling; if it is gated \
                 or private, accept its terms on its page: {advice}"
            ))
        }
        HubError::Status(429) => LoadError::NotFound(format!(
            "{what}: {endpoint} refuses more requests for now. Try again later, or set HF_TOKEN"
        )),
        HubError::Status(status) => LoadError::NotFound(format!(
            "{what}: {endpoint} answers with status {status}. Try again later, or check HF_ENDPOINT"
        )),
        HubError::Cut { .. } => {
            LoadError::Invalid(format!("{what}: {error}. Try again: it goes on there"))
        }
        HubError::Damaged => LoadError::Invalid(format!(
            "{what}: {error}; it was thrown away. Try again, or check HF_ENDPOINT"
        )),
        HubError::Full { .. } => LoadError::Invalid(format!(
            "{what}: {error} in {cache}. Free space there, or set HF_HUB_CACHE to a folder that has \
             it"
        )),
        HubError::Disk(io) if is_full(io) => LoadError::Invalid(format!(
            "{what}: {io}. What has arrived is kept in {cache}: free space there and try again"
        )),
        HubError::Disk(io) => LoadError::Invalid(format!(
            "{what}: {io}, in {cache}. Set HF_HUB_CACHE to a folder that can be written"
        )),
        HubError::Token => LoadError::Invalid(format!("{what}: {error}. Check HF_TOKEN")),
        HubError::Proxy(_) | HubError::Endpoint => LoadError::Invalid(format!("{what}: {error}")),
        HubError::Protocol(_)
        | HubError::Redirects
        | HubError::Redirect(_)
        | HubError::TooLarge { .. }
        // The rest: the answer is not HTTP, or cannot be understood.
        | HubError::Request(_)
        | HubError::Proxied { .. }
        | HubError::Slow(_) => LoadError::Invalid(format!(
            "{what}: {endpoint} does not answer as a hub does ({}). Check HF_ENDPOINT",
            shortened(error)
        )),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
