//! What the machine and its tasks do right now, for a person with a browser and for programs: `/tasks`,
//! `/tasks.json`, and the tasks' part of `/metrics`.
//!
//! Everything is text that is made here; the page has no scripts and asks for nothing. Texts that tasks
//! or users chose are escaped. Environments and commands are not shown: people keep secrets there.

use crate::driver::Seen;
use borg_proto::health::Health;
use borg_proto::poll::{Percentiles, TaskReport, TaskStatus};
use borg_proto::resources::Resources;
use borg_proto::{CellName, MachineInfo, MachineName, Millis, Privilege, TaskName, privilege};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write};
use std::net::Ipv4Addr;

/// What the page shows.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Page {
    cell: CellName,
    machine: MachineName,
    /// When it was made, by the machine's clock.
    now_ms: u64,
    attributes: BTreeMap<String, String>,
    capacity: Resources,
    missing_isolation: Vec<String>,
    tasks: Vec<Row>,
}

/// One incarnation on the page. Fields that are not known yet, as after a restart of the borglet without
/// a master, are `None`.
#[derive(Debug, Clone, Serialize)]
struct Row {
    #[serde(skip)]
    name: Option<TaskName>,
    task: Option<String>,
    incarnation: u32,
    state: &'static str,
    pid: Option<u32>,
    since_ms: Option<u64>,
    health: Option<Health>,
    appclass: Option<&'static str>,
    priority: Option<u16>,
    cpu_milli: u64,
    cpu_limit_milli: Option<u64>,
    ram_bytes: u64,
    ram_limit_bytes: Option<u64>,
    cache_bytes: u64,
    disk_bytes: u64,
    disk_limit_bytes: Option<u64>,
    io_bytes: u64,
    io_ops: u64,
    threads: u32,
    restarts: u32,
    ports: Vec<u16>,
    /// Of its own, if its network is.
    address: Option<Ipv4Addr>,
    /// What of its isolation it does without.
    loosened: BTreeSet<Privilege>,
    last_failure: Option<String>,
    window: Option<Window>,
}

/// The last five minutes that are over.
#[derive(Debug, Clone, Serialize)]
struct Window {
    since_ms: u64,
    cpu_milli: Range,
    ram_bytes: Range,
}

#[derive(Debug, Clone, Serialize)]
struct Range {
    p50: u64,
    p90: u64,
    p99: u64,
    max: u64,
}

impl From<Percentiles> for Range {
    fn from(Percentiles { p50, p90, p99, max }: Percentiles) -> Self {
        Self { p50, p90, p99, max }
    }
}

impl Page {
    /// Of what the supervisor knows at moment `now`.
    pub(crate) fn new(cell: CellName, machine: MachineName, now: Millis, seen: Seen) -> Self {
        let MachineInfo { capacity, attributes, missing_isolation, .. } = seen.info;
        let tasks = seen.tasks.into_iter().map(Row::new).collect();
        Self { cell, machine, now_ms: now.0, attributes, capacity, missing_isolation, tasks }
    }

