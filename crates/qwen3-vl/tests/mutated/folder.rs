//! Folders in memory, to be changed and written.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// What has a name in a folder.
#[derive(Clone, Debug)]
pub enum Entry {
    File(Vec<u8>),
    Folder,
    /// A link to that path.
    Link(PathBuf),
}

/// Entries by their names.
#[derive(Clone, Debug, Default)]
pub struct Folder(BTreeMap<String, Entry>);

impl Folder {
    /// All files of a folder.
    pub fn read(path: &Path) -> Self {
        let mut folder = Self::default();
        for entry in fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            folder.set(&name, Entry::File(fs::read(entry.path()).unwrap()));
        }
        folder
    }

    pub fn set(&mut self, name: &str, entry: Entry) {
        self.0.insert(name.into(), entry);
    }

    pub fn put(&mut self, name: &str, bytes: impl Into<Vec<u8>>) {
        self.set(name, Entry::File(bytes.into()));
    }

    pub fn remove(&mut self, name: &str) -> Vec<u8> {
        match self.0.remove(name) {
            Some(Entry::File(bytes)) => bytes,
            other => panic!("{name} is {other:?}"),
        }
    }

    /// The bytes of a file.
    pub fn file(&self, name: &str) -> &[u8] {
        match self.0.get(name) {
            Some(Entry::File(bytes)) => bytes,
            other => panic!("{name} is {other:?}"),
        }
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Names that end so.
    pub fn ending(&self, end: &str) -> Vec<String> {
        let names = self.names().filter(|name| name.ends_with(end));
        names.map(str::to_owned).collect()
    }

    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().filter_map(|(name, entry)| match entry {
            Entry::File(bytes) => Some((name.as_str(), bytes.as_slice())),
            _ => None,
        })
    }

    /// Bytes of all files.
    pub fn size(&self) -> usize {
        self.files().map(|(_, bytes)| bytes.len()).sum()
    }

    /// The files for the rest of the program.
    pub fn leaked(&self) -> &'static [(&'static str, &'static [u8])] {
        let files = self.files().map(|(name, bytes)| {
            let name: &'static str = name.to_owned().leak();
            let bytes: &'static [u8] = bytes.to_vec().leak();
            (name, bytes)
        });
        files.collect::<Vec<_>>().leak()
    }

    /// The folder on the disk.
    pub fn write(&self) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, entry) in &self.0 {
            let path = folder.path().join(name);
            match entry {
                Entry::File(bytes) => fs::write(path, bytes).unwrap(),
                Entry::Folder => fs::create_dir(path).unwrap(),
                Entry::Link(to) => std::os::unix::fs::symlink(to, path).unwrap(),
            }
        }
        folder
    }
}
