//! What a change would do to those who run in a cell: who would be pushed out, who would wait or wait longer.
//!
//! Two copies of the cell live on for a while in virtual time, one with the change and one without; what differs is
//! the change's doing. In both, the production scheduler decides and the production state machine carries out, at
//! each moment at which one of them has something to do.
//!
//! Nobody's work ends in that time, as nobody knows when it would; whoever is placed serves at once, and tasks lend what
//! they lend at the beginning, if that was told. Both copies agree in that.
//!
//! Invariant: the cell that is asked about does not change.

use crate::answer::{Answer, Axis, Chart, Column, Table, Value};
use crate::driven::Driven;
use crate::sources::loaded::Loaded;
use crate::{Error, parallel};
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::state::CellState;
use borg_proto::command::{Action, Principal};
use borg_proto::{Band, JobKey, Millis, TaskId};
use borg_scheduler::Scheduler;
use std::collections::BTreeMap;

/// Affected tasks that are named one by one; the sums count all. 200: our choice, more than a person reads.
const NAMED: usize = 200;
/// Jobs of which it is found out what they wait for; each look tries the whole cell. 20: our choice.
const EXPLAINED: usize = 20;
/// Moments that are looked at, at most. 10,000: our choice, far over what an hour of a cell has in which nothing
/// ends.
const MOMENTS: usize = 10_000;

/// What would be done to a cell.
#[derive(Debug, Clone)]
pub struct Change {
    /// For people.
    pub name: String,
    /// The entries, in order.
    pub entries: Vec<(Principal, Action)>,
}

/// A task by a name that means the same in both copies.
type Named = (JobKey, u32);

/// What became of a task in one copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Fate {
    /// Why it was pushed out, each time.
    evicted: Vec<String>,
    /// How often it went on elsewhere without an interruption.
    moved: u32,
    /// How long it waited for a place, until the end if it waits still.
    waited_ms: u64,
    /// Whether it waits in the end.
    waits: bool,
}

/// A copy that lives on.
struct Fork {
    cell: Driven,
    scheduler: Scheduler,
    since: BTreeMap<TaskId, Millis>,
    fates: BTreeMap<TaskId, Fate>,
}

/// What a change would do within some time.
///
/// # Errors
/// When the cell refuses the change, or state and scheduler disagree.
pub fn check(
    loaded: &Loaded,
    change: &Change,
    within: Millis,
    threads: usize,
) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let none = Change { name: String::new(), entries: Vec::new() };
    let scheduler = loaded.scheduler(&state);
    let lived = parallel::each(&[&none, change], threads, |change| {
        Fork::live(&state, scheduler.clone(), change, within)
    });
    let [before, after] = <[_; 2]>::try_from(lived).map_err(|_| "two copies were made")?;
    let (before, after) = (before?, after?);
    let affected = affected(&before, &after);
    let mut summary = vec![told(&affected)];
    if state.safe_mode().is_some() {
        summary.insert(0, "The cell is in safe mode: nothing moves until that ends.".to_owned());
    }
    let parameters = vec![
        ("change".to_owned(), change.name.clone()),
        ("within_ms".to_owned(), within.0.to_string()),
    ];
    let bands = by(&affected, |one| one.band);
    Ok(Answer {
        question: "check".to_owned(),
        provenance: loaded.provenance_of_scheduler(Vec::new(), parameters),
        summary,
        tables: vec![bands_table(&bands), jobs_table(&affected), tasks_table(&affected)],
        charts: vec![Chart::Bars {
            name: "bands".to_owned(),
            title: "Tasks affected, by band".to_owned(),
            y: Axis { label: "tasks".to_owned(), unit: String::new() },
            parts: ["pushed out", "moved", "waiting"].map(str::to_owned).into(),
            bars: bands.iter().map(|(band, sums)| (band.to_string(), sums.bar())).collect(),
            stacked: false,
        }],
    })
}

impl Fork {
    /// Makes the change in a copy and lets that live on.
    fn live(
        state: &CellState,
        scheduler: Scheduler,
        change: &Change,
        within: Millis,
    ) -> Result<Self, Error> {
        let cell = Driven::of_state(state.clone());
        let since = state.pending().map(|task| (task, cell.now())).collect();
        let mut fork = Self { cell, scheduler, since, fates: BTreeMap::new() };
        let until = Millis(fork.cell.now().0.saturating_add(within.0));
        for (by, action) in &change.entries {
            fork.cell.apply(by.clone(), action.clone())?;
        }
        fork.live_until(until)?;
        for task in fork.cell.state.pending() {
            let fate = fork.fates.entry(task).or_default();
            fate.waited_ms += fork.since.get(&task).map_or(0, |since| until.since(*since).0);
            fate.waits = true;
        }
        Ok(fork)
    }

