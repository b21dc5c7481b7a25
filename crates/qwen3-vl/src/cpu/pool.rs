//! The threads of a model's passes.

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

use qwen3_vl_core::lower_priority;

/// One thread a core (or fewer, by `RAYON_NUM_THREADS`), which nobody else uses: an application's
/// own work and other models neither wait for a pass nor hold it up.
#[derive(Debug, Default)]
pub struct Pool(Option<ThreadPool>);

/// Whether the pass that runs is to end. Kernels look at it between pieces of work of some tens of
/// milliseconds at most; what they leave undone is zeros.
#[derive(Clone, Debug, Default)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    /// The pass is to end.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// The next pass is not.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// That of the pool that this thread belongs to.
    static FLAG: RefCell<Option<Flag>> = const { RefCell::new(None) };
}

/// Whether the pass that this thread works for is to end.
pub fn interrupted() -> bool {
    FLAG.with_borrow(|flag| flag.as_ref().is_some_and(Flag::is_raised))
}

impl Pool {
    /// Starts the threads, whose kernels look at the flag. Where the system gives none, passes run
    /// on those that all of the process share.
    pub fn new(flag: &Flag) -> Self {
        let flag = flag.clone();
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads())
            .thread_name(|index| format!("qwen3-vl-cpu-{index}"))
            .start_handler(move |_| {
                lower_priority();
                FLAG.set(Some(flag.clone()));
            });
        Self(pool.build().ok())
    }

    /// No threads: passes run elsewhere.
    pub fn none() -> Self {
        Self(None)
    }

    /// How many threads there are.
    pub fn threads(&self) -> usize {
        self.0.as_ref().map_or(0, ThreadPool::current_num_threads)
    }

    /// Does something on one of the threads, whose parallel loops use the others.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Runs a pass on one of the threads, while the others look for its work without going to
    /// sleep: a pass has hundreds of parallel loops for one token, most shorter than it takes to
    /// wake a thread.
    pub fn run<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.0 else { return pass() };
        let over = AtomicBool::new(false);
        pool.scope(|scope| {
            // These are the oldest tasks of this thread's queue, from whose end others steal, so
            // that no part of the pass is ever stolen before them, and this thread, which only
            // takes tasks itself that are younger than the part it waits for, never runs one.
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

/// Threads to start: one a core that this process may use, or as many as `RAYON_NUM_THREADS` says,
/// if that is fewer. More would take turns on the cores, and each waits for work without sleeping.
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    at_most(cores, asked.as_deref())
}

fn at_most(cores: usize, asked: Option<&str>) -> usize {
    // As rayon reads it: 0, and what is no number, mean nothing.
    let asked = asked.and_then(|text| text.parse().ok());
    asked.filter(|n| *n > 0).map_or(cores, |n| cores.min(n))
}

/// Tells the others that the pass is over, also if it panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_bounded_by_the_cores() {
        for (asked, threads) in [
            (None, 8),
            (Some("5000"), 8),
            (Some("18446744073709551616"), 8),
            (Some("3"), 3),
            (Some("8"), 8),
            (Some("0"), 8),
            (Some("-1"), 8),
            (Some("many"), 8),
        ] {
            assert_eq!(at_most(8, asked), threads, "{asked:?}");
        }
    }

    #[test]
    fn threads_of_a_pool_see_its_flag_and_no_other() {
        let (flag, other) = (Flag::default(), Flag::default());
        let (pool, quiet) = (Pool::new(&flag), Pool::new(&other));
        flag.raise();
        assert!(pool.run(interrupted) && !quiet.run(interrupted) && !interrupted());
        flag.lower();
        assert!(!pool.run(interrupted));
        assert!(pool.threads() >= 1);
    }
}
