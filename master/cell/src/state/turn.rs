//! One entry being applied: who may ask for what, and what it changed so far.
//!
//! The rules are with their nouns; here an action finds its rule. Every rule checks first and
//! changes last, so a refusal leaves nothing half done.

use super::quota::Grant;
use super::{Answer, Applied, CellState, Due, Job, JobState, Machine};
use crate::event::{Event, EventKind};
use crate::rejection::Rejection;
use borg_proto::command::{Action, Command, Principal, SERVICES_SINCE};
use borg_proto::{JobId, MachineId, Millis, ReplicaId, TaskId, UserName};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// One entry being applied.
pub(super) struct Turn<'a> {
    pub(super) state: &'a mut CellState,
    /// Cell time of the entry.
    pub(super) at: Millis,
    pub(super) events: Vec<Event>,
    /// Jobs whose last task died in this entry, with the state they were in.
    pub(super) over: VecDeque<(JobId, JobState)>,
    /// Jobs of which something waits that may go on now.
    pub(super) stirred: BTreeSet<JobId>,
    /// Tasks that changed while an update of their job was under way.
    pub(super) touched: BTreeSet<TaskId>,
    /// Jobs of which runs that took too long were ended in this entry.
    pub(super) timed_out: BTreeSet<JobId>,
    /// Slots of daemons that got another version, by which their machines may not do any more.
    pub(super) revised: BTreeSet<TaskId>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(state: &'a mut CellState) -> Self {
        let at = state.clock;
        Self {
            state,
            at,
            events: Vec::new(),
            over: VecDeque::new(),
            stirred: BTreeSet::new(),
            touched: BTreeSet::new(),
            timed_out: BTreeSet::new(),
            revised: BTreeSet::new(),
        }
    }

    pub(super) fn emit(&mut self, kind: EventKind) {
        self.events.push(Event { index: self.state.applied, at: self.at, kind });
    }

    /// Does what the command asks, repeated or not.
    pub(super) fn act(&mut self, command: &Command) -> Result<Applied, Rejection> {
        let answer = self.dispatch(command)?;
        self.settle();
        Ok(Applied { events: std::mem::take(&mut self.events), answer })
    }

    fn dispatch(&mut self, command: &Command) -> Result<Answer, Rejection> {
        let by = &command.by;
        match &command.action {
            Action::Lead { leader, term } => {
                needs_leader(by, "lead")?;
                self.lead(*leader, *term)
            }
            Action::SubmitJob { spec } => self.submit(needs_user(by, "submit a job")?, spec),
            Action::Kill { job, tasks } => self.kill(needs_user(by, "kill a job")?, job, tasks),
            Action::Rerun { job, tasks } => {
                self.rerun(needs_user(by, "run tasks again")?, job, tasks)
            }
            Action::OrderCron { job, order } => {
                self.order_cron(needs_user(by, "order a cron job")?, job, *order)
            }
            Action::AddMachine { machine } => {
                self.needs_admin(by, "add a machine")?;
                self.add_machine(machine)
            }
            Action::RemoveMachine { machine } => {
                self.needs_admin(by, "remove a machine")?;
                self.remove_machine(machine)
            }
            Action::InviteMaster { number, address, replaces } => {
                self.needs_admin(by, "invite a master")?;
                self.invite_master(*number, address, *replaces)
            }
            Action::JoinMaster { number, address, token } => {
                needs_that_master(by, *number)?;
                self.join_master(*number, address, *token)
            }
            Action::RemoveMaster { number } => {
                self.needs_admin(by, "remove a master")?;
                self.remove_master(*number)
            }
            Action::ForgetMaster { master } => {
                needs_leader(by, "forget a master")?;
                self.forget_master(*master)
            }
            Action::RaiseLevel { level } => {
                needs_leader(by, "raise the level of entries")?;
                Ok(self.raise_level(*level))
            }
            Action::GiveUp { machines, answering } => {
                self.needs_admin(by, "give up machines")?;
                self.give_up(machines, answering.as_ref())
            }
            Action::Settle => {
                self.needs_admin(by, "end what a restored cell spares")?;
                Ok(self.settle_restored())
            }
            Action::SetQuota { user, band, amount, from, until, oversell } => {
                self.needs_admin(by, "set quota")?;
                let (amount, from) = (amount.clone(), from.unwrap_or(self.at));
                let grant = Grant { amount, from, until: *until, oversold: *oversell };
                self.set_quota(user, *band, grant)
            }
            Action::RemoveQuota { user, band } => {
                self.needs_admin(by, "remove quota")?;
                self.remove_quota(user, *band)
            }
            Action::EnforceQuota { bands, on } => {
                self.needs_admin(by, if *on { "enforce quota" } else { "open a band" })?;
                self.enforce_quota(bands, *on)
            }
            Action::ResizeAllocs { alloc_set, allocs, size } => {
                let user = needs_user(by, "resize allocs")?;
                self.resize_allocs(user, alloc_set, *allocs, *size)
            }
            Action::RescueData { alloc, number, order } => {
                let user = needs_user(by, "decide what becomes of data")?;
                self.order_rescue(user, alloc, *number, *order)
            }
            Action::SetPolicy { policy, weights } => {
                self.needs_admin(by, "set the scheduling policy")?;
                Ok(self.set_policy(*policy, weights))
            }
            Action::SetReclamation { named, numbers } => {
                self.needs_admin(by, "set how much is lent")?;
                Ok(self.set_reclamation(*named, numbers))
            }
            Action::KeepMachines { machines, users } => {
                self.needs_admin(by, "keep machines")?;
                self.keep_machines(machines, users)
            }
            Action::CloseMachines { machines, reason } => {
                self.needs_admin(by, "close machines")?;
                self.close_machines(needs_user(by, "close machines")?, machines, reason)
            }
            Action::OpenMachines { machines } => {
                self.needs_admin(by, "open machines")?;
                self.open_machines(machines)
            }
            Action::DrainMachines { machines, reason, within, at_once, leaves } => {
                self.needs_admin(by, "drain machines")?;
                let by = needs_user(by, "drain machines")?;
                self.drain_machines(by, machines, (reason, *within), *at_once, *leaves)
            }
            Action::UndrainMachines { machines } => {
                self.needs_admin(by, "undrain machines")?;
                self.undrain_machines(machines)
            }
            Action::EndMaintenance { number } => {
                self.needs_admin(by, "end a maintenance")?;
                self.end_maintenance(*number)
            }
            Action::PutPackage { package } => {
                self.put_package(needs_user(by, "put a package")?, package)
            }
            Action::RemovePackage { package } => {
                self.remove_package(needs_user(by, "remove a package")?, package)
            }
            Action::GrantPrivilege { user, privilege } => {
                self.needs_admin(by, "grant a privilege")?;
                self.grant_privilege(needs_user(by, "grant a privilege")?, user, *privilege)
            }
            Action::RevokePrivilege { user, privilege } => {
                self.needs_admin(by, "revoke a privilege")?;
                self.revoke_privilege(user, *privilege)
            }
            Action::UpdateJob { job, to, options } => {
                self.update_job(needs_user(by, "update a job")?, job, to, options)
            }
            Action::SteerUpdate { job, verb } => {
                self.steer_update(needs_user(by, "steer an update")?, job, *verb)
            }
            Action::StopTasks { job, tasks } => {
                self.stop_tasks(needs_user(by, "stop tasks")?, job, tasks.as_ref())
            }
            Action::StartTasks { job, tasks } => {
                self.start_tasks(needs_user(by, "start tasks")?, job, tasks.as_ref())
            }
            Action::Advance => {
                needs_leader(by, "let time pass")?;
                Ok(self.advance())
            }
            Action::Place { assignments } => {
                needs_leader(by, "place tasks")?;
                Ok(self.place(assignments))
            }
            Action::Observe { changes } => {
                needs_leader(by, "report machines")?;
                Ok(self.observe(changes))
            }
        }
    }

    fn needs_admin(&self, by: &Principal, what: &str) -> Result<(), Rejection> {
        let who = match by {
            Principal::User(user) if self.state.is_admin(user) => return Ok(()),
            Principal::User(user) => format!("user {user}"),
            Principal::Master(replica) => format!("master {replica}"),
        };
        Err(Rejection::NeedsAdmin { who, what: what.to_owned() })
    }

    fn raise_level(&mut self, level: u32) -> Answer {
        let before = self.state.level;
        self.state.level = before.max(level);
        if before < SERVICES_SINCE && level >= SERVICES_SINCE {
            self.begin_noting_service();
        }
        Answer::None
    }

    fn lead(&mut self, leader: ReplicaId, term: u64) -> Result<Answer, Rejection> {
        let now = self.state.leader.map_or(0, |(_, now)| now);
        if term < now || leader.0 == 0 {
            return Err(Rejection::StaleTerm { term, now });
        }
        self.state.leader = Some((leader, term));
        self.open_window();
        self.emit(EventKind::Led { leader, term });
        Ok(Answer::None)
    }

    /// Does something of which nothing is left when it is refused: for what changes as it goes what its next
    /// step finds, so it is tried for real. The copies are cheap.
    pub(super) fn attempt<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        let (state, events) = (self.state.clone(), self.events.len());
        let (over, stirred) = (self.over.clone(), self.stirred.clone());
        let (touched, revised) = (self.touched.clone(), self.revised.clone());
        act(self).inspect_err(|_| {
            *self.state = state;
            self.events.truncate(events);
            (self.over, self.stirred) = (over, stirred);
            (self.touched, self.revised) = (touched, revised);
        })
    }

    /// Something of a job may go on at the end of this entry.
    pub(super) fn stir(&mut self, id: JobId) {
        self.stirred.insert(id);
    }

    /// What waits for a job's tasks, or for a time, goes on if it may.
    pub(super) fn proceed(&mut self, id: JobId) {
        self.proceed_successors(id);
        self.proceed_update(id);
        self.fit_revised(id);
        self.run_out(id);
        self.tick(id);
        self.set_alarm(Due::Job(id));
    }

    /// A job for changing.
    pub(super) fn job_mut(&mut self, id: JobId) -> &mut Job {
        let job = self.state.jobs.get_mut(&id).expect("rules look jobs up before they change them");
        Arc::make_mut(job)
    }

    /// A machine for changing.
    pub(super) fn machine_mut(&mut self, id: MachineId) -> &mut Machine {
        let machine = self
            .state
            .machines
            .get_mut(&id)
            .expect("rules look machines up before they change them");
        Arc::make_mut(machine)
    }
}

