//! Which machines the cell can reach, and so what excuses a second copy of a slot.
//!
//! Says it by the faults themselves: processes that are there, ways that are open. Where the cell
//! might not see through, it says no: a copy is excused rather too often than wrongly blamed.

use super::{World, index_of};
use crate::checkers::Invariant;
use borg_cell::state::MachineState;
use borg_proto::{IncarnationId, Millis};

/// How long orders may take to a machine that can be reached, beyond the silence after which it
/// would be down: polls that are lost or held, machines that are divided again, and the delay with
/// which a signal ends a process.
const ORDERED: Millis = Millis(5_000);

impl World {
    /// Looks at the slots that have more than one running incarnation.
    pub(crate) fn look_at_copies(&mut self) {
        if !self.checks.copies.any_doubled() {
            return;
        }
        let mut copies = std::mem::take(&mut self.checks.copies);
        let leader = self.governor();
        let term = self.newest.leader().map_or(0, |(_, term)| term);
        // A restored cell ends nothing of what it does not know before it has heard all machines; that may be a
        // task and its successor.
        let hears_out = self.newest.spares(self.now());
        let patience = |id: IncarnationId, machine: usize| {
            let host = &self.machines[machine];
            let known = self.newest.machine_named(&host.name);
            let up = known.is_some_and(|machine| machine.state == MachineState::Up);
            let ordered =
                up && !hears_out && leader.is_some_and(|leader| self.can_order(leader, machine));
            let grace = host.processes.get(&id).map_or(Millis(0), |container| container.grace);
            ordered.then_some(self.setup.machine_down_after + ORDERED + grace)
        };
        let wanted = |id: IncarnationId, machine: usize| self.is_wanted(id, machine);
        let result = copies.only_newest_last(self.now(), term, wanted, patience);
        self.checks.copies = copies;
        self.check(Invariant::SingleCopy, result);
    }

    /// Whether the newest state has an incarnation on a machine, as a task or as the successor of one.
    pub(crate) fn is_wanted(&self, id: IncarnationId, machine: usize) -> bool {
        let there = self.newest.machine_named(&self.machines[machine].name).map(|there| there.id);
        self.newest.placed_as(id).is_some_and(|(placed, _)| Some(placed.machine) == there)
    }

    /// The leader of the newest state, if it is there, in office and heard by a majority.
    fn governor(&self) -> Option<usize> {
        let (id, term) = self.newest.leader()?;
        let leader = index_of(id);
        let process = self.replicas[leader].process.as_ref()?;
        let in_office = process.master.is_leader() && process.master.term() == term;
        let hears = |other: &usize| {
            *other == leader
                || self.moves(*other)
                    && self.network.is_open(leader, *other)
                    && self.network.is_open(*other, leader)
        };
        let heard_by = (0..self.setup.masters).filter(hears).count();
        (in_office && self.moves(leader) && heard_by * 2 > self.setup.masters).then_some(leader)
    }

    /// Whether a master is there and does not stand still.
    pub(crate) fn moves(&self, master: usize) -> bool {
        let replica = &self.replicas[master];
        replica.process.is_some() && replica.paused_until <= self.now()
    }

    /// Whether a leader's orders reach a machine by whichever master polls it. A master that is
    /// gone for the leader polls nothing for long; one that it half hears may.
    fn can_order(&self, leader: usize, machine: usize) -> bool {
        let node = self.setup.masters + machine;
        let open = |from, to| self.network.is_open(from, to);
        let brings = |master: usize| match (open(leader, master), open(master, leader)) {
            (true, true) => open(master, node) && open(node, master),
            (false, false) => true,
            (true, false) | (false, true) => false,
        };
        let host = &self.machines[machine];
        host.has_borglet() && !host.paused && (0..self.setup.masters).all(brings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::Violation;
    use crate::jobs::job;
    use crate::world::Fault;

    /// A settled cell with one task, and an older copy of it on another machine, of which the
    /// machine itself knows nothing: nobody will ever stop it.
    fn doubled() -> (World, usize) {
        let mut world = World::seeded(7).replicas(3).machines(4).build();
        let web = world.submit(job("web").tasks(1));
        world.run_until_acknowledged(&web).unwrap();
        world.run_until_settled();
        let there = world.place_of(&web, 0).unwrap();
        let id = world.processes().keys().next().unwrap().0;
        let elsewhere = (there + 1) % 4;
        world.checks.copies.runs(IncarnationId { number: 0, ..id }, elsewhere, 99).unwrap();
        (world, elsewhere)
    }

    fn found(world: &World) -> Option<Invariant> {
        world.violations().first().map(|Violation { invariant, .. }| *invariant)
    }

    #[test]
    fn an_older_copy_on_a_machine_that_is_up_is_found_while_the_cell_runs() {
        let (mut world, _) = doubled();
        world.run_for(Millis(9_000));
        assert_eq!(found(&world), None, "it is given the time that orders take");
        world.run_for(Millis(3_000));
        assert_eq!(found(&world), Some(Invariant::SingleCopy));
    }

    #[test]
    fn an_older_copy_is_excused_while_its_machine_is_cut_off_and_not_for_long_after() {
        let (mut world, elsewhere) = doubled();
        world.inflict(Fault::CutMachine(elsewhere));
        world.run_for(Millis(60_000));
        assert_eq!(found(&world), None);
        world.end_fault(Fault::CutMachine(elsewhere));
        world.run_for(Millis(15_000));
        assert_eq!(found(&world), Some(Invariant::SingleCopy));
    }
}
