//! The figures of a cell: submit to running, the outage when its leader dies, what the start of a
//! container costs, and how fast entries are applied.

use borg_benches::cellgen::{Grown, Size};
use borg_benches::figures::{figure, load, median, progress};
use borg_benches::local_cell::LocalCell;
use borg_benches::{Error, clock, failover, start_cost, submit};
use tokio::signal::unix::{SignalKind, signal};

/// Rounds of the apply mix, and jobs in each: 35 entries for two of them.
const ROUNDS: u32 = 5;
const JOBS: u32 = 2_000;

fn main() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(cell_figures())?;
    start_figures()?;
    apply_figure()
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
    let times = submit::measure(cell).await?;
    progress(&format!("load {}; submit to running:\n{}", load(), times.parts()));
    figure("cell.submit_to_running_p50_ms", times.percentile(50), "ms");
    figure("cell.submit_to_running_p99_ms", times.percentile(99), "ms");
    let outages = failover::measure(cell).await?;
    progress(&format!("load {}; leader killed to the next change:\n{}", load(), outages.parts()));
    figure("cell.failover_p50_ms", outages.percentile(50), "ms");
    figure("cell.failover_p99_ms", outages.percentile(99), "ms");
    Ok(())
}

fn start_figures() -> Result<(), Error> {
    let cost = start_cost::measure()?;
    progress(&format!(
        "load {}; a container costs {:.1} times a plain spawn",
        load(),
        cost.container_ms / cost.plain_ms
    ));
    figure("cell.container_start_cpu_ms", cost.container_ms, "ms");
    figure("cell.plain_spawn_cpu_ms", cost.plain_ms, "ms");
    Ok(())
}

fn apply_figure() -> Result<(), Error> {
    progress("filling a cell of 10,000 machines and 150,000 tasks");
    let mut cell = Grown::filled(Size::WHOLE)?;
    let mut rates = Vec::new();
    for round in 1..=ROUNDS {
        // One thread that waits for nothing: its processor time does not depend on who else is here.
        let began = clock::processor_ms()?;
        let entries = f64::from(u32::try_from(cell.mix(JOBS)?)?);
        let rate = entries * 1e3 / (clock::processor_ms()? - began);
        progress(&format!("load {}; round {round}: {rate:.0} entries a second", load()));
        rates.push(rate);
    }
    figure("cell.apply_per_s", median(&rates), "1/s");
    Ok(())
}
