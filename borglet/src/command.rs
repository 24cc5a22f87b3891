//! The command line of the daemon: parse, build, wait for a signal.

use crate::app::App;
use crate::config::Config;
use crate::config_file;
use borg_proto::{in_full, panics};
use clap::{CommandFactory, Parser};
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// How long work under way (a container being set up) may take after the signal to stop. What is
/// not done then is found by the next start, as after a crash.
const LAST_WORK: Duration = Duration::from_secs(1);

#[derive(Debug, Parser)]
#[command(name = "borglet", version, args_override_self = true)]
struct CommandLine {
    #[command(flatten)]
    config: Config,
}

/// The whole daemon: parses `args` (the program's name first), serves until SIGTERM or SIGINT.
/// Exit codes: 0 stopped as asked, 1 failed, 2 wrong command line.
#[expect(clippy::print_stderr, reason = "the log may be a file, and whoever started us reads this")]
pub fn main_with<I, T>(args: I) -> ExitCode
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    panics::end_the_process();
    let args = args.into_iter().map(Into::into).collect();
    let args = match config_file::with_file(args, &CommandLine::command()) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("borglet: {}", in_full(&error));
            return ExitCode::from(2);
        }
    };
    let config = match CommandLine::try_parse_from(args) {
        Ok(line) => line.config,
        Err(error) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            drop(error.print());
            return ExitCode::from(code);
        }
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("borglet: {}", in_full(&*error));
            ExitCode::FAILURE
        }
    }
}

fn start(config: Config) -> Result<(), Box<dyn Error>> {
    log_to(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config));
    runtime.shutdown_timeout(LAST_WORK);
    result
}

async fn serve(config: Config) -> Result<(), Box<dyn Error>> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let asked = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("asked to stop; tasks stay");
        asked.cancel();
    });
    App::build(config).await?.run(stop).await?;
    Ok(())
}

fn log_to(config: &Config) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match &config.log_file {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path);
            let file =
                file.map_err(|error| format!("open log file {}: {error}", path.display()))?;
            drop(log.with_writer(Mutex::new(file)).try_init());
        }
        None => drop(log.with_writer(std::io::stderr).try_init()),
    }
    Ok(())
}
