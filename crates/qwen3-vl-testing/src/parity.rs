//! Every stage of the model against the reference's values, for the tests and the program `engine`.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use candle_core::{DType, Tensor};

use super::sequence::{ask, window};
use super::{Check, Checkpoint, Golden, write_checkpoint, write_tokenizer};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::load::{LoadOptions, load_runner};
use qwen3_vl::model::{Chunk, SequenceSlice, SequenceState, Workspace};
use qwen3_vl::sampling::{Logits, TokenSampler};
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::frames::VisionInput;
use qwen3_vl_core::prompt::PromptLayout;
use qwen3_vl_core::request::{Request, SamplingParams};

/// An error because of which a check could not be made.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A case of `data/goldens`.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Checkpoint.
    pub checkpoint: Checkpoint,
    /// Name of the case.
    pub name: &'static str,
    /// Layout of its prompt.
    pub layout: PromptLayout,
}

/// All cases of a checkpoint.
pub fn cases(checkpoint: Checkpoint) -> Vec<Case> {
    let names: &[&str] = match checkpoint {
        Checkpoint::DenseTied => &[
            "even",
            "even__hf5nested",
            "odd",
            "resize",
            "up",
            "few",
            "nofps",
            "stream",
            "two",
            "wide",
            "images",
            "text",
        ],
        _ => &["even", "odd", "stream", "text"],
    };
    let layout = |name: &str| match name.ends_with("nested") {
        true => PromptLayout::Nested,
        false => PromptLayout::Canonical,
    };
    names
        .iter()
        .map(|name| Case {
            checkpoint,
            name,
            layout: layout(name),
        })
        .collect()
}

/// Writes a checkpoint into `folder` and loads it; its answers have no stop token, as in the
/// reference's.
///
/// # Errors
///
/// Those of writing and loading.
pub fn load(
    checkpoint: Checkpoint,
    folder: &Path,
    options: impl FnOnce(&Path) -> LoadOptions,
) -> Result<Runner, Error> {
    write_checkpoint(folder, checkpoint)?;
    write_tokenizer(folder)?;
    let (_, mut runner) = load_runner(&options(folder), &mut |_| {}, &AtomicBool::new(false))?;
    runner.parts.stop.clear();
    Ok(runner)
}

/// Compares every stage of a case. `tolerance` is for the numbers; ids, positions and greedy tokens
/// must be the same.
///
/// # Errors
///
/// If a stage cannot be computed at all.
pub fn check(runner: &mut Runner, case: Case, tolerance: f64) -> Result<Vec<Check>, Error> {
    let mut all = Vec::new();
    check_each(runner, case, tolerance, &mut |check| all.push(check))?;
    Ok(all)
}

/// Like [`check`], but gives each comparison to the callback at once.
///
/// # Errors
///
/// See [`check`].
pub fn check_each(
    runner: &mut Runner,
    case: Case,
    tolerance: f64,
    say: &mut dyn FnMut(Check),
) -> Result<(), Error> {
    let golden = Golden::load(case.checkpoint.name(), case.name)?;
    let name = format!("{} {}", case.checkpoint.name(), case.name);
    let mut checks = Checks {
        name,
        golden: &golden,
        tolerance,
        say,
    };
    let inputs: Vec<VisionInput> = match case.name {
        "text" => Vec::new(),
        _ => golden.inputs()?.into_iter().flatten().collect(),
    };
    let chunks = prompt(runner, &golden, case, &inputs, &mut checks)?;
    // One-shot, in small chunks, and several of both in the same passes: the same tokens, and the
    // same logits within the tolerance.
    let whole = chunks.clone();
    let small = chunks.iter().map(|chunk| chunk.split(7));
    let small: Vec<Chunk> = small.collect::<candle_core::Result<Vec<_>>>()?.concat();
    for (how, prompts) in [
        ("", vec![whole.clone()]),
        (" in chunks of 7", vec![small.clone()]),
        (" together", vec![small.clone(), whole, small]),
    ] {
        for Generated { logits, tokens } in generate(runner, &prompts)? {
            checks.logits(&logits, how)?;
            checks.tokens(&tokens, how)?;
        }
    }
    Ok(())
}

