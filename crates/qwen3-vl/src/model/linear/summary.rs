//! What users are told of how weights are quantised.

use super::{Linear, ggml};
use crate::weights::QuantizeAtLoad;

/// What layers were rounded to, or were quantised in the checkpoint, and how many were not: `q4-k`,
/// `fp8`, `awq 4-bit, 1 of 197 layers not quantised`. None if none were.
pub(crate) fn summary<'a>(
    asked: QuantizeAtLoad,
    layers: impl Iterator<Item = &'a Linear>,
) -> Option<String> {
    let (rounded, stored): (Vec<_>, Vec<_>) = layers
        .map(|layer| (layer.format(), layer.quantised()))
        .unzip();
    ggml::summary(asked, &rounded).or_else(|| of_stored(&stored))
}

/// The method of most quantised layers, and the layers that have another one.
fn of_stored(layers: &[Option<String>]) -> Option<String> {
    let count = |method: &Option<String>| layers.iter().filter(|layer| *layer == method).count();
    let mut methods: Vec<&Option<String>> = layers.iter().collect();
    methods.sort();
    methods.dedup();
    let most = methods.iter().filter(|method| method.is_some());
    let most = most.max_by_key(|method| count(method))?.as_ref()?;
    let mut text = most.clone();
    for other in methods.iter().filter(|other| other.as_ref() != Some(most)) {
        let name = other.as_deref().unwrap_or("not quantised");
        text += &format!(", {} of {} layers {name}", count(other), layers.len());
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_method_of_most_layers_comes_first() {
        let told = |layers: &[&str]| {
            let layer = |name: &&str| (!name.is_empty()).then(|| (*name).to_owned());
            of_stored(&layers.iter().map(layer).collect::<Vec<_>>())
        };
        assert_eq!(told(&["", ""]), None);
        assert_eq!(told(&["fp8", "fp8"]).as_deref(), Some("fp8"));
        assert_eq!(
            told(&["gptq 8-bit", "", "", "", "gptq 4-bit", "gptq 4-bit"]).as_deref(),
            Some("gptq 4-bit, 3 of 6 layers not quantised, 1 of 6 layers gptq 8-bit")
        );
    }
}
