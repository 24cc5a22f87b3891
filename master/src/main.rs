//! The lean `borgmaster` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    borg_master::main_with(std::env::args_os())
}
