//! `rescue`: what allocs left behind on machines, and what becomes of it.

use super::history::say_when;
use super::names;
use crate::client::{Client, Kind};
use crate::clock;
use crate::exit::{Code, Failure};
use crate::output::kept::{KeptData, KeptList};
use crate::output::views::Read;
use crate::output::{Output, age};
use borg_proto::wire::pb;
use clap::Args;

#[derive(Debug, Args)]
pub(super) struct RescueArgs {
    /// The alloc, as SET/INDEX or USER/SET/INDEX; without one, everything that is kept is listed
    alloc: Option<String>,
    /// Make a run of the alloc set's log saver now, or let the one that waits for its back-off wait no longer
    #[arg(long, requires = "alloc", conflicts_with = "drop")]
    now: bool,
    /// Give it up: what is there is removed
    #[arg(long, requires = "alloc")]
    drop: bool,
    /// Of several things that the alloc left behind the one of this number
    #[arg(long, value_name = "N", requires = "alloc")]
    number: Option<u64>,
}

impl RescueArgs {
    /// Whether it changes nothing.
    pub(super) const fn only_shows(&self) -> bool {
        !self.now && !self.drop
    }
}

pub(super) async fn run(client: &mut Client, args: RescueArgs, out: Output) -> Result<(), Failure> {
    let alloc = args.alloc.as_ref().map(|text| names::task(text, client.user())).transpose()?;
    let alloc = alloc.map(|alloc| alloc.to_string());
    match alloc {
        Some(alloc) if !args.only_shows() => change(client, &args, alloc, out).await,
        alloc => list(client, &args, alloc, out).await,
    }
}

async fn change(
    client: &mut Client,
    args: &RescueArgs,
    alloc: String,
    out: Output,
) -> Result<(), Failure> {
    let (number, drop) = (args.number.unwrap_or(0), args.drop);
    let message = pb::RescueDataRequest {
        alloc: alloc.clone(),
        number,
        drop,
        request_id: client.request_id(),
    };
    let what = format!("what alloc {alloc} left behind");
    let answer = client
        .call(&what, Kind::Change, message, async |mut to, request| to.rescue_data(request).await);
    let pb::RescueDataResponse { index } = answer.await?;
    if out.is_json() {
        return out
            .json(&serde_json::json!({ "alloc": alloc, "drop": drop, "index": index }), false);
    }
    out.line(&match drop {
        true => format!("{what} is dropped"),
        false => format!("{what} is rescued as soon as no task uses it: borgctl rescue follows it"),
    })
}

async fn list(
    client: &mut Client,
    args: &RescueArgs,
    alloc: Option<String>,
    out: Output,
) -> Result<(), Failure> {
    let message = pb::ListKeptDataRequest { user: String::new() };
    let answer = client
        .call("kept data", Kind::Read, message, async |mut from, request| {
            from.list_kept_data(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let (read, mut kept) = (answer.read, KeptList::from(answer));
    kept.kept.retain(|one| {
        alloc.as_ref().is_none_or(|alloc| one.alloc == *alloc)
            && args.number.is_none_or(|number| one.number == number)
    });
    if let Some(alloc) = alloc.filter(|_| kept.kept.is_empty()) {
        return Err(Failure::new(Code::NotFound, format!("nothing is kept of alloc {alloc}")));
    }
    if out.is_json() {
        return out.json(&Read::of(read, &kept), false);
    }
    if kept.kept.is_empty() {
        return out.line("nothing is kept of any alloc");
    }
    let now = if kept.now_ms > 0 { kept.now_ms } else { clock::now().0 };
    out.table(TITLES, kept.kept.iter().map(|one| row(one, now)))
}

const TITLES: [&str; 7] = ["number", "alloc", "machine", "MiB", "kept for", "goes in", "state"];

fn row(one: &KeptData, now: u64) -> [String; 7] {
    const MIB: u64 = 1 << 20;
    [
        one.number.to_string(),
        one.alloc.clone(),
        one.machine.clone(),
        one.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.div_ceil(MIB).to_string()),
        age(now.saturating_sub(one.since_ms)),
        age(one.until_ms.saturating_sub(now)),
        one.note.clone(),
    ]
}
