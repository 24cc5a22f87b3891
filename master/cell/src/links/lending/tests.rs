use super::*;
use crate::fixture::{Cell, alloc_set, batch, master, service, user, with_task};
use crate::links::Config;
use borg_proto::command::{Action, Assignment, LEVEL};
use borg_proto::peer::MachineDelta;
use borg_proto::poll::{TaskReport, Usage};
use borg_proto::reclamation::NumberSet;
use borg_proto::{Band, Health, JobSpec, ReplicaId, TaskId};

const MIB: u64 = 1 << 20;

/// A leader of a cell with one machine of ten cores, and what the machine says.
struct Rig {
    cell: Cell,
    machine: MachineId,
    links: Links,
    said: BTreeMap<IncarnationId, TaskReport>,
    seq: u64,
}

impl Rig {
    fn new() -> Self {
        let mut cell = Cell::new();
        cell.apply(master(), Action::RaiseLevel { level: LEVEL }).unwrap();
        let bands = Band::ALL.into_iter().filter(|band| *band != Band::Free).collect();
        cell.apply(user("admin"), Action::EnforceQuota { bands, on: false }).unwrap();
        let machine = cell.machine("m-1", 10_000, 10_000 * MIB);
        let links = leader(&cell);
        Self { cell, machine, links, said: BTreeMap::new(), seq: 0 }
    }

    /// A task of the job runs on the machine from now on, for which so much is lent.
    fn runs(&mut self, spec: JobSpec, lent: u64) -> IncarnationId {
        let task = TaskId { job: self.cell.submit("ann", spec), index: 0 };
        let lent = Amounts::of([lent, 0, 0]);
        let one = Assignment { lent, ..Assignment::new(task, self.machine) };
        let assignments = vec![one];
        self.cell.apply(master(), Action::Place { assignments }).unwrap();
        let id = self.cell.state.task(task).unwrap().running(task).unwrap();
        self.starts(id, 0);
        id
    }

    /// A process of it starts now.
    fn starts(&mut self, id: IncarnationId, restarts: u32) {
        let report = TaskReport {
            id,
            status: TaskStatus::Up { pid: 7, since: self.cell.now },
            restarts,
            last_failure: None,
            usage: Usage::default(),
            ports: Vec::new(),
            health: Health::Unchecked,
            status_line: String::new(),
            last_run: None,
            start: None,
            address: None,
        };
        self.said.insert(id, report);
        self.tell();
    }

    /// The machine says everything.
    fn tell(&mut self) {
        self.seq += 1;
        let machine = self.cell.state.machine(self.machine).unwrap();
        let delta = MachineDelta {
            machine: machine.name.clone(),
            seq: self.seq,
            full: true,
            reachable: true,
            obeyed: 1,
            info: machine.info.as_deref().cloned(),
            tasks: self.said.values().cloned().collect(),
            gone: Vec::new(),
            data: None,
        };
        self.links.links.get_mut(&self.machine).unwrap().fold(self.cell.now, delta);
    }

    fn uses(&mut self, id: IncarnationId, cpu_milli: u64) {
        let usage = Usage { cpu_milli, ram_bytes: 10 * MIB, ..Usage::default() };
        self.links.usage.insert(id, usage);
        self.links.lending.hears(id);
    }

    /// Time passes, and what is news by its end.
    fn wait(&mut self, secs: u64) -> BTreeMap<IncarnationId, u64> {
        for _ in 0..secs {
            self.cell.now = self.cell.now + Millis(1_000);
            let now = self.cell.now;
            self.links.reckon(now, now, &self.cell.state);
        }
        self.links.lent_news().into_iter().map(|(id, lent)| (id, lent.cpu_milli)).collect()
    }

    /// Who has to go.
    fn goes(&mut self) -> Vec<IncarnationId> {
        let gone = |observation| match observation {
            Observation::TaskReclaimed { id } => Some(id),
            _ => None,
        };
        std::mem::take(&mut self.links.other).into_iter().filter_map(gone).collect()
    }