    /// As JSON. Field names are a promise to scripts.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain names and numbers become JSON")
    }

    /// As HTML.
    pub(crate) fn html(&self) -> String {
        let mut out = String::with_capacity(4_096 + self.tasks.len() * 512);
        let written = self.write_html(&mut out);
        written.expect("writing to a String does not fail");
        out
    }

    fn write_html(&self, out: &mut String) -> fmt::Result {
        let (cell, machine) = (escaped(&self.cell), escaped(&self.machine));
        write!(out, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">")?;
        write!(out, "<title>{machine} in cell {cell}</title><style>{STYLE}</style></head><body>")?;
        write!(out, "<h1>{machine} <small>in cell {cell}</small></h1>\n<table class=\"facts\">")?;
        let room = &self.capacity;
        fact(out, "cpu for tasks", &format!("{} cores", cores(room.cpu_milli)))?;
        fact(out, "memory for tasks", &size(room.ram_bytes))?;
        fact(out, "disk for tasks", &size(room.disk_bytes))?;
        for (name, value) in &self.attributes {
            fact(out, name, value)?;
        }
        for missing in &self.missing_isolation {
            fact(out, "missing", missing)?;
        }
        writeln!(out, "</table>\n<h2>{} tasks</h2>\n<table>\n<tr>", self.tasks.len())?;
        for title in TITLES {
            write!(out, "<th>{title}</th>")?;
        }
        writeln!(out, "</tr>")?;
        for row in &self.tasks {
            row.write_html(self.now_ms, out)?;
        }
        writeln!(
            out,
            "</table>\n<p><a href=\"tasks.json\">JSON</a> <a href=\"metrics\">metrics</a></p>\n</body></html>"
        )
    }

    /// The tasks' part of `/metrics`, in the Prometheus text format: series of the tasks that are there,
    /// of each name the newest incarnation.
    pub(crate) fn metrics(&self) -> String {
        let mut newest: BTreeMap<&TaskName, &Row> = BTreeMap::new();
        for row in &self.tasks {
            let Some(name) = &row.name else { continue };
            let held = newest.entry(name).or_insert(row);
            if row.incarnation > held.incarnation {
                *held = row;
            }
        }
        let mut out = String::new();
        for metric in &METRICS {
            let series = newest.iter().filter_map(|(name, row)| Some((name, (metric.value)(row)?)));
            let mut series = series.peekable();
            if series.peek().is_none() {
                continue;
            }
            let written = metric.write(&self.cell, series, &mut out);
            written.expect("writing to a String does not fail");
        }
        out
    }
}

const STYLE: &str = "body{font:14px/1.4 sans-serif;margin:2em}table{border-collapse:collapse}\
    td,th{padding:.2em .8em .2em 0;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}\
    td.n{text-align:right}.unhealthy,.ended{color:#b00}small{color:#666}";

const TITLES: [&str; 11] = [
    "task",
    "state",
    "age",
    "health",
    "cpu / limit",
    "memory / limit",
    "cache",
    "disk / limit",
    "io / s",
    "threads",
    "restarts, last failure",
];

fn fact(out: &mut String, name: &str, value: &str) -> fmt::Result {
    writeln!(out, "<tr><th>{}</th><td>{}</td></tr>", escaped(name), escaped(value))
}

impl Row {
    fn new((report, want, name): super::driver::SeenTask) -> Self {
        let TaskReport {
            id, status, restarts, last_failure, usage, ports, health, address, ..
        } = report;
        let (state, pid, since) = match &status {
            TaskStatus::Fetching { .. } => ("fetching packages", None, None),
            TaskStatus::Starting => ("starting", None, None),
            TaskStatus::Up { pid, since } => ("up", Some(*pid), Some(since.0)),
            TaskStatus::BackOff { .. } => ("back-off", None, None),
            TaskStatus::Stopping => ("stopping", None, None),
            TaskStatus::Ended { at, .. } => ("ended", None, Some(at.0)),
        };
        let limit = want.as_ref().map(|want| want.spec.limit.clone());
        let window = usage.window.map(|window| Window {
            since_ms: window.since.0,
            cpu_milli: window.cpu_milli.into(),
            ram_bytes: window.ram_bytes.into(),
        });
        Self {
            task: name.as_ref().map(ToString::to_string),
            name,
            incarnation: id.number,
            state,
            pid,
            since_ms: since,
            health: Some(health).filter(|health| *health != Health::Unchecked),
            appclass: want.as_ref().map(|want| match want.appclass {
                borg_proto::AppClass::LatencySensitive => "latency-sensitive",
                borg_proto::AppClass::Batch => "batch",
            }),
            priority: want.as_ref().map(|want| want.priority.get()),
            cpu_milli: usage.cpu_milli,
            cpu_limit_milli: limit.as_ref().map(|limit| limit.cpu_milli),
            ram_bytes: usage.ram_bytes,
            ram_limit_bytes: limit.as_ref().map(|limit| limit.ram_bytes),
            cache_bytes: usage.cache_bytes,
            disk_bytes: usage.disk_bytes,
            disk_limit_bytes: limit.as_ref().map(|limit| limit.disk_bytes),
            io_bytes: usage.io_bytes,
            io_ops: usage.io_ops,
            threads: usage.threads,
            restarts,
            ports,
            address,
            loosened: want.as_ref().map(|want| want.spec.loosen.clone()).unwrap_or_default(),
            last_failure: last_failure.map(|cause| cause.to_string()),
            window,
        }
    }

