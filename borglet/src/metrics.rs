//! What a borglet counts, as Prometheus text.

use borglet_supervisor::Counts;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// The counters of one borglet. Handed to the parts that count; no globals, so that several
/// borglets fit in one test.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    /// Polls answered.
    pub(crate) polls: Counter,
    /// Connections to the address of the metrics that were closed at once.
    pub(crate) http_sent_away: Counter,
    /// Polls refused: stale, of another cell, or with a queue full.
    pub(crate) refused_polls: Counter,
    /// Containers started.
    pub(crate) starts: Counter,
    /// Containers that could not be started.
    pub(crate) failed_starts: Counter,
    /// Time from the decision to start until the process was there.
    pub(crate) start_seconds: Histogram,
    /// Runs that ended.
    pub(crate) exits: Counter,
    /// Runs killed for memory.
    pub(crate) out_of_memory: Counter,
    /// Bytes of task output sent to masters.
    pub(crate) log_bytes: Counter,
    /// Time that a start waited for packages.
    pub(crate) package_wait_seconds: Histogram,
    /// Time that a layer took to be unpacked.
    pub(crate) unpack_seconds: Histogram,
    /// Layers that could not be unpacked.
    pub(crate) failed_unpacks: Counter,
    /// Bytes of blobs that came, from masters and other machines.
    pub(crate) blob_bytes_in: Counter,
    /// Bytes of blobs that went to other machines.
    pub(crate) blob_bytes_out: Counter,
    tasks: Family<State, Gauge>,
    data_directories: Gauge,
    data_bytes: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

/// The metrics of one borglet with the registry that prints them.
#[derive(Debug)]
pub(crate) struct Exposition {
    registry: Registry,
}

impl Metrics {
    /// New metrics, all at zero, and what prints them.
    pub(crate) fn new() -> (Self, Exposition) {
        let metrics = Self {
            polls: Counter::default(),
            http_sent_away: Counter::default(),
            refused_polls: Counter::default(),
            starts: Counter::default(),
            failed_starts: Counter::default(),
            start_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 14)),
            exits: Counter::default(),
            out_of_memory: Counter::default(),
            log_bytes: Counter::default(),
            package_wait_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            unpack_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 20)),
            failed_unpacks: Counter::default(),
            blob_bytes_in: Counter::default(),
            blob_bytes_out: Counter::default(),
            tasks: Family::default(),
            data_directories: Gauge::default(),
            data_bytes: Gauge::default(),
        };
        metrics.set_tasks(Counts::default());
        let mut registry = Registry::with_prefix("borglet");
        let m = &metrics;
        registry.register("tasks", "Incarnations on this machine by state", m.tasks.clone());
        let help = "Directories of allocs on this machine";
        registry.register("data_directories", help, m.data_directories.clone());
        let help = "What directories of allocs take that no task uses";
        registry.register_with_unit("idle_data", help, Unit::Bytes, m.data_bytes.clone());
        registry.register("polls", "Polls answered", m.polls.clone());
        registry.register("refused_polls", "Polls refused", m.refused_polls.clone());
        let help = "Connections to the metrics' address that were too many";
        registry.register("http_connections_refused", help, m.http_sent_away.clone());
        registry.register("starts", "Containers started", m.starts.clone());
        registry.register(
            "failed_starts",
            "Containers that could not be started",
            m.failed_starts.clone(),
        );
        let start = m.start_seconds.clone();
        registry.register_with_unit("start", "Time from decision to process", Unit::Seconds, start);
        registry.register("exits", "Runs that ended", m.exits.clone());
        registry.register("out_of_memory", "Runs killed for memory", m.out_of_memory.clone());
        let bytes = m.log_bytes.clone();
        registry.register_with_unit("log", "Task output sent to masters", Unit::Bytes, bytes);
        let waits = m.package_wait_seconds.clone();
        let help = "Time that a start waited for packages";
        registry.register_with_unit("package_wait", help, Unit::Seconds, waits);
        let unpacks = m.unpack_seconds.clone();
        registry.register_with_unit("unpack", "Time to unpack a layer", Unit::Seconds, unpacks);
        let help = "Layers that could not be unpacked";
        registry.register("failed_unpacks", help, m.failed_unpacks.clone());
        let (came, went) = (m.blob_bytes_in.clone(), m.blob_bytes_out.clone());
        registry.register_with_unit("blob_in", "Blobs that came", Unit::Bytes, came);
        registry.register_with_unit("blob_out", "Blobs sent to machines", Unit::Bytes, went);
        (metrics, Exposition { registry })
    }

    /// How many directories of allocs there are, and what those take that no task uses.
    pub(crate) fn set_data(&self, (directories, bytes): (usize, u64)) {
        self.data_directories.set(i64::try_from(directories).unwrap_or(i64::MAX));
        self.data_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// How many incarnations are in which state.
    pub(crate) fn set_tasks(&self, counts: Counts) {
        let Counts { fetching, starting, up, back_off, stopping, ended } = counts;
        let all = [
            ("fetching", fetching),
            ("starting", starting),
            ("up", up),
            ("back_off", back_off),
            ("stopping", stopping),
            ("ended", ended),
        ];
        for (state, count) in all {
            self.tasks
                .get_or_create(&State { state })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

impl Exposition {
    /// All metrics in the Prometheus text format (version 0.0.4).
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String does not fail");
        borg_proto::rpc::prometheus_text(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_promtool_accepts() {
        let (metrics, exposition) = Metrics::new();
        metrics.polls.inc();
        let text = exposition.text();
        let polls = [
            "# HELP borglet_polls_total Polls answered.",
            "# TYPE borglet_polls_total counter",
            "borglet_polls_total 1",
        ];
        assert!(text.contains(&polls.join("\n")), "{text}");
        assert!(text.contains("# TYPE borglet_log_bytes_total counter"), "{text}");
        assert!(text.contains("borglet_tasks{state=\"up\"} 0"), "{text}");
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    }
}