    fn live_until(&mut self, until: Millis) -> Result<(), Error> {
        for _ in 0..MOMENTS {
            self.decide()?;
            let now = self.cell.now();
            let alarm = self.cell.state.next_alarm();
            let next = alarm.into_iter().chain(self.scheduler.next_wakeup(now)).min();
            let Some(next) = next.filter(|next| *next <= until) else { return Ok(()) };
            self.cell.wait(next.since(now).0.max(1));
            if alarm.is_some_and(|at| at <= self.cell.now()) {
                self.cell.apply(self.cell.leader(), Action::Advance)?;
            }
        }
        Err(format!("something happens at more than {MOMENTS} moments: ask about a shorter time")
            .into())
    }

    /// All that is decided at this moment.
    fn decide(&mut self) -> Result<(), Error> {
        self.follow();
        while self.cell.decide(&mut self.scheduler)?.is_some() {
            self.cell.serve_placed()?;
            self.follow();
        }
        Ok(())
    }

    fn follow(&mut self) {
        let news = self.cell.tell(&mut self.scheduler);
        news.iter().for_each(|event| self.note(event));
    }

    fn note(&mut self, event: &Event) {
        let now = self.cell.now();
        if let EventKind::JobSubmitted(job) = &event.kind {
            let tasks = self.cell.state.tasks_of(*job).map(|(task, _)| (task, now));
            self.since.extend(tasks);
        }
        let EventKind::TaskChanged { task, change, .. } = &event.kind else { return };
        if let TaskChange::Evicted(cause) = change {
            self.fates.entry(*task).or_default().evicted.push(cause.to_string());
            self.since.insert(*task, now);
        } else if let TaskChange::Placed { .. } = change {
            let since = self.since.remove(task).unwrap_or(now);
            self.fates.entry(*task).or_default().waited_ms += now.since(since).0;
        } else if let TaskChange::Replaced { .. } = change {
            self.fates.entry(*task).or_default().moved += 1;
        }
    }

    /// All fates by names that mean the same in both copies.
    fn named(&self) -> BTreeMap<Named, (TaskId, &Fate)> {
        let key = |task: &TaskId| Some(self.cell.state.job(task.job)?.key.clone());
        let named = |(task, fate)| Some(((key(task)?, task.index), (*task, fate)));
        self.fates.iter().filter_map(named).collect()
    }
}

/// A task to which something happens because of the change.
struct Affected {
    name: Named,
    band: Band,
    /// Whether the change brings it.
    new: bool,
    evicted: Vec<String>,
    moved: u32,
    /// How much longer it waits.
    longer_ms: u64,
    waits: bool,
    why: String,
}

impl Affected {
    /// What happens to it, in words.
    fn what(&self) -> String {
        let mut parts: Vec<String> =
            self.evicted.iter().map(|cause| format!("pushed out: {cause}")).collect();
        if self.moved > 0 {
            parts.push("moved without an interruption".to_owned());
        }
        if self.waits {
            parts.push(format!("waits: {}", self.why));
        }
        parts.join("; ")
    }
}

/// All tasks that fare worse with the change than without, and new ones that wait, by name.
fn affected(before: &Fork, after: &Fork) -> Vec<Affected> {
    let (old, untouched) = (before.named(), Fate::default());
    let mut why = BTreeMap::new();
    let mut all = Vec::new();
    for (name, (task, fate)) in after.named() {
        let then = old.get(&name).map_or(&untouched, |(_, fate)| fate);
        let Some(job) = after.cell.state.job(task.job) else { continue };
        let mut one = Affected {
            band: job.priority().band(),
            new: before.cell.state.job_named(&name.0).is_none_or(|old| old.id != job.id),
            evicted: fate.evicted.get(then.evicted.len()..).unwrap_or_default().to_vec(),
            moved: fate.moved.saturating_sub(then.moved),
            longer_ms: fate.waited_ms.saturating_sub(then.waited_ms),
            waits: fate.waits && !then.waits,
            why: String::new(),
            name,
        };
        if one.waits {
            let asked = why.len();
            let explain = || match asked < EXPLAINED {
                true => after.scheduler.explain(task, after.cell.now()).summary,
                false => "not looked into".to_owned(),
            };
            one.why = why.entry(task.job).or_insert_with(explain).clone();
        }
        if !one.evicted.is_empty() || one.moved > 0 || one.waits || one.longer_ms > 0 {
            all.push(one);
        }
    }
    all
}

