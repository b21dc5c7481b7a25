//! The threads of a model's passes.

use std::sync::atomic::{AtomicBool, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

/// One thread a core (or `RAYON_NUM_THREADS`), which nobody else uses: an application's own work
/// and other models neither wait for a pass nor hold it up.
#[derive(Debug)]
pub struct Pool(Option<ThreadPool>);

impl Pool {
    /// Starts the threads. Where the system gives none, passes run on those that all of the process
    /// share.
    pub fn new() -> Self {
        let name = |index| format!("qwen3-vl-cpu-{index}");
        Self(ThreadPoolBuilder::new().thread_name(name).build().ok())
    }

    /// No threads: passes run elsewhere.
    pub fn none() -> Self {
        Self(None)
    }

    /// Runs a pass on one of the threads, while the others look for its work without going to sleep:
    /// a pass has hundreds of parallel loops for one token, most shorter than it takes to wake a thread.
    pub fn run<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.0 else { return pass() };
        let over = AtomicBool::new(false);
        pool.scope(|scope| {
            // These are the oldest tasks of this thread's queue, from whose end others steal, so that no
            // part of the pass is ever stolen before them, and this thread, which only takes tasks
            // itself that are younger than the part it waits for, never runs one.
            for _ in 1..pool.current_num_threads() {
                scope.spawn(|_| {
                    while !over.load(Ordering::Relaxed) {
                        if rayon::yield_now() != Some(Yield::Executed) {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let _over = Over(&over);
            pass()
        })
    }
}

/// Tells the others that the pass is over, also if it panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}
