//! Why there is no answer, by what a caller may try next.

use std::any::Any;

/// Why a window got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// This request can never work, for instance with too many tokens for the context; others may.
    #[error("{0}")]
    Invalid(String),
    /// There is no memory for it now, but may be later.
    #[error("{0}")]
    Full(String),
    /// It does not work now, but may later, for instance when a server is back.
    #[error("{0}")]
    Unavailable(String),
    /// The backend is gone and answers nothing more, for instance after a panic.
    #[error("{0}")]
    Fatal(String),
}

/// The message of a panic.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
