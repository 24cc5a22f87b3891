//! Entries of the log, as bytes and back, and the changes that clients ask for.

use super::access;
use super::cause::{read_run, replica, task_id};
use super::cron;
use super::data;
use super::drain;
use super::error::{At, WireError, check_line, check_range, each, port, required};
use super::health::read_health;
use super::machine::check_address;
use super::package;
use super::pb;
use super::policy;
use super::poll::{MAX_TASKS_PER_MACHINE, incarnation, read_address};
use super::privilege;
use super::quota;
use super::reclamation;
use super::update::{self, read_indexes, write_indexes};
use crate::command::{
    Action, AllocSize, Assignment, Command, MAX_GIVEN_UP, Observation, Principal, RequestId,
};
use crate::machine::MachineId;
use crate::names::{IncarnationId, ReplicaId};
use crate::spec::{MAX_PORTS, MAX_TASKS};
use crate::submitted;
use crate::task::MAX_CAUSE_BYTES;
use crate::time::Millis;
use pb::command::{Action as PbAction, By};
use pb::observation as seen;
use prost::Message;
use std::sync::Arc;

/// Largest entry of the log in bytes. 16 MiB: our choice; a proposer splits long lists long
/// before it. Nothing larger is decoded.
pub const MAX_COMMAND_BYTES: usize = 16 << 20;
/// Most decisions in one entry.
pub const MAX_ASSIGNMENTS: usize = 100_000;
/// Most observations in one entry.
pub const MAX_OBSERVATIONS: usize = 100_000;
/// Longest request id in bytes.
pub const MAX_REQUEST_ID_BYTES: usize = 64;

/// Bytes that are not an entry of the log that this build can apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf.
    #[error("the entry is not a command: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// Too large to even look at.
    #[error("the entry has {0} bytes, more than {MAX_COMMAND_BYTES}")]
    TooLarge(usize),
    /// An action, or a kind of observation, of a later version. A replica that skipped it would
    /// go another way than its peers: it must stop.
    #[error(
        "the entry holds an action that this version does not know: install the version of the other masters"
    )]
    UnknownAction,
    /// A field of a later version inside a known action. Skipping it is as wrong.
    #[error(
        "the entry holds {0} bytes of fields that this version does not know: install the version of the other masters"
    )]
    UnknownFields(usize),
    /// A field out of bounds.
    #[error(transparent)]
    Field(#[from] WireError),
}

impl Command {
    /// The entry as bytes: the same command always gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        pb::Command::from(self).encode_to_vec()
    }

    /// The entry from bytes, every bound checked.
    ///
    /// # Errors
    /// When the bytes are not a command, or one that this version does not know in full.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_COMMAND_BYTES {
            return Err(DecodeError::TooLarge(bytes.len()));
        }
        let command = pb::Command::decode(bytes)?;
        let known = match &command.action {
            None => false,
            Some(PbAction::Observe(observe)) => observe.changes.iter().all(|c| c.kind.is_some()),
            Some(_) => true,
        };
        if !known {
            return Err(DecodeError::UnknownAction);
        }
        // What protobuf does not know it drops; our own encoding is canonical, so a difference in
        // length is what was dropped.
        let understood = command.encoded_len();
        if understood != bytes.len() {
            return Err(DecodeError::UnknownFields(bytes.len().abs_diff(understood)));
        }
        Ok(command.try_into()?)
    }
}

impl From<&Command> for pb::Command {
    fn from(c: &Command) -> Self {
        let by = match &c.by {
            Principal::User(user) => By::User(user.to_string()),
            Principal::Master(replica) => By::Master(replica.0),
        };
        Self {
            at_ms: c.at.0,
            by: Some(by),
            request: c.request.as_deref().unwrap_or_default().to_owned(),
            action: Some((&c.action).into()),
        }
    }
}

