//! The agent of one machine. Executed again under another name, the shim that holds one task.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: a shim must not start threads or read a command line.
    if borglet::shim::is_shim_invocation() {
        return borglet::shim::main();
    }
    borglet::main_with(std::env::args_os())
}
