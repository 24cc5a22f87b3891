//! `borgctl` as a program: exit codes, what is said where, and what it does when masters are
//! silent or strangers.

#![expect(clippy::unwrap_used, reason = "tests")]

use borg_proto::CellName;
use borg_proto::identity::Identity;
use borg_proto::rpc::{Credentials, serve_incoming, server};
use borgctl::ca::CellCa;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

struct Run {
    code: i32,
    out: String,
    err: String,
}

async fn run(args: &[&str], input: &str) -> Run {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_borgctl"))
        .args(args)
        .env_remove("BORG_CELL_DIR")
        .env("HOME", "/nonexistent")
        .env_remove("XDG_STATE_HOME")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.ok();
    drop(stdin);
    let done = child.wait_with_output().await.unwrap();
    Run {
        code: done.status.code().unwrap(),
        out: String::from_utf8(done.stdout).unwrap(),
        err: String::from_utf8(done.stderr).unwrap(),
    }
}

/// A cell's CA with the credentials of a user and a master.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn of(cell: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = CellCa::create(dir.path(), cell.parse::<CellName>().unwrap()).unwrap();
        for name in ["user/ann", "master/1"] {
            let identity: Identity = format!("borg://{cell}/{name}").parse().unwrap();
            ca.issue(identity.role, &dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn user(&self) -> PathBuf {
        self.dir.path().join("user/ann")
    }

    fn master(&self) -> PathBuf {
        self.dir.path().join("master/1")
    }
}

/// A master that speaks TLS and knows no call at all: enough to see who reaches it.
async fn speechless_master(credentials: &Path) -> SocketAddr {
    let credentials = Credentials::load(credentials).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = tonic::service::Routes::default();
    let serving = server(&credentials)
        .unwrap()
        .add_routes(routes)
        .serve_with_incoming(serve_incoming(listener));
    tokio::spawn(serving);
    address
}

/// An address where nothing listens.
async fn nowhere() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

const HELLO: &str = "job(name = \"hello\", kind = \"batch\", command = [\"echo\"], resources = resources(cpu = 0.1, ram = 16*MiB))";

#[tokio::test]
async fn each_kind_of_failure_has_its_exit_code() {
    assert_eq!(run(&["nonsense"], "").await.code, 2);
    assert_eq!(run(&["eval", "-"], "job(").await.code, 3);
    assert_eq!(run(&["eval", "/none.bcl"], "").await.code, 4);
    let none = run(&["status"], "").await;
    assert_eq!(none.code, 4);
    assert!(
        none.err.contains("there is no cell in /nonexistent/.local/state/borg/local"),
        "{}",
        none.err
    );
    let lab = Certificates::of("lab");
    let ca = lab.dir.path().to_str().unwrap();
    assert_eq!(run(&["cert", "init", "lab", "--ca", ca], "").await.code, 5);
    let master = lab.master();
    let not_a_user =
        run(&["status", "--master", "127.0.0.1:1", "--creds", master.to_str().unwrap()], "").await;
    assert_eq!(
        (not_a_user.code, not_a_user.err.contains("not a user's")),
        (6, true),
        "{}",
        not_a_user.err
    );
}

#[tokio::test]
async fn without_masters_a_change_fails_at_its_deadline_and_says_that_nothing_is_known_to_be_done()
{
    let lab = Certificates::of("lab");
    let (creds, masters) = (lab.user(), format!("{},{}", nowhere().await, nowhere().await));
    let args = [
        "submit",
        "-",
        "--master",
        &masters,
        "--creds",
        creds.to_str().unwrap(),
        "--timeout",
        "600ms",
    ];
    let before = tokio::time::Instant::now();
    let failed = run(&args, HELLO).await;
    assert_eq!(failed.code, 7);
    assert!(before.elapsed().as_millis() < 5_000);
    let expected = "error: submit ann/hello: none of 2 masters could answer within 600ms; it may or may not have been done: said again with --request-id ";
    assert!(failed.err.starts_with(expected), "{}", failed.err);
    assert!(failed.err.contains("connection refused"), "{}", failed.err);
    assert_eq!(failed.out, "");
}

#[tokio::test]
async fn a_master_that_is_away_is_passed_over() {
    let lab = Certificates::of("lab");
    let masters = format!("{},{}", nowhere().await, speechless_master(&lab.master()).await);
    let creds = lab.user();
    for _ in 0..4 {
        let answered =
            run(&["masters", "--master", &masters, "--creds", creds.to_str().unwrap()], "").await;
        assert_eq!(answered.code, 1, "UNIMPLEMENTED is an answer: {}", answered.err);
    }
}

#[tokio::test]
async fn strangers_are_told_that_the_certificates_do_not_fit() {
    let (lab, other) = (Certificates::of("lab"), Certificates::of("lab"));
    let masters = speechless_master(&lab.master()).await.to_string();
    let creds = other.user();
    let refused =
        run(&["masters", "--master", &masters, "--creds", creds.to_str().unwrap()], "").await;
    assert_eq!(refused.code, 6, "{}", refused.err);
    assert!(refused.err.contains("certificate"), "{}", refused.err);
    let far = Certificates::of("far");
    let refused =
        run(&["masters", "--master", &masters, "--creds", far.user().to_str().unwrap()], "").await;
    assert_eq!(refused.code, 6, "{}", refused.err);
}

#[tokio::test]
async fn eval_prints_json_that_submit_takes_and_completions_name_the_commands() {
    let evaluated = run(&["eval", "-", "--user", "ann"], &format!("print(USER)\n{HELLO}")).await;
    assert_eq!((evaluated.code, evaluated.err.as_str()), (0, "ann\n"));
    let again = run(&["eval", "-"], &evaluated.out).await;
    assert_eq!((again.code, again.out), (0, evaluated.out));
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell], "").await;
        assert!(
            script.code == 0 && script.out.contains("submit") && script.out.contains("resolve")
        );
    }
}

#[tokio::test]
async fn a_mistake_in_a_file_is_shown_with_its_line() {
    let refused = run(&["eval", "-"], "job(\n    name = \"a/b\",\n)\n").await;
    let expected = "error: -:2:5: job.name: job name \"a/b\" has a character that is not allowed; allowed are 1 to 63 of a-z, 0-9, '-', '_', beginning with a letter or digit\n2 |     name = \"a/b\",\n  |     ^\n";
    assert_eq!(refused.err, expected);
}

#[tokio::test]
async fn every_example_of_the_manual_evaluates() {
    let manual =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md"))
            .unwrap();
    let examples: Vec<&str> = manual
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.strip_prefix("python\n").or_else(|| block.strip_prefix("json\n")))
        .collect();
    assert!(examples.len() >= 5, "{}", examples.len());
    for example in examples {
        let evaluated = run(&["eval", "-"], example).await;
        assert_eq!(evaluated.code, 0, "{example}\n{}", evaluated.err);
    }
}
