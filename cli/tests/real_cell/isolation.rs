//! What the kernel does for a task, seen through the whole cell. Needs root and cgroups.

use crate::cell::{Cell, is_isolated, job, note, now, processes_with, within};
use serde_json::json;
use std::fs;
use std::time::Duration;

/// Cgroups of this host whose name has a text in it.
pub(crate) fn cgroups_with(text: &str) -> Vec<String> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
    let groups = hierarchies.flat_map(|hierarchy| {
        let within = fs::read_dir(hierarchy.path()).into_iter().flatten().flatten();
        let within: Vec<_> = within.map(|group| group.path()).collect();
        [vec![hierarchy.path()], within].concat()
    });
    groups.map(|path| path.display().to_string()).filter(|path| path.contains(text)).collect()
}

/// Processor time that a process has used, in milliseconds.
fn used_ms(pid: u64) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    ticks * 10
}

#[test]
fn a_task_over_its_memory_limit_is_killed_and_status_says_so() {
    let cell = Cell::shared();
    if !is_isolated(cell) {
        return;
    }
    let hog = cell.submit(&job("hog", "batch", "x=a; while :; do x=$x$x; done"));
    let over = cell.until(&hog, |status| status["state"] == "failed");
    assert!(note(&over).contains("memory limit 64 MiB exceeded"), "{over}");
    let table = cell.borgctl(&["status", &hog]).ok();
    assert!(table.contains("memory limit 64 MiB exceeded"), "{table}");
}

#[test]
fn a_task_gets_no_more_processor_than_its_cap() {
    let cell = Cell::shared();
    if !is_isolated(cell) {
        return;
    }
    let mut busy = job("busy", "service", "while :; do :; done");
    busy["task"]["cpu_cap_milli"] = json!(200);
    let busy = cell.submit(&busy);
    let pid = cell.until_up(&busy, 1)[0];
    let (used, began) = (used_ms(pid), now());
    std::thread::sleep(Duration::from_secs(2));
    let milli = (used_ms(pid) - used) * 1000 / u64::try_from(began.elapsed().as_millis()).unwrap();
    // On a busy computer it may get less.
    assert!((20..=260).contains(&milli), "{milli} thousandths of a core, the cap is 200");
    cell.borgctl(&["kill", &busy]).ok();
}

#[test]
fn children_that_left_their_session_are_gone_when_the_task_is_killed() {
    let cell = Cell::shared();
    if !is_isolated(cell) {
        return;
    }
    let mark = format!("8{}", std::process::id());
    let script =
        format!("(setsid sh -c 'setsid sleep {mark} & sleep {mark}' &) ; exec sleep {mark}");
    let daemons = cell.submit(&job("daemons", "service", &script));
    let mark = format!("sleep {mark}");
    let sleeping = || processes_with(&mark).iter().filter(|line| !line.contains("sh -c")).count();
    within("all three sleep", || sleeping() == 3);
    cell.borgctl(&["kill", &daemons]).ok();
    within("nothing of the task is left", || processes_with(&mark).is_empty());
    let group = format!("borg-{}", cell.name);
    within("its cgroup is gone", || {
        !cgroups_with(&group).iter().any(|group| {
            let tasks = fs::read_dir(group).into_iter().flatten().flatten();
            tasks.into_iter().any(|task| task.file_name().to_string_lossy().contains("daemons"))
        })
    });
}

#[test]
fn a_task_sees_its_own_processes_alone_and_cannot_write_to_the_machine() {
    let cell = Cell::shared();
    if !is_isolated(cell) {
        return;
    }
    let script = "ls /proc | grep -c '^[0-9]'; touch /etc/borg-was-here /usr/borg-was-here; \
                  echo mine > /tmp/file && cat /tmp/file; hostname";
    let curious = cell.submit(&job("curious", "batch", script));
    cell.until(&curious, |status| status["state"] == "finished");
    let said = cell.borgctl(&["logs", &format!("{curious}/0")]).ok();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].parse::<u32>().unwrap() < 10, "{said}");
    assert_eq!(lines[1], "mine", "{said}");
    assert!(!std::path::Path::new("/etc/borg-was-here").exists());
    let errors = cell.borgctl(&["logs", "--stderr", &format!("{curious}/0")]).ok();
    assert_eq!(errors.matches("Read-only file system").count(), 2, "{errors}");
    let creds = cell.layout().user("admin");
    let mut thief = job("thief", "batch", "cat \"$1\"/key.pem");
    let command = thief["task"]["command"].as_array_mut().unwrap();
    command.extend([json!("sh"), json!(cell.layout().credentials("m-1").display().to_string())]);
    let thief = cell.submit(&thief);
    cell.until(&thief, |status| status["state"] == "failed");
    assert_eq!(cell.borgctl(&["logs", &format!("{thief}/0")]).ok(), "", "{}", creds.display());
}