/// Takes the tasks of one job out of a set.
pub(super) fn take_of(from: &mut BTreeSet<TaskId>, job: JobId) -> Vec<TaskId> {
    let (first, last) = (TaskId { job, index: 0 }, TaskId { job, index: u32::MAX });
    let found: Vec<TaskId> = from.range(first..=last).copied().collect();
    for task in &found {
        from.remove(task);
    }
    found
}

fn needs_user<'c>(by: &'c Principal, what: &str) -> Result<&'c UserName, Rejection> {
    match by {
        Principal::User(user) => Ok(user),
        Principal::Master(_) => Err(Rejection::NeedsUser { what: what.to_owned() }),
    }
}

/// A master joins for itself alone; `by` is in whatever life it asks from.
fn needs_that_master(by: &Principal, number: u64) -> Result<(), Rejection> {
    match by {
        Principal::Master(replica) if replica.number() == number => Ok(()),
        Principal::Master(replica) => Err(Rejection::NeedsAdmin {
            who: format!("master {replica}"),
            what: format!("join as master {number}"),
        }),
        Principal::User(user) => Err(Rejection::NeedsLeader {
            user: user.clone(),
            what: format!("join as master {number}"),
        }),
    }
}

fn needs_leader(by: &Principal, what: &str) -> Result<(), Rejection> {
    match by {
        Principal::Master(_) => Ok(()),
        Principal::User(user) => {
            Err(Rejection::NeedsLeader { user: user.clone(), what: what.to_owned() })
        }
    }
}
