//! The figures of the masters: outages when their leader dies, acknowledged changes beside etcd's,
//! watchers, and a cell of 10,000 machines and 150,000 tasks with its transitions, memory, restarts,
//! polls and outages.
//!
//! `BORG_FIGURES=quick` does all of it with less of everything: to see that it works.

use borg_benches::acked;
use borg_benches::etcd::Etcd;
use borg_benches::figures::{figure, load, progress};
use borg_benches::local_cell::{LocalCell, MASTERS};
use borg_benches::masters::{counted, idle, memory_mib, restart_ms};
use borg_benches::{Error, fill, machines, outage, replace};
use std::path::Path;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    kills: usize,
    kills_when_big: usize,
    machines: u32,
    tasks: u32,
    /// Machines and tasks of the cell in which transitions are counted.
    busy: (u32, u32),
    restarts: usize,
    /// Bytes of the state of the cell in which a master is replaced.
    large: u64,
}

impl Plan {
    /// 200 kills as etcd's were measured; the paper's median cell (section 2.2) with 15 tasks a
    /// machine.
    const WHOLE: Self = Self {
        rounds: 3,
        kills: 200,
        kills_when_big: 50,
        machines: 10_000,
        tasks: 150_000,
        busy: (1_000, 100_000),
        restarts: 5,
        large: 1 << 30,
    };
    const QUICK: Self = Self {
        rounds: 1,
        kills: 5,
        kills_when_big: 3,
        machines: 500,
        tasks: 5_000,
        busy: (100, 10_000),
        restarts: 2,
        large: 64 << 20,
    };

    fn of_this_run() -> Self {
        match std::env::var("BORG_FIGURES").as_deref() {
            Ok("quick") => Self::QUICK,
            Ok(_) | Err(_) => Self::WHOLE,
        }
    }
}

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let [_, mode, ca, address, count] = args.as_slice()
        && mode == "machines"
    {
        return runtime.block_on(async {
            let credentials = machines::credentials(Path::new(ca))?;
            machines::serve(&credentials, TcpListener::bind(address).await?, count.parse()?).await
        });
    }
    let plan = Plan::of_this_run();
    // What is asked for, or all: parts are for those who look for where time goes.
    let wanted = |part: &str| args.len() == 1 || args[1..].iter().any(|arg| arg == part);
    if wanted("small") {
        runtime.block_on(in_a_cell(async |cell| small(cell, plan).await))?;
    }
    if wanted("watched") {
        runtime.block_on(in_a_cell(async |cell| watched(cell, plan).await))?;
    }
    if wanted("transitions") {
        runtime.block_on(in_a_cell(async |cell| {
            let (machines, tasks) = plan.busy;
            let _machines = fill::machines(cell, machines).await?;
            figure("master.transitions_per_s", fill::tasks(cell, tasks).await?, "1/s");
            Ok(())
        }))?;
    }
    if wanted("big") {
        runtime.block_on(in_a_cell(async |cell| big(cell, plan).await))?;
    }
    if wanted("replace") {
        runtime.block_on(in_a_cell(async |cell| {
            replace::fill(cell, plan.large).await?;
            replace::rest(cell).await?;
            let (seconds, changes) = replace::seconds(cell).await?;
            figure("master.replace_large_s", seconds, "s");
            figure("master.acked_while_replaced_per_s", changes as f64 / seconds, "1/s");
            Ok(())
        }))?;
    }
    Ok(())
}

async fn in_a_cell(
    measure: impl AsyncFn(&mut LocalCell) -> Result<(), Error>,
) -> Result<(), Error> {
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    progress(&format!("load {}; starting five masters", load()));
    let mut cell = LocalCell::of(0)?;
    let measured = tokio::select! {
        measured = measure(&mut cell) => measured,
        _ = terminate.recv() => Err("interrupted".into()),
        _ = interrupt.recv() => Err("interrupted".into()),
    };
    let down = cell.down();
    measured.and(down)
}

