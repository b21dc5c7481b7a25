//! Loads tensors of a checkpoint, from a folder or from the program, to a device.
//!
//! A [`TensorSource`](source::TensorSource) reads a file format; a
//! [`LinearMethod`](crate::model::linear::LinearMethod) decides how a layer's matrix is stored and
//! multiplied.

mod at_load;
mod blocks;
mod bytes;
mod error;
mod experts;
pub mod gguf;
mod headers;
mod names;
mod number;
mod quantised;
mod safetensors;
mod source;
mod transposed;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};

pub use at_load::QuantizeAtLoad;
pub(crate) use at_load::Rounding;
pub(crate) use bytes::{ReadAt, Source, WeightFile};
pub use error::WeightsError;
pub(crate) use gguf::block_name;
use gguf::{GgufModel, GgufTensors};
use safetensors::Safetensors;
pub(crate) use source::{StoredTensor, TensorHeader, type_name};
use source::{TensorSource, same};
use watch::Watch;

use crate::compute::Compute;
use crate::config::Quantization;
use crate::cpu::bf16::Bf16Isa;
use crate::file::{INDEX_LIMIT, is_lfs_pointer, read_bounded};
use crate::index::{self, INDEX, SINGLE};
use crate::memory::spare_memory;
use crate::quote::quoted;

/// The tensors of a checkpoint, to be loaded to a device.
#[derive(Debug)]
pub struct Weights {
    sources: Vec<Box<dyn TensorSource>>,
    /// Locations by the tensors' names in the whole model.
    locations: HashMap<String, Location>,
    device: Device,
    /// Type of vectors and of arithmetic.
    dtype: DType,
    /// Type of matrices; as stored if none.
    store: Option<DType>,
    compute: Option<Compute>,
    bf16: Option<Bf16Isa>,
    quantize_at_load: QuantizeAtLoad,
    /// Whether any tensor is stored in blocks.
    in_blocks: bool,
    /// What config.json says of weights that are quantised already.
    quantization: Option<Quantization>,
    watch: Arc<Watch>,
    /// Names of the tensors that have been read.
    read: Mutex<BTreeSet<String>>,
}

/// The location of a tensor.
#[derive(Debug)]
struct Location {
    source: usize,
    /// Its name in that source.
    name: String,
}

