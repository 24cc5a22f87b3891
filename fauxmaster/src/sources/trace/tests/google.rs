use super::*;
use crate::sources::workload::Loss;
use borg_proto::Resources;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const MACHINES_2011: &str = "0,5,0,HofLG,0.5,0.2493\n0,6,0,HofLG,1,1\n60000000,5,1,HofLG,0.5,0.2493\n\
                             90000000,5,0,HofLG,0.5,0.2493\n120000000,7,0,HofLG,0.5,0.5\n";
pub(super) const TASKS_2011: &str = "\
0,2,100,0,,0,alice=,2,9,0.25,0.125,0.0004,0
0,2,100,1,,0,alice=,2,9,0.25,0.125,0.0004,0
1000000,,100,0,5,1,alice=,2,9,0.25,0.125,0.0004,0
1000000,,100,1,6,1,alice=,2,9,0.25,0.125,0.0004,0
60000000,,100,0,5,2,alice=,2,9,0.25,0.125,0.0004,0
60000000,,100,0,,0,alice=,2,9,0.25,0.125,0.0004,0
61000000,,100,0,6,1,alice=,2,9,0.25,0.125,0.0004,0
62000000,,200,0,,0,bob/,0,0,0.0125,0.0159,,1
62000000,,200,1,,0,bob/,0,0,0.0125,0.0159,,1
63000000,,200,0,6,1,bob/,0,0,0.0125,0.0159,,1
64000000,,200,0,6,4,bob/,0,0,0.0125,0.0159,,1
70000000,,200,1,,5,bob/,0,0,0.0125,0.0159,,1
71000000,,100,0,6,5,alice=,2,9,0.25,0.125,0.0004,0
72000000,,100,1,6,8,alice=,2,9,0.25,0.125,0.0004,0
9223372036854775807,,100,1,6,5,alice=,2,9,0.25,0.125,0.0004,0
";

pub(super) fn of_2011(machines: &str, tasks: &str) -> Folder {
    Folder::of(&[("machine_events.csv", machines), ("task_events.csv", tasks)])
}

#[test]
fn a_task_of_2011_runs_once_for_as_long_as_it_ran_in_all_and_machines_come_and_go() {
    let trace = of_2011(MACHINES_2011, TASKS_2011).read(Kind::Google2011, STRICT).unwrap();
    // Task 0 ran 59 s and 10 s more; task 1 was there at the end; task 1 of the other job was never placed.
    assert_eq!(
        told(&trace),
        ["g100-0 u0 @0 2x8000m/16384M p200 [69000]", "g200-0 u1 @62000 1x400m/2084M p0 1000"]
    );
    assert_eq!(trace.workload.arrivals[1].spec.task.spread[0].max, 1);
    let machines: Vec<_> = trace
        .workload
        .machines
        .iter()
        .map(|(name, info)| (name.as_str(), info.capacity.cpu_milli))
        .collect();
    assert_eq!(machines, [("m5", 16_000), ("m6", 32_000), ("m7", 16_000)]);
    assert_eq!(trace.workload.machines[0].1.attributes["platform"], "HofLG");
    let loss = |at, machine, back| Loss { at: Millis(at), machine, back: Millis(back) };
    assert_eq!(trace.workload.losses, [loss(0, 2, 120_000), loss(60_000, 0, 90_000)]);
    assert_eq!(
        trace.notes,
        [
            "1 changes of what a task asks for left out: each keeps the first",
            "1 resubmits not repeated: each task runs once, for as long as it ran in all",
            "1 tasks left out, as they were never placed",
        ]
    );
    let replay = replayed(&trace);
    let counts = replay.books.counts;
    assert!(counts.submits == 2 && counts.placements >= 3 && counts.ends >= 1, "{counts:?}");
}

