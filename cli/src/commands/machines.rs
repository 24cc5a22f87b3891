//! `machines`, `machines give-up`, and `machine add`, `remove`, `keep`, `close` and `open`.

use super::history::say_when;
use super::install;
use crate::client::{Client, Kind};
use crate::clock;
use crate::exit::Failure;
use crate::output::views::{Machine, Read};
use crate::output::{Output, age, cores, note, size};
use borg_proto::command::MAX_GIVEN_UP;
use borg_proto::machine::MAX_KEPT_FOR;
use borg_proto::names::ReplicaId;
use borg_proto::wire::pb;
use borg_proto::{MachineName, NameError, UserName};
use clap::{Args, Subcommand};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

#[derive(Debug, Subcommand)]
pub(super) enum MachineCommand {
    /// Add a machine, or change where its borglet listens
    Add {
        /// Its name, which its borglet's certificate must carry
        name: MachineName,
        /// HOST:PORT of its borglet
        address: String,
        /// Directory of the cell's CA: also issue the borglet's certificate, and write what to install on
        /// the machine
        #[arg(long, value_name = "DIR", requires = "dir")]
        ca: Option<PathBuf>,
        /// A new directory for what to install
        #[arg(long, value_name = "DIR", requires = "ca")]
        dir: Option<PathBuf>,
    },
    /// Take a machine out of the cell; its tasks go elsewhere
    Remove {
        /// Its name
        name: MachineName,
    },
    /// Place only some users' tasks on machines, or everybody's again; what runs stays. Needs admin
    Keep {
        /// Their names
        #[arg(required = true)]
        machines: Vec<MachineName>,
        /// Users, or all
        #[arg(long = "for", value_name = "USER,..|all")]
        users: KeptFor,
    },
    /// Place no more tasks on machines; what runs stays. Needs admin
    Close {
        /// Their names
        #[arg(required = true)]
        machines: Vec<MachineName>,
        /// Why, for those who find it closed
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Place tasks on machines again. Needs admin
    Open {
        /// Their names
        #[arg(required = true)]
        machines: Vec<MachineName>,
    },
}

/// `ann,bob`, or `all`: none in particular.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeptFor(BTreeSet<UserName>);

impl FromStr for KeptFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::default());
        }
        let mut users = BTreeSet::new();
        for name in text.split(',') {
            let user: UserName = name.parse().map_err(|error: NameError| error.to_string())?;
            if user.as_str() == "all" {
                return Err("all stands alone: name users, or all".to_owned());
            }
            users.insert(user);
        }
        if users.len() > MAX_KEPT_FOR {
            return Err(format!("{} users are more than {MAX_KEPT_FOR}", users.len()));
        }
        Ok(Self(users))
    }
}

#[derive(Debug, Args)]
pub(super) struct MachinesArgs {
    #[command(subcommand)]
    command: Option<MachinesCommand>,
}

#[derive(Debug, Subcommand)]
pub(super) enum MachinesCommand {
    /// Take silent machines for down now: their tasks go elsewhere. Needs admin
    GiveUp {
        /// Their names
        #[arg(required_unless_present = "all_silent")]
        machines: Vec<MachineName>,
        /// All machines that are silent now
        #[arg(long, conflicts_with = "machines")]
        all_silent: bool,
    },
}

pub(super) async fn machines(
    client: &mut Client,
    args: MachinesArgs,
    out: Output,
) -> Result<(), Failure> {
    match args.command {
        None => list(client, out).await,
        Some(MachinesCommand::GiveUp { machines, all_silent }) => {
            let named = machines.iter().map(ToString::to_string).collect();
            let machines = if all_silent { silent(client).await? } else { named };
            give_up(client, machines, out).await
        }
    }
}

pub(super) async fn ask(client: &mut Client) -> Result<pb::ListMachinesResponse, Failure> {
    let message = pb::ListMachinesRequest {};
    client
        .call("machines", Kind::Read, message, async |mut master, request| {
            master.list_machines(request).await
        })
        .await
}

async fn silent(client: &mut Client) -> Result<Vec<String>, Failure> {
    let silent = ask(client).await?.machines.into_iter().filter(|machine| machine.silent_ms > 0);
    Ok(silent.map(|machine| machine.name).collect())
}

/// As many at once as one change may name. What was given up stays so when a later part fails.
async fn give_up(client: &mut Client, machines: Vec<String>, out: Output) -> Result<(), Failure> {
    let mut index = 0;
    for part in machines.chunks(MAX_GIVEN_UP) {
        let what = match part {
            [one] => format!("give up machine {one}"),
            several => format!("give up {} machines", several.len()),
        };
        let message =
            pb::GiveUpMachinesRequest { machines: part.to_vec(), request_id: client.request_id() };
        let answer = client
            .call(&what, Kind::Change, message, async |mut master, request| {
                master.give_up_machines(request).await
            })
            .await?;
        index = answer.index;
    }
    if out.is_json() {
        return out.json(&serde_json::json!({ "machines": machines, "index": index }), false);
    }
    match machines.as_slice() {
        [] => out.line("no machine is silent: nothing was done"),
        [one] => out.line(&format!("{one} given up: its tasks go elsewhere")),
        several => {
            out.line(&format!("{} machines given up: their tasks go elsewhere", several.len()))
        }
    }
}

/// What an operator has to know when nothing moves.
pub(super) fn explain_safe_mode(safe_mode: Option<pb::SafeMode>, now: u64) {
    let Some(safe) = safe_mode else { return };
    note(&format!(
        "SAFE MODE for {}: {} of {} machines fell silent, so no machine is given up and no task of \
         theirs is moved.",
        age(now.saturating_sub(safe.since_ms)),
        safe.silent,
        safe.machines
    ));
    note(
        "Look for a fault of the network between masters and machines first: tasks on silent \
         machines most likely run on. It ends by itself when they answer again.",
    );
    note(
        "To move the tasks of machines that are lost: borgctl machines give-up MACHINE..., or \
         borgctl machines give-up --all-silent",
    );
}

