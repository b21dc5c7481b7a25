//! Windows and requests in any order, in a KV cache of any size: each request ends once, and an
//! answer is the one that it has alone.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Operation {
    /// Says that it needs so many blocks.
    Open {
        blocks: usize,
        waits: bool,
    },
    /// So many pairs.
    Push {
        window: usize,
        count: u32,
    },
    /// Frames that the model cannot take.
    PushOdd {
        window: usize,
    },
    Ask {
        window: usize,
        question: usize,
    },
    Close {
        window: usize,
    },
    Cancel {
        request: usize,
    },
    /// Lets the engine come so far.
    Await {
        request: usize,
    },
}

fn operation() -> impl Strategy<Value = Operation> {
    let one = 0usize..100;
    prop_oneof![
        2 => (0usize..7, any::<bool>())
            .prop_map(|(blocks, waits)| Operation::Open { blocks, waits }),
        4 => (one.clone(), 1u32..4).prop_map(|(window, count)| Operation::Push { window, count }),
        1 => one.clone().prop_map(|window| Operation::PushOdd { window }),
        5 => (one.clone(), 0usize..5)
            .prop_map(|(window, question)| Operation::Ask { window, question }),
        2 => one.clone().prop_map(|window| Operation::Close { window }),
        1 => one.clone().prop_map(|request| Operation::Cancel { request }),
        1 => one.prop_map(|request| Operation::Await { request }),
    ]
}

fn questions() -> [Request; 5] {
    let endless = |max_tokens| Request {
        sampling: SamplingParams {
            presence_penalty: -1e4,
            ..SamplingParams::default()
        },
        ..question(0.0, max_tokens)
    };
    [
        question(0.0, 8),
        question(1.3, 5),
        question(0.0, 1),
        endless(150),
        endless(300),
    ]
}

/// Tokens of a window of so many pairs and one such answer, at most.
fn most_tokens(pairs: u32, request: &Request) -> usize {
    pairs as usize * 32 + 100 + request.max_tokens as usize
}

struct Asked {
    events: Receiver<Event>,
    handle: Box<dyn RequestHandle>,
    window: usize,
    question: usize,
    pairs: u32,
    cancelled: bool,
    /// Whether it is behind frames that the model cannot take.
    odd: bool,
    end: Option<Event>,
}

struct Opened {
    window: Option<Box<dyn Window>>,
    blocks: usize,
    waits: bool,
    pairs: u32,
    odd: bool,
    asks: usize,
}

struct Bench {
    backend: Arc<dyn Backend>,
    /// None: as many as can be.
    blocks: Option<usize>,
    windows: Vec<Opened>,
    asked: Vec<Asked>,
}

impl Bench {
    /// The window that is meant, if it is open.
    fn open(&mut self, window: usize) -> Option<(usize, &mut Opened)> {
        let index = window % self.windows.len().max(1);
        let opened = self.windows.get_mut(index)?;
        opened.window.is_some().then_some((index, opened))
    }

