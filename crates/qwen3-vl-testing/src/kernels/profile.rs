//! The time of each kernel of a pass, by CUDA events. Between two kernels there is a matrix product
//! of cuBLAS.

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::CudaEvent;
use candle_core::{CudaDevice, Result};

use super::work::{between, is_product, of_product};
use qwen3_vl::cuda::launch::{Argument, device};
use qwen3_vl::cuda::profile::{Timed, moment, record, seconds};
use qwen3_vl::engine::runner::Runner;
use qwen3_vl::model::{Chunk, SequenceSlice, SequenceState, Workspace};

/// Number of passes of a kind, of which the fastest counts.
const PASSES: usize = 3;
/// Bytes that are cleared before a pass, and how often: about 3 ms on an H100, in which the host
/// gets ahead. Else the device's waits for the host would count.
const AHEAD: (usize, usize) = (64 << 20, 128);

/// One kind of work in a pass.
#[derive(Clone, Debug)]
pub struct Row {
    /// The kernel, or the product.
    pub name: String,
    /// Number of launches.
    pub calls: usize,
    /// Seconds of all calls.
    pub seconds: f64,
    /// Least bytes that all calls read and write.
    pub bytes: f64,
    /// Multiplications and additions of all calls.
    pub operations: f64,
}

/// The profile of a pass.
#[derive(Clone, Debug)]
pub struct Table {
    /// Kernels and products, in the order of use.
    pub rows: Vec<Row>,
    /// Seconds from before the first kernel to behind the last product, with the events.
    pub whole: f64,
    /// Seconds of the same pass without events, kernel by kernel.
    pub kernels: f64,
    /// Seconds of the same pass recorded, or why it is not recorded.
    pub recorded: std::result::Result<f64, String>,
}

/// Times a prefill of `tokens` tokens in one pass, and a decode step after them; with `graphs` also
/// the recorded step.
///
/// # Errors
///
/// If the device fails or is not an NVIDIA GPU.
pub fn profile(runner: &Runner, tokens: usize, graphs: bool) -> Result<[Table; 2]> {
    let model = &runner.parts.model;
    let on = device(model.kv.device())?;
    let text = &model.config.text_config;
    let mut bench = Bench {
        runner,
        on,
        dimensions: Dimensions {
            hidden: text.hidden_size,
            intermediate: text.intermediate_size,
            heads: text.num_attention_heads,
            kv_heads: text.num_key_value_heads,
            width: text.head_dim,
            vocabulary: text.vocab_size,
            bytes: model.kv.dtype().size_in_bytes(),
            rows: 0,
            keys: 0,
        },
        workspace: Workspace::default(),
    };
    kept(&mut bench.workspace)?.graphs.enabled = false;
    let prefill = bench.pass(0, tokens)?;
    let mut decode = bench.pass(tokens, 1)?;
    if graphs {
        kept(&mut bench.workspace)?.graphs.enabled = true;
        decode.recorded = bench.recorded(tokens)?;
    }
    Ok([prefill, decode])
}

/// What passes on the device keep.
fn kept(workspace: &mut Workspace) -> Result<&mut qwen3_vl::cuda::workspace::Workspace> {
    workspace.of_device()
}

struct Bench<'a> {
    runner: &'a Runner,
    on: &'a CudaDevice,
    dimensions: Dimensions,
    workspace: Workspace,
}

impl Bench<'_> {
    /// Profiles a pass of `rows` tokens after `cached` others.
    fn pass(&mut self, cached: usize, rows: usize) -> Result<Table> {
        (self.dimensions.rows, self.dimensions.keys) = (rows, cached + rows);
        let mut state = self.filled(cached)?;
        let mut best: Option<Table> = None;
        // The first one warms up.
        for pass in 0..=PASSES {
            let (kernels, _) = self.timed(&mut state, rows)?;
            let (whole, mut timed) = record(|| self.timed(&mut state, rows));
            let (whole, ends) = whole?;
            let faster = best.as_ref().is_none_or(|best| whole < best.whole);
            if pass == 0 || !faster {
                continue;
            }
            best = Some(Table {
                rows: self.dimensions.rows_of(&mut timed, &ends)?,
                whole,
                kernels,
                recorded: Err("only decode steps are, without --no-graph".into()),
            });
        }
        best.ok_or_else(|| candle_core::Error::msg("no pass"))
    }

    /// The time of a recorded step.
    fn recorded(&mut self, cached: usize) -> Result<std::result::Result<f64, String>> {
        let mut state = self.filled(cached)?;
        let mut best = f64::INFINITY;
        // The first two steps are not repetitions.
        for step in 0..PASSES + 2 {
            let (time, _) = self.timed(&mut state, 1)?;
            best = if step < 2 { best } else { best.min(time) };
        }
        let refused = kept(&mut self.workspace)?.notices();
        Ok(match refused.is_empty() {
            true => Ok(best),
            false => Err(refused.join("; ")),
        })
    }

    /// The state of a sequence with `tokens` tokens in its cache.
    fn filled(&mut self, tokens: usize) -> Result<SequenceState> {
        let mut state = self.runner.parts.model.new_state();
        if tokens > 0 {
            self.scores(&mut state, tokens)?;
        }
        Ok(state)
    }

    /// Seconds of a pass, and the events around it. The cache grows by its tokens, which changes
    /// the time of a step little.
    fn timed(&mut self, state: &mut SequenceState, rows: usize) -> Result<(f64, [CudaEvent; 2])> {
        let stream = self.on.cuda_stream();
        let (bytes, times) = AHEAD;
        let mut scratch = self.on.alloc_zeros::<u8>(bytes)?;
        let mut branch = state.fork();
        for _ in 0..times {
            stream.memset_zeros(&mut scratch).w()?;
        }
        let start = moment(&stream)?;
        self.scores(&mut branch, rows)?;
        let end = moment(&stream)?;
        stream.synchronize().w()?;
        Ok((seconds(&start, &end)?, [start, end]))
    }

    fn scores(&mut self, state: &mut SequenceState, rows: usize) -> Result<()> {
        let vocabulary = self.dimensions.vocabulary;
        let chunk = Chunk {
            ids: (0..rows).map(|i| (i * 37 % vocabulary) as u32).collect(),
            positions: (0..rows).map(|i| [(state.len() + i) as u32; 3]).collect(),
            vision: Vec::new(),
        };
        let mut parts = [SequenceSlice {
            chunk: &chunk,
            state,
            outputs: 1,
        }];
        let text = &self.runner.parts.model.text;
        text.forward(&mut parts, &mut self.workspace)?;
        Ok(())
    }
}

