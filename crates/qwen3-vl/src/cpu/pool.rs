//! The threads of a model's passes.

use std::cell::RefCell;
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder, Yield};

use qwen3_vl_core::lower_priority;

/// A pool with one thread per core (or fewer, by `RAYON_NUM_THREADS`). Each model has its own, so
/// that an application's work and other models neither wait for a pass nor delay it.
#[derive(Debug, Default)]
pub struct Pool(Option<ThreadPool>);

/// Interrupts the running pass when raised. Kernels poll it at least every few tens of
/// milliseconds; they leave zeros in place of missing results.
#[derive(Clone, Debug, Default)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    /// Interrupts the running pass.
    pub fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Lets the next pass run.
    pub fn lower(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether the pass is interrupted.
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

thread_local! {
    /// The flag of the pool that this thread belongs to.
    static FLAG: RefCell<Option<Flag>> = const { RefCell::new(None) };
}

/// Whether the pass that this thread works for is interrupted.
pub fn interrupted() -> bool {
    FLAG.with_borrow(|flag| flag.as_ref().is_some_and(Flag::is_raised))
}

impl Pool {
    /// Starts the threads, whose kernels poll the flag. If the system cannot start threads, passes
    /// run on rayon's global pool.
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

    /// A pool without threads: work runs in the caller's context.
    pub fn none() -> Self {
        Self(None)
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.0.as_ref().map_or(0, ThreadPool::current_num_threads)
    }

    /// Runs `work` on one of the threads; its parallel loops use all of them.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.0 {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Runs a pass on one of the threads, while the others poll for its work without sleeping: a
    /// pass has hundreds of parallel loops per token, most of them shorter than waking a thread.
    pub fn run<R: Send>(&self, pass: impl FnOnce() -> R + Send) -> R {
        let Some(pool) = &self.0 else { return pass() };
        let over = AtomicBool::new(false);
        pool.scope(|scope| {
            // These are the oldest tasks of this thread's queue. Other threads steal the oldest
            // tasks first, so they take these before parts of the pass; this thread takes only
            // tasks younger than the part that it waits for, so it never runs one.
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

/// Number of threads to start: one per core that this process may use, or `RAYON_NUM_THREADS` if
/// that is fewer. More would compete for the cores, because they poll without sleeping.
pub fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    at_most(cores, asked.as_deref())
}

fn at_most(cores: usize, asked: Option<&str>) -> usize {
    // Like rayon, ignores 0 and anything that is not a number.
    let asked = asked.and_then(|text| text.parse().ok());
    asked.filter(|n| *n > 0).map_or(cores, |n| cores.min(n))
}

/// Tells the other threads that the pass is over, also after a panic.
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
