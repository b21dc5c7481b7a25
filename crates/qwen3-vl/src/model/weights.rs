//! Tensors of a checkpoint: safetensors, single or sharded, memory-mapped or embedded.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, SafeTensors};

use super::quantized::{Quantization, QuantizedWeight};
use super::watch::Watch;
use crate::cpu::quantized::Format;
use crate::load::brief;

/// Why weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A file cannot be read.
    #[error(
        "cannot read {path} ({source}): the folder must hold model.safetensors, or \
         model.safetensors.index.json and every file that it names",
        path = path.display()
    )]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The header, a size or an offset is wrong: most often a download that was cut short.
    #[error("{file} is damaged ({reason}): fetch it again")]
    Damaged {
        /// Name of the file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is missing.
    #[error("tensor {0} is missing: these are not the weights of this config.json")]
    Missing(String),
    /// A tensor does not have the shape that the configuration gives it.
    #[error("tensor {name} has shape {found:?}, config.json asks for {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape by the configuration.
        expected: Vec<usize>,
    },
    /// A tensor has a type that is not supported.
    #[error("tensor {name} has type {dtype}, supported are F32, BF16 and F16")]
    Type {
        /// Name of the tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// Nobody waits for the weights any more.
    #[error("loading was cancelled")]
    Cancelled,
    /// The device cannot hold a tensor.
    #[error("tensor {name}: {}", brief(source))]
    Device {
        /// Name of the tensor.
        name: String,
        /// Why.
        source: candle_core::Error,
    },
}

/// Where the bytes of a safetensors file are.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

/// One safetensors file whose header has been checked against its size.
#[derive(Debug)]
struct Shard {
    bytes: Bytes,
    data: usize,
    metadata: Metadata,
}

impl Shard {
    fn new(file: &str, bytes: Bytes) -> Result<Self, WeightsError> {
        let damaged = |e: safetensors::SafeTensorError| WeightsError::Damaged {
            file: file.into(),
            reason: e.to_string(),
        };
        // `deserialize` checks that shapes, types, offsets and the file's size agree.
        SafeTensors::deserialize(bytes.get()).map_err(damaged)?;
        let (header, metadata) = SafeTensors::read_metadata(bytes.get()).map_err(damaged)?;
        Ok(Self {
            bytes,
            data: header + size_of::<u64>(),
            metadata,
        })
    }

    fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io {
            path: path.into(),
            source,
        };
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is only read. A file that another process truncates meanwhile would
        // raise SIGBUS, as it does in every engine that maps weights.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Self::new(&name, Bytes::Mapped(map))
    }
}

/// All tensors of a checkpoint, on their way to one device.
#[derive(Debug)]
pub struct Weights {
    shards: Vec<Shard>,
    place: HashMap<String, usize>,
    device: Device,
    /// Type of vectors and of arithmetic.
    compute: DType,
    /// Type of matrices; as stored if none.
    store: Option<DType>,
    quantization: Quantization,
    watch: Arc<Watch>,
}

/// A tensor in its file.
pub(super) struct Stored<'a> {
    bytes: &'a [u8],
    dtype: DType,
    shape: &'a [usize],
}

