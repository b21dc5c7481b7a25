//! Formats numbers of bytes for users.

/// `4.3 GB`.
pub(crate) fn amount(bytes: u64) -> String {
    let (unit, name) = unit(bytes);
    format!("{:.1} {name}", bytes as f64 / unit)
}

fn unit(bytes: u64) -> (f64, &'static str) {
    match bytes {
        1_000_000_000.. => (1e9, "GB"),
        1_000_000.. => (1e6, "MB"),
        _ => (1e3, "kB"),
    }
}

/// `1.2 of 4.3 GB`, in the unit of the larger one.
pub(crate) fn amounts(done: u64, total: u64) -> String {
    let (unit, name) = unit(total);
    format!(
        "{:.1} of {:.1} {name}",
        done as f64 / unit,
        total as f64 / unit
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_fits_the_larger_one() {
        assert_eq!(amounts(0, 1500), "0.0 of 1.5 kB");
        assert_eq!(amounts(1_250_000, 9_000_000), "1.2 of 9.0 MB");
        assert_eq!(amounts(1_204_000_000, 4_300_000_000), "1.2 of 4.3 GB");
        assert_eq!(amount(0), "0.0 kB");
        assert_eq!(amount(30_000_000), "30.0 MB");
        assert_eq!(amount(u64::MAX), "18446744073.7 GB");
    }
}
