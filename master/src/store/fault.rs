//! Where a test makes the disk say no.
//!
//! Whatever in this store changes files, syncs them or opens them asks [`may`] just before. Outside
//! of tests the answer is always yes and costs nothing. Under test, the n-th question of a thread
//! is answered with an error of the system's. Leaves out what sled does inside: only a fault
//! under the system's calls reaches that.

use std::io;

/// What is about to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Open,
    Create,
    Write,
    Resize,
    Sync,
    Rename,
    Remove,
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "it fails under test")]
pub(super) fn may(_call: Call) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(super) use injected::may;

#[cfg(test)]
pub(super) mod injected {
    use super::{Call, io};
    use std::cell::Cell;

    thread_local! {
        static ASKED: Cell<u64> = const { Cell::new(0) };
        /// The question that is refused, and how.
        static REFUSED: Cell<Option<(u64, i32)>> = const { Cell::new(None) };
        static HIT: Cell<Option<Call>> = const { Cell::new(None) };
    }

    pub(in crate::store) fn may(call: Call) -> io::Result<()> {
        let asked = ASKED.get() + 1;
        ASKED.set(asked);
        match REFUSED.get() {
            Some((n, code)) if n == asked => {
                HIT.set(Some(call));
                Err(io::Error::from_raw_os_error(code))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Counts from here on, and refuses the `n`-th call of this thread with the system's error
    /// `code`; none with `None`.
    pub(in crate::store) fn refuse(n: Option<(u64, i32)>) {
        ASKED.set(0);
        REFUSED.set(n);
        HIT.set(None);
    }

    /// Which call was refused, if it came to that.
    pub(in crate::store) fn hit() -> Option<Call> {
        HIT.get()
    }

    /// Stops counting and refusing; [`resume`] goes on where it was.
    pub(in crate::store) fn pause() -> (u64, Option<(u64, i32)>, Option<Call>) {
        (ASKED.replace(0), REFUSED.replace(None), HIT.get())
    }

    pub(in crate::store) fn resume(before: (u64, Option<(u64, i32)>, Option<Call>)) {
        ASKED.set(before.0);
        REFUSED.set(before.1);
        HIT.set(before.2);
    }
}
