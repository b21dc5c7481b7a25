//! Which GGUF files belong together. Pure: names only.

use crate::quote::quoted;

/// Types of an mmproj by preference. F16 first: half the memory of F32, and no bits of bf16's are
/// lost but those of the smallest numbers; bf16 is as large; Q8_0 is rounded; F32 is larger and no
/// more exact.
const PREFERENCE: [&str; 4] = ["f16", "bf16", "q8_0", "f32"];

/// Files that are GGUF and neither a language model nor an mmproj (llama.cpp:
/// `gguf_filename_is_model`).
const OTHERS: [&str; 5] = ["imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];

/// Most names that an error lists.
const SHOWN: usize = 10;

/// Whether a file of that name is in this format.
pub(crate) fn is_gguf(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".gguf")
}

/// Whether it holds a vision tower.
pub(crate) fn is_vision(name: &str) -> bool {
    is_gguf(name) && name.to_ascii_lowercase().contains("mmproj")
}

/// Whether it holds a language model, or the first part of one.
pub(crate) fn is_text(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let other = OTHERS.iter().any(|other| lower.contains(other));
    let later = Split::of(name).is_some_and(|split| split.no > 1);
    is_gguf(name) && !is_vision(name) && !other && !later
}

/// The one language model among files of these names; none if there is none.
///
/// # Errors
///
/// Lists them if there are several.
pub(crate) fn text<'a>(names: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, String> {
    let mut texts: Vec<&str> = names.filter(|name| is_text(name)).collect();
    texts.sort_unstable();
    match texts.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(format!(
            "it holds several models: give the path of one of {}",
            list(several)
        )),
    }
}

/// The vision tower among files of these names: the one whose type comes first in the order of
/// preference.
///
/// # Errors
///
/// If there is none, or it cannot be told which.
pub(crate) fn vision<'a>(names: impl Iterator<Item = &'a str>) -> Result<&'a str, String> {
    let mut all: Vec<&str> = names.filter(|name| is_vision(name)).collect();
    all.sort_unstable();
    if let [one] = all.as_slice() {
        return Ok(one);
    }
    for wanted in PREFERENCE {
        let of_type: Vec<&str> = all.iter().copied().filter(|n| is_of(n, wanted)).collect();
        match of_type.as_slice() {
            [] => (),
            [one] => return Ok(one),
            several => return Err(several_towers(several)),
        }
    }
    match all.is_empty() {
        true => Err(
            "there is no file of the vision tower beside it (mmproj*.gguf): put it there, or name \
             it with mmproj"
                .into(),
        ),
        false => Err(several_towers(&all)),
    }
}

fn several_towers(names: &[&str]) -> String {
    format!(
        "there are several files of a vision tower beside it: name one with mmproj, of {}",
        list(names)
    )
}

/// Whether a name ends with a type, as a word of its own.
fn is_of(name: &str, dtype: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let stem = lower
        .strip_suffix(".gguf")
        .and_then(|stem| stem.strip_suffix(dtype));
    stem.is_some_and(|stem| !stem.ends_with(|c: char| c.is_ascii_alphanumeric()))
}

fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quoted(name)).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The name of a part of a model that is split (llama.cpp: `llama_split_path`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Split<'a> {
    prefix: &'a str,
    /// Which part, from 1 on.
    pub(crate) no: u32,
    /// How many there are.
    pub(crate) count: u32,
}

impl<'a> Split<'a> {
    /// Reads `PREFIX-00001-of-00003.gguf`.
    pub(crate) fn of(name: &'a str) -> Option<Self> {
        let stem = name.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, no) = rest.rsplit_once('-')?;
        let number = |text: &str| {
            let digits = text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let (no, count) = (number(no)?, number(count)?);
        let split = Self { prefix, no, count };
        (1..=count).contains(&no).then_some(split)
    }

    /// The name of another part.
    pub(crate) fn part(&self, no: u32) -> String {
        format!("{}-{no:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_by_their_names() {
        let split = Split::of("UD-Q4_K_XL/Qwen3-00002-of-00003.gguf").unwrap();
        assert_eq!((split.no, split.count), (2, 3));
        assert_eq!(split.part(1), "UD-Q4_K_XL/Qwen3-00001-of-00003.gguf");
        for name in [
            "model.gguf",
            "model-00004-of-00003.gguf",
            "model-00000-of-00003.gguf",
            "model-1-of-3.gguf",
            "model-+0001-of-00003.gguf",
            "model-00001-of-00003.safetensors",
            "-of-.gguf",
        ] {
            assert_eq!(Split::of(name), None, "{name}");
        }
    }

    #[test]
    fn one_language_model_is_found() {
        let found = |names: &[&'static str]| text(names.iter().copied());
        let split = ["q-00001-of-00002.gguf", "q-00002-of-00002.gguf"];
        assert_eq!(found(&split), Ok(Some(split[0])));
        let folder = [
            "README.md",
            "mmproj-F16.gguf",
            "imatrix.gguf",
            "Qwen3VL-2B-Q4_K_M.gguf",
        ];
        assert_eq!(found(&folder), Ok(Some(folder[3])));
        assert_eq!(found(&folder[..3]), Ok(None));
        let several = found(&["b.gguf", "a.GGUF"]).unwrap_err();
        assert!(several.contains("\"a.GGUF\", \"b.gguf\""), "{several}");
    }

    #[test]
    fn the_vision_tower_is_chosen_by_its_type() {
        let found = |names: &[&'static str]| vision(names.iter().copied());
        assert_eq!(found(&["a.gguf", "mmproj.gguf"]), Ok("mmproj.gguf"));
        let all = ["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"];
        assert_eq!(found(&all), Ok(all[2]));
        assert_eq!(found(&all[..2]), Ok(all[1]));
        let official = [
            "mmproj-Qwen3VL-2B-Instruct-Q8_0.gguf",
            "mmproj-Qwen3VL-2B-Instruct-F16.gguf",
        ];
        assert_eq!(found(&official), Ok(official[1]));
        let others = ["Q.mmproj-f16.gguf", "Q.mmproj-Q8_0.gguf"];
        assert_eq!(found(&others), Ok(others[0]));
        // Of two models, or of types that are not known.
        for names in [
            ["mmproj-2B-F16.gguf", "mmproj-4B-F16.gguf"],
            ["mmproj-a.gguf", "mmproj-b.gguf"],
        ] {
            let error = found(&names).unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
        }
        assert!(found(&["a.gguf"]).unwrap_err().contains("mmproj*.gguf"));
    }
}
