//! Names of real tasks: over DNS at every master, as they change, and as targets of Prometheus.

use crate::api::get;
use crate::cell::{BORGCTL, Cell, Killed, job, run, skipped, within};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longest wait for one datagram, of which loopback loses none but when the computer is busy.
const WAIT: Duration = Duration::from_secs(2);

/// Where the masters of a cell answer.
fn servers(cell: &Cell) -> Vec<SocketAddr> {
    cell.record()
        .masters
        .iter()
        .map(|master| master.dns.as_ref().unwrap().parse().unwrap())
        .collect()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

/// What a master says; `None` when it says nothing.
fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Option<Message> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.send_to(&question(name, kind), server).ok()?;
    let mut bytes = [0; 2_048];
    let size = socket.recv(&mut bytes).ok()?;
    Some(Message::from_vec(&bytes[..size]).unwrap())
}

fn records(server: SocketAddr, name: &str, kind: RecordType) -> Vec<String> {
    let answer = ask(server, name, kind);
    answer
        .iter()
        .flat_map(|message| &message.answers)
        .map(|record| record.data.to_string())
        .collect()
}

fn code(server: SocketAddr, name: &str) -> Option<ResponseCode> {
    Some(ask(server, name, RecordType::A)?.metadata.response_code)
}

/// The web server of the examples.
fn web(name: &str, tasks: u32) -> Value {
    let mut web = job(name, "service", "");
    web["tasks"] = json!(tasks);
    web["task"]["command"] = json!([BORGCTL, "example", "web", "--port", "%port.http%"]);
    web["task"]["ports"] = json!(["http"]);
    web["task"]["health"] = json!({
        "probe": {"http": {"port": "http", "path": "/healthz"}}, "interval_ms": 200, "timeout_ms": 5_000,
    });
    web
}

fn healthy(status: &Value) -> bool {
    status["task_list"].as_array().unwrap().iter().all(|task| task["health"] == "healthy")
}

#[test]
fn healthy_tasks_are_found_over_dns_at_every_master_where_bns_says_that_they_are() {
    let cell = Cell::shared();
    let web = cell.submit(&web("named", 2));
    cell.until(&web, healthy);
    let zone = format!("{}.borg.", cell.name);
    let endpoints = cell.json(&["resolve", &web]);
    let port = |index: usize| endpoints[index]["port"].as_u64().unwrap();
    let expected: Vec<String> =
        (0..2).map(|index| format!("0 0 {} {index}.named.admin.{zone}", port(index))).collect();
    for server in servers(cell) {
        let services = || {
            let mut services =
                records(server, &format!("_http._tcp.named.admin.{zone}"), RecordType::SRV);
            services.sort_by_key(|service| service.split(' ').nth(3).map(str::to_owned));
            services
        };
        within("all healthy tasks have records", || services() == expected);
        for index in 0..2 {
            let name = format!("{index}.named.admin.{zone}");
            let host = endpoints[index]["host"].as_str().unwrap();
            assert_eq!(records(server, &name, RecordType::A), [host]);
            assert_eq!(records(server, &name, RecordType::SRV), [expected[index].as_str()]);
            let text = records(server, &name, RecordType::TXT).concat();
            assert!(text.contains("state=running") && text.contains("health=healthy"), "{text}");
        }
    }
    cell.borgctl(&["kill", &web]).ok();
    for server in servers(cell) {
        let name = format!("named.admin.{zone}");
        within("what was killed has no addresses", || {
            records(server, &name, RecordType::A).is_empty()
        });
        assert_eq!(code(server, &name), Some(ResponseCode::NoError), "it is remembered");
    }
}

