//! `borgctl`: one file that is everything, by its first argument.

use borg_proto::panics;
use borgctl::commands::Cli;
use borgctl::exit::{Code, Failure};
use borgctl::output::note;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "daemons")]
    if let Some(code) = daemon() {
        return code;
    }
    panics::end_the_process();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("error: cannot start: {error}"));
            return Code::Internal.into();
        }
    };
    match runtime.block_on(cli.run()) {
        Ok(success) => success.into(),
        Err(failure) if failure == Failure::reader_gone() => ExitCode::SUCCESS,
        Err(failure) => {
            note(&format!("error: {failure}"));
            failure.code.into()
        }
    }
}

/// A wrong command line, or a question for help.
fn usage(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the output is closed.
    error.print().ok();
    match error.use_stderr() {
        // With 2 it says that there are changes.
        true if Cli::is_plan(std::env::args_os()) => Code::Internal.into(),
        true => Code::Usage.into(),
        false => ExitCode::SUCCESS,
    }
}

/// Runs as one of the daemons when called as one.
#[cfg(feature = "daemons")]
fn daemon() -> Option<ExitCode> {
    // Before anything else: a shim must not start threads or read a command line.
    if borglet::shim::is_shim_invocation() {
        return Some(borglet::shim::main());
    }
    // By its own name, as `ps` shows a local cell's processes, or by its first argument.
    let called = std::env::args_os().next()?;
    let skipped = usize::from(!matches!(called.to_str(), Some("borgmaster" | "borglet")));
    let mut args = std::env::args_os().skip(skipped).peekable();
    match args.peek()?.to_str()? {
        "borgmaster" => Some(borg_master::main_with(args)),
        "borglet" => Some(borglet::main_with(args)),
        _ => None,
    }
}
