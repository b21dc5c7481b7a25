//! Whether a model fits into the memory of its device, before its weights are read. Pure: numbers
//! in, numbers and a text out.

use std::fmt;

/// Bytes that a loaded model takes, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Weights, as they are kept.
    pub weights: u64,
    /// The KV cache that was asked for, or the smallest useful one.
    pub kv_cache: u64,
    /// Encoding of one batch of frames.
    pub vision: u64,
}

impl Needs {
    /// All of them.
    pub fn total(&self) -> u64 {
        let parts = [self.weights, self.kv_cache, self.vision];
        parts.into_iter().fold(0, u64::saturating_add)
    }
}

/// A model that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shortage {
    /// The model.
    pub name: String,
    /// Its device.
    pub device: String,
    pub needs: Needs,
    /// Bytes that the device has free.
    pub free: u64,
    /// Other settings with which it would fit, and what it would need with them.
    pub remedies: Vec<(String, u64)>,
}

impl Shortage {
    /// None if the model fits. Of `others`, which are settings and what is needed and free with
    /// them, those that fit are remedies.
    pub fn of(
        (name, device): (&str, &str),
        needs: Needs,
        free: u64,
        others: impl IntoIterator<Item = (String, Needs, u64)>,
    ) -> Option<Self> {
        if needs.total() <= free {
            return None;
        }
        let fit = |(setting, needs, free): (String, Needs, u64)| {
            (needs.total() <= free).then(|| (setting, needs.total()))
        };
        Some(Self {
            name: name.into(),
            device: device.into(),
            needs,
            free,
            remedies: others.into_iter().filter_map(fit).collect(),
        })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Needs {
            weights,
            kv_cache,
            vision,
        } = self.needs;
        write!(
            f,
            "{} does not fit into the memory of {}: it needs {} ({} for its weights, {} for the KV \
             cache, {} to encode frames), and {} are free. ",
            self.name,
            self.device,
            Gib(self.needs.total()),
            Gib(weights),
            Gib(kv_cache),
            Gib(vision),
            Gib(self.free)
        )?;
        let remedies = self.remedies.iter();
        let remedies = remedies.map(|(setting, total)| format!("{setting} ({})", Gib(*total)));
        let remedies: Vec<String> = remedies.collect();
        match remedies.is_empty() {
            true => write!(
                f,
                "Use a smaller model, a checkpoint in 4 bits, a GGUF file of fewer bits, or a \
                 machine with more memory"
            ),
            false => write!(f, "What would fit: {}", remedies.join(", ")),
        }
    }
}

/// Bytes in GiB, for users.
struct Gib(u64);

impl fmt::Display for Gib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.0 as f64 / (1u64 << 30) as f64;
        match gib {
            10.0.. => write!(f, "{gib:.1} GiB"),
            0.01.. => write!(f, "{gib:.2} GiB"),
            _ => write!(f, "{gib:.4} GiB"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;

    fn needs(weights: u64) -> Needs {
        Needs {
            weights,
            kv_cache: GIB / 2,
            vision: GIB / 4,
        }
    }

    #[test]
    fn the_text_has_all_sizes_and_what_would_fit() {
        let others = [
            ("quantization=q8-0".into(), needs(9 * GIB), 8 * GIB),
            ("quantization=q4-k".into(), needs(5 * GIB), 8 * GIB),
            ("device=cpu".into(), needs(16 * GIB), 20 * GIB),
        ];
        let shortage = Shortage::of(("Qwen/X", "cuda:0"), needs(16 * GIB), 8 * GIB, others);
        assert_eq!(
            shortage.unwrap().to_string(),
            "Qwen/X does not fit into the memory of cuda:0: it needs 16.8 GiB (16.0 GiB for its \
             weights, 0.50 GiB for the KV cache, 0.25 GiB to encode frames), and 8.00 GiB are \
             free. What would fit: quantization=q4-k (5.75 GiB), device=cpu (16.8 GiB)"
        );
        let none = Shortage::of(("m", "cpu"), needs(GIB), 1000, []).unwrap();
        assert!(
            none.to_string().ends_with("or a machine with more memory"),
            "{none}"
        );
    }

    proptest! {
        /// It is told of a shortage exactly when there is one, whatever the numbers.
        #[test]
        fn a_model_fits_or_the_numbers_say_why(
            weights: u64, kv_cache: u64, vision: u64, free: u64, shift in 0..40_u32,
            others in prop::collection::vec((any::<u64>(), any::<u64>()), 0..4),
        ) {
            let needs = Needs { weights: weights >> shift, kv_cache: kv_cache >> shift, vision };
            let exact = [needs.weights, needs.kv_cache, needs.vision].map(u128::from);
            let fits = exact.iter().sum::<u128>().min(u64::MAX.into()) <= free.into();
            let others: Vec<_> = others
                .into_iter()
                .map(|(weights, free)| {
                    let needs = Needs { weights, kv_cache: 0, vision: 0 };
                    (format!("{weights} of {free}"), needs, free)
                })
                .collect();
            let possible = others.iter().filter(|(_, needs, free)| needs.weights <= *free).count();
            let shortage = Shortage::of(("name", "cpu"), needs, free, others);
            prop_assert_eq!(shortage.is_none(), fits);
            if let Some(shortage) = shortage {
                prop_assert_eq!(shortage.remedies.len(), possible);
            }
        }
    }
}
