//! The figures of services: work on reclaimed room and names over DNS; how soon a lost machine's tasks run elsewhere, and when its old
//! ones are gone; requests that fail during an update; whether a rack is emptied within disruption budgets.

use borg_benches::figures::{figure, load, progress, wanted};
use borg_benches::local_cell::LocalCell;
use borg_benches::services::{drains, lost, reclaimed, updates};
use borg_benches::{Error, names};
use tokio::signal::unix::{SignalKind, signal};

/// Machines of the simulated cell, and its seed. Ours: as many as are simulated in minutes; no other seed was
/// looked for.
const MACHINES: u32 = 48;
const SEED: u64 = 1;

fn main() -> Result<(), Error> {
    if wanted(&["reclaimed_share_pct", "reclaimed_kills_per_task_day"]) {
        let seen = reclaimed::measure(MACHINES, SEED, progress)?;
        progress(&format!("{MACHINES} simulated machines:\n{}", seen.parts()));
        figure("services.reclaimed_share_pct", seen.share_pct(), "%");
        figure("services.reclaimed_kills_per_task_day", seen.kills_per_task_day(), "kills");
    }
    if wanted(&["drain_rack_budget_violations"]) {
        let drained = drains::measure()?;
        progress(&format!("a rack is drained: {drained:?}"));
        let violations = u32::try_from(drained.violations).unwrap_or(u32::MAX);
        figure("services.drain_rack_budget_violations", f64::from(violations), "tasks");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if wanted(&["dns_queries_per_s"]) {
            in_a_cell(async |cell| queries(cell).await).await?;
        }
        if wanted(&["endpoint_to_dns_p99_ms"]) {
            in_a_cell(async |cell| changes(cell).await).await?;
        }
        if wanted(&["update_100_tasks_failed_requests"]) {
            in_a_cell(async |cell| updated(cell).await).await?;
        }
        if wanted(&["machine_lost_to_replaced_s", "duplicate_killed_s"]) {
            in_a_cell(async |cell| lost_machines(cell).await).await?;
        }
        Ok(())
    })
}

/// Each in a cell of its own, which is taken down whatever happens.
async fn in_a_cell(
    measure: impl AsyncFn(&mut LocalCell) -> Result<(), Error>,
) -> Result<(), Error> {
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

async fn queries(cell: &LocalCell) -> Result<(), Error> {
    let rate = names::rate(cell).await?;
    progress(&format!(
        "load {}; {:.0} answers a second on the clock, {:.2} of 1,000 questions lost",
        load(),
        rate.per_second,
        rate.lost_permille
    ));
    figure("services.dns_queries_per_s", rate.per_processor_second, "1/s");
    Ok(())
}

async fn changes(cell: &LocalCell) -> Result<(), Error> {
    let times = names::changes(cell).await?;
    progress(&format!("load {}; a change to an answer:\n{}", load(), times.parts()));
    figure("services.endpoint_to_dns_p50_ms", times.percentile(50), "ms");
    figure("services.endpoint_to_dns_p99_ms", times.percentile(99), "ms");
    Ok(())
}

async fn updated(cell: &LocalCell) -> Result<(), Error> {
    let update = updates::measure(cell).await?;
    progress(&format!(
        "load {}; {} requests answered while 100 tasks were updated in {:.0} s",
        load(),
        update.answered,
        update.seconds
    ));
    let failed = u32::try_from(update.failed).unwrap_or(u32::MAX);
    figure("services.update_100_tasks_failed_requests", f64::from(failed), "requests");
    Ok(())
}

async fn lost_machines(cell: &mut LocalCell) -> Result<(), Error> {
    let lost = lost::measure(cell).await?;
    progress(&format!("load {}; a machine is lost and comes back:\n{}", load(), lost.parts()));
    figure("services.machine_lost_to_replaced_s", lost.replaced_s(), "s");
    figure("services.duplicate_killed_s", lost.duplicate_killed_s(), "s");
    Ok(())
}
