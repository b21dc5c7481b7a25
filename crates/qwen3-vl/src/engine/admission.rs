//! Who gets room in the KV cache. Pure: counts blocks, holds none.
//!
//! A window is admitted when it opens, with room for all that it and one request will need, so that no
//! window that has begun ever lacks memory. More requests at a time need more room, and may have to wait. Those that wait are admitted in the order in which they opened.

use std::collections::{BTreeMap, VecDeque};

/// Whether a window may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// At once.
    Now,
    /// When others have ended.
    Later,
    /// Not now, and it does not want to wait.
    Full,
    /// Never: it needs more than there is.
    Never,
}

/// Blocks of an admitted window and its forks.
#[derive(Clone, Copy, Debug, Default)]
struct Room {
    /// What it said that it will need.
    said: usize,
    reserved: usize,
}

/// Room in blocks, and who has how much of it.
#[derive(Clone, Debug)]
pub struct Admission {
    limit: usize,
    reserved: usize,
    admitted: BTreeMap<u64, Room>,
    /// Windows that wait, with what they need, oldest first.
    waiting: VecDeque<(u64, usize)>,
}

impl Admission {
    /// All `limit` blocks are free.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            reserved: 0,
            admitted: BTreeMap::new(),
            waiting: VecDeque::new(),
        }
    }

    /// Blocks that there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A window opens that will need so many blocks.
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
            let (said, reserved) = (blocks, blocks);
            self.admitted.insert(id, Room { said, reserved });
        }
        fits
    }

    /// Whether the window has been admitted.
    pub fn is_admitted(&self, id: u64) -> bool {
        self.admitted.contains_key(&id)
    }

    /// What the window said that it will need; 0 if it has not been admitted.
    pub fn said(&self, id: u64) -> usize {
        self.admitted.get(&id).map_or(0, |room| room.said)
    }

    /// An admitted window and its forks need so many blocks in all, or what it said if that is more. Whether
    /// they can have them; if not, they keep what they have.
    pub fn resize(&mut self, id: u64, blocks: usize) -> bool {
        let Some(room) = self.admitted.get_mut(&id) else {
            return false;
        };
        let blocks = blocks.max(room.said);
        let others = self.reserved - room.reserved;
        let fits = blocks <= self.limit - others;
        if fits {
            room.reserved = blocks;
            self.reserved = others + blocks;
        }
        fits
    }

    /// Windows that are still there; what the others had goes to those that wait. Whether one of
    /// those has been admitted.
    pub fn retain(&mut self, is_there: impl Fn(u64) -> bool) -> bool {
        self.admitted.retain(|id, room| {
            let stays = is_there(*id);
            self.reserved -= if stays { 0 } else { room.reserved };
            stays
        });
        self.waiting.retain(|(id, _)| is_there(*id));
        let waiting = self.waiting.len();
        while let Some((id, blocks)) = self.waiting.front().copied()
            && self.reserve(id, blocks)
        {
            self.waiting.pop_front();
        }
        self.waiting.len() < waiting
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_waits_is_admitted_in_order_and_nobody_overtakes() {
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
        // What it does not need any more is free, but for what it said.
        assert!(admission.resize(3, 0) && admission.said(3) == 2);
        assert_eq!(admission.open(6, 8, false), Admitted::Now);
        assert!(!admission.resize(3, 3));
    }

    /// The oldest admitted window ends, and those of the waiting that are admitted then live.
    fn oldest_ends(admission: &mut Admission, alive: &mut Vec<u64>, waiting: &mut Vec<u64>) {
        alive.remove(0);
        admission.retain(|id| alive.contains(&id) || waiting.contains(&id));
        alive.extend(waiting.extract_if(.., |id| admission.is_admitted(*id)));
    }

    proptest! {
        /// Never more than there is; and when all have ended, everyone who wanted to wait has been
        /// admitted and everything is free.
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
                // The oldest admitted ones end.
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