/// A cell of twenty machines.
async fn small(cell: &mut LocalCell, plan: Plan) -> Result<(), Error> {
    let _machines = fill::machines(cell, 20).await?;
    let etcd = Etcd::up().await?;
    if etcd.is_none() {
        progress("there is no etcd here to compare with (Debian: etcd-server; ETCD names it)");
    }
    for clients in [1, 64, 512] {
        let (ours, theirs) = acked::compare(cell, etcd.as_ref(), clients, plan.rounds).await?;
        figure(&format!("master.acked_{clients}_per_s"), ours, "1/s");
        if let Some(theirs) = theirs {
            figure(&format!("master.etcd_acked_{clients}_per_s"), theirs, "1/s");
            figure(&format!("master.acked_{clients}_over_etcd"), ours / theirs, "ratio");
        }
        if clients == 512 {
            figure("master.acked_per_s", ours, "1/s");
        }
    }
    drop(etcd);
    let outages = outage::measure(cell, plan.kills, "small").await?;
    progress(&format!("load {}; leader killed:\n{}", load(), outages.parts()));
    figure("master.failover_p50_ms", outages.percentile(50), "ms");
    figure("master.failover_p99_ms", outages.percentile(99), "ms");
    Ok(())
}

/// How masters of the large cell run when they are killed: machines are polled every 5 s, since they and all
/// five masters share this computer and each kill costs handshakes with thousands; and a checkpoint of the
/// full state comes soon.
const CALM: [&str; 4] = ["--poll-every-ms", "5000", "--checkpoint-every", "200"];

/// The same, with a thousand watchers.
async fn watched(cell: &LocalCell, plan: Plan) -> Result<(), Error> {
    let _machines = fill::machines(cell, 20).await?;
    let [job, all] = acked::with_watchers(cell, plan.rounds).await?;
    figure("master.acked_beside_1000_job_watchers", job, "ratio");
    figure("master.acked_beside_1000_watchers_of_all", all, "ratio");
    Ok(())
}

/// The paper's median cell.
async fn big(cell: &mut LocalCell, plan: Plan) -> Result<(), Error> {
    let _machines = fill::machines(cell, plan.machines).await?;
    let empty = idle(cell)?;
    say_idle("no tasks", empty, plan);
    fill::tasks(cell, plan.tasks).await?;
    let full = idle(cell)?;
    say_idle("with tasks", full, plan);
    figure("master.poll_cpu_cores", full.cores, "cores");
    let per_machine = full.report_bytes_per_s / f64::from(plan.machines);
    figure("master.idle_delta_bytes_per_machine_s", per_machine, "B/s");
    cell.start_all_with(&CALM).await?;
    figure("master.restart_ms", restart_ms(cell, plan.restarts).await?, "ms");
    let outages = outage::measure(cell, plan.kills_when_big, "big").await?;
    progress(&format!("load {}; leader killed:\n{}", load(), outages.parts()));
    figure("master.failover_big_p50_ms", outages.percentile(50), "ms");
    figure("master.failover_big_p99_ms", outages.percentile(99), "ms");
    // Changes, until checkpoints of the full state are made.
    acked::ours(cell, 1).await?;
    let leader = cell.settled().await?;
    let (now, most) = memory_mib(cell, leader)?;
    progress(&format!("load {}; the leader has {now:.0} MiB, at its most {most:.0} MiB", load()));
    figure("master.leader_rss_mib", now, "MiB");
    let (mut seconds, mut count) = (0.0, 0.0);
    for master in 0..MASTERS {
        seconds += counted(cell, master, "borgmaster_checkpoint_seconds_sum")?;
        count += counted(cell, master, "borgmaster_checkpoint_seconds_count")?;
    }
    let bytes = counted(cell, leader, "borgmaster_checkpoint_bytes")?;
    progress(&format!("{count:.0} checkpoints, the leader's newest of {bytes:.0} bytes"));
    if count > 0.0 {
        figure("master.checkpoint_ms", seconds / count * 1e3, "ms");
    }
    Ok(())
}

fn say_idle(what: &str, idle: borg_benches::masters::Idle, plan: Plan) {
    progress(&format!(
        "load {}; {} machines polled, {what}: {:.2} cores, {:.0} bytes a second to the leader",
        load(),
        plan.machines,
        idle.cores,
        idle.report_bytes_per_s
    ));
}