    fn reserved(&self, id: IncarnationId) -> Option<u64> {
        self.links.reserved(self.machine, id).map(|reserved| reserved.cpu_milli)
    }
}

fn leader(cell: &Cell) -> Links {
    Links::new(Config::default(), ReplicaId(1), 1, &cell.state, &BTreeMap::new(), cell.now)
}

fn web(name: &str, cpu_milli: u64) -> JobSpec {
    service(name, 1, cpu_milli, 100 * MIB)
}

#[test]
fn what_a_task_does_not_need_is_lent_after_the_hold_and_told_in_steps() {
    let mut rig = Rig::new();
    let id = rig.runs(web("web", 8_000), 0);
    rig.uses(id, 1_000);
    assert_eq!(rig.wait(299), BTreeMap::new(), "it is held");
    assert_eq!(rig.reserved(id), Some(8_000));
    let told = rig.wait(61);
    assert!(told[&id] >= 312, "a 32nd of the machine at least: {told:?}");
    assert!(rig.reserved(id).unwrap() < 8_000);
    let told = rig.wait(3_600);
    assert_eq!(told[&id], 8_000 - 1_300, "all but use, a quarter and what may go unseen");
    assert_eq!(rig.wait(3_600), BTreeMap::new(), "nothing is news any more");
}

/// What is needed by day is not lent by night, and of two that need it at other hours not both at once.
#[test]
fn a_cell_that_remembers_a_day_lends_what_its_tasks_do_not_need_together() {
    let mut rig = Rig::new();
    let daily = Action::SetReclamation { named: Some(NumberSet::Daily), numbers: [].into() };
    rig.cell.apply(user("admin"), daily).unwrap();
    let (early, late) = (rig.runs(web("early", 4_000), 0), rig.runs(web("late", 4_000), 0));
    let mut lent = BTreeMap::new();
    // An hour in which use changes tells of much that spreads.
    let until_the_hour = 3_600 - rig.cell.now.0 / 1_000 % 3_600;
    rig.wait(until_the_hour);
    for half_day in 0..4 {
        let (busy, quiet) = if half_day % 2 == 0 { (early, late) } else { (late, early) };
        rig.uses(busy, 3_000);
        rig.uses(quiet, 1_000);
        lent.extend(rig.wait(12 * 3_600));
        if half_day == 0 {
            // Of the day before nothing is known: as with baseline, use, a quarter and what may go unseen; and 2 % of that.
            assert_eq!(rig.reserved(quiet), Some(1_328));
        }
    }
    // 4,000 of both at every hour of the last day, though each needs 3,000 at its worst; what is used now is there.
    assert_eq!((rig.reserved(early), rig.reserved(late)), (Some(1_080), Some(3_003)));
    assert_eq!(lent[&early] + lent[&late], 8_000 - 4_083);
    rig.uses(early, 3_900);
    rig.uses(late, 3_900);
    rig.wait(5);
    assert_eq!(rig.reserved(early), Some(3_979), "what is used now is never lent");
    let back = Action::SetReclamation { named: Some(NumberSet::Baseline), numbers: [].into() };
    rig.cell.apply(user("admin"), back).unwrap();
    rig.uses(early, 1_000);
    rig.wait(3_600);
    assert_eq!(rig.reserved(early), Some(1_300), "and nothing is remembered");
}

