//! `resize`: change the size of an alloc set.

use crate::client::{Client, Kind, request_id};
use crate::config::units;
use crate::exit::{Code, Failure};
use crate::output::Output;
use borg_proto::JobKey;
use borg_proto::names::shorten;
use borg_proto::wire::pb;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct ResizeArgs {
    /// USER/ALLOC_SET
    alloc_set: JobKey,
    /// How many allocs there are from now on; no fewer than before
    #[arg(long, value_name = "COUNT")]
    allocs: Option<u32>,
    /// Cores of each, as in 2 or 0.5
    #[arg(long, value_name = "CORES", value_parser = cores)]
    cpu: Option<u64>,
    /// Memory of each, as in 512MiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    ram: Option<u64>,
    /// Disk space of each, as in 10GiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
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

impl ResizeArgs {
    fn has_limit(&self) -> bool {
        self.cpu.is_some() || self.ram.is_some() || self.disk.is_some()
    }
}

/// What is not named stays as it is.
pub(super) async fn run(client: &mut Client, args: ResizeArgs, out: Output) -> Result<(), Failure> {
    let set = args.alloc_set.to_string();
    if args.allocs.is_none() && !args.has_limit() {
        let text = "nothing to change: give --allocs, --cpu, --ram or --disk";
        return Err(Failure::new(Code::Usage, text));
    }
    let limit = if args.has_limit() {
        let mut limit = limit_of(client, &set).await?;
        limit.cpu_milli = args.cpu.unwrap_or(limit.cpu_milli);
        limit.ram_bytes = args.ram.unwrap_or(limit.ram_bytes);
        limit.disk_bytes = args.disk.unwrap_or(limit.disk_bytes);
        Some(limit)
    } else {
        None
    };
    let message = pb::ResizeAllocsRequest {
        alloc_set: set.clone(),
        allocs: args.allocs,
        limit,
        request_id: request_id(),
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

/// How large the allocs are now.
async fn limit_of(client: &mut Client, set: &str) -> Result<pb::Resources, Failure> {
    let message = pb::GetJobRequest { job: set.to_owned() };
    let found = client
        .call("resize", Kind::Read, message, async |mut to, request| to.get_job(request).await);
    let limit = found.await?.spec.and_then(|spec| spec.task).and_then(|task| task.limit);
    Ok(limit.unwrap_or_default())
}
