//! Changes of a file of any kind.

use rand::Rng;
use rand::rngs::StdRng;

use crate::cases::Cases;

/// Cuts a file at several places, in what stands before byte `header` and behind it; makes it
/// longer; changes bits of both parts.
pub fn change(cases: &mut Cases, rng: &mut StdRng, file: &str, header: usize) {
    let good = cases.base().file(file).to_vec();
    let inside = [
        0,
        1,
        7,
        rng.random_range(8..header),
        rng.random_range(8..header),
        rng.random_range(header..good.len()),
        good.len() - 1,
    ];
    for length in inside {
        cases.put(
            format!("{file} of {length} bytes"),
            file,
            good[..length].into(),
        );
    }
    let longer = [&good[..], &[0; 100]].concat();
    cases.put(format!("{file} with 100 zeros more"), file, longer);
    for (what, part) in [("header", 0..header), ("data", header..good.len())] {
        for flips in [1, 1, 5] {
            let mut bytes = good.clone();
            for _ in 0..flips {
                bytes[rng.random_range(part.clone())] ^= 1 << rng.random_range(0..8);
            }
            cases.put(
                format!("{file} with {flips} bits of its {what} changed"),
                file,
                bytes,
            );
        }
    }
    let mut bytes = good.clone();
    let at = rng.random_range(0..header - 8);
    bytes[at..at + 8].fill(0xff);
    cases.put(
        format!("{file} with its bytes {at} to {} set", at + 8),
        file,
        bytes,
    );
}
