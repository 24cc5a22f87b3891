//! The victim: a task of a service that people wait for, and tells how long they would have waited.
//!
//! Every 10 ms, by the clock and whether the last one is done or not, a request comes: some fixed work over 1 MiB of
//! memory and, where disks are measured, 4 KiB that are appended to a file and read back. A request's latency counts
//! from when it came, so that one that is stuck makes those behind it late too.

use crate::figures::percentile;
use crate::{Error, clock};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::time::Duration;

/// The word by which this program is a victim.
pub const NAME: &str = "victim";
/// Time between two requests.
const PERIOD: Duration = Duration::from_millis(10);
/// Requests before those that count.
const WARM_UP: usize = 50;
/// Words of memory that a request goes over: 1 MiB.
const WORDS: usize = (1 << 20) / size_of::<u64>();
/// How often it goes over them: about a millisecond of a core of 2024.
const PASSES: usize = 8;
/// Bytes appended and read back.
const BLOCK: usize = 4096;

/// Latencies of one round, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latencies {
    /// The median.
    pub p50: f64,
    /// The one that a hundredth exceeds.
    pub p99: f64,
    /// The longest.
    pub max: f64,
}

impl Latencies {
    /// As the victim says them.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { p50, p99, max } = self;
        format!("latency p50 {p50:.4} p99 {p99:.4} max {max:.4} ms")
    }

    /// Finds them in what a victim said; `None` while it has not.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        let line =
            text.lines().find_map(|line| line.strip_suffix(" ms")?.strip_prefix("latency p50 "))?;
        let (p50, rest) = line.split_once(" p99 ")?;
        let (p99, max) = rest.split_once(" max ")?;
        Some(Self { p50: p50.parse().ok()?, p99: p99.parse().ok()?, max: max.parse().ok()? })
    }
}

/// Lives a victim's life: so many requests, with a file or without, then its latencies on standard output. Sleeps
/// after that until it is killed, as a service does not end.
///
/// # Errors
/// When the file cannot be written or read.
#[expect(clippy::print_stdout, reason = "what a victim tells is its output")]
pub fn live(requests: usize, with_file: bool) -> Result<(), Error> {
    let mut memory: Vec<u64> = (0..WORDS as u64).collect();
    let mut file = if with_file {
        Some(File::options().create(true).truncate(true).read(true).write(true).open("victim")?)
    } else {
        None
    };
    let mut latencies = Vec::with_capacity(requests);
    let mut due = clock::now();
    for request in 0..WARM_UP + requests {
        due += PERIOD;
        std::thread::sleep(due.saturating_duration_since(clock::now()));
        work(&mut memory);
        if let Some(file) = &mut file {
            append_and_read(file)?;
        }
        if request >= WARM_UP {
            latencies.push(clock::milliseconds(clock::now().saturating_duration_since(due)));
        }
    }
    let [p50, p99, max] = [50, 99, 100].map(|percent| percentile(&latencies, percent));
    println!("{}", Latencies { p50, p99, max }.line());
    loop {
        std::thread::park();
    }
}

fn work(memory: &mut [u64]) {
    let mut sum = 0_u64;
    for _ in 0..PASSES {
        for word in &mut *memory {
            sum = sum.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(*word);
            *word = sum;
        }
    }
}

fn append_and_read(file: &mut File) -> Result<(), Error> {
    let at = file.seek(SeekFrom::End(0))?;
    file.write_all(&[7; BLOCK])?;
    file.seek(SeekFrom::Start(at))?;
    let mut back = [0; BLOCK];
    file.read_exact(&mut back)?;
    if back == [7; BLOCK] { Ok(()) } else { Err("what was read is not what was written".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_victim_says_is_understood() {
        let told = Latencies { p50: 1.25, p99: 2.5, max: 17.0 };
        assert_eq!(Latencies::find(&format!("first\n{}\n", told.line())), Some(told));
        assert_eq!(Latencies::find("latency p50 1.0 p99"), None);
    }

    #[test]
    fn a_block_is_appended_and_read_back() {
        let mut file = tempfile::tempfile().unwrap();
        append_and_read(&mut file).unwrap();
        append_and_read(&mut file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 2 * BLOCK as u64);
    }
}
