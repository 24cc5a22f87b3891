//! What the start of a container costs in processor time, beside a plain fork and exec.
//!
//! Prints CPU milliseconds for each start and end of `/bin/true`, and for the removal after it, this process and
//! all of its helpers counted (they are collected by us, as their subreaper).
//! Takes the number of starts as its argument; run it as root for the full container.

use std::process::{Command, ExitCode};

use borglet::container::ContainerSpec;
use borglet::executor::{Executor, ExecutorConfig};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::wait::waitpid;

type Error = Box<dyn std::error::Error>;

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
    nix::sys::prctl::set_child_subreaper(true)?;
    let before = cpu_ms()?;
    for _ in 0..starts {
        Command::new("/bin/true").status()?;
    }
    let plain = (cpu_ms()? - before) / f64::from(starts);

    let dir = std::env::temp_dir().join(format!("start-cost-{}", std::process::id()));
    let name = format!("borg-start-cost-{}", std::process::id());
    let executor = Executor::open(ExecutorConfig::new(dir.clone(), name))?;
    report(&format!("{:?}", executor.isolation()));
    let (mut container, mut removal) = (0.0, 0.0);
    for n in 0..starts {
        let before = cpu_ms()?;
        let spec = ContainerSpec::new(format!("c{n}").parse()?, vec!["/bin/true".into()]);
        executor.start(spec)?;
        while waitpid(None, None).is_ok() {} // shims, ours by adoption
        let ended = cpu_ms()?;
        let id = format!("c{n}").parse()?;
        executor.cleanup(&id)?;
        executor.remove_logs(&id)?;
        container += (ended - before) / f64::from(starts);
        removal += (cpu_ms()? - ended) / f64::from(starts);
    }
    executor.retire()?;
    std::fs::remove_dir_all(dir)?;
    report(&format!(
        "plain spawn {plain:.3} ms, container {container:.3} ms, its removal {removal:.3} ms"
    ));
    Ok(())
}

/// Processor time of this process and of all it has collected.
fn cpu_ms() -> Result<f64, Error> {
    let mut total = 0.0;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let used = getrusage(who)?;
        for time in [used.user_time(), used.system_time()] {
            let microseconds = i32::try_from(time.tv_usec())?;
            let seconds = i32::try_from(time.tv_sec())?;
            total += f64::from(seconds) * 1000.0 + f64::from(microseconds) / 1000.0;
        }
    }
    Ok(total)
}

#[expect(clippy::print_stdout, reason = "printing is what this program is for")]
fn report(line: &str) {
    println!("{line}");
}