/// How many tasks, of a band or a job.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    evicted: u64,
    moved: u64,
    waiting: u64,
    longest_ms: u64,
}

impl Sums {
    fn add(&mut self, one: &Affected) {
        self.evicted += u64::from(!one.evicted.is_empty());
        self.moved += u64::from(one.moved > 0);
        self.waiting += u64::from(one.waits);
        self.longest_ms = self.longest_ms.max(one.longer_ms);
    }

    fn bar(self) -> Vec<f64> {
        #[expect(clippy::cast_precision_loss, reason = "counts of tasks are small")]
        [self.evicted, self.moved, self.waiting].map(|count| count as f64).into()
    }

    fn values(self) -> [Value; 4] {
        [self.evicted, self.moved, self.waiting, self.longest_ms].map(Value::Count)
    }
}

fn by<K: Ord>(affected: &[Affected], key: impl Fn(&Affected) -> K) -> BTreeMap<K, Sums> {
    let mut all = BTreeMap::<K, Sums>::new();
    affected.iter().for_each(|one| all.entry(key(one)).or_default().add(one));
    all
}

fn told(affected: &[Affected]) -> String {
    let mut sums = Sums::default();
    affected.iter().for_each(|one| sums.add(one));
    let prod = affected.iter().filter(|one| one.band.is_prod() && !one.new);
    let prod = prod.filter(|one| !one.evicted.is_empty() || one.waits).count();
    if affected.is_empty() {
        return "Nobody is pushed out, nobody waits longer.".to_owned();
    }
    format!(
        "{} tasks are pushed out, {} move without an interruption, {} wait that would not; {prod} of production or monitoring that is there are pushed out or wait.",
        sums.evicted, sums.moved, sums.waiting
    )
}

fn columns(first: &[&str]) -> Vec<Column> {
    let counts = ["pushed_out", "moved", "waiting"];
    let longest = Column::of("waits_longer", "ms");
    first.iter().copied().chain(counts).map(Column::plain).chain([longest]).collect()
}

fn bands_table(bands: &BTreeMap<Band, Sums>) -> Table {
    let row = |(band, sums): (&Band, &Sums)| {
        std::iter::once(Value::Text(band.to_string())).chain(sums.values()).collect()
    };
    Table {
        name: "bands".to_owned(),
        title: "Tasks affected, by band".to_owned(),
        columns: columns(&["band"]),
        rows: bands.iter().map(row).collect(),
    }
}

fn jobs_table(affected: &[Affected]) -> Table {
    let jobs = by(affected, |one| (one.name.0.clone(), one.band, one.new));
    let row = |((job, band, new), sums): (&(JobKey, Band, bool), &Sums)| {
        let new = if *new { "new" } else { "runs" };
        let names = [job.to_string(), band.to_string(), new.to_owned()].map(Value::Text);
        names.into_iter().chain(sums.values()).collect()
    };
    Table {
        name: "jobs".to_owned(),
        title: "Tasks affected, by job".to_owned(),
        columns: columns(&["job", "band", "is"]),
        rows: jobs.iter().map(row).collect(),
    }
}

