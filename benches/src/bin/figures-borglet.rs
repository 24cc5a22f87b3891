//! The figures of a machine: what a container costs beside other runtimes, how many short tasks a cell gets done a
//! second, what a borglet with many tasks holds and uses, and how a task fares beside bullies.
//! `BORG_FIGURES` names some of them, by the beginnings of their names and separated by commas, to measure only
//! these. To be run as root, for full containers. The words `victim` and `bully` make it a task of its own cells.

use borg_benches::Error;
use borg_benches::borglet::{bullies, idle, starts, trues, victim};
use borg_benches::figures::{figure, load, progress, wanted};
use borg_benches::local_cell::{BORGLETS, LocalCell};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => measure(),
        [word, requests, kind] if *word == victim::NAME => {
            victim::live(requests.parse()?, *kind == "disk")
        }
        [word, bully] if *word == bullies::NAME => bullies::live(bully),
        other => {
            Err(format!("{other:?}: it takes no arguments; BORG_FIGURES chooses figures").into())
        }
    }
}

fn measure() -> Result<(), Error> {
    progress(&format!("load {}", load()));
    if wanted(&[
        "start_cpu_ms",
        "start_wall_p50_ms",
        "starts_per_s",
        "plain_spawn_cpu_ms",
        "runc_cpu_ms",
        "crun_cpu_ms",
    ]) {
        say_starts(&starts::measure()?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(cells())
}

fn say_starts(found: &starts::Starts) {
    let own = &found.own;
    figure("borglet.start_cpu_ms", own.container_ms, "ms");
    figure("borglet.start_wall_p50_ms", own.container_wall_ms, "ms");
    figure("borglet.starts_per_s", own.starts_per_s, "1/s");
    figure("borglet.plain_spawn_cpu_ms", own.plain_ms, "ms");
    for (name, cpu_ms) in &found.others {
        figure(&format!("borglet.{name}_cpu_ms"), *cpu_ms, "ms");
    }
}

async fn cells() -> Result<(), Error> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        measured = in_cells() => measured,
        _ = terminate.recv() => Err("interrupted".into()),
        _ = interrupt.recv() => Err("interrupted".into()),
    }
}

/// Each part in a cell of its own, which is taken down by its end.
async fn in_cells() -> Result<(), Error> {
    for (name, isolation) in [("true_tasks_per_s", "auto"), ("true_processes_per_s", "none")] {
        if wanted(&[name]) {
            let cell = LocalCell::isolated(BORGLETS, isolation)?;
            let rate = trues::tasks_per_s(&cell).await?;
            figure(&format!("borglet.{name}"), rate, "1/s");
            cell.down()?;
        }
    }
    if wanted(&["rss_mib_300_tasks", "shim_own_mib", "idle_cpu_pct"]) {
        let cell = LocalCell::of(1)?;
        let found = idle::measure(&cell).await?;
        figure("borglet.rss_mib_300_tasks", found.rss_mib, "MiB");
        figure("borglet.shim_own_mib", found.shim_own_mib, "MiB");
        figure("borglet.idle_cpu_pct", found.cpu_pct, "pct");
        cell.down()?;
    }
    let ratio = |bully: &str| format!("victim_p99_ratio_{bully}");
    let chosen: Vec<_> =
        bullies::ALL.into_iter().filter(|bully| wanted(&[&ratio(bully)])).collect();
    if !chosen.is_empty() {
        let cell = LocalCell::of(1)?;
        for bully in chosen {
            let found = bullies::p99_ratio(&cell, bully).await?;
            figure(&format!("borglet.{}", ratio(bully)), found, "ratio");
        }
        cell.down()?;
    }
    Ok(())
}
