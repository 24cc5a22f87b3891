//! What of the disk may still be taken, beyond the reserve.
//!
//! Files that were dropped go after a while, so until then they count as gone already: nobody else has to go for
//! the same bytes.

use borg_proto::Millis;

/// What was dropped is counted on for so long at most: what does not come free in that time does not. Our choice.
const COUNTED_ON: Millis = Millis(10_000);

/// The room that is left.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    reserve: u64,
    /// As measured last; `None` until then.
    available: Option<u64>,
    /// Bytes on their way out, and until when they are counted on.
    going: u64,
    until: Millis,
}

impl Spare {
    /// On a disk of which so many bytes must stay free.
    pub(crate) fn new(reserve: u64) -> Self {
        Self { reserve, ..Self::default() }
    }

    /// Takes what is free now.
    pub(crate) fn measured(&mut self, now: Millis, available: u64) {
        let grown = available.saturating_sub(self.available.unwrap_or(available));
        self.going = if now < self.until { self.going.saturating_sub(grown) } else { 0 };
        self.available = Some(available);
    }

    /// So many bytes are being removed.
    pub(crate) fn dropped(&mut self, now: Millis, bytes: u64) {
        self.going = self.going.saturating_add(bytes);
        self.until = now + COUNTED_ON;
    }

    /// Bytes that may be taken; `None` while nobody knows.
    pub(crate) fn left(&self) -> Option<u64> {
        let available = self.available?.saturating_add(self.going);
        Some(available.saturating_sub(self.reserve))
    }

    /// Bytes that the reserve lacks.
    pub(crate) fn short(&self) -> u64 {
        let free = |available: u64| available.saturating_add(self.going);
        self.available.map_or(0, |available| self.reserve.saturating_sub(free(available)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_counts_once_and_not_for_ever() {
        let mut spare = Spare::new(100);
        assert_eq!((spare.left(), spare.short()), (None, 0));
        spare.measured(Millis(0), 60);
        assert_eq!((spare.left(), spare.short()), (Some(0), 40));
        spare.dropped(Millis(0), 70);
        assert_eq!((spare.left(), spare.short()), (Some(30), 0));
        spare.measured(Millis(1_000), 90);
        assert_eq!(spare.left(), Some(30), "30 of the 70 are gone");
        spare.measured(Millis(10_000), 90);
        assert_eq!((spare.left(), spare.short()), (Some(0), 10), "the others never went");
    }
}
