//! The demo without root: less isolation, said aloud, and the same work done.

use crate::cell::{BORGCTL, processes_with, run};
use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The user `nobody` of most systems.
const NOBODY: u32 = 65_534;

#[test]
fn the_demo_works_for_an_ordinary_user_says_what_is_missing_and_leaves_nothing() {
    let home = tempfile::Builder::new().prefix("borg-nobody-").tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    // Where this project was built need not be a place that others may enter.
    fs::copy(BORGCTL, path("borgctl")).unwrap();
    fs::create_dir(path("text")).unwrap();
    let words: Vec<String> = (1..=12).map(|n| "word".repeat(n)).collect();
    fs::write(path("text/words.txt"), words.join(" ")).unwrap();
    let mut demo = Command::new("timeout");
    demo.args(["-s", "KILL", "120"])
        .arg(path("borgctl"))
        .args(["demo", "--text"])
        .arg(path("text"))
        .current_dir("/");
    demo.env_remove("BORG_CELL_DIR").env_remove("XDG_STATE_HOME");
    demo.env("HOME", home.path()).env("TMPDIR", home.path());
    if nix::unistd::geteuid().is_root() {
        for file in ["", "borgctl", "text", "text/words.txt"] {
            chown(path(file), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        demo.uid(NOBODY).gid(NOBODY);
    }
    let demo = run(&mut demo, "");
    let said = demo.ok();
    for part in [
        "less isolation here: not root, so no cgroups: cpu and memory limits are not enforced",
        "less isolation here: no cgroups: the number of processes is not limited",
        "less isolation here: not root: tasks run as the borglet's user",
        "was killed with signal 9",
        "each in the same process",
        "all 8 tasks finished",
        "no process, mount, cgroup or socket of the cell is left",
    ] {
        assert!(said.contains(part), "{part:?} is missing in:\n{said}");
    }
    assert_eq!(processes_with(home.path().to_str().unwrap()), [""; 0], "{said}");
    let left: Vec<_> =
        fs::read_dir(home.path()).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "borgctl and text, but: {left:?}");
}
