#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;

use super::*;
use crate::backend::fake::{FakeBackend, Outcome};
use crate::backend::{LostSink, Window, WindowHead};
use crate::model::ModelInfo;

/// The longest wait: a test that waits longer hangs.
const WATCHDOG: Duration = Duration::from_secs(60);

/// An engine that can break down.
struct Engine {
    fake: FakeBackend,
    broken: Arc<AtomicBool>,
}

impl Backend for Engine {
    fn model(&self) -> &ModelInfo {
        self.fake.model()
    }

    fn open(&self, head: WindowHead, lost: LostSink) -> Box<dyn Window> {
        self.fake.open(head, lost)
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

fn engine() -> Engine {
    Engine {
        fake: FakeBackend::new(Duration::ZERO, Outcome::Echo),
        broken: Arc::default(),
    }
}

/// The key of most tests.
const HERE: &str = "here";

type Start = Arc<dyn Fn(&mut dyn FnMut(Progress), &AtomicBool) -> Loaded + Send + Sync>;

/// A registry whose engines are all made by one function.
#[derive(Clone)]
struct Models {
    registry: Registry<String>,
    start: Start,
}

impl Models {
    fn new(start: Start) -> Self {
        Self {
            registry: Registry::default(),
            start,
        }
    }

    fn load(&self, key: &str, progress: &mut dyn FnMut(Progress), cancel: &AtomicBool) -> Loaded {
        let start = self.start.clone();
        let load: Load = Box::new(move |progress, cancel| start(progress, cancel));
        self.registry.load(key.into(), load, progress, cancel)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.registry.lock()
    }
}

fn ask(models: &Models, key: &str) -> Loaded {
    models.load(key, &mut |_| (), &AtomicBool::new(false))
}

/// A registry that makes an engine at once, and how many it has made.
fn ready() -> (Models, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = loads.clone();
    let start: Start = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(engine()))
    });
    (Models::new(start), loads)
}

/// A load that has begun, and whose end the test decides.
struct Begun {
    cancel: Receiver<bool>,
    end: Sender<Loaded>,
}

impl Begun {
    /// Whether the load has been cancelled by now.
    fn is_cancelled(&self) -> bool {
        // The first report may be from before the call.
        (0..2).any(|_| self.cancel.recv_timeout(WATCHDOG).unwrap())
    }
}

/// A registry whose loads the test ends. They do not notice that they are cancelled.
fn manual() -> (Models, Receiver<Begun>) {
    let (begun, loads) = mpsc::channel();
    let start: Start = Arc::new(move |progress, cancel| {
        // A rendezvous channel: a report is true when the test receives it.
        let (tell, cancelled) = mpsc::sync_channel(0);
        let (end, ended) = mpsc::channel();
        let is_told = begun.send(Begun {
            cancel: cancelled,
            end,
        });
        is_told.unwrap();
        progress(Progress {
            what: "half of it".into(),
            percent: 50,
        });
        loop {
            let _ = tell.try_send(cancel.load(Ordering::Relaxed));
            match ended.recv_timeout(Duration::from_millis(1)) {
                Ok(result) => return result,
                Err(RecvTimeoutError::Timeout) => (),
                Err(RecvTimeoutError::Disconnected) => panic!("on purpose"),
            }
        }
    });
    (Models::new(start), loads)
}

/// A thread that waits for an engine.
struct Waiter {
    cancel: Arc<AtomicBool>,
    thread: JoinHandle<Loaded>,
}

impl Waiter {
    /// Returns when the waiter has had a progress report.
    fn new(registry: &Models) -> Self {
        let (tell, told) = mpsc::channel();
        let (registry, cancel) = (registry.clone(), Arc::new(AtomicBool::new(false)));
        let flag = cancel.clone();
        let thread = thread::spawn(move || {
            let mut progress = |step: Progress| tell.send(step).unwrap();
            registry.load(HERE, &mut progress, &flag)
        });
        let step = told.recv_timeout(WATCHDOG).unwrap();
        assert_eq!((step.what.as_str(), step.percent), ("half of it", 50));
        Self { cancel, thread }
    }

    /// Returns when the thread has started.
    fn unheard(registry: &Models, key: &'static str) -> Self {
        let (registry, cancel) = (registry.clone(), Arc::new(AtomicBool::new(false)));
        let flag = cancel.clone();
        let thread = thread::spawn(move || registry.load(key, &mut |_| (), &flag));
        Self { cancel, thread }
    }

    fn cancel(self) {
        self.cancel.store(true, Ordering::Relaxed);
        assert!(matches!(self.result(), Err(LoadError::Cancelled)));
    }

