//! How much memory a KV cache gets: bytes, or a share of what is free.

use std::str::FromStr;

/// Memory for a KV cache.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KvMemory {
    /// So many bytes.
    Bytes(u64),
    /// A share, above 0 and up to 1, of the memory that is free when the weights are loaded.
    Share(f64),
}

impl Default for KvMemory {
    /// Half of what is free: the rest is for the vision encoder and for other programs.
    fn default() -> Self {
        Self::Share(0.5)
    }
}

/// A text that is no [`KvMemory`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is neither bytes, such as 8G or 512M, nor a share of the free memory, such as 50%")]
pub struct NoKvMemory;

impl KvMemory {
    /// Bytes of it, if so many are free.
    #[must_use]
    pub fn of(self, free: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            // Rounded towards zero, and bounded for a share beyond 1.
            Self::Share(share) => ((free as f64 * share) as u64).min(free),
        }
    }
}

impl FromStr for KvMemory {
    type Err = NoKvMemory;

    /// Parses bytes (`3000000`, `512M`, `1.5GiB`; units are powers of 1024), a share (`50%`, `0.5`),
    /// or `0`, which is the default.
    fn from_str(text: &str) -> Result<Self, NoKvMemory> {
        let text = text.trim();
        let share = |share: f64| match share > 0.0 && share <= 1.0 {
            true => Ok(Self::Share(share)),
            false => Err(NoKvMemory),
        };
        if let Some(percent) = text.strip_suffix('%') {
            return share(number(percent)? / 100.0);
        }
        if let Ok(bytes) = text.parse() {
            return Ok(match bytes {
                0 => Self::default(),
                _ => Self::Bytes(bytes),
            });
        }
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = text[digits.len()..].to_ascii_lowercase();
        let value = number(digits)?;
        let power = match unit
            .strip_suffix("ib")
            .or(unit.strip_suffix('b'))
            .unwrap_or(&unit)
        {
            "" if unit.is_empty() => return share(value),
            "" => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            _ => return Err(NoKvMemory),
        };
        let bytes = value * 1024_f64.powi(power);
        match bytes >= 1.0 {
            true => Ok(Self::Bytes(bytes as u64)),
            false => Err(NoKvMemory),
        }
    }
}

/// A number in plain digits: no sign, no exponent, no infinity.
fn number(text: &str) -> Result<f64, NoKvMemory> {
    let text = text.trim();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = text.parse().ok().filter(|_| plain);
    number.ok_or(NoKvMemory)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_and_shares_are_parsed() {
        let of = |text: &str| text.parse::<KvMemory>();
        for (text, bytes) in [
            ("1", 1),
            ("3000000", 3_000_000),
            ("18446744073709551615", u64::MAX),
            ("512M", 512 << 20),
            ("8G", 8 << 30),
            ("8GiB", 8 << 30),
            ("8 gb", 8 << 30),
            ("1.5k", 1536),
            ("2T", 2 << 40),
            ("7B", 7),
            (" 7 ", 7),
        ] {
            assert_eq!(of(text), Ok(KvMemory::Bytes(bytes)), "{text}");
        }
        for (text, share) in [("50%", 0.5), ("0.5", 0.5), ("100%", 1.0), ("12.5 %", 0.125)] {
            assert_eq!(of(text), Ok(KvMemory::Share(share)), "{text}");
        }
        assert_eq!(of("0"), Ok(KvMemory::default()));
        for text in [
            "", "%", "0%", "101%", "-1", "-5%", "1.5", "0.0", "1e9", "nan%", "inf", "8X", "G",
            "1G1", "0.1B", "½", "8Gi", "..5%", "8G%",
        ] {
            assert_eq!(of(text), Err(NoKvMemory), "{text}");
        }
    }

    proptest! {
        #[test]
        fn all_bytes_and_percents_are_parsed(bytes in 1..u64::MAX, percent in 1..=100_u32) {
            prop_assert_eq!(bytes.to_string().parse(), Ok(KvMemory::Bytes(bytes)));
            let share = KvMemory::Share(f64::from(percent) / 100.0);
            prop_assert_eq!(format!("{percent}%").parse(), Ok(share));
        }

        #[test]
        fn a_share_is_never_more_than_is_free(free: u64, percent in 1..=100_u32) {
            let share = KvMemory::Share(f64::from(percent) / 100.0);
            prop_assert!(share.of(free) <= free);
            let exact = u128::from(free) * u128::from(percent) / 100;
            let error = u128::from(share.of(free)).abs_diff(exact);
            prop_assert!(error <= 1 + (exact >> 50), "{} of {free}", share.of(free));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = text.parse::<KvMemory>();
        }
    }
}
