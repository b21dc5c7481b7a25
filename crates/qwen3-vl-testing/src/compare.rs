//! Comparison of values with reference values.

/// The result of a comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// Case and stage.
    pub name: String,
    /// Largest absolute difference, or the number of values that differ.
    pub difference: f64,
    /// Largest difference that is allowed.
    pub limit: f64,
    /// For numbers: the place of the largest difference, and the norm of all differences.
    pub worst: Option<Worst>,
}

/// The place of the largest difference.
#[derive(Clone, Copy, Debug)]
pub struct Worst {
    /// Index of the value that differs most, or of the first that is not a number.
    pub index: usize,
    /// That value.
    pub got: f32,
    /// The reference value there.
    pub want: f32,
    /// Euclidean norm of all differences, relative to that of the reference values.
    pub relative_norm: f64,
}

impl Check {
    /// Compares numbers, each of which may differ by at most `limit`.
    pub fn close(name: String, got: &[f32], want: &[f32], limit: f64) -> Self {
        let mut check = Self::count(name, 0, limit);
        if got.len() != want.len() {
            check.name += &format!(": {} values, not {}", got.len(), want.len());
            check.difference = f64::INFINITY;
            return check;
        }
        let (mut index, mut off, mut all) = (0, 0.0, 0.0);
        for (i, (got, want)) in std::iter::zip(got, want).enumerate() {
            let difference = f64::from((got - want).abs());
            // NaN stays the largest difference.
            let larger = difference > check.difference || difference.is_nan();
            if larger && !check.difference.is_nan() {
                (check.difference, index) = (difference, i);
            }
            off += difference * difference;
            all += f64::from(*want) * f64::from(*want);
        }
        check.worst = got
            .get(index)
            .zip(want.get(index))
            .map(|(got, want)| Worst {
                index,
                got: *got,
                want: *want,
                relative_norm: (off / all).sqrt(),
            });
        check
    }

    /// A number of different values, at most `limit`.
    pub fn count(name: String, differing: usize, limit: f64) -> Self {
        Self {
            name,
            difference: differing as f64,
            limit,
            worst: None,
        }
    }

    /// A comparison that could not be made.
    pub fn impossible(name: &str, why: impl std::fmt::Display) -> Self {
        Self {
            name: format!("{name}: {why}"),
            difference: f64::INFINITY,
            limit: 0.0,
            worst: None,
        }
    }

    /// Whether the difference is within the limit. NaN is not.
    pub fn holds(&self) -> bool {
        self.difference <= self.limit
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_value_is_named_with_the_norm_of_all() {
        let check = Check::close("x".into(), &[1.0, 2.5, 3.0], &[1.0, 2.0, 2.9], 0.1);
        let worst = check.worst.unwrap();
        assert!(!check.holds() && check.difference == 0.5);
        assert_eq!((worst.index, worst.got, worst.want), (1, 2.5, 2.0));
        let wanted = (0.25f64 + 0.01).sqrt() / (1.0f64 + 4.0 + 2.9 * 2.9).sqrt();
        assert!((worst.relative_norm - wanted).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_a_number_is_the_worst_wherever_it_is() {
        let got = [0.0, f32::NAN, 9.0, f32::NAN];
        let check = Check::close("x".into(), &got, &[0.0; 4], 100.0);
        assert!(!check.holds());
        assert_eq!(check.worst.unwrap().index, 1);
        assert!(!Check::close("x".into(), &[0.0], &[0.0, 0.0], 1.0).holds());
    }
}
