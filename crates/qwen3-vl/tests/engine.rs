//! The engine through its seam, with the demo model: answers, failures and ends of windows.
#![allow(missing_docs, clippy::unwrap_used)]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use proptest::prelude::{Just, Strategy};
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use qwen3_vl::backend::{
    Answer, Backend, Event, EventSink, Failure, FinishReason, Generation, Question, RequestHandle,
    WindowHead, WindowInput,
};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::engine::sequence::Sequence;
use qwen3_vl::engine::sink::Sink;
use qwen3_vl::frames::{Frame, Size, VisionInput};
use qwen3_vl::load::{
    DeviceChoice, DtypeChoice, LoadOptions, ModelSource, Quantization, load, load_runner,
};
use qwen3_vl::model::KvCache;
use qwen3_vl::registry::Registry;
use qwen3_vl::testing::clip;

/// No wait lasts longer: what is not there by then has hung.
const WATCHDOG: Duration = Duration::from_secs(60);

const SMALL: Size = Size {
    width: 128,
    height: 96,
};

fn options() -> LoadOptions {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    LoadOptions {
        source: ModelSource::Folder(folder),
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: Quantization::None,
        kv_memory: None,
    }
}

fn backend() -> Arc<dyn Backend> {
    load(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap()
}

/// Pairs of clip `k`, two frames a second.
fn pairs(count: u32, size: Size, k: u32) -> Vec<VisionInput> {
    let frame = |t: u32| Frame {
        rgb: clip(t, size, k).into(),
        size,
        seconds: f64::from(t) / 2.0,
    };
    (0..count)
        .map(|i| VisionInput::Pair([frame(2 * i), frame(2 * i + 1)]))
        .collect()
}

/// Sampled, so that the tokens depend on the logits more than the likeliest ones would.
fn question(temperature: f64, max_tokens: u32) -> Question {
    Question {
        prompt: "Describe this video.".into(),
        max_tokens,
        generation: Generation {
            temperature,
            ..Generation::default()
        },
        seed: 7,
        emit_tokens: false,
        repetition_guard: 0,
    }
}

fn log() -> (EventSink, Receiver<Event>) {
    let (tx, rx) = channel();
    let sink = move |event| {
        let _ = tx.send(event);
    };
    (Box::new(sink), rx)
}

/// All events of a window, until the backend lets go of its sink.
fn events(rx: &Receiver<Event>) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        match rx.recv_timeout(WATCHDOG) {
            Ok(event) => all.push(event),
            Err(RecvTimeoutError::Disconnected) => return all,
            Err(RecvTimeoutError::Timeout) => panic!("no end after {all:?}"),
        }
    }
}

/// The terminal event, which must be the only one and the last.
fn end(rx: &Receiver<Event>) -> Event {
    let mut all = events(rx);
    let terminal = all.iter().filter(|event| event.is_terminal()).count();
    assert_eq!(terminal, 1, "{all:?}");
    let last = all.pop().unwrap();
    assert!(last.is_terminal(), "{all:?} after {last:?}");
    last
}

