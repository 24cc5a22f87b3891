//! Clients: they ask for changes until they know the outcome, and remember what they were told.
//!
//! The first client is the admin, who adds the machines; the second does what a test asks; the
//! others submit, kill and read at random, two of them to a user, so that they meet at the same
//! names. A client tries one thing at a time, with one request id however often it has to ask; now
//! and then it gives up without knowing.

use super::replica::Replica;
use super::{Happening, World, index_of, machine, number, words};
use crate::checkers::{Invariant, job_history};
use crate::jobs::{self, Play};
use crate::marks::Mark;
use borg_cell::master::{Input, Outcome};
use borg_cell::rejection::Rejection;
use borg_cell::state::Answer;
use borg_proto::command::{Action, AllocSize, Command, CronOrder, DataOrder, Principal, RequestId};
use borg_proto::identity::ADMIN;
use borg_proto::machine::MachineAddress;
use borg_proto::update::{Order, Replacement, Revision, Steer, UpdateOptions};
use borg_proto::{JobKey, JobKind, JobSpec, MachineName, Millis, ReplicaId, TaskName, UserName};
use std::collections::VecDeque;
use std::sync::Arc;

/// The admin.
pub(crate) const ADMIN_CLIENT: usize = 0;
/// Does what a test asks.
pub(crate) const TEST_CLIENT: usize = 1;
/// How long a master may take.
const DEADLINE: Millis = Millis(2_000);
/// How long a client waits for an answer before it asks somebody else.
const PATIENCE: Millis = Millis(3_000);
/// After so long without knowing, this many of a thousand clients do not ask again. Ours: a few in
/// each run; each makes the search for an order of the history longer.
const GIVES_UP: (Millis, u64) = (Millis(5_000), 150);

/// What a client wants.
#[derive(Debug, Clone)]
pub enum Asked {
    /// A change.
    Change(Action),
    /// To know what is true of a job now.
    Read(JobKey),
    /// The same as last time, with the same request id.
    Again,
}

/// The clients of a world.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) list: Vec<Client>,
    /// From here on clients are masters that have no log.
    joiners: usize,
}

impl Client {
    /// Whether it wants such a change, now or next.
    pub(crate) fn wants(&self, such: impl Fn(&Action) -> bool) -> bool {
        let now = self.current.iter().map(|wish| &wish.what);
        now.chain(&self.wishes).any(|what| matches!(what, Asked::Change(action) if such(action)))
    }
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) user: UserName,
    pub(crate) wishes: VecDeque<Asked>,
    current: Option<Wish>,
    last: Option<Wish>,
    wakes_at: Option<Millis>,
    /// Which master it asks next.
    target: usize,
    asked: u64,
    /// When it first asked for what it now wants.
    asked_at: Millis,
    /// Outcomes of changes, oldest first.
    pub(crate) done: Vec<(u64, Result<Answer, Rejection>)>,
}

/// Something that a client tries to get done.
#[derive(Debug, Clone)]
struct Wish {
    /// Names it among the client's wishes; a repetition has the same.
    number: u64,
    what: Asked,
    /// What must be visible to a read: everything acknowledged before it was asked.
    must_see: u64,
}

/// A call on its way to a master.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    client: usize,
    wish: u64,
    what: Called,
    must_see: u64,
}

#[derive(Debug, Clone)]
enum Called {
    Change(Box<Command>),
    Read(JobKey),
}

/// A call that waits in a master for its outcome.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    client: usize,
    wish: u64,
    /// For a read: of which job, and what it must see.
    read: Option<(JobKey, u64)>,
}

/// What a client hears.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Outcome(Outcome),
    Read(Option<job_history::JobTold>),
    Refused,
}

impl Clients {
    pub(crate) fn new(random: usize, masters: usize) -> Self {
        let names = [ADMIN.to_owned(), "ann".to_owned()];
        let others = (0..random).map(|i| format!("user{}", i / 2));
        let joiners = (0..masters).map(|i| format!("master{}", i + 1));
        let list = names.into_iter().chain(others).chain(joiners).map(|name| Client {
            user: name.parse().expect("a name"),
            wishes: VecDeque::new(),
            current: None,
            last: None,
            wakes_at: None,
            target: 0,
            asked: 0,
            asked_at: Millis(0),
            done: Vec::new(),
        });
        Self { list: list.collect(), joiners: TEST_CLIENT + 1 + random }
    }

