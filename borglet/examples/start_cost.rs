//! What the start and end of a container costs, beside a plain fork and exec.
//!
//! Prints processor time, all helpers counted, and time on the clock, of each start and end of `/bin/true` and of
//! the removal after it; medians of the clock, means of the processor. Takes the number of starts as its argument.
//! Then as many of all three a second as the machine sustains, by a few threads. Run it as root, for the full
//! container, where there is a cpuacct hierarchy: what runs there is counted whoever collects it. With `own` as its
//! second argument each container has a network of its own, and all is done in a network namespace made for it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use borglet::container::{ContainerId, ContainerSpec};
use borglet::executor::{Executor, ExecutorConfig};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Containers made at once when the rate is measured: as many as a borglet sets up at once.
const AT_ONCE: u32 = 4;

fn main() -> ExitCode {
    if borglet::shim::is_shim_invocation() {
        return borglet::shim::main();
    }
    match measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&format!("failed: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<(), Error> {
    let starts: u32 = std::env::args().nth(1).map_or(Ok(100), |n| n.parse())?;
    let own = std::env::args().nth(2).is_some_and(|network| network == "own");
    if own {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        borglet::network::loopback_up()?;
    }
    let meter = Meter::new()?;
    let plain = sample(starts, &meter, |_| Ok(Command::new("/bin/true").status().map(drop)?))?;

    let dir = std::env::temp_dir().join(format!("start-cost-{}", std::process::id()));
    let name = format!("borg-start-cost-{}", std::process::id());
    let mut config = ExecutorConfig::new(dir.clone(), name);
    config.network = own.then(|| "10.88.0.0/20".parse()).transpose()?;
    let executor = Executor::open(config)?;
    executor.try_networks()?;
    report(&format!("{:?}", executor.isolation()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The first start makes the nursery.
    for first in [true, false] {
        let starts = if first { 1 } else { starts };
        let id = |n: u32| format!("c{n}").parse::<ContainerId>();
        let container = sample(starts, &meter, |n| {
            executor.start(of_true(id(n)?, own))?;
            let record = runtime.block_on(executor.wait(&id(n)?))?;
            if record.outcome.is_success() { Ok(()) } else { Err(record.outcome.into()) }
        })?;
        let removal = sample(starts, &meter, |n| {
            executor.cleanup(&id(n)?)?;
            Ok(executor.remove_logs(&id(n)?)?)
        })?;
        if !first {
            report(&format!("plain spawn {plain}, container {container}, its removal {removal}"));
        }
    }
    report(&format!("{:.1} starts a second, {AT_ONCE} at once", rate(&executor, starts, own)?));
    executor.retire()?;
    drop(executor);
    std::fs::remove_dir_all(dir)?;
    Ok(())
}

fn of_true(id: ContainerId, own_network: bool) -> ContainerSpec {
    ContainerSpec { own_network, ..ContainerSpec::new(id, vec!["/bin/true".into()]) }
}

/// Containers a second that are started, waited for and removed, by threads that each begin the next one when
/// theirs is gone.
fn rate(executor: &Executor, starts: u32, own: bool) -> Result<f64, Error> {
    let began = now();
    let lives = (0..AT_ONCE).map(|thread| {
        let executor = executor.clone();
        std::thread::spawn(move || -> Result<(), Error> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            for n in 0..starts {
                let id: ContainerId = format!("t{thread}-{n}").parse()?;
                executor.start(of_true(id.clone(), own))?;
                let record = runtime.block_on(executor.wait(&id))?;
                if !record.outcome.is_success() {
                    return Err(record.outcome.into());
                }
                executor.cleanup(&id)?;
                executor.remove_logs(&id)?;
            }
            Ok(())
        })
    });
    for life in lives.collect::<Vec<_>>() {
        life.join().map_err(|_| "a thread panicked")??;
    }
    Ok(f64::from(AT_ONCE * starts) / began.elapsed().as_secs_f64())
}

/// What one of many took.
struct Cost {
    cpu_ms: f64,
    wall_ms: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ms ({:.3} on the clock)", self.cpu_ms, self.wall_ms)
    }
}

fn sample(
    times: u32,
    meter: &Meter,
    mut work: impl FnMut(u32) -> Result<(), Error>,
) -> Result<Cost, Error> {
    let before = meter.cpu_ms()?;
    let mut walls = Vec::new();
    for n in 0..times {
        let began = now();
        work(n)?;
        walls.push(began.elapsed().as_secs_f64() * 1e3);
    }
    walls.sort_by(f64::total_cmp);
    let cpu_ms = (meter.cpu_ms()? - before) / f64::from(times);
    Ok(Cost { cpu_ms, wall_ms: walls[walls.len() / 2] })
}

/// A group of the cpuacct hierarchy that this process and all it makes are in.
struct Meter(PathBuf);

impl Meter {
    fn new() -> Result<Self, Error> {
        let top = Path::new("/sys/fs/cgroup/cpuacct");
        let group = top.join(format!("start-cost-{}", std::process::id()));
        std::fs::create_dir(&group).map_err(|error| format!("{}: {error}", group.display()))?;
        std::fs::write(group.join("cgroup.procs"), "0")?;
        Ok(Self(group))
    }

    fn cpu_ms(&self) -> Result<f64, Error> {
        let text = std::fs::read_to_string(self.0.join("cpuacct.usage"))?;
        Ok(text.trim().parse::<f64>()? / 1e6)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let left = std::fs::write("/sys/fs/cgroup/cpuacct/cgroup.procs", "0");
        if let Err(error) = left.and_then(|()| std::fs::remove_dir(&self.0)) {
            report(&format!("{} stays: {error}", self.0.display()));
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "measuring is what this program is for")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn report(line: &str) {
    println!("{line}");
}
