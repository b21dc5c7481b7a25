//! The tests that docs/conformance.md and docs/security.md name exist, and the targets of all
//! links.

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

/// Names of the code's functions, files and folders (modules have their names).
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

/// The text in backticks in each table's last column.
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
            // Scripts, elements and properties are in backticks too; a test is a path of
            // identifiers.
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

/// README and the documents, by their paths below `root`.
fn pages(root: &Path) -> Vec<PathBuf> {
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    pages.chain([root.join("README.md")]).collect()
}

/// The targets of a page's links, as they are written.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let ends = text.split("](").skip(1);
    ends.filter_map(|rest| rest.split_once(')').map(|(link, _)| link))
}

/// The anchors that GitHub makes of the headings.
fn anchors(text: &str) -> HashSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| {
        let letters = heading.trim_start_matches(['#', ' ']).to_lowercase();
        let letters = letters.chars().map(|c| if c == ' ' { '-' } else { c });
        letters
            .filter(|c| c.is_alphanumeric() || ['-', '_'].contains(c))
            .collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut seen = 0;
    for page in pages(root) {
        let text = fs::read_to_string(&page).unwrap();
        for link in links(&text).filter(|link| !link.contains("://")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let end = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            assert!(end.exists(), "{}: {link} leads nowhere", page.display());
            if !anchor.is_empty() {
                let found = anchors(&fs::read_to_string(&end).unwrap()).contains(anchor);
                assert!(found, "{}: {link} has no such heading", page.display());
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}
