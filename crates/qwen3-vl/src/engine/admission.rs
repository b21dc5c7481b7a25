//! Reserves KV-cache blocks for windows. Pure: it counts blocks and holds none.
//!
//! A window is admitted when it opens and reserves every block that it and one request will need,
//! so a window that has begun never lacks memory. Further concurrent requests need more blocks and
//! may have to wait. Waiting windows are admitted in the order in which they opened.

use std::collections::{BTreeMap, VecDeque};

/// When a window may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// At once.
    Now,
    /// When others have ended and freed their blocks.
    Later,
    /// Not now, and the caller does not want to wait.
    Full,
    /// Never: it needs more blocks than the cache has.
    Never,
}

/// Blocks of an admitted window and its forks.
#[derive(Clone, Copy, Debug, Default)]
struct Reservation {
    /// Blocks that the window declared when it opened; the lower bound of `reserved`.
    declared: usize,
    reserved: usize,
}

/// The blocks of the KV cache, and the windows that reserve them.
#[derive(Clone, Debug)]
pub struct Admission {
    limit: usize,
    reserved: usize,
    admitted: BTreeMap<u64, Reservation>,
    /// Waiting windows and the blocks that each needs, oldest first.
    waiting: VecDeque<(u64, usize)>,
}

impl Admission {
    /// An admission of `limit` blocks, all free.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            reserved: 0,
            admitted: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Blocks of the KV cache.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Opens a window that will need `blocks`. If they are not free, it waits if `waits`.
    pub fn open(&mut self, id: u64, blocks: usize, waits: bool) -> Admitted {
        if blocks > self.limit {
            Admitted::Never
        } else if self.waiting.is_empty() && self.reserve(id, blocks) {
            Admitted::Now
        } else if waits {
            self.waiting.push_back((id, blocks));
            Admitted::Later
        } else {
            Admitted::Full
        }
    }

    fn reserve(&mut self, id: u64, blocks: usize) -> bool {
        let fits = blocks <= self.limit - self.reserved;
        if fits {
            self.reserved += blocks;
            let (declared, reserved) = (blocks, blocks);
            self.admitted.insert(id, Reservation { declared, reserved });
        }
        fits
    }

    /// Whether the window has been admitted.
    pub fn is_admitted(&self, id: u64) -> bool {
        self.admitted.contains_key(&id)
    }

    /// Blocks that the window declared when it opened; 0 if it has not been admitted.
    pub fn declared(&self, id: u64) -> usize {
        self.admitted
            .get(&id)
            .map_or(0, |reservation| reservation.declared)
    }

    /// Reserves `blocks` for an admitted window and its forks together, or what it declared if that
    /// is more. Returns false and keeps the reservation as it is if they are not free.
    pub fn resize(&mut self, id: u64, blocks: usize) -> bool {
        let Some(reservation) = self.admitted.get_mut(&id) else {
            return false;
        };
        let blocks = blocks.max(reservation.declared);
        let others = self.reserved - reservation.reserved;
        let fits = blocks <= self.limit - others;
        if fits {
            reservation.reserved = blocks;
            self.reserved = others + blocks;
        }
        fits
    }

    /// Keeps the windows for which `is_there` holds; the blocks of the others go to waiting
    /// windows.
    pub fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        self.admitted.retain(|id, reservation| {
            let stays = is_there(*id);
            self.reserved -= if stays { 0 } else { reservation.reserved };
            stays
        });
        self.waiting.retain(|(id, _)| is_there(*id));
        while let Some((id, blocks)) = self.waiting.front().copied()
            && self.reserve(id, blocks)
        {
            self.waiting.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn windows_are_admitted_in_the_order_in_which_they_opened() {
        let mut admission = Admission::new(10);
        assert_eq!(admission.open(1, 6, true), Admitted::Now);
        assert_eq!(admission.open(2, 5, true), Admitted::Later);
        assert_eq!(admission.open(3, 2, true), Admitted::Later);
        assert_eq!(admission.open(4, 1, false), Admitted::Full);
        assert_eq!(admission.open(5, 11, true), Admitted::Never);
        let admitted = |a: &Admission| [1, 2, 3].map(|id| a.is_admitted(id));
        assert_eq!(admitted(&admission), [true, false, false]);
        admission.retain(|id| id != 1);
        assert_eq!(admitted(&admission), [false, true, true]);
        assert!(admission.resize(3, 5) && !admission.resize(2, 6));
        admission.retain(|id| id == 3);
        assert!(admission.resize(3, 10) && !admission.resize(3, 11));
        // It gives back what it no longer needs, but keeps what it declared.
        assert!(admission.resize(3, 0) && admission.declared(3) == 2);
        assert_eq!(admission.open(6, 8, false), Admitted::Now);
        assert!(!admission.resize(3, 3));
    }

    /// Ends the oldest admitted window; waiting windows that are admitted then become alive.
    fn oldest_ends(admission: &mut Admission, alive: &mut Vec<u64>, waiting: &mut Vec<u64>) {
        alive.remove(0);
        admission.retain(|id| alive.contains(&id) || waiting.contains(&id));
        alive.extend(waiting.extract_if(.., |id| admission.is_admitted(*id)));
    }

    proptest! {
        /// Reservations never exceed the limit. When all windows have ended, every waiting window
        /// has been admitted and every block is free.
        #[test]
        fn memory_is_bounded_and_all_are_admitted(
            limit in 1usize..40,
            windows in prop::collection::vec((0usize..50, any::<bool>(), 0usize..4), 0..40),
        ) {
            let mut admission = Admission::new(limit);
            let mut alive: Vec<u64> = Vec::new();
            let mut waiting: Vec<u64> = Vec::new();
            for (id, (blocks, waits, ends)) in windows.into_iter().enumerate() {
                let id = id as u64;
                match admission.open(id, blocks, waits) {
                    Admitted::Now => alive.push(id),
                    Admitted::Later => { prop_assert!(waits); waiting.push(id) }
                    Admitted::Full => prop_assert!(!waits),
                    Admitted::Never => prop_assert!(blocks > limit),
                }
                prop_assert!(admission.reserved <= limit);
                for _ in 0..ends.min(alive.len()) {
                    oldest_ends(&mut admission, &mut alive, &mut waiting);
                }
                prop_assert!(admission.reserved <= limit);
            }
            while !alive.is_empty() {
                oldest_ends(&mut admission, &mut alive, &mut waiting);
            }
            prop_assert!(waiting.is_empty());
            prop_assert_eq!(admission.reserved, 0);
        }
    }
}
