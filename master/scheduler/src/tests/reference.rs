//! The best machine for a task by looking at all of them: the rules written down a second time,
//! from the state alone, without any structure of the scheduler.

use super::fixture::Cell;
use crate::Weights;
use borg_cell::state::{Job, Machine, MachineState, Task};
use borg_proto::{IncarnationId, MachineId, Resources, TaskId, UserName};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) type Best = (Option<(u16, usize)>, i64, MachineId, Vec<IncarnationId>);

pub(super) fn best(cell: &Cell, weights: Weights, task: TaskId) -> Option<Best> {
    if cell.spec(task).alloc_set.is_some() {
        return in_alloc(cell, task);
    }
    let overdue = cell.state.task(task).unwrap().is_overdue(cell.now);
    let beyond = || least(cell, weights, task, Some(Victims::Any)).filter(|_| overdue);
    within_budgets(cell, weights, task).or_else(beyond)
}

/// The same for a task that pushes nobody out.
pub(super) fn with_room(cell: &Cell, weights: Weights, task: TaskId) -> Option<Best> {
    least(cell, weights, task, None)
}

/// The same for a task that is held off by disruption budgets however long it waits.
pub(super) fn within_budgets(cell: &Cell, weights: Weights, task: TaskId) -> Option<Best> {
    if cell.spec(task).alloc_set.is_some() {
        return in_alloc(cell, task);
    }
    let within = || least(cell, weights, task, Some(Victims::WithinBudgets));
    least(cell, weights, task, None).or_else(within)
}

fn least(cell: &Cell, weights: Weights, task: TaskId, victims: Option<Victims>) -> Option<Best> {
    // A daemon's task goes to its own machine, whatever that costs.
    let home = cell.state.task(task).unwrap().pinned;
    let machines = cell.state.machines().filter(|m| home.is_none_or(|home| home == m.id));
    machines.filter_map(|m| on(cell, weights, task, m, victims)).min()
}

/// Who may be pushed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victims {
    WithinBudgets,
    Any,
}

/// Whether so many may go together by their jobs' budgets, of which one decision uses eight at most.
/// Nobody is served by successors.
fn may_go(cell: &Cell, gone: &[IncarnationId]) -> bool {
    let tasks = gone.iter().filter(|id| !cell.state.is_successor(**id));
    let all = tasks.flat_map(|id| cell.state.goes_with(id.task));
    let all: Vec<TaskId> = all.collect();
    let serves = |t: &&TaskId| {
        cell.state.task(**t).unwrap().placement().unwrap().serves_since.is_some()
            && cell.spec(**t).effective_disruption().is_some()
    };
    let many = |job| all.iter().filter(serves).filter(|t| t.job == job).count();
    all.iter().all(|t| many(t.job) <= 8) && cell.state.may_disrupt_all(all, cell.now).is_ok()
}

/// A task in an alloc goes where that is, when the rest of the alloc leaves it room.
fn in_alloc(cell: &Cell, task: TaskId) -> Option<Best> {
    let spec = cell.spec(task);
    let set = cell.state.job_named(spec.alloc_set.as_ref().unwrap()).unwrap();
    let machine = set.task(task.index)?.placement()?.machine;
    let machine = cell.state.machine(machine).unwrap();
    let neighbours =
        cell.state.jobs().filter(|j| j.is_alive() && j.spec.alloc_set == spec.alloc_set);
    let placed = neighbours.filter(|j| j.task(task.index).is_some_and(|t| t.placement().is_some()));
    let limit = |j: &Job| j.task_spec(task.index).limit.clone();
    let used = placed.fold(Resources::default(), |sum, j| sum.plus(&limit(j)));
    // What the alloc does not hold for it: ports, or an address.
    let of_machine = spec.asked().fits_in(&machine.free());
    let fits = spec.task.limit.fits_in(&set.spec.task.limit.minus(&used)) && of_machine;
    let admitted = machine.admits(cell.state.job(task.job).unwrap().owner()).is_ok();
    (fits && admitted).then_some((None, 0, machine.id, Vec::new()))
}

/// How many tasks are in an alloc.
fn inside(cell: &Cell, alloc: TaskId) -> usize {
    let key = &cell.state.job(alloc.job).unwrap().key;
    let tenants =
        cell.state.jobs().filter(|j| j.is_alive() && j.spec.alloc_set.as_ref() == Some(key));
    tenants.filter(|j| j.task(alloc.index).is_some_and(|t| t.placement().is_some())).count()
}