/// A day's knowledge outlasts a back-off, but what a process does first says nothing, nor does silence.
#[test]
fn what_is_remembered_of_a_task_stays_while_it_is_started_again_and_counts_after_the_hold() {
    let mut rig = Rig::new();
    let daily = Action::SetReclamation { named: Some(NumberSet::Daily), numbers: [].into() };
    rig.cell.apply(user("admin"), daily).unwrap();
    let (web, other) = (rig.runs(web("web", 4_000), 0), rig.runs(web("other", 4_000), 0));
    rig.uses(web, 1_000);
    rig.uses(other, 1_000);
    rig.wait(26 * 3_600);
    assert_eq!(rig.reserved(web), Some(1_021));
    let until = rig.cell.now + Millis(60_000);
    let report = rig.said.get_mut(&web).unwrap();
    report.status = TaskStatus::BackOff { until };
    rig.tell();
    rig.wait(60);
    assert_eq!(rig.reserved(web), None, "nothing is lent of who is not up");
    rig.starts(web, 1);
    rig.uses(web, 1_000);
    rig.wait(290);
    assert_eq!(rig.reserved(web), Some(4_000));
    rig.wait(20);
    assert_eq!(rig.reserved(web), Some(1_021), "and what it did the day before is known");
    rig.links.usage.remove(&web);
    rig.wait(5);
    assert_eq!(rig.reserved(web), Some(4_000));
    // Who leaves takes nothing from who stays.
    rig.cell.kill("ann", "ann/web", &[]).unwrap();
    rig.wait(5);
    assert_eq!(rig.reserved(other), Some(1_022));
}

#[test]
fn a_task_that_uses_more_gets_it_back_at_once() {
    let mut rig = Rig::new();
    let id = rig.runs(web("web", 8_000), 0);
    rig.uses(id, 1_000);
    rig.wait(7_200);
    rig.uses(id, 5_000);
    rig.links.reckon(rig.cell.now, rig.cell.now, &rig.cell.state);
    let news = rig.links.lent_news();
    assert_eq!(
        news.iter().map(|(id, lent)| (*id, lent.cpu_milli)).collect::<Vec<_>>(),
        [(id, 1_700)]
    );
    rig.starts(id, 1);
    assert_eq!(rig.wait(10)[&id], 0, "another process is held at its limit again");
}

#[test]
fn allocs_what_is_in_them_and_what_keeps_its_limit_lend_nothing() {
    let mut rig = Rig::new();
    let kept = with_task(web("kept", 2_000), |task| task.reclaim = false);
    let kept = JobSpec { name: "kept".parse().unwrap(), ..kept };
    let id = rig.cell.apply(user("admin"), Action::SubmitJob { spec: kept.into() }).unwrap();
    let crate::state::Answer::Job { id: job, .. } = id.answer else { panic!("a job") };
    rig.cell.place(job, 0, rig.machine).unwrap();
    let set = rig.runs(alloc_set("room", 1, 2_000, 100 * MIB), 0);
    let inside = rig.runs(crate::fixture::within(web("inside", 1_000), "ann/room"), 0);
    let kept = IncarnationId { task: TaskId { job, index: 0 }, number: 1 };
    rig.starts(kept, 0);
    for id in [kept, set, inside] {
        rig.uses(id, 100);
    }
    assert_eq!(rig.wait(7_200), BTreeMap::new());
    let (_, sums) = rig.links.reservations().next().unwrap();
    assert_eq!(sums.prod.limits.cpu_milli, 4_000, "the alloc and what keeps its limit");
    assert_eq!(sums.prod.reserved.cpu_milli, 4_000);
    assert_eq!(sums.prod.used.cpu_milli, 300);
}

#[test]
fn a_new_leader_lends_what_was_lent_for_long_as_soon_as_it_hears_of_use() {
    let mut rig = Rig::new();
    let id = rig.runs(web("web", 8_000), 0);
    rig.uses(id, 1_000);
    let before = rig.wait(7_200)[&id];
    rig.links = leader(&rig.cell);
    rig.seq = 0;
    assert_eq!(rig.wait(10), BTreeMap::new(), "it knows nothing");
    assert_eq!(rig.reserved(id), None);
    rig.tell();
    assert_eq!(rig.wait(10), BTreeMap::new(), "nor what is used");
    rig.uses(id, 1_000);
    assert_eq!(rig.wait(10)[&id], before);
}