    /// The client that asks for a master whether it may be one.
    pub(crate) const fn joiner(&self, master: usize) -> usize {
        self.joiners + master
    }

    /// Those who submit at random, each once or twice.
    pub(crate) fn random_users(&self) -> impl Iterator<Item = &UserName> {
        self.list[TEST_CLIENT + 1..self.joiners].iter().map(|client| &client.user)
    }

    /// Whether nobody waits for anything.
    pub(crate) fn are_idle(&self) -> bool {
        self.list.iter().all(|client| client.current.is_none() && client.wishes.is_empty())
    }

    /// The machine that the admin is adding or removing and does not know the outcome of.
    pub(crate) fn machine_under_way(&self) -> Option<&MachineName> {
        match &self.list[ADMIN_CLIENT].current.as_ref()?.what {
            Asked::Change(Action::AddMachine { machine }) => Some(&machine.name),
            Asked::Change(Action::RemoveMachine { machine }) => Some(machine),
            Asked::Change(
                Action::SubmitJob { .. }
                | Action::Kill { .. }
                | Action::Rerun { .. }
                | Action::OrderCron { .. }
                | Action::RescueData { .. }
                | Action::InviteMaster { .. }
                | Action::JoinMaster { .. }
                | Action::RemoveMaster { .. }
                | Action::ForgetMaster { .. }
                | Action::RaiseLevel { .. }
                | Action::GiveUp { .. }
                | Action::SetQuota { .. }
                | Action::RemoveQuota { .. }
                | Action::EnforceQuota { .. }
                | Action::ResizeAllocs { .. }
                | Action::SetPolicy { .. }
                | Action::SetReclamation { .. }
                | Action::KeepMachines { .. }
                | Action::CloseMachines { .. }
                | Action::OpenMachines { .. }
                | Action::DrainMachines { .. }
                | Action::UndrainMachines { .. }
                | Action::EndMaintenance { .. }
                | Action::PutPackage { .. }
                | Action::RemovePackage { .. }
                | Action::GrantPrivilege { .. }
                | Action::RevokePrivilege { .. }
                | Action::Settle
                | Action::Advance
                | Action::UpdateJob { .. }
                | Action::SteerUpdate { .. }
                | Action::StopTasks { .. }
                | Action::StartTasks { .. }
                | Action::Lead { .. }
                | Action::Place { .. }
                | Action::Observe { .. },
            )
            | Asked::Read(_)
            | Asked::Again => None,
        }
    }
}

impl World {
    pub(crate) fn begin_clients(&mut self) {
        for index in 0..self.setup.machines {
            self.wish(ADMIN_CLIENT, Asked::Change(add_machine(self, index)));
        }
        for client in TEST_CLIENT + 1..self.clients.joiners {
            let delay = Millis(self.dice.between(500, 3_000));
            self.wake_client(client, delay);
        }
    }

    /// Adds to what a client wants; the number under which its outcome will be known.
    pub(crate) fn wish(&mut self, client: usize, what: Asked) -> u64 {
        let delay = Millis(1);
        let them = &mut self.clients.list[client];
        them.wishes.push_back(what);
        let number = them.asked + number(them.wishes.len());
        if them.current.is_none() {
            self.wake_client(client, delay);
        }
        number
    }

    fn wake_client(&mut self, client: usize, delay: Millis) {
        self.clients.list[client].wakes_at = Some(self.now() + delay);
        self.agenda.after(delay, Happening::ClientWakes { client });
    }