fn tasks_table(affected: &[Affected]) -> Table {
    let row = |one: &Affected| {
        let name = format!("{}/{}", one.name.0, one.name.1);
        vec![name.into(), one.band.to_string().into(), one.what().into(), one.longer_ms.into()]
    };
    let all = affected.len();
    let title = match all > NAMED {
        true => format!("The first {NAMED} of {all} tasks affected"),
        false => "Tasks affected".to_owned(),
    };
    let columns = ["task", "band", "what"].map(Column::plain).into_iter();
    Table {
        name: "tasks".to_owned(),
        title,
        columns: columns.chain([Column::of("waits_longer", "ms")]).collect(),
        rows: affected.iter().take(NAMED).map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::user;
    use borg_proto::identity::ADMIN;
    use borg_proto::reclamation::Amounts;
    use borg_proto::{JobSpec, UserName};
    use borg_scheduler::Config;
    use borg_scheduler::recording::Begin;
    use borg_sim::job;
    use std::sync::Arc;

    /// Two machines of 4 cores, with as many tasks of a core at work as told.
    fn cell(tasks: u32) -> Loaded {
        let work = crate::questions::compact::tests::work(2, vec![core_each(tasks)]);
        let loaded = Loaded::of_work("test".to_owned(), work);
        let state = loaded.state().unwrap();
        assert_eq!(state.pending_len(), 0);
        Loaded::cell("test".to_owned(), state, None)
    }

    fn core_each(tasks: u32) -> JobSpec {
        job("old").tasks(tasks).limit(1_000, 4).priority(100).spec()
    }

    fn submitted(spec: JobSpec) -> Change {
        let by = Principal::User(UserName::new("ann").unwrap());
        let entries = vec![(by, Action::SubmitJob { spec: Arc::new(spec) })];
        Change { name: "submit".to_owned(), entries }
    }

    fn asked(cell: &Loaded, change: &Change) -> Answer {
        check(cell, change, Millis::from_secs(600), 2).unwrap()
    }

    #[test]
    fn a_job_that_fits_harms_nobody() {
        let answer = asked(&cell(6), &submitted(job("new").tasks(2).limit(1_000, 4).spec()));
        assert_eq!(answer.summary, ["Nobody is pushed out, nobody waits longer."]);
        assert!(answer.tables.iter().all(|table| table.rows.is_empty()), "{answer:?}");
    }

    #[test]
    fn production_that_needs_room_pushes_out_as_many_as_it_takes_and_they_wait() {
        let change = submitted(job("new").tasks(2).limit(1_000, 4).priority(200).spec());
        let answer = asked(&cell(8), &change);
        assert_eq!(answer.tables[0].rows.len(), 1, "only the batch band: {answer:?}");
        let band = &answer.tables[0].rows[0];
        assert_eq!(band[..4], ["batch".into(), 2_u64.into(), 0_u64.into(), 2_u64.into()]);
        assert_eq!(answer, check(&cell(8), &change, Millis::from_secs(600), 1).unwrap());
    }

    /// The cell of [`cell`], of which the leader's scheduler had been told more.
    fn known(tasks: u32, tell: impl FnOnce(&CellState, &mut Scheduler)) -> Loaded {
        let state = cell(tasks).state().unwrap();
        let mut scheduler = Scheduler::new(&state, Config::default());
        tell(&state, &mut scheduler);
        let known = Begin::of(&scheduler, state.applied());
        Loaded::cell("test".to_owned(), state, Some(known))
    }

    /// In a cell that is full by limits.
    #[test]
    fn what_tasks_lend_is_room_for_others() {
        let lending = known(8, |state, scheduler| {
            let running = state.jobs().flat_map(|job| state.tasks_of(job.id));
            let running = running.filter_map(|(id, task)| task.running(id));
            let half = Amounts::of([500, 0, 0]);
            scheduler.lend(&running.map(|id| (id, half)).collect::<Vec<_>>());
        });
        let new =
            |priority| submitted(job("new").tasks(4).limit(1_000, 4).priority(priority).spec());
        let waits = |answer: Answer| answer.summary[0].contains("wait");
        assert!(waits(asked(&cell(8), &new(100))));
        let answer = asked(&lending, &new(100));
        assert_eq!(answer.summary, ["Nobody is pushed out, nobody waits longer."]);
        assert!(answer.provenance.notes[0].starts_with("8 tasks lend"), "{answer:?}");
        assert_ne!(cell(8).digest, lending.digest);
    }

    #[test]
    fn a_machine_that_does_not_answer_takes_nobody() {
        let silent = known(4, |state, scheduler| {
            scheduler.avoid(state.machines().map(|machine| machine.id).collect());
        });
        let new = submitted(job("new").limit(1_000, 4).spec());
        assert_eq!(asked(&cell(4), &new).summary, ["Nobody is pushed out, nobody waits longer."]);
        assert_ne!(asked(&silent, &new).summary, ["Nobody is pushed out, nobody waits longer."]);
    }

    #[test]
    fn a_machine_that_is_removed_leaves_those_waiting_who_find_no_other() {
        let machine = "m0".parse().unwrap();
        let entries = vec![(user(ADMIN), Action::RemoveMachine { machine })];
        let answer = asked(&cell(6), &Change { name: "remove m0".to_owned(), entries });
        let sums = &answer.tables[0].rows[0];
        // 6 tasks on two machines of 4: whatever stood on the one, 2 are too many for the other.
        assert_eq!(sums[3], Value::Count(2), "{answer:?}");
        assert!(answer.tables[2].rows[0].len() == 4 && !answer.tables[2].rows.is_empty());
    }

    #[test]
    fn a_change_that_the_cell_refuses_is_refused() {
        let machine = "m-9".parse().unwrap();
        let entries = vec![(user(ADMIN), Action::RemoveMachine { machine })];
        let change = Change { name: "remove m-9".to_owned(), entries };
        let refused = check(&cell(1), &change, Millis(1), 1).unwrap_err();
        assert!(refused.to_string().contains("m-9"), "{refused}");
    }
}