fn on(
    cell: &Cell,
    weights: Weights,
    task: TaskId,
    machine: &Machine,
    victims: Option<Victims>,
) -> Option<Best> {
    let preempting = victims.is_some();
    let spec = cell.wanted(task);
    // A successor goes elsewhere.
    let own = cell.state.task(task).unwrap().placement().map(|placed| placed.machine);
    if own == Some(machine.id) {
        return None;
    }
    let info = machine.info.as_ref().filter(|_| machine.state == MachineState::Up)?;
    let user = &cell.state.job(task.job).unwrap().key.user;
    let kept_from = |users: &Arc<BTreeSet<UserName>>| !users.contains(user);
    if machine.closed.is_some()
        || machine.drain.is_some()
        || machine.kept_for.as_ref().is_some_and(kept_from)
    {
        return None;
    }
    if spec.task.constraints.iter().any(|c| !c.soft && !c.holds(&info.attributes)) {
        return None;
    }
    let value = |machine: &Machine, attribute: &str| match attribute {
        "machine" => machine.name.to_string(),
        other => {
            machine.info.as_ref().and_then(|i| i.attributes.get(other)).cloned().unwrap_or_default()
        }
    };
    let there = |attribute: &str| {
        let here = value(machine, attribute);
        let others = cell.state.tasks_of(task.job).filter(|(id, _)| *id != task);
        let both = |t: &Task| {
            t.placement()
                .into_iter()
                .chain(t.successor().map(|s| &s.placement))
                .map(|p| p.machine)
                .collect::<Vec<_>>()
        };
        let homes = others.flat_map(|(_, t)| both(t));
        homes.filter(|m| value(cell.state.machine(*m).unwrap(), attribute) == here).count() as u64
    };
    if spec.task.spread.iter().any(|s| there(&s.attribute) >= s.max.into()) {
        return None;
    }
    let asked = spec.asked();
    let mut gone: Vec<IncarnationId> = Vec::new();
    let there_are = cell.stand_on(machine);
    let used = |gone: &[IncarnationId]| {
        let staying = there_are.iter().filter(|t| !gone.contains(t));
        staying.fold(Resources::default(), |sum, t| sum.plus(&cell.asked_by(*t)))
    };
    // Whole devices have to be idle, a part has to be free of a single one.
    let devices_fit = |gone: &[IncarnationId]| {
        asked.devices.iter().all(|(name, amount)| {
            let all = info.capacity.devices.get(name).copied().unwrap_or(0) / 1000;
            let mut free: Vec<u64> = vec![1000; usize::try_from(all).unwrap()];
            for id in there_are.iter().filter(|t| !gone.contains(t)) {
                let placement = cell.state.placed_as(*id).unwrap().0;
                for share in placement.devices.iter().filter(|share| share.name == *name) {
                    free[usize::from(share.number)] -= u64::from(share.milli);
                }
            }
            if *amount < 1000 {
                return free.iter().any(|free| free >= amount);
            }
            free.iter().filter(|free| **free == 1000).count() as u64 >= amount / 1000
        })
    };
    // The limits of prod have room of their own; others may stand on what is lent.
    let prod = cell.is_to_be_prod(task);
    let left = |gone: &[IncarnationId]| {
        let mut without = machine.clone();
        let staying = |t: &&IncarnationId| !gone.contains(t);
        let prods = |t: &&IncarnationId| cell.is_prod_as(**t);
        let of_prod = there_are.iter().filter(staying).filter(prods);
        let of_prod = of_prod.fold(Resources::default(), |sum, t| sum.plus(&cell.asked_by(*t)));
        let (all, lent) = (used(gone), cell.lent_on(machine, gone));
        let most = cell.state.reclaims().numbers.most_percent;
        let mut left = info.capacity.minus(&all);
        let each = |all: u64, of_prod: u64, capacity: u64, lent: u64| {
            let own = if prod {
                capacity.saturating_sub(of_prod)
            } else {
                (capacity * u64::from(most) / 100).saturating_sub(all - of_prod)
            };
            (capacity + lent).saturating_sub(all).min(own)
        };
        let capacity = &info.capacity;
        left.cpu_milli = each(all.cpu_milli, of_prod.cpu_milli, capacity.cpu_milli, lent.cpu_milli);
        left.ram_bytes = each(all.ram_bytes, of_prod.ram_bytes, capacity.ram_bytes, lent.ram_bytes);
        left.disk_bytes =
            each(all.disk_bytes, of_prod.disk_bytes, capacity.disk_bytes, lent.disk_bytes);
        (without.used, without.used_by_prod) = (all, of_prod);
        assert_eq!(without.room(prod, lent, most), left, "the state has the same rule");
        left
    };
    let fits = |gone: &[IncarnationId]| asked.fits_in(&left(gone)) && devices_fit(gone);
    if preempting {
        let mut candidates: Vec<IncarnationId> = there_are
            .iter()
            .copied()
            .filter(|t| spec.priority.may_preempt(cell.priority(t.task)))
            .filter(|t| cell.spec(t.task).alloc_set.is_none())
            .collect();
        candidates.sort_by_key(|t| (cell.priority(t.task), std::cmp::Reverse(t.task)));
        for candidate in candidates {
            if fits(&gone) {
                break;
            }
            gone.push(candidate);
            if victims == Some(Victims::WithinBudgets) && !may_go(cell, &gone) {
                gone.pop();
            }
        }
        for spared in gone.clone().into_iter().rev() {
            let without: Vec<IncarnationId> =
                gone.iter().copied().filter(|t| *t != spared).collect();
            if fits(&without) {
                gone = without;
            }
        }
    }
    if !fits(&gone) {
        return None;
    }
    // Free shares before, and what the task takes of a machine of the coarser shape that counts.
    let free = left(&gone);
    let share = |part: u64, whole: u64| {
        i64::try_from((part << 14).checked_div(whole).unwrap_or(0).min(4 << 14)).unwrap()
    };
    let shape = |capacity: u64| {
        capacity & !((1u64 << (64 - capacity.leading_zeros()).saturating_sub(7)) - 1)
    };
    let (page, mib) = (|n: u64| n >> 16, |n: u64| n >> 20);
    let cpu = share(free.cpu_milli, info.capacity.cpu_milli)
        - share(asked.cpu_milli, shape(info.capacity.cpu_milli));
    let ram = share(page(free.ram_bytes), page(info.capacity.ram_bytes))
        - share(page(asked.ram_bytes), shape(page(info.capacity.ram_bytes)));
    let disk = share(mib(free.disk_bytes), mib(info.capacity.disk_bytes))
        - share(mib(asked.disk_bytes), shape(mib(info.capacity.disk_bytes)));
    let device = |(name, all): (&Arc<str>, &u64)| {
        let of = |r: &Resources| r.devices.get(name).copied().unwrap_or(0);
        share(of(&free), *all) - share(of(&asked), shape(*all))
    };
    let devices: i64 = info.capacity.devices.iter().map(device).sum();
    let (mut on_machine, mut in_rack, mut in_power) = (0, 0, 0);
    if spec.tasks > 1 {
        let steps = |count: u64| {
            i64::try_from((count * 64 / u64::from(spec.tasks)).min(64) * (1 << 14) / 64).unwrap()
        };
        [on_machine, in_rack, in_power] = ["machine", "rack", "power"].map(|attribute| {
            // A machine that lacks it is in no such place.
            let named = !value(machine, attribute).is_empty();
            steps(if named { there(attribute) } else { 0 })
        });
    }
    // What the other kind of work has of the machine before anybody is pushed out.
    let is_other = |t: &&IncarnationId| cell.is_prod_as(**t) != prod;
    let others = there_are.iter().filter(is_other);
    let others: u64 = others.map(|t| cell.asked_by(*t).cpu_milli).sum();
    let mix = share(others, info.capacity.cpu_milli);
    let soft =
        spec.task.constraints.iter().filter(|c| c.soft && !c.holds(&info.attributes)).count();
    let soft = i64::try_from(soft).unwrap();
    let cost = i64::from(weights.fit) * (cpu + ram + disk + devices)
        + i64::from(weights.strand) * (cpu - ram).abs()
        + i64::from(weights.machine_crowd) * on_machine
        + i64::from(weights.rack_crowd) * in_rack
        + i64::from(weights.power_crowd) * in_power
        - i64::from(weights.mix) * mix
        + i64::from(weights.soft) * (1 << 14) * soft;
    let highest = || gone.iter().map(|t| cell.priority(t.task).get()).max().unwrap_or(0);
    let many = || gone.iter().map(|t| 1 + inside(cell, t.task)).sum();
    let loss = preempting.then(|| (highest(), many()));
    Some((loss, cost, machine.id, gone))
}
