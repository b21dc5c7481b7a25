//! Rounds a matrix of a file some rows at a time.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::weights::{StoredTensor, WeightsError};

/// Writes some rows of a matrix as f32.
pub(super) type Rows<'a> = dyn Fn(Range<usize>, &mut [f32]) + Sync + 'a;

/// What `round` makes of the rows of a matrix `dims`, which are read when it asks for them.
///
/// # Errors
///
/// If they cannot be read.
pub(super) fn by_rows<T>(
    stored: &dyn StoredTensor,
    dims: (usize, usize),
    round: impl FnOnce(&Rows<'_>) -> T,
) -> Result<T, WeightsError> {
    let failed = Mutex::new(None);
    let rows = |rows: Range<usize>, out: &mut [f32]| match stored
        .widen(rows.start * dims.1..rows.end * dims.1)
    {
        Ok(values) => out.copy_from_slice(&values),
        Err(error) => {
            *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        }
    };
    let made = round(&rows);
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(made),
    }
}