struct Checks<'a> {
    name: String,
    golden: &'a Golden,
    tolerance: f64,
    say: &'a mut dyn FnMut(Check),
}

impl Checks<'_> {
    fn floats(&mut self, stage: &str, got: &[f32], want: &[f32]) {
        let name = format!("{}: {stage}", self.name);
        (self.say)(Check::close(name, got, want, self.tolerance));
    }

    fn same(&mut self, stage: &str, got: &[i64], want: &[i64]) {
        let differing = got.iter().zip(want).filter(|(a, b)| a != b).count();
        let differing = differing + got.len().abs_diff(want.len());
        let name = format!("{}: {stage}", self.name);
        (self.say)(Check::count(name, differing, 0.0));
    }

    fn logits(&mut self, logits: &[f32], how: &str) -> Result<(), Error> {
        if !self
            .golden
            .names()?
            .iter()
            .any(|name| name == "last_logits")
        {
            return Ok(());
        }
        let want = self.golden.f32("last_logits")?;
        let stride = if want.len() == logits.len() { 1 } else { 16 };
        let got: Vec<f32> = logits.iter().step_by(stride).copied().collect();
        self.floats(&format!("logits{how}"), &got, &want);
        Ok(())
    }

    fn tokens(&mut self, tokens: &[u32], how: &str) -> Result<(), Error> {
        let want: Vec<i64> = self
            .golden
            .i32("greedy")?
            .into_iter()
            .map(i64::from)
            .collect();
        let got: Vec<i64> = tokens.iter().map(|t| i64::from(*t)).collect();
        self.same(&format!("24 greedy tokens{how}"), &got, &want);
        Ok(())
    }
}

/// Encodes the inputs and lays out the prompt; compares vision tokens, ids and positions.
fn prompt(
    runner: &mut Runner,
    golden: &Golden,
    case: Case,
    inputs: &[VisionInput],
    checks: &mut Checks<'_>,
) -> Result<Vec<Chunk>, Error> {
    let head = WindowHead {
        layout: case.layout,
        system_prompt: None,
        ..WindowHead::default()
    };
    let mut sequence = window(runner, 0, &head);
    let now = std::time::Instant::now();
    let mut chunks = Vec::new();
    let mut embeddings = Vec::new();
    let taps = runner
        .parts
        .model
        .config
        .vision_config
        .deepstack_visual_indexes
        .len();
    let mut deepstack = vec![Vec::new(); taps];
    let together = inputs.chunk_by(Runner::together);
    let batches = together.flat_map(|run| run.chunks(runner.most_together(&run[0])));
    let batches: Vec<_> = batches.collect();
    for batch in batches {
        for (input, encoded) in std::iter::zip(batch, runner.encode(batch)?) {
            embeddings.extend(floats(&encoded.tokens.embeddings)?);
            for (all, tap) in deepstack.iter_mut().zip(&encoded.tokens.deepstack) {
                all.extend(floats(tap)?);
            }
            sequence.push(input.clone(), 0, now);
            sequence.encoded(|_| Some(encoded.clone()));
            runner.advance(&mut sequence)?;
            chunks.push(sequence.take(usize::MAX, now)?);
        }
    }
    let names = golden.names()?;
    if names.iter().any(|name| name == "vision_embeds") {
        checks.floats(
            "vision embeddings",
            &embeddings,
            &golden.f32("vision_embeds")?,
        );
        for (i, tap) in deepstack.iter().enumerate() {
            let stage = format!("deepstack_{i}");
            checks.floats(&stage, tap, &golden.f32(&stage)?);
        }
    }
    let prompt = golden.summary["question"]
        .as_str()
        .unwrap_or("Hello, 世界!")
        .to_owned();
    let request = Request {
        prompt,
        max_tokens: 24,
        sampling: SamplingParams::default(),
        seed: 0,
        emit_tokens: false,
        repetition_guard: 0,
    };
    ask(&mut sequence, request, 0, now);
    runner.advance(&mut sequence)?;
    chunks.push(sequence.take(usize::MAX, now)?);
    let ids: Vec<i64> = chunks
        .iter()
        .flat_map(|c| &c.ids)
        .map(|id| i64::from(*id))
        .collect();
    let want: Vec<i64> = golden
        .i32("input_ids")?
        .into_iter()
        .map(i64::from)
        .collect();
    checks.same("input ids", &ids, &want);
    if names.iter().any(|name| name == "position_ids") {
        // Stored axis by axis.
        let got: Vec<i64> = (0..3)
            .flat_map(|axis| {
                chunks
                    .iter()
                    .flat_map(move |c| c.positions.iter().map(move |p| p[axis]))
            })
            .map(i64::from)
            .collect();
        let want: Vec<i64> = golden
            .i32("position_ids")?
            .into_iter()
            .map(i64::from)
            .collect();
        checks.same("position ids", &got, &want);
    }
    Ok(chunks)
}

