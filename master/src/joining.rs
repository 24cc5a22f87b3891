//! How a process comes by its log: it has one, it founds a new cell, or it joins.
//!
//! A log that cannot prove that it holds what was acknowledged is moved out of the way, and the
//! master joins again in another life: the cell's leader takes it in as a listener, sends it a
//! checkpoint, and lets it vote when it has nearly everything. Leaves who may join to the cell's
//! state, and what a log must prove to `store`.
//!
//! Invariant: no log is ever made under an id that another log had.

use crate::app::AppError;
use crate::clock;
use crate::config::{Config, Member};
use crate::peers;
use crate::store::{self, History, Opened};
use borg_cell::state::{CellState, FOUNDING};
use borg_cell::store::{CheckpointDraft, LogStore, ReplicaIdentity, StoreError};
use borg_proto::command::LEVEL;
use borg_proto::names::ReplicaId;
use borg_proto::rpc::{self, Credentials};
use borg_proto::time::Millis;
use borg_proto::wire::pb;
use std::time::Duration;

/// The epoch of a cell that was never restored from a backup.
const FIRST_EPOCH: u64 = 1;
/// How long one question to another master may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A cell with more entries than this was not founded just now.
const YOUNG: u64 = 200;
/// Most masters that are asked to be taken in.
const MOST_ASKED: usize = 64;
/// How long another master may take to say whether it has heard of this one.
const GREETING: Duration = Duration::from_millis(300);
/// Time between two rounds of questions.
const PAUSE: Duration = Duration::from_millis(200);
/// Time after which it is told again what is waited for.
const TELL_AGAIN: f64 = 5.0;

/// An open log that may be used.
pub(crate) struct Ready {
    /// Who this process is by it.
    pub identity: ReplicaIdentity,
    /// The log.
    pub log: Box<dyn LogStore>,
    /// What is kept of the past.
    pub history: History,
}

/// Opens the log; founds or joins where there is none that may be used.
///
/// # Errors
/// When the directory is another's or cannot be used at all.
pub(crate) async fn ready(
    config: &Config,
    credentials: &Credentials,
    number: u64,
) -> Result<Ready, AppError> {
    let failed = |source| AppError::Store { dir: config.dir.display().to_string(), source };
    if store::is_there(&config.dir) {
        match open_own(config, credentials, number) {
            Ok(ready) => return Ok(ready),
            Err(error @ StoreError::Broken { .. }) => {
                let moved = store::quarantine(&config.dir).map_err(failed)?;
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    moved_to = %moved.display(),
                    "this master cannot prove that it has what it acknowledged, so it votes no more \
                     by this log: it joins the cell again in another life"
                );
            }
            Err(error) => return Err(failed(error)),
        }
    } else if config.new && !is_known(config, credentials, number).await {
        let identity = found(config, credentials, number).map_err(failed)?;
        return open(config, identity).map_err(failed);
    }
    let (replica, epoch) = join(config, credentials, number).await?;
    let cell = credentials.identity.cell.to_string();
    tracing::warn!(%replica, "taken in by the cell without a log: everything comes from the other masters");
    open(config, ReplicaIdentity { cell, replica: replica.0, epoch }).map_err(failed)
}

/// Whether one of the other masters has heard of this one, or is of a cell that is not new: then this
/// one had a log, whatever the command line says, and must not begin anew under the same id.
async fn is_known(config: &Config, credentials: &Credentials, number: u64) -> bool {
    for member in others(&config.masters, number) {
        let Ok(client) = peers::client_of(credentials, &member) else { continue };
        let Ok(hello) = peers::hello(client, GREETING).await else { continue };
        if hello.heard_you || hello.applied_index > YOUNG {
            tracing::error!(
                by = %member.replica,
                "--new, but this master is known already: it joins again instead. Leave out --new"
            );
            return true;
        }
    }
    false
}

/// The log that is there, if it is this master's, in whichever life.
fn open_own(config: &Config, credentials: &Credentials, number: u64) -> Result<Ready, StoreError> {
    let found = store::owner(&config.dir)?;
    let cell = credentials.identity.cell.to_string();
    if found.cell != cell || ReplicaId(found.replica).number() != number {
        let expected = ReplicaIdentity { cell, replica: number, epoch: found.epoch };
        return Err(StoreError::WrongIdentity { found, expected });
    }
    if let Some(check) = &config.check {
        check.run()?;
    }
    open(config, found)
}

