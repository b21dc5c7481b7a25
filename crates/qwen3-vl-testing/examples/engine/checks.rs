//! Groups of checks. Each check is printed at once, and each group runs in a process of its own, so
//! that a fault of one hides no other.

use std::process::Command;

use anyhow::{Context, bail, ensure};
use qwen3_vl_testing::Check;

/// Checks that have been printed.
#[derive(Default)]
pub struct Tally {
    made: usize,
    failed: usize,
}

impl Tally {
    /// Prints a check; for a failed one also the place, and the relative norm of all differences.
    pub fn print(&mut self, check: &Check) {
        self.made += 1;
        let verdict = if check.holds() { "ok" } else { "FAILED" };
        println!("{verdict:6} {:9.2e}  {}", check.difference, check.name);
        if check.holds() {
            return;
        }
        self.failed += 1;
        println!("         limit {:.2e}", check.limit);
        if let Some(worst) = check.worst {
            println!(
                "         worst at {}: {}, not {}; relative norm {:.2e}",
                worst.index, worst.got, worst.want, worst.relative_norm
            );
        }
    }

    /// Prints the number of checks; fails if one failed, or if there was none.
    pub fn end(&self, group: &str) -> anyhow::Result<()> {
        println!("{group}: {} checks, {} failed", self.made, self.failed);
        ensure!(self.made > 0, "{group}: no checks");
        ensure!(self.failed == 0, "{group}: {} checks failed", self.failed);
        Ok(())
    }
}

/// Runs this program again with the same arguments and `--only` for each group.
pub fn each_alone<'a>(groups: impl IntoIterator<Item = &'a str>) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("the path of this program")?;
    let mut failed = Vec::new();
    for group in groups {
        let mut command = Command::new(&program);
        command
            .args(std::env::args_os().skip(1))
            .args(["--only", group]);
        let status = command
            .status()
            .with_context(|| program.display().to_string())?;
        if !status.success() {
            println!("FAILED {group}: {status}");
            failed.push(group);
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("failed: {}", failed.join(", ")),
    }
}
