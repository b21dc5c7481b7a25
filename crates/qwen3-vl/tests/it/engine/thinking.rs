//! Thoughts before answers: of scripted tokens, and of the demo model with a vocabulary and chat
//! template of a model that thinks.

use qwen3_vl::engine::sequence::Ask;
use qwen3_vl::sampling::Logits;
use qwen3_vl::tokenizer::Tokenizer;
use tempfile::TempDir;

use super::*;
use crate::support::demo;

const THINK: u32 = demo::TAGS[0];
const END_THINK: u32 = demo::TAGS[1];
const END: u32 = 506;
const CONTEXT: usize = 4096;

fn runner(folder: &TempDir) -> Runner {
    let loaded = load_runner(
        &demo::options(folder.path()),
        &mut |_| (),
        &AtomicBool::new(false),
    );
    loaded.unwrap().1
}

fn request(reasoning_tokens: u32, max_tokens: u32) -> Request {
    Request {
        reasoning_tokens,
        emit_tokens: true,
        ..question(0.0, max_tokens)
    }
}

/// The events of a request for which the model generates these tokens, then the end of the turn.
/// `context` is what there is of it.
fn scripted(runner: &Runner, request: Request, script: &[u32], context: usize) -> Vec<Event> {
    let parts = &runner.parts;
    let state = parts.model.new_state();
    let mut sequence = Sequence::new(0, &WindowHead::default(), Box::new(|_| ()), state);
    let (sink, rx) = log();
    let ask = Ask {
        id: 1,
        request,
        sink,
        at: Instant::now(),
        waiter: None,
    };
    sequence.ask(ask, 0);
    sequence.close();
    sequence
        .advance(&parts.tokenizer, &parts.model.config)
        .unwrap();
    sequence.become_request(&parts.tokenizer);
    let mut script = script.iter().copied().chain(std::iter::repeat(END));
    while !sequence.ended() {
        let before = sequence.most_blocks(context);
        sequence.take(usize::MAX, Instant::now()).unwrap();
        let mut logits = vec![0.0; 512];
        logits[script.next().unwrap() as usize] = 1.0;
        let logits = Logits::All(&mut logits);
        sequence
            .sample(logits, context, &[END], &parts.tokenizer)
            .unwrap();
        assert!(
            sequence.most_blocks(context) <= before,
            "more than it announced"
        );
    }
    drop(sequence);
    events(&rx)
}

/// Text of the thought's tokens, text of the answer's tokens, number of each, and the answer.
struct Told {
    texts: [String; 2],
    tokens: [usize; 2],
    answer: Answer,
}

