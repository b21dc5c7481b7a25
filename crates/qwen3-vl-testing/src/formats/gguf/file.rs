//! Writing a GGUF file, version 3.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::blocks::Kind;

/// A value of the metadata.
#[derive(Clone)]
pub(super) enum Value {
    U16(u16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
}

/// A tensor, with its dimensions from the outermost to the innermost.
pub(super) struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub kind: Kind,
    pub bytes: Vec<u8>,
}

const ALIGNMENT: usize = 32;

/// Writes a file, entries and tensors in this order.
pub(super) fn write_file(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Tensor],
) -> io::Result<()> {
    let mut head = b"GGUF".to_vec();
    head.extend(3u32.to_le_bytes());
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut head, key);
        head.extend(value.number().to_le_bytes());
        value.put(&mut head);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut head, &tensor.name);
        head.extend((tensor.shape.len() as u32).to_le_bytes());
        for size in tensor.shape.iter().rev() {
            head.extend((*size as u64).to_le_bytes());
        }
        head.extend((tensor.kind as u32).to_le_bytes());
        head.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
    }
    let mut file = BufWriter::new(File::create(path)?);
    let mut padded = |bytes: &[u8]| -> io::Result<()> {
        file.write_all(bytes)?;
        file.write_all(&[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()])
    };
    padded(&head)?;
    for tensor in tensors {
        padded(&tensor.bytes)?;
    }
    file.flush()
}

impl Value {
    /// The number of its type in files.
    fn number(&self) -> u32 {
        match self {
            Self::U16(_) => 2,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::I32s(_) | Self::F32s(_) | Self::Bools(_) | Self::Texts(_) => 9,
        }
    }

    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Self::U16(value) => to.extend(value.to_le_bytes()),
            Self::U32(value) => to.extend(value.to_le_bytes()),
            Self::I32(value) => to.extend(value.to_le_bytes()),
            Self::F32(value) => to.extend(value.to_le_bytes()),
            Self::Bool(value) => to.push(u8::from(*value)),
            Self::Text(value) => text(to, value),
            Self::I32s(values) => array(to, 5, values, |to, v| to.extend(v.to_le_bytes())),
            Self::F32s(values) => array(to, 6, values, |to, v| to.extend(v.to_le_bytes())),
            Self::Bools(values) => array(to, 7, values, |to, v| to.push(u8::from(*v))),
            Self::Texts(values) => array(to, 8, values, |to, v| text(to, v)),
        }
    }
}

fn array<T>(to: &mut Vec<u8>, number: u32, values: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    to.extend(number.to_le_bytes());
    to.extend((values.len() as u64).to_le_bytes());
    for value in values {
        put(to, value);
    }
}

fn text(to: &mut Vec<u8>, value: &str) {
    to.extend((value.len() as u64).to_le_bytes());
    to.extend(value.as_bytes());
}