/// The sizes from which the work follows.
struct Dimensions {
    hidden: usize,
    intermediate: usize,
    heads: usize,
    kv_heads: usize,
    width: usize,
    vocabulary: usize,
    /// Bytes of a value.
    bytes: usize,
    /// Tokens of the pass, and the number of keys of the last one.
    rows: usize,
    keys: usize,
}

impl Dimensions {
    /// The rows of a pass's profile, from its kernels and the events around it.
    fn rows_of(&self, timed: &mut [Timed], ends: &[CudaEvent; 2]) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::new();
        let mut add = |name: String, seconds: f64, (bytes, operations): (f64, f64)| {
            let found = rows.iter().position(|row| row.name == name);
            let index = found.unwrap_or_else(|| {
                rows.push(Row {
                    name,
                    calls: 0,
                    seconds: 0.0,
                    bytes: 0.0,
                    operations: 0.0,
                });
                rows.len() - 1
            });
            let row = &mut rows[index];
            row.calls += 1;
            row.seconds += seconds;
            row.bytes += bytes;
            row.operations += operations;
        };
        let mut before = ("the start", &ends[0]);
        // The last layer computes only the sampled rows after its keys and values.
        let (mut left, mut in_layers) = (self.rows, false);
        for kernel in &*timed {
            let name = kernel.name.as_str();
            if in_layers && name.starts_with("embed") {
                left = kernel.grid.0;
            }
            let (between, work) = self.product(before.0, name, left, in_layers);
            add(between, kernel.since(before.1)?, work);
            add(name.into(), kernel.seconds()?, self.kernel(kernel));
            in_layers |= name.starts_with("rope_write");
            before = (name, kernel.end());
        }
        let (between, work) = self.product(before.0, "the end", left, in_layers);
        add(between, seconds(before.1, &ends[1])?, work);
        Ok(rows)
    }

    /// The matrix product between two kernels: its name, bytes and operations.
    fn product(&self, from: &str, to: &str, rows: usize, in_layers: bool) -> (String, (f64, f64)) {
        let queries = self.heads * self.width;
        let keys = self.kv_heads * self.width;
        let is = |name: &str, kernel: &str| name.starts_with(kernel);
        let (name, k, n) = if is_product(from) || is_product(to) {
            return between(from, to);
        } else if is(from, "add_rms_norm") && is(to, "rope_write") {
            (
                "product: queries, keys, values",
                self.hidden,
                queries + 2 * keys,
            )
        } else if is(from, "add_rms_norm") && is(to, "silu_mul") {
            ("product: gate, up", self.hidden, 2 * self.intermediate)
        } else if is(from, "silu_mul") {
            ("product: down", self.intermediate, self.hidden)
        } else if in_layers && is(to, "add_rms_norm") {
            ("product: out of attention", queries, self.hidden)
        } else if to == "the end" {
            ("product: head", self.hidden, self.vocabulary)
        } else {
            return between(from, to);
        };
        let bytes = self.bytes * (k * n + rows * (k + n));
        (name.into(), (bytes as f64, 2.0 * (rows * k * n) as f64))
    }

    /// Bytes and operations of a kernel. Those of norms, rotations and the like are not counted.
    fn kernel(&self, kernel: &Timed) -> (f64, f64) {
        if let Some(work) = of_product(kernel, self.bytes) {
            return work;
        }
        let name = kernel.name.as_str();
        let is = |of: &str| name.starts_with(of);
        let cache = 2 * self.keys * self.kv_heads * self.width;
        let queries = self.rows * self.heads * self.width;
        let values = if is("add_rms_norm") {
            let delta = !matches!(kernel.arguments.get(1), Some(Argument::Long(0)));
            kernel.grid.0 * self.hidden * if delta { 4 } else { 2 }
        } else if is("embed") {
            2 * kernel.grid.0 * self.hidden
        } else if is("rope_write") {
            2 * self.rows * (self.heads + 2 * self.kv_heads) * self.width
        } else if is("silu_mul") {
            match kernel.arguments.last() {
                Some(Argument::Long(count)) => 3 * *count as usize,
                _ => 0,
            }
        } else if is("decode_attention_merge") {
            queries
        } else if is("decode_attention") || is("attention") || is("softmax") {
            cache + 2 * queries
        } else {
            0
        };
        // Causal: each query has the keys up to its own.
        let seen = self.rows * self.keys - self.rows * (self.rows - 1) / 2;
        let attends = is("attention") || (is("decode_attention") && !is("decode_attention_merge"));
        let operations = if attends {
            4 * seen * self.heads * self.width
        } else {
            0
        };
        ((values * self.bytes) as f64, operations as f64)
    }
}
