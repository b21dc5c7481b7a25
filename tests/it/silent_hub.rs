//! States change while a hub is silent.

use std::sync::mpsc;
use std::thread;

use qwen3_vl::hub::{Hub, Proxies};

use crate::common::bench::Bench;
use crate::common::{WATCHDOG, loader};
use crate::states::down_and_up;

/// A hub that accepts connections and never answers.
#[test]
fn while_the_hub_is_silent() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (connected, asked) = mpsc::channel();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            open.push(stream.unwrap());
            let _ = connected.send(());
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub {
        endpoint,
        cache: cache.path().into(),
        token: None,
        offline: false,
        stall_timeout: WATCHDOG,
        proxies: Proxies::default(),
    };
    let hooks = loader(move |_, progress, cancel| {
        let folder = hub.fetch("owner/model", None, progress, cancel)?;
        panic!("{folder:?} came from a silent hub");
    });
    let mut bench = Bench::new(hooks, true, &[]);
    for down in [gst::State::Ready, gst::State::Null, gst::State::Ready] {
        asked.recv_timeout(WATCHDOG).unwrap();
        down_and_up(&mut bench, down);
    }
    bench.stop();
    assert!(bench.messages.errors.is_empty(), "{:?}", bench.messages);
}
