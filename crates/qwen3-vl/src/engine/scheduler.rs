//! What the engine does next. Pure: no tensors, no clock.
//!
//! Closed windows come first, in the order in which they were closed, because somebody waits for
//! their answers; then the inputs of open windows, in the order in which the windows were opened,
//! so that most of a window is in its cache when it closes.

/// What the scheduler needs to know of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowState {
    /// Its number.
    pub id: u64,
    /// Vision inputs that have not been encoded.
    pub waiting: usize,
    /// Order in which it was closed, if it was.
    pub closed: Option<u64>,
    /// Whether the tail of the prompt is in the cache.
    pub prefilled: bool,
}

/// One piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Encode the window's next vision inputs, at least one, and prefill them.
    Input(u64),
    /// Prefill the prompt's tail and sample the first token.
    Tail(u64),
    /// Sample one more token.
    Decode(u64),
}

/// The next piece of work; none if every window waits for its caller.
pub fn next(windows: impl Iterator<Item = WindowState> + Clone) -> Option<Step> {
    let closed = windows
        .clone()
        .filter(|w| w.closed.is_some())
        .min_by_key(|w| w.closed);
    if let Some(window) = closed {
        return Some(match window {
            WindowState { waiting: 1.., .. } => Step::Input(window.id),
            WindowState {
                prefilled: false, ..
            } => Step::Tail(window.id),
            _ => Step::Decode(window.id),
        });
    }
    windows
        .filter(|w| w.waiting > 0)
        .min_by_key(|w| w.id)
        .map(|w| Step::Input(w.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(id: u64, waiting: usize, closed: Option<u64>, prefilled: bool) -> WindowState {
        WindowState {
            id,
            waiting,
            closed,
            prefilled,
        }
    }

    #[test]
    fn closed_windows_first_in_order_of_closing() {
        let open = window(1, 3, None, false);
        let second = window(2, 1, Some(8), false);
        let first = window(3, 0, Some(7), true);
        let all = [open, second, first];
        assert_eq!(next(all.into_iter()), Some(Step::Decode(3)));
        assert_eq!(next([open, second].into_iter()), Some(Step::Input(2)));
        assert_eq!(
            next(
                [
                    open,
                    WindowState {
                        waiting: 0,
                        ..second
                    }
                ]
                .into_iter()
            ),
            Some(Step::Tail(2))
        );
        assert_eq!(next([open].into_iter()), Some(Step::Input(1)));
        assert_eq!(next([WindowState { waiting: 0, ..open }].into_iter()), None);
    }

    proptest::proptest! {
        /// Any mix of windows is finished: each step reduces the work left, none is forgotten.
        #[test]
        fn all_work_is_done(sizes in proptest::collection::vec((0usize..5, 0usize..4, proptest::bool::ANY), 0..8)) {
            let mut windows: Vec<(WindowState, usize)> = sizes
                .iter()
                .enumerate()
                .map(|(i, &(waiting, decode, closed))| {
                    (window(i as u64, waiting, closed.then_some(i as u64), false), decode)
                })
                .collect();
            let work: usize = windows
                .iter()
                .map(|(w, decode)| w.waiting + if w.closed.is_some() { 1 + decode + 1 } else { 0 })
                .sum();
            let mut steps = 0;
            while let Some(step) = next(windows.iter().map(|(w, _)| *w)) {
                steps += 1;
                proptest::prop_assert!(steps <= work);
                let (Step::Input(id) | Step::Tail(id) | Step::Decode(id)) = step;
                let at = windows.iter().position(|(w, _)| w.id == id).expect("a known window");
                let (state, decode) = &mut windows[at];
                match step {
                    Step::Input(_) => state.waiting -= 1,
                    Step::Tail(_) => state.prefilled = true,
                    Step::Decode(_) if *decode == 0 => { windows.remove(at); }
                    Step::Decode(_) => *decode -= 1,
                }
            }
            proptest::prop_assert!(windows.iter().all(|(w, _)| w.closed.is_none() && w.waiting == 0));
            proptest::prop_assert_eq!(steps, work);
        }
    }
}
