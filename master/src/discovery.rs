//! Targets for Prometheus, which asks `/sd` again and again what it has to scrape: its HTTP service discovery.
//!
//! Every port of every task that runs, healthy or not, with what is known of it as labels; who wants fewer says
//! which job, user or port. Prometheus goes on with what it had while it gets no answer, so that a master whose
//! state may be too old says 503 and does no harm.
//!
//! Invariant: one answer is made at a time, beside the threads that serve users, and none is larger than
//! [`MOST_TARGETS`].

use crate::clock;
use crate::feed::View;
use crate::freshness::Freshness;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use borg_cell::bns::Host;
use borg_cell::state::{CellState, Job};
use borg_proto::names::{NameError, PortName};
use borg_proto::{JobKey, Millis, UserName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// Most targets of an answer, which has 30 MB then. 100,000: our choice, more than a Prometheus scrapes.
const MOST_TARGETS: usize = 100_000;

/// What targets are found in.
#[derive(Debug, Clone)]
pub(crate) struct Discovery {
    view: watch::Receiver<View>,
    fresh: Freshness,
    max_age: Millis,
    turn: Arc<Semaphore>,
}

impl Discovery {
    /// From the newest view, as long as it is no older than that.
    pub(crate) fn new(view: watch::Receiver<View>, fresh: Freshness, max_age: Millis) -> Self {
        Self { view, fresh, max_age, turn: Arc::new(Semaphore::new(1)) }
    }
}

/// Which targets are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    /// `USER/JOB`.
    job: Option<String>,
    user: Option<String>,
    /// A port's name.
    port: Option<String>,
}

/// The same, understood.
#[derive(Debug, Default)]
struct Wanted {
    job: Option<JobKey>,
    user: Option<UserName>,
    port: Option<PortName>,
}

impl Wanted {
    fn read(asked: &Asked) -> Result<Self, String> {
        fn field<T>(name: &str, text: Option<&String>) -> Result<Option<T>, String>
        where
            T: std::str::FromStr<Err = NameError>,
        {
            let read = |text: &String| text.parse().map_err(|why| format!("{name}: {why}\n"));
            text.map(read).transpose()
        }
        Ok(Self {
            job: field("job", asked.job.as_ref())?,
            user: field("user", asked.user.as_ref())?,
            port: field("port", asked.port.as_ref())?,
        })
    }

    fn has(&self, job: &Job) -> bool {
        self.job.as_ref().is_none_or(|key| *key == job.key)
            && self.user.as_ref().is_none_or(|user| *user == job.key.user)
    }
}

/// One target, as Prometheus reads it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Target {
    targets: [String; 1],
    labels: BTreeMap<&'static str, String>,
}

