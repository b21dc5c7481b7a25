//! GGUF files of a repository: the one that is asked for, its other parts, and its vision tower.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::quote::quoted;
use crate::weights::gguf::find::{self, Split};

/// Folders and a file: none is known with more than one folder.
const MOST_PARTS: usize = 4;

/// Most names of a folder that are looked at.
const MOST_ENTRIES: usize = 10_000;

/// Paths of what is wanted, in the repository.
#[derive(Clone, Debug)]
pub(super) struct GgufNames {
    /// The language model, or its first part.
    text: String,
    /// The vision tower, if it is named.
    vision: Option<String>,
}

impl GgufNames {
    /// Checks names, which become parts of paths and addresses.
    ///
    /// # Errors
    ///
    /// Says which cannot be the path of such a file.
    pub(super) fn new(text: &str, vision: Option<&str>) -> Result<Self, String> {
        let first = Split::of(text).is_none_or(|split| split.no == 1);
        if !is_plain(text) || !find::is_text(text) || !first {
            return Err(format!(
                "{} is not the path of a GGUF file of a language model, or of its first part",
                quoted(text)
            ));
        }
        if let Some(vision) = vision.filter(|vision| !is_plain(vision)) {
            let vision = quoted(vision);
            return Err(format!("mmproj {vision} is not the path of a GGUF file"));
        }
        Ok(Self {
            text: text.into(),
            vision: vision.map(Into::into),
        })
    }

    /// The files to fetch, of those that a repository has: the vision tower first, which is small.
    ///
    /// # Errors
    ///
    /// Says which is missing, or that it cannot be told which of several is the vision tower.
    pub(super) fn files(&self, available: &BTreeSet<String>) -> Result<Vec<String>, String> {
        let vision = match &self.vision {
            Some(vision) => vision.clone(),
            None => choose(&self.text, available.iter().map(String::as_str))?,
        };
        let files: Vec<String> = [vision].into_iter().chain(self.parts()).collect();
        match files.iter().find(|name| !available.contains(*name)) {
            None => Ok(files),
            Some(missing) => Err(format!("it has no file {}", quoted(missing))),
        }
    }

    /// The files of the language model.
    fn parts(&self) -> Vec<String> {
        match Split::of(&self.text) {
            None => vec![self.text.clone()],
            Some(split) => (1..=split.count).map(|no| split.part(no)).collect(),
        }
    }

    /// The paths of the language model and the vision tower in a folder that has all files; none in
    /// another.
    pub(super) fn find(&self, folder: &Path) -> Option<(PathBuf, PathBuf)> {
        let vision = match &self.vision {
            Some(vision) => vision.clone(),
            None => {
                let names = names(folder, &self.text);
                choose(&self.text, names.iter().map(String::as_str)).ok()?
            }
        };
        let parts = self.parts();
        let all = parts.iter().chain([&vision]);
        let complete = all.into_iter().all(|name| folder.join(name).is_file());
        complete.then(|| (folder.join(&self.text), folder.join(vision)))
    }
}