#[test]
fn dig_finds_what_there_is() {
    let cell = Cell::shared();
    if Command::new("dig").arg("-v").output().is_err() {
        return skipped("there is no dig: Debian's package bind9-dnsutils has it");
    }
    let web = cell.submit(&web("dug", 1));
    cell.until(&web, healthy);
    let server = servers(cell)[0];
    let name = format!("0.dug.admin.{}.borg", cell.name);
    let (at, port) = (format!("@{}", server.ip()), server.port().to_string());
    let dig = |args: &[&str]| run(Command::new("dig").args([&at, "-p", &port]).args(args), "").ok();
    within("dig finds the task", || dig(&[&name, "+short"]) == "127.0.0.1\n");
    assert_eq!(dig(&[&name, "A", "+tcp", "+short"]), "127.0.0.1\n");
    let services = dig(&[&name, "SRV", "+short"]);
    assert!(services.ends_with(&format!(" {name}.\n")), "{services}");
    let whole = dig(&[&name.to_uppercase()]);
    assert!(whole.contains("status: NOERROR") && whole.contains("flags: qr aa rd;"), "{whole}");
    assert!(!whole.contains("Warning") && !whole.contains("malformed"), "{whole}");
    for (name, status) in [("no.admin", "NXDOMAIN"), ("admin", "NOERROR")] {
        let whole = dig(&[&format!("{name}.{}.borg", cell.name)]);
        assert!(whole.contains(&format!("status: {status}")), "{whole}");
    }
    assert!(dig(&["example.com"]).contains("status: REFUSED"));
    cell.borgctl(&["kill", &web]).ok();
}

/// Its machine says that it is unhealthy, the masters take it out of its name, and only then is it ended.
#[test]
fn an_unhealthy_task_leaves_its_name_before_it_is_ended_and_returns_when_it_is_healthy() {
    let cell = Cell::shared();
    let well = cell.layout().shared().join("well");
    let mut spec = job("frail", "service", "exec sleep 7779");
    spec["task"]["ports"] = json!(["http"]);
    spec["task"]["volumes"] = json!([{ "path": cell.layout().shared() }]);
    spec["task"]["health"] = json!({
        "probe": {"command": ["test", "-e", well]},
        "interval_ms": 100, "timeout_ms": 20_000, "failures": 1, "grace_ms": 600_000,
    });
    let frail = cell.submit(&spec);
    let name = format!("frail.admin.{}.borg.", cell.name);
    let server = servers(cell)[0];
    cell.until_up(&frail, 1);
    assert_eq!(records(server, &name, RecordType::SRV), [""; 0], "it was never healthy");
    File::create(&well).unwrap();
    within("a healthy task is in its name", || records(server, &name, RecordType::SRV).len() == 1);
    std::fs::remove_file(&well).unwrap();
    within("an unhealthy task leaves its name", || {
        records(server, &name, RecordType::SRV).is_empty()
    });
    cell.until(&frail, |status| {
        status["task_list"][0]["restarts"] == 1 && status["task_list"][0]["phase"] == "running"
    });
    assert_eq!(
        records(server, &name, RecordType::SRV),
        [""; 0],
        "another process shows nothing yet"
    );
    File::create(&well).unwrap();
    within("it returns", || records(server, &name, RecordType::SRV).len() == 1);
    // What the log says, in its order.
    let events = Watch::begin(cell, "frail.jsonl", &["watch", "--after", "1", &frail]);
    let order = || {
        let events = events.lines();
        let interesting = events.iter().filter_map(|event| {
            let detail = event["detail"].as_str().unwrap();
            match event["kind"].as_str().unwrap() {
                "task.health" => detail.split(' ').next().map(str::to_owned),
                "task.backoff" => Some("ends".to_owned()),
                _ => None,
            }
        });
        interesting.collect::<Vec<_>>()
    };
    let expected = ["starting", "healthy", "unhealthy", "ends", "starting", "healthy"];
    let told = || order().into_iter().filter(|word| word != "starting").collect::<Vec<_>>();
    let expected: Vec<_> = expected.into_iter().filter(|word| *word != "starting").collect();
    within("the log has all of it", || told().len() >= expected.len());
    assert_eq!(told(), expected);
    cell.borgctl(&["kill", &frail]).ok();
}

/// A `borgctl` that runs beside the test and writes JSON lines to a file.
struct Watch(Child, PathBuf);