fn answer(rx: &Receiver<Event>) -> Answer {
    match end(rx) {
        Event::Answer(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn assert_cancelled(rx: &Receiver<Event>) {
    let end = end(rx);
    assert!(matches!(end, Event::Cancelled), "{end:?}");
}

fn assert_fails(rx: &Receiver<Event>, failure: fn(String) -> Failure, text: &str) {
    match end(rx) {
        Event::Failed(found) => {
            let said = found.to_string();
            assert_eq!(found, failure(said.clone()), "the wrong kind");
            assert!(said.contains(text), "{said:?} does not say {text:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// Opens a window, pushes all and asks.
fn ask(
    backend: &dyn Backend,
    inputs: Vec<VisionInput>,
    question: Question,
) -> (Box<dyn RequestHandle>, Receiver<Event>) {
    let (sink, rx) = log();
    let mut window = backend.open(WindowHead::default(), sink);
    for input in inputs {
        window.push(input);
    }
    (window.close(question), rx)
}

fn assert_works(backend: &dyn Backend) {
    let (_, rx) = ask(backend, pairs(2, SMALL, 0), question(0.0, 4));
    assert!(!answer(&rx).tokens.is_empty());
}

/// A window whose answer stops at its first token until told to go on.
struct Stopped {
    handle: Box<dyn RequestHandle>,
    events: Receiver<Event>,
    go: Sender<()>,
}

impl Stopped {
    /// Returns when the engine has stopped there.
    fn new(backend: &dyn Backend) -> Self {
        let (tx, events) = channel();
        let (go, gate) = channel::<()>();
        let (at_token, reached) = channel();
        let mut stopped = false;
        let sink = Box::new(move |event: Event| {
            let stop = !event.is_terminal() && !std::mem::replace(&mut stopped, true);
            let _ = tx.send(event);
            if stop {
                at_token.send(()).unwrap();
                gate.recv_timeout(WATCHDOG).unwrap();
            }
        });
        let mut window = backend.open(WindowHead::default(), sink);
        for pair in pairs(2, SMALL, 0) {
            window.push(pair);
        }
        let question = Question {
            emit_tokens: true,
            ..question(0.0, 64)
        };
        let handle = window.close(question);
        reached.recv_timeout(WATCHDOG).unwrap();
        Self { handle, events, go }
    }
}

#[test]
fn the_way_of_the_frames_does_not_change_the_answer() {
    let backend = backend();
    for temperature in [0.0, 1.5] {
        let alone = |k| {
            let (_, rx) = ask(&*backend, pairs(4, SMALL, k), question(temperature, 40));
            answer(&rx)
        };
        let expected = [alone(0), alone(3)];
        assert!(!expected[0].tokens.is_empty());
        if temperature > 0.0 {
            assert_ne!(expected[0].tokens, expected[1].tokens, "the test is weak");
        }

        // One pair after the other, each prefilled before the next one comes; the second window's
        // pairs come in between.
        let mut windows = [0, 3].map(|k| {
            let (sink, rx) = log();
            let window = backend.open(WindowHead::default(), sink);
            (window, rx, pairs(4, SMALL, k).into_iter())
        });
        for _ in 0..4 {
            for (window, _, pairs) in &mut windows {
                window.push(pairs.next().unwrap());
                thread::sleep(Duration::from_millis(30));
            }
        }
        let receivers = windows.map(|(window, rx, _)| {
            window.close(question(temperature, 40));
            rx
        });
        for (rx, expected) in receivers.iter().zip(&expected) {
            let found = answer(rx);
            assert_eq!(found.tokens, expected.tokens);
            assert_eq!(found.text, expected.text);
            assert_eq!(found.grid, expected.grid);
            assert_eq!(found.prompt_tokens, expected.prompt_tokens);
        }

        // Two callers at once.
        thread::scope(|scope| {
            for (k, expected) in [0, 3].into_iter().zip(&expected) {
                let backend = &*backend;
                scope.spawn(move || {
                    for _ in 0..3 {
                        let (_, rx) = ask(backend, pairs(4, SMALL, k), question(temperature, 40));
                        assert_eq!(answer(&rx).tokens, expected.tokens);
                    }
                });
            }
        });
    }
}

/// Windows of any length, with shared frames or not, greedy or sampled, in any order and all at
/// once: each has the answer that it has alone.
#[test]
fn any_mix_of_windows_gets_the_answers_of_each_alone() {
    let backend = backend();
    let clips: Vec<_> = (0..3).map(|k| pairs(6, SMALL, k)).collect();
    // Clip, first and last pair, temperature and length of the answer.
    let asked = [
        (0, 0..4, 0.0, 40),
        (0, 2..6, 1.2, 40),
        (0, 0..6, 0.0, 3),
        (1, 0..1, 0.0, 40),
        (1, 0..6, 1.2, 25),
        (2, 1..5, 0.0, 40),
        (2, 3..4, 0.8, 1),
        (2, 0..6, 0.0, 40),
    ];
    let inputs =
        |(clip, range, ..): &(usize, Range<usize>, f64, u32)| clips[*clip][range.clone()].to_vec();
    let alone: Vec<Answer> = asked
        .iter()
        .map(|window| answer(&ask(&*backend, inputs(window), question(window.2, window.3)).1))
        .collect();
    let mut runner = TestRunner::deterministic();
    for _ in 0..4 {
        // Every window's pushes in their order, and its end, shuffled with the others'.
        let steps = asked
            .iter()
            .enumerate()
            .flat_map(|(i, window)| vec![i; window.1.len() + 1]);
        let order = Just(steps.collect::<Vec<_>>()).prop_shuffle();
        let order = order.new_tree(&mut runner).unwrap().current();
        let mut windows: Vec<_> = asked
            .iter()
            .map(|window| {
                let (sink, rx) = log();
                let open = backend.open(WindowHead::default(), sink);
                (Some(open), rx, inputs(window).into_iter())
            })
            .collect();
        for (step, i) in order.into_iter().enumerate() {
            let (open, _, inputs) = &mut windows[i];
            match inputs.next() {
                Some(input) => open.as_mut().unwrap().push(input),
                None => drop(open.take().unwrap().close(question(asked[i].2, asked[i].3))),
            }
            if step % 5 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
        for ((_, rx, _), alone) in windows.iter().zip(&alone) {
            let found = answer(rx);
            assert_eq!(found.tokens, alone.tokens);
            assert_eq!(found.prompt_tokens, alone.prompt_tokens);
        }
    }
    all_blocks_are_free(&*backend);
}

/// Portrait, landscape and square, of as many tokens or not, at once: width and height stay apart, and
/// nothing is stretched to another's size.
#[test]
fn windows_of_different_sizes_get_the_answers_of_each_alone() {
    let backend = backend();
    let sizes = [(96, 128), (128, 96), (64, 192), (192, 64), (128, 128)];
    let window = |(width, height)| pairs(3, Size { width, height }, 1);
    let grid = |(width, height)| [3, height / 16, width / 16];
    let alone = sizes.map(|size| answer(&ask(&*backend, window(size), question(1.5, 20)).1));
    let together = sizes.map(|size| ask(&*backend, window(size), question(1.5, 20)).1);
    for ((rx, alone), size) in together.iter().zip(&alone).zip(sizes) {
        let found = answer(rx);
        assert_eq!(found.grid, grid(size));
        assert_eq!(found.tokens, alone.tokens, "{size:?}");
    }
    assert_ne!(alone[0].tokens, alone[1].tokens, "the test is weak");
}

/// Whoever hears of a window's end may look before the engine has let go of it.
fn all_blocks_are_free(backend: &dyn Backend) {
    let start = Instant::now();
    while backend.kv_blocks() > 0 {
        assert!(start.elapsed() < WATCHDOG, "a window keeps its blocks");
        thread::yield_now();
    }
}

/// Room for one window at a time: those that wait are answered one after the other, the others fail
/// at once, and one that can never fit says so.
#[test]
fn a_full_cache_holds_windows_back_or_refuses_them() {
    let head = |tokens, waits| WindowHead {
        tokens,
        waits,
        ..WindowHead::default()
    };
    let ask = |backend: &dyn Backend, head| {
        let (sink, rx) = log();
        let mut window = backend.open(head, sink);
        pairs(2, SMALL, 0)
            .into_iter()
            .for_each(|pair| window.push(pair));
        (move || window.close(question(0.0, 8)), rx)
    };
    let expected = answer(&self::ask(&*backend(), pairs(2, SMALL, 0), question(0.0, 8)).1).tokens;
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let block = runner.parts.model.kv.block_bytes() as u64;
    let options = LoadOptions {
        kv_memory: Some(2 * block),
        ..options()
    };
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let (close, first) = ask(&*backend, head(200, false));
    let waiting = [0, 1].map(|_| ask(&*backend, head(200, true)));
    let (_close, full) = ask(&*backend, head(1, false));
    let (_close, never) = ask(&*backend, head(257, true));
    assert_fails(&full, Failure::Full, "kv-memory");
    assert_fails(&never, Failure::Request, "kv-memory");
    let waiting = waiting.map(|(close, rx)| {
        close();
        rx
    });
    assert!(
        waiting.iter().all(|rx| rx.try_recv().is_err()),
        "the first one has all room"
    );
    close();
    for rx in [first].iter().chain(&waiting) {
        assert_eq!(answer(rx).tokens, expected);
    }
    // Room is free for the next one as soon as a window has ended, however it ends.
    for i in 0..20 {
        let (close, rx) = ask(&*backend, head(200, false));
        if i % 2 == 0 {
            close();
            assert_eq!(answer(&rx).tokens, expected);
        }
    }
    // One that said too little is refused when it needs more, and disturbs nobody.
    let (close, small) = ask(&*backend, head(200, false));
    let (_, liar) = self::ask(&*backend, pairs(5, SMALL, 0), question(0.0, 8));
    assert_fails(&liar, Failure::Request, "kv-memory");
    close();
    assert_eq!(answer(&small).tokens, expected);
    all_blocks_are_free(&*backend);
}

#[test]
fn frames_that_windows_share_are_encoded_once() {
    let (_, mut runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let now = Instant::now();
    let window = |runner: &Runner| {
        let sink = Sink::new(Box::new(|_| ()));
        let kv = KvCache::new(&runner.parts.model.kv);
        Sequence::new(0, &WindowHead::default(), sink, kv)
    };
    let (mut a, mut b, mut late) = (window(&runner), window(&runner), window(&runner));
    let [first, second] = <[VisionInput; 2]>::try_from(pairs(2, SMALL, 0)).unwrap();
    a.push(first.clone(), 0, now);
    b.push(second.clone(), 1, now);
    b.push(first.clone(), 2, now);
    runner.encode_next(&mut [&mut a, &mut b]).unwrap();
    assert_eq!(a.inputs().count() + b.inputs().count(), 0);
    late.push(first, 3, now);
    runner.supply(&mut late);
    assert_eq!(late.inputs().count(), 0, "it is on its way already");
    let landing = runner.land(true).unwrap();
    assert!(landing.failed.is_none() && late.awaits(&landing.inputs));
    late.push(pairs(1, SMALL, 7).remove(0), 4, now);
    runner.advance(&mut late).unwrap();
    assert_eq!(late.inputs().count(), 1, "the other one is new");
    assert!(late.vision.is_zero());
}

#[test]
fn an_input_larger_than_what_is_kept_of_all_is_answered() {
    let size = Size {
        width: 1472,
        height: 1472,
    };
    let backend = backend();
    let (_, rx) = ask(&*backend, pairs(1, size, 0), question(0.0, 2));
    assert!(answer(&rx).prompt_tokens > 46 * 46);
}

/// Tokens and text of each event, and the answer.
fn spelled(backend: &dyn Backend, question: Question) -> (Vec<(u32, String)>, Answer) {
    let question = Question {
        emit_tokens: true,
        ..question
    };
    let (_, rx) = ask(backend, pairs(4, SMALL, 0), question);
    let mut tokens = Vec::new();
    for event in events(&rx) {
        match event {
            Event::Token { id, text } => tokens.push((id, text)),
            Event::Answer(answer) => return (tokens, answer),
            other => panic!("{other:?}"),
        }
    }
    panic!("no answer");
}

#[test]
fn each_token_has_its_id_and_all_texts_are_the_answer() {
    let backend = backend();
    let (mut incomplete, mut reasons) = (0, Vec::new());
    // Of a random choice, so that characters stay incomplete and are cut off.
    let random = (1..20).map(|tokens| question(3.0, tokens));
    for question in random.chain([question(0.0, 250)]) {
        let (tokens, answer) = spelled(&*backend, question);
        let (mut ids, texts): (Vec<u32>, Vec<String>) = tokens.into_iter().unzip();
        assert_eq!(ids.len(), answer.completion_tokens as usize);
        assert_eq!(texts.concat(), answer.text);
        reasons.push(answer.finish_reason);
        if answer.finish_reason == FinishReason::Stop {
            let last = ids.pop();
            assert!(
                [Some(504), Some(506)].contains(&last),
                "{last:?} ends no answer"
            );
        }
        assert_eq!(ids, answer.tokens);
        let silent = texts.iter().take(ids.len()).filter(|text| text.is_empty());
        incomplete += silent.count();
    }
    assert!(incomplete > 0, "the test is weak");
    for reason in [FinishReason::Length, FinishReason::Stop] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
}

/// The guarded answer is the beginning of the unguarded one.
#[test]
fn a_repetition_ends_the_answer() {
    let backend = backend();
    // What has been said is far likelier than the rest: the first token again and again.
    let loops = |repetition_guard| Question {
        generation: Generation {
            presence_penalty: -1e4,
            ..Generation::default()
        },
        repetition_guard,
        ..question(0.0, 150)
    };
    let ask = |question| answer(&ask(&*backend, pairs(4, SMALL, 0), question).1);
    let whole = ask(loops(0));
    assert_eq!(whole.finish_reason, FinishReason::Length);
    let guarded = ask(loops(40));
    assert_eq!(guarded.finish_reason, FinishReason::Repetition);
    assert_eq!(guarded.tokens.len(), 40, "{:?}", whole.tokens);
    assert!(whole.tokens.starts_with(&guarded.tokens) && whole.text.starts_with(&guarded.text));
    // What does not repeat itself is left alone.
    let plain = ask(question(3.0, 100));
    let guard = Question {
        repetition_guard: 20,
        ..question(3.0, 100)
    };
    assert_eq!(ask(guard).tokens, plain.tokens);
}

/// What can never fit is refused by its head alone, or when the input comes that is too much, before
/// that is encoded.
#[test]
fn a_window_beyond_the_context_is_refused_before_anything_is_encoded() {
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let limits = *runner.limits();
    assert_eq!(limits.context, 4096);
    let sequence = |inputs: Vec<VisionInput>| {
        let kv = KvCache::new(&runner.parts.model.kv);
        let mut sequence =
            Sequence::new(0, &WindowHead::default(), Sink::new(Box::new(|_| ())), kv);
        let now = Instant::now();
        inputs
            .into_iter()
            .for_each(|input| sequence.push(input, 0, now));
        sequence
    };
    let size = Size {
        width: 1024,
        height: 1024,
    };
    // 1024 tokens each.
    let [a, b, c, d] = <[VisionInput; 4]>::try_from(pairs(4, size, 0)).unwrap();
    let three = sequence(vec![a, b]);
    runner.check_next(&three, &c).unwrap();
    let three = sequence(three.to_come().cloned().chain([c]).collect());
    let error = runner.check_next(&three, &d).unwrap_err().to_string();
    assert!(
        error.contains("4097 tokens") && error.contains("model's 4096"),
        "{error}"
    );
    assert_eq!(three.inputs().count(), 3, "nothing has been encoded");

    let backend = backend();
    assert_eq!(backend.model().limits.context, 4096);
    let head = WindowHead {
        tokens: 4097,
        ..WindowHead::default()
    };
    let (sink, rx) = log();
    let _window = backend.open(head, sink);
    assert_fails(&rx, Failure::Request, "4097 tokens");
}

#[test]
fn the_tokens_of_a_prompt_are_known_before_it_is_asked() {
    let backend = backend();
    let prompts = [
        "How many cars?",
        "Zählst du die Autos auf der linken Spur, bitte? 🚗",
    ];
    let tokens = prompts.map(|prompt| {
        let question = Question {
            prompt: prompt.into(),
            ..question(0.0, 1)
        };
        let (_, rx) = ask(&*backend, pairs(1, SMALL, 0), question);
        answer(&rx).prompt_tokens as usize - backend.text_tokens(prompt)
    });
    assert_eq!(tokens[0], tokens[1], "what stands around the prompt");
}

/// The demo model with a context for frames of 16 megapixels, which it encodes for a minute or more.
fn large() -> (tempfile::TempDir, LoadOptions) {
    let folder = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
    for entry in std::fs::read_dir(demo).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    let long = text.replace(
        "\"max_position_embeddings\": 4096",
        "\"max_position_embeddings\": 65536",
    );
    assert_ne!(long, text);
    std::fs::write(config, long).unwrap();
    let options = LoadOptions {
        source: ModelSource::Folder(folder.path().into()),
        ..options()
    };
    (folder, options)
}

const LARGE: Size = Size {
    width: 4096,
    height: 4096,
};

/// What an interrupted step may take to end. It takes a fraction of a second on an idle machine; a step that
/// is not interrupted many times this.
const SOON: Duration = Duration::from_secs(10);

#[test]
fn an_engine_ends_in_the_middle_of_a_large_picture() {
    let (_folder, options) = large();
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let (_, rx) = ask(&*backend, pairs(1, LARGE, 0), question(0.0, 2));
    thread::sleep(Duration::from_millis(700));
    assert!(rx.try_recv().is_err(), "the test is weak");
    let start = Instant::now();
    drop(backend);
    assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    assert_cancelled(&rx);
}

#[test]
fn a_large_picture_that_nobody_waits_for_is_given_up() {
    let (_folder, options) = large();
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let large = pairs(1, LARGE, 0);
    // Closed or still open, and a small one waits behind it.
    for close in [true, false] {
        let (sink, rx) = log();
        let mut window = backend.open(WindowHead::default(), sink);
        window.push(large[0].clone());
        let (handle, window) = match close {
            true => (Some(window.close(question(0.0, 2))), None),
            false => (None, Some(window)),
        };
        thread::sleep(Duration::from_millis(700));
        let (_, small) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 4));
        assert!(
            small.try_recv().is_err() && rx.try_recv().is_err(),
            "the test is weak"
        );
        let start = Instant::now();
        if let Some(handle) = handle {
            handle.cancel();
        }
        drop(window);
        assert_cancelled(&rx);
        assert!(!answer(&small).tokens.is_empty());
        assert!(start.elapsed() < SOON, "{:?}", start.elapsed());
    }
    all_blocks_are_free(&*backend);
}

#[test]
fn an_open_window_is_cancelled_by_dropping_it() {
    let backend = backend();
    let (sink, rx) = log();
    let mut window = backend.open(WindowHead::default(), sink);
    for pair in pairs(2, SMALL, 0) {
        window.push(pair);
    }
    drop(window);
    assert_cancelled(&rx);
    assert_works(&*backend);
}

#[test]
fn a_request_is_cancelled_while_it_waits_and_while_it_is_answered() {
    let backend = backend();
    let first = Stopped::new(&*backend);
    let (waiting, rx) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 64));
    waiting.cancel();
    waiting.cancel();
    first.handle.cancel();
    first.go.send(()).unwrap();
    assert_cancelled(&rx);
    assert_cancelled(&first.events);
    // Too late: nothing happens.
    waiting.cancel();
    first.handle.cancel();
    assert_works(&*backend);
}

#[test]
fn dropping_a_handle_does_not_cancel() {
    let backend = backend();
    let (handle, rx) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 4));
    drop(handle);
    answer(&rx);
}

#[test]
fn frames_that_do_not_fit_fail_only_their_window() {
    let backend = backend();
    let odd = Size {
        width: 100,
        height: 96,
    };
    let mut short = pairs(1, SMALL, 0);
    if let VisionInput::Pair([_, second]) = &mut short[0] {
        second.rgb = second.rgb[3..].into();
    }
    let mut mixed = pairs(1, SMALL, 0);
    let (VisionInput::Pair([_, second]), VisionInput::Pair([other, _])) = (
        &mut mixed[0],
        pairs(1, Size { width: 64, ..SMALL }, 0).remove(0),
    ) else {
        panic!("no pairs");
    };
    *second = other;
    for inputs in [pairs(1, odd, 0), short, mixed] {
        let good = pairs(2, SMALL, 0).into_iter();
        let (_, rx) = ask(&*backend, good.chain(inputs).collect(), question(0.0, 8));
        assert_fails(
            &rx,
            Failure::Request,
            "does not fit: sides must be multiples of 32",
        );
        assert_works(&*backend);
    }
}

#[test]
fn a_full_context_fails_only_its_window() {
    let backend = backend();
    // 256 tokens a pair.
    let large = Size {
        width: 512,
        height: 512,
    };
    let (_, rx) = ask(&*backend, pairs(16, large, 0), question(0.0, 8));
    assert_fails(
        &rx,
        Failure::Request,
        "more than the model's 4096 tokens of context",
    );
    assert_works(&*backend);
}

#[test]
fn the_end_of_the_backend_ends_every_window() {
    let backend = backend();
    let running = Stopped::new(&*backend);
    let mut kept: Vec<Box<dyn WindowInput>> = Vec::new();
    let mut receivers = vec![running.events];
    // Untouched, and with frames.
    for count in [0, 3] {
        let (sink, rx) = log();
        let mut window = backend.open(WindowHead::default(), sink);
        for pair in pairs(count, SMALL, 0) {
            window.push(pair);
        }
        kept.push(window);
        receivers.push(rx);
    }
    let (handle, rx) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 64));
    receivers.push(rx);
    // The engine is joined, so it must go on while the backend is dropped.
    let dropping = thread::spawn(move || drop(backend));
    running.go.send(()).unwrap();
    dropping.join().unwrap();
    for rx in &receivers {
        let end = end(rx);
        assert!(
            matches!(end, Event::Cancelled | Event::Answer(_)),
            "{end:?}"
        );
    }
    // What callers still hold does no harm.
    handle.cancel();
    for mut window in kept {
        window.push(pairs(1, SMALL, 0).remove(0));
        window.close(question(0.0, 8));
    }
}

#[test]
fn a_panic_breaks_the_engine_for_everybody_once() {
    let registry = Registry::new(Arc::new(load));
    let shared = || {
        let never = AtomicBool::new(false);
        registry.load(&options(), &mut |_| (), &never).unwrap()
    };
    for at_the_end in [false, true] {
        let backend = shared();
        assert_eq!(Arc::strong_count(&shared()), 2, "it is not shared");
        let (sink, open) = log();
        let window = backend.open(WindowHead::default(), sink);

        let (tx, own) = channel();
        let mut panicked = false;
        let panics = Box::new(move |event: Event| {
            let now = event.is_terminal() == at_the_end && !panicked;
            let _ = tx.send(event);
            if now {
                panicked = true;
                panic!("on purpose");
            }
        });
        let (at_gate, reached) = channel();
        let (go, gate) = channel::<()>();
        let mut blocker = backend.open(
            WindowHead::default(),
            // Holds the engine until all requests are there.
            Box::new(move |_| {
                at_gate.send(()).unwrap();
                gate.recv_timeout(WATCHDOG).unwrap();
            }),
        );
        blocker.push(pairs(1, SMALL, 0).remove(0));
        blocker.close(question(0.0, 1));
        reached.recv_timeout(WATCHDOG).unwrap();

        let mut panicking = backend.open(WindowHead::default(), panics);
        panicking.push(pairs(1, SMALL, 0).remove(0));
        panicking.close(Question {
            emit_tokens: true,
            ..question(0.0, 4)
        });
        let (_, waiting) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 8));
        go.send(()).unwrap();

        match end(&own) {
            Event::Answer(_) if at_the_end => (),
            Event::Failed(Failure::Backend(_)) if !at_the_end => (),
            other => panic!("{other:?}"),
        }
        for rx in [&open, &waiting] {
            assert_fails(rx, Failure::Backend, "panicked (on purpose)");
        }
        window.close(question(0.0, 8));
        let (_, later) = ask(&*backend, pairs(2, SMALL, 0), question(0.0, 8));
        assert_fails(&later, Failure::Backend, "panicked (on purpose)");

        // Whoever loads the model again gets another engine.
        let next = shared();
        assert!(!next.is_broken());
        assert_works(&*next);
    }
}