    fn write_html(&self, now_ms: u64, out: &mut String) -> fmt::Result {
        let name = self.task.as_deref().unwrap_or("not known yet");
        let limit =
            |amount: Option<u64>, told: fn(u64) -> String| amount.map_or_else(|| "?".into(), told);
        let age = self.since_ms.map_or_else(String::new, |since| age(now_ms.saturating_sub(since)));
        let health = self.health.map_or_else(String::new, |health| health.to_string());
        write!(out, "<tr><td>{} <small>{}", escaped(name), self.incarnation)?;
        if !self.loosened.is_empty() {
            write!(out, ", without: {}", privilege::list(&self.loosened))?;
        }
        write!(out, "</small></td>")?;
        write!(out, "<td class=\"{0}\">{0}</td><td>{age}</td>", self.state)?;
        write!(out, "<td class=\"{health}\">{health}</td>")?;
        let numbers = [
            format!("{} / {}", cores(self.cpu_milli), limit(self.cpu_limit_milli, cores)),
            format!("{} / {}", size(self.ram_bytes), limit(self.ram_limit_bytes, size)),
            size(self.cache_bytes),
            format!("{} / {}", size(self.disk_bytes), limit(self.disk_limit_bytes, size)),
            format!("{}, {}", size(self.io_bytes), self.io_ops),
            self.threads.to_string(),
        ];
        for number in numbers {
            write!(out, "<td class=\"n\">{number}</td>")?;
        }
        let failure = self.last_failure.as_deref().unwrap_or_default();
        writeln!(out, "<td>{} {}</td></tr>", self.restarts, escaped(failure))
    }
}

/// A figure of each task.
struct Metric {
    name: &'static str,
    help: &'static str,
    value: fn(&Row) -> Option<f64>,
}

const METRICS: [Metric; 12] = [
    Metric {
        name: "up",
        help: "Whether the task's process runs",
        value: |r| Some(truth(r.state == "up")),
    },
    Metric {
        name: "healthy",
        help: "Whether its health check says that it works; only of tasks with one",
        value: |r| r.health.map(|health| truth(health == Health::Healthy)),
    },
    Metric {
        name: "cpu_cores",
        help: "Processors that it used over the last second",
        value: |r| Some(thousandths(r.cpu_milli)),
    },
    Metric {
        name: "cpu_limit_cores",
        help: "Processors that it asked for",
        value: |r| r.cpu_limit_milli.map(thousandths),
    },
    Metric {
        name: "memory_bytes",
        help: "Memory that could not be given back at once",
        value: |r| Some(float(r.ram_bytes)),
    },
    Metric {
        name: "memory_limit_bytes",
        help: "Memory that it asked for",
        value: |r| r.ram_limit_bytes.map(float),
    },
    Metric {
        name: "cache_bytes",
        help: "Page cache that could be given back at once",
        value: |r| Some(float(r.cache_bytes)),
    },
    Metric {
        name: "disk_bytes",
        help: "Room that its files take on disk",
        value: |r| Some(float(r.disk_bytes)),
    },
    Metric {
        name: "io_bytes_per_second",
        help: "Bytes read from and written to disks",
        value: |r| Some(float(r.io_bytes)),
    },
    Metric {
        name: "io_operations_per_second",
        help: "Reads and writes of disks",
        value: |r| Some(float(r.io_ops)),
    },
    Metric {
        name: "threads",
        help: "Processes and threads",
        value: |r| Some(f64::from(r.threads)),
    },
    Metric {
        name: "restarts",
        help: "How often this machine started the incarnation again",
        value: |r| Some(f64::from(r.restarts)),
    },
];