/// A task of chance: for how long it was placed in all, if that ended, and what happened to it as rows.
fn life(job: u64, index: u64, dice: &mut Dice) -> (Option<u64>, Vec<(u64, String)>) {
    let mut rows = Vec::new();
    let mut row = |at: u64, event: u64| {
        let asked = format!("u{},0,{},0.0{},0.01,0,0", job % 3, job % 12, job % 7);
        rows.push((at, format!("{},,{job},{index},5,{event},{asked}", at * 1_000_000)));
    };
    let mut at = dice.between(0, 10_000);
    let (mut ran, mut ends) = (0, true);
    for attempt in 0..dice.between(1, 3) {
        if attempt > 0 || dice.chance(900) {
            row(at, 0);
        }
        at += dice.below(50);
        row(at, 1);
        let run = dice.between(1, 500);
        if dice.chance(100) {
            ends = false;
            break;
        }
        (at, ran) = (at + run, ran + run);
        row(at, dice.between(2, 6));
        at += dice.between(1, 50);
    }
    (ends.then_some(ran), rows)
}

/// What is read of any course of events is, for each task, the sum of its times; and the cell is sound
/// at the end of its replay.
#[test]
fn any_course_of_events_gives_each_task_the_sum_of_its_times() {
    for seed in 0..10 {
        let mut dice = Dice::new(seed);
        let (mut rows, mut meant) = (Vec::new(), BTreeMap::<u64, Vec<Option<u64>>>::new());
        for job in 1..=dice.between(5, 40) {
            for index in 0..dice.between(1, 8) {
                let (ran, mut of_task) = life(job, index, &mut dice);
                rows.append(&mut of_task);
                meant.entry(job).or_default().push(ran.map(|seconds| seconds * 1_000));
            }
        }
        rows.sort_by_key(|(at, _)| *at);
        let text: String = rows.iter().map(|(_, row)| format!("{row}\n")).collect();
        let trace = of_2011(MACHINES_2011, &text).read(Kind::Google2011, STRICT).unwrap();
        let mut found = BTreeMap::<u64, Vec<Option<u64>>>::new();
        for arrival in &trace.workload.arrivals {
            let job = arrival.name[1..].split_once('-').unwrap().0.parse().unwrap();
            let runs = (0..arrival.spec.tasks).map(|task| arrival.runs.of(task).map(|run| run.0));
            found.entry(job).or_default().extend(runs);
        }
        found.values_mut().chain(meant.values_mut()).for_each(|runs| runs.sort());
        assert_eq!(found, meant, "seed {seed}");
        let replay = replayed(&trace);
        assert_eq!(replay.books.refused.len(), 0, "seed {seed}");
    }
}

#[test]
fn parts_in_gzip_are_the_same_trace_as_one_file() {
    let whole = of_2011(MACHINES_2011, TASKS_2011).read(Kind::Google2011, STRICT).unwrap();
    let (first, second) = TASKS_2011.split_at(TASKS_2011.find("60000000,,100,0,,").unwrap());
    let folder = Folder::of(&[("machine_events/part-0.csv", MACHINES_2011)]);
    folder.put("task_events/part-00001-of-00002.csv.gz", &packed(second));
    folder.put("task_events/part-00000-of-00002.csv.gz", &packed(first));
    let parts = folder.read(Kind::Google2011, STRICT).unwrap();
    assert_eq!((told(&parts), parts.digest), (told(&whole), whole.digest));
}

