//! What the machine and its tasks use, each second, at a cost that idle tasks hardly add to.
//!
//! A container in which nothing ran since the last look is asked for one figure; disks are walked beside this, where
//! something ran, now and then. Decides nothing: the supervisor does.

use crate::clock::{self, Stopwatch};
use crate::container::ContainerId;
use crate::disk::Taken;
use crate::tasks::Tasks;
use crate::walks::Walks;
use crate::{cgroup, machine};
use borg_proto::IncarnationId;
use borg_proto::poll::Usage;
use borglet_supervisor::{Input, MachineUse, TaskUse};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A container in which nothing runs is looked at as a whole this often, in milliseconds: others may
/// have taken its page cache.
const IDLE_EVERY_MS: u64 = 30_000;

/// Measures again and again, and knows what was measured last.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// Where tasks write.
    dir: PathBuf,
    disk_reserve: u64,
    known: BTreeMap<ContainerId, Known>,
    walks: Walks,
    processors: Option<machine::Processors>,
}

/// What is known of a container.
#[derive(Debug, Clone)]
struct Known {
    cpu_us: u64,
    at: Stopwatch,
    /// The last whole look, and when that was.
    whole: cgroup::Usage,
    looked: Stopwatch,
}

impl Sampler {
    /// Nothing is known yet. `dir` is where tasks write.
    pub(crate) fn new(dir: PathBuf, disk_reserve: u64) -> Self {
        Self { dir, disk_reserve, known: BTreeMap::new(), walks: Walks::new(), processors: None }
    }

    /// Looks at everything once. Says as well in which containers something ran since the last time, as far as can
    /// be known.
    pub(crate) fn sample(&mut self, tasks: &Tasks) -> (Input, Vec<(IncarnationId, ContainerId)>) {
        let machine = self.machine();
        let tight = machine.disk_available.is_some_and(|left| left < self.disk_reserve);
        let (mut found, mut known, mut ran) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (id, container) in tasks.running() {
            let before = self.known.remove(&container);
            // It may be ending just now.
            let was = before.as_ref().map(|known| known.cpu_us);
            let Some((of, now)) = look(tasks, &self.walks, &container, before, tight) else {
                continue;
            };
            found.push((id, of));
            if now.cpu_us == 0 || was != Some(now.cpu_us) {
                ran.push((id, container.clone()));
            }
            known.insert(container, now);
        }
        self.walks.keep(|container| known.contains_key(container));
        self.known = known;
        (Input::Usage { machine, tasks: found }, ran)
    }

    fn machine(&mut self) -> MachineUse {
        let now = machine::processors_used();
        let before = std::mem::replace(&mut self.processors, now);
        let share = before.zip(now).map(|(before, now)| now.since(&before));
        MachineUse {
            memory_available: machine::memory_available(),
            disk_available: machine::disk_available(&self.dir),
            cpu_milli: share.map(|(all, _)| all),
            cpu_idle_milli: share.map(|(_, idle)| idle),
        }
    }
}

/// Looks at one container.
fn look(
    tasks: &Tasks,
    walks: &Walks,
    container: &ContainerId,
    before: Option<Known>,
    tight: bool,
) -> Option<(TaskUse, Known)> {
    let executor = tasks.executor();
    let cpu_us = executor.cpu_us(container).ok()?;
    // Before it is passed over as idle: what wrote last may rest by now.
    let taken = walks.look(tasks, container, cpu_us, tight);
    let idle = |known: &Known| {
        cpu_us > 0 && known.cpu_us == cpu_us && known.looked.millis() < IDLE_EVERY_MS
    };
    if let Some(known) = before.as_ref().filter(|known| idle(known)) {
        let quiet = usage(&known.whole, taken, Rates::default());
        return Some((quiet, Known { at: clock::stopwatch(), ..known.clone() }));
    }
    let whole = executor.usage(container).ok()?;
    let rates = before.as_ref().map(|known| Rates::of(known, cpu_us, &whole));
    let (at, looked) = (clock::stopwatch(), clock::stopwatch());
    let known = Known { cpu_us, at, whole, looked };
    Some((usage(&whole, taken, rates.unwrap_or_default()), known))
}

/// What went by in a second.
#[derive(Debug, Clone, Copy, Default)]
struct Rates {
    cpu_milli: u64,
    io_bytes: u64,
    io_ops: u64,
}

impl Rates {
    fn of(known: &Known, cpu_us: u64, whole: &cgroup::Usage) -> Self {
        let (passed, looked) = (known.at.millis().max(1), known.looked.millis().max(1));
        let a_second = |now: u64, was: u64| now.saturating_sub(was).saturating_mul(1000) / looked;
        // Without cgroups the whole look is all that there is.
        let used_us = match cpu_us {
            0 => whole.cpu_ms.saturating_sub(known.whole.cpu_ms).saturating_mul(1000),
            _ => cpu_us.saturating_sub(known.cpu_us),
        };
        Self {
            cpu_milli: used_us / passed,
            io_bytes: a_second(whole.io_bytes, known.whole.io_bytes),
            io_ops: a_second(whole.io_ops, known.whole.io_ops),
        }
    }
}

fn usage(whole: &cgroup::Usage, taken: Taken, rates: Rates) -> TaskUse {
    let usage = Usage {
        cpu_milli: rates.cpu_milli,
        ram_bytes: whole.working_set_bytes,
        cache_bytes: whole.cache_bytes(),
        disk_bytes: taken.bytes,
        io_bytes: rates.io_bytes,
        io_ops: rates.io_ops,
        threads: whole.threads,
        window: None,
    };
    TaskUse { usage, files: taken.files }
}
