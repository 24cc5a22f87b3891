//! What must hold of every state, checked from scratch.
//!
//! Used after each simulated step, when a checkpoint is read, and on a status page. Indexes are
//! rebuilt from what they index and compared; the rest are rules about each noun.

use super::allocs::MAX_TENANTS;
use super::lives::MAX_LIVE_SLOTS;
use super::packages::{MAX_PACKAGES, needed};
use super::privileges::MAX_PRIVILEGES;
use super::quota::{Grant, MAX_GRANTS, MAX_QUOTAS};
use super::{CellState, Job, MAX_KEPT_VERSIONS, Machine, MachineState, Task, Tick};
use borg_proto::command::SERVICES_SINCE;
use borg_proto::cron::MOST_RUNS;
use borg_proto::identity::ADMIN;
use borg_proto::machine::MAX_KEPT_FOR;
use borg_proto::spec::MAX_TASKS;
use borg_proto::task::TaskState;
use borg_proto::{Band, JobId, JobKey, JobKind, MachineId, Millis, TaskId};
use imbl::{OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a state keeps of which the indexes can be made.
pub(crate) const SOUND: &str = "ports are handed out once, and what a part names is there";

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {what}")]
pub struct Violation {
    /// The invariant that is broken.
    pub rule: &'static str,
    /// By what.
    pub what: String,
}

/// Collects what is wrong.
struct Findings(Vec<Violation>);

impl Findings {
    fn check(&mut self, holds: bool, rule: &'static str, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Violation { rule, what: what() });
        }
    }
}

impl CellState {
    /// Everything that is wrong with this state; empty when all is well.
    #[must_use]
    pub fn audit(&self) -> Vec<Violation> {
        let mut found = Findings(Vec::new());
        self.audit_numbers(&mut found);
        for machine in self.machines.values() {
            self.audit_machine(machine, &mut found);
        }
        for job in self.jobs.values() {
            self.audit_job(job, &mut found);
        }
        self.audit_drains(&mut found);
        self.audit_kept(&mut found);
        self.audit_requests(&mut found);
        self.audit_quotas(&mut found);
        self.audit_choices(&mut found);
        self.audit_privileges(&mut found);
        for what in self.audit_runs() {
            found.check(false, "runs of tasks are noted within bounds", || what);
        }
        self.audit_packages(&mut found);
        if found.0.is_empty() {
            // Only a state whose parts are sound can be rebuilt.
            self.audit_indexes(&mut found);
        }
        found.0
    }

    fn audit_numbers(&self, found: &mut Findings) {
        let last = self.machines.get_max().map_or(0, |(id, _)| u64::from(id.0) + 1);
        found.check(last <= self.next_machine.into(), "machine numbers are never reused", || {
            format!("{last} over next {}", self.next_machine)
        });
        let last = self.jobs.get_max().map_or(1, |(id, _)| id.0.saturating_add(1));
        found.check(last <= self.next_job, "job numbers are never reused", || {
            format!("{last} over next {}", self.next_job)
        });
        found.check(self.epoch > 0, "the epoch begins at 1", || self.epoch.to_string());
        if let Some(restored) = &self.restored {
            found.check(
                self.epoch > 1 && self.level > 1,
                "a restored cell has another epoch",
                || format!("epoch {}, level {}, {restored:?}", self.epoch, self.level),
            );
        }
    }

