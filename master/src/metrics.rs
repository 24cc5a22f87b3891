//! What a Borgmaster counts, in the Prometheus text format.

use crate::dns::DnsMetrics;
use borg_cell::event::{Event, EventKind, UpdateChange};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

/// The counters of one replica. Handed to the parts that count; no globals, so that five replicas
/// fit in one test.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Connections to the address of the metrics that were closed at once.
    pub http_sent_away: Counter,
    /// 1 while this replica leads.
    pub leading: Gauge,
    /// Raft term.
    pub term: Gauge,
    /// Last log entry applied.
    pub applied_index: Gauge,
    /// Changes proposed by clients, answered in any way.
    pub proposals: Counter,
    /// Changes that the state refused.
    pub refusals: Counter,
    /// Durable writes.
    pub log_writes: Counter,
    /// Time of one durable write.
    pub log_write_seconds: Histogram,
    /// How often the master of this number began anew without a log.
    pub life: Gauge,
    /// Time to write one checkpoint.
    pub checkpoint_seconds: Histogram,
    /// Size of the newest checkpoint's file.
    pub checkpoint_bytes: Gauge,
    /// Messages to other masters that were dropped because a queue was full.
    pub dropped_messages: Counter,
    /// What keeps the cell alive and was dropped because the driver's queue was full.
    pub dropped_inputs: Counter,
    /// Calls of users that were refused because too many waited.
    pub shed_calls: Counter,
    /// Calls of users that wait for the driver.
    pub waiting_calls: Gauge,
    /// Bytes of reports from this replica's shard to the leader, which may be this replica.
    pub report_bytes: Counter,
    /// Bytes of blobs that this replica keeps.
    pub blob_bytes: Gauge,
    /// Bytes of blobs that came, from users and other masters.
    pub blob_bytes_in: Counter,
    /// Bytes of blobs that went to machines and other masters.
    pub blob_bytes_out: Counter,
    /// Machines that the shard of this replica polls.
    pub polled_machines: Gauge,
    /// Machines that should answer and do not, while this replica leads.
    pub silent_machines: Gauge,
    /// 1 while nothing moves because much of the cell is silent.
    pub safe_mode: Gauge,
    /// Millicores that tasks hold and do not need, while this replica leads.
    pub lent_cpu: Gauge,
    /// Bytes of memory that tasks hold and do not need, while this replica leads.
    pub lent_ram: Gauge,
    /// Millicores that limits promise beyond what machines have, while this replica leads.
    pub reclaimed_cpu: Gauge,
    /// Bytes of memory that limits promise beyond what machines have, while this replica leads.
    pub reclaimed_ram: Gauge,
    /// Tasks that had to go because the room that they stood on was needed.
    pub reclaimed_tasks: Counter,
    /// Tasks waiting to be placed.
    pub pending_tasks: Gauge,
    /// Tasks on machines that are drained.
    pub leaving_tasks: Gauge,
    /// Tasks that are started elsewhere before they leave.
    pub replacing_tasks: Gauge,
    /// Tasks that were pushed out over a disruption budget, since the cell began.
    pub forced_disruptions: Gauge,
    /// Bytes written of what the scheduler was told and decided.
    pub recorded_bytes: Counter,
    /// Recordings of it that were cut off, as the disk did not take them.
    pub recordings_cut: Counter,
    /// Time of one scheduling pass.
    pub pass_seconds: Histogram,
    /// Placements proposed.
    pub placements: Counter,
    /// Jobs that the scheduler of this replica set aside because it panicked over them.
    pub jobs_aside: Gauge,
    /// Panics of the scheduler that this replica survived.
    pub scheduler_panics: Counter,
    /// Calls of the API.
    pub api_calls: Counter,
    /// What happened to updates of jobs.
    updates: Family<UpdateLabel, Counter>,
    /// What names are asked over DNS.
    pub dns: DnsMetrics,
    /// How old the state may be, as of the last look at `/metrics`; -1: not known.
    pub state_age: Gauge<f64, AtomicU64>,
    /// Watchers of names.
    pub name_watchers: Gauge,
    /// Endpoints that they watch together.
    pub watched_endpoints: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UpdateLabel {
    change: &'static str,
}

/// The metrics of one replica with the registry that prints them.
#[derive(Debug)]
pub(crate) struct Exposition {
    registry: Registry,
}

