use super::*;
use crate::fixture::{Cell, alloc_set, batch, info, master, service, user, within};
use crate::state::JobState;
use crate::state::kept::tests::keeping;
use borg_proto::command::{Action, Observation};
use borg_proto::machine::MAX_DRAIN_TIME;
use borg_proto::{Band, FailureCause, IncarnationId, Priority, Resources};

const MIB: u64 = 1 << 20;

fn saver(name: &str) -> JobSpec {
    JobSpec { rescue: true, ..within(service(name, 1, 100, 4 * MIB), "ann/room") }
}

/// Two machines; a set of two allocs with a server and a log saver, the first alloc on the first machine.
struct Rig {
    cell: Cell,
    set: JobId,
    machines: [MachineId; 2],
    alloc: IncarnationId,
}

fn rig() -> Rig {
    let mut cell = Cell::at_level(6);
    let machines = ["m-1", "m-2"].map(|name| cell.machine(name, 2000, 64 * MIB));
    let set = cell.submit("ann", keeping("room", 1));
    let alloc = cell.place(set, 0, machines[0]).unwrap();
    let server = cell.submit("ann", within(service("server", 1, 100, 4 * MIB), "ann/room"));
    let saver = cell.submit("ann", saver("saver"));
    for job in [server, saver] {
        let id = cell.place(job, 0, machines[0]).unwrap();
        cell.up(id);
    }
    Rig { cell, set, machines, alloc }
}

impl Rig {
    /// The first machine is drained, and the alloc moves to the second one.
    fn moved(&mut self, within: u64) {
        self.drain(within);
        self.cell.place(self.set, 0, self.machines[1]).unwrap();
    }

    fn drain(&mut self, within: u64) {
        let machines = vec!["m-1".parse().unwrap()];
        let (reason, within) = ("kernel".to_owned(), Millis(within));
        let drain =
            Action::DrainMachines { machines, reason, within, at_once: None, leaves: Some(1) };
        self.cell.apply(user("admin"), drain).unwrap();
    }

    fn at_rest(&mut self) {
        let (machine, alloc) = (self.machines[0], self.alloc);
        self.cell.observe(Observation::DataAtRest { machine, alloc, bytes: 5 });
    }

    fn run(&self) -> Option<JobId> {
        self.cell.state.kept().next()?.run
    }

    fn drained(&self) -> bool {
        self.cell.state.machine(self.machines[0]).unwrap().is_drained()
    }

    fn advance(&mut self, ms: u64) {
        self.cell.wait(ms);
        self.cell.apply(master(), Action::Advance).unwrap();
    }
}

#[test]
fn what_a_moved_alloc_left_is_saved_where_it_is_though_its_machine_is_drained() {
    let mut rig = rig();
    rig.moved(3_600_000);
    assert_eq!(rig.run(), None, "tasks may still use it");
    assert!(!rig.drained());
    rig.at_rest();
    let run = rig.run().unwrap();
    let job = rig.cell.state.job(run).unwrap();
    assert_eq!((job.key.to_string(), job.rescues()), ("ann/saver-rescue-1".to_owned(), Some(1)));
    assert_eq!((job.spec.kind, job.home(0)), (JobKind::Batch, Some(rig.machines[0])));
    let elsewhere = rig.cell.place(run, 0, rig.machines[1]).unwrap_err();
    assert!(elsewhere.to_string().ends_with("belongs on machine m-1, not on m-2"), "{elsewhere}");
    let id = rig.cell.place(run, 0, rig.machines[0]).unwrap();
    assert!(!rig.drained());
    rig.cell.ended(id, None);
    assert_eq!(rig.cell.state.job(run).unwrap().state(), JobState::Finished);
    assert_eq!(rig.cell.state.kept().count(), 0, "the room is free at once");
    assert!(rig.drained());
    assert_eq!(rig.cell.state.audit(), []);
}

#[test]
fn a_run_that_fails_is_tried_again_until_the_time_is_over() {
    let mut rig = rig();
    rig.moved(MAX_DRAIN_TIME.0);
    rig.at_rest();
    let run = rig.run().unwrap();
    for _ in 0..3 {
        let id = rig.cell.place(run, 0, rig.machines[0]).unwrap();
        rig.cell.ended(id, Some(FailureCause::Exit { code: 1 }));
        assert_eq!(rig.run(), Some(run), "one run, however often it is retried");
        rig.cell.wait(300_000);
    }
    rig.advance(3_600_000);
    assert_eq!(rig.cell.state.kept().count(), 0);
    assert_eq!(rig.cell.state.job(run).unwrap().state(), JobState::Killed);
    assert!(rig.drained());
}