    fn audit_machine(&self, machine: &Machine, found: &mut Findings) {
        let name = || machine.name.to_string();
        let known =
            self.machines.get(&machine.id).is_some_and(|m| std::ptr::eq(m.as_ref(), machine));
        found.check(known, "a machine is filed under its number", name);
        found.check(
            self.machine_names.get(&machine.name) == Some(&machine.id),
            "a machine's name is its own",
            name,
        );
        let capacity = machine.info.as_ref().map(|info| info.capacity.clone()).unwrap_or_default();
        found.check(
            machine.used_by_prod.fits_in(&capacity),
            "prod never stands on lent room",
            || format!("{}: {:?} over {capacity:?}", machine.name, machine.used_by_prod),
        );
        let lends = self.level >= SERVICES_SINCE;
        found.check(
            machine.is_sound(lends),
            "capacity is never exceeded by more than is lent",
            || format!("{}: {:?} over {capacity:?}", machine.name, machine.used),
        );
        let told = machine.told() <= super::MAX_TASKS_ON_A_MACHINE as usize
            && machine.target_bytes <= super::MAX_TARGET_BYTES;
        found.check(told, "what a machine runs goes into one message", || {
            format!("{}: {} tasks, {} bytes", machine.name, machine.told(), machine.target_bytes)
        });
        found.check(
            machine.told() == 0 || machine.state == MachineState::Up,
            "only machines that are up hold tasks",
            name,
        );
        found.check(
            !machine.given_up || machine.state == MachineState::Down,
            "only machines that are down were given up",
            name,
        );
        found.check(
            (machine.state == MachineState::New) <= machine.info.is_none(),
            "a new machine has said nothing",
            name,
        );
        let range = machine.port_range();
        found.check(
            machine.ports.iter().all(|port| range.contains(&u32::from(*port))),
            "ports are of the machine's range",
            name,
        );
        let capacity = machine.info.as_ref().map(|info| &info.capacity);
        found.check(
            capacity.is_none_or(|capacity| machine.devices.is_within(capacity)),
            "devices are the machine's, each given out once",
            name,
        );
    }

    fn audit_drains(&self, found: &mut Findings) {
        for machine in self.draining() {
            let name = || machine.name.to_string();
            let lingers = self.lingering().any(|(there, _)| there == machine.id);
            found.check(
                machine.is_drained() == (self.is_vacated(machine) && !lingers),
                "a machine is drained when nothing is on it",
                name,
            );
            let part = machine.drain.as_ref().and_then(|drain| drain.maintenance);
            found.check(
                part.is_none_or(|number| self.maintenances.contains_key(&number)),
                "a machine is drained for a maintenance that is there",
                name,
            );
        }
        for (number, maintenance) in &self.maintenances {
            let name = || number.to_string();
            found.check(
                maintenance.number == *number && *number <= self.last_maintenance,
                "a maintenance is filed under its number, which is never reused",
                name,
            );
            let out = self.out_for(*number).count();
            let most = usize::try_from(maintenance.at_once).unwrap_or(usize::MAX);
            found.check(
                out > 0 && (maintenance.left.is_empty() || out >= most),
                "as many machines are out for a maintenance as may be",
                || format!("{number}: {out} of {most}, {} left", maintenance.left.len()),
            );
        }
        found.check(
            self.maintenances.len() <= super::MAX_MAINTENANCES,
            "maintenances are few",
            || self.maintenances.len().to_string(),
        );
    }

    fn audit_kept(&self, found: &mut Findings) {
        let mut left = BTreeSet::new();
        for (number, kept) in &self.kept {
            let name = || format!("{number}, of {}", kept.name());
            found.check(
                kept.number == *number && *number <= self.last_kept,
                "kept data is filed under its number, which is never reused",
                name,
            );
            found.check(
                self.machines.contains_key(&kept.machine) && left.insert(kept.alloc),
                "data is kept once, on a machine of the cell",
                name,
            );
            let running = self.task(kept.alloc.task).and_then(|task| task.running(kept.alloc.task));
            found.check(running != Some(kept.alloc), "what is kept was left behind", name);
            let run = kept.run.map(|run| self.job(run));
            found.check(
                run.is_none_or(|run| {
                    run.is_some_and(|run| run.is_alive() && run.rescues() == Some(*number))
                }),
                "the run that saves data is alive, and of this data alone",
                name,
            );
            found.check(
                kept.run.is_none() || kept.bytes.is_some(),
                "data is saved when no task uses it",
                name,
            );
        }
        let many = self.kept_by_machine.values().map(|numbers| numbers.len()).max().unwrap_or(0);
        found.check(
            many <= super::MAX_KEPT_ON_A_MACHINE,
            "what is kept on a machine is bounded",
            || many.to_string(),
        );
    }

