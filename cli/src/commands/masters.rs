//! `masters`: list them, and add, replace and remove some.

use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::views::Master;
use crate::output::{Output, note};
use borg_proto::wire::{check_address, pb};
use clap::Subcommand;
use std::str::FromStr;
use std::time::Duration;

/// Time between two looks at a change that goes on.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(super) struct MastersArgs {
    #[command(subcommand)]
    command: Option<MastersCommand>,
}

#[derive(Debug, Subcommand)]
enum MastersCommand {
    /// List the masters (the default)
    List,
    /// Let one more master join: then start its process, with the certificate of that number
    Add {
        /// Its number and where the others will reach it, N=HOST:PORT
        master: NewMaster,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let a new master take the place of one, dead or alive
    Replace {
        /// The number of the one that goes
        old: u64,
        /// The number of the one that comes and where the others will reach it, N=HOST:PORT
        new: NewMaster,
        #[command(flatten)]
        wait: Wait,
    },
    /// Take a master out of the cell, or take an invitation back
    Remove {
        /// Its number
        master: u64,
        #[command(flatten)]
        wait: Wait,
    },
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct Wait {
    /// Wait until the change is complete
    #[arg(long)]
    wait: bool,
}

/// `N=HOST:PORT`.
#[derive(Debug, Clone)]
struct NewMaster {
    number: u64,
    address: String,
}

impl FromStr for NewMaster {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not N=HOST:PORT");
        let (number, address) = text.split_once('=').ok_or_else(wrong)?;
        let number = number.parse().map_err(|_| wrong())?;
        check_address(text, address).map_err(|error| error.to_string())?;
        Ok(Self { number, address: address.to_owned() })
    }
}

pub(super) async fn run(
    client: &mut Client,
    args: MastersArgs,
    out: Output,
) -> Result<(), Failure> {
    match args.command {
        None | Some(MastersCommand::List) => list(client, out).await,
        Some(MastersCommand::Add { master, wait }) => invite(client, master, None, wait, out).await,
        Some(MastersCommand::Replace { old, new, wait }) => {
            invite(client, new, Some(old), wait, out).await
        }
        Some(MastersCommand::Remove { master, wait }) => {
            let message =
                pb::RemoveMasterRequest { number: master, request_id: client.request_id() };
            let what = format!("remove master {master}");
            let index = client
                .call(&what, Kind::Change, message, async |mut to, request| {
                    to.remove_master(request).await
                })
                .await?
                .index;
            if wait.wait {
                until_settled(client, index, out).await?;
            }
            say(out, index, &format!("master {master} leaves the cell"))
        }
    }
}

async fn invite(
    client: &mut Client,
    new: NewMaster,
    replaces: Option<u64>,
    wait: Wait,
    out: Output,
) -> Result<(), Failure> {
    let NewMaster { number, address } = new;
    let message = pb::InviteMasterRequest {
        number,
        address: address.clone(),
        replaces: replaces.unwrap_or(0),
        request_id: client.request_id(),
    };
    let what = match replaces {
        None => format!("add master {number}"),
        Some(old) => format!("replace master {old}"),
    };
    let index = client
        .call(&what, Kind::Change, message, async |mut to, request| to.invite_master(request).await)
        .await?
        .index;
    let place = replaces.map_or_else(String::new, |old| format!(" in the place of master {old}"));
    let text = format!("master {number} at {address} may join{place}: start its process now");
    if !wait.wait {
        return say(out, index, &text);
    }
    if out.is_terminal() {
        note(&text);
    }
    until_settled(client, index, out).await?;
    say(out, index, &format!("master {number} votes{place}"))
}

fn say(out: Output, index: u64, text: &str) -> Result<(), Failure> {
    if out.is_json() {
        out.json(&serde_json::json!({ "index": index }), false)
    } else {
        out.line(text)
    }
}

/// Waits until no master is on its way in or out, after the change of that index.
async fn until_settled(client: &mut Client, index: u64, out: Output) -> Result<(), Failure> {
    let mut told = String::new();
    loop {
        let answer = ask(client).await?;
        if answer.read.is_none_or(|read| read.index < index) {
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        let masters: Vec<Master> = answer.masters.into_iter().map(Master::from).collect();
        let moving: Vec<String> = masters
            .iter()
            .filter(|master| !matches!(master.standing.as_str(), "voting" | ""))
            .map(|master| format!("master {} is {}", master.name(), master.standing))
            .collect();
        if moving.is_empty() && masters.iter().any(|master| master.standing == "voting") {
            return Ok(());
        }
        let text = moving.join(", ");
        if out.is_terminal() && text != told {
            note(&text);
            told = text;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn ask(client: &mut Client) -> Result<pb::ListMastersResponse, Failure> {
    let message = pb::ListMastersRequest {};
    let answer = client
        .call("masters", Kind::Read, message, async |mut master, request| {
            master.list_masters(request).await
        })
        .await?;
    if answer.masters.is_empty() {
        return Err(Failure::new(Code::Internal, "masters: the answer names none"));
    }
    Ok(answer)
}

async fn list(client: &mut Client, out: Output) -> Result<(), Failure> {
    let answer = ask(client).await?;
    let masters: Vec<Master> = answer.masters.into_iter().map(Master::from).collect();
    if out.is_json() {
        return out.json(&masters, false);
    }
    super::machines::explain_safe_mode(answer.safe_mode, crate::clock::now().0);
    let rows = masters.into_iter().map(|master| {
        let role = match (master.reachable, master.leader, master.standing.as_str()) {
            (_, _, standing @ ("invited" | "joining" | "leaving")) => standing,
            (false, _, _) => "away",
            (true, true, _) => "leader",
            (true, false, _) => "follower",
        };
        let role = role.to_owned();
        let known = |text: String| if master.reachable { text } else { "-".into() };
        [
            master.name(),
            master.address.clone(),
            role,
            known(master.term.to_string()),
            known(master.applied_index.to_string()),
            known(master.machines_polled.to_string()),
            known(master.pid.to_string()),
            master.note.clone(),
        ]
    });
    out.table(["master", "address", "role", "term", "applied", "machines", "pid", "note"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_master_is_a_number_and_an_address() {
        let new: NewMaster = "6=host-6:9000".parse().unwrap();
        assert_eq!((new.number, new.address.as_str()), (6, "host-6:9000"));
        assert_eq!("six".parse::<NewMaster>().unwrap_err(), "\"six\" is not N=HOST:PORT");
    }
}