#[test]
fn a_deadline_comes_before_what_is_not_saved_and_the_run_goes_on_when_the_machine_is_back() {
    let mut rig = rig();
    rig.moved(60_000);
    rig.at_rest();
    let run = rig.run().unwrap();
    let id = rig.cell.place(run, 0, rig.machines[0]).unwrap();
    rig.advance(60_000);
    assert!(!rig.drained(), "the run ends");
    rig.cell.observe(Observation::TaskGone { id });
    assert!(rig.drained(), "the deadline decides");
    let refused = rig.cell.place(run, 0, rig.machines[0]).unwrap_err();
    assert_eq!(refused.to_string(), "machine m-1 is closed to new tasks: drained: kernel");
    assert_eq!(
        rig.cell.state.kept_data(1).unwrap().note(&rig.cell.state),
        "waits until its machine is drained no more"
    );
    assert_eq!(rig.cell.state.audit(), []);
    let machines = vec!["m-1".parse().unwrap()];
    rig.cell.apply(user("admin"), Action::UndrainMachines { machines }).unwrap();
    let id = rig.cell.place(run, 0, rig.machines[0]).unwrap();
    rig.cell.ended(id, None);
    assert_eq!(rig.cell.state.kept().count(), 0);
}

#[test]
fn data_that_is_left_at_the_deadline_holds_nobody_up() {
    let mut rig = rig();
    rig.drain(60_000);
    rig.advance(60_000);
    assert!(rig.drained());
    let kept = rig.cell.state.kept().next().unwrap();
    assert!(kept.overdue && kept.awaits_rescue());
}

#[test]
fn a_killed_run_is_made_again_only_when_somebody_asks() {
    let mut rig = rig();
    rig.moved(3_600_000);
    rig.at_rest();
    rig.cell.kill("ann", "ann/saver-rescue-1", &[]).unwrap();
    assert_eq!(rig.run(), None);
    assert!(rig.drained(), "nothing will come of it by itself");
    rig.advance(600_000);
    assert_eq!(rig.run(), None);
    let kept = rig.cell.state.kept_data(1).unwrap();
    assert_eq!(kept.note(&rig.cell.state), "killed by ann");
    let rerun = Action::Rerun { job: "ann/saver-rescue-1".parse().unwrap(), tasks: vec![0] };
    let refused = rig.cell.apply(user("ann"), rerun).unwrap_err().to_string();
    assert!(refused.contains("borgctl rescue says what becomes of that"), "{refused}");
    let now = |rig: &mut Rig| {
        let (alloc, order) = ("ann/room/0".parse().unwrap(), DataOrder::Rescue);
        rig.cell.apply(user("ann"), Action::RescueData { alloc, number: None, order }).unwrap();
    };
    now(&mut rig);
    let run = rig.run().unwrap();
    let id = rig.cell.place(run, 0, rig.machines[0]).unwrap();
    rig.cell.ended(id, Some(FailureCause::Exit { code: 1 }));
    assert!(rig.cell.place(run, 0, rig.machines[0]).is_err(), "it waits out its back-off");
    now(&mut rig);
    rig.cell.place(run, 0, rig.machines[0]).unwrap();
    assert_eq!(rig.cell.state.audit(), []);
}

#[test]
fn dropped_data_ends_its_run_with_it() {
    let mut rig = rig();
    rig.moved(3_600_000);
    rig.at_rest();
    let run = rig.run().unwrap();
    rig.cell.place(run, 0, rig.machines[0]).unwrap();
    let (alloc, order) = ("ann/room/0".parse().unwrap(), DataOrder::Drop);
    rig.cell.apply(user("ann"), Action::RescueData { alloc, number: None, order }).unwrap();
    assert_eq!(rig.cell.state.job(run).unwrap().state(), JobState::Killed);
    assert_eq!(rig.cell.state.kept().count(), 0);
    assert_eq!(rig.cell.state.audit(), []);
}

