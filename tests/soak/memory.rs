//! Memory and threads of the process, as the kernel counts them.

use std::fs;

/// Samples, one a second.
#[derive(Default)]
pub struct Memory(Vec<f64>);

/// A number from /proc/self/status.
fn status(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.unwrap_or(f64::NAN)
}

/// Threads of this process.
pub fn threads() -> u64 {
    status("Threads") as u64
}

impl Memory {
    pub fn sample(&mut self) {
        self.0.push(status("VmRSS") / 1024.0);
    }

    /// Resident set now, in MiB.
    pub fn now(&self) -> f64 {
        self.0.last().copied().unwrap_or_default()
    }

    /// The most of each minute.
    pub fn minutes(&self) -> Vec<f64> {
        let most = |minute: &[f64]| minute.iter().copied().fold(0.0, f64::max);
        self.0.chunks_exact(60).map(most).collect()
    }

    /// The last minute above the first one.
    pub fn growth(&self) -> f64 {
        let minutes = self.minutes();
        minutes.last().unwrap_or(&0.0) - minutes.first().unwrap_or(&0.0)
    }

    /// MiB a minute after the first minute, by least squares; none of less than two samples.
    pub fn slope(&self) -> Option<f64> {
        let samples = self.0.get(60..).filter(|samples| samples.len() > 1)?;
        let n = samples.len() as f64;
        let middle = (n - 1.0) / 2.0;
        let mean = samples.iter().sum::<f64>() / n;
        let seconds = |i: usize| i as f64 - middle;
        let both = |(i, mib): (usize, &f64)| seconds(i) * (mib - mean);
        let over: f64 = samples.iter().enumerate().map(both).sum();
        let under: f64 = (0..samples.len()).map(|i| seconds(i).powi(2)).sum();
        Some(60.0 * over / under)
    }
}
