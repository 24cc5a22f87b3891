//! The figures of packing: GPUs allocated in the published protocol on nine workloads, machines that
//! synthetic cells need, and instances on which First Fit is the published one.
//!
//! `BORG_FIGURES` names some of them, by the beginnings of their names and separated by commas, to
//! measure only these: `openb_default,triplet`. What takes hours is only measured by name: cells of
//! 10,000 machines.

use borg_benches::Error;
use borg_benches::figures::{figure, progress, step};
use borg_benches::packing::{arrivals, data, first_fit};
use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::compact::{Options, compact};
use borg_fauxmaster::sources::{common, openb};

/// Synthetic cells; the last ones only by name.
const CELLS: [&str; 4] = ["dev200", "dev1000", "dev1000b", "dev10000"];
/// How many of them are measured without being named.
const QUICK_CELLS: usize = 3;

fn main() -> Result<(), Error> {
    let only = std::env::var("BORG_FIGURES").unwrap_or_default();
    let named = |name: &str| only.split(',').any(|o| !o.is_empty() && name.starts_with(o));
    if (only.is_empty() || only.contains("triplet"))
        && let Some(folder) = found("vectorpack")
    {
        let compared = first_fit::triplet(&folder, usize::MAX)?;
        step(&format!(
            "First Fit on {} instances; {} have items of negative size",
            compared.all, compared.negative
        ));
        #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
        figure("packing.triplet_instances", compared.all as f64, "instances");
        #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
        figure("packing.triplet_first_fit_equal", compared.equal as f64, "instances");
    }
    for (n, cell) in CELLS.iter().enumerate() {
        for policy in Policy::ALL {
            let name = format!("synthetic_{cell}_{}_machines", policy.name);
            if !(named(&name) || (only.is_empty() && n < QUICK_CELLS)) {
                continue;
            }
            let Some(folder) = found(&format!("synthetic/{cell}")) else { continue };
            let read = common::read(&folder)?;
            let options = Options { policy, threads: 2, ..Options::default() };
            let compacted = compact(&read, &options, |kept| {
                step(&format!("  {} seed {}: {} machines", policy.name, kept.seed, kept.machines));
            })?;
            figure(&format!("packing.{name}"), compacted.p90(), "machines");
        }
    }
    for workload in openb::WORKLOADS {
        for policy in Policy::ALL {
            let name = format!("openb_{workload}_{}", policy.name);
            if !only.is_empty() && !named(&name) {
                continue;
            }
            let Some(folder) = found("openb-fgd") else { continue };
            let nodes = openb::nodes(&folder.join("openb_node_list_gpu_node.csv"))?;
            let pods = openb::pods(&folder.join(format!("openb_pod_list_{workload}.csv")))?;
            let mean = arrivals::mean(&nodes, &pods, policy, arrivals::SEEDS)?;
            figure(&format!("packing.{name}_pct"), mean.at_100, "pct");
            figure(&format!("packing.{name}_at130_pct"), mean.at_130, "pct");
            let published = openb::published(&folder.join("analysis_allo_discrete.csv"))?;
            for ((of, theirs), [at_100, at_130]) in &published {
                if of == workload {
                    step(&format!("  {workload} {theirs}: {at_100:.2}, at 130 % {at_130:.2}"));
                }
            }
        }
    }
    Ok(())
}

/// A folder of the data; says that what needs it is skipped where it is absent.
fn found(folder: &str) -> Option<std::path::PathBuf> {
    let path = data(folder);
    if path.is_none() {
        progress(&format!("skipped: no {folder} in the data"));
    }
    path
}