impl TryFrom<pb::Command> for Command {
    type Error = WireError;
    fn try_from(c: pb::Command) -> Result<Self, WireError> {
        let by = match required("by", c.by)? {
            By::User(user) => Principal::User(user.parse().at("user")?),
            By::Master(number) => Principal::Master(replica(number).at("master")?),
        };
        let request =
            (!c.request.is_empty()).then(|| request_id("request", &c.request)).transpose()?;
        Ok(Self {
            at: Millis(c.at_ms),
            by,
            request,
            action: required("action", c.action)?.try_into()?,
        })
    }
}

pub(super) fn request_id(field: &str, text: &str) -> Result<RequestId, WireError> {
    if text.is_empty() {
        let why = "is no request id: choose 1 to 64 bytes, the same for each repeat of the request";
        return Err(WireError::new(field, "\"\"", why));
    }
    check_line(field, text, MAX_REQUEST_ID_BYTES)?;
    Ok(text.into())
}

impl From<&Action> for PbAction {
    fn from(action: &Action) -> Self {
        match action {
            Action::Lead { leader, term } => Self::Lead(pb::Lead { leader: leader.0, term: *term }),
            Action::SubmitJob { spec } => {
                Self::SubmitJob(pb::SubmitJob { spec: Some((&**spec).into()) })
            }
            Action::Kill { job, tasks } => {
                Self::Kill(pb::KillJob { job: job.to_string(), tasks: tasks.clone() })
            }
            Action::Rerun { job, tasks } => {
                Self::Rerun(pb::RerunJob { job: job.to_string(), tasks: tasks.clone() })
            }
            Action::OrderCron { job, order } => Self::OrderCron(cron::write_order(job, *order)),
            Action::AddMachine { machine } => Self::AddMachine(machine.into()),
            Action::RemoveMachine { machine } => {
                Self::RemoveMachine(pb::RemoveMachine { name: machine.to_string() })
            }
            Action::InviteMaster { number, address, replaces } => {
                Self::InviteMaster(pb::InviteMaster {
                    number: *number,
                    address: address.clone(),
                    replaces: replaces.unwrap_or(0),
                })
            }
            Action::JoinMaster { number, address, token } => Self::JoinMaster(pb::JoinMaster {
                number: *number,
                address: address.clone(),
                token: *token,
            }),
            Action::RemoveMaster { number } => {
                Self::RemoveMaster(pb::RemoveMaster { number: *number })
            }
            Action::ForgetMaster { master } => {
                Self::ForgetMaster(pb::ForgetMaster { master: master.0 })
            }
            Action::RaiseLevel { level } => Self::RaiseLevel(pb::RaiseLevel { level: *level }),
            Action::GiveUp { machines, answering } => Self::GiveUp(pb::GiveUpMachines {
                machines: machines.iter().map(ToString::to_string).collect(),
                answering: answering.as_ref().map(ToString::to_string).unwrap_or_default(),
            }),
            Action::Settle => Self::Settle(pb::Settle {}),
            Action::Advance => Self::Advance(pb::Advance {}),
            Action::UpdateJob { job, to, options } => {
                Self::UpdateJob(update::write(job, to, options))
            }
            Action::SteerUpdate { job, verb } => Self::SteerUpdate(pb::SteerUpdate {
                job: job.to_string(),
                verb: pb::UpdateVerb::from(*verb).into(),
            }),
            Action::StopTasks { job, tasks } => Self::StopTasks(pb::StopTasks {
                job: job.to_string(),
                tasks: write_indexes(tasks.as_ref()),
            }),
            Action::StartTasks { job, tasks } => Self::StartTasks(pb::StartTasks {
                job: job.to_string(),
                tasks: write_indexes(tasks.as_ref()),
            }),
            Action::SetQuota { user, band, amount, from, until, oversell } => {
                Self::SetQuota(pb::SetQuota {
                    user: user.to_string(),
                    band: pb::Band::from(*band).into(),
                    amount: Some(amount.into()),
                    from_ms: from.map(|at| at.0),
                    until_ms: until.map(|at| at.0),
                    oversell: *oversell,
                })
            }
            Action::RemoveQuota { user, band } => Self::RemoveQuota(pb::RemoveQuota {
                user: user.to_string(),
                band: pb::Band::from(*band).into(),
            }),
            Action::EnforceQuota { bands, on } => Self::EnforceQuota(pb::EnforceQuota {
                bands: bands.iter().map(|band| pb::Band::from(*band).into()).collect(),
                on: *on,
            }),
            Action::ResizeAllocs { alloc_set, allocs, size } => {
                Self::ResizeAllocs(pb::ResizeAllocs {
                    alloc_set: alloc_set.to_string(),
                    allocs: *allocs,
                    cpu_milli: size.cpu_milli,
                    ram_bytes: size.ram_bytes,
                    disk_bytes: size.disk_bytes,
                })
            }
            Action::RescueData { alloc, number, order } => {
                Self::RescueData(data::write_order(alloc, *number, *order))
            }
            Action::SetPolicy { policy, weights } => {
                Self::SetPolicy(policy::write(*policy, weights))
            }
            Action::SetReclamation { named, numbers } => {
                Self::SetReclamation(reclamation::write(*named, numbers))
            }
            Action::KeepMachines { machines, users } => {
                Self::KeepMachines(access::write_keep(machines, users))
            }
            Action::CloseMachines { machines, reason } => {
                Self::CloseMachines(access::write_close(machines, reason))
            }
            Action::OpenMachines { machines } => Self::OpenMachines(access::write_open(machines)),
            Action::DrainMachines { machines, reason, within, at_once, leaves } => {
                Self::DrainMachines(drain::write(machines, reason, *within, *at_once, *leaves))
            }
            Action::UndrainMachines { machines } => {
                Self::UndrainMachines(drain::write_undrain(machines))
            }
            Action::EndMaintenance { number } => {
                Self::EndMaintenance(pb::EndMaintenance { number: *number })
            }
            Action::PutPackage { package } => {
                Self::PutPackage(pb::PutPackage { package: Some((&**package).into()) })
            }
            Action::RemovePackage { package } => {
                Self::RemovePackage(pb::RemovePackage { package: package.to_string() })
            }
            Action::GrantPrivilege { user, privilege } => {
                Self::GrantPrivilege(privilege::write_grant(user, *privilege))
            }
            Action::RevokePrivilege { user, privilege } => {
                Self::RevokePrivilege(privilege::write_revoke(user, *privilege))
            }
            Action::Place { assignments } => {
                Self::Place(pb::Place { assignments: assignments.iter().map(Into::into).collect() })
            }
            Action::Observe { changes } => {
                Self::Observe(pb::Observe { changes: changes.iter().map(Into::into).collect() })
            }
        }
    }
}

