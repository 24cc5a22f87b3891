//! borgctl: the config language, the commands, a local cell.
//!
//! `config` turns files into job specifications; `ca` makes a cell's certificates; `target` finds
//! the cell to talk to and `client` calls its masters; `commands` are what people type; `output`
//! is how answers look. Holds no decision about a cell: those are the masters'.

#![warn(missing_docs)]

pub mod ca;
pub mod client;
pub mod clock;
pub mod commands;
pub mod config;
#[cfg(feature = "daemons")]
pub mod demo;
pub mod exit;
#[cfg(feature = "daemons")]
pub mod local;
pub mod output;
pub mod packages;
mod session;
pub mod target;

use crate::commands::Cli;
use crate::exit::{Code, Failure};
use crate::output::note;
use borg_proto::panics;
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs a command line, the name of the program first.
#[must_use]
pub fn program(args: impl Iterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.collect();
    panics::end_the_process();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, args),
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
fn usage(error: &clap::Error, args: Vec<OsString>) -> ExitCode {
    // Nobody is left to tell when the output is closed.
    error.print().ok();
    match error.use_stderr() {
        // With 2 it says that there are changes.
        true if Cli::is_plan(args.into_iter()) => Code::Internal.into(),
        true => Code::Usage.into(),
        false => ExitCode::SUCCESS,
    }
}