    fn audit_job(&self, job: &Job, found: &mut Findings) {
        let name = || job.key.to_string();
        found.check(self.job_keys.get(&job.key) == Some(&job.id), "a job's name is its own", name);
        found.check(job.key.name == job.spec.name, "a job is named as specified", name);
        let slots = match job.spec.kind {
            JobKind::Service | JobKind::Batch | JobKind::AllocSet => job.slots() == job.spec.tasks,
            JobKind::Daemon => job.slots() <= MAX_TASKS,
            JobKind::Cron => job.slots() == 0,
        };
        found.check(slots, "a job has the tasks asked for", name);
        found.check(
            job.versions().map(|version| version.number).is_sorted_by(|a, b| a < b)
                && job.versions().next().is_some_and(|first| first.number > 0)
                && *job.head().spec == *job.spec,
            "versions are in order, and the last one is in force",
            name,
        );
        let mut kept = job.tasks.iter().map(|task| task.version);
        found.check(
            kept.all(|number| job.version(number).is_some()),
            "the version of every task is kept",
            name,
        );
        found.check(
            job.versions.len() <= job.held_versions().count() + MAX_KEPT_VERSIONS,
            "not too many versions are kept",
            name,
        );
        if let Some(update) = job.update() {
            let ends = [update.from, update.to].map(|number| job.version(number).is_some());
            let kept = if update.goes_back() { ends[1] } else { ends == [true, true] };
            found.check(
                kept && job.is_alive() && update.to == job.head().number && update.from < update.to,
                "an open update leads from one version of a live job to the last",
                name,
            );
            let new = |index: u32| {
                job.task(index).is_none_or(|task| task.is_dead() || task.version == update.to)
            };
            let waits = |index: &u32| {
                job.task(*index)
                    .is_none_or(|task| task.placement().is_some() && task.version != update.to)
            };
            found.check(
                update.awaiting.keys().all(waits),
                "what waits for its replacement is placed, and not of the new version",
                name,
            );
            found.check(
                update.moving.indexes().all(new),
                "what is on its way has the new version",
                name,
            );
        }
        // A restored cell adopts what it finds running.
        found.check(
            self.epoch > 1 || job.spec.concurrent.is_none_or(|most| job.counts.running <= most),
            "no more tasks of a job are placed than it lets run at once",
            name,
        );
        let all_dead = job.tasks.iter().all(|task| task.is_dead());
        let over = if job.spec.kind.stands() { job.stopped.is_some() } else { all_dead };
        found.check(
            over == job.ended.is_some() && (all_dead || !over),
            "a job is over when all tasks are dead, one that stands when it was ended",
            name,
        );
        found.check(
            job.stopped.is_none() || job.spec.kind.stands(),
            "only jobs that stand are ended as a whole",
            name,
        );
        self.audit_kind(job, found);
        if let Some((_, end)) = &job.ended {
            found.check(*end == job.verdict(), "a job ended as its tasks did", name);
        }
        let awaits_the_living =
            job.waits_for.iter().all(|id| self.job(*id).is_some_and(Job::is_alive));
        found.check(awaits_the_living, "jobs wait for jobs that are alive", name);
        found.check(
            job.waits_for.iter().all(|first| *first < job.id)
                && (job.ended.is_none() || job.waits_for.is_empty()),
            "jobs wait for older ones, while alive",
            name,
        );
        found.check(
            job.tenants.is_empty()
                || (job.is_alloc_set() && job.is_alive() && job.tenants.len() <= MAX_TENANTS),
            "an alloc set outlives the jobs in it",
            name,
        );
        let set = self.alloc_set_of(job);
        found.check(
            job.spec.alloc_set.is_none() || !job.is_alive() || set.is_some(),
            "a live job's alloc set is there",
            name,
        );
        found.check(
            set.is_none_or(|set| job.priority() <= set.priority()),
            "a job is not above its alloc set",
            name,
        );
        if job.is_alloc_set() {
            self.audit_allocs(job, found);
        }
        let waiting = !job.waits_for.is_empty();
        for (id, task) in self.tasks_of(job.id) {
            self.audit_task(job, id, task, waiting, found);
        }
    }

