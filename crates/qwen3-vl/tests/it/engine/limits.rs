//! Windows that do not fit into the cache, the context or the model.

use qwen3_vl::engine::sequence::Ask;
use qwen3_vl::tokenizer::Tokenizer;
use serde_json::json;

use super::*;
use crate::support::demo;

/// The cache holds one window at a time: windows that wait are answered one after the other, others
/// fail at once, and one that can never fit is invalid.
#[test]
fn a_full_cache_holds_windows_back_or_refuses_them() {
    let head = |tokens, waits| WindowHead {
        tokens,
        waits,
        ..WindowHead::default()
    };
    let open = |backend: &dyn Backend, head| {
        let (lost, why) = lost();
        let mut window = backend.open(head, lost);
        pairs(2, SMALL, 0)
            .into_iter()
            .for_each(|pair| window.push(pair));
        (window, why)
    };
    let ask = |mut window: Box<dyn Window>| {
        let (sink, rx) = log();
        window.ask(question(0.0, 8), sink);
        rx
    };
    let expected = answer(&self::ask(&*backend(), pairs(2, SMALL, 0), question(0.0, 8)).1).tokens;
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let block = runner.parts.model.kv.block_bytes() as u64;
    let options = LoadOptions {
        kv_memory: Some(KvMemory::Bytes(2 * block)),
        ..options()
    };
    let backend = load(&options, &mut |_| (), &AtomicBool::new(false)).unwrap();
    let (first, _) = open(&*backend, head(200, false));
    let waiting = [0, 1].map(|_| open(&*backend, head(200, true)).0);
    let (_full, full) = open(&*backend, head(1, false));
    let (_never, never) = open(&*backend, head(257, true));
    assert_lost(&full, Failure::Full, "kv-memory");
    assert_lost(&never, Failure::Invalid, "kv-memory");
    let waiting = waiting.map(ask);
    assert!(
        waiting.iter().all(|rx| rx.try_recv().is_err()),
        "the first one has all blocks"
    );
    for rx in [ask(first)].iter().chain(&waiting) {
        assert_eq!(answer(rx).tokens, expected);
    }
    // Blocks are free for the next window as soon as one has ended, however it ends.
    for i in 0..20 {
        let (window, _) = open(&*backend, head(200, false));
        if i % 2 == 0 {
            assert_eq!(answer(&ask(window)).tokens, expected);
        }
    }
    // A window that declared too little is refused when it needs more, and does not affect others.
    let (small, _) = open(&*backend, head(200, false));
    let (_, liar) = self::ask(&*backend, pairs(5, SMALL, 0), question(0.0, 8));
    assert_fails(&liar, Failure::Full, "kv-memory");
    let small = ask(small);
    assert_eq!(answer(&small).tokens, expected);
    all_blocks_are_free(&*backend);
}

/// A window that can never fit is refused by its head, or at the input that exceeds the limit,
/// before that is encoded.
#[test]
fn a_window_beyond_the_context_is_refused_before_anything_is_encoded() {
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let limits = *runner.limits();
    assert_eq!(limits.context, 4096);
    let sequence = |inputs: Vec<VisionInput>| {
        let state = runner.parts.model.new_state();
        let mut sequence = Sequence::new(0, &WindowHead::default(), Box::new(|_| ()), state);
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
    let (lost, why) = lost();
    let mut window = backend.open(head, lost);
    assert_lost(&why, Failure::Invalid, "4097 tokens");
    // A request gets the failure again.
    for _ in 0..2 {
        let (sink, rx) = log();
        window.ask(question(0.0, 8), sink);
        assert_fails(&rx, Failure::Invalid, "4097 tokens");
    }
}

#[test]
fn the_tokens_of_a_prompt_are_known_before_it_is_asked() {
    let backend = backend();
    let prompts = [
        "How many cars?",
        "Zählst du die Autos auf der linken Spur, bitte? 🚗",
    ];
    let tokens = prompts.map(|prompt| {
        let question = Request {
            prompt: prompt.into(),
            ..question(0.0, 1)
        };
        let (_, rx) = ask(&*backend, pairs(1, SMALL, 0), question);
        answer(&rx).prompt_tokens as usize - backend.text_tokens(prompt)
    });
    assert_eq!(tokens[0], tokens[1], "what stands around the prompt");
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
            Failure::Invalid,
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
        Failure::Invalid,
        "more than the model's 4096 tokens of context",
    );
    assert_works(&*backend);
}

/// A request that waits for blocks is looked at in every turn of the engine. Its prompt is tokenized
/// in the first: what another tokenizer would make of it does not show.
#[test]
fn a_waiting_prompt_is_tokenized_once() {
    let own = demo::demo();
    let letters = demo::with("tokenizer.json", |file| file["model"]["merges"] = json!([]));
    let tokenizer = |folder: &Path| {
        let json = std::fs::read(folder.join("tokenizer.json")).unwrap();
        Tokenizer::from_json(&json).unwrap()
    };
    let (own, letters) = (tokenizer(own.path()), tokenizer(letters.path()));
    let (_, runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let asked = || {
        let state = runner.parts.model.new_state();
        let mut window = Sequence::new(0, &WindowHead::default(), Box::new(|_| ()), state);
        let (sink, _events) = log();
        let ask = Ask {
            id: 1,
            request: question(0.0, 8),
            sink,
            at: Instant::now(),
            waiter: None,
        };
        window.ask(ask, 0);
        window.close();
        window
    };
    let (one, other) = (asked(), asked());
    let tokens = one.asked_tokens(&own).unwrap();
    assert!(
        other.asked_tokens(&letters).unwrap() > tokens,
        "the test is weak"
    );
    assert_eq!(one.asked_tokens(&letters), Some(tokens));
}
