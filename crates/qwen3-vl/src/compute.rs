//! How exactly products with weights are computed on the CPU.

use std::str::FromStr;

use crate::choice::UnknownChoice;

/// The arithmetic of products with weights on the CPU; a GPU has its own. Each is the same for one
/// token or many, so that an answer does not depend on the other windows of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Compute {
    /// In f32: the logits of the weights in f32.
    Exact,
    /// Activations are rounded: to bf16 for weights in numbers, to 8 bits for integers.
    Fast,
}

impl Compute {
    /// Its name, as [`FromStr`] parses it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Fast => "fast",
        }
    }

    /// What a load uses that asks for none: rounding activations adds little to the error of
    /// weights that are rounded already.
    #[must_use]
    pub fn default_for(quantised: bool) -> Self {
        match quantised {
            true => Self::Fast,
            false => Self::Exact,
        }
    }
}

impl FromStr for Compute {
    type Err = UnknownChoice;

    /// Parses `exact` or `fast`.
    fn from_str(name: &str) -> Result<Self, UnknownChoice> {
        [Self::Exact, Self::Fast]
            .into_iter()
            .find(|choice| choice.as_str() == name)
            .ok_or_else(|| UnknownChoice {
                what: "compute",
                name: name.into(),
                choices: "exact or fast",
            })
    }
}