#[test]
fn rows_of_2011_that_cannot_be_are_told_with_their_place_or_skipped_and_counted() {
    for (from, to, why) in [
        (
            "1000000,,100,0,5,1",
            "-1,,100,0,5,1",
            "csv:3: column timestamp: \"-1\" is not microseconds, 0 or more",
        ),
        (
            "0,2,100,1,,0",
            "5000000,2,100,1,,0",
            "csv:3: column timestamp: \"1000000\" is not a time from that of the row before on: order the rows by time",
        ),
        (
            "0,2,100,1,,0",
            "0,2,100,0,,0",
            "csv:2: column event_type: \"0\" is not the submit of a task that is new or over",
        ),
        (
            "0,2,100,1,,0,alice=,2,9,0.25",
            "0,2,100,1,,0,alice=,2,9,1.25",
            "csv:2: column cpu_request: \"1.25\" is not a share of the largest machine, 0 to 1",
        ),
        (
            "0,2,100,1,,0,alice=,2,9",
            "0,2,100,1,,0,alice=,2,12",
            "csv:2: column priority: \"12\" is not a priority, 0 to 11",
        ),
        (
            "0,2,100,1,",
            "0,2,100,100000,",
            "csv:2: column task_index: \"100000\" is not an index under 100000",
        ),
        (
            "0,2,100,1,,0,",
            "0,2,100,1,,9,",
            "csv:2: column event_type: \"9\" is not an event, 0 to 8",
        ),
        (
            ",2,9,0.25,0.125,0.0004,0\n1000000,",
            "\n1000000,",
            "csv:2: column number of fields: \"7\" is not 13, as many as there are columns",
        ),
    ] {
        let folder = of_2011(MACHINES_2011, &TASKS_2011.replacen(from, to, 1));
        let refused = folder.refused(Kind::Google2011);
        assert_eq!(refused, format!("task_events.{why}"), "{from}");
        let skipped = folder.read(Kind::Google2011, SKIP).unwrap();
        assert!(skipped.notes[0].contains(" rows skipped: column "), "{:?}", skipped.notes);
    }
    let twice = of_2011(&format!("0,5,0,HofLG,0.5,0.2493\n{MACHINES_2011}"), TASKS_2011);
    assert_eq!(
        twice.refused(Kind::Google2011),
        "machine_events.csv:2: column machine_id: \"5\" is not a machine that no earlier line added"
    );
}

pub(super) const MACHINES_2019: &str = "time,machine_id,type,switch_id,capacity.cpus,capacity.memory,platform_id\n\
                             0,5,1,s1,0.5,0.25,p\n0,6,ADD,s1,1,1,p\n600000000,6,REMOVE,s1,1,1,p\n";
pub(super) const COLLECTIONS_2019: &str =
    "time,collection_id,type,user,priority\n0,100,0,\"a,b\",200\n";
pub(super) const INSTANCES_2019: &str = "\
time,type,collection_id,priority,instance_index,machine_id,resource_request.cpus,resource_request.memory,alloc_collection_id
0,SUBMIT,100,200,0,,0.01,0.02,0
0,2,100,200,0,,0.01,0.02,0
1000000,3,100,200,0,5,0.01,0.02,0
1000000,0,300,103,0,5,0.01,0.02,100
5000000,FINISH,100,200,0,5,0.01,0.02,0
6000000,3,400,103,7,6,0.1,0.1,
";

#[test]
fn a_trace_of_2019_has_users_of_collections_and_leaves_out_what_stands_in_allocs() {
    let folder = Folder::of(&[
        ("machine_events.csv", MACHINES_2019),
        ("instance_events.csv", INSTANCES_2019),
        ("collection_events.csv", COLLECTIONS_2019),
    ]);
    let trace = folder.read(Kind::Google2019, STRICT).unwrap();
    assert_eq!(
        told(&trace),
        ["g100-0 u0 @0 1x320m/2621M p200 4000", "g400-0 u1 @6000 1x3200m/13107M p103 on"]
    );
    assert_eq!(trace.workload.losses[0].back, Millis(u64::MAX), "it never comes back");
    assert_eq!(trace.notes, ["1 tasks left out, as they stood in the room of an alloc set"]);
    assert_eq!(replayed(&trace).books.counts.ends, 1);
    let bad = INSTANCES_2019.replace("FINISH", "DONE");
    folder.put("instance_events.csv", bad.as_bytes());
    let refused = folder.refused(Kind::Google2019);
    assert!(
        refused.ends_with(
            "csv:6: column type: \"DONE\" is not an event of the schema, 0 to 10 or its name"
        ),
        "{refused}"
    );
}

fn condensed(jobs: &str) -> Folder {
    let folder = Folder::of(&[
        (
            "machine-dist-cpu-memory-capacity.csv",
            "cpu,memory,capacity,number_of_machines,machine_percentage\n1.0,1.0,1.0,5,50\n0.5,0.2493,0.3,5,50\n",
        ),
        (
            "priority-task-life-cycle.csv",
            "priority,scheduled_task_count,distinct_task_count\n9,400,100\n0,900,300\n4,300,300\n",
        ),
    ]);
    folder.put("jobs_compact.csv.gz", &packed(jobs));
    folder
}