impl Watch {
    fn begin(cell: &Cell, file: &str, args: &[&str]) -> Self {
        let path = cell.dir().join(file);
        let child = Command::new(BORGCTL)
            .env("BORG_CELL_DIR", cell.dir())
            .args(["-o", "json"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(File::create(&path).unwrap())
            .spawn()
            .unwrap();
        Self(child, path)
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.1).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        std::fs::remove_file(&self.1).ok();
    }
}

/// One master of three remains: it knows what was, and does not say that it still is.
#[test]
fn a_master_without_a_majority_has_no_answer_and_whoever_watches_is_told() {
    let cell = Cell::up(3, 1);
    let web = cell.submit(&web("web", 1));
    cell.until(&web, healthy);
    let name = format!("web.admin.{}.borg.", cell.name);
    let watch = Watch::begin(&cell, "watch.jsonl", &["resolve", &web, "--watch"]);
    within("the watch begins with all endpoints", || {
        watch.lines().first().is_some_and(|first| {
            first["full"] == true && first["endpoints"].as_array().unwrap().len() == 1
        })
    });
    let server = servers(&cell)[0];
    within("the name is there", || records(server, &name, RecordType::A).len() == 1);
    let victims: Vec<_> = cell.record().masters[1..].iter().map(Killed::of).collect();
    cell.kill(&victims);
    within("it does not know any more", || code(server, &name) == Some(ResponseCode::ServFail));
    assert_eq!(records(server, &name, RecordType::A), [""; 0]);
    let (head, _) = get(&cell.record().masters[0].metrics, "/sd");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    within("the watch says so", || watch.lines().iter().any(|line| line["stale"] == true));
    cell.start_again(&victims);
    within("it knows again", || records(server, &name, RecordType::A).len() == 1);
    within("the watch does too", || {
        watch.lines().last().is_some_and(|line| line["stale"] == false)
    });
    cell.borgctl(&["kill", &web]).ok();
    within("and goes on", || {
        watch.lines().last().is_some_and(|line| line["gone"].as_array().unwrap().len() == 1)
    });
    let indexes: Vec<u64> =
        watch.lines().iter().map(|line| line["index"].as_u64().unwrap()).collect();
    assert!(indexes.is_sorted(), "{indexes:?}");
}

#[test]
fn noise_and_names_that_are_too_long_leave_a_master_as_it_was() {
    let cell = Cell::shared();
    let server = servers(cell)[1];
    let metrics = &cell.record().masters[1].metrics;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut noise = 1_u64;
    for size in (0..600).chain(0..600) {
        let bytes: Vec<u8> = (0..size)
            .map(|_| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                noise.to_be_bytes()[0]
            })
            .collect();
        socket.send_to(&bytes, server).unwrap();
    }
    let label = [&[59][..], &[b'a'; 59][..]].concat();
    let long =
        [&[0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &label.repeat(5), &[0, 0, 1, 0, 1]].concat();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    within("a name of 300 bytes is refused", || {
        socket.send_to(&long, server).unwrap();
        let mut bytes = [0; 512];
        let answered =
            |size: usize, bytes: &[u8]| size >= 4 && bytes[..2] == [0, 9] && bytes[3] & 0xf == 1;
        (0..2_000)
            .map_while(|_| socket.recv(&mut bytes).ok().map(|size| answered(size, &bytes)))
            .any(|ok| ok)
    });
    let mut stream = TcpStream::connect(server).unwrap();
    stream.write_all(&[0xff, 0xff, 1, 2, 3]).unwrap();
    let mut rest = Vec::new();
    assert!(matches!(stream.read_to_end(&mut rest), Ok(0) | Err(_)), "closed: {rest:?}");
    within("a question is still answered", || {
        code(server, &format!("no.admin.{}.borg.", cell.name)) == Some(ResponseCode::NXDomain)
    });
    let (_, text) = get(metrics, "/metrics");
    let refused = text
        .lines()
        .find_map(|line| line.strip_prefix("borgmaster_dns_answers_total{code=\"formerr\"} "));
    assert!(refused.unwrap().parse::<u64>().unwrap() > 0, "{text}");
}

#[test]
fn targets_for_prometheus_are_the_ports_of_tasks_that_run() {
    let cell = Cell::shared();
    let web = cell.submit(&web("scraped", 2));
    cell.until(&web, healthy);
    let endpoints = cell.json(&["resolve", &web]);
    let master = &cell.record().masters[2];
    let found = || -> Value {
        let (head, body) = get(&master.metrics, "/sd?job=admin%2Fscraped&port=http");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
        serde_json::from_str(&body).unwrap()
    };
    let all_healthy = |found: &Value| {
        let found = found.as_array().unwrap();
        found.len() == 2 && found.iter().all(|t| t["labels"]["__meta_borg_health"] == "healthy")
    };
    within("both tasks are targets", || all_healthy(&found()));
    for (index, target) in found().as_array().unwrap().iter().enumerate() {
        let address = format!("127.0.0.1:{}", endpoints[index]["port"]);
        assert_eq!(target["targets"], json!([address]));
        let labels = &target["labels"];
        assert_eq!(labels["__meta_borg_user"], "admin");
        assert_eq!(labels["__meta_borg_job"], "scraped");
        assert_eq!(labels["__meta_borg_task"], index.to_string());
        assert_eq!(labels["__meta_borg_port_name"], "http");
        assert!(labels["__meta_borg_machine"].as_str().unwrap().starts_with("m-"));
        // As Prometheus would.
        let (head, body) = get(&address, "/metrics");
        assert!(
            head.starts_with("HTTP/1.1 200") && body.contains("example_requests_total "),
            "{body}"
        );
    }
    let (head, body) = get(&master.metrics, "/sd?job=scraped");
    assert!(head.starts_with("HTTP/1.1 400") && body.contains("is not USER/JOB"), "{body}");
    cell.borgctl(&["kill", &web]).ok();
    within("what was killed is no target", || found() == json!([]));
}

/// The port of a listener that is gone.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Prometheus that runs beside the test.
struct Prometheus(Child, PathBuf);

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        std::fs::remove_dir_all(&self.1).ok();
    }
}