    fn does(&mut self, operation: Operation) {
        match operation {
            Operation::Open { blocks, waits } => {
                let head = WindowHead {
                    tokens: blocks * BLOCK_TOKENS,
                    waits,
                    ..WindowHead::default()
                };
                self.windows.push(Opened {
                    window: Some(self.backend.open(head, Box::new(|_| ()))),
                    blocks,
                    waits,
                    pairs: 0,
                    odd: false,
                    asks: 0,
                });
            }
            Operation::Push { window, count } => {
                if let Some((index, opened)) = self.open(window) {
                    let first = opened.pairs;
                    let inputs = pairs(first + count, SMALL, index as u32 % 2);
                    if let Some(window) = &mut opened.window {
                        let new = inputs.into_iter().skip(first as usize);
                        new.for_each(|input| window.push(input));
                        opened.pairs += count;
                    }
                }
            }
            Operation::PushOdd { window } => {
                if let Some((_, opened)) = self.open(window)
                    && let Some(window) = &mut opened.window
                {
                    let size = Size {
                        width: 100,
                        ..SMALL
                    };
                    window.push(pairs(1, size, 0).remove(0));
                    opened.odd = true;
                }
            }
            Operation::Ask { window, question } => {
                if let Some((index, opened)) = self.open(window)
                    && let Some(window) = &mut opened.window
                {
                    let (sink, events) = log();
                    opened.asks += 1;
                    let asked = Asked {
                        events,
                        handle: window.ask(questions()[question].clone(), sink),
                        window: index,
                        question,
                        pairs: opened.pairs,
                        cancelled: false,
                        odd: opened.odd,
                        end: None,
                    };
                    self.asked.push(asked);
                }
            }
            Operation::Close { window } => {
                if let Some((_, opened)) = self.open(window) {
                    opened.window = None;
                }
            }
            Operation::Cancel { request } => {
                let index = request % self.asked.len().max(1);
                if let Some(asked) = self.asked.get_mut(index) {
                    asked.handle.cancel();
                    asked.cancelled = true;
                }
            }
            Operation::Await { request } => {
                let index = request % self.asked.len().max(1);
                if let Some(asked) = self.asked.get_mut(index)
                    && asked.end.is_none()
                    // One whose window waits for another may wait for what comes later.
                    && !self.windows[asked.window].waits
                {
                    asked.end = Some(end(&asked.events));
                }
            }
        }
        if let Some(blocks) = self.blocks {
            let used = self.backend.kv_blocks();
            assert!(used <= blocks, "{used} of {blocks} blocks");
        }
    }

    /// Whether it must be answered: its window said what it needs and waits for that.
    fn must_be_answered(&self, asked: &Asked) -> bool {
        let window = &self.windows[asked.window];
        let need = most_tokens(window.pairs, &questions()[asked.question]);
        let honest = window.waits && window.asks == 1 && window.blocks * BLOCK_TOKENS >= need;
        let fits = self.blocks.is_none_or(|blocks| window.blocks <= blocks);
        let room = self.blocks.is_none() || honest && fits && !window.odd;
        room && !asked.odd && !asked.cancelled
    }
}

type Known = HashMap<(u32, u32, usize), Vec<u32>>;

fn check(alone: &dyn Backend, known: &mut Known, blocks: Option<usize>, all: &[Operation]) {
    let backend = match blocks {
        Some(blocks) => backend_of(blocks as u64),
        None => backend(),
    };
    let mut bench = Bench {
        backend,
        blocks,
        windows: Vec::new(),
        asked: Vec::new(),
    };
    all.iter().for_each(|operation| bench.does(*operation));
    for index in 0..bench.windows.len() {
        bench.does(Operation::Close { window: index });
    }
    for asked in &mut bench.asked {
        asked.end.get_or_insert_with(|| end(&asked.events));
    }
    for asked in &bench.asked {
        let about = (asked.window as u32 % 2, asked.pairs, asked.question);
        match asked.end.as_ref().unwrap() {
            Event::Answer(found) => {
                let tokens = known.entry(about).or_insert_with(|| {
                    let (clip, count, question) = about;
                    let question = questions()[question].clone();
                    answer(&ask(alone, pairs(count, SMALL, clip), question).1).tokens
                });
                assert_eq!(&found.tokens, tokens, "{about:?}");
                assert!(!asked.odd);
            }
            Event::Cancelled => assert!(asked.cancelled),
            Event::Failed(Failure::Full(_) | Failure::Invalid(_)) => {
                assert!(!bench.must_be_answered(asked), "{:?}", asked.end);
            }
            other => panic!("{other:?}"),
        }
    }
    all_blocks_are_free(&*bench.backend);
}

#[test]
fn each_request_ends_once_and_as_it_does_alone() {
    let (alone, known) = (backend(), std::cell::RefCell::new(Known::new()));
    let cases = (
        prop_oneof![Just(None), (1usize..9).prop_map(Some)],
        prop::collection::vec(operation(), 1..40),
    );
    let config = ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    )
    .run(&cases, |(blocks, operations)| {
        check(&*alone, &mut known.borrow_mut(), blocks, &operations);
        Ok(())
    })
    .unwrap();
}
