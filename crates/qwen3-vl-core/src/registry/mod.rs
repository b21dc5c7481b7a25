//! One engine for all users of the same model in the process.
//!
//! The registry holds engines weakly: an engine ends with its last user. A load has a thread of its
//! own, and all users of the model wait for that load. So each can give up without harm to the
//! others, and the load is cancelled when the last one has. A cancelled load keeps its memory until
//! it ends, so later loads wait for it: see `turn`.

mod turn;

use std::collections::HashMap;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::backend::Backend;
use crate::failure::panic_text;
use crate::load::{Load, LoadError, Loaded, Progress};
use turn::{Turn, Turns};

/// How often a waiting user checks whether it was cancelled.
const POLL: Duration = Duration::from_millis(50);

/// The key of a load: loads with equal keys share an engine.
pub trait Key: Clone + Eq + Hash + Send + 'static {}

impl<T: Clone + Eq + Hash + Send + 'static> Key for T {}

/// Engines by key. A clone is the same registry.
pub struct Registry<K: Key> {
    /// Held for look-ups only.
    entries: Arc<Mutex<HashMap<K, Entry>>>,
    turns: Arc<Turns<K>>,
}

impl<K: Key> Clone for Registry<K> {
    fn clone(&self) -> Self {
        Self {
            entries: self.entries.clone(),
            turns: self.turns.clone(),
        }
    }
}

impl<K: Key> Default for Registry<K> {
    /// An empty registry.
    fn default() -> Self {
        Self {
            entries: Arc::default(),
            turns: Arc::default(),
        }
    }
}

impl<K: Key> Registry<K> {
    /// The engine for this key: the loaded one, the one that is being loaded, or a new one, which
    /// `load` loads. Later calls get neither a failed load nor a broken engine. Blocks until the
    /// engine is loaded; `progress` is called in this thread, with no lock held.
    ///
    /// # Errors
    ///
    /// See [`LoadError`].
    pub fn load(
        &self,
        key: K,
        load: Load,
        progress: &mut dyn FnMut(Progress),
        cancel: &AtomicBool,
    ) -> Loaded {
        match self.find(&key) {
            Found::Engine(engine) => {
                progress(Progress {
                    what: "sharing the engine that is there".into(),
                    percent: 100,
                });
                Ok(engine)
            }
            Found::Load(waiter) => waiter.wait(progress, cancel),
            Found::Nothing(waiter) => {
                self.start(key, load, &waiter.wanted);
                waiter.wait(progress, cancel)
            }
        }
    }

    /// The engine or load of this key. If there is none, registers a load, which the caller must
    /// start.
    fn find(&self, key: &K) -> Found {
        let (waiter, updates) = mpsc::channel();
        let mut engine = None;
        let mut entries = self.lock();
        entries.retain(|_, entry| entry.is_alive());
        match entries.get_mut(key) {
            Some(Entry::Loaded(loaded)) => engine = loaded.upgrade(),
            Some(Entry::Loading(load)) => {
                if let Some(wanted) = load.wanted.upgrade() {
                    load.join(waiter);
                    return Found::Load(Waiter { wanted, updates });
                }
            }
            None => (),
        }
        if let Some(engine) = engine.take_if(|engine| !engine.is_broken()) {
            return Found::Engine(engine);
        }
        let wanted = Arc::new(Wanted::default());
        let load = Pending {
            wanted: Arc::downgrade(&wanted),
            waiters: vec![waiter],
            last: None,
        };
        entries.insert(key.clone(), Entry::Loading(load));
        // Unlocked before `engine` is dropped, of which this may be the last user.
        drop(entries);
        Found::Nothing(Waiter { wanted, updates })
    }

    fn start(&self, key: K, load: Load, wanted: &Arc<Wanted>) {
        let task = Task {
            registry: self.clone(),
            key: key.clone(),
            load,
            wanted: Arc::downgrade(wanted),
            cancel: wanted.cancel.clone(),
        };
        let thread = thread::Builder::new().name("qwen3-vl-load".into());
        if let Err(error) = thread.spawn(move || task.run()) {
            let error = LoadError::Unavailable(format!("no thread to load the model: {error}"));
            self.finish(key, Err(error));
        }
    }