impl Stored<'_> {
    /// Its shape, if it is a matrix.
    pub(super) fn dims2(&self) -> candle_core::Result<(usize, usize)> {
        candle_core::Shape::from(self.shape).dims2()
    }

    /// A copy.
    pub(super) fn tensor(&self, device: &Device) -> candle_core::Result<Tensor> {
        Tensor::from_raw_buffer(self.bytes, self.dtype, self.shape, device)
    }

    /// Some of its values as f32.
    pub(super) fn widen(&self, values: Range<usize>, out: &mut [f32]) {
        fn each<const N: usize>(bytes: &[u8], out: &mut [f32], widen: impl Fn([u8; N]) -> f32) {
            let (bytes, _) = bytes.as_chunks::<N>();
            bytes
                .iter()
                .zip(out)
                .for_each(|(bytes, out)| *out = widen(*bytes));
        }
        let size = self.dtype.size_in_bytes();
        let bytes = &self.bytes[values.start * size..values.end * size];
        match self.dtype {
            DType::BF16 => each(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            DType::F16 => each(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            _ => each(bytes, out, f32::from_le_bytes),
        }
    }
}

/// What a device was asked for, for a tensor of that name.
pub(super) fn on_device<T>(name: &str, made: candle_core::Result<T>) -> Result<T, WeightsError> {
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
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let mut names = vec![single.clone()];
        if !single.exists() && index.exists() {
            names = shard_names(&index)?
                .into_iter()
                .map(|name| folder.join(name))
                .collect();
        }
        let shards = names
            .iter()
            .map(|path| Shard::open(path))
            .collect::<Result<_, _>>()?;
        Ok(Self::new(shards, target))
    }

    /// Reads one safetensors file that is part of the program.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn embedded(bytes: &'static [u8], target: Target) -> Result<Self, WeightsError> {
        let shard = Shard::new("the embedded model", Bytes::Static(bytes))?;
        Ok(Self::new(vec![shard], target))
    }

    fn new(shards: Vec<Shard>, target: Target) -> Self {
        let place = shards
            .iter()
            .enumerate()
            .flat_map(|(i, shard)| {
                shard
                    .metadata
                    .tensors()
                    .into_keys()
                    .map(move |name| (name, i))
            })
            .collect();
        let Target {
            device,
            compute,
            store,
            quantization,
        } = target;
        Self {
            shards,
            place,
            device,
            compute,
            store,
            quantization,
            watch: Arc::default(),
        }
    }

    /// How far reading has come.
    pub(crate) fn watch(&self) -> Arc<Watch> {
        self.watch.clone()
    }

    /// Bytes of all tensors, as stored.
    pub fn size(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.metadata.data_len())
            .sum()
    }

    /// Where the tensors go.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Sends the tensors that are loaded from here on to another device.
    pub fn aim(&mut self, device: Device) {
        self.device = device;
    }

    /// Type of arithmetic.
    pub fn compute(&self) -> DType {
        self.compute
    }

    /// What linear layers are rounded to.
    pub fn quantization(&self) -> Quantization {
        self.quantization
    }

    /// Whether there is a tensor of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.place.contains_key(name)
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
        self.load(name, shape, Some(self.compute), Ok)
    }

    /// A tensor in f32, whatever the type of arithmetic.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn full(&self, name: &str, shape: &[usize]) -> Result<Tensor, WeightsError> {
        self.load(name, shape, Some(DType::F32), Ok)
    }

    /// A linear layer's matrix, rounded from what the checkpoint stores.
    ///
    /// # Errors
    ///
    /// See [`WeightsError`].
    pub fn quantized(
        &self,
        name: &str,
        (out, input): (usize, usize),
        format: Format,
    ) -> Result<QuantizedWeight, WeightsError> {
        self.read(name, &[out, input], |stored| {
            QuantizedWeight::new(&stored, format, &self.device)
        })
    }

    fn load(
        &self,
        name: &str,
        expected: &[usize],
        dtype: Option<DType>,
        reshape: impl FnOnce(Tensor) -> candle_core::Result<Tensor>,
    ) -> Result<Tensor, WeightsError> {
        self.read(name, expected, |stored| {
            let tensor = stored.tensor(&self.device)?;
            reshape(tensor.to_dtype(dtype.unwrap_or(stored.dtype))?)
        })
    }

    /// Finds a tensor and lets `copy` make something of it.
    fn read<T>(
        &self,
        name: &str,
        expected: &[usize],
        copy: impl FnOnce(Stored<'_>) -> candle_core::Result<T>,
    ) -> Result<T, WeightsError> {
        let missing = || WeightsError::Missing(name.into());
        let shard = &self.shards[*self.place.get(name).ok_or_else(missing)?];
        let info = shard.metadata.info(name).ok_or_else(missing)?;
        if info.shape != expected {
            return Err(WeightsError::Shape {
                name: name.into(),
                found: info.shape.clone(),
                expected: expected.into(),
            });
        }
        let stored = match info.dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            other => {
                return Err(WeightsError::Type {
                    name: name.into(),
                    dtype: other.to_string(),
                });
            }
        };
        let (start, end) = info.data_offsets;
        self.watch.count(end - start)?;
        let bytes = &shard.bytes.get()[shard.data + start..shard.data + end];
        let stored = Stored {
            bytes,
            dtype: stored,
            shape: expected,
        };
        let made = copy(stored).map_err(|source| WeightsError::Device {
            name: name.into(),
            source,
        })?;
        shard.forget(start, end);
        Ok(made)
    }
}

impl Shard {
    /// Gives the pages of a tensor that has been copied back to the system, so that loading does
    /// not need the size of the model twice.
    fn forget(&self, start: usize, end: usize) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.bytes {
            // SAFETY: the map is private, read-only and backed by the file: dropped pages are
            // read again from it. A failure only costs memory.
            let _ = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    self.data + start,
                    end - start,
                )
            };
        }
    }
}

/// Device and types that weights are loaded for.
#[derive(Clone, Debug)]
pub struct Target {
    /// Device.
    pub device: Device,
    /// Type of vectors and of arithmetic.
    pub compute: DType,
    /// Type of matrices; as stored if none.
    pub store: Option<DType>,
    /// What the linear layers of the language model are rounded to.
    pub quantization: Quantization,
}

impl Target {
    /// f32 arithmetic on the CPU, weights as the checkpoint stores them.
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            compute: DType::F32,
            store: None,
            quantization: Quantization::None,
        }
    }
}

fn shard_names(index: &Path) -> Result<Vec<String>, WeightsError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let damaged = |reason: String| WeightsError::Damaged {
        file: "model.safetensors.index.json".into(),
        reason,
    };
    let json = std::fs::read(index).map_err(|source| WeightsError::Io {
        path: index.into(),
        source,
    })?;
    let index: Index = serde_json::from_slice(&json).map_err(|e| damaged(e.to_string()))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    // A name with a path in it could point anywhere.
    match names
        .iter()
        .find(|name| Path::new(name).file_name() != Some(name.as_ref()))
    {
        Some(name) => Err(damaged(format!("{name:?} is not a plain file name"))),
        None => Ok(names),
    }
}