    fn audit_kind(&self, job: &Job, found: &mut Findings) {
        let name = || job.key.to_string();
        let parent = job.spec.parent.as_ref().and_then(|parent| self.job_named(parent));
        found.check(
            !job.is_alive()
                || job.spec.parent.is_none()
                || parent.is_some_and(|parent| parent.is_alive() && parent.owner() == job.owner()),
            "a live job's parent is alive, and a job of the same user",
            name,
        );
        found.check(
            job.cron.is_some() == job.spec.cron.is_some(),
            "cron jobs have ticks, and others have none",
            name,
        );
        if let (Some(state), Some(cron)) = (job.ticks(), &job.spec.cron) {
            let is_tick = |tick: &Millis| cron.schedule.until(*tick) == Some(*tick);
            found.check(
                state.next.as_ref().is_none_or(is_tick) && (state.next.is_none() || !state.paused),
                "the next tick is one of the schedule, of a cron job that is not paused",
                || format!("{}: {state:?}", job.key),
            );
            let due = state.history.iter().filter(|tick| !tick.ordered).map(|tick| tick.tick);
            found.check(due.is_sorted_by(|one, next| one < next), "a tick comes once", || {
                format!("{}: {state:?}", job.key)
            });
            let live = state.history.iter().filter_map(Tick::alive);
            found.check(
                live.clone().all(|run| self.job(run).is_some_and(Job::is_alive))
                    && live.count() <= MOST_RUNS + state.history.len(),
                "a run that is not over is alive",
                name,
            );
        }
        if job.spec.kind == JobKind::Daemon && job.is_alive() {
            self.audit_daemon(job, found);
        }
        let out = |index: &u32| *index >= job.slots();
        found.check(
            job.dropped.is_empty()
                || job.is_alive() && job.spec.exclusive && job.dropped.keys().all(out),
            "a live exclusive job waits for slots that were taken out",
            name,
        );
        let numbers = job.dropped.values().map(|(_, number)| *number);
        found.check(
            numbers.max().is_none_or(|number| number <= job.retired),
            "what was taken out has retired",
            name,
        );
        let pins = job.tasks.iter().filter(|task| task.pinned.is_some()).count();
        found.check(
            pins == job.homes.len()
                && (pins == 0 || job.spec.kind == JobKind::Daemon || job.rescues.is_some()),
            "a daemon has one slot on a machine",
            name,
        );
        if let Some(number) = job.rescues.filter(|_| job.is_alive()) {
            let kept = self.kept.get(&number).filter(|kept| kept.run == Some(job.id));
            let home = job.home(0).zip(kept.map(|kept| kept.machine));
            found.check(
                home.is_some_and(|(home, data)| home == data),
                "a run that saves data belongs where that is",
                name,
            );
        }
        let savers =
            job.tenants.iter().filter_map(|id| self.job(*id)).filter(|job| job.spec.rescue);
        found.check(savers.count() <= 1, "an alloc set has one log saver at most", name);
    }

    fn audit_daemon(&self, job: &Job, found: &mut Findings) {
        let name = || job.key.to_string();
        let suits = |machine: &Machine| machine.suits(job.owner(), job.spec_on(machine.id));
        for (id, task) in self.tasks_of(job.id) {
            let home = task.pinned.map(|home| self.machine(home));
            let lives = !task.is_dead();
            found.check(
                home.is_none_or(|home| home.is_some()),
                "a daemon's slots are of machines of the cell",
                || format!("{}/{}", job.key, id.index),
            );
            found.check(
                !lives || home.flatten().is_some_and(suits),
                "a daemon runs on machines that will do",
                || format!("{}/{}", job.key, id.index),
            );
            let there = task.placement().is_none_or(|at| Some(at.machine) == task.pinned);
            found.check(there, "a daemon's task is on its machine", || {
                format!("{}/{}", job.key, id.index)
            });
        }
        // A cell that has no room for more slots, or was restored before, may lack some.
        let full = self.live_slots >= MAX_LIVE_SLOTS || job.slots() >= MAX_TASKS;
        let lacks = |machine: &Machine| {
            let slot = job.homes.get(&machine.id).and_then(|index| job.task(*index));
            let away = slot.is_none_or(Task::is_withdrawn);
            suits(machine) && machine.closed.is_none() && away
        };
        found.check(full || !self.machines().any(lacks), "a daemon is on each machine", name);
    }

