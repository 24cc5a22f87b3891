//! `fauxmaster`: the questions of `borgctl fauxmaster` under a name of their own.

use borgctl::config::guard;
use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    // Job files are evaluated by this very program in a process of their own.
    let evaluates = args.peek().is_some_and(|first| first == guard::COMMAND);
    let question: Option<OsString> = (!evaluates).then(|| "fauxmaster".into());
    borgctl::program(std::iter::once("borgctl".into()).chain(question).chain(args))
}