    fn result(self) -> Loaded {
        let start = std::time::Instant::now();
        while !self.thread.is_finished() {
            assert!(start.elapsed() < WATCHDOG, "it waits for ever");
            thread::sleep(Duration::from_millis(1));
        }
        self.thread.join().unwrap()
    }
}

fn same(a: &Arc<dyn Backend>, b: &Arc<dyn Backend>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

#[test]
fn equal_models_are_one_engine_that_ends_with_its_last_user() {
    let (registry, loads) = ready();
    let first = ask(&registry, HERE).unwrap();
    let mut steps = Vec::new();
    let second = registry.load(
        HERE,
        &mut |step| steps.push(step.percent),
        &AtomicBool::new(false),
    );
    let second = second.unwrap();
    assert!(same(&first, &second));
    assert_eq!(steps, [100]);
    assert_eq!(loads.load(Ordering::SeqCst), 1);

    let other = ask(&registry, "other").unwrap();
    assert!(!same(&first, &other));
    assert_eq!(loads.load(Ordering::SeqCst), 2);

    drop(first);
    let third = ask(&registry, HERE).unwrap();
    assert!(same(&second, &third));
    let weak = Arc::downgrade(&third);
    drop((second, third));
    assert!(weak.upgrade().is_none(), "a reference is left");
    ask(&registry, HERE).unwrap();
    assert_eq!(loads.load(Ordering::SeqCst), 3);
    // The first engine has ended, and the registry has the other one only.
    drop(ask(&registry, "other").unwrap());
    assert_eq!(registry.lock().len(), 1);
}

#[test]
fn all_who_ask_wait_for_one_load() {
    let (registry, loads) = manual();
    let waiters = [(); 3].map(|()| Waiter::new(&registry));
    let engine: Arc<dyn Backend> = Arc::new(engine());
    let begun = loads.recv_timeout(WATCHDOG).unwrap();
    begun.end.send(Ok(engine.clone())).unwrap();
    for waiter in waiters {
        assert!(same(&waiter.result().unwrap(), &engine));
    }
    assert!(loads.try_recv().is_err(), "a second load");
}

#[test]
fn all_hear_why_a_load_failed_and_the_next_one_tries_again() {
    let (registry, loads) = manual();
    for panics in [false, true] {
        let waiters = [(); 2].map(|()| Waiter::new(&registry));
        let begun = loads.recv_timeout(WATCHDOG).unwrap();
        let wanted = if panics {
            drop(begun.end);
            "loading panicked (on purpose)"
        } else {
            let error = LoadError::NotFound("no such model".into());
            begun.end.send(Err(error)).unwrap();
            "no such model"
        };
        for waiter in waiters {
            assert_eq!(waiter.result().err().unwrap().to_string(), wanted);
        }
    }
    let waiter = Waiter::new(&registry);
    let begun = loads.recv_timeout(WATCHDOG).unwrap();
    begun.end.send(Ok(Arc::new(engine()))).unwrap();
    waiter.result().unwrap();
}

#[test]
fn a_waiter_that_gives_up_leaves_the_load_to_the_others() {
    let (registry, loads) = manual();
    let [first, second, third] = [(); 3].map(|()| Waiter::new(&registry));
    let begun = loads.recv_timeout(WATCHDOG).unwrap();
    first.cancel();
    third.cancel();
    assert!(!begun.is_cancelled());
    begun.end.send(Ok(Arc::new(engine()))).unwrap();
    second.result().unwrap();
}

/// Waits until the condition is true.
fn comes_true(what: &str, condition: impl Fn() -> bool) {
    let start = std::time::Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "{what}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_load_without_waiters_is_cancelled_and_ends_before_the_next_one() {
    let (registry, loads) = manual();
    let waiters = [(); 2].map(|()| Waiter::new(&registry));
    let old = loads.recv_timeout(WATCHDOG).unwrap();
    waiters.into_iter().for_each(Waiter::cancel);
    assert!(old.is_cancelled());

    // It has not noticed when the model is wanted again.
    let waiter = Waiter::unheard(&registry, HERE);
    assert!(loads.recv_timeout(Duration::from_millis(200)).is_err());
    let unwanted: Arc<dyn Backend> = Arc::new(engine());
    let weak = Arc::downgrade(&unwanted);
    old.end.send(Ok(unwanted)).unwrap();
    comes_true("a reference is left", || weak.strong_count() == 0);
    let new = loads.recv_timeout(WATCHDOG).unwrap();
    let wanted: Arc<dyn Backend> = Arc::new(engine());
    new.end.send(Ok(wanted.clone())).unwrap();
    assert!(same(&waiter.result().unwrap(), &wanted));
    assert!(same(&ask(&registry, HERE).unwrap(), &wanted));
}

/// Other models.
const OTHERS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

#[test]
fn loads_that_were_given_up_do_not_pile_up() {
    let running = Arc::new(AtomicUsize::new(0));
    let (most, loads) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (running.clone(), most.clone(), loads.clone());
    // A load that notices its cancellation late, and holds its memory meanwhile.
    let start: Start = Arc::new(move |_, cancel| {
        let (running, most, loads) = &counts;
        loads.fetch_add(1, Ordering::SeqCst);
        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(150));
        running.fetch_sub(1, Ordering::SeqCst);
        match cancel.load(Ordering::Relaxed) {
            true => Err(LoadError::Cancelled),
            false => Ok(Arc::new(engine())),
        }
    });
    let registry = Models::new(start);
    let give_up = |key: &'static str| {
        let waiter = Waiter::unheard(&registry, key);
        thread::sleep(Duration::from_millis(10));
        waiter.cancel();
    };
    for _ in 0..12 {
        give_up(HERE);
    }
    assert_eq!(most.load(Ordering::SeqCst), 1, "of one model");
    assert!(loads.load(Ordering::SeqCst) < 12, "all of them began");
    for model in OTHERS {
        give_up(model);
    }
    assert!(most.load(Ordering::SeqCst) <= 2, "of many models");
    // The next load gets the model.
    ask(&registry, HERE).unwrap();
    comes_true("a load goes on", || running.load(Ordering::SeqCst) == 0);
}