    pub(crate) fn client_wakes(&mut self, client: usize) {
        let now = self.now();
        let them = &mut self.clients.list[client];
        if them.wakes_at.is_none_or(|at| at > now) {
            return;
        }
        them.wakes_at = None;
        let random = client > TEST_CLIENT && client < self.clients.joiners;
        if them.current.is_some() {
            if random && now.since(them.asked_at) > GIVES_UP.0 && self.dice.chance(GIVES_UP.1) {
                self.hit(Mark::ClientGaveUp);
                self.say(|| format!("client {client} gives up without an answer"));
                return self.finish_wish(client);
            }
            // No answer in time: somebody else may know more.
            let them = &mut self.clients.list[client];
            them.target = self.dice.index(self.setup.masters);
            return self.ask(client);
        }
        let Some(what) = them.wishes.pop_front().or_else(|| self.random_wish(client)) else {
            return;
        };
        let must_see = self.checks.durability.acknowledged();
        let them = &mut self.clients.list[client];
        let wish = match (what, them.last.clone()) {
            (Asked::Again, Some(last)) => last,
            (Asked::Again, None) => return self.finish_wish(client),
            (what, _) => {
                them.asked += 1;
                let who = (client, them.asked);
                let about = match &what {
                    Asked::Change(action) => job_history::asked(action, &them.user),
                    Asked::Read(key) => Some((key.clone(), job_history::JobAsked::Read)),
                    Asked::Again => None,
                };
                if let Some((key, asked)) = about {
                    self.checks.history.asked(who, key, asked);
                }
                Wish { number: who.1, what, must_see }
            }
        };
        self.clients.list[client].current = Some(wish);
        self.clients.list[client].asked_at = now;
        self.ask(client);
    }

    fn random_wish(&mut self, client: usize) -> Option<Asked> {
        if client <= TEST_CLIENT || client >= self.clients.joiners || self.faults.is_over() {
            return None;
        }
        let user = self.clients.list[client].user.clone();
        let key = |name: String| JobKey { user: user.clone(), name: name.parse().expect("a name") };
        let name = format!("job{}", self.dice.below(5));
        let dice = &mut self.dice;
        Some(match dice.below(100) {
            0..=54 => {
                let others = [key(format!("job{}", dice.below(5)))];
                let spec = jobs::random(dice, &name, &others);
                let spec = if self.setup.quotas { jobs::loosen_some(spec) } else { spec };
                let spec =
                    if self.setup.drains { jobs::keep_some(jobs::budget_some(spec)) } else { spec };
                Asked::Change(Action::SubmitJob { spec: Arc::new(spec) })
            }
            thrown @ 55..=74 => {
                let tasks = if dice.chance(300) { vec![0] } else { Vec::new() };
                // Nothing more is thrown for these either.
                if thrown < 59 {
                    return Some(Asked::Change(Action::Rerun {
                        job: key(name),
                        tasks: vec![0, 1],
                    }));
                }
                Asked::Change(Action::Kill { job: key(name), tasks })
            }
            thrown @ 75..=89 => {
                let any = TEST_CLIENT + 1 + dice.index(self.clients.joiners - TEST_CLIENT - 1);
                // Nothing more is thrown for these: seeds that are kept go on meeting what they were
                // kept for.
                if thrown == 79 {
                    let alloc = TaskName { job: key(name), index: 0 };
                    let (number, order) = (None, DataOrder::Rescue);
                    return Some(Asked::Change(Action::RescueData { alloc, number, order }));
                }
                if thrown < 80 {
                    let size = AllocSize {
                        cpu_milli: Some(thrown % 5 * 500 + 200),
                        ram_bytes: Some(thrown % 3 * (512 << 20) + (64 << 20)),
                        disk_bytes: None,
                    };
                    let alloc_set = key(name);
                    return Some(Asked::Change(Action::ResizeAllocs {
                        alloc_set,
                        allocs: None,
                        size,
                    }));
                }
                let orders = [CronOrder::Run, CronOrder::Pause, CronOrder::Resume];
                if let Some(order) = orders.get(usize::try_from(thrown - 80).expect("small")) {
                    return Some(Asked::Change(Action::OrderCron {
                        job: key(name),
                        order: *order,
                    }));
                }
                let user = self.clients.list[any].user.clone();
                Asked::Read(JobKey { user, ..key(name) })
            }
            thrown @ 90..=94 => {
                let job = key(name);
                let spec = self.state().job_named(&job).map(|job| job.spec.clone());
                Asked::Change(update(job, spec.as_deref(), thrown))
            }
            _ => Asked::Again,
        })
    }