async fn list(client: &mut Client, out: Output) -> Result<(), Failure> {
    let answer = ask(client).await?;
    say_when(client, out, answer.read.as_ref());
    let now = if answer.now_ms > 0 { answer.now_ms } else { clock::now().0 };
    let machines: Vec<Machine> = answer.machines.into_iter().map(Machine::from).collect();
    if out.is_json() {
        return out.json(&Read::each(answer.read, machines), false);
    }
    explain_safe_mode(answer.safe_mode, now);
    for machine in
        machines.iter().filter(|machine| out.is_terminal() && !machine.missing_isolation.is_empty())
    {
        note(&format!("{} lacks: {}", machine.name, machine.missing_isolation.join(", ")));
    }
    let rows = machines.into_iter().map(|machine| {
        let of = |used: String, all: String| format!("{used}/{all}");
        let takes = takes(&machine);
        [
            machine.name,
            match machine.silent_ms {
                0 => machine.state.into(),
                silent => format!("{}, silent {}", machine.state, age(silent)),
            },
            age(now.saturating_sub(machine.since_ms)),
            machine.tasks.to_string(),
            of(cores(machine.used.cpu_milli), cores(machine.capacity.cpu_milli)),
            of(size(machine.used.ram_bytes), size(machine.capacity.ram_bytes)),
            machine.address,
            machine.shard.map_or_else(|| "-".into(), |shard| ReplicaId(shard).to_string()),
            takes,
        ]
    });
    out.table(["machine", "state", "age", "tasks", "cpu", "ram", "borglet", "shard", "takes"], rows)
}

/// Whose tasks it takes.
fn takes(machine: &Machine) -> String {
    if let Some(drain) = &machine.drain {
        let how = if drain.empty_since_ms.is_some() { "drained" } else { "draining" };
        return format!("none, {how}: {}", drain.reason);
    }
    match (&machine.closed, machine.kept_for.as_slice()) {
        (Some(closed), _) => format!("none: {}", closed.reason),
        (None, []) => "all".to_owned(),
        (None, users) => users.join(","),
    }
}

fn list_of<T: ToString>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    names.join(", ")
}

pub(super) async fn change(
    client: &mut Client,
    command: MachineCommand,
    out: Output,
) -> Result<(), Failure> {
    let (text, index) = match command {
        MachineCommand::Add { name, address, ca, dir } => {
            let mut text = format!("{name} added at {address}");
            if let (Some(ca), Some(dir)) = (ca, dir) {
                // First: a machine without its certificate is of no use, files without their machine do no harm.
                install::write(&ca, &dir, &name, &address)?;
                text.push_str(&install::what_to_do(&dir, &address));
            }
            let message = pb::AddMachineRequest {
                name: name.to_string(),
                address,
                request_id: client.request_id(),
            };
            let answer = client
                .call(
                    &format!("add machine {name}"),
                    Kind::Change,
                    message,
                    async |mut master, request| master.add_machine(request).await,
                )
                .await?;
            (text, answer.index)
        }
        MachineCommand::Remove { name } => {
            let message = pb::RemoveMachineRequest {
                name: name.to_string(),
                request_id: client.request_id(),
            };
            let answer = client
                .call(
                    &format!("remove machine {name}"),
                    Kind::Change,
                    message,
                    async |mut master, request| master.remove_machine(request).await,
                )
                .await?;
            (format!("{name} removed"), answer.index)
        }
        MachineCommand::Keep { machines, users: KeptFor(users) } => {
            let named = list_of(&machines);
            let message = pb::KeepMachinesRequest {
                machines: machines.iter().map(ToString::to_string).collect(),
                everybody: users.is_empty(),
                users: users.iter().map(ToString::to_string).collect(),
                request_id: client.request_id(),
            };
            let answer = client
                .call(&format!("keep {named}"), Kind::Change, message, async |mut to, request| {
                    to.keep_machines(request).await
                })
                .await?;
            let whose = if users.is_empty() { "everybody".to_owned() } else { list_of(&users) };
            (format!("{named}: for tasks of {whose}"), answer.index)
        }
        MachineCommand::Close { machines, reason } => {
            let named = list_of(&machines);
            let machines = machines.iter().map(ToString::to_string).collect();
            let message =
                pb::CloseMachinesRequest { machines, reason, request_id: client.request_id() };
            let answer = client
                .call(&format!("close {named}"), Kind::Change, message, async |mut to, request| {
                    to.close_machines(request).await
                })
                .await?;
            let open =
                ask(client).await?.machines.into_iter().filter(|m| m.closed.is_none()).count();
            let warning =
                if open > 0 { "" } else { "; no machine of the cell takes new tasks now" };
            (format!("{named}: closed to new tasks{warning}"), answer.index)
        }
        MachineCommand::Open { machines } => {
            let named = list_of(&machines);
            let machines = machines.iter().map(ToString::to_string).collect();
            let message = pb::OpenMachinesRequest { machines, request_id: client.request_id() };
            let answer = client
                .call(&format!("open {named}"), Kind::Change, message, async |mut to, request| {
                    to.open_machines(request).await
                })
                .await?;
            (format!("{named}: open to new tasks"), answer.index)
        }
    };
    if out.is_json() {
        out.json(&serde_json::json!({ "index": index }), false)
    } else {
        out.line(&text)
    }
}
