//! What saving a checkpoint does to commits on the same disk.
//!
//! Commits one entry of 1 KiB after the other, in turns with and without a checkpoint of a large state
//! being saved by another thread, and prints the latencies of both. `cargo bench -p borg-master --bench
//! checkpoint` measures for two minutes in `BORG_BENCH_DIR` (the system's temporary directory when it is not
//! set); without `--bench`, as in `./ci bench-smoke`, it only shows that it runs.
#![expect(clippy::print_stdout, reason = "it prints what it measured")]
#![expect(clippy::disallowed_methods, reason = "it measures real time")]
#![expect(clippy::unwrap_used, reason = "what fails here ends the measurement")]

use borg_cell::store::conformance::{entries, identity};
use borg_cell::store::{Batch, CheckpointDraft, LogStore, Membership, Position};
use borg_master::store::{Keep, StoreKind, open_keeping};
use borg_proto::Millis;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Sizes of a run.
struct Size {
    /// Of the state, in bytes. 256 MiB: about ten times a cell of 10,000 machines and 150,000 tasks.
    state: usize,
    /// Time of one turn.
    turn: Duration,
    /// Turns without and with a checkpoint, in pairs.
    pairs: u32,
}

const FULL: Size = Size { state: 256 << 20, turn: Duration::from_secs(10), pairs: 6 };
const SMOKE: Size = Size { state: 1 << 20, turn: Duration::from_millis(100), pairs: 1 };

fn main() {
    let size = if std::env::args().any(|arg| arg == "--bench") { FULL } else { SMOKE };
    let dir = match std::env::var_os("BORG_BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.unwrap();
    for kind in [StoreKind::Redb, StoreKind::Sled] {
        measure(kind, &dir.path().join(kind.to_string()), &size);
    }
}

fn measure(kind: StoreKind, dir: &Path, size: &Size) {
    let keep = Keep { count: 2, age: Millis(0), bytes: 0 };
    let mut opened = open_keeping(kind, dir, &identity(), keep).unwrap();
    let state = state(size.state);
    let files = opened.log.checkpoints();
    let (mut quiet, mut busy, mut saves) = (Vec::new(), Vec::new(), Vec::new());
    let mut next = 1;
    for _ in 0..size.pairs {
        commit(&mut *opened.log, &mut next, size.turn, &mut quiet);
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (at, over, files, state) = (next - 1, &over, &files, &state);
            let saving = scope.spawn(move || {
                let mut took = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let draft = CheckpointDraft {
                        place: Position { index: at, term: 1 },
                        membership: &Membership::default(),
                        at: Millis(at),
                        state,
                        log: &[],
                    };
                    let meta = files.save(&draft).unwrap();
                    took.push((began.elapsed(), meta.file_bytes));
                }
                took
            });
            commit(&mut *opened.log, &mut next, size.turn, &mut busy);
            over.store(true, Ordering::Relaxed);
            saves.extend(saving.join().unwrap());
        });
    }
    let (quiet, busy) = (Latencies::of(quiet), Latencies::of(busy));
    println!("{kind}: alone            {quiet}");
    println!("{kind}: while one saves  {busy}");
    let seconds = saves.iter().map(|save| save.0.as_secs_f64()).sum::<f64>() / saves.len() as f64;
    println!(
        "{kind}: p99 {:+.0} %; a checkpoint of {} MiB is {} MiB on disk and takes {seconds:.1} s",
        (busy.p99 / quiet.p99 - 1.0) * 100.0,
        size.state >> 20,
        saves[0].1 >> 20,
    );
}

/// Half of it like the text that states are, half of it noise: it compresses to some 60 %.
fn state(bytes: usize) -> Vec<u8> {
    let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
    let mut state = Vec::with_capacity(bytes + 64);
    while state.len() < bytes {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        state.extend_from_slice(b"user/job\x08\x10task-0000\x20");
        state.extend_from_slice(&noise.to_le_bytes());
    }
    state
}

fn commit(log: &mut dyn LogStore, next: &mut u64, turn: Duration, took: &mut Vec<f64>) {
    let began = Instant::now();
    while began.elapsed() < turn {
        let entry = entries(*next, 1, 1, 1_024);
        let one = Instant::now();
        log.write(&Batch { entries: &entry, ..Batch::default() }).unwrap();
        took.push(one.elapsed().as_secs_f64() * 1e6);
        *next += 1;
    }
}

/// In microseconds.
struct Latencies {
    count: usize,
    p50: f64,
    p99: f64,
    p999: f64,
}

impl Latencies {
    fn of(mut took: Vec<f64>) -> Self {
        took.sort_by(f64::total_cmp);
        let at = |permille: usize| took[(took.len() * permille / 1_000).min(took.len() - 1)];
        Self { count: took.len(), p50: at(500), p99: at(990), p999: at(999) }
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { count, p50, p99, p999 } = self;
        write!(f, "{count} commits: p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p999:.0} us")
    }
}