#[test]
fn models_that_are_wanted_load_at_the_same_time() {
    let (registry, loads) = manual();
    let folders = ["a", "b", "c", "d"];
    let waiters = folders.map(|folder| Waiter::unheard(&registry, folder));
    let begun = folders.map(|_| loads.recv_timeout(WATCHDOG).unwrap());
    for load in begun {
        load.end.send(Ok(Arc::new(engine()))).unwrap();
    }
    for waiter in waiters {
        waiter.result().unwrap();
    }
}

#[test]
fn an_engine_that_broke_down_is_replaced() {
    let broken = Arc::new(AtomicBool::new(false));
    let next = Mutex::new(Some(broken.clone()));
    let start: Start = Arc::new(move |_, _| {
        let broken = next.lock().unwrap().take().unwrap_or_default();
        let engine = Engine { broken, ..engine() };
        Ok(Arc::new(engine))
    });
    let registry = Models::new(start);
    let first = ask(&registry, HERE).unwrap();
    broken.store(true, Ordering::Relaxed);
    let second = ask(&registry, HERE).unwrap();
    assert!(!same(&first, &second));
    drop(first);
    assert!(same(&second, &ask(&registry, HERE).unwrap()));
}

/// Concurrent users of the model have the same engine, whichever of them give up.
#[test]
fn many_users_come_and_go() {
    let number = AtomicUsize::new(0);
    let start: Start = Arc::new(move |_, cancel| {
        thread::sleep(Duration::from_micros(200));
        if cancel.load(Ordering::Relaxed) {
            return Err(LoadError::Cancelled);
        }
        number.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(engine()))
    });
    let registry = Models::new(start);
    let in_use = Mutex::new(BTreeMap::<usize, usize>::new());
    let address = |engine: &Arc<dyn Backend>| Arc::as_ptr(engine).cast::<()>() as usize;
    thread::scope(|scope| {
        for user in 0..8u64 {
            let (registry, in_use) = (&registry, &in_use);
            scope.spawn(move || {
                for round in 0..100u64 {
                    let gives_up = (user + round).is_multiple_of(3);
                    let cancel = AtomicBool::new(gives_up);
                    let engine = match registry.load(HERE, &mut |_| (), &cancel) {
                        Ok(engine) => engine,
                        Err(LoadError::Cancelled) if gives_up => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let mut users = in_use.lock().unwrap();
                    *users.entry(address(&engine)).or_default() += 1;
                    assert_eq!(users.len(), 1, "two engines");
                    drop(users);
                    thread::sleep(Duration::from_micros(50 * (user + 1)));
                    let mut users = in_use.lock().unwrap();
                    users.retain(|used, count| {
                        *count -= usize::from(*used == address(&engine));
                        *count > 0
                    });
                }
            });
        }
    });
    drop(ask(&registry, HERE).unwrap());
    let entries = registry.lock();
    assert!(entries.values().all(|entry| !entry.is_alive()));
}
