//! Decisions of schedulers, checked again in full when their entry is applied.
//!
//! A scheduler decided on a copy of the state that may be old by now; the order of the log says
//! who wins. Each assignment of an entry stands or falls by itself. Room is the sum of limits.
//!
//! Invariant: after any assignment every machine holds at most its capacity and each of its ports
//! is handed out once.

use super::turn::Turn;
use super::{Answer, Job, Machine, MachineState, Task};
use crate::event::TaskChange;
use crate::rejection::Rejection;
use borg_proto::command::Assignment;
use borg_proto::resources::Dimension;
use borg_proto::task::{EvictCause, Phase, Placement, TaskState};
use borg_proto::{IncarnationId, Millis, Resources, TaskId};
use std::collections::BTreeSet;

impl Turn<'_> {
    /// Places tasks, each by itself.
    pub(super) fn place(&mut self, assignments: &[Assignment]) -> Answer {
        Answer::Placed { results: assignments.iter().map(|one| self.place_one(one)).collect() }
    }

    fn place_one(&mut self, asked: &Assignment) -> Result<IncarnationId, Rejection> {
        let plan = self.plan(asked)?;
        let by =
            self.state.job(asked.task.job).map(|job| format!("{}/{}", job.key, asked.task.index));
        let cause = EvictCause::Preempted { by: by.unwrap_or_default() };
        for victim in plan.victims {
            self.evict(victim, &cause);
        }
        let (machine, incarnation) = (asked.machine, plan.incarnation);
        if let Some(last) = plan.ports.last() {
            self.machine_mut(machine).next_port = last.wrapping_add(1);
        }
        let placement = Placement {
            machine,
            incarnation,
            placed_at: self.at,
            ports: plan.ports,
            phase: Phase::Starting,
            restarts: 0,
        };
        let change = TaskChange::Placed { machine, incarnation };
        self.change_task(asked.task, TaskState::Running(placement), change, |task| {
            task.incarnations = incarnation;
            task.last_place = Some((machine, incarnation));
        });
        Ok(IncarnationId { task: asked.task, number: incarnation })
    }

    /// Everything that must hold; changes nothing.
    fn plan(&self, asked: &Assignment) -> Result<Plan, Rejection> {
        let gone = Rejection::TaskGone { task: asked.task };
        let (Some(job), Some(task)) = (self.state.job(asked.task.job), self.state.task(asked.task))
        else {
            return Err(gone);
        };
        check_task(job, task, asked.task, self.at)?;
        let Some(machine) = self.state.machine(asked.machine) else {
            return Err(Rejection::MachineGone { machine: asked.machine });
        };
        check_machine(job, machine)?;
        let victims = self.make_room(job, machine, &asked.victims)?;
        let freed = victims.iter().filter_map(|id| self.state.task(*id)?.placement());
        let freed: BTreeSet<u16> =
            freed.flat_map(|placement| placement.ports.iter().copied()).collect();
        let wanted = job.spec.task.ports.len();
        let ports = pick_ports(machine, &freed, wanted);
        if ports.len() < wanted {
            return Err(no_room(
                machine,
                Dimension::Ports,
                &machine.free(),
                &job.spec.task.asked(),
            ));
        }
        let Some(incarnation) = task.incarnations.checked_add(1) else {
            return Err(Rejection::NotPending { task: asked.task });
        };
        Ok(Plan { victims, ports, incarnation })
    }

    /// As many of the victims, in their order, as the job's task needs to fit. Those that are not
    /// on the machine any more have made their room already.
    fn make_room(
        &self,
        job: &Job,
        machine: &Machine,
        victims: &[IncarnationId],
    ) -> Result<Vec<TaskId>, Rejection> {
        let asked = job.spec.task.asked();
        let mut free = machine.free();
        let mut chosen = Vec::new();
        for victim in victims {
            if asked.fits_in(&free) {
                break;
            }
            let id = victim.task;
            let current = self.state.task(id).and_then(|task| task.running(id)) == Some(*victim);
            let (Some(theirs), true) =
                (self.state.job(id.job), current && machine.tasks.contains(&id))
            else {
                continue;
            };
            if !job.priority().may_preempt(theirs.priority()) {
                return Err(Rejection::MayNotPreempt {
                    priority: job.priority(),
                    victim: *victim,
                    victims: theirs.priority(),
                });
            }
            if !chosen.contains(&id) {
                free = free.plus(&theirs.spec.task.asked());
                chosen.push(id);
            }
        }
        match asked.shortest(&free) {
            None => Ok(chosen),
            Some(short) => Err(no_room(machine, short, &free, &asked)),
        }
    }
}

/// What an assignment comes to when nothing stands against it.
struct Plan {
    victims: Vec<TaskId>,
    ports: Vec<u16>,
    incarnation: u32,
}

fn check_task(job: &Job, task: &Task, id: TaskId, now: Millis) -> Result<(), Rejection> {
    let TaskState::Pending { not_before, .. } = task.state else {
        return Err(Rejection::NotPending { task: id });
    };
    if !job.waits_for.is_empty() {
        return Err(Rejection::Waiting { task: id });
    }
    if not_before > now {
        return Err(Rejection::TooEarly { task: id, not_before, now });
    }
    Ok(())
}

fn check_machine(job: &Job, machine: &Machine) -> Result<(), Rejection> {
    let name = || machine.name.clone();
    let Some(info) = machine.info.as_ref().filter(|_| machine.state == MachineState::Up) else {
        return Err(Rejection::MachineNotUp { machine: name(), state: machine.state });
    };
    let spec = &job.spec.task;
    let unmet = spec.constraints.iter().find(|c| !c.soft && !c.holds(&info.attributes));
    if let Some(constraint) = unmet {
        return Err(Rejection::Constraint { machine: name(), constraint: constraint.to_string() });
    }
    for (number, spread) in spec.spread.iter().enumerate() {
        let value = machine.attribute(&spread.attribute);
        let there = job.crowd(number, value);
        if there >= spread.max {
            let (attribute, value) = (spread.attribute.clone(), value.to_owned());
            return Err(Rejection::Crowded { attribute, value, there, most: spread.max });
        }
    }
    Ok(())
}

/// Ports that are free once `freed` are, beginning where the last search ended: a port that was
/// just given back, or is taken by a stranger, is tried again last.
fn pick_ports(machine: &Machine, freed: &BTreeSet<u16>, wanted: usize) -> Vec<u16> {
    let range = machine.port_range();
    let next = u32::from(machine.next_port);
    let start = if range.contains(&next) { next } else { range.start };
    (start..range.end)
        .chain(range.start..start)
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| !machine.ports.contains(port) || freed.contains(port))
        .take(wanted)
        .collect()
}

fn no_room(machine: &Machine, short: Dimension, free: &Resources, asked: &Resources) -> Rejection {
    let amount = |of: &Resources| match &short {
        Dimension::Cpu => of.cpu_milli,
        Dimension::Ram => of.ram_bytes,
        Dimension::Disk => of.disk_bytes,
        Dimension::Ports => of.ports.into(),
        Dimension::Device(name) => of.devices.get(name).copied().unwrap_or(0),
    };
    let (free, asked) = (amount(free), amount(asked));
    Rejection::NoRoom { machine: machine.name.clone(), short, free, asked }
}
