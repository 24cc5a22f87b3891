//! `machines`, `machine add` and `machine remove`.

use super::history::say_when;
use crate::client::{Client, Kind, request_id};
use crate::clock;
use crate::exit::Failure;
use crate::output::views::{Machine, Read};
use crate::output::{Output, age, cores, note, size};
use borg_proto::MachineName;
use borg_proto::wire::pb;
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum MachineCommand {
    /// Add a machine, or change where its borglet listens
    Add {
        /// Its name, which its borglet's certificate must carry
        name: MachineName,
        /// HOST:PORT of its borglet
        address: String,
    },
    /// Take a machine out of the cell; its tasks go elsewhere
    Remove {
        /// Its name
        name: MachineName,
    },
}

pub(super) async fn list(client: &mut Client, out: Output) -> Result<(), Failure> {
    let message = pb::ListMachinesRequest {};
    let answer = client
        .call("machines", Kind::Read, message, async |mut master, request| {
            master.list_machines(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let now = if answer.now_ms > 0 { answer.now_ms } else { clock::now().0 };
    let machines: Vec<Machine> = answer.machines.into_iter().map(Machine::from).collect();
    if out.is_json() {
        return out.json(&Read::each(answer.read, machines), false);
    }
    for machine in
        machines.iter().filter(|machine| out.is_terminal() && !machine.missing_isolation.is_empty())
    {
        note(&format!("{} lacks: {}", machine.name, machine.missing_isolation.join(", ")));
    }
    let rows = machines.into_iter().map(|machine| {
        let of = |used: String, all: String| format!("{used}/{all}");
        [
            machine.name,
            machine.state.into(),
            age(now.saturating_sub(machine.since_ms)),
            machine.tasks.to_string(),
            of(cores(machine.used.cpu_milli), cores(machine.capacity.cpu_milli)),
            of(size(machine.used.ram_bytes), size(machine.capacity.ram_bytes)),
            machine.address,
            machine.shard.map_or_else(|| "-".into(), |shard| shard.to_string()),
        ]
    });
    out.table(["machine", "state", "age", "tasks", "cpu", "ram", "borglet", "shard"], rows)
}

pub(super) async fn change(
    client: &mut Client,
    command: MachineCommand,
    out: Output,
) -> Result<(), Failure> {
    let (text, index) = match command {
        MachineCommand::Add { name, address } => {
            let text = format!("{name} added at {address}");
            let message =
                pb::AddMachineRequest { name: name.to_string(), address, request_id: request_id() };
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
            let message =
                pb::RemoveMachineRequest { name: name.to_string(), request_id: request_id() };
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
    };
    if out.is_json() {
        out.json(&serde_json::json!({ "index": index }), false)
    } else {
        out.line(&text)
    }
}