impl Metrics {
    /// New metrics, all at zero, and what prints them.
    #[must_use]
    pub(crate) fn new() -> (Self, Exposition) {
        let seconds = || Histogram::new(exponential_buckets(0.000_05, 2.0, 18));
        let metrics = Self {
            leading: Gauge::default(),
            term: Gauge::default(),
            applied_index: Gauge::default(),
            http_sent_away: Counter::default(),
            proposals: Counter::default(),
            refusals: Counter::default(),
            log_writes: Counter::default(),
            log_write_seconds: seconds(),
            life: Gauge::default(),
            checkpoint_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 18)),
            checkpoint_bytes: Gauge::default(),
            dropped_messages: Counter::default(),
            dropped_inputs: Counter::default(),
            shed_calls: Counter::default(),
            waiting_calls: Gauge::default(),
            report_bytes: Counter::default(),
            blob_bytes: Gauge::default(),
            blob_bytes_in: Counter::default(),
            blob_bytes_out: Counter::default(),
            polled_machines: Gauge::default(),
            silent_machines: Gauge::default(),
            safe_mode: Gauge::default(),
            lent_cpu: Gauge::default(),
            lent_ram: Gauge::default(),
            reclaimed_cpu: Gauge::default(),
            reclaimed_ram: Gauge::default(),
            reclaimed_tasks: Counter::default(),
            recorded_bytes: Counter::default(),
            recordings_cut: Counter::default(),
            pending_tasks: Gauge::default(),
            leaving_tasks: Gauge::default(),
            replacing_tasks: Gauge::default(),
            forced_disruptions: Gauge::default(),
            pass_seconds: seconds(),
            placements: Counter::default(),
            jobs_aside: Gauge::default(),
            scheduler_panics: Counter::default(),
            api_calls: Counter::default(),
            updates: Family::default(),
            dns: DnsMetrics::new(),
            state_age: Gauge::default(),
            name_watchers: Gauge::default(),
            watched_endpoints: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("borgmaster");
        let m = &metrics;
        registry.register("leading", "1 while this replica leads", m.leading.clone());
        registry.register("raft_term", "Raft term", m.term.clone());
        registry.register("applied_index", "Last log entry applied", m.applied_index.clone());
        let help = "Connections to the metrics' address that were too many";
        registry.register("http_connections_refused", help, m.http_sent_away.clone());
        registry.register("proposals", "Changes proposed by clients", m.proposals.clone());
        registry.register("refusals", "Changes that the state refused", m.refusals.clone());
        registry.register("log_writes", "Durable writes of the log", m.log_writes.clone());
        let write = m.log_write_seconds.clone();
        registry.register_with_unit("log_write", "Time of one durable write", Unit::Seconds, write);
        let what = "0 on a master's first log; else it lost that and began anew in this life";
        registry.register("life", what, m.life.clone());
        let checkpoint = m.checkpoint_seconds.clone();
        let what = "Time to write one checkpoint";
        registry.register_with_unit("checkpoint", what, Unit::Seconds, checkpoint);
        let bytes = m.checkpoint_bytes.clone();
        let what = "Size of the newest checkpoint's file";
        registry.register_with_unit("checkpoint", what, Unit::Bytes, bytes);
        let dropped = m.dropped_messages.clone();
        registry.register(
            "dropped_messages",
            "Messages to masters dropped at a full queue",
            dropped,
        );
        registry.register(
            "dropped_inputs",
            "Raft messages, ticks and reports dropped at a full queue",
            m.dropped_inputs.clone(),
        );
        registry.register(
            "shed_calls",
            "Calls refused because too many waited",
            m.shed_calls.clone(),
        );
        registry.register(
            "waiting_calls",
            "Calls that wait for the driver",
            m.waiting_calls.clone(),
        );
        registry.register(
            "report_bytes",
            "Bytes of reports from this replica's shard to the leader",
            m.report_bytes.clone(),
        );
        let (kept, came, went) =
            (m.blob_bytes.clone(), m.blob_bytes_in.clone(), m.blob_bytes_out.clone());
        registry.register_with_unit("blob_kept", "Blobs kept", Unit::Bytes, kept);
        registry.register_with_unit("blob_in", "Blobs that came", Unit::Bytes, came);
        registry.register_with_unit("blob_out", "Blobs sent", Unit::Bytes, went);
        let polled = m.polled_machines.clone();
        registry.register("polled_machines", "Machines that this replica polls", polled);
        let silent = m.silent_machines.clone();
        registry.register("silent_machines", "Machines silent, as the leader sees it", silent);
        let safe = "1 while nothing moves because much of the cell is silent";
        registry.register("safe_mode", safe, m.safe_mode.clone());
        for (name, what, gauge) in [
            ("lent_cpu_millicores", "Processor time that tasks hold and do not need", &m.lent_cpu),
            (
                "reclaimed_cpu_millicores",
                "Processor time that limits promise beyond what machines have",
                &m.reclaimed_cpu,
            ),
        ] {
            registry.register(name, what, gauge.clone());
        }
        for (name, what, gauge) in [
            ("lent_memory", "Memory that tasks hold and do not need", &m.lent_ram),
            (
                "reclaimed_memory",
                "Memory that limits promise beyond what machines have",
                &m.reclaimed_ram,
            ),
        ] {
            registry.register_with_unit(name, what, Unit::Bytes, gauge.clone());
        }
        let what = "Tasks that had to go as the room that they stood on was needed";
        registry.register("reclaimed_tasks", what, m.reclaimed_tasks.clone());
        registry.register("pending_tasks", "Tasks waiting to be placed", m.pending_tasks.clone());
        let what = "Tasks on machines that are drained";
        registry.register("leaving_tasks", what, m.leaving_tasks.clone());
        let what = "Tasks that are started elsewhere before they leave their machine";
        registry.register("replacing_tasks", what, m.replacing_tasks.clone());
        let what = "Tasks pushed out over a disruption budget since the cell began";
        registry.register("forced_disruptions", what, m.forced_disruptions.clone());
        let what = "What the scheduler was told and decided, as written to disk";
        registry.register_with_unit("recorded", what, Unit::Bytes, m.recorded_bytes.clone());
        let what = "Recordings of decisions that were cut off, as the disk did not take them";
        registry.register("recordings_cut", what, m.recordings_cut.clone());
        let pass = m.pass_seconds.clone();
        registry.register_with_unit(
            "scheduling_pass",
            "Time of one scheduling pass",
            Unit::Seconds,
            pass,
        );
        registry.register("placements", "Placements proposed", m.placements.clone());
        let what = "Jobs set aside as the scheduler panicked over them";
        registry.register("jobs_aside", what, m.jobs_aside.clone());
        let what = "Panics of the scheduler that did not end the process";
        registry.register("scheduler_panics", what, m.scheduler_panics.clone());
        registry.register("api_calls", "Calls of the API", m.api_calls.clone());
        let what = "Updates of jobs that began, were done, or were taken back, as this replica applied them";
        registry.register("updates", what, m.updates.clone());
        m.dns.register(&mut registry);
        let what = "Most that the state of this replica may be behind; -1 while nothing is known";
        registry.register_with_unit("state_age", what, Unit::Seconds, m.state_age.clone());
        let what = "Watchers of names at this replica";
        registry.register("name_watchers", what, m.name_watchers.clone());
        let what =
            "Endpoints that watchers of names at this replica watch, each counted for each of them";
        registry.register("watched_endpoints", what, m.watched_endpoints.clone());
        (metrics, Exposition { registry })
    }

    /// Counts what happened to updates of jobs.
    pub(crate) fn count_updates(&self, events: &[Event]) {
        for event in events {
            let EventKind::JobUpdated { change, .. } = &event.kind else { continue };
            let change = match change {
                UpdateChange::Begun => "begun",
                UpdateChange::RollsBack => "rolls_back",
                UpdateChange::Paused => "paused",
                UpdateChange::Resumed => "resumed",
                UpdateChange::CanaryGood => "canary_good",
                UpdateChange::Done => "done",
                UpdateChange::RolledBack => "rolled_back",
                UpdateChange::Closed => "closed",
            };
            self.updates.get_or_create(&UpdateLabel { change }).inc();
        }
    }
}

impl Exposition {
    /// All metrics in the Prometheus text format.
    #[must_use]
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        borg_proto::rpc::prometheus_text(&text)
    }
}
