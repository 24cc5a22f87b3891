//! The GPU cell of Alibaba of 2023 (`openb-fgd/`): nodes, pods, and the published results of six
//! placement policies on them.
//!
//! A pod fits a node with cpu, memory, an allowed model of GPU and either `num_gpu` whole idle GPUs, or,
//! when it asks for less than one, a single GPU with `gpu_milli` free. `asks` is the one place that
//! says this in our words.

use super::common::{job_of, machine_of};
use super::rows::{Reading, Record, Shape};
use super::table::{Table, TableError};
use super::trace::MOST_MACHINES;
use crate::Error;
use borg_proto::spec::{Constraint, ConstraintOp};
use borg_proto::{JobSpec, MachineInfo, Resources};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The nine workloads, by the end of their files' names.
pub const WORKLOADS: [&str; 9] = [
    "default",
    "cpu050",
    "cpu200",
    "gpushare40",
    "gpushare80",
    "gpuspec10",
    "gpuspec25",
    "multigpu20",
    "multigpu40",
];
/// The device's name in our cell.
const GPU: &str = "gpu";
/// The attribute that tells a machine's model of GPU.
const MODEL: &str = "model";

/// What a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name in the file.
    pub name: String,
    /// Thousandths of a core.
    pub cpu_milli: u64,
    /// Memory in MiB; one pod of the data asks for none.
    pub memory_mib: u64,
    /// How many GPUs, 0 for none.
    pub num_gpu: u64,
    /// Thousandths of each; under 1,000 only when it is one.
    pub gpu_milli: u64,
    /// Models that will do; empty means any.
    pub models: Vec<String>,
}

impl Pod {
    /// Thousandths of GPUs in all.
    #[must_use]
    pub fn gpus_milli(&self) -> u64 {
        self.num_gpu * self.gpu_milli
    }
}

/// Columns of what a pod asks for; the files of multigpu have no models.
const POD: [&str; 6] = ["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec?"];
const GPU_MILLI: usize = 4;

/// Reads a workload.
///
/// # Errors
/// When the file is not as published.
pub fn pods(path: &Path) -> Result<Vec<Pod>, Error> {
    let mut pods = Vec::new();
    Reading::new(false).table(path, &Shape::named(&POD), |row| {
        pods.push(pod(row)?);
        Ok(())
    })?;
    Ok(pods)
}

/// What a pod asks for, of a row whose first columns are [`POD`].
pub(super) fn pod(row: &Record<'_>) -> Result<Pod, TableError> {
    let models = row.text(5).split('|');
    let pod = Pod {
        name: row.text(0).to_owned(),
        cpu_milli: row.value(1, "thousandths of a core")?,
        memory_mib: row.value(2, "MiB of memory")?,
        num_gpu: row.value(3, "a number of GPUs")?,
        gpu_milli: row.value(GPU_MILLI, "thousandths of a GPU")?,
        models: models.filter(|model| !model.is_empty()).map(str::to_owned).collect(),
    };
    if pod.gpu_milli > 1_000 || (pod.gpu_milli < 1_000 && pod.num_gpu > 1) {
        return Err(row.field_error(GPU_MILLI, "1000, or less of one GPU"));
    }
    Ok(pod)
}

/// Reads the nodes.
///
/// # Errors
/// When the file is not as published.
pub fn nodes(path: &Path) -> Result<Vec<MachineInfo>, Error> {
    Ok(nodes_read(path, &mut Reading::new(false))?.into_iter().map(|(_, info)| info).collect())
}