#[test]
fn the_log_saver_that_was_killed_before_its_set_saves_all_the_same() {
    let mut rig = rig();
    for job in ["ann/server", "ann/saver", "ann/room"] {
        rig.cell.kill("ann", job, &[]).unwrap();
    }
    rig.at_rest();
    let run = rig.run().unwrap();
    let id = rig.cell.place(run, 0, rig.machines[0]).unwrap();
    rig.cell.ended(id, None);
    assert_eq!(rig.cell.state.kept().count(), 0);
}

#[test]
fn a_log_saver_that_comes_later_saves_what_nobody_saved() {
    let mut cell = Cell::at_level(6);
    let machine = cell.machine("m-1", 2000, 64 * MIB);
    let set = cell.submit("ann", keeping("room", 1));
    let alloc = cell.place(set, 0, machine).unwrap();
    cell.observe(Observation::MachineDown { machine });
    cell.observe(Observation::MachineUp { machine, info: info(2000, 64 * MIB, &[]) });
    cell.observe(Observation::DataAtRest { machine, alloc, bytes: 5 });
    let kept = cell.state.kept_data(1).unwrap();
    assert_eq!(kept.note(&cell.state), "no job of the alloc set rescues");
    let (of, order) = ("ann/room/0".parse().unwrap(), DataOrder::Rescue);
    let now = Action::RescueData { alloc: of, number: None, order };
    let refused = cell.apply(user("ann"), now).unwrap_err().to_string();
    assert_eq!(refused, "no job of alloc set ann/room rescues: submit one with rescue = True");
    cell.submit("ann", saver("saver"));
    cell.apply(master(), Action::Advance).unwrap();
    assert!(cell.state.kept_data(1).unwrap().run.is_some());
    assert_eq!(cell.state.audit(), []);
}

#[test]
fn a_set_has_one_log_saver_and_one_that_keeps_nothing_has_none() {
    let mut rig = rig();
    let two = rig.cell.try_submit("ann", saver("another")).unwrap_err().to_string();
    assert_eq!(
        two,
        "rescue: job ann/saver rescues in alloc set ann/room already, and one is enough"
    );
    rig.cell.submit("ann", alloc_set("plain", 1, 100, 8 * MIB));
    let spec = JobSpec { alloc_set: Some("ann/plain".parse().unwrap()), ..saver("another") };
    let none = rig.cell.try_submit("ann", spec).unwrap_err().to_string();
    assert_eq!(
        none,
        "rescue: alloc set ann/plain keeps no data: give it keep_data, or leave rescue out"
    );
}

#[test]
fn a_full_quota_costs_no_data() {
    let mut rig = rig();
    let band = Priority::new(100).unwrap().band();
    let spec = saver("saver");
    assert_ne!(spec.priority.band(), Band::Free);
    let amount = Resources { cpu_milli: 1, ram_bytes: 4 * MIB, ..Resources::default() };
    for band in [band, spec.priority.band()] {
        let (user_, amount) = ("ann".parse().unwrap(), amount.clone());
        let set =
            Action::SetQuota { user: user_, band, amount, from: None, until: None, oversell: true };
        rig.cell.apply(user("admin"), set).unwrap();
        let enforce = Action::EnforceQuota { bands: vec![band], on: true };
        rig.cell.apply(user("admin"), enforce).unwrap();
    }
    assert!(rig.cell.try_submit("ann", batch("other", 1, 100, 4 * MIB)).is_err());
    rig.moved(3_600_000);
    rig.at_rest();
    assert!(rig.run().is_some());
}

#[test]
fn runs_have_short_names_and_what_takes_one_is_told() {
    let long: JobName = "x".repeat(63).parse().unwrap();
    assert_eq!(run_name(&long, u64::MAX).unwrap().as_str().len(), 35 + 8 + 20);
    let mut rig = rig();
    rig.cell.submit("ann", batch("saver-rescue-1", 1, 100, 4 * MIB));
    rig.moved(3_600_000);
    rig.at_rest();
    assert_eq!(rig.run(), None);
    let note = rig.cell.state.kept_data(1).unwrap().note(&rig.cell.state);
    assert!(note.starts_with("job ann/saver-rescue-1 exists"), "{note}");
    assert!(!rig.drained(), "it is tried again");
    rig.cell.kill("ann", "ann/saver-rescue-1", &[]).unwrap();
    rig.advance(RESCUE_AGAIN.0);
    assert!(rig.run().is_some());
    assert_eq!(rig.cell.state.audit(), []);
}
