//! The numbers in messages.

/// A request of a window, by the numbers that its messages have as `window-id` and `request-id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) window: u64,
    pub(crate) request: u64,
}
