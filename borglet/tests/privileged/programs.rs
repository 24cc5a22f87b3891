//! Programs: found or not, their environment, signals, ends and output. In every isolation there is.

use std::os::unix::fs::PermissionsExt;

use borglet::container::{ContainerSpec, LogLimits, Outcome, StartError, Workdir};
use borglet::executor::{ActError, Signal};
use borglet::isolation::IsolationWanted;
use borglet::logs::Stream;

use super::machine::{Machine, exited, id, shell, visible_dir};

/// The best isolation this machine has, and none.
fn machines() -> [Machine; 2] {
    [IsolationWanted::FULL, IsolationWanted::NONE].map(Machine::with)
}

fn program(argv: &[&str]) -> ContainerSpec {
    ContainerSpec::new(id("a"), argv.iter().map(|word| (*word).to_owned()).collect())
}

#[test]
fn a_program_that_cannot_run_is_a_start_error_with_the_cause_and_leaves_nothing() {
    for machine in machines() {
        let why = |spec| {
            let error = machine.executor.start(spec).unwrap_err();
            assert!(error.is_fault_of_task(), "{error}");
            error.to_string()
        };
        assert_eq!(why(program(&["/no/such"])), "program not found: /no/such");
        assert!(why(program(&["nosuch"])).starts_with("program not found: nosuch (PATH is /usr"));
        assert!(why(program(&["/etc/passwd"])).contains("not executable: /etc/passwd: Permission"));
        assert!(why(program(&["/etc"])).contains("it is a directory"));
        let mut spec = program(&["true"]);
        spec.workdir = Workdir::Path("/no/dir".into());
        assert_eq!(why(spec), "working directory /no/dir: No such file or directory");
        let mut spec = program(&["true"]);
        spec.workdir = Workdir::Path("/etc/passwd".into());
        assert_eq!(why(spec), "working directory /etc/passwd: Not a directory");
        machine.close();
    }
}

/// Two that only the kernel can judge: a program for another kind of processor, and more words than it takes.
#[test]
fn a_program_of_another_machine_and_two_mebibytes_of_environment_are_said_to_be_so() {
    for machine in machines() {
        let why = |spec: ContainerSpec| {
            let error = machine.executor.start(spec).unwrap_err();
            assert!(error.is_fault_of_task(), "{error}");
            error.to_string()
        };
        let mut spec = program(&["true"]);
        spec.env = (0..32).map(|n| (format!("K{n}"), "x".repeat(64 << 10))).collect();
        let said = why(spec);
        assert!(said.contains("of environment") && said.contains("2 MiB in all"), "{said}");

        if let Some(dir) = visible_dir() {
            let path = |name: &str, bytes: &[u8]| {
                let path = dir.path().join(name);
                std::fs::write(&path, bytes).unwrap();
                for path in [&path, dir.path()] {
                    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
                }
                path.to_str().unwrap().to_owned()
            };
            let this = std::env::consts::ARCH;
            let other = if this == "aarch64" { ("x86_64", 0x3e) } else { ("aarch64", 0xb7) };
            let mut foreign = std::fs::read("/bin/true").unwrap();
            foreign[18] = other.1;
            let said = why(program(&[&path("foreign", &foreign)]));
            let wanted = format!("it is a program for {}, this machine is {this}", other.0);
            assert!(said.contains(&wanted), "{said}");
            let said = why(program(&[&path("noise", &[0xde; 100])]));
            assert!(said.contains("its first line does not begin with #!"), "{said}");
        }
        machine.close();
    }
}

#[test]
fn a_program_hidden_by_the_private_tmp_is_said_to_be_so() {
    let Some(machine) = Machine::full() else { return };
    let script = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let path = script.path().to_str().unwrap();
    let error = machine.executor.start(program(&[path])).unwrap_err().to_string();
    assert!(error.contains("tasks have a /tmp of their own"), "{error}");
    machine.close();
}

#[test]
fn an_id_is_used_once() {
    let machine = Machine::with(IsolationWanted::NONE);
    machine.run(shell("a", "true"));
    let again = machine.executor.start(shell("a", "true")).unwrap_err();
    assert_eq!(again, StartError::Exists(id("a")));
    machine.executor.cleanup(&id("a")).unwrap();
    assert_eq!(machine.executor.start(shell("a", "true")), Err(StartError::Exists(id("a"))));
    assert_eq!(machine.executor.kept_logs().unwrap().len(), 1);
    machine.executor.remove_logs(&id("a")).unwrap();
    machine.run(shell("a", "true"));
    machine.close();
}

#[test]
fn a_program_gets_the_environment_asked_for_and_no_other() {
    for machine in machines() {
        let mut spec = program(&["env"]);
        spec.env = vec![("PORT".into(), "8080".into())];
        let (_, said) = machine.run(spec);
        let mut names: Vec<_> = said.lines().map(|line| line.split('=').next().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["HOME", "PATH", "PORT", "PWD"]);
        let home = machine.config.dir.canonicalize().unwrap().join("tasks/a/work");
        assert!(said.contains(&format!("HOME={}\n", home.display())), "{said}");
        machine.close();
    }
}

#[test]
fn an_end_is_reported_as_it_was() {
    for machine in machines() {
        assert_eq!(machine.run(shell("code", "exit 7")).0.outcome, exited(7));
        let own = machine.run(shell("signal", "kill -USR1 $$")).0;
        assert_eq!(own.outcome, Outcome::Signalled { signal: 10 });
        machine.start(shell("term", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done"));
        machine.until_said(&id("term"), "ready");
        machine.executor.signal(&id("term"), Signal::SIGTERM).unwrap();
        assert_eq!(machine.wait(&id("term")).outcome, exited(9));
        let gone = machine.executor.signal(&id("term"), Signal::SIGTERM);
        assert!(matches!(gone, Err(ActError::Ended(_))), "{gone:?}");
        machine.close();
    }
}

#[test]
fn output_is_bounded_and_can_be_followed() {
    for machine in machines() {
        let mut spec = shell("a", "yes 0123456789 | head -c 300000; echo last; echo oops >&2");
        spec.logs = LogLimits { file_bytes: 10_000, files: 3, ..LogLimits::default() };
        machine.run(spec);
        let read =
            |stream, from| machine.executor.read_log(&id("a"), stream, from, 1 << 20).unwrap();
        let kept = read(Stream::Stdout, 0);
        assert_eq!(kept.end, 300_005);
        assert!((20_000..=30_000).contains(&kept.data.len()), "{} bytes kept", kept.data.len());
        assert!(kept.data.ends_with(b"last\n"));
        assert_eq!(read(Stream::Stderr, 0).data, b"oops\n");
        assert_eq!(read(Stream::Stdout, u64::MAX).next_offset, 300_005);
        machine.close();
    }
}

#[test]
fn the_log_of_a_task_that_wrote_nothing_is_empty_before_and_after_it_is_gone() {
    let machine = Machine::with(IsolationWanted::NONE);
    assert_eq!(machine.run(shell("silent", "exit 3")).0.outcome, exited(3));
    assert_eq!(machine.stdout(&id("silent")), "");
    machine.executor.cleanup(&id("silent")).unwrap();
    assert_eq!(machine.stdout(&id("silent")), "");
    assert!(machine.executor.kept_logs().unwrap().iter().any(|(kept, _)| *kept == id("silent")));
    machine.executor.remove_logs(&id("silent")).unwrap();
    assert!(machine.executor.read_log(&id("silent"), Stream::Stdout, 0, 1).is_err());
    machine.close();
}