    /// Sends the client's present wish to the master that it believes in.
    fn ask(&mut self, client: usize) {
        let them = &self.clients.list[client];
        let (user, target) = (them.user.clone(), them.target);
        let Some(wish) = them.current.clone() else { return };
        let what = match wish.what {
            Asked::Change(action) if client >= self.clients.joiners => {
                let id = ReplicaId(number(client - self.clients.joiners) + 1);
                let by = Principal::Master(id);
                Called::Change(Box::new(Command { at: Millis(0), by, request: None, action }))
            }
            Asked::Change(action) => Called::Change(Box::new(Command {
                at: Millis(0),
                by: Principal::User(user.clone()),
                request: Some(RequestId::from(format!("{user}-{client}-{}", wish.number))),
                action,
            })),
            Asked::Read(key) => Called::Read(key),
            Asked::Again => unreachable!("a repetition is the wish that it repeats"),
        };
        self.note(&[30, number(client), wish.number, number(target)]);
        self.say(|| {
            let what = match &what {
                Called::Change(command) => words::wanted(&command.action),
                Called::Read(key) => format!("read {key}"),
            };
            format!(
                "client {client} asks master {}, as {user}, number {}: {what}",
                target + 1,
                wish.number
            )
        });
        let call = Call { client, wish: wish.number, what, must_see: wish.must_see };
        let copies = self.network.outside(&mut self.dice);
        let arrives =
            |call: &Call| Happening::CallArrives { call: Box::new(call.clone()), to: target };
        let first = arrives(&call);
        self.carry(copies, || arrives(&call), first);
        self.wake_client(client, PATIENCE);
    }

    pub(crate) fn call_arrives(&mut self, call: Call, to: usize) {
        let clock = self.master_clock(to);
        let Call { client, wish, what, must_see } = call;
        let Some(process) = &mut self.replicas[to].process else {
            return self.reply(client, wish, Reply::Refused);
        };
        let token = process.next_token;
        process.next_token += 1;
        let deadline = clock + DEADLINE;
        let (input, read) = match what {
            Called::Change(command) => {
                (Input::Propose { token, command: *command, deadline }, None)
            }
            Called::Read(key) => (Input::ReadIndex { token, deadline }, Some((key, must_see))),
        };
        process.calls.insert(token, Waiting { client, wish, read });
        self.tell_master(to, input);
    }

    fn waiting(&mut self, replica: usize, token: u64) -> Option<Waiting> {
        let found = self.replicas[replica]
            .process
            .as_mut()
            .and_then(|process| process.calls.remove(&token));
        if found.is_none() {
            let what = format!("master {} answers call {token} twice", replica + 1);
            self.check(Invariant::OnceOnly, Err(what));
        }
        found
    }

    pub(crate) fn call_done(&mut self, replica: usize, token: u64, outcome: Outcome) {
        let Some(waiting) = self.waiting(replica, token) else { return };
        match &outcome {
            Outcome::Accepted { index, .. } | Outcome::Refused { index, .. } => {
                let lost = |replica: &Replica| replica.joining || replica.disk.is_broken();
                let disks = self.replicas.iter().map(|replica| (&replica.disk, lost(replica)));
                let result = self.checks.durability.is_on_a_majority(*index, replica, disks);
                self.check(Invariant::Durable, result);
            }
            Outcome::Unavailable => self.hit(Mark::OutcomeUnknown),
            Outcome::NotLeader { leader: Some(_) } => self.hit(Mark::AskedFollower),
            Outcome::NotLeader { leader: None }
            | Outcome::Overloaded
            | Outcome::Unsafe { .. }
            | Outcome::TooNew { .. }
            | Outcome::TooLarge { .. }
            | Outcome::Malformed { .. } => {}
        }
        self.reply(waiting.client, waiting.wish, Reply::Outcome(outcome));
    }

    pub(crate) fn read_done(&mut self, replica: usize, token: u64, index: Option<u64>) {
        let Some(waiting) = self.waiting(replica, token) else { return };
        let (Some(process), Some((key, must_see))) =
            (&self.replicas[replica].process, waiting.read)
        else {
            return;
        };
        let state = process.master.state();
        let seen = state.applied();
        let told = index.map(|_| job_history::JobTold::Seen(job_history::seen(state, &key)));
        if index.is_some() {
            self.hit(Mark::ReadConfirmed);
            let result = if seen < must_see {
                Err(format!(
                    "master {} lets a read see entry {seen}, {must_see} was acknowledged before",
                    replica + 1
                ))
            } else {
                Ok(())
            };
            self.check(Invariant::Linearizable, result);
        } else {
            self.hit(Mark::ReadFailed);
        }
        self.reply(waiting.client, waiting.wish, Reply::Read(told));
    }

