//! All five masters restarted one after the other, as an operator upgrades a cell.
//!
//! SIGTERM, wait for the end, start again, wait until it serves, then the next. No request that is
//! repeated under its id may fail. How long the changes of one more client, which does nothing but one
//! change after another, stand still, is told.

use super::books::Books;
use super::cell::{Cell, MASTERS, Plan};
use super::clients::{Clients, Pace, Readers};
use super::reached::Reached;
use super::{Run, Says};
use crate::Error;
use crate::figures::percentile;
use borg_sim::dice::Dice;
use std::time::Duration;

/// Aim for the 99th percentile of the longest gaps between two acknowledgements around each restart, in
/// milliseconds.
const GAP_P99_MS: f64 = 100.0;
/// What it must not exceed, in milliseconds, in a debug build on a busy computer: the longest election twice, and
/// as much again for a new leader to begin. Ours.
const HELD_P99_MS: f64 = 2_000.0;
/// Other clients, with a rest.
const PACE: Pace = Pace { clients: 3, rest: Duration::from_millis(10), prefix: 't', ballast: 0 };
/// The client whose gaps are measured does not rest.
const MEASURED: Pace = Pace { clients: 1, rest: Duration::from_millis(1), prefix: 'w', ballast: 0 };

/// `count` restarts of all five.
///
/// # Errors
/// What was lost, failed, or stood still for too long.
pub fn rolling(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    let store = run.store.as_deref().unwrap_or("redb");
    let mut cell = Cell::make(Plan::new(&run.work, "rolling", MASTERS, 7_001, store))?;
    says.logs_are_in(cell.logs());
    cell.start_masters()?;
    let books = Books::default();
    let clients = Clients::start(&cell, &books, dice.roll(), PACE)?;
    let writer = Clients::start(&cell, &books, dice.roll(), MEASURED)?;
    let readers = Readers::start(&cell, &books, dice.roll(), 1)?;
    std::thread::sleep(Duration::from_millis(500));
    let mut gaps = Vec::new();
    for round in 1..=run.count {
        for i in 0..MASTERS {
            let leads = cell.masters[i].said_that_it_leads();
            reached.one(if leads { "leader restarted" } else { "follower restarted" });
            // Forgets the gaps until here.
            let _before = writer.longest_gap_ms();
            let status = cell.masters[i].terminate()?;
            if !status.success() {
                let tail = cell.masters[i].tail();
                return Err(format!("master {} ended with {status}\n{tail}", i + 1).into());
            }
            cell.masters[i].start()?;
            cell.until_all_serve(Duration::from_secs(20))?;
            std::thread::sleep(Duration::from_millis(300));
            gaps.push(writer.longest_gap_ms());
        }
        says.progress(&format!(
            "round {round}/{}: gaps {:.0?} ms",
            run.count,
            &gaps[gaps.len() - MASTERS..]
        ));
    }
    says.slowest(clients.slowest_ms());
    clients.finish(&cell);
    writer.finish(&cell);
    readers.finish(&cell, &mut reached);
    cell.check_calm(&books)?;
    cell.check_equal_states()?;
    cell.check_logs()?;
    let (p50, p99) = (percentile(&gaps, 50), percentile(&gaps, 99));
    // The aim is told and not held: on a busy computer it says more about that than about the cell.
    if p99 > HELD_P99_MS {
        return Err(format!("a restart kept changes waiting for {p99:.0} ms").into());
    }
    says.note(&format!(
        "longest write gap of a restart: p50 {p50:.0} ms, p99 {p99:.0} ms (aim, release build, quiet: {GAP_P99_MS:.0})"
    ));
    reached.all_of(&["leader restarted", "follower restarted"])?;
    Ok(reached)
}