    /// Sends the progress of a load to its waiters. The caller keeps the load's `Wanted`.
    fn tell(&self, key: &K, progress: &Progress) {
        if let Some(Entry::Loading(load)) = self.lock().get_mut(key) {
            load.tell(progress);
        }
    }

    /// Ends a load. The caller keeps the load's `Wanted`.
    fn finish(&self, key: K, result: Loaded) {
        let mut entries = self.lock();
        let entry = match &result {
            Ok(engine) => entries.insert(key, Entry::Loaded(Arc::downgrade(engine))),
            Err(_) => entries.remove(&key),
        };
        drop(entries);
        if let Some(Entry::Loading(load)) = entry {
            load.finish(result);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry>> {
        // Valid after every statement, so a panic elsewhere does not matter.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The registry's entry for a key.
enum Entry {
    Loading(Pending),
    Loaded(Weak<dyn Backend>),
}

impl Entry {
    fn is_alive(&self) -> bool {
        let users = match self {
            Self::Loading(load) => load.wanted.strong_count(),
            Self::Loaded(engine) => engine.strong_count(),
        };
        users > 0
    }
}

enum Found {
    Engine(Arc<dyn Backend>),
    Load(Waiter),
    Nothing(Waiter),
}

/// A load under way. While it is wanted, nothing else takes its place in the registry.
struct Pending {
    wanted: Weak<Wanted>,
    waiters: Vec<Sender<Update>>,
    last: Option<Progress>,
}

enum Update {
    Progress(Progress),
    Finished(Loaded),
}

// A send to a waiter that has given up fails, and is ignored.
impl Pending {
    fn join(&mut self, waiter: Sender<Update>) {
        if let Some(last) = &self.last {
            let _ = waiter.send(Update::Progress(last.clone()));
        }
        self.waiters.push(waiter);
    }

    fn tell(&mut self, progress: &Progress) {
        self.last = Some(progress.clone());
        for waiter in &self.waiters {
            let _ = waiter.send(Update::Progress(progress.clone()));
        }
    }

    /// Keeps no reference: from here on only its users hold the engine.
    fn finish(self, result: Loaded) {
        let results = std::iter::repeat_n(result, self.waiters.len());
        for (waiter, result) in self.waiters.into_iter().zip(results) {
            let _ = waiter.send(Update::Finished(result));
        }
    }
}

/// Held by all waiters of a load; cancels the load when the last one drops it.
#[derive(Default)]
struct Wanted {
    cancel: Arc<AtomicBool>,
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.cancel.store(true, Ordering::Relaxed);
    }
}

/// A user that waits for a load.
struct Waiter {
    wanted: Arc<Wanted>,
    updates: Receiver<Update>,
}

impl Waiter {
    fn wait(&self, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Loaded {
        loop {
            let update = self.updates.recv_timeout(POLL);
            if cancel.load(Ordering::Relaxed) {
                return Err(LoadError::Cancelled);
            }
            match update {
                Ok(Update::Progress(step)) => progress(step),
                Ok(Update::Finished(result)) => return result,
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(LoadError::Invalid("loading broke off".into()));
                }
            }
        }
    }
}

/// The thread of a load.
struct Task<K: Key> {
    registry: Registry<K>,
    key: K,
    load: Load,
    wanted: Weak<Wanted>,
    cancel: Arc<AtomicBool>,
}

impl<K: Key> Task<K> {
    fn run(self) {
        let Self {
            registry,
            key,
            load,
            wanted,
            cancel,
        } = self;
        let mut tell = |progress| {
            if let Some(_wanted) = wanted.upgrade() {
                registry.tell(&key, &progress);
            }
        };
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _turn = Turn::wait(&registry.turns, &key, &cancel).ok_or(LoadError::Cancelled)?;
            load(&mut tell, &cancel)
        }));
        let result = result.unwrap_or_else(|panic| {
            let text = panic_text(&*panic);
            Err(LoadError::Invalid(format!("loading panicked ({text})")))
        });
        // Without a waiter the engine is dropped here.
        if let Some(_wanted) = wanted.upgrade() {
            registry.finish(key, result);
        }
    }
}

#[cfg(test)]
mod tests;
