//! The command line of a Borgmaster: parse, build, wait.

use crate::app::App;
use crate::config::Config;
use crate::store::Check;
use crate::threads::give_way;
use borg_proto::{in_full, panics};
use clap::Parser;
use std::error::Error;
use std::ffi::OsString;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(name = "borgmaster", version, about = "One of the replicas that hold a cell's state")]
struct Cli {
    #[command(flatten)]
    config: Config,
}

/// Runs a Borgmaster with this command line until SIGTERM or SIGINT. Exit code 1 when it failed.
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    panics::end_the_process();
    let args: Vec<OsString> = args.into_iter().collect();
    let mut config = match Cli::try_parse_from(&args) {
        Ok(cli) => cli.config,
        Err(error) => error.exit(),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    if config.check_log {
        return match App::check_log(&config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error),
        };
    }
    config.check = check(args);
    // For what users ask.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(give_way)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&*error),
    }
}

/// This program once more, to read the log only.
fn check(mut args: Vec<OsString>) -> Option<Check> {
    // Without a path to itself there is no check, and a death in there has no explanation.
    let program = std::env::current_exe().ok()?;
    args.push("--check-log".into());
    Some(Check { program, name: "borgmaster".into(), args: args.split_off(1) })
}

async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let stop = CancellationToken::new();
    let app = App::build(config).await?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let signalled = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        signalled.cancel();
    });
    // On the heap: it holds all that a replica is made of.
    Box::pin(app.run(stop)).await?;
    Ok(())
}

fn failed(error: &dyn Error) -> ExitCode {
    tracing::error!("{}", in_full(error));
    ExitCode::FAILURE
}
