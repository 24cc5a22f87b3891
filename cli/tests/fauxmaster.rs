//! `fauxmaster` as people call it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
#[path = "fauxmaster/disk.rs"]
mod disk;
#[path = "fauxmaster/sources.rs"]
mod sources;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const JOB: &str = r#"{"name":"web","kind":"service","tasks":3,
    "task":{"command":["/bin/web"],"limit":{"cpu_milli":4000,"ram_bytes":8589934592}}}"#;

fn fauxmaster(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_fauxmaster"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    // Whoever refuses at once does not read.
    child.stdin.take().expect("it was asked for").write_all(input.as_bytes()).ok();
    child.wait_with_output().expect("it ends")
}

fn answer(args: &[&str], input: &str) -> String {
    let output = fauxmaster(args, input);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn refusal(args: &[&str], input: &str) -> String {
    let output = fauxmaster(args, input);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).expect("text")
}

const MADE_UP: [&str; 4] = ["--synthetic", "borg-like", "--machines", "40"];

fn asked<'a>(question: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [question, &MADE_UP, more].concat()
}

#[test]
fn the_same_question_has_the_same_bytes_for_an_answer_on_any_number_of_threads() {
    for form in ["table", "json", "csv"] {
        let on = |threads| {
            let more = ["--seeds", "3", "--threads", threads, "-o", form];
            answer(&asked(&["compact"], &more), "")
        };
        let one = on("1");
        assert_eq!(one, on("8"));
        assert!(one.contains("borg-like cell of 40 machines, seed 1"), "{one}");
    }
    let fit = asked(&["fit", "-"], &["-o", "json"]);
    let told: serde_json::Value = serde_json::from_str(&answer(&fit, JOB)).unwrap();
    assert_eq!(told["tables"]["bands"].as_array().unwrap().len(), 5, "{told}");
    assert!(!told["tables"]["stopped_by"].as_array().unwrap().is_empty(), "{told}");
}

/// Job files are evaluated by the program itself, whatever its name.
#[test]
fn a_job_of_the_config_language_can_be_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("web.bcl");
    let text = "job(name = 'web', kind = 'service', command = ['/bin/web'], \
                resources = resources(cpu = 4, ram = 8 * GiB))";
    std::fs::write(&file, text).unwrap();
    let told = answer(&asked(&["fit", file.to_str().unwrap()], &[]), "");
    assert!(told.contains("tasks fit; for the next one"), "{told}");
}

#[test]
fn a_compacted_cell_is_written_in_the_common_format_and_can_be_asked_about_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    answer(&asked(&["compact"], &["--seeds", "1", "--write", path]), "");
    let lines = |file: &str| {
        std::fs::read_to_string(Path::new(path).join(file)).unwrap().lines().count() - 1
    };
    assert_eq!(lines("nodes.csv"), lines("order.csv"));
    let again = answer(&["compact", "--common", path, "--seeds", "1", "-o", "json"], "");
    let told: serde_json::Value = serde_json::from_str(&again).unwrap();
    assert_eq!(told["tables"]["kept"].as_array().unwrap().len(), 1, "{told}");
}