    fn audit_allocs(&self, set: &Job, found: &mut Findings) {
        for (id, alloc) in self.tasks_of(set.id) {
            let name = || format!("{}/{}", set.key, id.index);
            let place = |task: &Task| task.placement().map(|placement| placement.machine);
            let at_home = |task: &Task| place(task).is_none() || place(task) == place(alloc);
            found.check(
                self.belonging_in(id).all(|(_, task)| at_home(task)),
                "a task in an alloc is where its alloc is",
                name,
            );
            found.check(
                self.used_in_alloc(id).fits_in(&set.spec.task.limit),
                "the tasks in an alloc are within it",
                name,
            );
        }
    }

    fn audit_task(&self, job: &Job, id: TaskId, task: &Task, waiting: bool, found: &mut Findings) {
        let name = || format!("{}/{}", job.key, id.index);
        let last = task.last_place.map_or(0, |(_, incarnation)| incarnation);
        found.check(last <= task.incarnations, "incarnations count placements", name);
        self.audit_successor(job, id, task, found);
        let pending = matches!(task.state, TaskState::Pending { .. });
        found.check(
            !task.lingers || (pending && job.spec.exclusive && task.incarnations > 0),
            "only a pending exclusive task waits for its last incarnation",
            name,
        );
        let may_wait = pending || task.is_withdrawn();
        found.check(may_wait || !task.stopped, "only a task that may come is stopped", name);
        let places: BTreeSet<_> = task.crashes.iter().map(|crash| crash.machine).collect();
        found.check(
            places.len() == task.crashes.len() && places.len() <= super::MAX_CRASHES,
            "a task keeps away from few machines",
            name,
        );
        match &task.state {
            TaskState::Pending { not_before, .. } => {
                found.check(
                    (waiting || task.stopped) == (not_before.0 == u64::MAX),
                    "who waits for jobs or is stopped is held",
                    name,
                );
            }
            TaskState::Running(placement) => {
                found.check(
                    placement.serves_since.is_some()
                        == (self.level >= SERVICES_SINCE && job.serves(id.index, placement)),
                    "it is noted since when a task serves",
                    name,
                );
                found.check(!waiting, "who waits for jobs does not run", name);
                found.check(
                    task.last_place == Some((placement.machine, placement.incarnation)),
                    "the last incarnation is the one that runs",
                    name,
                );
                found.check(
                    self.machine(placement.machine).is_some_and(|m| m.tasks.contains(&id)),
                    "a placed task is on a machine of the cell",
                    name,
                );
                found.check(
                    placement.ports.len() == job.task_spec(id.index).ports.len(),
                    "a placed task has its ports",
                    name,
                );
                let own = job.task_spec(id.index).network.is_own();
                found.check(
                    own || placement.address.is_none(),
                    "only tasks with a network of their own have an address",
                    name,
                );
            }
            TaskState::Dead { .. } => {}
        }
    }

    fn audit_successor(&self, job: &Job, id: TaskId, task: &Task, found: &mut Findings) {
        let Some(successor) = task.successor() else { return };
        let name = || format!("{}/{}", job.key, id.index);
        let placement = &successor.placement;
        let apart = task.placement().is_some_and(|placed| {
            placed.machine != placement.machine && placed.incarnation < placement.incarnation
        });
        found.check(
            apart && placement.incarnation == task.incarnations,
            "only a placed task has a successor, elsewhere and of a higher incarnation",
            name,
        );
        let machine = self.machine(placement.machine);
        found.check(
            machine.is_some_and(|machine| {
                machine.successors.contains(&id)
                    && machine.closed.is_none()
                    && machine.drain.is_none()
            }),
            "a successor is on a machine of the cell that is neither closed nor drained",
            name,
        );
        found.check(job.may_have_successors(), "only tasks of such jobs have successors", name);
        let version = job.version(successor.version);
        found.check(
            version.is_some_and(|version| version.spec.task.ports.len() == placement.ports.len()),
            "a successor's version is kept, and it has its ports",
            name,
        );
        let updated = job.update().is_some_and(|update| update.to == successor.version);
        found.check(
            successor.version == task.version || updated,
            "a successor is of its task's version, or of that of an open update",
            name,
        );
        found.check(
            placement.serves_since.is_some() == job.successor_serves(successor),
            "it is noted since when a successor serves",
            name,
        );
    }

