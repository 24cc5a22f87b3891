//! A place of its own for a torture run: mounts, processes and network of nobody else.
//!
//! The program starts itself again through `unshare`, in new namespaces. So loop devices, mounts,
//! network namespaces and whatever processes a run makes are gone when it ends, however it ends:
//! the kernel takes them down. Leaves what happens in there to the tests.
//!
//! Invariant: nothing outside of [`WORK`] is written, but the logs of a run that failed.

use crate::Error;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Where a run works: a file system in memory that only this run sees.
pub const WORK: &str = "/run/torture";
/// Set for the program that runs apart.
const APART: &str = "BORG_TORTURE_APART";
/// Process 1 in there: reaps what loses its parent (shims do), and takes all with it when it ends.
const INIT: &str = "mount -t tmpfs tmpfs /run && mkdir /run/torture && ip link set lo up && \
                    \"$@\"; exit $?";

/// Whether this process runs apart already.
#[must_use]
pub fn is_apart() -> bool {
    std::env::var_os(APART).is_some()
}

/// Starts this program again with the same arguments, apart. Returns only when that failed.
///
/// # Errors
/// What the system refused.
pub fn again() -> Error {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error.into(),
    };
    let args: Vec<OsString> = std::env::args_os().skip(1).collect();
    Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["--propagation", "private", "sh", "-c", INIT, "sh"])
        .arg(program)
        .args(args)
        .env(APART, "1")
        .exec()
        .into()
}

/// Runs a program to its end.
///
/// # Errors
/// When it fails, with what it said.
pub fn run<A: AsRef<std::ffi::OsStr>>(program: &str, args: &[A]) -> Result<String, Error> {
    let output =
        Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}: {said}", args.join(" "), output.status).into())
}

/// Copies a directory of plain files, for whoever wants to know why a run failed.
///
/// # Errors
/// What the system refused.
pub fn keep_files(from: &Path, to: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