#[test]
fn what_cannot_be_asked_is_refused_with_what_is_wrong_and_what_to_do() {
    let bad = JOB.replace("\"tasks\":3", "\"tasks\":0");
    assert!(refusal(&asked(&["fit", "-"], &[]), &bad).contains("tasks: 0"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("checkpoint");
    std::fs::write(&file, "no checkpoint").unwrap();
    let file = file.to_str().unwrap();
    assert!(refusal(&["fit", "-", "--checkpoint", file], JOB).contains("this is no checkpoint"));
    let both = refusal(&asked(&["fit", "-"], &["--checkpoint", file]), JOB);
    assert!(both.contains("cannot be used with"), "{both}");
    assert!(refusal(&asked(&["compact"], &["--policy", "worst"]), "").contains("hybrid, best-fit"));
    std::fs::write(folder.path().join("nodes.csv"), "node_id,cpu_milli\n").unwrap();
    std::fs::write(folder.path().join("tasks.csv"), "task_id,cpu_milli\nt,1\n").unwrap();
    let empty = refusal(&["compact", "--common", folder.path().to_str().unwrap()], "");
    assert!(empty.contains("no row in nodes.csv"), "{empty}");
    let csv = Command::new(env!("CARGO_BIN_EXE_borgctl")).args(["status", "-o", "csv"]).output();
    let csv = String::from_utf8(csv.unwrap().stderr).unwrap();
    assert!(csv.contains("only fauxmaster answers in CSV"), "{csv}");
}

#[test]
fn policies_and_settings_are_compared_with_the_first_and_say_what_was_published() {
    let compared = answer(&asked(&["compare"], &["--seeds", "2", "-o", "json"]), "");
    let told: serde_json::Value = serde_json::from_str(&compared).unwrap();
    let rows = told["tables"]["needed"].as_array().unwrap();
    assert_eq!(rows.len(), 3, "{told}");
    assert_eq!(told["tables"]["arrivals"].as_array().unwrap().len(), 15, "{told}");
    // Which of them needs the fewest says nothing in a cell of 40 machines; each is told with its spread.
    for row in rows {
        let [least, middle, most] = ["machines_least", "machines_median", "machines_most"]
            .map(|name| row[name].as_f64().unwrap());
        assert!(least > 0.0 && least <= middle && middle <= most, "{told}");
    }
    let first = told["summary"][0].as_str().unwrap();
    assert!(first.contains("+0.0 % against hybrid (median, +0.0 to +0.0)"), "{told}");
    let refused = refusal(&asked(&["compare", "hybrid,strand=x"], &[]), "");
    assert!(refused.contains("is not a whole number"), "{refused}");
    let cells = answer(&asked(&["sweep", "cells", "2,4"], &["--seeds", "1", "-o", "csv"]), "");
    assert_eq!(cells.lines().count(), 5, "{cells}");
    let shown = answer(&asked(&["sweep", "buckets"], &["--seeds", "1"]), "");
    assert!(shown.contains("Published: 30 to 50 %"), "{shown}");
    assert!(refusal(&asked(&["sweep", "cells"], &["0"]), "").contains("1..=1000"));
    assert!(answer(&asked(&["show"], &[]), "").contains("40 machines;"));
}

/// What is written would take the place of what was read.
#[test]
fn an_answer_is_written_over_no_question_and_options_that_do_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (cell, job) = (path("cell"), path("job.json"));
    answer(&asked(&["compact"], &["--seeds", "1", "--write", &cell]), "");
    std::fs::write(&job, JOB).unwrap();
    let again = format!("{cell}/../cell");
    for (args, why) in [
        (vec!["compact", "--common", &cell, "--write", &again], "--common and --write"),
        (vec!["fit", &job, "--common", &cell, "--report", &job], "--report and the file"),
        (
            vec!["compact", "--common", &cell, "--resume", &job, "--report", &job],
            "--report and --resume",
        ),
        (vec!["show", "--common", &cell, "--machines", "5"], "cannot be used with"),
        (vec!["show", "--common", &cell, "--when", "5"], "cannot be used with"),
        (vec!["show", "--common", &cell, "--moment", "5"], "cannot be used with"),
        (vec!["check", "--common", &cell, "remove", "m-0", "m-0"], "m-0 is given twice"),
        (vec!["fail", "--common", &cell, "--within", "0s", "rack"], "1ms to 30days"),
    ] {
        let said = refusal(&args, "");
        assert!(said.contains(why), "{args:?}: {said}");
    }
    assert_eq!(std::fs::read_to_string(&job).unwrap(), JOB);
}

/// Hours may have gone into it.
#[test]
fn an_answer_is_shown_also_when_the_page_cannot_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().to_str().unwrap();
    let output = fauxmaster(&asked(&["show"], &["--report", page]), "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout).unwrap().contains("40 machines;"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("no plain file"));
    let written = folder.path().join("packed");
    let more = ["--seeds", "1", "--report", page, "--write", written.to_str().unwrap()];
    assert_eq!(fauxmaster(&asked(&["compact"], &more), "").status.code(), Some(1));
    assert!(written.join("placements.csv").is_file());
    let saved = folder.path().join("saved");
    let more = ["--hours", "1", "--report", page, "--save", saved.to_str().unwrap()];
    assert_eq!(fauxmaster(&asked(&["replay"], &more), "").status.code(), Some(1));
    assert!(saved.is_file());
}

#[test]
fn of_a_gang_whole_ones_are_counted() {
    let gang = JOB.replace("\"tasks\":3", "\"tasks\":3,\"gang\":true");
    let told = answer(&asked(&["fit", "-"], &["--most", "4"]), &gang);
    assert!(told.contains("of 4 sets of 3 "), "{told}");
}

#[test]
fn a_change_is_checked_and_a_refused_one_says_why() {
    let told = answer(&asked(&["check"], &["submit", "-"]), JOB);
    assert!(told.contains("pushed out"), "{told}");
    let drained = answer(&asked(&["check"], &["-o", "json", "drain", "m-1", "m-2"]), "");
    let drained: serde_json::Value = serde_json::from_str(&drained).unwrap();
    assert!(!drained["tables"]["jobs"].as_array().unwrap().is_empty(), "{drained}");
    assert!(refusal(&asked(&["check"], &["remove", "m-99"]), "").contains("m-99"));
    assert!(refusal(&asked(&["check"], &["quota", "u1", "batch", "cpu=x"]), "").contains("cpu"));
}

#[test]
fn whole_sets_of_several_jobs_are_counted_and_a_mix_that_is_none_is_refused() {
    let two = format!("[{JOB},{}]", JOB.replace("\"web\"", "\"db\"").replace(":3,", ":1,"));
    let sets = answer(&asked(&["fit", "-"], &[]), &two);
    assert!(sets.contains("sets of 3 web, 1 db fit"), "{sets}");
    let mixed = answer(&asked(&["fit", "-"], &["--mix", "db:2,web:1"]), &two);
    assert!(mixed.contains("sets of 2 db, 1 web fit"), "{mixed}");
    assert!(answer(&asked(&["fit", "-"], &["--mix", "web:2"]), JOB).contains("sets of 2 web fit"));
    let refused = |mix| refusal(&asked(&["fit", "-"], &["--mix", mix]), &two);
    assert!(refused("web:1,x:2").contains("x is none of the file's jobs: web, db"));
    assert!(refused("web:1,web:2").contains("web is given twice"));
    assert!(refused("web:0").contains("no whole number from 1"));
    assert!(refused("web").contains("JOB:TASKS"));
    assert!(refusal(&asked(&["fit", "-"], &[]), "[]").contains("no job"));
}

#[test]
fn mixes_are_priced_and_weights_searched_and_what_was_computed_is_kept() {
    let shapes = ["--shape", "big:20:cpu=32,ram=128GiB,disk=4TiB", "--seeds", "1"];
    let priced = answer(&asked(&["price"], &shapes), "");
    assert!(priced.contains("big 100 %") && priced.contains("costs less than"), "{priced}");
    assert!(refusal(&asked(&["price"], &["--shape", "big:cpu=32"]), "").contains("NAME:COST"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resume");
    let more = ["--seeds", "1", "--tries", "2", "--resume", file.to_str().unwrap()];
    let first = answer(&asked(&["tune"], &more), "");
    let kept = std::fs::read_to_string(&file).unwrap();
    assert_eq!(first, answer(&asked(&["tune"], &more), ""));
    assert_eq!(kept, std::fs::read_to_string(&file).unwrap(), "nothing was computed again");
}

#[test]
fn a_report_needs_nothing_but_itself() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("cell.html");
    answer(&asked(&["compact"], &["--seeds", "2", "--report", page.to_str().unwrap()]), "");
    let text = std::fs::read_to_string(&page).unwrap();
    assert!(text.contains("<svg") && text.contains("90th percentile of 2 orders"), "{text}");
    assert!(folder.path().join("cell-data/kept.csv").exists());
    assert!(folder.path().join("cell-data/machines.svg").exists());
}

#[test]
fn a_stretch_of_time_is_replayed_with_the_same_bytes_each_time() {
    let more = ["--hours", "2", "--losses", "30", "-o", "json"];
    let once = answer(&asked(&["replay"], &more), "");
    assert_eq!(once, answer(&asked(&["replay"], &more), ""));
    let told: serde_json::Value = serde_json::from_str(&once).unwrap();
    assert_eq!(told["tables"]["over_time"].as_array().unwrap().len(), 24, "{told}");
    assert!(!told["tables"]["waits"].as_array().unwrap().is_empty(), "{told}");
    let refused = refusal(&asked(&["replay"], &["--losses", "31"]), "");
    assert!(refused.contains("31 is not in 0..=30"), "{refused}");
}

/// What a replay ends with is a checkpoint, and what it leaves out at first is not told.
#[test]
fn a_replayed_cell_is_saved_and_asked_about() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("noon");
    let file = file.to_str().unwrap();
    let more = ["--hours", "3", "--from", "1", "--save", file, "-o", "json"];
    let told = answer(&asked(&["replay"], &more), "");
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let over_time = told["tables"]["over_time"].as_array().unwrap();
    assert_eq!((over_time.len(), over_time[0]["at_h"].as_f64()), (24, Some(1.0)), "{told}");
    let shown = answer(&["show", "--checkpoint", file], "");
    assert!(shown.contains("40 machines;"), "{shown}");
    let refused = refusal(&asked(&["replay"], &["--hours", "3", "--from", "3"]), "");
    assert!(refused.contains("nothing is left of 3.0 h"), "{refused}");
}

/// Ctrl-C: what was computed is told, and how far that is.
#[test]
fn a_replay_that_is_stopped_tells_what_it_has() {
    let child = Command::new(env!("CARGO_BIN_EXE_fauxmaster"))
        .args(asked(&["replay"], &["--hours", "8784", "-o", "json"]))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    let status = format!("/proc/{}/status", child.id());
    let catches = || {
        let text = std::fs::read_to_string(&status).unwrap();
        let caught = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() & (1 << (Signal::SIGINT as u32 - 1)) != 0
    };
    while !catches() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let last = told["summary"].as_array().unwrap().last().unwrap().as_str().unwrap();
    assert!(last.starts_with("Stopped at") && last.contains("of 8784.0 h"), "{last}");
}

/// Each rack, and machines by chance; the same bytes on any number of threads.
#[test]
fn the_loss_of_machines_is_told_and_what_is_not_there_is_refused() {
    let on = |threads: &str, loss: &[&str]| {
        let more = [&["--threads", threads, "-o", "json"], loss].concat();
        answer(&asked(&["fail"], &more), "")
    };
    let racks = on("1", &["rack"]);
    assert_eq!(racks, on("8", &["rack"]));
    let told: serde_json::Value = serde_json::from_str(&racks).unwrap();
    assert!(!told["tables"]["bands"].as_array().unwrap().is_empty(), "{told}");
    let told: serde_json::Value =
        serde_json::from_str(&on("2", &["random", "2", "--seeds", "3"])).unwrap();
    assert_eq!(told["tables"]["losses"].as_array().unwrap().len(), 3, "{told}");
    assert_eq!(told["provenance"]["seeds"], serde_json::json!([1, 2, 3]), "{told}");
    let refused = |loss: &[&str]| refusal(&asked(&["fail"], loss), "");
    assert!(refused(&["machine", "m-99"]).contains("there are m-0, m-1"));
    assert!(refused(&["rack", "r99"]).contains("no machine that is up has it"));
    assert!(refused(&["random", "41"]).contains("1 to 40 machines are up"));
}

/// A sweep that is stopped or killed in the middle goes on from what it had, to the same bytes.
#[test]
fn a_sweep_goes_on_from_what_was_kept() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("resume");
    let more = ["--seeds", "6", "--threads", "1"];
    let fresh = answer(&asked(&["sweep", "prod-apart"], &more), "");
    let resumed = [&more[..], &["--resume", file.to_str().unwrap()]].concat();
    let kept = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    for (signal, lines) in [(Signal::SIGINT, 1), (Signal::SIGKILL, 3)] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fauxmaster"))
            .args(asked(&["sweep", "prod-apart"], &resumed))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it was built");
        while kept() < lines && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        if signal == Signal::SIGINT {
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(130), "{said}");
            assert!(said.contains(file.to_str().unwrap()) && said.contains("goes on"), "{said}");
        }
    }
    let before = std::fs::read_to_string(&file).unwrap();
    let whole = &before[..before.rfind('\n').unwrap() + 1];
    assert!(!whole.is_empty());
    assert_eq!(answer(&asked(&["sweep", "prod-apart"], &resumed), ""), fresh);
    let after = std::fs::read_to_string(&file).unwrap();
    assert!(after.starts_with(whole), "what was there was not computed again");
    // The cell as it is, and two cells beside each other, for each seed.
    assert_eq!(after.lines().count(), 3 * 6, "{after}");
}