    fn audit_requests(&self, found: &mut Findings) {
        found.check(
            self.requests.is_sound(),
            "requests are remembered once, in order, and not too many",
            || format!("{} remembered", self.requests.len()),
        );
    }

    fn audit_quotas(&self, found: &mut Findings) {
        found.check(!self.enforces_quota(Band::Free), "the free band is open", String::new);
        for (user, band, grants) in self.quotas() {
            let lasting = grants.iter().all(|grant| !grant.is_over(grant.from));
            let apart = |pair: &[Grant]| pair[0].is_over(pair[1].from);
            found.check(
                band != Band::Free
                    && (1..=MAX_GRANTS).contains(&grants.len())
                    && lasting
                    && grants.windows(2).all(apart),
                "of a user and band one grant is in force at a time",
                || format!("{user} {band}: {grants:?}"),
            );
        }
        found.check(
            self.quotas.grants.len() <= MAX_QUOTAS,
            "not too many users have quota",
            || self.quotas.grants.len().to_string(),
        );
    }

    /// How the scheduler chooses, and whose tasks it may place where.
    fn audit_choices(&self, found: &mut Findings) {
        let weights = self.policy.unwrap_or_default().weights;
        found.check(weights == weights.bounded(), "weights are within their bounds", || {
            format!("{weights:?}")
        });
        let numbers = self.reclaims().numbers;
        found.check(numbers == numbers.bounded(), "what is lent is within its bounds", || {
            format!("{numbers:?}")
        });
        for machine in self.machines() {
            let kept = machine.kept_for.as_ref();
            found.check(
                kept.is_none_or(|users| (1..=MAX_KEPT_FOR).contains(&users.len())),
                "a machine is kept for some users, and not too many",
                || machine.name.to_string(),
            );
        }
    }

    fn audit_privileges(&self, found: &mut Findings) {
        found.check(
            self.privileges.len() <= MAX_PRIVILEGES,
            "not too many users have privileges",
            || self.privileges.len().to_string(),
        );
        for (user, privilege, granted) in self.privileges() {
            found.check(
                user.as_str() != ADMIN && granted.at <= self.clock,
                "privileges are granted once, and to others than admin",
                || format!("{user} {privilege}: {granted:?}"),
            );
        }
    }

    fn audit_packages(&self, found: &mut Findings) {
        let packages = &self.packages.all;
        found.check(packages.len() <= MAX_PACKAGES, "not too many packages", || {
            packages.len().to_string()
        });
        for (key, record) in packages {
            let sound = record.package.key == *key && record.package.check().is_ok();
            found.check(sound, "a package is within its bounds", || key.to_string());
        }
    }

