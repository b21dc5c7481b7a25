//! Cameras that share the engine.

use std::sync::mpsc::{Sender, channel};

use qwen3_vl::load::load;
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::event::Event;

use super::*;

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let backend = load(&options.load, &mut |_| {}, &AtomicBool::new(false))?;
    let mut rows = Vec::new();
    for cameras in [1, 2, 4, 8, 16] {
        let (done, ended) = channel();
        let start = Instant::now();
        for camera in 0..cameras {
            window(&backend, options, camera, done.clone());
        }
        drop(done);
        let ends: Vec<Duration> = ended.iter().collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(ends.len() == cameras as usize, "a window has no answer");
        rows.push(json!({
            "cameras": cameras,
            "windows_per_s": f64::from(cameras) / start.elapsed().as_secs_f64(),
            "frames_per_s": f64::from(cameras * 2 * options.pairs) / start.elapsed().as_secs_f64(),
        }));
    }
    Ok(
        json!({ "streams": rows, "tokens": options.tokens, "frames": 2 * options.pairs,
        "peak_rss_gib": peak_rss_gib() }),
    )
}

/// One window of one camera; `done` gets the time of its answer.
fn window(
    backend: &Arc<dyn Backend>,
    options: &Options,
    camera: u32,
    done: Sender<anyhow::Result<Duration>>,
) {
    let start = Instant::now();
    let sink = move |event| {
        let end = match event {
            Event::Token { .. } => return,
            Event::Answer(_) => Ok(start.elapsed()),
            Event::Failed(failure) => Err(anyhow::anyhow!("{failure}")),
            Event::Cancelled => Err(anyhow::anyhow!("cancelled")),
        };
        // A receiver that has gone has failed already.
        let _ = done.send(end);
    };
    let mut window = backend.open(WindowHead::default(), Box::new(|_| ()));
    for pair in pairs(options.size, camera, 0, options.pairs) {
        window.push(pair);
    }
    window.ask(request(options.tokens), EventSink::new(sink));
}
