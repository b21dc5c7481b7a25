//! The error for an unknown name of a choice.

/// A name that is not one of the choices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {name:?}: use {choices}")]
pub struct UnknownChoice {
    pub(crate) what: &'static str,
    pub(crate) name: String,
    pub(crate) choices: &'static str,
}
