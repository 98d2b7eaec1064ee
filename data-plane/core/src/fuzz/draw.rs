//! Choices made by a fuzzer's bytes.

/// Takes them from the front; zero once there is none left.
pub(super) struct Draw<'a>(pub(super) &'a [u8]);

// === impl Draw ===

impl Draw<'_> {
    pub(super) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub(super) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    pub(super) fn number(&mut self) -> u32 {
        u32::from_be_bytes([(); 4].map(|()| self.byte()))
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// Mostly none: a rule with many conditions is seldom met.
    pub(super) fn some<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = self.pick(&[0, 0, 0, 0, 0, 0, 1, 2]);
        (0..count).map(|_| make(self)).collect()
    }

    /// One to three.
    pub(super) fn few<T>(&mut self, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = 1 + self.below(3);
        (0..count).map(|_| make(self)).collect()
    }

    /// One of these, or now and then the next few bytes.
    pub(super) fn bytes(&mut self, of: &[&str]) -> Vec<u8> {
        if self.below(32) < 31 {
            return self.pick(of).as_bytes().to_vec();
        }
        let length = usize::from(self.below(24)).min(self.0.len());
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken.to_vec()
    }

    pub(super) fn text(&mut self, of: &[&str]) -> String {
        String::from_utf8_lossy(&self.bytes(of)).into_owned()
    }
}
