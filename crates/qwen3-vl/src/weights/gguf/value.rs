//! Values of a GGUF file's keys.

use std::ops::Range;

use super::cursor::Cursor;

/// Arrays may hold arrays; no file is known that has more than one level.
const MOST_LEVELS: usize = 4;

/// A value. Texts and arrays are places in the header, so that they take no memory of their own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Of any width, with a sign or without.
    Integer(i128),
    /// Of either width.
    Float(f64),
    Bool(bool),
    Text(Range<usize>),
    Array(Array),
}

/// Values of one kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    pub(super) of: Kind,
    pub(super) count: u64,
    /// All of them, as they lie in the file.
    pub(super) place: Range<usize>,
}

/// Kinds of values (`enum gguf_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    fn new(number: u32) -> Result<Self, String> {
        Ok(match number {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return Err(format!("there is no type of values {number}")),
        })
    }

    /// Bytes of a value, or of the length before one that has no fixed size.
    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }

    /// A value of fixed size from its bytes; none for the others, and a bool that is neither.
    pub(super) fn scalar(self, bytes: &[u8]) -> Option<Value> {
        let integer = |n: i128| Some(Value::Integer(n));
        match self {
            Self::U8 => integer(u8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I8 => integer(i8::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U16 => integer(u16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I16 => integer(i16::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U32 => integer(u32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I32 => integer(i32::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::U64 => integer(u64::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::I64 => integer(i64::from_le_bytes(bytes.try_into().ok()?).into()),
            Self::F32 => {
                let float = f32::from_le_bytes(bytes.try_into().ok()?);
                Some(Value::Float(float.into()))
            }
            Self::F64 => {
                let float = f64::from_le_bytes(bytes.try_into().ok()?);
                Some(Value::Float(float))
            }
            Self::Bool => match bytes {
                [0] => Some(Value::Bool(false)),
                [1] => Some(Value::Bool(true)),
                _ => None,
            },
            Self::Text | Self::Array => None,
        }
    }
}

impl Value {
    /// Reads a value behind its type.
    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self, String> {
        match Kind::new(cursor.u32()?)? {
            Kind::Text => cursor.text().map(Self::Text),
            Kind::Array => Array::read(cursor, 1).map(Self::Array),
            kind => {
                let place = cursor.skip(kind.bytes())?;
                let value = kind.scalar(cursor.bytes(place));
                value.ok_or_else(|| "a bool is neither 0 nor 1".into())
            }
        }
    }
}

impl Array {
    fn read(cursor: &mut Cursor<'_>, level: usize) -> Result<Self, String> {
        if level > MOST_LEVELS {
            return Err(format!(
                "arrays lie in each other more than {MOST_LEVELS} deep"
            ));
        }
        let of = Kind::new(cursor.u32()?)?;
        let count = cursor.u64()?;
        let bytes = count.checked_mul(of.bytes());
        let bytes = bytes.filter(|bytes| *bytes <= cursor.left());
        let bytes = bytes.ok_or_else(|| {
            let left = cursor.left();
            format!("an array has {count} values, and the file {left} more bytes")
        })?;
        let start = cursor.position() as usize;
        match of {
            Kind::Text => {
                for _ in 0..count {
                    cursor.text()?;
                }
            }
            Kind::Array => {
                for _ in 0..count {
                    Self::read(cursor, level + 1)?;
                }
            }
            _ => {
                cursor.skip(bytes)?;
            }
        }
        let place = start..cursor.position() as usize;
        Ok(Self { of, count, place })
    }
}