/// Answers `/sd`.
pub(crate) async fn targets(
    State(found_in): State<Discovery>,
    Query(asked): Query<Asked>,
) -> Response {
    let wanted = match Wanted::read(&asked) {
        Ok(wanted) => wanted,
        Err(why) => return (StatusCode::BAD_REQUEST, why).into_response(),
    };
    let Ok(_turn) = found_in.turn.acquire().await else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    if !found_in.fresh.is_within(clock::now(), found_in.max_age) {
        let why = "this master's state may be too old: ask another one\n";
        return (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    }
    let state = found_in.view.borrow().state.clone();
    let json = move || {
        let found = find(&state, &wanted)?;
        Some(serde_json::to_vec(&found).expect("texts have a JSON form"))
    };
    match tokio::task::spawn_blocking(json).await {
        Ok(Some(json)) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Ok(None) => {
            let why =
                format!("more than {MOST_TARGETS} targets: ask for a job, a user or a port\n");
            (StatusCode::UNPROCESSABLE_ENTITY, why).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The targets, by job and task; `None` when there are too many.
fn find(state: &CellState, wanted: &Wanted) -> Option<Vec<Target>> {
    let mut found = Vec::new();
    let jobs: Vec<&Job> = match &wanted.job {
        Some(key) => state.job_named(key).into_iter().collect(),
        None => state.jobs().collect(),
    };
    for job in jobs.into_iter().filter(|job| job.is_alive() && wanted.has(job)) {
        // Most jobs have no ports at all.
        let mut names = job.versions().flat_map(|version| &version.spec.task.ports);
        if names.any(|name| wanted.port.as_ref().is_none_or(|port| port == name)) {
            add(state, job, wanted, &mut found);
        }
        if found.len() > MOST_TARGETS {
            return None;
        }
    }
    Some(found)
}

fn add(state: &CellState, job: &Job, wanted: &Wanted, found: &mut Vec<Target>) {
    for (id, task) in state.tasks_of(job.id) {
        let Some(place) = state.place(job, id.index).filter(|place| place.runs) else { continue };
        let host = match place.host {
            Host::Name("") => continue,
            Host::Address(IpAddr::V6(address)) => format!("[{address}]"),
            host @ (Host::Address(IpAddr::V4(_)) | Host::Name(_)) => host.to_string(),
        };
        let machine = task.placement().and_then(|placement| state.machine(placement.machine));
        let machine = machine.map(|machine| machine.name.to_string()).unwrap_or_default();
        for (name, port) in job.task_spec(id.index).ports.iter().zip(place.ports) {
            if wanted.port.as_ref().is_some_and(|wanted| wanted != name) {
                continue;
            }
            let labels = BTreeMap::from([
                ("__meta_borg_cell", state.cell().to_string()),
                ("__meta_borg_user", job.key.user.to_string()),
                ("__meta_borg_job", job.key.name.to_string()),
                ("__meta_borg_task", id.index.to_string()),
                ("__meta_borg_machine", machine.clone()),
                ("__meta_borg_port_name", name.to_string()),
                ("__meta_borg_health", place.health.to_string()),
            ]);
            found.push(Target { targets: [format!("{host}:{port}")], labels });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::{Cell, PORTS, batch, service, with_task};

    fn cell() -> Cell {
        let mut cell = Cell::new();
        let machine = cell.machine("m-1", 10_000, 1 << 30);
        for name in ["web", "api"] {
            let spec = with_task(service(name, 2, 100, 4 << 20), |task| {
                task.ports = ["http", "admin"].map(|port| port.parse().unwrap()).to_vec();
            });
            let job = cell.submit("ann", spec);
            for index in 0..2 {
                let id = cell.place(job, index, machine).unwrap();
                if index == 0 {
                    cell.up(id);
                }
            }
        }
        let job = cell.submit("bob", batch("count", 1, 100, 4 << 20));
        let id = cell.place(job, 0, machine).unwrap();
        cell.up(id);
        cell
    }

    fn shown(
        cell: &Cell,
        job: Option<&str>,
        user: Option<&str>,
        port: Option<&str>,
    ) -> Vec<String> {
        let [job, user, port] = [job, user, port].map(|text| text.map(str::to_owned));
        let wanted = Wanted::read(&Asked { job, user, port }).unwrap();
        let found = find(&cell.state, &wanted).unwrap();
        let show = |target: &Target| {
            let labels = &target.labels;
            let label = |name| labels[name].as_str();
            format!(
                "{}/{} {}",
                label("__meta_borg_job"),
                label("__meta_borg_task"),
                label("__meta_borg_port_name")
            )
        };
        found.iter().map(show).collect()
    }

    #[test]
    fn each_port_of_each_task_that_runs_is_a_target_and_filters_leave_out_the_others() {
        let cell = cell();
        assert_eq!(
            shown(&cell, None, None, None),
            ["web/0 http", "web/0 admin", "api/0 http", "api/0 admin"]
        );
        assert_eq!(shown(&cell, Some("ann/api"), None, None), ["api/0 http", "api/0 admin"]);
        assert_eq!(shown(&cell, None, None, Some("admin")), ["web/0 admin", "api/0 admin"]);
        assert_eq!(shown(&cell, None, Some("bob"), None), [""; 0]);
        assert_eq!(shown(&cell, Some("ann/no"), None, None), [""; 0]);
        let bad = Wanted::read(&Asked { job: Some("web".into()), ..Asked::default() }).unwrap_err();
        assert!(bad.starts_with("job: ") && bad.contains("is not USER/JOB"), "{bad}");
        let asked = |job: &str| Asked { job: Some(job.into()), ..Asked::default() };
        assert!(Wanted::read(&asked("")).is_err(), "a name that is missing is not every name");
    }

    #[test]
    fn a_target_is_written_as_prometheus_reads_it() {
        let wanted = Wanted { port: Some("http".parse().unwrap()), ..Wanted::default() };
        let found = find(&cell().state, &wanted).unwrap();
        assert_eq!(
            serde_json::to_value(&found[0]).unwrap(),
            serde_json::json!({
                "targets": [format!("127.0.0.1:{}", PORTS.0)],
                "labels": {
                    "__meta_borg_cell": "lab", "__meta_borg_user": "ann", "__meta_borg_job": "web",
                    "__meta_borg_task": "0", "__meta_borg_machine": "m-1", "__meta_borg_port_name": "http",
                    "__meta_borg_health": "unchecked",
                },
            })
        );
    }
}
