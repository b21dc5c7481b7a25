//! The weighted sum of the results of a token's experts.

use rayon::prelude::*;

use super::vector;

/// For each row the sum over `i` of `weights[row, i] * results[choices[row, i]]`, added in the
/// order of `i`: `[rows, width]`. Every row has the same number of choices.
///
/// # Panics
///
/// If a choice is none of the results or a result has another width.
pub fn weighted_sums(
    results: &[&[f32]],
    choices: &[u32],
    weights: &[f32],
    (rows, width): (usize, usize),
) -> Vec<f32> {
    let mut sums = vec![0.0; rows * width];
    let top = choices.len() / rows.max(1);
    sums.par_chunks_mut(width.max(1))
        .zip(choices.par_chunks(top.max(1)))
        .zip(weights.par_chunks(top.max(1)))
        .for_each(|((sum, choices), weights)| {
            for (choice, weight) in choices.iter().zip(weights) {
                let result = results[*choice as usize];
                assert!(result.len() == width, "weighted-sums: width");
                vector::axpy(*weight, result, sum);
            }
        });
    sums
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equal_the_definition(
            (width, results) in (1usize..70).prop_flat_map(|width| {
                (Just(width), vec(vec(-2f32..2.0, width), 1..9))
            }),
            (rows, top) in (0usize..6, 1usize..4),
            picks in vec(any::<prop::sample::Index>(), 18),
            factors in vec(-1f32..1.0, 18),
        ) {
            let choices: Vec<u32> =
                picks[..rows * top].iter().map(|pick| pick.index(results.len()) as u32).collect();
            let weights = &factors[..rows * top];
            let slices: Vec<&[f32]> = results.iter().map(Vec::as_slice).collect();
            let sums = weighted_sums(&slices, &choices, weights, (rows, width));
            prop_assert_eq!(sums.len(), rows * width);
            for (i, sum) in sums.iter().enumerate() {
                let (row, column) = (i / width, i % width);
                let of_row = row * top..(row + 1) * top;
                let value = |i: usize| results[choices[i] as usize][column];
                let wanted: f64 = of_row.map(|i| f64::from(weights[i]) * f64::from(value(i))).sum();
                prop_assert!((f64::from(*sum) - wanted).abs() < 1e-5);
            }
        }
    }
}
