//! The keys of a GGUF file and their values.

use std::collections::HashMap;

use super::GgufError;
use super::cursor::Cursor;
use super::value::{Array, Kind, Value};
use crate::quote::quoted;

/// Most bytes of a key (the format's own limit).
const LONGEST_KEY: u64 = 65_535;
/// Fewest bytes of a key and its value: two lengths, a letter and a value.
const LEAST_BYTES: u64 = 8 + 1 + 4 + 1;
/// Files of language models have about 40.
const MOST_KEYS: u64 = 10_000;

/// What a file says about its model.
#[derive(Debug)]
pub struct Metadata {
    /// For errors.
    file: String,
    values: HashMap<String, Value>,
    /// What texts and arrays are places in.
    header: Vec<u8>,
}

impl Metadata {
    /// Reads that many keys.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        count: u64,
    ) -> Result<HashMap<String, Value>, String> {
        if count > MOST_KEYS || count > cursor.left() / LEAST_BYTES {
            return Err(format!("it would have {count} keys"));
        }
        let mut values = HashMap::new();
        for _ in 0..count {
            let key = cursor.name("key", LONGEST_KEY)?;
            let value = Value::read(cursor).map_err(|e| format!("key {}: {e}", quoted(&key)))?;
            if values.contains_key(&key) {
                return Err(format!("it has the key {} twice", quoted(&key)));
            }
            values.insert(key, value);
        }
        Ok(values)
    }

    pub(super) fn new(file: String, values: HashMap<String, Value>, header: Vec<u8>) -> Self {
        Self {
            file,
            values,
            header,
        }
    }

    /// Name of the file, for errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// An error of this file.
    pub(crate) fn error(&self, reason: impl Into<String>) -> GgufError {
        GgufError {
            file: self.file.clone(),
            reason: reason.into(),
        }
    }

    /// An error of a key that is needed.
    fn missing(&self, key: &str) -> GgufError {
        self.error(format!("it has no key {key}, without which it is no model"))
    }

    fn unfit(&self, key: &str, wanted: &str) -> GgufError {
        self.error(format!("its key {key} is not {wanted}"))
    }

    /// A value made by `make`, which gives none for one of another kind.
    fn find<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        make: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let value = self.values.get(key);
        let made = value.map(|value| make(value).ok_or_else(|| self.unfit(key, wanted)));
        made.transpose()
    }

    /// A text, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.find(key, "a text", |value| match value {
            Value::Text(place) => self.str(place.clone()),
            _ => None,
        })
    }

    /// A whole number that is not negative, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn integer(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.find(key, "a whole number", |value| match value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A whole number that is needed.
    ///
    /// # Errors
    ///
    /// If it is something else or missing.
    pub fn need_integer(&self, key: &str) -> Result<u64, GgufError> {
        self.integer(key)?.ok_or_else(|| self.missing(key))
    }

    /// A number, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.find(key, "a number", number)
    }

    /// A number that is needed.
    ///
    /// # Errors
    ///
    /// If it is something else or missing.
    pub fn need_number(&self, key: &str) -> Result<f64, GgufError> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    /// True or false, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.find(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    /// A list of texts, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, GgufError> {
        self.find(key, "a list of texts", |value| match value {
            Value::Array(array) if array.of == Kind::Text => self.strs(array),
            _ => None,
        })
    }

    /// A list of numbers, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, GgufError> {
        let wanted = "a list of numbers";
        self.find(key, wanted, |value| self.scalars(value, number))
    }

    /// A list of whole numbers that are not negative, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<u64>>, GgufError> {
        let integer = |value: &Value| match value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            _ => None,
        };
        let wanted = "a list of whole numbers";
        self.find(key, wanted, |value| self.scalars(value, integer))
    }

    /// A list of true and false, if there is such a key.
    ///
    /// # Errors
    ///
    /// If it is something else.
    pub fn flags(&self, key: &str) -> Result<Option<Vec<bool>>, GgufError> {
        let flag = |value: &Value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        };
        let wanted = "a list of true and false";
        self.find(key, wanted, |value| self.scalars(value, flag))
    }

    fn str(&self, place: std::ops::Range<usize>) -> Option<&str> {
        std::str::from_utf8(self.header.get(place)?).ok()
    }

    fn strs(&self, array: &Array) -> Option<Vec<&str>> {
        let mut rest = self.header.get(array.place.clone())?;
        let mut texts = Vec::new();
        for _ in 0..array.count {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (text, after) = after.split_at_checked(length)?;
            texts.push(std::str::from_utf8(text).ok()?);
            rest = after;
        }
        Some(texts)
    }

    fn scalars<T>(&self, value: &Value, make: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
        let Value::Array(array) = value else {
            return None;
        };
        let bytes = self.header.get(array.place.clone())?;
        let size = usize::try_from(array.of.bytes()).ok()?;
        let values = bytes.chunks_exact(size);
        let each = |bytes| array.of.scalar(bytes).as_ref().and_then(&make);
        values.map(each).collect()
    }
}

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Integer(n) => Some(*n as f64),
        Value::Float(n) => Some(*n),
        _ => None,
    }
}
