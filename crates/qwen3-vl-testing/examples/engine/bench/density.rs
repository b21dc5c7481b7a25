//! The number of live cameras that one engine keeps up with. Each camera pushes chunks without a
//! pause, a pair of frames at a time, and makes a request at the end of each. An engine keeps up if
//! 99 of 100 answers come before the next chunk ends.

use std::sync::mpsc::{Sender, channel};
use std::thread;

use qwen3_vl::load::load;
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::Backend;
use qwen3_vl_core::event::Event;

use super::*;

pub(super) fn run(options: &Options) -> anyhow::Result<Value> {
    let backend = load(&options.load, &mut |_| {}, &AtomicBool::new(false))?;
    let chunk = Duration::from_secs_f64(options.seconds);
    let mut rows = Vec::new();
    for &cameras in &options.cameras {
        let (done, answers) = channel();
        thread::scope(|scope| {
            for camera in 0..cameras {
                let (backend, done) = (&backend, done.clone());
                scope.spawn(move || live(&**backend, options, (camera, cameras), &done));
            }
        });
        drop(done);
        // The sinks of unanswered windows keep the channel open.
        let mut times: Vec<Duration> = answers.iter().collect::<anyhow::Result<_>>()?;
        anyhow::ensure!(
            times.len() == (cameras * options.windows) as usize,
            "a window has no answer"
        );
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share).ceil() as usize];
        let keeps_up = at(0.99) < chunk;
        rows.push(json!({
            "cameras": cameras,
            "answer_p50_s": seconds(at(0.5)),
            "answer_p99_s": seconds(at(0.99)),
            "keeps_up": keeps_up,
        }));
        if !keeps_up {
            break;
        }
    }
    Ok(
        json!({ "density": rows, "chunk_s": options.seconds, "fps": options.fps,
        "tokens": options.tokens, "peak_rss_gib": peak_rss_gib() }),
    )
}

/// One camera, which begins a little after the one before.
fn live(
    backend: &dyn Backend,
    options: &Options,
    (camera, cameras): (u32, u32),
    done: &Sender<anyhow::Result<Duration>>,
) {
    let count = (options.seconds * options.fps / 2.0).round().max(1.0) as u32;
    // Made beforehand, and different for each camera: equal frames would be encoded once.
    let frames: Vec<VisionInput> = pairs(options.size, camera, 0, count).collect();
    let each = Duration::from_secs_f64(2.0 / options.fps);
    let mut next = Instant::now() + each * count * camera / cameras;
    for _ in 0..options.windows {
        let done = done.clone();
        let sink = move |event| {
            let end = match event {
                Event::Token { .. } => return,
                Event::Answer(answer) => Ok(answer.timings.last_token),
                Event::Failed(failure) => Err(anyhow::anyhow!("{failure}")),
                Event::Cancelled => Err(anyhow::anyhow!("cancelled")),
            };
            // A receiver that has gone has failed already.
            let _ = done.send(end);
        };
        let mut window = backend.open(WindowHead::default(), Box::new(|_| ()));
        for pair in &frames {
            next += each;
            thread::sleep(next.saturating_duration_since(Instant::now()));
            window.push(pair.clone());
        }
        window.ask(request(options.tokens), EventSink::new(sink));
    }
}
