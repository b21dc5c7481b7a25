//! What went wrong, in words that say what to do.

use hf_hub::api::sync::ApiError;

use super::Hub;
use crate::load::LoadError;

/// Whether the hub could not be reached or is out of order: the cache may help.
pub(super) fn is_unreachable(error: &ApiError) -> bool {
    match request_error(error) {
        Some(ureq::Error::StatusCode(status)) => *status >= 500,
        Some(
            ureq::Error::Io(_)
            | ureq::Error::Timeout(_)
            | ureq::Error::HostNotFound
            | ureq::Error::ConnectionFailed
            | ureq::Error::ConnectProxyFailed(_)
            | ureq::Error::Tls(_)
            | ureq::Error::Rustls(_),
        ) => true,
        _ => false,
    }
}

/// The error of doing `what` with the model `id`.
pub(super) fn explain(
    hub: &Hub,
    id: &str,
    revision: &str,
    what: &str,
    error: &ApiError,
) -> LoadError {
    let endpoint = &hub.endpoint;
    if is_unreachable(error) {
        return LoadError::NotFound(format!(
            "{what}: {endpoint} cannot be reached ({error}). Check the network, set HTTPS_PROXY or \
             HF_ENDPOINT where one is needed, or give the folder of a checkpoint as the model"
        ));
    }
    match (request_error(error), error) {
        (Some(ureq::Error::StatusCode(404)), _) => LoadError::NotFound(format!(
            "{what}: {endpoint} has no model {id} with revision {revision}. Check the spelling"
        )),
        (Some(ureq::Error::StatusCode(401 | 403)), _) => {
            let advice = match hub.token {
                None => "set HF_TOKEN to a token of an account that may use it",
                Some(_) => "the token in HF_TOKEN (or stored) does not allow it",
            };
            LoadError::NotFound(format!(
                "{what}: {endpoint} has no public model {id}. Check the spelling; if it is gated or \
                 private, accept its terms on its page: {advice}"
            ))
        }
        (Some(ureq::Error::StatusCode(429)), _) => LoadError::NotFound(format!(
            "{what}: {endpoint} refuses more requests for now. Try again later, or set HF_TOKEN"
        )),
        (_, ApiError::LockAcquisition(_)) => LoadError::Invalid(format!(
            "{what}: another program is downloading it. Try again when that has finished"
        )),
        (_, ApiError::IoError(io)) => LoadError::Invalid(format!(
            "{what}: {io}. What has arrived is kept in {}; check the space there and try again",
            hub.cache.display()
        )),
        (_, ApiError::InvalidResume) => LoadError::Invalid(format!(
            "{what}: the part that is there does not fit. Delete the *.part files of {id} in {}",
            hub.cache.display()
        )),
        (_, ApiError::MissingHeader(_) | ApiError::InvalidHeader(_)) => {
            LoadError::Invalid(format!(
                "{what}: {endpoint} does not answer as a hub does ({error}). Check HF_ENDPOINT"
            ))
        }
        _ => LoadError::Invalid(format!("{what}: {error}")),
    }
}

fn request_error(error: &ApiError) -> Option<&ureq::Error> {
    match error {
        ApiError::RequestError(error) => Some(error),
        _ => None,
    }
}