/// With the configuration of docs/names.md.
#[test]
fn a_real_prometheus_scrapes_the_tasks_that_masters_tell_it_of() {
    if Command::new("prometheus").arg("--version").output().is_err() {
        return skipped("there is no prometheus: Debian's package has it");
    }
    let cell = Cell::shared();
    let web = cell.submit(&web("watched", 2));
    cell.until(&web, healthy);
    let dir = cell.dir().join("prometheus");
    std::fs::create_dir(&dir).unwrap();
    let master = |place: usize| {
        let metrics = &cell.record().masters[place].metrics;
        json!({"url": format!("http://{metrics}/sd?job={web}&port=http"), "refresh_interval": "1s"})
    };
    let config = json!({
        "global": {"scrape_interval": "1s"},
        "scrape_configs": [{
            "job_name": "borg",
            "http_sd_configs": [master(0), master(1)],
            "relabel_configs": [
                {"source_labels": ["__meta_borg_user", "__meta_borg_job"], "separator": "/", "target_label": "job"},
                {"source_labels": ["__meta_borg_task"], "target_label": "task"},
            ],
        }],
    });
    // JSON is YAML.
    std::fs::write(dir.join("prometheus.yml"), config.to_string()).unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", dir.join("prometheus.yml").display()))
        .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.join("log")).unwrap())
        .spawn()
        .unwrap();
    let _prometheus = Prometheus(child, dir);
    within("Prometheus listens", || TcpStream::connect(&address).is_ok());
    let scraped = || -> Value {
        let (_, body) = get(&address, "/api/v1/query?query=example_requests_total");
        serde_json::from_str(&body).unwrap_or_default()
    };
    let tasks = |answer: &Value| {
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let of_ours = series.iter().filter(|one| one["metric"]["job"] == web.as_str());
        let mut tasks: Vec<String> =
            of_ours.map(|one| one["metric"]["task"].as_str().unwrap().to_owned()).collect();
        tasks.sort();
        tasks
    };
    within("each task is scraped, once though two masters tell of it", || {
        tasks(&scraped()) == ["0", "1"]
    });
    cell.borgctl(&["kill", &format!("{web}/1")]).ok();
    within("what is gone is scraped no more", || tasks(&scraped()) == ["0"]);
    cell.borgctl(&["kill", &web]).ok();
}
