//! What follows from what tasks use: limits that only looking can hold, a machine that is short of
//! room, and processors that are shared unfairly.

use crate::fairness::{Eater, Processors, total};
use crate::room::{Holder, victims};
use crate::supervisor::Supervisor;
use crate::task::{Phase, Task};
use crate::turn::{Effect, MachineUse, TaskUse};
use borg_proto::poll::Usage;
use borg_proto::task::Shortage;
use borg_proto::{FailureCause, IncarnationId, Millis, Resources};

/// Files and directories that every task may have beside what its disk limit is worth. Our choice.
const FILES_FREE: u64 = 100_000;
/// One more file or directory goes with so many bytes of the limit: what ext4 makes inodes for.
const BYTES_PER_FILE: u64 = 16 << 10;
/// Most files and directories that a task may have, whatever its disk limit: more are not counted. Our choice.
pub const MOST_FILES: u64 = 1_000_000;

impl Supervisor {
    /// Takes one measurement of everything, and does what follows from it.
    pub(crate) fn measured(
        &mut self,
        now: Millis,
        machine: &MachineUse,
        tasks: Vec<(IncarnationId, TaskUse)>,
        effects: &mut Vec<Effect>,
    ) {
        for (id, of) in tasks {
            if let Some(task) = self.tasks.get_mut(&id).filter(|task| task.is_live()) {
                task.measured(now, of);
            }
        }
        self.hold_disk_limits(now, effects);
        self.make_room(now, machine, effects);
        self.share_processors(machine, effects);
        self.weigh(effects);
    }

    /// No kernel stops a task at its disk limit here, so who is found beyond it is ended.
    fn hold_disk_limits(&mut self, now: Millis, effects: &mut Vec<Effect>) {
        for task in self.tasks.values_mut() {
            let Some(want) = &task.want else { continue };
            let (limit_bytes, used_bytes) = (want.spec.limit.disk_bytes, task.usage.disk_bytes);
            let limit = (FILES_FREE + limit_bytes / BYTES_PER_FILE).min(MOST_FILES);
            let used = task.files;
            // Who asked for none may write while the machine has room to spare.
            if limit_bytes > 0 && used_bytes > limit_bytes {
                task.end_now(now, FailureCause::DiskLimit { limit_bytes, used_bytes }, effects);
            } else if used > limit {
                task.end_now(now, FailureCause::FileLimit { limit, used }, effects);
            }
        }
    }

    fn make_room(&mut self, now: Millis, machine: &MachineUse, effects: &mut Vec<Effect>) {
        let config = &self.config;
        if let Some(available) = machine.memory_available {
            let used = total(self.tasks.values().map(|task| task.usage.ram_bytes));
            let over = used.saturating_sub(self.info.capacity.ram_bytes);
            let short = config.memory_reserve.saturating_sub(available).max(over);
            let of = |limit: &Resources, usage: &Usage| (limit.ram_bytes, usage.ram_bytes);
            self.give_up(now, Shortage::Memory, short, of, effects);
        }
        if let Some(available) = machine.disk_available {
            let short = match self.packages.disk_left(now, available) {
                0 => 0,
                _ => self.packages.give_back(now, &self.used_layers(), effects),
            };
            // What nobody uses goes before whoever runs.
            let short = match short {
                0 => 0,
                short => self.data.give_back(now, short, effects),
            };
            let of = |limit: &Resources, usage: &Usage| (limit.disk_bytes, usage.disk_bytes);
            self.give_up(now, Shortage::Disk, short, of, effects);
        }
    }

    /// Ends tasks until `short` bytes are free. Those that are being ended free theirs already; who was asked to end
    /// and has time left has little of it then.
    fn give_up(
        &mut self,
        now: Millis,
        of: Shortage,
        short: u64,
        amounts: impl Fn(&Resources, &Usage) -> (u64, u64),
        effects: &mut Vec<Effect>,
    ) {
        let (mut holders, mut freed) = (Vec::new(), 0u64);
        for task in self.tasks.values_mut() {
            let none = Resources::default();
            let limits = task.want.as_ref().map_or(&none, |want| &want.spec.limit);
            let (limit, used) = amounts(limits, &task.usage);
            if task.is_doomed() || matches!(task.phase, Phase::Stopping(_)) {
                freed = total([freed, used]);
                if short > 0 && used > 0 {
                    task.hurry(now);
                }
                continue;
            }
            let Some(want) = &task.want else { continue };
            if matches!(task.phase, Phase::Up { .. }) {
                holders.push(Holder { run: task.run, priority: want.priority, limit, used });
            }
        }
        for victim in victims(&holders, short.saturating_sub(freed)) {
            let Some(task) = self.tasks.get_mut(&victim.run.id) else { continue };
            let (limit_bytes, used_bytes) = (victim.limit, victim.used);
            task.end_now(now, FailureCause::Short { of, limit_bytes, used_bytes }, effects);
        }
    }

    fn share_processors(&mut self, machine: &MachineUse, effects: &mut Vec<Effect>) {
        let Some((all, idle)) = machine.cpu_milli.zip(machine.cpu_idle_milli) else { return };
        let eater = |task: &Task| {
            let want = task.want.as_ref()?;
            let (limit, used) = (want.spec.limit.cpu_milli, task.usage.cpu_milli);
            matches!(task.phase, Phase::Up { .. }).then_some(Eater {
                run: task.run,
                appclass: want.appclass,
                limit,
                used,
            })
        };
        let eaters: Vec<Eater> = self.tasks.values().filter_map(eater).collect();
        let mut caps = self.fairness.second(Processors { all, idle }, &eaters);
        // An earlier process may have left a cap on what was adopted.
        let is_up =
            |task: &&mut Task| matches!(task.phase, Phase::Up { .. }) && task.want.is_some();
        for task in self.tasks.values_mut().filter(is_up) {
            let known = caps.iter().any(|(run, _)| *run == task.run);
            if std::mem::take(&mut task.cap_unknown) && !known {
                caps.push((task.run, None));
            }
        }
        for (run, cap) in caps {
            let asked = self.tasks.get(&run.id).and_then(|task| task.want.as_ref());
            let asked = asked.and_then(|want| want.spec.cpu_cap_milli);
            let cap_milli = [cap, asked].into_iter().flatten().min();
            effects.push(Effect::CapCpu { run, cap_milli });
        }
    }
}