/// Reads the nodes with their names.
pub(super) fn nodes_read(
    path: &Path,
    reading: &mut Reading,
) -> Result<Vec<(String, MachineInfo)>, TableError> {
    let shape = Shape::named(&["sn", "cpu_milli", "memory_mib", "gpu", "model"]);
    let mut machines = Vec::new();
    reading.table(path, &shape, |row| {
        let mib: u64 = row.value(2, "MiB of memory")?;
        let gpus: u64 = row.value(3, "a number of GPUs")?;
        let amounts = mib.checked_mul(1 << 20).zip(gpus.checked_mul(1_000));
        let (ram_bytes, gpus_milli) =
            amounts.ok_or_else(|| row.field_error(2, "amounts that a machine can have"))?;
        let capacity = Resources {
            cpu_milli: row.value(1, "thousandths of a core")?,
            ram_bytes,
            devices: BTreeMap::from([(GPU.into(), gpus_milli)]),
            ..Resources::default()
        };
        let attributes = BTreeMap::from([(MODEL.to_owned(), row.text(4).to_owned())]);
        if machines.len() == MOST_MACHINES {
            return Err(row.field_error(0, format!("one of at most {MOST_MACHINES} machines")));
        }
        machines.push((row.text(0).to_owned(), machine_of(capacity, attributes)));
        Ok(())
    })?;
    Ok(machines)
}

/// Thousandths of all GPUs of these machines.
#[must_use]
pub fn gpus_milli(machines: &[MachineInfo]) -> u64 {
    machines.iter().filter_map(|m| m.capacity.devices.get(GPU)).sum()
}

/// A pod as a job of one task.
///
/// # Errors
/// When the pod is none that a cell would take.
pub fn job(pod: &Pod, name: &str) -> Result<Arc<JobSpec>, Error> {
    let mut spec = job_of(name, 1, asks(pod))?;
    if !pod.models.is_empty() {
        Arc::make_mut(&mut spec.task).constraints.push(Constraint {
            attribute: MODEL.to_owned(),
            op: ConstraintOp::In,
            values: pod.models.clone(),
            soft: false,
        });
    }
    spec.check()?;
    Ok(Arc::new(spec))
}

/// The amounts that a pod asks for. Under 1,000 thousandths of a device are of a single one, from there on
/// whole idle ones are meant: the published rule is the cell's own.
fn asks(pod: &Pod) -> Resources {
    let gpus = (pod.gpus_milli() > 0).then(|| (GPU.into(), pod.gpus_milli()));
    Resources {
        cpu_milli: pod.cpu_milli,
        ram_bytes: pod.memory_mib << 20,
        devices: gpus.into_iter().collect(),
        ..Resources::default()
    }
}

/// Published results: the share of all GPUs that was allocated, in percent, by workload and policy:
/// means of ten seeds, when the demand that arrived was 100 % and 130 % of the cell.
pub type Published = BTreeMap<(String, String), [f64; 2]>;

/// Reads `analysis_allo_discrete.csv`.
///
/// # Errors
/// When the file is not as published.
pub fn published(path: &Path) -> Result<Published, Error> {
    let table = Table::read(path, ',')?;
    let (workload, policy) = (table.column("workload")?, table.column("sc_policy")?);
    let at = [table.column("100")?, table.column("130")?];
    let mut sums = BTreeMap::<_, ([f64; 2], f64)>::new();
    for row in table.rows() {
        let name = row.text(workload).trim_start_matches("openb_pod_list_").to_owned();
        let entry = sums.entry((name, row.text(policy).to_owned())).or_default();
        for (sum, column) in entry.0.iter_mut().zip(at) {
            *sum += row.value::<f64>(column, "a percentage")?;
        }
        entry.1 += 1.0;
    }
    Ok(sums.into_iter().map(|(key, (sums, runs))| (key, sums.map(|sum| sum / runs))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_becomes_a_task_with_its_share_of_gpus_and_its_models() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pods.csv");
        let text = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
                    a,6000,0,1,460,T4|P100\nb,1000,1024,4,1000,\n";
        std::fs::write(&file, text).unwrap();
        let pods = pods(&file).unwrap();
        let first = job(&pods[0], "a").unwrap();
        assert_eq!(first.task.limit.devices["gpu"], 460);
        assert_eq!(first.task.constraints[0].to_string(), "model in T4 P100");
        let second = job(&pods[1], "b").unwrap();
        assert_eq!(second.task.limit.devices["gpu"], 4_000);
        assert!(second.task.constraints.is_empty());
        std::fs::write(&file, text.replace("4,1000", "4,500")).unwrap();
        let wrong = super::pods(&file).unwrap_err().to_string();
        assert!(wrong.contains("pods.csv:3: column gpu_milli: \"500\" is not 1000"), "{wrong}");
    }
}
