//! Writes GGUF by the description of the format
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>).

/// A value of a key.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    Text(String),
    U64(u64),
    I64(i64),
    F64(f64),
    /// Values of the type with that number.
    Array(u32, Vec<Value>),
}

impl Value {
    /// The number of its type.
    pub fn kind(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Array(..) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(v) => out.extend(v.to_le_bytes()),
            Self::I8(v) => out.extend(v.to_le_bytes()),
            Self::U16(v) => out.extend(v.to_le_bytes()),
            Self::I16(v) => out.extend(v.to_le_bytes()),
            Self::U32(v) => out.extend(v.to_le_bytes()),
            Self::I32(v) => out.extend(v.to_le_bytes()),
            Self::F32(v) => out.extend(v.to_le_bytes()),
            Self::Bool(v) => out.push(u8::from(*v)),
            Self::Text(text) => write_text(text, out),
            Self::U64(v) => out.extend(v.to_le_bytes()),
            Self::I64(v) => out.extend(v.to_le_bytes()),
            Self::F64(v) => out.extend(v.to_le_bytes()),
            Self::Array(kind, values) => {
                out.extend(kind.to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| value.write(out));
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

/// A list of 32-bit integers.
pub fn i32s(all: impl IntoIterator<Item = i32>) -> Value {
    Value::Array(5, all.into_iter().map(Value::I32).collect())
}

/// A list of numbers.
pub fn f32s(all: impl IntoIterator<Item = f32>) -> Value {
    Value::Array(6, all.into_iter().map(Value::F32).collect())
}

/// A list of flags.
pub fn bools(all: impl IntoIterator<Item = bool>) -> Value {
    Value::Array(7, all.into_iter().map(Value::Bool).collect())
}

/// A list of texts.
pub fn texts<T: Into<String>>(all: impl IntoIterator<Item = T>) -> Value {
    let all = all.into_iter().map(|text| Value::Text(text.into()));
    Value::Array(8, all.collect())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A tensor as a file has it.
#[derive(Clone, Debug)]
pub struct TensorData {
    /// Its name.
    pub name: String,
    /// Axes, slowest first (the file has them the other way round).
    pub shape: Vec<usize>,
    /// Number of its type.
    pub kind: u32,
    /// Its values.
    pub bytes: Vec<u8>,
    /// Where the file says that it begins, if that is not where it is.
    pub offset: Option<u64>,
}

/// What a file is made of. All of it may be changed into something that no file should have.
#[derive(Clone, Debug)]
pub struct GgufFile {
    /// Version of the format.
    pub version: u32,
    /// What tensors begin at multiples of; a key says so if it is not 32.
    pub alignment: usize,
    /// Keys and their values.
    pub keys: Vec<(String, Value)>,
    /// Tensors.
    pub tensors: Vec<TensorData>,
}

impl Default for GgufFile {
    fn default() -> Self {
        Self {
            version: 3,
            alignment: 32,
            keys: Vec::new(),
            tensors: Vec::new(),
        }
    }
}

impl GgufFile {
    /// Adds a key, or gives it another value.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.remove(key);
        self.keys.push((key.into(), value.into()));
    }

    /// Takes a key away.
    pub fn remove(&mut self, key: &str) {
        self.keys.retain(|(other, _)| other != key);
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            write_text(key, &mut out);
            out.extend(value.kind().to_le_bytes());
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            write_text(&tensor.name, &mut out);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            for axis in tensor.shape.iter().rev() {
                out.extend((*axis as u64).to_le_bytes());
            }
            out.extend(tensor.kind.to_le_bytes());
            let said = tensor.offset.unwrap_or(offset as u64);
            out.extend(said.to_le_bytes());
            offset += tensor.bytes.len().next_multiple_of(self.alignment);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out
    }

    /// The files that it is split into (llama.cpp: `gguf-split`): the first has the keys.
    pub fn split(&self, parts: usize) -> Vec<Self> {
        let size = self.tensors.len().div_ceil(parts).max(1);
        let mut files = Vec::new();
        for no in 0..parts {
            let mut keys = match no {
                0 => self.keys.clone(),
                _ => Vec::new(),
            };
            keys.extend([
                ("split.no".into(), Value::U16(no as u16)),
                ("split.count".into(), Value::U16(parts as u16)),
                (
                    "split.tensors.count".into(),
                    Value::I32(self.tensors.len() as i32),
                ),
            ]);
            let tensors = self.tensors.iter().skip(no * size).take(size);
            files.push(Self {
                keys,
                tensors: tensors.cloned().collect(),
                ..self.clone()
            });
        }
        files
    }
}