impl Metric {
    fn write<'a>(
        &self,
        cell: &CellName,
        series: impl Iterator<Item = (&'a &'a TaskName, f64)>,
        out: &mut String,
    ) -> fmt::Result {
        let Self { name, help, .. } = self;
        writeln!(out, "# HELP borglet_task_{name} {help}.\n# TYPE borglet_task_{name} gauge")?;
        // Names have no character that would end a label's value.
        for (task, value) in series {
            let (user, job, index) = (&task.job.user, &task.job.name, task.index);
            writeln!(
                out,
                "borglet_task_{name}{{cell=\"{cell}\",user=\"{user}\",job=\"{job}\",index=\"{index}\"}} {value}"
            )?;
        }
        Ok(())
    }
}

fn truth(value: bool) -> f64 {
    f64::from(u8::from(value))
}

#[expect(clippy::cast_precision_loss, reason = "a figure for charts")]
fn float(value: u64) -> f64 {
    value as f64
}

fn thousandths(value: u64) -> f64 {
    float(value) / 1000.0
}

fn cores(milli: u64) -> String {
    format!("{}.{:02}", milli / 1000, milli % 1000 / 10)
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut amount, mut unit) = (bytes, 0);
    while amount >= 10_240 && unit + 1 < UNITS.len() {
        (amount, unit) = (amount / 1024, unit + 1);
    }
    format!("{amount} {}", UNITS[unit])
}

fn age(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// Text as it may stand between tags and in quoted attributes.
fn escaped(text: &(impl Display + ?Sized)) -> String {
    let mut out = String::new();
    for c in text.to_string().chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::poll::Usage;
    use borg_proto::{FailureCause, IncarnationId, JobId, TaskId};

    fn task(number: u32, health: Health) -> super::super::driver::SeenTask {
        let report = TaskReport {
            id: IncarnationId { task: TaskId { job: JobId(1), index: 3 }, number },
            status: TaskStatus::Up { pid: 7, since: Millis(1_000) },
            restarts: 2,
            last_failure: Some(FailureCause::unhealthy("<script>alert('&\"')</script>")),
            usage: Usage { cpu_milli: 1_230, ram_bytes: 64 << 20, threads: 5, ..Usage::default() },
            ports: vec![80],
            health,
            status_line: String::new(),
            last_run: None,
            start: None,
            address: None,
        };
        (report, None, Some("ann/web/3".parse().unwrap()))
    }

    fn page() -> Page {
        let info = MachineInfo {
            capacity: Resources { cpu_milli: 2_000, ..Resources::default() },
            first_port: 1,
            attributes: BTreeMap::from([("rack".into(), "<b>r1</b>".into())]),
            boot_id: String::new(),
            missing_isolation: vec!["no \"cpu\"".into()],
            task_host: String::new(),
        };
        let tasks = vec![task(1, Health::Unchecked), task(2, Health::Healthy)];
        let seen = Seen { info, tasks };
        Page::new("lab".parse().unwrap(), "m1".parse().unwrap(), Millis(61_000), seen)
    }

    #[test]
    fn what_others_wrote_cannot_become_a_part_of_the_page() {
        let html = page().html();
        assert!(!html.contains("<script") && !html.contains("<b>"), "{html}");
        for part in
            ["&lt;script&gt;", "&lt;b&gt;r1", "no &quot;cpu&quot;", "ann/web/3", "60 s", "1.23 / ?"]
        {
            assert!(html.contains(part), "{part} is not in {html}");
        }
    }

    #[test]
    fn of_two_incarnations_of_a_task_one_is_in_the_metrics() {
        let text = page().metrics();
        let series = "borglet_task_memory_bytes{cell=\"lab\",user=\"ann\",job=\"web\",index=\"3\"} 67108864\n";
        assert_eq!(text.matches("borglet_task_memory_bytes{").count(), 1);
        for part in [
            series,
            "index=\"3\"} 1.23\n",
            "borglet_task_healthy{",
            "# TYPE borglet_task_up gauge\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains("cpu_limit"), "nothing is said of what is not known");
    }

    #[test]
    fn the_json_form_has_everything_and_can_be_read() {
        let value: serde_json::Value = serde_json::from_str(&page().json()).unwrap();
        assert_eq!(value["tasks"][1]["health"], "healthy");
        assert_eq!(value["tasks"][0]["task"], "ann/web/3");
        assert_eq!(value["capacity"]["cpu_milli"], 2_000);
    }
}
