//! What a hub says of a model. Pure: bytes in, names out.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::cache::Commit;
use super::error::HubError;
use crate::quote::{of_json, quoted_bytes};

/// A commit, and the names of its files.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) commit: Commit,
    pub(super) files: BTreeSet<String>,
}

impl Answer {
    /// Reads the answer to a question about a revision (huggingface_hub: `ModelInfo`).
    ///
    /// # Errors
    ///
    /// [`HubError::Protocol`] if it is none, or of another commit than the one that was asked for.
    pub(super) fn parse(json: &[u8], revision: &str) -> Result<Self, HubError> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let info: Info = serde_json::from_slice(json)
            .map_err(|e| format!("what it says about the model: {}", of_json(&e)))
            .map_err(HubError::Protocol)?;
        let commit = Commit::parse(info.sha.as_bytes()).ok_or_else(|| {
            let sha = quoted_bytes(info.sha.as_bytes());
            HubError::Protocol(format!("{sha} is no commit"))
        })?;
        let asked = Commit::parse(revision.as_bytes());
        if asked.is_some_and(|asked| asked != commit) {
            let commit = commit.as_str();
            let reason = format!("it gives the commit {commit} instead");
            return Err(HubError::Protocol(reason));
        }
        let names = info.siblings.into_iter().map(|file| file.rfilename);
        Ok(Self {
            commit,
            files: names.collect(),
        })
    }
}
