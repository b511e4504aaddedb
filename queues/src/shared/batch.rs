//! [`Batch`]: code of others that is to run once nothing is held.

/// What a batch does with its items.
pub(super) trait Act {
    fn act(self);
}

/// Items at most; more are done in several batches.
const ROOM: usize = 8;

/// Wakers, and buffers to be dropped, collected while a baton is held and run after it was let go.
/// If one panics the others still run; a second panic then aborts, as anywhere.
pub(super) struct Batch<T: Act> {
    items: [Option<T>; ROOM],
    len: usize,
}

impl<T: Act> Batch<T> {
    #[inline]
    pub(super) fn new() -> Self {
        Self { items: [const { None }; ROOM], len: 0 }
    }

    /// Whether there is room for `more` items.
    #[inline]
    pub(super) fn has_room(&self, more: usize) -> bool {
        self.len + more <= ROOM
    }

    /// Adds an item; the caller knows that there is room.
    #[inline]
    pub(super) fn push(&mut self, item: T) {
        if let Some(place) = self.items.get_mut(self.len) {
            *place = Some(item);
            self.len += 1;
        }
    }

    /// Runs all, in order.
    #[inline]
    pub(super) fn run(&mut self) {
        if self.len > 0 {
            self.run_all();
        }
    }

    fn run_all(&mut self) {
        // If one panics, `len` still says that there may be more, and `drop` goes on behind it.
        for item in &mut self.items {
            if let Some(item) = item.take() {
                item.act();
            }
        }
        self.len = 0;
    }
}

impl<T: Act> Drop for Batch<T> {
    #[inline]
    fn drop(&mut self) {
        if self.len > 0 {
            self.items.iter_mut().filter_map(Option::take).for_each(T::act);
        }
    }
}
