//! So many of a kind at once: each question of `explain`, `check` and `doctor` has threads of its own, and there is no end of askers.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are taken.
pub struct Places {
    taken: AtomicUsize,
    most: usize,
}

/// One that is taken, until it is dropped.
pub struct Place(&'static Places);

impl Places {
    pub const fn new(most: usize) -> Places {
        Places { taken: AtomicUsize::new(0), most }
    }

    /// `None`: there is none left.
    pub fn take(&'static self) -> Option<Place> {
        let more = |taken| (taken < self.most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok().map(|_| Place(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_each_can_be_taken_again() {
        static PLACES: Places = Places::new(2);
        let (first, second) = (PLACES.take(), PLACES.take());
        assert!(first.is_some() && second.is_some() && PLACES.take().is_none());
        drop(first);
        assert!(PLACES.take().is_some());
    }
}