impl TryFrom<PbAction> for Action {
    type Error = WireError;
    fn try_from(action: PbAction) -> Result<Self, WireError> {
        match action {
            PbAction::Lead(pb::Lead { leader, term }) => {
                Ok(Self::Lead { leader: replica(leader).at("lead.leader")?, term })
            }
            PbAction::SubmitJob(pb::SubmitJob { spec }) => submit(spec).at("submit_job"),
            PbAction::Kill(pb::KillJob { job, tasks }) => kill(&job, tasks).at("kill"),
            PbAction::Rerun(rerun) => cron::rerun(&rerun).at("rerun"),
            PbAction::OrderCron(order) => cron::order(&order).at("order_cron"),
            PbAction::AddMachine(machine) => {
                Ok(Self::AddMachine { machine: machine.try_into().at("add_machine")? })
            }
            PbAction::RemoveMachine(pb::RemoveMachine { name }) => {
                Ok(Self::RemoveMachine { machine: name.parse().at("remove_machine.name")? })
            }
            PbAction::InviteMaster(invite) => self::invite(&invite).at("invite_master"),
            PbAction::JoinMaster(pb::JoinMaster { number, address, token }) => {
                check_address("join_master.address", &address)?;
                let number = master_number("join_master.number", number)?;
                Ok(Self::JoinMaster { number, address, token })
            }
            PbAction::RemoveMaster(pb::RemoveMaster { number }) => {
                Ok(Self::RemoveMaster { number: master_number("remove_master.number", number)? })
            }
            PbAction::ForgetMaster(pb::ForgetMaster { master }) => {
                Ok(Self::ForgetMaster { master: replica(master).at("forget_master.master")? })
            }
            PbAction::RaiseLevel(pb::RaiseLevel { level }) => {
                check_range("raise_level.level", level.into(), 1, u32::MAX.into())?;
                Ok(Self::RaiseLevel { level })
            }
            PbAction::GiveUp(pb::GiveUpMachines { machines, answering }) => {
                give_up(machines, &answering).at("give_up")
            }
            PbAction::Settle(pb::Settle {}) => Ok(Self::Settle),
            PbAction::Advance(pb::Advance {}) => Ok(Self::Advance),
            PbAction::UpdateJob(asked) => update::read(asked).at("update_job"),
            PbAction::SteerUpdate(pb::SteerUpdate { job, verb }) => {
                update::steer(&job, verb).at("steer_update")
            }
            PbAction::StopTasks(pb::StopTasks { job, tasks }) => Ok(Self::StopTasks {
                job: job.parse().at("stop_tasks.job")?,
                tasks: read_indexes("stop_tasks.tasks", tasks)?,
            }),
            PbAction::StartTasks(pb::StartTasks { job, tasks }) => Ok(Self::StartTasks {
                job: job.parse().at("start_tasks.job")?,
                tasks: read_indexes("start_tasks.tasks", tasks)?,
            }),
            PbAction::SetQuota(set) => quota::set(set).at("set_quota"),
            PbAction::RemoveQuota(remove) => quota::remove(&remove).at("remove_quota"),
            PbAction::EnforceQuota(enforce) => quota::enforce(enforce).at("enforce_quota"),
            PbAction::ResizeAllocs(resize) => resize_allocs(&resize).at("resize_allocs"),
            PbAction::RescueData(order) => data::order(&order).at("rescue_data"),
            PbAction::SetPolicy(set) => policy::set(&set).at("set_policy"),
            PbAction::SetReclamation(set) => reclamation::set(&set).at("set_reclamation"),
            PbAction::KeepMachines(keep) => access::keep(keep).at("keep_machines"),
            PbAction::CloseMachines(close) => access::close(close).at("close_machines"),
            PbAction::OpenMachines(open) => access::open(open).at("open_machines"),
            PbAction::DrainMachines(drain) => drain::read(drain).at("drain_machines"),
            PbAction::UndrainMachines(undrain) => drain::undrain(undrain).at("undrain_machines"),
            PbAction::EndMaintenance(pb::EndMaintenance { number }) => {
                Ok(Self::EndMaintenance { number })
            }
            PbAction::PutPackage(pb::PutPackage { package }) => {
                package::put(package).at("put_package")
            }
            PbAction::RemovePackage(pb::RemovePackage { package }) => {
                Ok(Self::RemovePackage { package: package.parse().at("remove_package.package")? })
            }
            PbAction::GrantPrivilege(grant) => privilege::grant(&grant).at("grant_privilege"),
            PbAction::RevokePrivilege(revoke) => privilege::revoke(&revoke).at("revoke_privilege"),
            PbAction::Place(pb::Place { assignments }) => Ok(Self::Place {
                assignments: each(
                    "place.assignments",
                    assignments,
                    MAX_ASSIGNMENTS,
                    Assignment::try_from,
                )?,
            }),
            PbAction::Observe(pb::Observe { changes }) => Ok(Self::Observe {
                changes: each("observe.changes", changes, MAX_OBSERVATIONS, Observation::try_from)?,
            }),
        }
    }
}

