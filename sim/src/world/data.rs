//! The directories that tasks of allocs share, on the disks of simulated machines.

use super::processes::ContainerState;
use super::{Happening, World, number};
use crate::checkers::Invariant;
use crate::jobs::Play;
use crate::marks::Mark;
use borg_proto::poll::SharedData;
use borg_proto::{FailureCause, IncarnationId, Millis};
use borglet_supervisor::Input;

impl World {
    /// A task begins to use the directory of its alloc, or to save it.
    pub(crate) fn share_data(
        &mut self,
        index: usize,
        shared: &SharedData,
    ) -> Result<(), FailureCause> {
        let there = self.machines[index].data.contains_key(&shared.alloc);
        if shared.rescue {
            if !there {
                return Err(FailureCause::start("what it would save is not there"));
            }
            let result = self.saves_alone(index, shared.alloc);
            self.check(Invariant::KeptData, result);
            return Ok(());
        }
        let bytes = self.dice.below(1 << 30);
        self.machines[index].data.entry(shared.alloc).or_insert(bytes);
        Ok(())
    }

    /// What a log saver does with what is left: it works for a while, and may fail while faults are allowed.
    pub(crate) fn rescue_play(&mut self) -> Play {
        let fails = !self.faults.is_over() && self.dice.chance(300);
        let after = self.dice.between(200, 2_000);
        Play::Exit { after, code: i32::from(fails) }
    }

    /// Whoever begins to save data does so when nobody else uses it.
    fn saves_alone(&self, index: usize, alloc: IncarnationId) -> Result<(), String> {
        match self.uses_data(index, alloc).next() {
            None => Ok(()),
            Some(user) => Err(format!("m{index} saves data of {alloc}, which {user} uses")),
        }
    }

    /// Processes on a machine that use a directory.
    fn uses_data(
        &self,
        index: usize,
        alloc: IncarnationId,
    ) -> impl Iterator<Item = IncarnationId> + '_ {
        let all = self.machines[index].processes.iter();
        all.filter_map(move |(id, container)| {
            let shared = container.task.as_ref().and_then(|task| task.shared.as_ref());
            let uses = shared.is_some_and(|shared| shared.alloc == alloc)
                && !matches!(container.state, ContainerState::Ended { .. });
            uses.then_some(*id)
        })
    }

    pub(crate) fn measure_data(&mut self, index: usize, alloc: IncarnationId) {
        let delay = Millis(self.dice.between(1, 200));
        let life = self.machines[index].life;
        self.agenda.after(delay, Happening::DataMeasured { machine: index, life, alloc });
    }

    pub(crate) fn data_measured(&mut self, index: usize, life: u32, alloc: IncarnationId) {
        if self.machines[index].life != life {
            return;
        }
        let bytes = self.machines[index].data.get(&alloc).copied();
        self.tell_borglet(index, Input::DataMeasured { alloc, bytes });
    }

    /// A directory goes: of all that a machine does the one thing that cannot be made good again.
    pub(crate) fn drop_data(&mut self, index: usize, alloc: IncarnationId) {
        self.note(&[26, number(index), alloc.task.job.0, u64::from(alloc.number)]);
        let used = self.uses_data(index, alloc).next();
        let result = match used {
            Some(user) => Err(format!("m{index} drops data of {alloc}, which {user} uses")),
            None => self.may_drop_data(index, alloc),
        };
        self.check(Invariant::KeptData, result);
        if self.machines[index].data.remove(&alloc).is_some() {
            self.hit(Mark::DataDropped);
        }
    }

    /// No machine is short of disk here, so only what the cell does not keep there may go.
    fn may_drop_data(&self, index: usize, alloc: IncarnationId) -> Result<(), String> {
        // A backup may keep what had gone when the cell went on from it.
        if self.newest.epoch() > 1 {
            return Ok(());
        }
        let Some(machine) = self.newest.machine_named(&self.machines[index].name) else {
            return Ok(());
        };
        let there = self.newest.task(alloc.task).and_then(|task| task.placement());
        let held = there.is_some_and(|placement| {
            placement.machine == machine.id && placement.incarnation == alloc.number
        });
        let kept = self.newest.kept_on(machine.id).any(|kept| kept.alloc == alloc);
        if held || kept {
            return Err(format!("m{index} drops data of {alloc}, which the cell keeps there"));
        }
        Ok(())
    }
}