    fn reply(&mut self, client: usize, wish: u64, reply: Reply) {
        let copies = self.network.outside(&mut self.dice);
        let back = |reply: &Reply| Happening::CallAnswered {
            client,
            attempt: wish,
            reply: Box::new(reply.clone()),
        };
        let first = back(&reply);
        self.carry(copies, || back(&reply), first);
    }

    pub(crate) fn call_answered(&mut self, client: usize, wish: u64, reply: Reply) {
        self.note(&[31, number(client), wish]);
        if let Reply::Outcome(Outcome::Accepted { index, answer }) = &reply {
            self.told(client, wish, *index, Ok(answer.clone()));
        }
        if let Reply::Outcome(Outcome::Refused { index, rejection }) = &reply {
            self.told(client, wish, *index, Err(rejection.clone()));
        }
        if let Reply::Read(Some(told)) = &reply {
            self.say(|| format!("client {client} is told of number {wish}: {told:?}"));
            self.checks.history.told((client, wish), told.clone());
        }
        let them = &mut self.clients.list[client];
        if them.current.as_ref().is_none_or(|current| current.number != wish) {
            return;
        }
        let any = self.dice.index(self.setup.masters);
        let result = match &reply {
            Reply::Outcome(Outcome::Accepted { answer, .. }) => Some(Ok(answer.clone())),
            Reply::Outcome(Outcome::Refused { rejection, .. }) => Some(Err(rejection.clone())),
            Reply::Outcome(_) | Reply::Read(_) | Reply::Refused => None,
        };
        if let Some(result) = result
            && !self.masters_told(client, &result)
        {
            let them = &mut self.clients.list[client];
            let again = them.current.take().map(|wish| wish.what);
            them.wishes.extend(again);
            them.wishes.rotate_right(1);
            return self.wake_client(client, Millis(300));
        }
        match reply {
            Reply::Outcome(Outcome::Accepted { .. } | Outcome::Refused { .. })
            | Reply::Read(Some(_)) => {
                self.finish_wish(client);
            }
            Reply::Outcome(Outcome::NotLeader { leader: Some(leader) }) => {
                self.retry(client, index_of(leader), Millis(5));
            }
            Reply::Outcome(Outcome::NotLeader { leader: None })
            | Reply::Refused
            | Reply::Read(None) => {
                self.retry(client, any, Millis(100));
            }
            // An operator who was told that it is not safe waits until it is.
            Reply::Outcome(Outcome::Unavailable | Outcome::Overloaded | Outcome::Unsafe { .. }) => {
                self.retry(client, any, Millis(50))
            }
            Reply::Outcome(Outcome::TooNew { .. }) => self.finish_wish(client),
            Reply::Outcome(Outcome::TooLarge { bytes, limit }) => {
                let what = format!("a change of {bytes} bytes is more than {limit}");
                self.check(Invariant::OnceOnly, Err(what));
            }
            Reply::Outcome(Outcome::Malformed { why }) => {
                self.check(Invariant::OnceOnly, Err(format!("a change is malformed: {why}")));
            }
        }
    }

    /// Asks another master after a while; the time-out of the last attempt no longer counts.
    fn retry(&mut self, client: usize, target: usize, delay: Millis) {
        self.clients.list[client].target = target;
        self.clients.list[client].wakes_at = Some(self.now() + delay);
        self.agenda.after(delay, Happening::ClientWakes { client });
    }

    /// What follows from the outcome of a change of the masters. False when it has to be asked for
    /// again, since another such change is under way.
    fn masters_told(&mut self, client: usize, result: &Result<Answer, Rejection>) -> bool {
        match result {
            Ok(Answer::Master(id)) if client >= self.clients.joiners => {
                self.joins(client - self.clients.joiners, *id);
            }
            Ok(Answer::Master(id))
                if self.clients.list[client].current.as_ref().is_some_and(|wish| {
                    matches!(wish.what, Asked::Change(Action::InviteMaster { .. }))
                }) =>
            {
                self.invited(*id);
            }
            Err(Rejection::MastersChanging { .. } | Rejection::MasterExists { .. }) => {
                return false;
            }
            Ok(_) | Err(_) => {}
        }
        true
    }

