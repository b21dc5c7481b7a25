//! Reading the reference values in `data`.

use std::path::Path;
use std::sync::Arc;
use std::{fs, io};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::data_dir;
use qwen3_vl_core::frames::{Frame, Size, VisionInput};

/// Side of a patch in pixels, patches a side of a merge block, frames of a temporal patch.
const PATCH: usize = 16;
const MERGE: usize = 2;
const TEMPORAL: usize = 2;

/// A safetensors file and the JSON beside it.
pub struct Golden {
    /// Content of the JSON file; null if there is none.
    pub summary: Value,
    bytes: Vec<u8>,
}

impl Golden {
    /// Values of a checkpoint's case, for instance `dense-tied` and `even`.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn load(checkpoint: &str, case: &str) -> io::Result<Self> {
        Self::open(&data_dir().join(format!("goldens/{checkpoint}__{case}.safetensors")))
    }

    /// A safetensors file and the JSON file of the same name, if there is one.
    ///
    /// # Errors
    ///
    /// Those of reading.
    pub fn open(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
        let json = path.with_extension("json");
        let summary = if json.exists() {
            serde_json::from_slice(&fs::read(json)?)?
        } else {
            Value::Null
        };
        Ok(Self { summary, bytes })
    }

    /// Names of the tensors.
    ///
    /// # Errors
    ///
    /// If the file is not a safetensors file.
    pub fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.file()?.names().into_iter().map(String::from).collect())
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    ///
    /// If there is no such tensor.
    pub fn shape(&self, name: &str) -> io::Result<Vec<usize>> {
        Ok(self.tensor(name)?.shape().to_vec())
    }

    /// Values of an f32 tensor, row-major.
    ///
    /// # Errors
    ///
    /// If there is no such tensor of that type.
    pub fn f32(&self, name: &str) -> io::Result<Vec<f32>> {
        self.numbers(name, Dtype::F32, f32::from_le_bytes)
    }

    /// Values of an i32 tensor, row-major.
    ///
    /// # Errors
    ///
    /// If there is no such tensor of that type.
    pub fn i32(&self, name: &str) -> io::Result<Vec<i32>> {
        self.numbers(name, Dtype::I32, i32::from_le_bytes)
    }

    /// Values of a u8 tensor, row-major.
    ///
    /// # Errors
    ///
    /// If there is no such tensor of that type.
    pub fn u8(&self, name: &str) -> io::Result<Vec<u8>> {
        self.numbers(name, Dtype::U8, |[byte]| byte)
    }

    /// The vision inputs of the case, with the pixels of the reference: one list of pairs for each
    /// video, or one image for each image.
    ///
    /// # Errors
    ///
    /// If the case has none.
    pub fn inputs(&self) -> io::Result<Vec<Vec<VisionInput>>> {
        let is_video = self.names()?.iter().any(|name| name == "video_grid_thw");
        let grids = self.i32(if is_video {
            "video_grid_thw"
        } else {
            "image_grid_thw"
        })?;
        let pixels = self.u8("pixels_u8")?;
        let mut rest = &pixels[..];
        let mut inputs = Vec::new();
        for (nth, grid) in grids.chunks_exact(3).enumerate() {
            let (rows, columns) = (grid[1] as usize, grid[2] as usize);
            let mut mine = Vec::new();
            for pair in 0..grid[0] as usize {
                let (patches, after) = rest.split_at(rows * columns * 3 * TEMPORAL * PATCH * PATCH);
                rest = after;
                let frame = |t: usize| Frame {
                    rgb: picture(patches, rows, columns, t),
                    size: Size {
                        width: (columns * PATCH) as u32,
                        height: (rows * PATCH) as u32,
                    },
                    seconds: self.seconds(nth, TEMPORAL * pair + t),
                };
                mine.push(if is_video {
                    VisionInput::Pair([frame(0), frame(1)])
                } else {
                    VisionInput::Image(frame(0))
                });
            }
            inputs.push(mine);
        }
        Ok(inputs)
    }

    /// Time of a video's frame; of its last one for any frame after it.
    fn seconds(&self, video: usize, frame: usize) -> f64 {
        let indices = self.summary["frames_indices"][video].as_array();
        let index = indices.and_then(|all| all.get(frame).or(all.last())?.as_f64());
        index.unwrap_or(0.0) / self.summary["fps_used"][video].as_f64().unwrap_or(1.0)
    }

    fn numbers<T, const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        number: impl Fn([u8; N]) -> T,
    ) -> io::Result<Vec<T>> {
        let tensor = self.tensor(name)?;
        if tensor.dtype() != dtype {
            return Err(io::Error::other(format!(
                "{name} is {:?}, not {dtype:?}",
                tensor.dtype()
            )));
        }
        let (chunks, _) = tensor.data().as_chunks::<N>();
        Ok(chunks.iter().map(|bytes| number(*bytes)).collect())
    }

    fn tensor(&self, name: &str) -> io::Result<TensorView<'_>> {
        self.file()?
            .tensor(name)
            .map_err(|e| io::Error::other(format!("{name}: {e}")))
    }

    fn file(&self) -> io::Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(io::Error::other)
    }
}

/// The picture of temporal index `t` from which patches in the model's order were cut.
fn picture(patches: &[u8], rows: usize, columns: usize, t: usize) -> Arc<[u8]> {
    let width = columns * PATCH;
    let mut rgb = vec![0; rows * PATCH * width * 3];
    let block_columns = columns / MERGE;
    for (i, patch) in patches
        .chunks_exact(3 * TEMPORAL * PATCH * PATCH)
        .enumerate()
    {
        let (block, inside) = (i / (MERGE * MERGE), i % (MERGE * MERGE));
        let top = (block / block_columns * MERGE + inside / MERGE) * PATCH;
        let left = (block % block_columns * MERGE + inside % MERGE) * PATCH;
        for c in 0..3 {
            for y in 0..PATCH {
                for x in 0..PATCH {
                    rgb[((top + y) * width + left + x) * 3 + c] =
                        patch[((c * TEMPORAL + t) * PATCH + y) * PATCH + x];
                }
            }
        }
    }
    rgb.into()
}