fn invite(invite: &pb::InviteMaster) -> Result<Action, WireError> {
    check_address("address", &invite.address)?;
    let replaces = Some(invite.replaces).filter(|number| *number != 0);
    Ok(Action::InviteMaster {
        number: master_number("number", invite.number)?,
        address: invite.address.clone(),
        replaces: replaces.map(|number| master_number("replaces", number)).transpose()?,
    })
}

fn master_number(field: &str, number: u64) -> Result<u64, WireError> {
    check_range(field, number, 1, ReplicaId::MAX_NUMBER)?;
    Ok(number)
}

fn give_up(machines: Vec<String>, answering: &str) -> Result<Action, WireError> {
    if machines.is_empty() {
        return Err(WireError::new(
            "machines",
            "nothing",
            "is given: name machines that are silent",
        ));
    }
    let answering = (!answering.is_empty()).then(|| answering.parse().at("answering"));
    Ok(Action::GiveUp {
        machines: each("machines", machines, MAX_GIVEN_UP, |name| name.parse())?,
        answering: answering.transpose()?,
    })
}

fn submit(spec: Option<pb::JobSpec>) -> Result<Action, WireError> {
    Ok(Action::SubmitJob { spec: Arc::new(required("spec", spec)?.try_into().at("spec")?) })
}

