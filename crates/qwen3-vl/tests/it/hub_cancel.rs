//! Downloads that are cancelled or wait for each other, and what remains of them.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use qwen3_vl_core::load::{LoadError, Progress};

use crate::support::hub_case::*;
use crate::support::hub_server::{ID, Request, Server, sha256};

/// Tests that count threads run one after the other.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads of this process with this name.
fn threads(name: &str) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|comm| comm.trim() == name)
        .count()
}

fn comes_true(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < WATCHDOG, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn cancelling_ends_the_wait_the_thread_and_the_connection() {
    let _alone = alone();
    let open = Arc::new(AtomicUsize::new(0));
    for (kind, method, say) in [
        ("/api/", "GET", ""),
        (CONFIG, "HEAD", "HTTP/1.1 200 OK\r\n"),
        (
            CONFIG,
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 1500\r\n\r\n1",
        ),
        (
            WEIGHTS,
            "GET",
            "HTTP/1.1 200 OK\r\ncontent-length: 400000\r\n\r\n1",
        ),
    ] {
        let count = open.clone();
        let mut case = Case::hostile(move |request, stream| {
            let asked = request.path.contains(kind) && request.method == method;
            if asked {
                let _ = stream.write_all(say.as_bytes());
                count.fetch_add(1, Ordering::SeqCst);
                wait_for_the_end(stream);
                count.fetch_sub(1, Ordering::SeqCst);
            }
            asked
        });
        case.hub.stall_timeout = Duration::from_secs(600);
        for _ in 0..5 {
            let cancel = AtomicBool::new(false);
            let took = thread::scope(|scope| {
                let waiter =
                    scope.spawn(|| case.hub.fetch(ID, None, &mut |_: Progress| {}, &cancel));
                comes_true("no request arrives", || open.load(Ordering::SeqCst) == 1);
                let start = Instant::now();
                cancel.store(true, Ordering::Relaxed);
                let result = waiter.join().unwrap();
                assert!(matches!(result, Err(LoadError::Cancelled)), "{result:?}");
                start.elapsed()
            });
            assert!(took < Duration::from_secs(2), "{took:?}");
            comes_true("the connection stays", || open.load(Ordering::SeqCst) == 0);
            comes_true("the thread stays", || threads("qwen3-vl-hub") == 0);
        }
        case.check();
    }
}

#[test]
fn downloads_that_were_given_up_do_not_pile_up() {
    let _alone = alone();
    // A listener that accepts no connection once its queue is full: connecting cannot be
    // interrupted.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queue.push(stream);
        assert!(queue.len() < 10_000);
    }
    let mut case = Case::new(Server::start(model()));
    case.hub.endpoint = format!("http://{address}");
    case.hub.stall_timeout = Duration::from_secs(600);
    for _ in 0..12 {
        let cancel = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(30));
                cancel.store(true, Ordering::Relaxed);
            });
            let result = case.hub.fetch(ID, None, &mut |_| {}, &cancel);
            assert!(matches!(result, Err(LoadError::Cancelled)));
        });
        assert!(threads("qwen3-vl-hub") <= 1);
    }
    // The thread gives up by itself, whatever the stall timeout.
    comes_true("the thread stays", || threads("qwen3-vl-hub") == 0);
    case.check();
}

#[test]
fn another_program_s_download_is_waited_for() {
    let _alone = alone();
    let case = Case::new(Server::start(model()));
    let locks = case.hub.cache.join(".locks/models--owner--model");
    fs::create_dir_all(&locks).unwrap();
    let etag = sha256(&model()[WEIGHTS]);
    let lock = fs::File::create(locks.join(format!("{etag}.lock"))).unwrap();
    lock.lock().unwrap();
    // Cancelled while it waits.
    let cancel = AtomicBool::new(false);
    let mut waits = |step: Progress| {
        if step.what.contains("waiting for another program") {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let result = case.hub.fetch(ID, None, &mut waits, &cancel);
    assert!(matches!(result, Err(LoadError::Cancelled)));
    comes_true("the thread stays", || threads("qwen3-vl-hub") == 0);

    // The other program ends, after it has downloaded the file.
    let blobs = case.hub.cache.join("models--owner--model/blobs");
    let never = AtomicBool::new(false);
    let lock = std::cell::Cell::new(Some(lock));
    let mut ends = |step: Progress| {
        if step.what.contains("waiting for another program")
            && let Some(lock) = lock.take()
        {
            fs::write(blobs.join(&etag), &model()[WEIGHTS]).unwrap();
            drop(lock);
        }
    };
    let folder = case.hub.fetch(ID, None, &mut ends, &never).unwrap();
    assert!(fs::read(folder.join(WEIGHTS)).unwrap() == model()[WEIGHTS]);
    let asked_for_weights = |request: &Request| request.path.starts_with("/cdn/");
    assert!(!case.server.seen().iter().any(asked_for_weights));
    case.check();
}

#[test]
fn many_at_once_bring_each_file_once() {
    let _alone = alone();
    let case = Case::new(Server::start(model()));
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let folder = case.fetch().unwrap();
                let content = |name: &Path| fs::read(folder.join(name)).unwrap();
                assert!(content(Path::new(WEIGHTS)) == model()[WEIGHTS]);
            });
        }
    });
    let seen = case.server.seen();
    let gets = seen
        .iter()
        .filter(|request| request.method == "GET" && request.path.starts_with("/cdn/"));
    assert_eq!(gets.count(), 1);
    case.check();
}