    fn audit_indexes(&self, found: &mut Findings) {
        let mut rebuilt = self.clone();
        let clashes = rebuilt.rebuild();
        found.check(clashes.is_empty(), SOUND, || clashes.join(", "));
        for (id, machine) in &self.machines {
            let sum = rebuilt.machine(*id);
            found.check(sum == Some(machine), "a machine's sums are those of its tasks", || {
                format!("{machine:?} against {sum:?}")
            });
        }
        for (id, job) in &self.jobs {
            let sum = rebuilt.job(*id);
            found.check(sum == Some(job), "a job's sums are those of its tasks", || {
                format!(
                    "{}: {:?}, {:?}, {:?}, {:?}",
                    job.key, job.counts, job.dependents, job.tenants, job.crowds
                )
            });
        }
        found.check(self.daemons == rebuilt.daemons, "live daemons are indexed", || {
            format!("{:?} against {:?}", self.daemons, rebuilt.daemons)
        });
        let mine = (&self.machine_names, &self.job_keys, &self.pending, &self.dead_jobs);
        let sums =
            (&rebuilt.machine_names, &rebuilt.job_keys, &rebuilt.pending, &rebuilt.dead_jobs);
        found.check(
            self.lingering == rebuilt.lingering,
            "tasks that may still run somewhere are indexed",
            || format!("{:?} against {:?}", self.lingering, rebuilt.lingering),
        );
        found.check(
            self.draining == rebuilt.draining,
            "machines that are drained are indexed",
            || format!("{:?} against {:?}", self.draining, rebuilt.draining),
        );
        found.check(
            self.kept_by_machine == rebuilt.kept_by_machine,
            "kept data is indexed by its machine",
            || format!("{:?} against {:?}", self.kept_by_machine, rebuilt.kept_by_machine),
        );
        found.check(self.alarms == rebuilt.alarms, "alarms follow from jobs and machines", || {
            format!("{:?} against {:?}", self.alarms, rebuilt.alarms)
        });
        found.check(mine == sums, "indexes agree with what they index", || {
            format!("{mine:?} against {sums:?}")
        });
        found.check(
            self.packages.users == rebuilt.packages.users,
            "packages are held by the live jobs that name them",
            || format!("{:?} against {:?}", self.packages.users, rebuilt.packages.users),
        );
        found.check(
            self.quotas.used == rebuilt.quotas.used,
            "used quota is the sum of the limits of live tasks",
            || format!("{:?} against {:?}", self.quotas.used, rebuilt.quotas.used),
        );
        found.check(
            (self.live_slots, self.dead_slots) == (rebuilt.live_slots, rebuilt.dead_slots),
            "slots are counted",
            || format!("{} alive, {} dead", self.live_slots, self.dead_slots),
        );
    }

