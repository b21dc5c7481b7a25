//! Counters of one session, as the property `stats` shows them.

/// Counters since the element left READY.
#[derive(Clone, Debug, Default)]
pub(super) struct Stats {
    /// Buffers that arrived.
    pub(super) frames: u64,
    /// Frames handed to the worker.
    pub(super) sampled: u64,
    /// Frames that were due while the worker's queue was full.
    pub(super) skipped: u64,
    /// Frames copied, in order not to hold more of upstream's buffers.
    pub(super) copied: u64,
    /// Requests that ended with a description.
    pub(super) described: u64,
    /// Requests that ended without one.
    pub(super) dropped: u64,
    /// Answers that came for requests that had been dropped.
    pub(super) late: u64,
    /// Windows that are open or wait for an answer.
    pub(super) outstanding: u64,
}

/// Adds one to a counter.
pub(super) fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

/// Use of the engine, by all elements that share it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EngineUse {
    /// Blocks of the KV cache in use.
    pub(super) kv_blocks: usize,
    /// Elements that share the engine.
    pub(super) elements: usize,
}

impl Stats {
    /// As a structure, with the number of held buffers and events, and the use of the engine.
    pub(super) fn structure(&self, held: usize, engine: EngineUse) -> gst::Structure {
        gst::Structure::builder("qwenvl/stats")
            .field("frames", self.frames)
            .field("sampled", self.sampled)
            .field("skipped", self.skipped)
            .field("copied", self.copied)
            .field("described", self.described)
            .field("dropped", self.dropped)
            .field("late", self.late)
            .field("outstanding", self.outstanding)
            .field("held", held as u64)
            .field("kv-blocks", engine.kv_blocks as u64)
            .field("sharing", engine.elements as u64)
            .build()
    }
}
