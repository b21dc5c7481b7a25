//! Ids to text as they come, never splitting a character.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Turns a growing list of ids into pieces of text.
///
/// Byte-level BPE cuts characters at will, and decoding ids one by one is not decoding them
/// together. So the text so far is decoded as a whole from a point where it was last complete, and
/// only what has grown without a replacement character at its end is handed out.
#[derive(Debug, Default)]
pub struct Detokenizer {
    ids: Vec<u32>,
    /// First id that is decoded again each time.
    prefix: usize,
    /// Ids before this one have been handed out.
    read: usize,
}

impl Detokenizer {
    /// Adds an id; returns the text that became certain, possibly none.
    ///
    /// # Errors
    ///
    /// If the tokenizer does not know the id.
    pub fn push(
        &mut self,
        id: u32,
        tokenizer: &Tokenizer,
    ) -> Result<Option<String>, TokenizerError> {
        self.ids.push(id);
        self.step(tokenizer, false)
    }

    /// What is left at the end of the answer: a cut character becomes U+FFFD, as in the reference.
    ///
    /// # Errors
    ///
    /// If the tokenizer does not know an id.
    pub fn finish(mut self, tokenizer: &Tokenizer) -> Result<Option<String>, TokenizerError> {
        self.step(tokenizer, true)
    }

    fn step(
        &mut self,
        tokenizer: &Tokenizer,
        last: bool,
    ) -> Result<Option<String>, TokenizerError> {
        let before = tokenizer.decode(&self.ids[self.prefix..self.read])?;
        let now = tokenizer.decode(&self.ids[self.prefix..])?;
        let complete = last || !now.ends_with('\u{FFFD}');
        match now.strip_prefix(&before) {
            Some(new) if complete && !new.is_empty() => {
                let new = new.to_owned();
                self.prefix = self.read;
                self.read = self.ids.len();
                Ok(Some(new))
            }
            _ => Ok(None),
        }
    }
}
