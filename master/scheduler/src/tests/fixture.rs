//! A cell to schedule in: the real state machine, driven by hand.

use crate::Scheduler;
use borg_cell::event::Event;
use borg_cell::state::{Answer, Applied, CellState, Machine, Task};
use borg_proto::command::{Action, Assignment, Command, Observation, Principal};
use borg_proto::machine::MachineAddress;
use borg_proto::reclamation::Amounts;
use borg_proto::{
    IncarnationId, JobKey, JobKind, JobSpec, MachineId, MachineInfo, Millis, Priority, ReplicaId,
    Resources, TaskId, TaskSpec, TaskState,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const GIB: u64 = 1 << 30;
/// No bound on the decisions of a pass.
pub(super) const EVERYTHING: usize = usize::MAX;

/// A cell, its log, and what happened since a scheduler was last told.
#[derive(Clone)]
pub(super) struct Cell {
    pub(super) state: CellState,
    pub(super) now: Millis,
    pub(super) news: Vec<Event>,
    /// What incarnations lend, as a leader believes.
    pub(super) lent: BTreeMap<IncarnationId, Amounts>,
    /// What of that the scheduler has not been told.
    pub(super) lent_news: Vec<(IncarnationId, Amounts)>,
    jobs: u32,
}

impl Cell {
    pub(super) fn new() -> Self {
        let state = CellState::new("lab".parse().unwrap());
        let (news, lent, lent_news) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut cell = Self { state, now: Millis(1_000_000), news, lent, lent_news, jobs: 0 };
        cell.master(Action::Lead { leader: ReplicaId(1), term: 1 });
        cell
    }

    pub(super) fn apply(&mut self, by: Principal, action: Action) -> Option<Answer> {
        let command = Command { at: self.now, by, request: None, action };
        let Applied { events, answer } =
            self.state.apply(self.state.applied() + 1, &command).ok()?;
        self.news.extend(events);
        Some(answer)
    }

    pub(super) fn master(&mut self, action: Action) -> Option<Answer> {
        self.apply(Principal::Master(ReplicaId(1)), action)
    }

    pub(super) fn user(&mut self, user: &str, action: Action) -> Option<Answer> {
        self.apply(Principal::User(user.parse().unwrap()), action)
    }

    pub(super) fn observe(&mut self, change: Observation) {
        self.master(Action::Observe { changes: vec![change] });
    }

    pub(super) fn add_machine(&mut self, info: MachineInfo) -> MachineId {
        let name =
            format!("m{}", self.state.machines().last().map_or(0, |m| m.id.0 + 1)).parse().unwrap();
        let machine = MachineAddress { name, address: "127.0.0.1:1".into() };
        let Some(Answer::Machine(id)) = self.user("admin", Action::AddMachine { machine }) else {
            panic!("machine added")
        };
        self.observe(Observation::MachineUp { machine: id, info });
        id
    }

    pub(super) fn submit(&mut self, user: &str, mut spec: JobSpec) -> JobKey {
        spec.name = format!("j{}", self.jobs).parse().unwrap();
        self.jobs += 1;
        let Some(Answer::Job { key, .. }) =
            self.user(user, Action::SubmitJob { spec: Arc::new(spec) })
        else {
            panic!("job accepted")
        };
        key
    }

    /// Commits decisions; each must be accepted, as nothing moved since they were made.
    pub(super) fn place(&mut self, assignments: &[Assignment]) {
        if assignments.is_empty() {
            return;
        }
        let Some(Answer::Placed { results }) =
            self.master(Action::Place { assignments: assignments.to_vec() })
        else {
            panic!("decisions are taken one by one")
        };
        for (result, assignment) in results.iter().zip(assignments) {
            if let Err(refusal) = result {
                panic!("{assignment:?} refused: {refusal}");
            }
        }
        assert_eq!(results.len(), assignments.len());
    }

    pub(super) fn tell(&mut self, scheduler: &mut Scheduler) {
        scheduler.follow(self.state.clone(), &self.news);
        self.news.clear();
        scheduler.lend(&std::mem::take(&mut self.lent_news));
    }

    /// The leader believes from now on that an incarnation does not need so many hundredths of its limit.
    pub(super) fn lend(&mut self, id: IncarnationId, percent: u32) {
        let lent = Amounts::from(&self.spec(id.task).task.limit).percent(percent);
        self.lent.insert(id, lent);
        self.lent_news.push((id, lent));
    }

    /// What an incarnation lends: nothing of an alloc, nor of what takes its room from one.
    pub(super) fn lent_by(&self, id: IncarnationId) -> Amounts {
        let spec = self.spec(id.task);
        let lends =
            self.state.lends() && spec.alloc_set.is_none() && spec.kind != JobKind::AllocSet;
        self.lent.get(&id).copied().filter(|_| lends).unwrap_or_default()
    }

    /// What those who stand on a machine lend, without some.
    pub(super) fn lent_on(&self, machine: &Machine, gone: &[IncarnationId]) -> Amounts {
        let ids = machine.tasks.iter().filter_map(|task| self.state.task(*task)?.running(*task));
        let staying = ids.filter(|id| !gone.contains(id));
        staying.fold(Amounts::default(), |sum, id| sum.plus(self.lent_by(id)))
    }

    /// What takes room of a machine: tasks and successors.
    pub(super) fn stand_on(&self, machine: &Machine) -> Vec<IncarnationId> {
        let tasks = machine.tasks.iter().filter_map(|task| self.state.task(*task)?.running(*task));
        tasks.chain(self.successors().into_iter().filter(|id| self.is_on(*id, machine))).collect()
    }

    fn is_on(&self, id: IncarnationId, machine: &Machine) -> bool {
        self.state.placed_as(id).is_some_and(|(placement, _)| placement.machine == machine.id)
    }

    pub(super) fn successors(&self) -> Vec<IncarnationId> {
        let tasks = self.state.jobs().flat_map(|job| self.state.tasks_of(job.id));
        let number = |task: &Task| Some(task.successor()?.placement.incarnation);
        tasks
            .filter_map(|(task, found)| Some(IncarnationId { task, number: number(found)? }))
            .collect()
    }

    /// What an incarnation asks for, as the version that it runs.
    pub(super) fn asked_by(&self, id: IncarnationId) -> Resources {
        self.state.placed_as(id).map(|(_, version)| version.spec.asked()).unwrap_or_default()
    }

    /// Whether an incarnation stands as prod does: the version that it runs says so.
    pub(super) fn is_prod_as(&self, id: IncarnationId) -> bool {
        self.state.placed_as(id).is_some_and(|(_, version)| version.is_prod())
    }

    /// Whether a task, or the successor that it waits for, is to stand as prod does.
    pub(super) fn is_to_be_prod(&self, id: TaskId) -> bool {
        let job = self.state.job(id.job).unwrap();
        let next = self.state.awaits_successor(id).and_then(|next| job.version(next));
        next.unwrap_or_else(|| job.version_of(id.index)).is_prod()
    }

    pub(super) fn running(&self) -> Vec<IncarnationId> {
        let tasks = self.state.jobs().flat_map(|job| self.state.tasks_of(job.id));
        tasks.filter_map(|(id, task)| task.running(id)).collect()
    }

    /// Pending tasks that may go now.
    pub(super) fn ready(&self) -> Vec<TaskId> {
        self.state.pending().filter(|id| self.not_before(*id) <= self.now).collect()
    }

    pub(super) fn not_before(&self, id: TaskId) -> Millis {
        match self.state.task(id).unwrap().state {
            TaskState::Pending { not_before, .. } => not_before,
            TaskState::Running(_) | TaskState::Dead { .. } => panic!("{id} is pending"),
        }
    }

    pub(super) fn priority(&self, id: TaskId) -> Priority {
        self.state.job(id.job).unwrap().spec.priority
    }

    /// Whether a decision about a task is about one that stands somewhere: it leaves, or is replaced.
    pub(super) fn moves(&self, task: TaskId) -> bool {
        self.state.leaves(task) || self.state.awaits_successor(task).is_some()
    }

    /// What a task, or the successor that it waits for, asks for: what it takes is its version's to say, the rest
    /// the newest one's.
    pub(super) fn wanted(&self, id: TaskId) -> Arc<JobSpec> {
        let job = self.state.job(id.job).unwrap();
        let Some(next) = self.state.awaits_successor(id) else { return self.spec(id) };
        let task = job.version(next).unwrap().spec.task.clone();
        Arc::new(JobSpec { task, ..job.spec.as_ref().clone() })
    }

    /// What a task asks for: what it takes is its version's to say, the rest the newest one's.
    pub(super) fn spec(&self, id: TaskId) -> Arc<JobSpec> {
        let job = self.state.job(id.job).unwrap();
        let task = job.task_spec(id.index).clone();
        Arc::new(JobSpec { task, ..job.spec.as_ref().clone() })
    }
}

pub(super) fn info(cpu_milli: u64, ram_gib: u64, rack: Option<u32>, gpus: u64) -> MachineInfo {
    let devices =
        if gpus > 0 { BTreeMap::from([("gpu".into(), gpus * 1000)]) } else { BTreeMap::new() };
    let mut attributes = BTreeMap::from([(
        "arch".into(),
        if cpu_milli.is_multiple_of(2000) { "a" } else { "b" }.into(),
    )]);
    attributes.extend(rack.map(|rack| ("rack".into(), format!("r{rack}"))));
    attributes.extend(rack.map(|rack| ("power".into(), format!("p{}", rack / 2))));
    MachineInfo {
        capacity: Resources {
            cpu_milli,
            ram_bytes: ram_gib * GIB,
            disk_bytes: 100 * GIB,
            ports: 4,
            devices,
        },
        first_port: 20_000,
        attributes,
        boot_id: "b".into(),
        missing_isolation: Vec::new(),
        task_host: "127.0.0.1".into(),
    }
}

pub(super) fn job(tasks: u32, priority: u64, cpu_milli: u64, ram_gib: u64) -> JobSpec {
    JobSpec {
        name: "unnamed".parse().unwrap(),
        kind: JobKind::Batch,
        tasks,
        priority: Priority::new(priority).unwrap(),
        appclass: None,
        task: Arc::new(TaskSpec {
            command: vec!["/bin/true".into()],
            env: BTreeMap::new(),
            limit: Resources { cpu_milli, ram_bytes: ram_gib * GIB, ..Resources::default() },
            ports: Vec::new(),
            constraints: Vec::new(),
            spread: Vec::new(),
            volumes: Vec::new(),
            grace_ms: Millis(0),
            memory: borg_proto::spec::MemoryLimit::Hard,
            cpu_cap_milli: None,
            health: None,
            image: None,
            packages: Vec::new(),
            network: borg_proto::Network::Host,
            loosen: BTreeSet::new(),
            reclaim: true,
        }),
        after: Vec::new(),
        retries: 3,
        exclusive: false,
        alloc_set: None,
        gang: false,
        concurrent: None,
        parent: None,
        max_failures: 0,
        timeout_ms: None,
        deadline_ms: None,
        cron: None,
        labels: BTreeMap::new(),
        disruption: None,
        task_labels: Vec::new(),
        keep_data_ms: None,
        rescue: false,
    }
}

/// An alloc set with the shape of a job.
pub(super) fn allocs(job: JobSpec) -> JobSpec {
    let set = JobSpec { kind: JobKind::AllocSet, retries: 0, concurrent: None, ..job };
    with(set, |task| {
        task.command.clear();
        task.ports.clear();
        task.network = borg_proto::Network::Host;
    })
}

/// The job in an alloc set, with nothing that belongs to the set.
pub(super) fn within(job: JobSpec, set: &JobKey) -> JobSpec {
    let job = JobSpec { alloc_set: Some(set.clone()), gang: false, concurrent: None, ..job };
    with(job, |task| {
        task.constraints.clear();
        task.spread.clear();
        task.limit.devices.clear();
    })
}

pub(super) fn with(mut job: JobSpec, change: impl FnOnce(&mut TaskSpec)) -> JobSpec {
    change(Arc::make_mut(&mut job.task));
    job
}
