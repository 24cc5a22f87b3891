//! The two programs as people call them.

use borg_sim::fauxmaster::synthetic;
use std::io::Write;
use std::process::{Command, Output, Stdio};

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
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

#[test]
fn fauxmaster_counts_what_fits_into_a_saved_cell() {
    let dir = std::env::temp_dir().join(format!("fauxmaster-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("checkpoint");
    std::fs::write(&path, synthetic(10, 3).encode()).unwrap();
    let path = path.to_str().unwrap();
    let saved = fauxmaster(&["fit", "-", "--checkpoint", path, "-o", "json"], JOB);
    let made_up = fauxmaster(&["fit", "-", "--synthetic", "10", "--seed", "3", "-o", "json"], JOB);
    assert!(saved.status.success() && saved.stdout == made_up.stdout);
    let answer: serde_json::Value = serde_json::from_slice(&saved.stdout).unwrap();
    assert!(answer["fit"].as_u64().unwrap() > 0, "{answer}");
    assert!(!answer["stopped_by"].as_array().unwrap().is_empty(), "{answer}");
    std::fs::write(path, "no checkpoint").unwrap();
    let refused = fauxmaster(&["fit", "-", "--checkpoint", path], JOB);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("BORGCELL"), "{refused:?}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn fauxmaster_refuses_a_job_that_is_out_of_bounds_and_names_the_field() {
    let bad = JOB.replace("\"tasks\":3", "\"tasks\":0");
    let refused = fauxmaster(&["fit", "-", "--synthetic", "3"], &bad);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tasks: 0"), "{refused:?}");
}

#[test]
fn cellsim_prints_the_same_digest_twice() {
    let run = || {
        let args = ["--seed", "0x2a", "--for", "5"];
        Command::new(env!("CARGO_BIN_EXE_cellsim")).args(args).output().unwrap()
    };
    let [first, second] = [run(), run()];
    assert!(first.status.success(), "{first:?}");
    let text = String::from_utf8_lossy(&first.stdout);
    assert!(text.starts_with("seed 42 digest "), "{text}");
    assert_eq!(first.stdout, second.stdout);
}