fn kill(job: &str, tasks: Vec<u32>) -> Result<Action, WireError> {
    let index = |i: u32| check_range("", i.into(), 0, (MAX_TASKS - 1).into()).map(|()| i);
    let most = usize::try_from(MAX_TASKS).unwrap_or(usize::MAX);
    Ok(Action::Kill { job: job.parse().at("job")?, tasks: each("tasks", tasks, most, index)? })
}

fn resize_allocs(resize: &pb::ResizeAllocs) -> Result<Action, WireError> {
    if let Some(allocs) = resize.allocs {
        check_range("allocs", allocs.into(), 1, MAX_TASKS.into())?;
    }
    let size = AllocSize {
        cpu_milli: resize.cpu_milli,
        ram_bytes: resize.ram_bytes,
        disk_bytes: resize.disk_bytes,
    };
    if resize.allocs.is_none() && size == AllocSize::default() {
        let why = "is given: say how many allocs there should be, or how large";
        return Err(WireError::new("allocs", "nothing", why));
    }
    let alloc_set = resize.alloc_set.parse().at("alloc_set")?;
    Ok(Action::ResizeAllocs { alloc_set, allocs: resize.allocs, size })
}

impl From<&Assignment> for pb::Assignment {
    fn from(a: &Assignment) -> Self {
        Self {
            job: a.task.job.0,
            index: a.task.index,
            machine: a.machine.0,
            victims: a.victims.iter().map(Into::into).collect(),
            lent: reclamation::write_amounts(a.lent),
        }
    }
}

impl TryFrom<pb::Assignment> for Assignment {
    type Error = WireError;
    fn try_from(a: pb::Assignment) -> Result<Self, WireError> {
        Ok(Self {
            task: task_id(a.job, a.index)?,
            machine: MachineId(a.machine),
            victims: each("victims", a.victims, MAX_TASKS_PER_MACHINE, IncarnationId::try_from)?,
            lent: reclamation::read_amounts(a.lent).at("lent")?,
        })
    }
}

