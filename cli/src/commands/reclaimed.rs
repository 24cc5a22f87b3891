//! `top --reclaimed`: what the tasks of each machine may use, need and use, and what of it is work beyond
//! what the machines have.

use crate::client::{Client, Kind};
use crate::exit::Failure;
use crate::output::views::{Amounts, MachineReservations, Read, Reservations};
use crate::output::{Output, cores, size};
use borg_proto::wire::pb;

/// Most machines on a terminal.
const ROWS: usize = 25;

/// Asks the leader.
pub(super) async fn look(client: &mut Client) -> Result<pb::ListReservationsResponse, Failure> {
    client
        .call("top", Kind::Read, pb::ListReservationsRequest {}, async |mut master, request| {
            master.list_reservations(request).await
        })
        .await
}

/// Shows an answer; `more_follow` when it is one of several.
pub(super) fn show(
    answer: pb::ListReservationsResponse,
    more_follow: bool,
    out: Output,
) -> Result<(), Failure> {
    let read = answer.read;
    let all = Reservations::from(answer);
    if out.is_json() {
        return out.json(&Read::of(read, all), more_follow);
    }
    let shown = if out.is_terminal() { all.machines.len().min(ROWS) } else { all.machines.len() };
    let rows = std::iter::once(("the cell", &all.cell))
        .chain(all.machines[..shown].iter().map(|one| (one.machine.as_str(), one)));
    let table = crate::output::table(
        ["machine", "of", "capacity", "prod", "others", "reserved", "used", "lent", "reclaimed"],
        rows.flat_map(|(name, of)| rows_of(name, of)),
    );
    out.clear()?;
    out.line(&table)?;
    if all.cell.unknown > 0 {
        out.line(&format!("of {} tasks no use is known yet", all.cell.unknown))?;
    }
    match all.machines.len() - shown {
        0 => Ok(()),
        more => out.line(&format!("and {more} machines more")),
    }
}

/// Of processor time and of memory.
fn rows_of(name: &str, of: &MachineReservations) -> [[String; 9]; 2] {
    let cpu = row(of, |amounts| amounts.cpu_milli, cores);
    let ram = row(of, |amounts| amounts.ram_bytes, size);
    let line = |name: &str, what: &str, row: [String; 7]| {
        let mut cells = [name, what].map(ToOwned::to_owned).into_iter().chain(row);
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    };
    [line(name, "cpu", cpu), line("", "ram", ram)]
}

fn row(
    of: &MachineReservations,
    part: impl Fn(&Amounts) -> u64,
    say: impl Fn(u64) -> String,
) -> [String; 7] {
    let limits = part(&of.prod_limits) + part(&of.other_limits);
    let reserved = part(&of.prod_reserved) + part(&of.other_reserved);
    let reclaimed = part(&of.reclaimed);
    let share = (reclaimed * 100).checked_div(limits).unwrap_or(0);
    [
        say(part(&of.capacity)),
        say(part(&of.prod_limits)),
        say(part(&of.other_limits)),
        say(reserved),
        say(part(&of.prod_used) + part(&of.other_used)),
        say(limits.saturating_sub(reserved)),
        format!("{} ({share} %)", say(reclaimed)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_all_limits_and_of_none_it_is_nothing() {
        let of = |cpu_milli| Amounts { cpu_milli, ..Amounts::default() };
        let one = MachineReservations {
            capacity: of(10_000),
            prod_limits: of(8_000),
            other_limits: of(4_500),
            prod_reserved: of(3_000),
            other_reserved: of(4_000),
            prod_used: of(2_000),
            other_used: of(3_500),
            reclaimed: of(2_500),
            ..MachineReservations::default()
        };
        let [cpu, ram] = rows_of("m-1", &one);
        let expected = ["m-1", "cpu", "10", "8", "4.5", "7", "5.5", "5.5", "2.5 (20 %)"];
        assert_eq!(cpu, expected.map(ToOwned::to_owned));
        assert_eq!(ram[8], "0 (0 %)");
    }
}
