//! A network of a task's own, from the operator's range to the address at which callers find the task. All of the
//! cell is in a network namespace made for it.

use crate::cell::{BORGCTL, Cell, job, skipped, within};
use crate::masters::Ended;
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

/// The web server of the examples on its first port, asked for by its machine.
fn web(name: &str, tasks: u32) -> Value {
    let mut web = job(name, "service", "");
    web["tasks"] = json!(tasks);
    web["task"]["command"] = json!([BORGCTL, "example", "web", "--port", "%port.http%"]);
    web["task"]["ports"] = json!(["http"]);
    web["task"]["network"] = json!("own");
    web["task"]["health"] =
        json!({"probe": {"http": {"port": "http", "path": "/healthz"}}, "timeout_ms": 5_000});
    web
}

fn get(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_task_with_a_network_of_its_own_is_reached_at_its_address() {
    if !nix::unistd::geteuid().is_root() {
        return skipped("not root");
    }
    let apart = || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        borglet::network::loopback_up().unwrap();
        reached_at_its_address();
    };
    std::thread::scope(|scope| scope.spawn(apart).join()).unwrap();
}

fn reached_at_its_address() {
    let cell = Cell::up(1, 1);
    let web = cell.submit(&web("web", 2));
    let why = || cell.json(&["why", &format!("{web}/0")])["summary"].to_string();
    within("why says what is missing", || {
        why().contains(
            "1 lacks addresses for tasks (borglet --task-network) (asks 1, largest has 0)",
        )
    });
    let _borglet = borglet_with_range(&cell);
    let status = cell.until(&web, |status| {
        let healthy = |n: usize| status["task_list"][n]["health"] == "healthy";
        healthy(0) && healthy(1)
    });
    let endpoints = cell.json(&["resolve", &web]);
    let endpoints = endpoints.as_array().unwrap();
    assert_eq!(endpoints.len(), 2);
    for (n, endpoint) in endpoints.iter().enumerate() {
        assert_eq!((&endpoint["port"], &endpoint["up"]), (&json!(8_000), &json!(true)));
        let host = endpoint["host"].as_str().unwrap();
        assert!(host.starts_with("10.88.3."), "{endpoint}");
        assert_eq!(status["task_list"][n]["address"], host);
        let mut stream = TcpStream::connect((host, 8_000)).unwrap();
        assert!(get(&mut stream).starts_with("HTTP/1.1 200"), "{endpoint}");
    }
    let host = endpoints[0]["host"].as_str().unwrap();
    assert!(cell.borgctl(&["status", &web]).ok().contains(&format!("{host} http:8000")));
    sessions(&cell, &format!("{web}/0"), host);
    cell.borgctl(&["kill", &web]).ok();
    within("nothing is left", || {
        let all = nix::net::if_::if_nameindex().unwrap();
        !all.iter().any(|one| one.name().to_string_lossy().starts_with("borg"))
    });
}

/// People are in the same network as the task that they look into.
fn sessions(cell: &Cell, task: &str, host: &str) {
    let said =
        cell.borgctl(&["exec", task, "--", "sh", "-c", "echo $BORG_ADDRESS; cat /etc/hosts"]);
    let said = said.ok();
    assert!(said.starts_with(&format!("{host}\n")), "{said}");
    assert!(said.contains(&format!("{host} admin.web.0.")), "{said}");
    let mut forward = Command::new(BORGCTL)
        .env("BORG_CELL_DIR", cell.dir())
        .args(["-o", "json", "port", "0:http", task])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(forward.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let forward = Ended(forward);
    let at = serde_json::from_str::<Value>(&line).unwrap();
    let mut stream = TcpStream::connect(at["address"].as_str().unwrap()).unwrap();
    assert!(get(&mut stream).starts_with("HTTP/1.1 200"));
    drop(forward);
}

/// One more machine, whose operator gave it addresses.
fn borglet_with_range(cell: &Cell) -> Ended {
    let new = cell.dir().join("new-machine");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ca = cell.layout().ca();
    let dir = new.to_str().unwrap();
    let add = ["machine", "add", "m-9", &free, "--ca", ca.to_str().unwrap(), "--dir", dir];
    cell.borgctl(&add).ok();
    let process = Command::new(BORGCTL)
        .args(["borglet", "--listen", &free, "--metrics-listen", "127.0.0.1:0", "--creds"])
        .arg(new.join("creds"))
        .arg("--dir")
        .arg(cell.dir().join("data/m-9"))
        .args([
            "--task-network",
            "10.88.3.0/24",
            "--cpu-milli",
            "1000",
            "--disk-bytes",
            "1000000000",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(cell.dir().join("log/m-9.log")).unwrap())
        .spawn()
        .unwrap();
    let borglet = Ended(process);
    within("the machine tells its range", || {
        cell.json(&["machines"]).to_string().contains("\"task_network\":\"10.88.3.0/24\"")
    });
    borglet
}
