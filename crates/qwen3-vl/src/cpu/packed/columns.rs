//! In which order a packed matrix has its columns.

use std::borrow::Cow;
use std::ops::Range;

use rayon::prelude::*;

/// Columns that always share a scale.
pub const RUN: usize = 32;

/// No column: what fills the last run of a group.
const NONE: u32 = u32::MAX;

/// The columns of a matrix, sorted by the group whose scale they share, each group in whole runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    /// How many the matrix has.
    count: usize,
    /// How many there are with those that fill runs.
    width: usize,
    /// Which column is at each place; none if each is at its own and nothing is between them.
    order: Option<Vec<u32>>,
    /// Which of `groups` each run belongs to. It never falls, and rises by one at a time.
    runs: Vec<u32>,
    /// The groups that have columns, by their numbers in the file, rising.
    groups: Vec<usize>,
}

impl Columns {
    /// Columns whose groups of `size` follow each other; the last one may be smaller.
    pub fn in_sequence(count: usize, size: usize) -> Self {
        Self::sorted(count, |column| column / size.max(1))
    }

    /// Columns that belong to any group (GPTQ's `desc_act`, where `g_idx` says which).
    pub fn by_index(groups: &[usize]) -> Self {
        Self::sorted(groups.len(), |column| groups[column])
    }

    fn sorted(count: usize, group: impl Fn(usize) -> usize) -> Self {
        let mut columns: Vec<u32> = (0..count as u32).collect();
        columns.sort_by_key(|column| group(*column as usize));
        let (mut order, mut runs, mut groups) = (Vec::with_capacity(count), Vec::new(), Vec::new());
        for members in columns.chunk_by(|a, b| group(*a as usize) == group(*b as usize)) {
            order.resize(order.len().next_multiple_of(RUN), NONE);
            order.extend(members);
            runs.resize(order.len().div_ceil(RUN), groups.len() as u32);
            groups.extend(members.first().map(|column| group(*column as usize)));
        }
        let in_place = order
            .iter()
            .zip(0..)
            .all(|(column, place)| *column == place);
        Self {
            count,
            width: order.len(),
            order: (!in_place).then_some(order),
            runs,
            groups,
        }
    }

    /// Columns of the matrix.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Places of columns, the last of which is one.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The file's numbers of the groups that have columns.
    pub fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// The groups of some runs, as indices of [`Columns::groups`].
    pub fn runs(&self, runs: Range<usize>) -> &[u32] {
        &self.runs[runs]
    }

    /// The column at a place; none at a place that fills a run.
    pub fn at(&self, place: usize) -> Option<usize> {
        match &self.order {
            None => (place < self.count).then_some(place),
            Some(order) => order
                .get(place)
                .filter(|c| **c != NONE)
                .map(|c| *c as usize),
        }
    }

    /// Rows of as many values in this order, with zeros where there is no column.
    pub fn arranged<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        let Some(order) = &self.order else {
            return Cow::Borrowed(x);
        };
        let mut out = vec![0.0; x.len() / self.count.max(1) * self.width];
        let rows = out.par_chunks_mut(self.width.max(1));
        rows.zip(x.par_chunks(self.count.max(1)))
            .for_each(|(out, x)| {
                for (out, column) in out.iter_mut().zip(order) {
                    *out = x.get(*column as usize).copied().unwrap_or(0.0);
                }
            });
        Cow::Owned(out)
    }

    /// Memory that the order takes.
    pub fn bytes(&self) -> usize {
        let order = self.order.as_deref().unwrap_or_default();
        size_of_val(order) + size_of_val(self.runs.as_slice())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each column has one place, in a run of its group; at other places is nothing.
        #[test]
        fn every_column_has_a_place_in_its_group(
            groups in prop::collection::vec(0..7_usize, 1..300),
        ) {
            let columns = Columns::by_index(&groups);
            let mut seen = vec![0; groups.len()];
            for place in 0..columns.width() {
                let Some(column) = columns.at(place) else { continue };
                seen[column] += 1;
                let run = place / RUN;
                let group = columns.runs(run..run + 1)[0];
                prop_assert_eq!(columns.groups()[group as usize], groups[column]);
            }
            prop_assert!(seen.iter().all(|seen| *seen == 1));
            prop_assert!(columns.groups().is_sorted_by(|a, b| a < b));
            let runs = columns.runs(0..columns.width().div_ceil(RUN));
            prop_assert_eq!(runs[0], 0);
            prop_assert!(runs.windows(2).all(|pair| pair[1] - pair[0] <= 1));
            prop_assert!(columns.width() < groups.len() + RUN * columns.groups().len());
        }

        #[test]
        fn rows_are_arranged_as_the_columns_are(
            groups in prop::collection::vec(0..4_usize, 1..100),
            rows in 1..4_usize,
        ) {
            let (columns, count) = (Columns::by_index(&groups), groups.len());
            let x: Vec<f32> = (1..=rows * count).map(|value| value as f32).collect();
            let out = columns.arranged(&x);
            prop_assert_eq!(out.len(), rows * columns.width());
            for (row, out) in out.chunks(columns.width()).enumerate() {
                for (place, value) in out.iter().enumerate() {
                    let want = columns.at(place).map_or(0.0, |column| x[row * count + column]);
                    prop_assert_eq!(*value, want);
                }
            }
        }

        /// Whole runs in sequence need no order, whatever the last group has.
        #[test]
        fn columns_in_sequence_stay_where_they_are(count in 1..500_usize, runs in 1..5_usize) {
            let columns = Columns::in_sequence(count, runs * RUN);
            prop_assert_eq!(columns.width(), count);
            let x = vec![1.0; count];
            prop_assert!(matches!(columns.arranged(&x), Cow::Borrowed(_)));
            prop_assert_eq!(columns.groups().len(), count.div_ceil(runs * RUN));
        }
    }
}
