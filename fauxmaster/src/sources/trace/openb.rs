//! Pods of the Alibaba GPU cluster of 2023, with the times at which they came and went.

use super::super::openb::{job, nodes_read, pod};
use super::super::rows::{Reading, Shape};
use super::super::workload::{Arrival, Runs};
use super::draft::{Draft, in_time, room};
use crate::Error;
use borg_proto::{Millis, UserName};
use std::collections::BTreeSet;
use std::path::Path;

/// Nodes, beside the pods.
const NODES: &str = "openb_node_list_all_node.csv";
/// Pods of a folder of which no file was named.
const PODS: &str = "openb_pod_list_default.csv";
const SHAPE: Shape = Shape::named(&[
    "name",
    "cpu_milli",
    "memory_mib",
    "num_gpu",
    "gpu_milli",
    "gpu_spec?",
    "creation_time",
    "deletion_time",
    "scheduled_time?",
]);
const NAME: usize = 0;
const CREATED: usize = 6;
const DELETED: usize = 7;
const SCHEDULED: usize = 8;
/// The trace has no users.
const OWNER: &str = "all";
/// What a time is.
const SECONDS: &str = "seconds from the beginning of the trace";

/// Pods of a file, or of the default workload of a folder; nodes are beside them.
pub(super) fn read(path: &Path, reading: &mut Reading) -> Result<Draft, Error> {
    let pods = if path.is_dir() { path.join(PODS) } else { path.to_owned() };
    let mut draft = Draft::new();
    for (name, info) in nodes_read(&pods.with_file_name(NODES), reading)? {
        draft.machine(&name, info.capacity, info.attributes);
    }
    let owner: UserName = OWNER.parse()?;
    let mut names = BTreeSet::new();
    let mut arrivals = Vec::new();
    let mut unplaced = 0;
    reading.table(&pods, &SHAPE, |row| {
        let pod = pod(row)?;
        let [at, until] = [CREATED, DELETED].map(|column| row.value::<u32>(column, SECONDS));
        let (at, until) = (at?, until?);
        let placed: Option<u32> = row.maybe(SCHEDULED, SECONDS)?;
        let second = |time: u32| Millis::from_secs(time.into());
        in_time(row, DELETED, second(until))?;
        if until < at {
            return Err(row.field_error(DELETED, "a time from creation_time on"));
        }
        let from = placed.unwrap_or(at);
        if !(at..=until).contains(&from) {
            return Err(row.field_error(SCHEDULED, "a time from creation_time to deletion_time"));
        }
        let spec = job(&pod, &pod.name)
            .map_err(|error| row.field_error(NAME, format!("a pod that a cell takes: {error}")))?;
        room(row, NAME, names.len())?;
        if !names.insert(pod.name.clone()) {
            return Err(row.field_error(NAME, "a name that no earlier line has"));
        }
        unplaced += u64::from(placed.is_none());
        let runs = Runs::Each(second(until - from).max(Millis(1)));
        arrivals.push((
            second(until),
            Arrival { at: second(at), owner: owner.clone(), spec, name: pod.name, runs },
        ));
        Ok(())
    })?;
    draft.tell("pods were never placed there: they run from creation to deletion", unplaced);
    for (until, arrival) in arrivals {
        draft.lasts(until);
        draft.arrive(arrival)?;
    }
    Ok(draft)
}