#[test]
fn tasks_of_condensed_jobs_are_drawn_from_the_counts_of_their_priorities() {
    let mut jobs =
        "job_id,submit_us,schedule_us,end_us,end_event,scheduling_class,user_ix,logical_name_ix\n"
            .to_owned();
    for n in 0..100i64 {
        let (at, class) = (n * 60_000_000, if n % 10 == 0 { 3 } else { n % 3 });
        let end = if n % 20 == 0 { -1 } else { at + 600_000_000 };
        jobs += &format!("{n},{at},{at},{end},,{class},{},0\n", n % 7);
    }
    let trace = condensed(&jobs).read(Kind::Google2011Jobs, STRICT).unwrap();
    assert_eq!(told(&trace), told(&condensed(&jobs).read(Kind::Google2011Jobs, STRICT).unwrap()));
    let arrivals = &trace.workload.arrivals;
    let prod = arrivals.iter().filter(|arrival| arrival.spec.priority.is_prod());
    let jobs_of_prod: BTreeSet<_> =
        prod.map(|arrival| arrival.name.split_once('-').unwrap().0.to_owned()).collect();
    assert_eq!(jobs_of_prod.len(), 10, "class 3 and no other: {jobs_of_prod:?}");
    // Rounds of a job follow one another and share its time.
    let of = |job: &str| {
        let rounds = arrivals.iter().filter(|arrival| arrival.name.starts_with(job));
        rounds.map(|arrival| arrival.runs.of(0).map_or(0, |run| run.0)).collect::<Vec<_>>()
    };
    assert_eq!(of("g10-"), [150_000; 4], "placed four times for each task of priority 9");
    assert_eq!(of("g20-"), [0], "it does not end");
    let tasks = |prod: bool| {
        let of = arrivals.iter().filter(|arrival| arrival.spec.priority.is_prod() == prod);
        of.filter(|arrival| arrival.name.ends_with("-0"))
            .map(|arrival| arrival.spec.tasks)
            .sum::<u32>()
    };
    assert!((80..=120).contains(&tasks(true)) && (540..=660).contains(&tasks(false)));
    let late = jobs.replace("1,60000000,60000000,660000000", "1,60000000,60000000,59999999");
    let refused = condensed(&late).refused(Kind::Google2011Jobs);
    assert!(
        refused
            .contains("gz:3: column end_us: \"59999999\" is not a time from schedule_us on, or -1"),
        "{refused}"
    );
}

/// The month that is drawn has the placements that were counted, and asks for what it is to ask for on the average.
#[test]
fn the_condensed_month_has_its_placements_and_fills_three_quarters_of_its_cell() {
    let path = data().join("google2011");
    if !path.exists() {
        eprintln!("skipped: there is no {}", path.display());
        return;
    }
    let trace = read(Kind::Google2011Jobs, &path, STRICT).unwrap();
    let Workload { machines, arrivals, .. } = &*trace.workload;
    assert_eq!(machines.len(), 12_583);
    let tasks: u64 = arrivals.iter().map(|arrival| u64::from(arrival.spec.tasks)).sum();
    assert!((46_000_000..49_000_000).contains(&tasks), "{tasks}");
    let asked = |prod: bool, of: fn(&Resources) -> u64| {
        let jobs = arrivals.iter().filter(|arrival| arrival.spec.priority.is_prod() == prod);
        let of_job = |arrival: &Arrival| {
            let left = trace.ends.since(arrival.at);
            let run = arrival.runs.of(0).unwrap_or(left).min(left);
            let each = of(&arrival.spec.task.limit);
            u128::from(run.0) * u128::from(each) * u128::from(arrival.spec.tasks)
        };
        let has: u64 = machines.iter().map(|(_, info)| of(&info.capacity)).sum();
        jobs.map(of_job).sum::<u128>() * 100 / u128::from(has) / u128::from(trace.ends.0)
    };
    let cpu: fn(&Resources) -> u64 = |of| of.cpu_milli;
    let ram: fn(&Resources) -> u64 = |of| of.ram_bytes;
    let percent = [asked(true, cpu), asked(false, cpu), asked(true, ram), asked(false, ram)];
    for (found, meant) in percent.into_iter().zip([52, 22, 41, 33]) {
        assert!(found.abs_diff(meant) <= 2, "{percent:?}");
    }
}
