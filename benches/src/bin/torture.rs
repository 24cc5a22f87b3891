//! `./ci torture`: real masters under real faults. See `borg_benches::torture`.

use borg_benches::figures::progress;
use borg_benches::torture::reached::Reached;
use borg_benches::torture::{Run, Says, apart, damage, errors, kills, partitions, power, rolling};
use borg_benches::{Error, clock};
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

/// Real masters under real faults: what is acknowledged stays, whatever dies.
#[derive(Debug, Parser)]
#[command(
    name = "torture",
    after_help = "`list` says what there is; without NAME, all of it at the size of CI; `full` is all of it in full."
)]
struct Cli {
    /// Which test, `full` or `list`
    name: Option<String>,
    /// How much of it [default: the size of CI]
    count: Option<u32>,
    /// What its dice start from [default: the time]
    #[arg(long)]
    seed: Option<u64>,
    /// The only store to test with: redb or sled
    #[arg(long)]
    store: Option<String>,
}

/// One test.
struct Test {
    name: &'static str,
    /// What one of COUNT is.
    unit: &'static str,
    ci: u32,
    full: u32,
    run: fn(&Run, &mut Says) -> Result<Reached, Error>,
}

const TESTS: [Test; 7] = [
    Test { name: "power", unit: "power cuts", ci: 200, full: 10_000, run: power::cuts },
    Test {
        name: "plain-sled",
        unit: "rounds of three cells whose syncs do nothing, which must lose something",
        ci: 1,
        full: 5,
        run: power::plain_sled,
    },
    Test { name: "kills", unit: "kills", ci: 1_000, full: 10_000, run: kills::kills },
    Test { name: "damage", unit: "damaged files", ci: 80, full: 2_000, run: damage::damage },
    Test {
        name: "errors",
        unit: "failed calls",
        ci: 60,
        // More than there are: every one of them.
        full: 1_000_000,
        run: errors::errors,
    },
    Test {
        name: "partitions",
        unit: "partitions and pauses",
        ci: 30,
        full: 1_000,
        run: partitions::partitions,
    },
    Test {
        name: "rolling",
        unit: "restarts of all five masters",
        ci: 6,
        full: 40,
        run: rolling::rolling,
    },
];

fn main() -> ExitCode {
    // A client that dies of a panic must not look like one that has nothing to say.
    borg_proto::panics::end_the_process();
    let cli = Cli::parse();
    if !apart::is_apart() {
        if !nix::unistd::geteuid().is_root() {
            progress("skip: disks and networks of its own need root");
            let failed = std::env::var_os("BORG_PRIVILEGED").is_some();
            return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
        progress(&format!("unshare: {}", apart::again()));
        return ExitCode::FAILURE;
    }
    let full = cli.name.as_deref() == Some("full");
    let chosen: Vec<&Test> = match cli.name.as_deref() {
        None | Some("full") => TESTS.iter().collect(),
        Some("list") => {
            for test in &TESTS {
                let Test { name, unit, ci, full, .. } = test;
                progress(&format!("{name:<12} {ci:>6} in CI, {full:>6} in full: {unit}"));
            }
            return ExitCode::SUCCESS;
        }
        Some(name) => TESTS.iter().filter(|test| test.name == name).collect(),
    };
    if chosen.is_empty() {
        progress("no such test; `torture list` names them");
        return ExitCode::from(2);
    }
    let mut all_well = true;
    for test in chosen {
        let count = cli.count.unwrap_or(if full { test.full } else { test.ci });
        all_well &= one(test, count, &cli);
    }
    if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time as a seed")]
fn one(test: &Test, count: u32, cli: &Cli) -> bool {
    let seed = cli.seed.unwrap_or_else(|| clock::unix_ms() as u64 % 1_000_000);
    let run = Run { count, seed, store: cli.store.clone(), work: PathBuf::from(apart::WORK) };
    let mut says = Says::new(test.name);
    let began = clock::now();
    match (test.run)(&run, &mut says) {
        Ok(reached) => {
            let seconds = began.elapsed().as_secs();
            says.done(&format!("{count} {}, {seconds} s, seed {seed}: {reached}", test.unit));
            true
        }
        Err(error) => {
            says.done(&format!("FAILED: {error}"));
            let store = cli.store.as_ref().map(|s| format!(" --store {s}")).unwrap_or_default();
            progress(&format!("again: ./ci torture {} {count} --seed {seed}{store}", test.name));
            keep_logs(test.name, seed, &says);
            false
        }
    }
}

/// The work directory goes away with this process; the logs of the last cell stay.
fn keep_logs(name: &str, seed: u64, says: &Says) {
    let Some(logs) = says.logs().last() else { return };
    let to = match std::env::current_exe() {
        Ok(program) => program.with_file_name("torture-logs").join(format!("{name}-{seed}")),
        Err(_) => return,
    };
    match apart::keep_files(logs, &to) {
        Ok(()) => progress(&format!("logs: {}", to.display())),
        Err(error) => progress(&format!("the logs could not be kept: {error}")),
    }
}