/// Prod needs its room back: what stands on it goes, one after another, the least important first.
#[test]
fn lent_room_that_is_needed_for_long_is_taken_back_from_others_than_prod() {
    let mut rig = Rig::new();
    let prod = rig.runs(web("web", 8_000), 0);
    let rest = ["a", "b", "c"].map(|name| rig.runs(batch(name, 1, 3_000, 100 * MIB), 7_000));
    for id in rest {
        rig.uses(id, 2_500);
    }
    rig.uses(prod, 500);
    rig.wait(3_600);
    assert_eq!(rig.goes(), [], "it fits");
    rig.uses(prod, 7_100);
    rig.wait(290);
    assert_eq!(rig.goes(), [], "a peak is none that lasts");
    rig.wait(20);
    assert_eq!(rig.goes(), [rest[2]], "the youngest of the least important");
    rig.cell.observe(Observation::TaskReclaimed { id: rest[2] });
    rig.wait(50);
    assert_eq!(rig.goes(), []);
    rig.wait(20);
    assert_eq!(rig.goes(), [rest[1]]);
    rig.cell.observe(Observation::TaskReclaimed { id: rest[1] });
    rig.wait(70);
    assert_eq!(rig.goes(), [rest[0]]);
    rig.cell.observe(Observation::TaskReclaimed { id: rest[0] });
    rig.wait(3_600);
    assert_eq!(rig.goes(), [], "prod never, though it needs all");
}

/// Whoever uses nothing would lose its place for nothing, and the next one a minute later.
#[test]
fn who_uses_the_room_goes_and_not_who_only_holds_it() {
    let mut rig = Rig::new();
    let prod = rig.runs(web("web", 8_000), 0);
    let little = rig.runs(batch("little", 1, 3_000, 100 * MIB), 7_000);
    let much = rig.runs(batch("much", 1, 3_000, 100 * MIB), 7_000);
    let idle = rig.runs(batch("idle", 1, 3_000, 100 * MIB), 7_000);
    for (id, uses) in [(prod, 7_900), (little, 200), (much, 2_000), (idle, 0)] {
        rig.uses(id, uses);
    }
    rig.wait(310);
    assert_eq!(rig.goes(), [much], "it makes most room");
    rig.cell.observe(Observation::TaskReclaimed { id: much });
    rig.uses(prod, 9_500);
    rig.wait(3_600);
    assert_eq!(rig.goes(), [], "prod uses at most its limit, which is there");
}

#[test]
fn a_cell_that_lends_no_longer_says_so_of_each_task() {
    let mut rig = Rig::new();
    let id = rig.runs(web("web", 8_000), 0);
    rig.uses(id, 1_000);
    rig.wait(7_200);
    let off = Action::SetReclamation { named: Some(NumberSet::Off), numbers: [].into() };
    rig.cell.apply(user("admin"), off).unwrap();
    assert_eq!(rig.wait(10), [(id, 0)].into());
    assert_eq!(rig.reserved(id), None);
    let on = Action::SetReclamation { named: Some(NumberSet::Aggressive), numbers: [].into() };
    rig.cell.apply(user("admin"), on).unwrap();
    assert_eq!(rig.wait(10)[&id], 8_000 - 1_150);
}

/// Each look is at a part of the machines, and all have their turn.
#[test]
fn every_machine_is_looked_at_within_a_round() {
    let mut rig = Rig::new();
    for number in 0..120 {
        rig.cell.machine(&format!("x-{number}"), 1_000, 100 * MIB);
    }
    let mut seen = BTreeSet::new();
    let mut looks = 0;
    while seen.len() < 121 {
        let now = rig.cell.now;
        let due = rig.links.lending.due(now, &rig.cell.state);
        assert!(due.len() <= 3, "{}", due.len());
        seen.extend(due);
        rig.cell.now = now + LOOK;
        looks += 1;
        assert!(looks <= 50, "a round has as many looks: {}", seen.len());
    }
}
