//! The language model's layers, kernel by kernel (twin: the same in [`crate::model::text`]).

use candle_core::{CudaDevice, DType, Device, Result, Tensor};

use super::attention;
use super::launch::{device, unwritten};
use super::pass::Pass;
use super::rope;
use super::rows::{add_rms_norm, embed, silu_mul};
use super::workspace::Workspace;
use super::{addresses, knows, pass};
use crate::model::attention::{Span, attend};
use crate::model::chunk::{deepstack_rows, overlay};
use crate::model::heads::Heads;
use crate::model::layer::{Layer, Mlp};
use crate::model::linear::Linear;
use crate::model::norm::RmsNorm;
use crate::model::plan::{Brought, Plan};
use crate::model::{Chunk, Part, TextModel};

/// Whether there are kernels for the model.
pub fn can_run(model: &TextModel) -> bool {
    model.norm.weight().device().is_cuda()
        && knows(model.norm.dtype())
        && model.embeddings.dtype() == model.norm.dtype()
        && attention::knows(model.heads)
        && model.norm.weight().elem_count().is_multiple_of(8)
}

/// What a pass does, as numbers.
///
/// # Errors
///
/// If the device fails.
pub fn plan(model: &TextModel, parts: &[Part<'_>]) -> Result<Plan> {
    let brought = parts.iter().map(|part| {
        Ok(Brought {
            ids: &part.chunk.ids,
            positions: &part.chunk.positions,
            cached: part.kv.len(),
            outputs: part.outputs,
            pages: addresses(part.kv.pages())?,
        })
    });
    let heads = model.heads;
    let token = heads.of_token() * model.norm.dtype().size_in_bytes();
    Ok(Plan::new(
        &brought.collect::<Result<Vec<_>>>()?,
        token,
        heads.group(),
    ))
}

/// Runs the parts, whose caches have room, through the layers: the hidden states that they ask for
/// `[outputs of all, hidden]`, normalised.
///
/// # Errors
///
/// If the device fails.
pub fn forward(
    model: &TextModel,
    parts: &[Part<'_>],
    all: &Chunk,
    workspace: &mut Workspace,
) -> Result<Tensor> {
    let on = model.norm.weight().device();
    let pass = pass(&plan(model, parts)?, &model.rope, on, workspace)?;
    let run = Run::new(model, &pass, on)?;
    let vision = all.vision.iter();
    let x = overlay(
        &run.embed()?,
        vision.map(|(first, vision)| (*first, &vision.embeddings)),
    )?;
    let x = match &all.vision[..] {
        // The layers write into x, which is the tokens themselves here, and another window may have them.
        [(_, only)] if only.embeddings.dim(0)? == all.len() => x.copy()?,
        _ => x,
    };
    run.layers(
        x,
        |layer, like| deepstack_rows(all, layer, like),
        |layer| {
            let spans = parts.iter().map(|part| part.span(layer));
            spans.collect()
        },
    )
}

/// One pass of one model.
pub struct Run<'a> {
    model: &'a TextModel,
    pass: &'a Pass,
    heads: Heads,
    dtype: DType,
    device: &'a CudaDevice,
}

impl<'a> Run<'a> {
    /// # Errors
    ///
    /// If the device is none of NVIDIA's.
    pub fn new(model: &'a TextModel, pass: &'a Pass, on: &'a Device) -> Result<Self> {
        Ok(Self {
            model,
            pass,
            heads: model.heads,
            dtype: model.norm.dtype(),
            device: device(on)?,
        })
    }

    /// The embeddings of the ids.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn embed(&self) -> Result<Tensor> {
        // SAFETY: ids come from the tokenizer or the model, whose table they index, or are 0.
        unsafe { embed(self.pass.ids, self.pass.rows, &self.model.embeddings) }
    }

    /// All layers, and the last norm, for `x` `[rows, hidden]`, which is used up. `taps` is what DeepStack
    /// adds behind a layer, `spans` where the keys of each sequence are in it, for sequences that there is
    /// no kernel for.
    ///
    /// # Errors
    ///
    /// If the device fails.
    pub fn layers<'s>(
        &self,
        mut x: Tensor,
        taps: impl Fn(usize, &Tensor) -> Result<Option<Tensor>>,
        spans: impl Fn(usize) -> Vec<Span<'s>>,
    ) -> Result<Tensor> {
        let layers = &self.model.layers;
        let (outputs, asked) = self.pass.outputs;
        // What the last layer gives and x does not have yet.
        let mut delta: Option<Tensor> = None;
        for (index, layer) in layers.iter().enumerate() {
            let last = index + 1 == layers.len();
            let mut taps = taps(index, &x)?;
            let normed = norm(&layer.input_norm, &x, delta.as_ref())?;
            let q = self.write(layer, &normed, index)?;
            if last && asked == 0 {
                return x.narrow(0, 0, 0);
            }
            let mut seen = self.attend(&q, index, &spans)?;
            if last && asked < self.pass.rows {
                // Behind the keys and values of the last layer nothing is needed but what is asked for.
                // SAFETY: outputs are rows of the pass.
                let rows = |of: &Tensor| unsafe { embed(outputs, asked, of) };
                (seen, x) = (rows(&seen)?, rows(&x)?);
                taps = taps.as_ref().map(rows).transpose()?;
            }
            let normed = norm(&layer.post_norm, &x, Some(&layer.o.forward(&seen)?))?;
            let more = mlp(&layer.mlp, &normed)?;
            delta = match taps {
                None => Some(more),
                Some(taps) => {
                    x = ((x + more)? + taps)?;
                    None
                }
            };
        }
        norm(&self.model.norm, &x, delta.as_ref())
    }

    /// Keys and values go into the cache; the queries come back, rotated, `[rows, heads * width]`.
    fn write(&self, layer: &Layer, x: &Tensor, index: usize) -> Result<Tensor> {
        let Heads { count, kv, width } = self.heads;
        let [q, k, v] = match &layer.qkv {
            Some(joined) => {
                let all = joined.forward(x)?;
                let part = |first: usize, heads: usize| all.narrow(1, first * width, heads * width);
                [part(0, count)?, part(count, kv)?, part(count + kv, kv)?]
            }
            None => [
                layer.q.forward(x)?,
                layer.k.forward(x)?,
                layer.v.forward(x)?,
            ],
        };
        rope::write(
            [&q, &k, &v],
            [&layer.q_norm, &layer.k_norm],
            self.pass,
            self.heads,
            index,
        )
    }

    fn attend<'s>(
        &self,
        q: &Tensor,
        layer: usize,
        spans: &impl Fn(usize) -> Vec<Span<'s>>,
    ) -> Result<Tensor> {
        // SAFETY: every row is the query of a sequence that decodes or has more queries.
        let out = unsafe { unwritten(q.shape(), self.dtype, self.device)? };
        attention::decode(q, self.pass, layer, self.heads, &out)?;
        if self.pass.prefilling.1 == 0 {
            return Ok(out);
        }
        if self.dtype == DType::BF16 {
            attention::prefill(q, self.pass, layer, self.heads, &out)?;
            return Ok(out);
        }
        let q = q.reshape((self.pass.rows, self.heads.count, self.heads.width))?;
        let mut first = 0;
        for span in spans(layer) {
            if span.queries > 1 {
                let rows = q.narrow(0, first, span.queries)?;
                out.slice_set(&attend(&rows, &span.blocks, span.keys, true)?, 0, first)?;
            }
            first += span.queries;
        }
        Ok(out)
    }
}

fn norm(norm: &RmsNorm, x: &Tensor, delta: Option<&Tensor>) -> Result<Tensor> {
    add_rms_norm(x, delta, norm.weight(), norm.eps())
}

fn mlp(mlp: &Mlp, x: &Tensor) -> Result<Tensor> {
    let both = match &mlp.gate_up {
        Some(joined) => {
            let both = joined.forward(x)?;
            let width = both.dim(1)? / 2;
            [both.narrow(1, 0, width)?, both.narrow(1, width, width)?]
        }
        None => [mlp.gate.forward(x)?, mlp.up.forward(x)?],
    };
    mlp.down.forward(&silu_mul(&both[0], &both[1])?)
}

/// Whether no weight of the model is rounded, so that a step does the same kernels every time.
pub fn repeats(model: &TextModel) -> bool {
    model
        .linears()
        .all(|linear: &Linear| linear.format().is_none())
}
