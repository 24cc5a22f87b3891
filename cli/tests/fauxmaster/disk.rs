//! What is kept of a report when its disk is full.

use super::MADE_UP;
use std::process::{Command, Stdio};

/// Mounts a small disk that only it sees, writes a report there, fills the disk up, and asks for that report again, of
/// another cell, and for one under a new name. Tells exit codes and what is there.
const ON_A_FULL_DISK: &str = r#"
mount -t tmpfs -o size=1m tmpfs "$1" || exit 77
cd "$1" || exit 77
shift
"$@" --report cell.html > told || exit 1
echo "first $?"
cksum cell.html cell-data/* > ../before
cat /dev/zero > filler 2> full
"$@" --cell-seed 2 --report cell.html
echo "again $?"
"$@" --cell-seed 2 --report new.html
echo "new $?"
cksum cell.html cell-data/* | cmp - ../before && echo same
ls -A . cell-data
"#;

#[test]
fn a_report_that_a_full_disk_does_not_take_is_refused_and_the_earlier_one_stays() {
    let allowed = Command::new("unshare")
        .args(["-rm", "sh", "-c", "mount -t tmpfs tmpfs /tmp"])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "no mount namespace here");
        eprintln!(
            "skipped: a disk of its own needs namespaces of mounts, and they are not allowed here"
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let output = Command::new("unshare")
        .args(["-rm", "sh", "-c", ON_A_FULL_DISK, "sh"])
        .arg(&disk)
        .arg(env!("CARGO_BIN_EXE_fauxmaster"))
        .arg("show")
        .args(MADE_UP)
        .output()
        .unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let (before, files) = told.split_once("same\n").unwrap_or_else(|| panic!("{told} {errors}"));
    let codes = ["first ", "again ", "new "];
    let ends: Vec<&str> =
        before.lines().filter(|line| codes.iter().any(|code| line.starts_with(code))).collect();
    assert_eq!(ends, ["first 0", "again 1", "new 1"], "{errors}");
    assert_eq!(before.matches("40 machines;").count(), 2, "answers are shown all the same");
    let refusals: Vec<&str> =
        errors.lines().filter(|line| line.contains("the report cannot be written")).collect();
    assert_eq!(refusals.len(), 2, "{errors}");
    for refusal in refusals {
        assert!(refusal.contains("No space left") && refusal.contains("make room"), "{refusal}");
    }
    assert!(!files.contains("partial") && !files.contains("new"), "{files}");
}
