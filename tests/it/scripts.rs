//! The help of the scripts, and their errors.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn scripts() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("scripts")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    let scripts = files.filter(|file| file.extension().is_none());
    scripts.collect()
}

/// Runs a program elsewhere than in the repository.
fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command.arg("60").arg(program).args(arguments);
    command.current_dir("/").output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn every_script_has_help() {
    let scripts = scripts();
    assert!(scripts.len() >= 8, "{scripts:?}");
    for script in scripts {
        for option in ["--help", "-h"] {
            let output = run(&script, &[option]);
            assert_eq!(output.status.code(), Some(0), "{script:?}: {output:?}");
            let said = text(&output.stdout);
            assert!(said.len() > 100, "{script:?}: {said}");
            assert!(!said.contains("set -E") && !said.starts_with('#'), "{said}");
            assert_eq!(text(&output.stderr), "", "{script:?}");
        }
    }
}

#[test]
fn every_script_says_why_it_ends() {
    for script in scripts() {
        let content = fs::read_to_string(&script).unwrap();
        assert!(content.contains("set -Eeuo pipefail"), "{script:?}");
        let traps = content.contains("/common.sh\"") || content.contains("trap 'status=$?");
        assert!(traps, "{script:?}");
    }
    // The failing commands print nothing themselves.
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    for (body, wanted) in [
        ("false", "line 3: \"false\" ended with 1"),
        ("work() { (exit 7); }; work", "ended with 7"),
        ("x=$(cat /dev/null | grep x)", "ended with 1"),
        ("die 'too late'", "script: too late"),
    ] {
        let common = root().join("scripts/common.sh");
        let common = common.display();
        let content = format!("set -Eeuo pipefail\nsource \"{common}\"\n{body}\n");
        fs::write(&script, content).unwrap();
        let output = run(Path::new("bash"), &[script.to_str().unwrap()]);
        assert!(!output.status.success(), "{body}");
        let said = text(&output.stderr);
        assert!(said.contains(wanted), "{body}: {said}");
    }
}

#[test]
fn what_is_not_there_is_said_before_anything_is_built() {
    let demo = root().join("scripts/demo");
    let output = run(&demo, &["/nowhere/film.mp4"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stdout);
    assert!(
        said.starts_with("The demo model knows synthetic traffic only"),
        "{said}"
    );
    assert!(
        said.contains("scripts/demo '/nowhere/film.mp4' Qwen/"),
        "{said}"
    );
    assert!(text(&output.stderr).contains("no file /nowhere/film.mp4"));
    // With a model of its own there is no hint.
    let output = run(&demo, &["/nowhere/film.mp4", "Qwen/Qwen3-VL-2B-Instruct"]);
    assert_eq!(text(&output.stdout), "");
}

/// Debian 12 has debian.sources by default, older installations and containers sources.list.
#[test]
fn the_mirror_in_either_format() {
    const DEB822: &str = "Types: deb\nURIs: http://mirror.one/debian\nSuites: bookworm\n\n\
                          Types: deb\nURIs: http://mirror.one/debian-security\n";
    const LINES: &str = "# deb http://old.example/debian bookworm main\n\
        deb [signed-by=/x.gpg arch=amd64] https://apt.example/node nodistro main\n\
        deb [arch=amd64] https://mirror.two/debian/ bookworm main\n";
    let mirror = |files: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        let command = format!(
            "set -Eeuo pipefail; source '{}/scripts/common.sh'; debian_mirror '{}'",
            root().display(),
            folder.path().display()
        );
        let output = run(Path::new("bash"), &["-c", &command]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stderr), "");
        text(&output.stdout).trim_end().to_owned()
    };
    let deb822 = ("sources.list.d/debian.sources", DEB822);
    assert_eq!(mirror(&[deb822]), "http://mirror.one/debian");
    assert_eq!(
        mirror(&[("sources.list", LINES)]),
        "https://mirror.two/debian/"
    );
    let other = ("sources.list.d/other.list", LINES);
    assert_eq!(mirror(&[other]), "https://mirror.two/debian/");
    assert_eq!(mirror(&[deb822, other]), "http://mirror.one/debian");
    let empty = ("sources.list", "");
    assert_eq!(mirror(&[empty]), "http://deb.debian.org/debian");
    assert_eq!(mirror(&[]), "http://deb.debian.org/debian");
}