/// Whether a name is a path of few plain parts that ends as such a file does: safe in paths and
/// addresses.
fn is_plain(name: &str) -> bool {
    let plain = |part: &str| {
        (1..=200).contains(&part.len())
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    find::is_gguf(name) && name.split('/').count() <= MOST_PARTS && name.split('/').all(plain)
}

/// The vision tower for a language model: beside it, else in a folder further up.
fn choose<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Result<String, String> {
    let names: Vec<&str> = names.filter(|name| is_plain(name)).collect();
    let mut found = Err(String::new());
    for folder in folders(text) {
        let inside = names.iter().filter_map(|name| name.strip_prefix(folder));
        let inside: Vec<&str> = inside.filter(|name| !name.contains('/')).collect();
        found = find::vision(inside.iter().copied()).map(|name| format!("{folder}{name}"));
        if inside.iter().any(|name| find::is_vision(name)) {
            break;
        }
    }
    found
}

/// The folders that a path lies in, the innermost first, each with a slash at its end.
fn folders(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.rmatch_indices('/').map(|(at, _)| at + 1);
    slashes.chain([0]).map(|end| &path[..end])
}

/// Paths of the files in those folders of a snapshot.
fn names(snapshot: &Path, text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for folder in folders(text) {
        let entries = fs::read_dir(snapshot.join(folder)).into_iter().flatten();
        let entries = entries.flatten().take(MOST_ENTRIES);
        let inside = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.extend(inside.map(|name| format!("{folder}{name}")));
    }
    names
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn wanted(text: &str, available: &[&str]) -> Result<Vec<String>, String> {
        let available = available.iter().map(|name| name.to_string()).collect();
        GgufNames::new(text, None).unwrap().files(&available)
    }

    #[test]
    fn one_model_its_parts_and_its_vision_tower_are_fetched() {
        let all = [
            "README.md",
            "mmproj-BF16.gguf",
            "mmproj-F16.gguf",
            "q-Q4_K_M.gguf",
            "q-Q8_0.gguf",
            "BF16/q-00001-of-00002.gguf",
            "BF16/q-00002-of-00002.gguf",
        ];
        assert_eq!(wanted(all[3], &all).unwrap(), [all[2], all[3]]);
        assert_eq!(wanted(all[5], &all).unwrap(), [all[2], all[5], all[6]]);
        // A vision tower beside the model comes before one further up.
        let mut beside = all.to_vec();
        beside.push("BF16/mmproj-F32.gguf");
        let expected = [beside[7], all[5], all[6]];
        assert_eq!(wanted(all[5], &beside).unwrap(), expected);
        let cut = wanted(all[5], &all[..6]).unwrap_err();
        assert!(cut.contains("00002-of-00002"), "{cut}");
        assert!(wanted(all[3], &all[3..]).unwrap_err().contains("mmproj"));
        assert!(
            wanted("other.gguf", &all)
                .unwrap_err()
                .contains("other.gguf")
        );
        let named = GgufNames::new(all[3], Some(all[1])).unwrap();
        let available = all.iter().map(|name| name.to_string()).collect();
        assert_eq!(named.files(&available).unwrap(), [all[1], all[3]]);
    }

    #[test]
    fn names_are_plain_paths() {
        for name in [
            "../q.gguf",
            "a/../q.gguf",
            "a//q.gguf",
            "/q.gguf",
            ".q.gguf",
            "a b.gguf",
            "a%2fq.gguf",
            "a\\q.gguf",
            "a/b/c/d/q.gguf",
            "q.bin",
            "q-00002-of-00002.gguf",
            "mmproj.gguf",
            "",
        ] {
            assert!(GgufNames::new(name, None).is_err(), "{name}");
        }
        for vision in ["../mmproj.gguf", "/mmproj.gguf", "mmproj.bin"] {
            assert!(GgufNames::new("q.gguf", Some(vision)).is_err(), "{vision}");
        }
        // Names of a hub are no better than any.
        let hostile = wanted("q.gguf", &["q.gguf", "..mmproj.gguf", "a?mmproj.gguf"]);
        assert!(hostile.is_err());
    }

    #[test]
    fn files_are_found_where_they_were_put() {
        let snapshot = tempfile::tempdir().unwrap();
        let path = |name: &str| snapshot.path().join(name);
        fs::create_dir(path("BF16")).unwrap();
        for name in ["mmproj-F16.gguf", "BF16/q-00001-of-00002.gguf"] {
            fs::write(path(name), "").unwrap();
        }
        let names = GgufNames::new("BF16/q-00001-of-00002.gguf", None).unwrap();
        assert_eq!(names.find(snapshot.path()), None);
        fs::write(path("BF16/q-00002-of-00002.gguf"), "").unwrap();
        let (text, vision) = names.find(snapshot.path()).unwrap();
        assert_eq!(text, path("BF16/q-00001-of-00002.gguf"));
        assert_eq!(vision, path("mmproj-F16.gguf"));
    }
}
