//! Progress and cancellation of a load of weights.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use super::WeightsError;
use crate::amounts::amounts;
use qwen3_vl_core::load::Progress;

/// Time between two polls of the loading thread.
const POLL: Duration = Duration::from_millis(50);

/// Shortest time between two reports.
const INTERVAL: Duration = Duration::from_millis(500);

/// State that the waiting and the loading thread share.
#[derive(Debug, Default)]
pub struct Watch {
    cancelled: AtomicBool,
    read: AtomicU64,
}

impl Watch {
    /// Counts a tensor that is about to be read.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Cancelled`] if the load was cancelled.
    pub(super) fn count(&self, bytes: usize) -> Result<(), WeightsError> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(WeightsError::Cancelled);
        }
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `load` on a thread of its own, and reports about twice a second how many of `total`
    /// bytes it has read. After `cancel` is set, the load ends at the next tensor.
    ///
    /// # Errors
    ///
    /// If the system cannot start a thread.
    pub(crate) fn run<T: Send>(
        &self,
        total: usize,
        load: impl FnOnce() -> T + Send,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> std::io::Result<T> {
        let total = total as u64;
        thread::scope(|scope| {
            let (running, ended) = mpsc::channel::<()>();
            let named = thread::Builder::new().name("qwen3-vl-weights".into());
            let loader = named.spawn_scoped(scope, move || {
                // Dropped at the end, after a return or a panic.
                let _running = running;
                load()
            })?;
            let mut shown: Option<(Instant, u64)> = None;
            loop {
                if cancel.load(Ordering::Relaxed) {
                    self.cancelled.store(true, Ordering::Relaxed);
                }
                let read = self.read.load(Ordering::Relaxed).min(total);
                let now = Instant::now();
                if shown.is_none_or(|(at, last)| last != read && now - at >= INTERVAL) {
                    progress(report(read, total));
                    shown = Some((now, read));
                }
                if ended.recv_timeout(POLL) == Err(RecvTimeoutError::Disconnected) {
                    break;
                }
            }
            match loader.join() {
                Ok(loaded) => Ok(loaded),
                // The caller catches it, with its text.
                Err(panic) => resume_unwind(panic),
            }
        })
    }
}

fn report(read: u64, total: u64) -> Progress {
    let percent = (u128::from(read) * 100).checked_div(u128::from(total));
    Progress {
        what: format!("loading weights: {}", amounts(read, total)),
        percent: percent.unwrap_or(0) as u32,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use super::*;
    use crate::config::Config;
    use crate::model::Model;
    use crate::weights::{Target, Weights};

    #[test]
    fn every_tensor_of_a_model_is_counted_and_none_is_read_after_the_end() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let load = |weights: &mut Weights| {
            let json = std::fs::read(folder.join("config.json")).unwrap();
            let config = Config::from_json(&json).unwrap();
            Model::load(config, weights, Device::Cpu)
        };
        let mut weights = Weights::open(&folder, Target::cpu()).unwrap();
        let watch = weights.watch();
        load(&mut weights).unwrap();
        let read = watch.read.load(Ordering::Relaxed);
        assert_eq!(read, weights.size() as u64);

        watch.cancelled.store(true, Ordering::Relaxed);
        let loaded = load(&mut weights);
        assert!(matches!(loaded, Err(WeightsError::Cancelled)));
        assert_eq!(watch.read.load(Ordering::Relaxed), read);
    }

    #[test]
    fn it_reports_and_gives_the_result() {
        let watch = Watch::default();
        let mut steps = Vec::new();
        let load = || {
            for _ in 0..7 {
                thread::sleep(Duration::from_millis(100));
                watch.count(1_000_000).unwrap();
            }
            5
        };
        let never = AtomicBool::new(false);
        let loaded = watch.run(8_000_000, load, &mut |step| steps.push(step), &never);
        assert_eq!(loaded.unwrap(), 5);
        // About two reports a second, with the counted bytes.
        assert!((2..=4).contains(&steps.len()), "{steps:?}");
        assert_eq!(steps[0], report(0, 8_000_000));
        assert!(steps.is_sorted_by_key(|step| step.percent));
        assert!(steps.iter().all(|step| step.what.ends_with(" of 8.0 MB")));
    }

    #[test]
    fn cancelling_ends_it_with_the_next_tensor() {
        let watch = Watch::default();
        let cancel = AtomicBool::new(false);
        let load = || {
            for tensor in 0..100_000 {
                thread::sleep(Duration::from_millis(1));
                if tensor == 5 {
                    cancel.store(true, Ordering::Relaxed);
                }
                watch.count(1)?;
            }
            Ok(())
        };
        let loaded = watch.run(100_000, load, &mut |_| (), &cancel).unwrap();
        assert!(matches!(loaded, Err(WeightsError::Cancelled)));
        assert!(watch.read.load(Ordering::Relaxed) < 50_000);
    }

    #[test]
    fn a_panic_is_the_caller_s() {
        let load = || -> () { panic!("on purpose") };
        let caught = std::panic::catch_unwind(|| {
            let never = AtomicBool::new(false);
            Watch::default().run(1, load, &mut |_| (), &never)
        });
        assert_eq!(
            caught.unwrap_err().downcast_ref::<&str>(),
            Some(&"on purpose")
        );
    }
}
