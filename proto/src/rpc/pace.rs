//! Streams of blobs, from whoever has to keep up a pace.
//!
//! Somebody who sends a byte now and then is never silent, and would hold for ever what he was given for the
//! time of a transfer. Only the time that was waited for him counts: a slow disk on this side is not his fault.

use crate::wire::pb;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tonic::{Status, Streaming};

/// How fast a sender has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// One who sends nothing for so long is given up.
    pub silent: Duration,
    /// One who sends less than `least_bytes` while he was waited for so long is given up too.
    pub window: Duration,
    /// At least this much comes in each window.
    pub least_bytes: u64,
}

impl Pace {
    /// For people: half a minute of silence, 256 KiB in each half minute. Ours: a slow modem keeps it up.
    pub const OF_USERS: Self = Self {
        silent: Duration::from_secs(30),
        window: Duration::from_secs(30),
        least_bytes: 256 << 10,
    };
    /// Among masters and machines: 5 s of silence, 2 MiB in each 20 s. Ours: a hundredth of a slow network.
    pub const OF_MACHINES: Self = Self {
        silent: Duration::from_secs(5),
        window: Duration::from_secs(20),
        least_bytes: 2 << 20,
    };
}

/// What has come in a window.
#[derive(Debug, Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

impl Window {
    /// Something came. Whether that is enough for a window that is full by now.
    fn add(&mut self, pace: Pace, waited: Duration, bytes: u64) -> Result<(), String> {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < pace.window {
            return Ok(());
        }
        let Self { waited, bytes } = std::mem::take(self);
        if bytes >= pace.least_bytes {
            return Ok(());
        }
        Err(format!("sent {bytes} bytes in {} s, less than {}", waited.as_secs(), pace.least_bytes))
    }
}

/// A stream of a blob's bytes, from whoever has to keep up a [`Pace`].
#[derive(Debug)]
pub struct Paced {
    chunks: Streaming<pb::BlobChunk>,
    pace: Pace,
    window: Window,
}

impl Paced {
    /// Begins to measure.
    #[must_use]
    pub fn new(chunks: Streaming<pb::BlobChunk>, pace: Pace) -> Self {
        Self { chunks, pace, window: Window::default() }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// What the stream says; DEADLINE_EXCEEDED when its sender is silent or too slow.
    pub async fn next(&mut self) -> Result<Option<pb::BlobChunk>, Status> {
        let since = Instant::now();
        let next = timeout(self.pace.silent, self.chunks.message()).await.map_err(|_| {
            Status::deadline_exceeded(format!("silent for {} s", self.pace.silent.as_secs()))
        })??;
        if let Some(chunk) = &next {
            let added = self.window.add(self.pace, since.elapsed(), chunk.data.len() as u64);
            added.map_err(Status::deadline_exceeded)?;
        }
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        silent: Duration::from_secs(5),
        window: Duration::from_secs(20),
        least_bytes: 1_000,
    };

    #[test]
    fn who_sends_a_little_now_and_then_is_too_slow_when_the_window_is_full() {
        let mut window = Window::default();
        for _ in 0..4 {
            assert_eq!(window.add(PACE, Duration::from_secs(4), 1), Ok(()));
        }
        let slow = window.add(PACE, Duration::from_secs(4), 1).unwrap_err();
        assert_eq!(slow, "sent 5 bytes in 20 s, less than 1000");
    }

    #[test]
    fn each_window_is_judged_alone_and_waiting_for_ourselves_does_not_count() {
        let mut window = Window::default();
        assert_eq!(window.add(PACE, Duration::from_secs(20), 5_000), Ok(()));
        let slow = window.add(PACE, Duration::from_secs(20), 999);
        assert!(slow.is_err(), "what came before does not help");
        // Whoever never lets us wait may send as little at a time as he likes.
        assert!((0..10_000).all(|_| window.add(PACE, Duration::ZERO, 1).is_ok()));
    }
}