/// Maps a device's error to that of the tensor `name`.
pub(crate) fn on_device<T>(name: &str, made: candle_core::Result<T>) -> Result<T, WeightsError> {
    made.map_err(|source| WeightsError::Device {
        name: name.into(),
        source,
    })
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn open(folder: &Path, target: Target) -> Result<Self, WeightsError> {
        let mut sources: Vec<Box<dyn TensorSource>> = Vec::new();
        for path in files(folder)? {
            sources.push(experts::split(Safetensors::open(&path)?)?);
        }
        Self::new(sources, target)
    }

    /// The tensors of these safetensors files, wherever they are.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(crate) fn of_files(files: Vec<WeightFile>, target: Target) -> Result<Self, WeightsError> {
        let mut sources: Vec<Box<dyn TensorSource>> = Vec::new();
        for file in files {
            sources.push(experts::split(Safetensors::of(file)?)?);
        }
        Self::new(sources, target)
    }

    /// Reads one safetensors file that is part of the program.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn embedded(bytes: &'static [u8], target: Target) -> Result<Self, WeightsError> {
        Self::new(vec![experts::split(Safetensors::embedded(bytes)?)?], target)
    }

    /// The tensors of GGUF files.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn gguf(model: &GgufModel, target: Target) -> Result<Self, WeightsError> {
        let mut sources: Vec<Box<dyn TensorSource>> = Vec::new();
        for file in model.files() {
            sources.push(Box::new(GgufTensors::new(Arc::clone(file))?));
        }
        Self::new(sources, target)
    }

    fn new(sources: Vec<Box<dyn TensorSource>>, target: Target) -> Result<Self, WeightsError> {
        let mut locations: HashMap<String, Location> = HashMap::new();
        for (source, names) in sources.iter().map(|source| source.names()).enumerate() {
            for name in names {
                // If two files have the tensor, the last file wins, as in transformers.
                let before = locations.insert(
                    names::whole(&name).into_owned(),
                    Location {
                        source,
                        name: name.clone(),
                    },
                );
                if let Some(Location { name: one, .. }) = before.filter(|place| place.name != name)
                {
                    return Err(WeightsError::Twice {
                        one: quoted(&one),
                        other: quoted(&name),
                    });
                }
            }
        }
        let Target {
            device,
            dtype,
            store,
            compute,
            bf16,
            quantize_at_load,
        } = target;
        let in_blocks = locations
            .values()
            .any(|at| sources[at.source].blocks(&at.name).is_some());
        Ok(Self {
            sources,
            locations,
            device,
            dtype,
            store,
            compute,
            bf16,
            quantize_at_load,
            in_blocks,
            quantization: None,
            watch: Arc::default(),
            read: Mutex::default(),
        })
    }

    /// Progress and cancellation of reading.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Bytes of all tensors, as stored.
    pub fn size(&self) -> usize {
        self.sources.iter().map(|source| source.size()).sum()
    }

    /// The device that tensors are loaded to.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Loads later tensors to another device.
    pub fn aim(&mut self, device: Device) {
        self.device = device;
    }

    /// Type of arithmetic.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Arithmetic of products on the CPU: what was asked for, else what suits the weights.
    pub fn compute(&self) -> Compute {
        let default = || Compute::default_for(self.is_quantised());
        self.compute.unwrap_or_else(default)
    }

    /// What multiplies weights in bf16; none if they are multiplied in f32 or on another device.
    pub fn bf16(&self) -> Option<Bf16Isa> {
        let wanted = self.device.is_cpu() && self.compute() == Compute::Fast;
        self.bf16.filter(|_| wanted)
    }

    /// Whether weights that are quantised are multiplied as integers.
    pub fn int8(&self) -> bool {
        self.device.is_cpu() && self.compute() == Compute::Fast
    }

    /// The format to which linear layers are quantized.
    pub fn quantize_at_load(&self) -> QuantizeAtLoad {
        self.quantize_at_load
    }

    /// Whether a tensor has that name.
    pub fn contains(&self, name: &str) -> bool {
        self.locations.contains_key(name)
    }

    /// A matrix of a linear layer or an embedding table, `[rows, columns]`, in the type in which
    /// weights are kept. `shape` may have more axes (a convolution's): they are flattened.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        let rows = shape.first().copied().unwrap_or(1);
        let columns = shape.iter().skip(1).product::<usize>();
        let flat = |tensor: Tensor| tensor.reshape((rows, columns));
        self.load(name, shape, self.store, flat)
    }

    /// A norm's weight, a bias or a table, in the type of arithmetic.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn vector(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.load(name, shape, Some(self.dtype), Ok)
    }

    /// A tensor in f32, whatever the type of arithmetic.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn full(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.load(name, shape, Some(DType::F32), Ok)
    }

    /// A tensor as it is stored; checks that there is memory for `bytes`, which its values will
    /// take.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub(crate) fn stored<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
        bytes: usize,
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let stored = self.find(name, shape)?;
        ensure_memory(name, bytes)?;
        Ok(stored)
    }

    fn load(
        &self,
        name: &str,
        expected: &[usize],
        dtype: Option<DType>,
        reshape: impl FnOnce(Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, WeightsError> {
        let stored = self.find(name, expected)?;
        let dtype = dtype.unwrap_or(stored.dtype());
        ensure_memory(name, stored.bytes(dtype))?;
        let tensor = stored.tensor(&self.device)?;
        let narrower = dtype == DType::F16 && stored.dtype() != DType::F16;
        let tensor = on_device(name, tensor.to_dtype(dtype))?;
        if narrower && !on_device(name, is_finite(&tensor))? {
            return Err(WeightsError::TooLarge(name.into()));
        }
        on_device(name, reshape(tensor))
    }

    /// Whether two tensors of this shape have the same values.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn same(&self, one: &str, other: &str, shape: &[usize]) -> Result<bool, WeightsError> {
        same(&*self.find(one, shape)?, &*self.find(other, shape)?)
    }

    /// Checks that all tensors with these prefixes have been read; otherwise the file is not that
    /// of the loaded model. Ignores buffers that older versions of transformers saved.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Unread`].
    pub fn ensure_all_read(&self, prefixes: &[&str]) -> Result<(), WeightsError> {
        let read = self.lock_read();
        let unread = |name: &&String| {
            prefixes.iter().any(|prefix| name.starts_with(prefix))
                && !name.ends_with("inv_freq")
                && !read.contains(*name)
        };
        let unread: BTreeSet<&String> = self.locations.keys().filter(unread).collect();
        match unread.first() {
            None => Ok(()),
            Some(example) => Err(WeightsError::Unread {
                count: unread.len(),
                example: (*example).clone(),
            }),
        }
    }

    /// Describes the unread tensors, with one or two examples; none if all have been read.
    pub fn left_out(&self) -> Option<String> {
        const SHOWN: usize = 2;
        let read = self.lock_read();
        let unread: BTreeSet<&String> = self
            .locations
            .keys()
            .filter(|name| !read.contains(*name))
            .collect();
        let shown: Vec<String> = unread.iter().take(SHOWN).map(|name| quoted(name)).collect();
        let more = unread.len().saturating_sub(SHOWN);
        match (shown.is_empty(), more) {
            (true, _) => None,
            (_, 0) => Some(shown.join(", ")),
            _ => Some(format!("{} and {more} more", shown.join(", "))),
        }
    }

    fn find<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let stored = self.peek(name, shape)?;
        self.watch.count(stored.size())?;
        self.lock_read().insert(name.into());
        Ok(stored)
    }

    /// A tensor that is not about to be read.
    fn peek<'a>(
        &'a self,
        name: &'a str,
        shape: &'a [usize],
    ) -> Result<Box<dyn StoredTensor + 'a>, WeightsError> {
        let place = self.locations.get(name);
        let place = place.ok_or_else(|| WeightsError::Missing(name.into()))?;
        self.sources[place.source].find(&place.name, shape)
    }

    fn lock_read(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks that there is memory for a tensor before it is allocated: a system that overcommits kills
/// the process later, and a vector that cannot grow aborts it at once.
pub(crate) fn ensure_memory(name: &str, bytes: usize) -> Result<(), WeightsError> {
    match fits(bytes, spare_memory) {
        true => Ok(()),
        false => Err(WeightsError::Memory(name.into())),
    }
}

fn fits(bytes: usize, spare: impl FnOnce() -> Option<u64>) -> bool {
    // Asking the system takes longer than loading a small tensor.
    const SMALL: usize = 16 << 20;
    bytes <= SMALL || spare().is_none_or(|spare| bytes as u64 <= spare)
}

/// Whether all values are finite.
fn is_finite(tensor: &Tensor) -> candle_core::Result<bool> {
    // Zero times NaN or infinity is not zero.
    let zeros = tensor.to_dtype(DType::F32)?.affine(0.0, 0.0)?;
    Ok(zeros.sum_all()?.to_scalar::<f32>()? == 0.0)
}

/// Device and types that weights are loaded for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Device that tensors are loaded to.
    pub device: Device,
    /// Type of vectors and of arithmetic.
    pub dtype: DType,
    /// Type of matrices; as stored if none.
    pub store: Option<DType>,
    /// Arithmetic of products on the CPU; if none, what suits the weights.
    pub compute: Option<Compute>,
    /// What multiplies in bf16, with [`Compute::Fast`]; none leaves it at f32.
    pub bf16: Option<Bf16Isa>,
    /// The format to which the language model's linear layers are quantized.
    pub quantize_at_load: QuantizeAtLoad,
}