fn open(config: &Config, identity: ReplicaIdentity) -> Result<Ready, StoreError> {
    let keep = store::Keep {
        count: config.keep_checkpoints,
        age: Millis::from_secs(config.keep_hours.saturating_mul(3600)),
        bytes: config.keep_mib.saturating_mul(1 << 20),
    };
    let Opened { log, history } = store::open_keeping(config.store, &config.dir, &identity, keep)?;
    Ok(Ready { identity, log, history })
}

/// Makes the log of one of the masters of a new cell: the same for each, given the same list.
fn found(
    config: &Config,
    credentials: &Credentials,
    number: u64,
) -> Result<ReplicaIdentity, StoreError> {
    let cell = &credentials.identity.cell;
    let identity = ReplicaIdentity { cell: cell.to_string(), replica: number, epoch: FIRST_EPOCH };
    let masters: Vec<_> =
        config.masters.iter().map(|member| (member.replica, member.address.clone())).collect();
    let state = CellState::found(cell.clone(), &masters, LEVEL);
    let founding = CheckpointDraft {
        place: FOUNDING,
        membership: &state.founding_membership(),
        at: state.clock(),
        state: &state.encode(),
        log: &[],
    };
    store::found(config.store, &config.dir, &identity, &founding)?;
    Ok(identity)
}

/// Asks the cell to be taken in, until it does.
async fn join(
    config: &Config,
    credentials: &Credentials,
    number: u64,
) -> Result<(ReplicaId, u64), AppError> {
    let own = config.masters.iter().find(|member| member.replica.number() == number);
    let own = own.cloned().ok_or(AppError::NotAMember(ReplicaId(number)))?;
    let mut known: Vec<Member> = others(&config.masters, number);
    let token = seed_of(&config.dir);
    let mut told: Option<clock::Stopwatch> = None;
    loop {
        let mut why = Vec::new();
        for member in known.clone() {
            match ask(credentials, &member, &own, token).await {
                Ok(Asked::In(replica, epoch)) => return Ok((replica, epoch)),
                Ok(Asked::Masters(all)) => {
                    for member in others(&all, number) {
                        if !known.contains(&member) && known.len() < MOST_ASKED {
                            known.push(member);
                        }
                    }
                    why.push(format!("master {} knows of no leader", member.replica));
                }
                Err(text) => why.push(format!("master {}: {text}", member.replica)),
            }
        }
        if told.as_ref().is_none_or(|told| told.seconds() > TELL_AGAIN) {
            told = Some(clock::stopwatch());
            tracing::warn!(
                why = why.join("; "),
                "no log here that may be used, and the cell has not taken this master in yet. It needs a \
                 majority of masters that have theirs. If more than half have lost them, nothing is \
                 safe to go on from: stop all masters and restore a backup (borgctl backup restore). \
                 If this is a new cell, start its masters with --new. If this is a new master: \
                 borgctl masters add"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

enum Asked {
    In(ReplicaId, u64),
    /// Not the leader; these are the masters that it knows.
    Masters(Vec<Member>),
}

/// Asks one master to take this one in, if it leads.
async fn ask(
    credentials: &Credentials,
    member: &Member,
    own: &Member,
    token: u64,
) -> Result<Asked, String> {
    let mut client = peers::client_of(credentials, member).map_err(|error| error.to_string())?;
    let explain = |status: tonic::Status| rpc::explain(&status);
    let hello = peers::hello(client.clone(), PATIENCE).await.map_err(explain)?;
    if hello.leader == 0 || hello.leader != hello.replica {
        let all = hello
            .masters
            .into_iter()
            .map(|entry| Member { replica: ReplicaId(entry.replica), address: entry.address });
        return Ok(Asked::Masters(all.collect()));
    }
    let ask = pb::JoinRequest { address: own.address.clone(), token };
    let mut request = tonic::Request::new(ask);
    request.set_timeout(PATIENCE);
    let answer = client.join(request).await.map_err(explain)?.into_inner();
    Ok(Asked::In(ReplicaId(answer.replica), answer.epoch))
}

fn others(members: &[Member], number: u64) -> Vec<Member> {
    members.iter().filter(|member| member.replica.number() != number).cloned().collect()
}

/// A number by which the cell recognises this process, should the first answer be lost.
fn seed_of(dir: &std::path::Path) -> u64 {
    let mut bytes = clock::now().0.to_le_bytes().to_vec();
    bytes.extend(std::process::id().to_le_bytes());
    bytes.extend(dir.as_os_str().as_encoded_bytes());
    xxhash_rust::xxh3::xxh3_64(&bytes)
}
