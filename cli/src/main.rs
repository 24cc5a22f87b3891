//! `borgctl`: one file that is everything, by its first argument.

use std::process::ExitCode;

fn main() -> ExitCode {
    #[cfg(feature = "daemons")]
    if let Some(code) = daemon() {
        return code;
    }
    borgctl::program(std::env::args_os())
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
