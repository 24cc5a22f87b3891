//! What a cell in virtual time costs: copies of it to ask "what if", and the lives of its tasks.
//!
//! As Fauxmaster holds it: a state and the scheduler that knows all of it, one thread, no log and no
//! sockets. `fork` copies both and decides in the copy; `life` says where the time of a task's life goes;
//! `day` replays a day, `month` a public trace; `questions` asks what planners ask.
//! Times are processor time of this process, but for `questions`; memory is what the kernel counts as resident.

pub mod day;
pub mod fork;
pub mod life;
pub mod month;
pub mod questions;

use crate::Error;

/// Memory that this process has resident, in MiB.
///
/// # Errors
/// When the kernel does not tell.
pub fn resident_mib() -> Result<f64, Error> {
    status_mib("VmRSS:")
}

/// The most memory that this process ever had resident, in MiB.
///
/// # Errors
/// When the kernel does not tell.
pub fn peak_mib() -> Result<f64, Error> {
    status_mib("VmHWM:")
}

fn status_mib(what: &str) -> Result<f64, Error> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(what));
    let kib: u32 = line.and_then(|line| line.split_whitespace().next()).unwrap_or("?").parse()?;
    Ok(f64::from(kib) / 1024.0)
}