    /// Makes all indexes and sums anew from machines and jobs. Names ports that two tasks have,
    /// tasks on machines that are not there, and packages that are not there.
    pub(crate) fn rebuild(&mut self) -> Vec<String> {
        let mut clashes = Vec::new();
        let mut machines: BTreeMap<MachineId, Machine> = BTreeMap::new();
        for (id, machine) in &self.machines {
            let machine = machine.as_ref();
            let bare = Machine::new(
                machine.id,
                machine.name.clone(),
                machine.address.clone(),
                machine.since,
            );
            let (state, info, next_port) = (machine.state, machine.info.clone(), machine.next_port);
            let given_up = machine.given_up;
            let (kept_for, closed) = (machine.kept_for.clone(), machine.closed.clone());
            let drain = machine.drain.clone();
            let machine =
                Machine { state, info, next_port, given_up, kept_for, closed, drain, ..bare };
            machines.insert(*id, machine);
        }
        let mut dependents: BTreeMap<JobId, BTreeSet<JobId>> = BTreeMap::new();
        let mut tenants: BTreeMap<JobKey, BTreeSet<JobId>> = BTreeMap::new();
        let mut children: BTreeMap<JobKey, BTreeSet<JobId>> = BTreeMap::new();
        let mut daemons = OrdSet::new();
        let (mut jobs, mut pending, mut lingering) = (Vec::new(), Vec::new(), Vec::new());
        self.quotas.used = OrdMap::new();
        self.packages.users = OrdMap::new();
        self.live_slots = 0;
        self.dead_slots = 0;
        for job in self.jobs.values() {
            let mut bare = job.as_ref().clone();
            bare.counts = Default::default();
            bare.dependents = BTreeSet::new();
            bare.tenants = BTreeSet::new();
            bare.children = BTreeSet::new();
            bare.run_out = OrdSet::new();
            bare.succeeded = OrdSet::new();
            bare.homes = OrdMap::new();
            bare.vacant = OrdSet::new();
            bare.recount_versions();
            bare.time_update();
            bare.crowds = bare.spec.task.spread.iter().map(|_| OrdMap::new()).collect();
            for (task, index) in job.tasks.iter().zip(0..) {
                let id = TaskId { job: job.id, index };
                bare.counts.add(&task.state);
                if matches!(task.state, TaskState::Pending { .. }) {
                    pending.push(id);
                }
                if task.lingers {
                    lingering.push(id);
                }
                match task.pinned {
                    Some(machine) => drop(bare.homes.insert(machine, index)),
                    None if bare.spec.kind == JobKind::Daemon => drop(bare.vacant.insert(index)),
                    None => {}
                }
                let Some(placement) = task.placement() else { continue };
                let Some(machine) = machines.get_mut(&placement.machine) else {
                    clashes.push(format!(
                        "task {id} is on machine {}, which is not there",
                        placement.machine.0
                    ));
                    continue;
                };
                for port in
                    placement.machine_ports().iter().filter(|port| machine.ports.contains(port))
                {
                    clashes.push(format!(
                        "port {port} of machine {} is given to {id} too",
                        machine.name
                    ));
                }
                super::tasks::seat(&mut bare, machine, id, placement);
                let Some(successor) = task.successor() else { continue };
                let on = successor.placement.machine;
                match machines.get_mut(&on) {
                    Some(machine) => {
                        super::successors::seat_successor(&mut bare, machine, id, successor);
                    }
                    None => clashes.push(format!(
                        "the successor of task {id} is on machine {}, which is not there",
                        on.0
                    )),
                }
            }
            let dropped = job.dropped.keys().map(|index| TaskId { job: job.id, index: *index });
            lingering.extend(dropped);
            for (owner, each) in bare.charges() {
                self.quotas.charge(owner, &each, bare.counts.alive());
            }
            if let (None, Some(key)) = (&job.ended, &job.spec.alloc_set) {
                tenants.entry(key.clone()).or_default().insert(job.id);
            }
            if let (None, Some(key)) = (&job.ended, &job.spec.parent) {
                children.entry(key.clone()).or_default().insert(job.id);
            }
            if job.ended.is_none() && job.spec.kind == JobKind::Daemon {
                daemons.insert(job.id);
            }
            for awaited in &job.waits_for {
                dependents.entry(*awaited).or_default().insert(job.id);
            }
            match job.ended {
                None => {
                    self.live_slots += u64::from(job.slots());
                    for key in needed(&bare) {
                        if !self.packages.all.contains_key(&key) {
                            clashes.push(format!(
                                "job {} names package {key}, which is not there",
                                job.key
                            ));
                        }
                        self.packages.users.entry(key).or_default().insert(job.id);
                    }
                }
                Some(_) => self.dead_slots += u64::from(job.slots()),
            }
            jobs.push(bare);
        }
        for job in &mut jobs {
            job.dependents = dependents.remove(&job.id).unwrap_or_default();
            job.tenants = tenants.remove(&job.key).unwrap_or_default();
            job.children = children.remove(&job.key).unwrap_or_default();
        }
        self.machine_names = machines.values().map(|m| (m.name.clone(), m.id)).collect();
        self.job_keys = jobs.iter().map(|job| (job.key.clone(), job.id)).collect();
        self.dead_jobs = jobs.iter().filter_map(|job| Some((job.ended_at()?, job.id))).collect();
        self.pending = OrdSet::from_iter(pending);
        self.daemons = daemons;
        self.kept_by_machine = OrdMap::new();
        for kept in self.kept.values() {
            let on_it = self.kept_by_machine.entry(kept.machine).or_default();
            on_it.insert(kept.number);
        }
        self.lingering = OrdSet::from_iter(lingering);
        self.draining = machines.values().filter(|m| m.drain.is_some()).map(|m| m.id).collect();
        self.machines = machines.into_iter().map(|(id, machine)| (id, Arc::new(machine))).collect();
        self.jobs = jobs.into_iter().map(|job| (job.id, Arc::new(job))).collect();
        self.wind_alarms();
        clashes
    }
}
