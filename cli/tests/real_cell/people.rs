//! What people do with a task: read its output, run commands in it, copy files, reach its ports, and learn
//! what became of it.

use crate::cell::{BORGCTL, Cell, borgctl, is_isolated, job, now, processes_with, run, within};
use borg_proto::wire::pb;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{OpenptyResult, Winsize, openpty};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A `borgctl` of this cell that runs beside the test.
fn beside(cell: &Cell, args: &[&str]) -> Command {
    let mut command = Command::new(BORGCTL);
    command.env("BORG_CELL_DIR", cell.dir()).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A service whose tasks do nothing, up.
fn idle(cell: &Cell, name: &str) -> String {
    let job = cell.submit(&job(name, "service", "echo up; exec sleep 7777"));
    cell.until_up(&job, 1);
    job
}

fn as_user(cell: &Cell, user: &str, args: &[&str]) -> crate::cell::Run {
    let creds = cell.credentials_dir("user", user);
    run(borgctl().env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(creds).args(args), "")
}

fn killed(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_command_runs_in_the_task_and_its_end_is_ours() {
    let cell = Cell::shared();
    let job = idle(cell, "inside");
    let task = format!("{job}/0");
    let exec = |args: &[&str], input: &str| cell.borgctl_with(&[&["exec"], args].concat(), input);
    assert_eq!(
        exec(&[&task, "--", "sh", "-c", "echo $BORG_JOB/$BORG_TASK"], "").ok(),
        "inside/0\n"
    );
    assert_eq!(exec(&["-i", &task, "--", "sort"], "b\na\n").ok(), "a\nb\n");
    assert_eq!(exec(&[&task, "--", "cat"], "unread").ok(), "", "no input without -i");
    let both = exec(&[&task, "--", "sh", "-c", "echo out; echo err >&2; exit 7"], "");
    assert_eq!((both.out.as_str(), both.err.as_str(), both.code), ("out\n", "err\n", 7));
    assert_eq!(exec(&[&task, "--", "sh", "-c", "kill -9 $$"], "").code, 137);
    let big = exec(&["-i", &task, "--", "cat"], &"0123456789".repeat(100_000)).ok();
    assert_eq!(big.len(), 1_000_000, "all of it passes, both ways at once");
    // What cannot be done is said, with the field where it was asked for.
    let said = exec(&[&task, "--", "/no/such"], "").failed(3);
    assert!(said.contains("program not found: /no/such"), "{said}");
    assert!(exec(&[&format!("{job}/9"), "--", "true"], "").failed(4).contains("tasks 0 to 0"));
    let said = exec(&["-it", &task, "--", "true"], "").failed(2);
    assert!(said.contains("no terminal"), "{said}");
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn a_command_sees_what_the_task_sees_and_counts_in_its_limits() {
    let cell = Cell::shared();
    if !is_isolated(cell) {
        return;
    }
    let job = idle(cell, "walls");
    let task = format!("{job}/0");
    let out = cell
        .borgctl(&[
            "exec",
            &task,
            "--",
            "sh",
            "-c",
            "grep Cap /proc/self/status; grep NoNew /proc/self/status; cat /proc/1/comm; hostname",
        ])
        .ok();
    let own = cell
        .borgctl(&[
            "exec",
            &task,
            "--",
            "sh",
            "-c",
            "grep Cap /proc/2/status; grep NoNew /proc/2/status; cat /proc/1/comm; hostname",
        ])
        .ok();
    assert_eq!(out, own, "the same rights as the task's own program, the same view");
    assert!(out.contains("NoNewPrivs:\t1"), "{out}");
    for kind in ["pid", "mnt", "ipc", "uts", "net", "cgroup", "user"] {
        let of = |pid: &str| {
            cell.borgctl(&["exec", &task, "--", "readlink", &format!("/proc/{pid}/ns/{kind}")]).ok()
        };
        assert_eq!(of("self"), of("2"), "{kind}");
    }
    // More memory than the task may have ends the task, as it does for its own processes.
    let hog = ["exec", &task, "--", "sh", "-c", "x=a; while :; do x=$x$x; done"];
    assert_eq!(cell.borgctl(&hog).code, 137);
    cell.until(&job, |status| status["task_list"][0]["restarts"].as_u64() > Some(0));
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn a_shell_has_a_terminal_of_the_right_size_that_passes_keys_on() {
    let cell = Cell::shared();
    let job = idle(cell, "shell");
    let size = Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
    let end = || Stdio::from(slave.try_clone().unwrap());
    let task = format!("{job}/0");
    let mut shell = Command::new(BORGCTL)
        .env("BORG_CELL_DIR", cell.dir())
        .env("TERM", "borgterm")
        .args(["exec", "-i", "-t", &task, "--", "env", "PS1=borg> ", "sh"])
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(slave);
    let (mut keys, mut screen) = (File::from(master.try_clone().unwrap()), File::from(master));
    let mut seen = String::new();
    let mut until = |text: &str| {
        let began = now();
        while !seen.contains(text) {
            assert!(began.elapsed() < Duration::from_secs(20), "{text:?} is not in {seen:?}");
            let mut waiting = [PollFd::new(screen.as_fd(), PollFlags::POLLIN)];
            if poll(&mut waiting, 1_000u16).unwrap() == 0 {
                continue;
            }
            let mut piece = [0; 1024];
            let length = screen.read(&mut piece).unwrap();
            seen.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        seen.clear();
    };
    until("borg> ");
    keys.write_all(b"echo s-$(stty size | tr ' ' x)-$TERM\n").unwrap();
    until("s-33x99-borgterm\r\nborg> ");
    // The terminal is one of those that the task sees.
    keys.write_all(b"test -c \"$(tty)\" && echo at-$(tty)\n").unwrap();
    until("at-/dev/pts/");
    keys.write_all(b"sleep 34591; echo slept-$((1+1))\n").unwrap();
    within("it sleeps", || !processes_with("sleep 34591").is_empty());
    keys.write_all(b"\x03").unwrap();
    until("borg> ");
    keys.write_all(b"echo after-$((20+3))\n").unwrap();
    until("after-23");
    keys.write_all(b"exit 5\n").unwrap();
    // Somebody has to take what is still printed.
    let rest =
        std::thread::spawn(move || while screen.read(&mut [0; 1024]).is_ok_and(|n| n > 0) {});
    assert_eq!(shell.wait().unwrap().code(), Some(5));
    drop(keys);
    rest.join().unwrap();
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn an_interrupt_reaches_a_program_that_does_not_read_its_input() {
    let cell = Cell::shared();
    let job = idle(cell, "deaf");
    let script = "trap 'exit 42' INT; echo ready; while :; do sleep 0.05; done";
    let mut client = beside(cell, &["exec", "-i", &format!("{job}/0"), "--", "sh", "-c", script])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(client.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    // Far more than all buffers on the way take together.
    let mut input = client.stdin.take().unwrap();
    let filling = std::thread::spawn(move || input.write_all(&vec![b'x'; 16 << 20]));
    std::thread::sleep(Duration::from_secs(1));
    assert!(!filling.is_finished(), "somebody took it all");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(client.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let began = now();
    let code = loop {
        if let Some(done) = client.try_wait().unwrap() {
            break done.code();
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the interrupt waits behind the input");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(42));
    assert!(filling.join().unwrap().is_err(), "the rest goes nowhere");
    // All of what is read arrives, in order, however slowly it is read.
    let slow = "sleep 0.3; wc -c; echo done";
    let mut client = beside(cell, &["exec", "-i", &format!("{job}/0"), "--", "sh", "-c", slow])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(&vec![b'x'; 3_000_000]).unwrap();
    let done = client.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "3000000\ndone\n");
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn what_a_session_started_is_gone_when_its_client_is() {
    let cell = Cell::shared();
    let job = idle(cell, "leavers");
    let script =
        "sleep 34561 & setsid sleep 34561 & (setsid sh -c 'sleep 34561; :' &) ; sleep 34561";
    let client =
        beside(cell, &["exec", &format!("{job}/0"), "--", "sh", "-c", script]).spawn().unwrap();
    let sleeping =
        || processes_with("sleep 34561").iter().filter(|line| !line.contains("sh -c")).count();
    within("all four sleep", || sleeping() == 4);
    killed(client);
    within("the session's processes are gone", || processes_with("sleep 34561").is_empty());
    assert_eq!(cell.status(&job)["task_list"][0]["restarts"], 0, "the task itself noticed nothing");
    // A command that is over leaves nothing behind either.
    let left = ["exec", &format!("{job}/0"), "--", "sh", "-c", "setsid sleep 34562 & exit 3"];
    assert_eq!(cell.borgctl(&left).code, 3);
    within("nothing is left running", || processes_with("sleep 34562").is_empty());
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn a_session_ends_with_its_task() {
    let cell = Cell::shared();
    let job = idle(cell, "mayflies");
    let task = format!("{job}/0");
    let session = beside(cell, &["exec", &task, "--", "sh", "-c", "echo in; exec sleep 34571"])
        .spawn()
        .unwrap();
    within("the session runs", || {
        !processes_with("sleep 34571").iter().all(|line| line.contains("exec"))
    });
    cell.borgctl(&["kill", &job]).ok();
    let done = session.wait_with_output().unwrap();
    assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(137), b"in\n".as_slice()));
    within("its process is gone", || processes_with("sleep 34571").is_empty());
    // And there is no way into a task that is over: said with when and how it ended.
    let said = cell.borgctl(&["exec", &task, "--", "true"]).failed(3);
    assert!(said.contains("ended ") && said.contains("killed by admin"), "{said}");
}

#[test]
fn only_the_owner_and_admin_reach_into_a_task() {
    let cell = Cell::shared();
    let web = job("private", "service", "echo secret; exec sleep 7777");
    let creds = cell.credentials_dir("user", "ann");
    let submit = run(
        borgctl().env("BORG_CELL_DIR", cell.dir()).arg("--creds").arg(&creds).args(["submit", "-"]),
        &web.to_string(),
    );
    let job = submit.ok().trim().to_owned();
    cell.until_up(&job, 1);
    let task = format!("{job}/0");
    let from = format!("{task}:/etc/hostname");
    let calls: [&[&str]; 6] = [
        &["exec", &task, "--", "true"],
        &["attach", &task],
        &["cp", &from, "/tmp/never"],
        &["cp", "/etc/hostname", &from],
        &["port", "0:1", &task],
        &["logs", &task],
    ];
    for call in calls {
        let said = as_user(cell, "bob", call).failed(6);
        assert!(said.contains("user bob is neither the owner of ann/private nor admin"), "{said}");
    }
    assert_eq!(as_user(cell, "ann", &["exec", &task, "--", "echo", "mine"]).ok(), "mine\n");
    assert_eq!(cell.borgctl(&["exec", &task, "--", "echo", "all"]).ok(), "all\n");
    // Each is a line in the log of the master and of the machine; what people type cannot forge one.
    cell.borgctl(&["exec", &task, "--", "echo", "x\n2026 INFO forged"]).ok();
    let logs = || {
        let record = cell.record();
        let names = record.masters.iter().chain(&record.borglets).map(|daemon| &daemon.name);
        let texts = names.map(|name| fs::read_to_string(cell.layout().log(name)).unwrap());
        texts.collect::<Vec<_>>()
    };
    let has = |text: &str| logs().iter().filter(|log| log.contains(text)).count();
    within("both have it", || has("x\\\\n2026 INFO forged") + has("x\\n2026 INFO forged") >= 2);
    assert!(logs().iter().all(|log| log.lines().all(|line| !line.starts_with("2026 INFO forged"))));
    assert!(has("session refused") >= 1);
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn files_are_copied_in_and_out_and_no_link_leads_elsewhere() {
    let cell = Cell::shared();
    let job = idle(cell, "copies");
    let task = format!("{job}/0");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::create_dir_all(path("tree/sub")).unwrap();
    fs::write(path("tree/sub/big"), vec![7; 3_000_000]).unwrap();
    fs::write(path("tree/small"), "small").unwrap();
    symlink("sub/big", path("tree/link")).unwrap();
    // A relative path there is seen from the task's own directory.
    cell.borgctl(&["cp", &path("tree"), &format!("{task}:copied")]).ok();
    let sum = cell
        .borgctl(&["exec", &task, "--", "sh", "-c", "wc -c < copied/link; cat copied/small"])
        .ok();
    assert_eq!(sum, "3000000\nsmall");
    cell.borgctl(&["cp", &format!("{task}:copied"), &path("back")]).ok();
    assert_eq!(fs::read(path("back/sub/big")).unwrap(), vec![7; 3_000_000]);
    assert_eq!(fs::read_link(path("back/link")).unwrap().to_str(), Some("sub/big"));
    // The task lays a trap: what leads out of the copy does not arrive, here or there.
    let trap = "mkdir t; ln -s /etc t/etc; ln -s ../../../../etc/passwd t/up; echo fine > t/fine; mkfifo t/pipe;
        ln -s . t/l; ln -s l/l/l/l/../../../../etc/passwd t/chain";
    cell.borgctl(&["exec", &task, "--", "sh", "-c", trap]).ok();
    let copied = cell.borgctl(&["cp", &format!("{task}:t"), &path("trap")]);
    assert_eq!(copied.code, 0, "{}", copied.err);
    assert!(copied.err.contains("left out") && copied.err.contains("a link out"), "{}", copied.err);
    let mut names: Vec<_> =
        fs::read_dir(path("trap")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["fine", "l"]);
    let said = cell.borgctl(&["cp", &format!("{task}:t/pipe"), &path("pipe")]).failed(3);
    assert!(said.contains("neither file, directory nor link"), "{said}");
    // What would not fit into the task's memory is refused, and ends nobody.
    if is_isolated(cell) {
        let large = File::create(path("large")).unwrap();
        large.set_len(1 << 30).unwrap();
        let said = cell.borgctl(&["cp", &path("large"), &format!("{task}:/tmp/large")]).failed(3);
        assert!(said.contains("/tmp/large is memory of the task, which has room for"), "{said}");
        assert_eq!(cell.status(&job)["task_list"][0]["restarts"], 0);
    }
    // A link in the way at this end is not written through.
    fs::write(path("kept"), "kept").unwrap();
    symlink(path("kept"), path("trap2")).unwrap();
    cell.borgctl(&["cp", &format!("{task}:t/fine"), &path("trap2")]).ok();
    assert_eq!(fs::read_to_string(path("kept")).unwrap(), "kept");
    let said = cell.borgctl(&["cp", &format!("{task}:/no/such"), &path("x")]).failed(3);
    assert!(said.contains("/no/such: No such file"), "{said}");
    assert!(
        cell.borgctl(&["cp", &path("none"), &format!("{task}:/tmp")])
            .failed(4)
            .contains("no such file")
    );
    assert!(cell.borgctl(&["cp", "a", "b"]).failed(2).contains("neither is TASK:PATH"));
    cell.borgctl(&["kill", &job]).ok();
}

#[test]
fn a_flood_and_a_giant_line_cost_no_memory_and_are_cut_with_a_count() {
    let cell = Cell::shared();
    // 300 MB without the end of a line, then words; and it lives on, so that its shim can be looked at.
    let script = "head -c 300000000 /dev/zero | tr '\\0' x; echo; sleep 6; echo last words; exec sleep 34581";
    let mut flood = job("flood", "service", script);
    flood["task"]["limit"]["cpu_milli"] = json!(1000);
    let name = cell.submit(&flood);
    within("it is through", || {
        !processes_with("sleep 34581").iter().all(|line| line.contains("head"))
    });
    let task = format!("{name}/0");
    let out = cell.borgctl(&["logs", &task]).ok();
    assert!(out.len() <= 33 << 20, "{} bytes kept", out.len());
    assert!(out.contains("bytes dropped, more than 4194304 a second]\n"));
    assert!(out.ends_with("last words\n"));
    assert_eq!(cell.borgctl(&["logs", &task, "--tail", "1"]).ok(), "last words\n");
    // With the task before each line, a line that never ends comes in pieces.
    let prefixed = cell.borgctl(&["logs", &name, "--color", "never"]).ok();
    assert!(prefixed.lines().all(|line| line.starts_with("flood/0 ") && line.len() < 100 << 10));
    let shims = processes_with(&format!("tasks/{}.0.", name.replace('/', ".")));
    let peaks = shims.iter().filter(|line| line.contains("borglet-shim")).map(|line| {
        let pid = line.split_once(':').unwrap().0;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let anon = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        anon.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    });
    let peak = peaks.max().unwrap();
    assert!(peak < 8 << 10, "a shim has {peak} KiB");
    cell.borgctl(&["kill", &name]).ok();
}

#[test]
fn output_is_found_by_time_stream_task_and_incarnation() {
    let cell = Cell::shared();
    let script = "echo out $BORG_TASK; echo err $BORG_TASK >&2; sleep 3; echo late $BORG_TASK; exec sleep 7777";
    let mut both = job("streams", "service", script);
    both["tasks"] = json!(2);
    let name = cell.submit(&both);
    let task = |index: u32| format!("{name}/{index}");
    within("both were late", || {
        [0, 1].iter().all(|index| cell.borgctl(&["logs", &task(*index)]).ok().contains("late"))
    });
    let run = cell.borgctl(&["logs", &task(0), "--both"]);
    assert_eq!((run.out.as_str(), run.err.as_str()), ("out 0\nlate 0\n", "err 0\n"));
    assert_eq!(cell.borgctl(&["logs", &task(0), "--since", "1h"]).ok(), "out 0\nlate 0\n");
    let since = humantime_of(cell, &task(0), 1_500);
    assert_eq!(cell.borgctl(&["logs", &task(0), "--since", &since]).ok(), "late 0\n");
    assert_eq!(cell.borgctl(&["logs", &task(0), "--since", "2100-01-01T00:00:00Z"]).ok(), "");
    assert!(cell.borgctl(&["logs", &task(0), "--since", "soon"]).failed(2).contains("10m"));
    let all = cell.borgctl(&["logs", &name, "--both", "--color", "never"]);
    let mut lines: Vec<&str> = all.out.lines().chain(all.err.lines()).collect();
    lines.sort_unstable();
    let wanted = [
        "streams/0 err 0",
        "streams/0 late 0",
        "streams/0 out 0",
        "streams/1 err 1",
        "streams/1 late 1",
        "streams/1 out 1",
    ];
    assert_eq!(lines, wanted);
    let coloured = cell.borgctl(&["logs", &name, "--color", "always", "--tail", "1"]).ok();
    assert!(coloured.contains("\x1b[36mstreams/0 \x1b[0mlate 0\n"), "{coloured:?}");
    let said = cell.borgctl(&["logs", &task(0), "--previous"]).failed(4);
    assert!(said.contains("has no previous incarnation"), "{said}");
    cell.borgctl(&["kill", &name]).ok();
    // A batch task that is tried again is another incarnation.
    let mut tries = job("tries", "batch", "echo try $BORG_INCARNATION; exit 4");
    tries["retries"] = json!(1);
    let name = cell.submit(&tries);
    cell.until(&name, |status| status["state"] == "failed");
    assert_eq!(cell.borgctl(&["logs", &format!("{name}/0")]).ok(), "try 2\n");
    assert_eq!(cell.borgctl(&["logs", &format!("{name}/0"), "--previous"]).ok(), "try 1\n");
    assert_eq!(cell.borgctl(&["logs", &format!("{name}/0"), "--incarnation", "1"]).ok(), "try 1\n");
}

/// A moment so long after a task started, as people write it.
fn humantime_of(cell: &Cell, task: &str, after_ms: u64) -> String {
    let since = cell.json(&["status", task])["since_ms"].as_u64().unwrap();
    let at = std::time::UNIX_EPOCH + Duration::from_millis(since + after_ms);
    humantime::format_rfc3339_millis(at).to_string()
}

#[test]
fn a_task_says_how_it_is_and_top_shows_what_it_uses() {
    let cell = Cell::shared();
    let script = "printf 'sync 42%%\\033[31m\\nmore' > $BORG_STATUS_FILE; exec sleep 7777";
    let name = cell.submit(&job("talker", "service", script));
    let line = "sync 42%\\u{1b}[31m";
    // Any master knows, not only the leader.
    for master in cell.record().masters {
        let at = ["--master", &master.address, "status", &name];
        within("it is told", || cell.json(&at)["task_list"][0]["status_line"] == line);
    }
    let table = cell.borgctl(&["top", &name]).ok();
    assert!(table.contains("talker/0") && table.contains(line), "{table}");
    let top = cell.json(&["top", &format!("{name}/0")]);
    assert_eq!((&top[0]["status_line"], &top[0]["cpu_limit_milli"]), (&json!(line), &json!(50)));
    assert!(cell.borgctl(&["status", &format!("{name}/0")]).ok().contains("it says: sync 42%"));
    assert!(cell.borgctl(&["top", &format!("{name}/7")]).failed(4).contains("does not run"));
    // What is no plain file is not read, and blocks nobody.
    for trick in ["rm -f F; mkfifo F", "rm -f F; ln -s /etc/passwd F", "rm -f F; mkdir F"] {
        let trick = trick.replace('F', "$BORG_STATUS_FILE");
        cell.borgctl(&["exec", &format!("{name}/0"), "--", "sh", "-c", &trick]).ok();
        within("it says nothing", || cell.status(&name)["task_list"][0]["status_line"] == "");
        cell.borgctl(&[
            "exec",
            &format!("{name}/0"),
            "--",
            "sh",
            "-c",
            "rm -rf $BORG_STATUS_FILE; echo again > $BORG_STATUS_FILE",
        ])
        .ok();
        within("it speaks again", || cell.status(&name)["task_list"][0]["status_line"] == "again");
    }
    cell.borgctl(&["kill", &name]).ok();
}

#[test]
fn an_attached_task_is_followed_signalled_and_its_end_is_ours() {
    let cell = Cell::shared();
    let script =
        "echo before; trap 'echo got it; exit 9' INT; while :; do echo tick; sleep 0.2; done";
    let name = cell.submit(&job("attached", "service", script));
    cell.until_up(&name, 1);
    let mut attached = beside(cell, &["attach", &format!("{name}/0")]).spawn().unwrap();
    let mut out = BufReader::new(attached.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "tick\n", "from now on");
    let pid = nix::unistd::Pid::from_raw(attached.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("got it\n"), "{rest}");
    assert_eq!(attached.wait().unwrap().code(), Some(9));
    cell.borgctl(&["kill", &name]).ok();
}

/// The answer of a web server; empty when there is none.
fn http_get(address: &str, half_closed: bool) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    if half_closed {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
    }
    let mut answer = Vec::new();
    // While nobody listens there the connection may be reset; that it hangs is a failure.
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    String::from_utf8(answer).unwrap()
}

/// A cell of its own: ports are handed out in order, and its machine goes.
#[test]
fn ports_are_reached_and_last_words_outlive_the_machine() {
    let cell = Cell::up(1, 1);
    let mut web = job("web", "service", "");
    web["task"]["command"] =
        json!([BORGCTL, "example", "web", "--port", "%port.http%", "--host", "127.0.0.1"]);
    web["task"]["ports"] = json!(["http"]);
    web["task"]["limit"]["cpu_milli"] = json!(500);
    let web = cell.submit(&web);
    cell.until_up(&web, 1);
    let task = format!("{web}/0");
    let mut forward = beside(&cell, &["-o", "json", "port", "0:http", &task]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(forward.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address =
        serde_json::from_str::<Value>(&line).unwrap()["address"].as_str().unwrap().to_owned();
    let get = || http_get(&address, false);
    within("it listens", || get().contains("Hello from admin/web/0"));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let address = address.clone();
            // Half closed: the answer still comes.
            std::thread::spawn(move || http_get(&address, true))
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap().contains("200 OK")));
    killed(forward);
    let said = cell.borgctl(&["port", "0:smtp", &task]).failed(4);
    assert!(said.contains("no port \"smtp\"; it has [http:"), "{said}");

    let mut crash = job(
        "crash",
        "batch",
        "echo to stdout; printf 'no such table: users\\033[2J\\n' >&2; exit 3",
    );
    crash["retries"] = json!(1);
    let crash = cell.submit(&crash);
    cell.until(&crash, |status| status["state"] == "failed");
    let task = format!("{crash}/0");
    let runs = || cell.json(&["status", &task])["runs"].clone();
    let before = runs();
    assert_eq!(before.as_array().unwrap().len(), 2, "{before}");
    assert_eq!(
        (&before[0]["incarnation"], &before[0]["end"], &before[0]["cause"]),
        (&json!(2), &json!("failed"), &json!("exit code 3"))
    );
    assert_eq!(before[0]["told"]["last_lines"], "no such table: users\\u{1b}[2J");
    if is_isolated(&cell) {
        assert!(before[0]["told"]["ram_peak_bytes"].as_u64() > Some(0), "{before}");
    }
    // The machine goes, and what it told stays.
    cell.kill(&[crate::cell::Killed::of(&cell.record().borglets[0])]);
    cell.borgctl(&["machine", "remove", "m-1"]).ok();
    assert_eq!(runs(), before);
    let text = cell.borgctl(&["status", &task]).ok();
    assert!(text.contains("last words of try 2:\n  no such table: users"), "{text}");
    let why = cell.borgctl(&["why", &task]).ok();
    assert!(why.contains("no such table: users"), "{why}");
    let said = cell.borgctl(&["logs", &task]).failed(4);
    assert!(said.contains("was removed"), "{said}");
    // Others learn that it failed, not what it wrote.
    let others = as_user(&cell, "bob", &["-o", "json", "status", &task]).ok();
    assert!(others.contains("exit code 3") && !others.contains("no such table"), "{others}");
}

/// As when the first master is cut off right after it passed the command on.
#[tokio::test]
async fn a_command_that_is_asked_for_at_two_masters_is_begun_once() {
    let cell = Cell::shared();
    let job = idle(cell, "once");
    let exec = pb::session_start::Exec {
        command: ["sh", "-c", "echo x >> ledger; cat ledger; exec sleep 60"].map(Into::into).into(),
        ..Default::default()
    };
    let start = pb::SessionStart {
        task: format!("{job}/0"),
        once: "ledger-1".into(),
        counts_input: false,
        what: Some(pb::session_start::What::Exec(exec)),
    };
    let start = pb::SessionInput { kind: Some(pb::session_input::Kind::Start(start)) };
    let mut first = cell.admin(0);
    let (sender, messages) = tokio::sync::mpsc::channel(1);
    sender.send(start.clone()).await.unwrap();
    let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
    let mut answers = first.open_session(messages).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let mut second = cell.admin(1);
    let refused = match second.open_session(tokio_stream::iter([start])).await {
        Ok(answers) => answers.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refused.code(), tonic::Code::AlreadyExists, "{refused:?}");
    assert!(refused.message().contains("begun already"), "{refused:?}");
    assert_eq!(cell.borgctl(&["exec", &format!("{job}/0"), "--", "cat", "ledger"]).ok(), "x\n");
    drop((sender, answers));
    cell.borgctl(&["kill", &job]).ok();
}

#[tokio::test]
async fn nobody_takes_all_sessions_of_a_machine_and_a_borglet_listens_to_masters_alone() {
    // Of its own: whoever else is admin there would find all of them taken.
    let cell = Cell::up(1, 1);
    let job = idle(&cell, "crowded");
    let mut client = cell.admin(0);
    let start = || {
        let what = Some(pb::session_start::What::Attach(pb::session_start::Attach {}));
        let start = pb::SessionStart { task: format!("{job}/0"), what, ..Default::default() };
        pb::SessionInput { kind: Some(pb::session_input::Kind::Start(start)) }
    };
    let mut open = Vec::new();
    let refused = loop {
        let (sender, messages) = tokio::sync::mpsc::channel(1);
        sender.send(start()).await.unwrap();
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let mut answers = client.open_session(messages).await.unwrap().into_inner();
        match answers.message().await {
            Ok(_) => open.push((sender, answers)),
            Err(status) => break status,
        }
        assert!(open.len() <= 64, "no end of sessions");
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(
        refused.message().contains("user admin has 32 open, and 32 of 64 are free"),
        "{refused:?}"
    );
    assert_eq!(open.len(), 32);
    drop(open);
    // What was closed makes room.
    let began = now();
    loop {
        let answer = client.open_session(tokio_stream::iter([start()])).await.unwrap();
        match answer.into_inner().message().await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.code(), tonic::Code::ResourceExhausted),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "no room again");
    }
    // Rubbish is refused with its field, and whoever is no master gets nowhere at a borglet.
    let rubbish = pb::SessionInput { kind: Some(pb::session_input::Kind::Data(vec![1])) };
    let refused = client.open_session(tokio_stream::iter([rubbish])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let channel = cell.borglet_channel(0, &cell.credentials("user", "admin"));
    let mut borglet = borg_proto::rpc::borglet_client(channel);
    let none = tokio_stream::iter(Vec::<pb::TaskSessionInput>::new());
    let refused = borglet.open_task_session(none).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied, "{refused:?}");
    cell.borgctl(&["kill", &job]).ok();
}
