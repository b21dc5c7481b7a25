//! Several downloads at a time.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

/// Downloads at a time. One connection seldom fills a fast network.
pub(super) const AT_A_TIME: usize = 4;

/// Calls `bring` for each of `items`, [`AT_A_TIME`] at a time and in their order. After an error
/// none is begun, and `give_up` is called to end those that run.
///
/// # Errors
///
/// The first one in time.
pub(super) fn each<T: Sync, E: Send>(
    items: &[T],
    bring: impl Fn(&T) -> Result<(), E> + Sync,
    give_up: impl Fn() + Sync,
) -> Result<(), E> {
    let left = Mutex::new(items.iter().collect::<VecDeque<_>>());
    let failed = Mutex::new(None);
    let work = || {
        while let Some(item) = next(&left) {
            if let Err(error) = bring(item) {
                lock(&left).clear();
                lock(&failed).get_or_insert(error);
                give_up();
            }
        }
    };
    thread::scope(|scope| {
        for _ in 1..items.len().min(AT_A_TIME) {
            // Without another thread there is one download less at a time.
            let _ = thread::Builder::new()
                .name("qwen3-vl-hub".into())
                .spawn_scoped(scope, work);
        }
        work();
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn next<'a, T>(left: &Mutex<VecDeque<&'a T>>) -> Option<&'a T> {
    lock(left).pop_front()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every statement leaves the value valid, so a poisoned lock is safe to use.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn as_many_as_are_allowed_run_at_once() {
        // Each waits for all others of its round.
        let barrier = Barrier::new(AT_A_TIME);
        let calls = AtomicUsize::new(0);
        let items = [(); 3 * AT_A_TIME];
        let done = each::<_, ()>(
            &items,
            |()| {
                barrier.wait();
                calls.fetch_add(1, Ordering::Relaxed);
                Ok(())
            },
            || unreachable!("nothing fails"),
        );
        assert_eq!(done, Ok(()));
        assert_eq!(calls.into_inner(), items.len());
    }

    #[test]
    fn the_first_error_ends_all() {
        let both = Barrier::new(2);
        let given_up = Barrier::new(2);
        let items: Vec<usize> = (0..100).collect();
        let ends = AtomicUsize::new(0);
        let failed = each(
            &items[..2],
            |item| {
                both.wait();
                if *item == 1 {
                    // Ends because it is told to.
                    given_up.wait();
                }
                Err(*item)
            },
            || {
                if ends.fetch_add(1, Ordering::Relaxed) == 0 {
                    given_up.wait();
                }
            },
        );
        assert_eq!(failed, Err(0));

        let begun = AtomicUsize::new(0);
        let failed = each(
            &items,
            |item| {
                begun.fetch_add(1, Ordering::Relaxed);
                Err(*item)
            },
            || (),
        );
        assert!(failed.is_err_and(|item| item < AT_A_TIME));
        assert!(begun.into_inner() <= AT_A_TIME);
    }
}