impl From<&Observation> for pb::Observation {
    fn from(o: &Observation) -> Self {
        let kind = match o {
            Observation::MachineUp { machine, info } => seen::Kind::MachineUp(seen::MachineUp {
                machine: machine.0,
                info: Some(info.into()),
            }),
            Observation::MachineDown { machine } => {
                seen::Kind::MachineDown(seen::MachineDown { machine: machine.0 })
            }
            Observation::TaskUp { id, pid, since, restarts, run } => {
                seen::Kind::TaskUp(seen::TaskUp {
                    id: Some(id.into()),
                    pid: *pid,
                    since_ms: since.0,
                    restarts: *restarts,
                    run: run.as_deref().map(Into::into),
                })
            }
            Observation::TaskBackOff { id, until, restarts, cause, run } => {
                seen::Kind::TaskBackOff(seen::TaskBackOff {
                    id: Some(id.into()),
                    until_ms: until.0,
                    restarts: *restarts,
                    cause: Some(cause.into()),
                    run: run.as_deref().map(Into::into),
                })
            }
            Observation::TaskEnded { id, at, failure, run } => {
                seen::Kind::TaskEnded(seen::TaskEnded {
                    id: Some(id.into()),
                    at_ms: at.0,
                    failure: failure.as_ref().map(Into::into),
                    run: run.as_deref().map(Into::into),
                })
            }
            Observation::TaskGone { id } => {
                seen::Kind::TaskGone(seen::TaskGone { id: Some(id.into()) })
            }
            Observation::Silence { safe_mode, silent, machines } => {
                seen::Kind::Silence(seen::Silence {
                    safe_mode: *safe_mode,
                    silent: *silent,
                    machines: *machines,
                })
            }
            Observation::TaskAdopted { id, machine, pid, since, restarts, ports } => {
                seen::Kind::TaskAdopted(seen::TaskAdopted {
                    id: Some(id.into()),
                    machine: machine.0,
                    pid: *pid,
                    since_ms: since.0,
                    restarts: *restarts,
                    ports: ports.iter().map(|&port| port.into()).collect(),
                })
            }
            Observation::TaskHealth { id, health } => seen::Kind::TaskHealth(seen::TaskHealth {
                id: Some(id.into()),
                health: pb::Health::from(*health).into(),
            }),
            Observation::TaskReclaimed { id } => {
                seen::Kind::TaskReclaimed(seen::TaskReclaimed { id: Some(id.into()) })
            }
            Observation::DataAtRest { machine, alloc, bytes } => {
                seen::Kind::DataAtRest(seen::DataAtRest {
                    machine: machine.0,
                    alloc: Some(alloc.into()),
                    bytes: *bytes,
                })
            }
            Observation::DataGone { machine, alloc, why } => seen::Kind::DataGone(seen::DataGone {
                machine: machine.0,
                alloc: Some(alloc.into()),
                why: why.clone(),
            }),
            Observation::TaskAddress { id, address } => {
                seen::Kind::TaskAddress(seen::TaskAddress {
                    id: Some(id.into()),
                    address: address.to_bits(),
                })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::Observation> for Observation {
    type Error = WireError;
    fn try_from(o: pb::Observation) -> Result<Self, WireError> {
        Ok(match required("kind", o.kind)? {
            seen::Kind::MachineUp(up) => Self::MachineUp {
                machine: MachineId(up.machine),
                info: required("info", up.info)?.try_into().at("info")?,
            },
            seen::Kind::MachineDown(down) => Self::MachineDown { machine: MachineId(down.machine) },
            seen::Kind::TaskUp(up) => Self::TaskUp {
                id: incarnation("id", up.id)?,
                pid: up.pid,
                since: Millis(up.since_ms),
                restarts: up.restarts,
                run: read_run(up.run)?,
            },
            seen::Kind::TaskBackOff(wait) => Self::TaskBackOff {
                id: incarnation("id", wait.id)?,
                until: Millis(wait.until_ms),
                restarts: wait.restarts,
                cause: required("cause", wait.cause)?.try_into().at("cause")?,
                run: read_run(wait.run)?,
            },
            seen::Kind::TaskEnded(end) => Self::TaskEnded {
                id: incarnation("id", end.id)?,
                at: Millis(end.at_ms),
                failure: end.failure.map(TryInto::try_into).transpose().at("failure")?,
                run: read_run(end.run)?,
            },
            seen::Kind::TaskGone(gone) => Self::TaskGone { id: incarnation("id", gone.id)? },
            seen::Kind::Silence(seen::Silence { safe_mode, silent, machines }) => {
                Self::Silence { safe_mode, silent, machines }
            }
            seen::Kind::TaskAdopted(found) => Self::TaskAdopted {
                id: incarnation("id", found.id)?,
                machine: MachineId(found.machine),
                pid: found.pid,
                since: Millis(found.since_ms),
                restarts: found.restarts,
                ports: each("ports", found.ports, MAX_PORTS, port)?,
            },
            seen::Kind::TaskHealth(seen::TaskHealth { id, health }) => Self::TaskHealth {
                id: incarnation("id", id)?,
                health: read_health("health", health)?,
            },
            seen::Kind::TaskReclaimed(seen::TaskReclaimed { id }) => {
                Self::TaskReclaimed { id: incarnation("id", id)? }
            }
            seen::Kind::DataAtRest(rest) => Self::DataAtRest {
                machine: MachineId(rest.machine),
                alloc: incarnation("alloc", rest.alloc)?,
                bytes: rest.bytes,
            },
            seen::Kind::DataGone(gone) => {
                check_line("why", &gone.why, MAX_CAUSE_BYTES)?;
                Self::DataGone {
                    machine: MachineId(gone.machine),
                    alloc: incarnation("alloc", gone.alloc)?,
                    why: gone.why,
                }
            }
            seen::Kind::TaskAddress(seen::TaskAddress { id, address }) => Self::TaskAddress {
                id: incarnation("id", id)?,
                address: required("address", read_address(address))?,
            },
        })
    }
}

/// A change that a client asks for: what to do, and under which id it is done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The client's id of the request.
    pub request: RequestId,
    /// What to do.
    pub action: Action,
}

impl TryFrom<pb::ResizeAllocsRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::ResizeAllocsRequest) -> Result<Self, WireError> {
        let action = resize_allocs(&pb::ResizeAllocs {
            alloc_set: r.alloc_set,
            allocs: r.allocs,
            cpu_milli: r.cpu_milli,
            ram_bytes: r.ram_bytes,
            disk_bytes: r.disk_bytes,
        })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::SubmitJobRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::SubmitJobRequest) -> Result<Self, WireError> {
        let action = submit(r.spec)?;
        if let Action::SubmitJob { spec } = &action {
            submitted::check(spec).map_err(WireError::from).at("spec")?;
        }
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::PutPackageRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::PutPackageRequest) -> Result<Self, WireError> {
        Ok(Self {
            action: package::put(r.package)?,
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::RemovePackageRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RemovePackageRequest) -> Result<Self, WireError> {
        Ok(Self {
            action: Action::RemovePackage { package: r.package.parse().at("package")? },
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::KillRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::KillRequest) -> Result<Self, WireError> {
        Ok(Self {
            action: kill(&r.job, r.tasks)?,
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::RerunRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RerunRequest) -> Result<Self, WireError> {
        let action = cron::rerun(&pb::RerunJob { job: r.job, tasks: r.tasks })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::RescueDataRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RescueDataRequest) -> Result<Self, WireError> {
        let action =
            data::order(&pb::RescueData { alloc: r.alloc, number: r.number, drop: r.drop })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::OrderCronRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::OrderCronRequest) -> Result<Self, WireError> {
        let action = cron::order(&pb::OrderCron { job: r.job, order: r.order })?;
        Ok(Self { action, request: request_id("request_id", &r.request_id)? })
    }
}

impl TryFrom<pb::AddMachineRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::AddMachineRequest) -> Result<Self, WireError> {
        let machine = pb::AddMachine { name: r.name, address: r.address }.try_into()?;
        Ok(Self {
            action: Action::AddMachine { machine },
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::RemoveMachineRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RemoveMachineRequest) -> Result<Self, WireError> {
        let machine = r.name.parse().at("name")?;
        Ok(Self {
            action: Action::RemoveMachine { machine },
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::InviteMasterRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::InviteMasterRequest) -> Result<Self, WireError> {
        let invite =
            pb::InviteMaster { number: r.number, address: r.address, replaces: r.replaces };
        Ok(Self {
            action: self::invite(&invite)?,
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::RemoveMasterRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::RemoveMasterRequest) -> Result<Self, WireError> {
        Ok(Self {
            action: Action::RemoveMaster { number: master_number("number", r.number)? },
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::GiveUpMachinesRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::GiveUpMachinesRequest) -> Result<Self, WireError> {
        Ok(Self {
            action: give_up(r.machines, "")?,
            request: request_id("request_id", &r.request_id)?,
        })
    }
}

impl TryFrom<pb::SettleRequest> for Change {
    type Error = WireError;
    fn try_from(r: pb::SettleRequest) -> Result<Self, WireError> {
        Ok(Self { action: Action::Settle, request: request_id("request_id", &r.request_id)? })
    }
}