    fn finish_wish(&mut self, client: usize) {
        let pause = Millis(self.dice.between(100, 2_500));
        let them = &mut self.clients.list[client];
        let done = them.current.take();
        if done.as_ref().is_some_and(|wish| matches!(wish.what, Asked::Change(_))) {
            them.last = done;
        }
        let busy = !them.wishes.is_empty();
        self.wake_client(client, if busy || client <= TEST_CLIENT { Millis(1) } else { pause });
    }

    /// A client was told the outcome of a change.
    fn told(&mut self, client: usize, wish: u64, index: u64, result: Result<Answer, Rejection>) {
        let user = self.clients.list[client].user.clone();
        self.checks.history.told((client, wish), job_history::told(&result));
        match self.checks.requests.told((client, wish), &result) {
            Ok(repeated) => {
                if repeated {
                    self.hit(Mark::RequestRepeated);
                }
            }
            Err(what) => self.check(Invariant::OnceOnly, Err(what)),
        }
        let them = &mut self.clients.list[client];
        if them.done.iter().any(|(number, _)| *number == wish) {
            return;
        }
        them.done.push((wish, result.clone()));
        self.note_quota(&result);
        let them = &self.clients.list[client];
        let current = them.current.as_ref().filter(|current| current.number == wish).cloned();
        self.say(|| {
            format!("client {client} is told of number {wish}: {}", words::outcome(&result))
        });
        if let (Some(Wish { what: Asked::Change(action), must_see, .. }), Ok(answer)) =
            (current, result)
        {
            let when = (must_see, index);
            self.checks.durability.acknowledge(when, &user, &action, &answer);
        }
    }

    /// What came of a wish of the test's client, once it is known.
    pub(crate) fn outcome(&self, client: usize, wish: u64) -> Option<&Result<Answer, Rejection>> {
        self.clients.list[client]
            .done
            .iter()
            .find(|(number, _)| *number == wish)
            .map(|(_, result)| result)
    }
}

/// Something to do to a job's tasks one after another, or a word to that. What it is follows from `thrown` and
/// the job's name.
fn update(job: JobKey, spec: Option<&JobSpec>, thrown: u64) -> Action {
    let number = u64::from(*job.name.as_str().as_bytes().last().unwrap_or(&b'0') - b'0');
    let first = || "0".parse().ok();
    let to = match (thrown, number) {
        (94, 4) => return Action::StopTasks { job, tasks: first() },
        (93, 4) => return Action::StartTasks { job, tasks: None },
        (94, _) => {
            let verb = Steer::ALL[usize::try_from(number % 4).unwrap_or(0)];
            return Action::SteerUpdate { job, verb };
        }
        (93, _) => Revision::Version(u32::try_from(number + 1).unwrap_or(1)),
        (91 | 92, _) => {
            let release = spec.map(|spec| release(spec, thrown == 91 && number % 2 == 1));
            release.map_or(Revision::Restart, |spec| Revision::Spec(Arc::new(spec)))
        }
        _ => Revision::Restart,
    };
    let options = UpdateOptions {
        min_healthy_ms: Millis(1_000),
        deadline_ms: Millis(15_000),
        canary: if thrown == 92 { first() } else { None },
        order: Order::Random(number),
        close: number == 4,
        replacement: if number.is_multiple_of(2) {
            Replacement::First
        } else {
            Replacement::ForMoves
        },
        ..UpdateOptions::default()
    };
    Action::UpdateJob { job, to, options: Box::new(options) }
}

/// A new release of a job: it wants more of a processor, and may be bad for as long as faults come. An alloc set
/// stays as it is. As many tasks as there were stay alive.
fn release(spec: &JobSpec, bad: bool) -> JobSpec {
    let mut spec = spec.clone();
    if spec.kind == JobKind::AllocSet {
        return spec;
    }
    let task = Arc::make_mut(&mut spec.task);
    task.limit.cpu_milli = (task.limit.cpu_milli + 50).min(2_000);
    if bad {
        task.command = Play::Moody { failing: 900 }.command();
    }
    spec
}

/// What the admin says to add a machine.
pub(crate) fn add_machine(world: &World, index: usize) -> Action {
    let name = world.machines[index].name.clone();
    Action::AddMachine { machine: MachineAddress { name, address: machine::address(index) } }
}
