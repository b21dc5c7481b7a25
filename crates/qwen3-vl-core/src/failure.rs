//! Why there is no answer, by what comes next.

use std::any::Any;

/// Why a window got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// This request never works, for instance too many tokens for the context; others may.
    #[error("{0}")]
    Invalid(String),
    /// There is no memory for it now; later there may be.
    #[error("{0}")]
    Full(String),
    /// It does not work now; later it may, for instance when a server is there again.
    #[error("{0}")]
    Unavailable(String),
    /// The backend is gone and answers nothing more, for instance after a panic.
    #[error("{0}")]
    Fatal(String),
}

/// What a panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
