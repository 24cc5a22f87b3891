//! `resize`: change the size of an alloc set.

use super::names;
use crate::client::{Client, Kind};
use crate::config::units;
use crate::exit::{Code, Failure};
use crate::output::Output;
use borg_proto::names::shorten;
use borg_proto::wire::pb;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct ResizeArgs {
    /// ALLOC_SET or USER/ALLOC_SET
    alloc_set: String,
    /// How many allocs there are from now on; no fewer than before
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    allocs: Option<u32>,
    /// Cores of each, as in 2 or 0.5
    #[arg(long, value_name = "CORES", value_parser = cores, allow_hyphen_values = true)]
    cpu: Option<u64>,
    /// Memory of each, as in 512MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_hyphen_values = true)]
    ram: Option<u64>,
    /// Disk space of each, as in 10GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes, allow_hyphen_values = true)]
    disk: Option<u64>,
}

fn cores(text: &str) -> Result<u64, String> {
    units::thousandths(text).map_err(|_| {
        format!("{:?} is not a number with at most three digits after the point", shorten(text))
    })
}

fn bytes(text: &str) -> Result<u64, String> {
    units::bytes(text).ok_or_else(|| format!("{:?} is not a size, as in 512MiB", shorten(text)))
}

/// What is not named stays as it is.
pub(super) async fn run(client: &mut Client, args: ResizeArgs, out: Output) -> Result<(), Failure> {
    let ResizeArgs { alloc_set, allocs, cpu, ram, disk } = args;
    if allocs.is_none() && [cpu, ram, disk].iter().all(Option::is_none) {
        let text = "nothing to change: give --allocs, --cpu, --ram or --disk";
        return Err(Failure::new(Code::Usage, text));
    }
    let set = names::job(&alloc_set, client.user())?.to_string();
    let message = pb::ResizeAllocsRequest {
        alloc_set: set.clone(),
        allocs,
        cpu_milli: cpu,
        ram_bytes: ram,
        disk_bytes: disk,
        request_id: client.request_id(),
    };
    let what = format!("resize {set}");
    let answer = client.call(&what, Kind::Change, message, async |mut to, request| {
        to.resize_allocs(request).await
    });
    let index = answer.await?.index;
    if out.is_json() {
        return out.json(&serde_json::json!({ "index": index }), false);
    }
    out.line(&format!("{set} has its new size"))
}