/// The output of a prompt.
struct Generated {
    logits: Vec<f32>,
    tokens: Vec<u32>,
}

/// Logits after each prompt, and 24 greedy tokens. All prompts are in the same passes, each with
/// its next chunk or its next token.
fn generate(runner: &Runner, prompts: &[Vec<Chunk>]) -> Result<Vec<Generated>, Error> {
    struct Going {
        chunks: std::vec::IntoIter<Chunk>,
        next: Option<Chunk>,
        position: u32,
        state: SequenceState,
        first: Option<Vec<f32>>,
        tokens: Vec<u32>,
    }
    let text = &runner.parts.model.text;
    let mut workspace = Workspace::default();
    let going = prompts.iter().map(|chunks| {
        let last = chunks.iter().rev().find_map(|c| c.positions.last());
        let mut chunks = chunks.clone().into_iter();
        Some(Going {
            next: chunks.next(),
            chunks,
            position: last?[0],
            state: runner.parts.model.new_state(),
            first: None,
            tokens: Vec::new(),
        })
    });
    let mut going: Vec<Going> = going.collect::<Option<_>>().ok_or("an empty prompt")?;
    while going.iter().any(|prompt| prompt.next.is_some()) {
        let mut parts: Vec<SequenceSlice<'_>> = Vec::new();
        for prompt in &mut going {
            parts.extend(prompt.next.as_ref().map(|chunk| SequenceSlice {
                chunk,
                state: &mut prompt.state,
                outputs: usize::from(prompt.chunks.len() == 0),
            }));
        }
        let scores = text.forward(&mut parts, &mut workspace)?;
        let mut scores = scores.map_or(Ok(Vec::new()), rows)?.into_iter();
        for prompt in &mut going {
            if prompt.next.is_none() {
                continue;
            }
            prompt.next = prompt.chunks.next();
            if prompt.next.is_some() {
                continue;
            }
            let logits = scores.next().ok_or("no scores")?;
            let mut sampler = TokenSampler::new(SamplingParams::default(), 0);
            let token = sampler.next(Logits::All(&mut logits.clone()), &[], &[]);
            prompt.first.get_or_insert(logits);
            prompt.tokens.push(token);
            prompt.position += 1;
            prompt.next = (prompt.tokens.len() < 24).then(|| Chunk {
                ids: vec![token],
                positions: vec![[prompt.position; 3]],
                vision: Vec::new(),
            });
        }
    }
    let done = going.into_iter();
    Ok(done
        .map(|prompt| Generated {
            logits: prompt.first.unwrap_or_default(),
            tokens: prompt.tokens,
        })
        .collect())
}

#[allow(clippy::needless_pass_by_value)]
fn rows(tensor: Tensor) -> Result<Vec<Vec<f32>>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.to_vec2()?)
}

fn floats(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}
