//! The figures of services: how soon a lost machine's tasks run elsewhere, and when its old ones are gone.

use borg_benches::Error;
use borg_benches::figures::{figure, load, progress, wanted};
use borg_benches::local_cell::LocalCell;
use borg_benches::services::{lost, reclaimed};
use tokio::signal::unix::{SignalKind, signal};

/// Machines of the simulated cell, and its seed. Ours: as many as are simulated in minutes; no other seed was
/// looked for.
const MACHINES: u32 = 48;
const SEED: u64 = 1;

fn main() -> Result<(), Error> {
    if wanted(&["reclaimed"]) {
        let seen = reclaimed::measure(MACHINES, SEED, progress)?;
        progress(&format!("{MACHINES} simulated machines:\n{}", seen.parts()));
        figure("services.reclaimed_share_pct", seen.share_pct(), "%");
        figure("services.reclaimed_kills_per_task_day", seen.kills_per_task_day(), "kills");
    }
    if !wanted(&["machine_lost", "duplicate"]) {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cell_figures())
}

async fn cell_figures() -> Result<(), Error> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    progress(&format!("load {}; starting a cell", load()));
    let mut cell = LocalCell::up()?;
    let measured = tokio::select! {
        measured = measure(&mut cell) => measured,
        _ = terminate.recv() => Err("interrupted".into()),
        _ = interrupt.recv() => Err("interrupted".into()),
    };
    let down = cell.down();
    measured.and(down)
}

async fn measure(cell: &mut LocalCell) -> Result<(), Error> {
    if wanted(&["machine_lost", "duplicate"]) {
        let lost = lost::measure(cell).await?;
        progress(&format!("load {}; a machine is lost and comes back:\n{}", load(), lost.parts()));
        figure("services.machine_lost_to_replaced_s", lost.replaced_s(), "s");
        figure("services.duplicate_killed_s", lost.duplicate_killed_s(), "s");
    }
    Ok(())
}