fn told(events: Vec<Event>) -> Told {
    let (mut texts, mut tokens) = (<[String; 2]>::default(), [0; 2]);
    let mut answers = Vec::new();
    for event in events {
        match event {
            Event::Token {
                text, reasoning, ..
            } => {
                let of = usize::from(!reasoning);
                assert!(of == 1 || tokens[1] == 0, "a thought after the answer");
                texts[of] += &text;
                tokens[of] += 1;
            }
            Event::Answer(answer) => answers.push(answer),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers.len(), 1);
    let answer = answers.remove(0);
    assert_eq!(texts[0], answer.reasoning.clone().unwrap_or_default());
    assert_eq!(texts[1], answer.text);
    assert_eq!(
        tokens.iter().sum::<usize>(),
        answer.completion_tokens as usize
    );
    Told {
        texts,
        tokens,
        answer,
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text).unwrap()
}

#[test]
fn a_thought_and_its_answer() {
    let runner = runner(&demo::thinking());
    let tokenizer = &runner.parts.tokenizer;
    let (thought, answer) = ("Two cars → left.\n", "Light traffic é.");
    let first = encode(tokenizer, thought);
    let last = encode(tokenizer, &format!("\n\n{answer}"));
    // The model repeats the tag of the prompt, or does not.
    for start in [&[][..], &[THINK]] {
        let script = [start, &first, &[END_THINK], &last].concat();
        let told = told(scripted(&runner, request(99, 99), &script, CONTEXT));
        assert_eq!(told.texts, [thought, answer]);
        let of_thought = start.len() + first.len() + 1;
        assert_eq!(told.tokens, [of_thought, last.len() + 1]);
        assert_eq!(told.answer.reasoning.as_deref(), Some(thought));
        assert_eq!(told.answer.finish_reason, FinishReason::Stop);
        assert_eq!(told.answer.tokens, script);
    }
}

/// As vLLM's `thinking_token_budget`: `</think>` is forced, and the answer has all its tokens.
#[test]
fn a_thought_that_reaches_its_bound_is_ended_and_answered() {
    let runner = runner(&demo::thinking());
    let tokenizer = &runner.parts.tokenizer;
    let words = encode(tokenizer, "a b c d e f g h i j");
    for bound in [0, 1, 3] {
        let told = told(scripted(&runner, request(bound as u32, 2), &words, CONTEXT));
        // The model's own token at the bound is not taken.
        let expected = [&words[..bound], &[END_THINK], &words[bound + 1..bound + 3]].concat();
        assert_eq!(told.answer.tokens, expected);
        assert_eq!(told.tokens, [bound + 1, 2]);
        assert_eq!(told.answer.finish_reason, FinishReason::Length);
        let thought = tokenizer.decode(&words[..bound]).unwrap();
        assert_eq!(told.answer.reasoning, Some(thought));
        assert_eq!(
            told.answer.text,
            tokenizer.decode(&expected[bound + 1..]).unwrap()
        );
    }
    // One that ends in time is not changed, and its length does not shorten the answer.
    let script = [&words[..3], &[END_THINK], &words[..4]].concat();
    let in_time = told(scripted(&runner, request(3, 4), &script, CONTEXT));
    assert_eq!(in_time.answer.tokens, script);
}

#[test]
fn a_thought_without_an_end_has_no_answer() {
    let runner = runner(&demo::thinking());
    let tokenizer = &runner.parts.tokenizer;
    let words = encode(tokenizer, "Two cars, a bus and");
    let thought = tokenizer.decode(&words).unwrap();
    let ends = |request: Request, script: &[u32], context| {
        let told = told(scripted(&runner, request, script, context));
        assert_eq!((told.answer.text.as_str(), told.tokens[1]), ("", 0));
        (told.answer.finish_reason, told.answer.reasoning.unwrap())
    };
    assert_eq!(
        ends(request(99, 9), &words, CONTEXT),
        (FinishReason::Stop, thought.clone())
    );
    let prompt = told(scripted(&runner, request(99, 9), &[], CONTEXT))
        .answer
        .prompt_tokens;
    let context = prompt as usize + words.len();
    let (length, said) = ends(request(99, 9), &[&words[..], &words].concat(), context);
    assert_eq!((length, said), (FinishReason::Length, thought));
    let guarded = Request {
        repetition_guard: 20,
        ..request(99, 9)
    };
    let (repetition, said) = ends(guarded, &[words[0]; 60], CONTEXT);
    assert_eq!(repetition, FinishReason::Repetition);
    assert_eq!(said, tokenizer.decode(&[words[0]; 20]).unwrap());
}

/// A vocabulary without `</think>`, which cannot be forced then.
#[test]
fn a_thought_that_cannot_be_ended_ends_the_request() {
    let folder = demo::thinking();
    demo::edit(folder.path(), "tokenizer.json", |file| {
        let added = file["added_tokens"].as_array_mut().unwrap();
        let token = added.iter_mut().find(|token| token["id"] == END_THINK);
        token.unwrap()["content"] = "<|other|>".into();
    });
    let runner = runner(&folder);
    let words = encode(&runner.parts.tokenizer, "a b c d e");
    let told = told(scripted(&runner, request(3, 9), &words, CONTEXT));
    assert_eq!(told.answer.finish_reason, FinishReason::Length);
    assert_eq!(
        (told.answer.tokens.len(), told.answer.text.as_str()),
        (3, "")
    );
}

/// Cosmos-Reason2 writes `<think>` itself when it is asked to. The demo model's vocabulary has no
/// such token, so that the tags are cut into many.
#[test]
fn a_model_that_may_think() {
    let runner = runner(&demo::demo());
    let tokenizer = &runner.parts.tokenizer;
    let script = |text: &str| encode(tokenizer, text);
    let whole = "\n<think>\nTwo cars.\n</think>\n\nLight traffic.";
    let may = told(scripted(&runner, request(99, 99), &script(whole), CONTEXT));
    assert_eq!(may.texts, ["\nTwo cars.\n", "Light traffic."]);
    assert_eq!(may.answer.finish_reason, FinishReason::Stop);
    // Whitespace and a part of the tag are of the thought if it comes, of the answer if not.
    let answer = script("Light traffic.").len() + 1;
    assert!(
        (answer..answer + 3).contains(&may.tokens[1]),
        "{:?}",
        may.tokens
    );
    for text in ["\n<thin ice>", "Light <think>traffic</think>.", " "] {
        let plain = told(scripted(&runner, request(99, 99), &script(text), CONTEXT));
        assert_eq!((plain.answer.text.as_str(), plain.tokens[0]), (text, 0));
        assert_eq!(plain.answer.reasoning, None);
    }
    // Nobody expects a thought.
    let text = told(scripted(&runner, request(0, 99), &script(whole), CONTEXT));
    assert_eq!(
        (text.answer.text.as_str(), text.answer.reasoning),
        (whole, None)
    );
    // An answer that does not begin is bounded as well.
    let silent = told(scripted(
        &runner,
        request(99, 3),
        &script("\n \n \n \n \n \n"),
        CONTEXT,
    ));
    assert_eq!(silent.answer.finish_reason, FinishReason::Length);
    assert_eq!(silent.tokens, [0, 3]);
}

/// From the chat template to the answer, with the demo model, which never ends a thought itself.
#[test]
fn a_backend_that_thinks() {
    let folder = demo::thinking();
    let backend = demo::load(folder.path()).unwrap();
    let plain = demo::load(demo::demo().path()).unwrap();
    let inputs = || pairs(2, SMALL, 0);
    let question = Request {
        reasoning_tokens: 5,
        emit_tokens: true,
        ..question(0.0, 6)
    };
    let (_, rx) = ask(&*backend, inputs(), question.clone());
    let alone = told(events(&rx));
    assert_eq!(alone.answer.tokens[5], END_THINK);
    assert_eq!(alone.tokens[0], 6);
    assert!(alone.answer.tokens.len() <= 5 + 1 + 6);
    let unthinking = answer(&ask(&*plain, inputs(), question.clone()).1);
    // `<think>` and the newline behind it.
    assert_eq!(alone.answer.prompt_tokens, unthinking.prompt_tokens + 2);
    assert_eq!(unthinking.reasoning, None);
    // The same from forks of a window.
    let mut window = open(&*backend);
    inputs().into_iter().for_each(|input| window.push(input));
    let asks = [(); 2].map(|()| {
        let (sink, rx) = log();
        window.ask(question.clone(), sink);
        rx
    });
    drop(window);
    for rx in asks {
        let fork = told(events(&rx));
        assert_eq!(fork.answer.tokens, alone.answer.tokens);
        assert_eq!(fork.answer.reasoning, alone.answer.reasoning);
    }
    all_blocks_are_free(&*backend);
}
