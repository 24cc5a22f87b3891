//! From started processes to a cell that takes work: a leader, and every machine up.

use super::{Layout, LocalCell, LocalError};
use crate::client::{Client, Kind, request_id};
use crate::exit::{Code, Failure};
use borg_proto::wire::pb;
use std::fs;
use std::time::Duration;
use tokio::time::Instant;

/// How long a cell may take to become ready: our choice, for a loaded computer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How much of a daemon's log is shown when it died.
const LOG_LINES: usize = 5;

/// Tells the cell of its machines and waits until all of them answer. `progress` hears what is
/// being waited for, whenever that changes.
///
/// # Errors
/// When a process dies, the cell refuses a machine, or it takes too long.
pub async fn add_machines_and_wait(
    layout: &Layout,
    cell: &LocalCell,
    client: &mut Client,
    mut progress: impl FnMut(&str),
) -> Result<(), Failure> {
    let began = Instant::now();
    progress("waiting for a leader");
    for borglet in &cell.borglets {
        let request = pb::AddMachineRequest {
            name: borglet.name.clone(),
            address: borglet.address.clone(),
            request_id: request_id(),
        };
        loop {
            let added = client
                .call("add machine", Kind::Change, request.clone(), async |mut c, r| {
                    c.add_machine(r).await
                })
                .await;
            match added {
                Ok(_) => break,
                Err(failure) if failure.code == Code::Unavailable => {
                    check(layout, cell, began, &failure.text)?;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
    loop {
        let request = pb::ListMachinesRequest {};
        let answer = client
            .call("machines", Kind::Read, request, async |mut c, r| c.list_machines(r).await)
            .await?;
        let up = i32::from(pb::MachineState::Up);
        let machines = answer.machines.iter().filter(|machine| machine.state == up).count();
        let request = pb::ListMastersRequest {};
        let answer = client
            .call("masters", Kind::Read, request, async |mut c, r| c.list_masters(r).await)
            .await?;
        // Another process may have the address of one that was started, and answer in its place.
        let ours = |pid| cell.masters.iter().any(|daemon| daemon.is(pid));
        let masters = answer.masters.iter().filter(|it| it.reachable && ours(it.pid)).count();
        let (all_masters, all_machines) = (cell.masters.len(), cell.borglets.len());
        if machines >= all_machines && masters >= all_masters {
            return Ok(());
        }
        let missing = format!(
            "{masters} of {all_masters} masters and {machines} of {all_machines} machines are up"
        );
        progress(&missing);
        check(layout, cell, began, &missing)?;
        tokio::time::sleep(LOOK).await;
    }
}

fn check(
    layout: &Layout,
    cell: &LocalCell,
    began: Instant,
    missing: &str,
) -> Result<(), LocalError> {
    if let Some(dead) = cell.daemons().find(|daemon| !daemon.is_running()) {
        let log = fs::read_to_string(layout.log(&dead.name)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let end = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        return Err(LocalError::Ended { name: dead.name.clone(), log: end });
    }
    if began.elapsed() < PATIENCE {
        return Ok(());
    }
    Err(LocalError::NotReady {
        seconds: PATIENCE.as_secs(),
        missing: missing.to_owned(),
        logs: layout.dir().join("log"),
    })
}
