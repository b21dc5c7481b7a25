//! Pairs of frames: a temporal patch covers two frames.

/// Collects frames into pairs.
#[derive(Clone, Debug)]
pub struct Pairs<T> {
    odd: Option<T>,
}

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Self { odd: None }
    }
}

impl<T: Clone> Pairs<T> {
    /// Takes the next frame; returns a pair with every second one.
    pub fn push(&mut self, frame: T) -> Option<[T; 2]> {
        match self.odd.take() {
            Some(first) => Some([first, frame]),
            None => {
                self.odd = Some(frame);
                None
            }
        }
    }

    /// No more frames: an odd last one is paired with itself.
    pub fn finish(self) -> Option<[T; 2]> {
        self.odd.map(|frame| [frame.clone(), frame])
    }
}
