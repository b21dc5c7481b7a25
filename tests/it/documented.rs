//! The tables of docs/conformance.md and docs/security.md name tests: each one is there.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Names of functions, files and folders of the code, which a module is called by.
fn names(root: &Path) -> HashSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "crates"] {
        sources(&root.join(folder), &mut files);
    }
    let mut names = HashSet::new();
    for file in files {
        for part in file.strip_prefix(root).unwrap().with_extension("").iter() {
            names.insert(part.to_string_lossy().into_owned());
        }
        let text = fs::read_to_string(&file).unwrap();
        let functions = text.split("fn ").skip(1);
        names.extend(functions.map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
            rest[..end.unwrap_or(rest.len())].to_owned()
        }));
    }
    names
}

/// The words of each table's last column that stand in backticks.
fn named(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let tests = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
    tests
        .flat_map(|tests| {
            tests
                .split('`')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn tests_that_the_documents_name_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = names(root);
    let mut seen = 0;
    for document in ["docs/conformance.md", "docs/security.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for test in named(&text) {
            // Scripts, elements and properties are named too; a test is a path of identifiers.
            let path = test.trim_start_matches("c/").trim_start_matches("s/");
            let is_test = path.contains("::") || path.len() > 30;
            let parts = path.split(['/', ':']).filter(|part| !part.is_empty());
            let parts: Vec<&str> = parts.collect();
            let plain = |part: &&str| {
                part.chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
            };
            if !is_test || !parts.iter().all(plain) {
                continue;
            }
            for part in &parts {
                assert!(
                    names.contains(*part) || ["tests", "crate", "qwenvl"].contains(part),
                    "{document} names {test}: there is no {part}"
                );
            }
            seen += 1;
        }
    }
    assert!(seen > 150, "{seen}");
}