impl Target {
    /// Exact f32 arithmetic on the CPU, weights as the checkpoint stores them.
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            dtype: DType::F32,
            store: None,
            compute: Some(Compute::Exact),
            bf16: Bf16Isa::of_this_cpu(),
            quantize_at_load: QuantizeAtLoad::None,
        }
    }
}

/// The weight files of a folder: `model.safetensors` if that is a file, else the shards of the
/// index. They need not exist.
///
/// # Errors
///
/// See [`WeightsError`].
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let (single, index) = (folder.join(SINGLE), folder.join(INDEX));
    if single.is_file() || !index.exists() {
        return Ok(vec![single]);
    }
    let names = shard_names(&index)?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

fn shard_names(index: &Path) -> Result<BTreeSet<String>, WeightsError> {
    let json = read_bounded(index, INDEX_LIMIT).map_err(|source| WeightsError::Io {
        path: index.into(),
        source,
    })?;
    if is_lfs_pointer(&json) {
        return Err(WeightsError::Pointer(INDEX.into()));
    }
    index::shard_names(&json).map_err(|reason| WeightsError::Damaged {
        file: INDEX.into(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_needs_memory_of_its_size() {
        let gigabyte = || Some(1 << 30);
        assert!(fits(1 << 30, gigabyte));
        assert!(!fits((1 << 30) + 1, gigabyte));
        assert!(!fits(usize::MAX, gigabyte));
        // Without information, everything fits; for a small tensor the system is not asked.
        assert!(fits(usize::MAX, || None));
        assert!(fits(1 << 20, || unreachable!()));
        assert!(spare_memory().is_none_or(|spare| spare > 1 << 20));
    }
}
