//! What the leader believes that the tasks of each machine need, for whoever asks: people, other masters,
//! metrics.

use crate::metrics::Metrics;
use borg_cell::links::{Reserved, Sums};
use borg_cell::master::Master;
use borg_cell::state::{CellState, MachineState};
use borg_proto::MachineId;
use borg_proto::reclamation::Amounts;
use borg_proto::wire::pb;
use std::collections::BTreeMap;

/// All machines that are up, by name, and their sum; `None` on a master that does not lead.
pub(crate) fn told(master: &Master) -> Option<pb::ListReservationsResponse> {
    Some(listed(master.state(), &master.reservations()?))
}

fn listed(state: &CellState, all: &BTreeMap<MachineId, Reserved>) -> pb::ListReservationsResponse {
    let up = state.machines().filter(|machine| machine.state == MachineState::Up);
    let mut machines: Vec<pb::MachineReservations> = up
        .filter_map(|machine| Some(write(machine.name.to_string(), all.get(&machine.id)?)))
        .collect();
    machines.sort_by(|a, b| a.machine.cmp(&b.machine));
    let cell = all.values().fold(Reserved::default(), |sum, one| sum.plus(*one));
    let cell = Some(write(String::new(), &cell));
    pb::ListReservationsResponse { machines, cell, read: None }
}

fn write(machine: String, of: &Reserved) -> pb::MachineReservations {
    let Reserved { capacity, prod, others, reclaimed, unknown } = *of;
    let some = |amounts: Amounts| Some(amounts.into());
    pb::MachineReservations {
        machine,
        capacity: some(capacity),
        prod_limits: some(prod.limits),
        other_limits: some(others.limits),
        prod_reserved: some(prod.reserved),
        other_reserved: some(others.reserved),
        prod_used: some(prod.used),
        other_used: some(others.used),
        reclaimed: some(reclaimed),
        unknown,
    }
}

/// Shows the sums of the cell; nothing of a master that does not lead.
pub(crate) fn show(master: &Master, metrics: &Metrics) {
    let all = master.reservations().unwrap_or_default();
    let cell = all.values().fold(Reserved::default(), |sum, one| sum.plus(*one));
    let Sums { limits, reserved, .. } = cell.prod.plus(cell.others);
    let lent = limits.minus(reserved);
    let gauge = |amount: u64| i64::try_from(amount).unwrap_or(i64::MAX);
    metrics.lent_cpu.set(gauge(lent.cpu_milli));
    metrics.lent_ram.set(gauge(lent.ram_bytes));
    metrics.reclaimed_cpu.set(gauge(cell.reclaimed.cpu_milli));
    metrics.reclaimed_ram.set(gauge(cell.reclaimed.ram_bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::Cell;

    #[test]
    fn machines_are_listed_by_name_and_summed() {
        let mut cell = Cell::new();
        let ids = ["m-2", "m-1", "m-3"].map(|name| cell.machine(name, 1_000, 1 << 30));
        let of = |cpu_milli| Reserved {
            capacity: Amounts::of([cpu_milli, 0, 0]),
            unknown: 1,
            ..Reserved::default()
        };
        let all = BTreeMap::from([(ids[0], of(1)), (ids[1], of(2))]);
        let told = listed(&cell.state, &all);
        let names: Vec<_> = told.machines.iter().map(|one| one.machine.as_str()).collect();
        assert_eq!(names, ["m-1", "m-2"], "nobody looked at the third yet");
        let cell = told.cell.unwrap();
        assert_eq!((cell.capacity.unwrap().cpu_milli, cell.unknown), (3, 2));
    }
}
