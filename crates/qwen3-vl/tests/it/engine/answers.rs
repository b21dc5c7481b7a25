//! Answers do not depend on the timing of the frames or on other windows.

use super::*;

#[test]
fn the_timing_of_the_frames_does_not_change_the_answer() {
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

        // One pair after the other, each prefilled before the next is pushed; the second window's
        // pairs are interleaved.
        let mut windows = [0, 3].map(|k| (open(&*backend), pairs(4, SMALL, k).into_iter()));
        for _ in 0..4 {
            for (window, pairs) in &mut windows {
                window.push(pairs.next().unwrap());
                thread::sleep(Duration::from_millis(30));
            }
        }
        let receivers = windows.map(|(mut window, _)| {
            let (sink, rx) = log();
            window.ask(question(temperature, 40), sink);
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
/// once: each gets the answer that it gets alone.
#[test]
fn any_mix_of_windows_gets_the_answers_of_each_alone() {
    let backend = backend();
    let clips: Vec<_> = (0..3).map(|k| pairs(6, SMALL, k)).collect();
    // Clip, pairs, temperature and length of the answer.
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
        // Each window's pushes in order, and its end, shuffled with those of the others.
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
                (
                    Some((open(&*backend), sink)),
                    rx,
                    inputs(window).into_iter(),
                )
            })
            .collect();
        for (step, i) in order.into_iter().enumerate() {
            let (open, _, inputs) = &mut windows[i];
            match inputs.next() {
                Some(input) => open.as_mut().unwrap().0.push(input),
                None => {
                    let (mut window, sink) = open.take().unwrap();
                    window.ask(question(asked[i].2, asked[i].3), sink);
                }
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

/// Portrait, landscape and square, with equal numbers of tokens or not, at once: width and height
/// are not confused, and no frame is stretched to another's size.
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

#[test]
fn frames_that_windows_share_are_encoded_once() {
    let (_, mut runner) = load_runner(&options(), &mut |_| (), &AtomicBool::new(false)).unwrap();
    let now = Instant::now();
    let window = |runner: &Runner| {
        let state = runner.parts.model.new_state();
        Sequence::new(0, &WindowHead::default(), Box::new(|_| ()), state)
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
    assert_eq!(late.inputs().count(), 0, "it is being encoded already");
    let batch = runner.poll_encoded(true).unwrap();
    assert!(batch.failed.is_none() && late.awaits(&batch.inputs));
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
fn spelled(backend: &dyn Backend, question: Request) -> (Vec<(u32, String)>, Answer) {
    let question = Request {
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
    // High temperature, so that characters stay incomplete and are cut off.
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
    // The penalty makes tokens that occurred far likelier: the first token is repeated.
    let loops = |repetition_guard| Request {
        sampling: SamplingParams {
            presence_penalty: -1e4,
            ..SamplingParams::default()
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
    // An answer without repetition is not changed.
    let plain = ask(question(3.0, 100));
    let guard = Request {
        repetition_guard: 20,
        ..question(3.0, 100)
    };
    assert_eq!(ask(guard).tokens, plain.tokens);
}
