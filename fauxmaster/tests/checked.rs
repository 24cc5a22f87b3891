//! What is packed is checked by a program that shares no code with the scheduler.

use borg_fauxmaster::questions::Policy;
use borg_fauxmaster::questions::compact::{Options, compact, packing};
use borg_fauxmaster::sources::borg_like::{Mix, borg_like};
use borg_fauxmaster::sources::trace::{self, Choices, Kind};
use borg_fauxmaster::sources::{common, openb};
use borg_fauxmaster::work::Work;
use borg_sim::dice::Dice;
use std::path::Path;

/// Packs into what one order of the machines needs, writes it down, and has it checked.
fn checked(work: &Work, policy: Policy) -> packcheck::Found {
    let options = Options { policy, seeds: 1, ..Options::default() };
    let found = compact(work, &options, |_| {}).expect("it fits into copies");
    let packed = packing(work, policy.weights, found.typical().expect("there is a seed"))
        .expect("it fitted");
    let folder = tempfile::tempdir().expect("a directory");
    common::write(folder.path(), &packed).expect("there is room");
    packcheck::check_folder(folder.path()).expect("it is in the format")
}

#[test]
fn made_up_cells_are_packed_without_a_violation_under_every_policy() {
    for (seed, policy) in (1..).zip(Policy::ALL) {
        let made = borg_like(50, Mix::BORG, seed).unwrap();
        let machines = (0..).zip(made.machines).map(|(n, info)| (format!("m{n}"), info)).collect();
        let work = Work { machines, jobs: made.jobs, tied: 0 };
        let found = checked(&work, policy);
        assert_eq!(found.violations, [], "{}", found.summary());
        assert_eq!(found.tasks, work.tasks());
    }
}

/// A placement that is moved to another machine by chance is found to be wrong, mostly.
#[test]
fn what_is_altered_is_found() {
    let made = borg_like(50, Mix::BORG, 4).unwrap();
    let machines = (0..).zip(made.machines).map(|(n, info)| (format!("m{n}"), info)).collect();
    let work = Work { machines, jobs: made.jobs, tied: 0 };
    let options = Options { seeds: 1, ..Options::default() };
    let found = compact(&work, &options, |_| {}).unwrap();
    let mut packed = packing(&work, Policy::HYBRID.weights, found.typical().unwrap()).unwrap();
    let mut dice = Dice::new(1);
    let all = packed.machines.len();
    // All of the work on half of the machines.
    for places in &mut packed.places {
        let moved: u32 = places.values().sum();
        *places = [(dice.index(all / 2), moved)].into();
    }
    let folder = tempfile::tempdir().unwrap();
    common::write(folder.path(), &packed).unwrap();
    let found = packcheck::check_folder(folder.path()).unwrap();
    assert!(found.violations.len() > all / 4, "{}", found.summary());
}

/// The rule of single devices, on the published format.
#[test]
fn parts_of_gpus_are_packed_without_a_violation() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let nodes = write(
        "nodes",
        "sn,cpu_milli,memory_mib,gpu,model\na,64000,262144,4,T4\nb,64000,262144,2,P100\n",
    );
    let mut rows = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n".to_owned();
    for (n, milli) in [600, 600, 400, 300, 1_000, 250, 700].iter().enumerate() {
        rows.push_str(&format!("p{n},1000,1024,1,{milli},T4|P100\n"));
    }
    let pods = openb::pods(&write("pods", &rows)).unwrap();
    let jobs = pods.iter().map(|pod| ("all".parse().unwrap(), openb::job(pod, &pod.name).unwrap()));
    let machines = openb::nodes(Path::new(&nodes)).unwrap();
    let machines = (0..).zip(machines).map(|(n, info)| (format!("m{n}"), info)).collect();
    let work = Work { machines, jobs: jobs.collect(), tied: 0 };
    let found = checked(&work, Policy::HYBRID);
    assert_eq!((found.violations.as_slice(), found.placed), (&[][..], 7), "{}", found.summary());
}

/// What a trace asks for at its busiest is packed as anything else, tasks that have to be apart too.
#[test]
fn a_moment_of_a_trace_is_packed_without_a_violation() {
    let folder = tempfile::tempdir().unwrap();
    let mut dice = Dice::new(5);
    let (mut machines, mut tasks) = (String::new(), String::new());
    for machine in 0..20 {
        machines.push_str(&format!("0,{machine},0,p,0.5,0.{}\n", dice.between(25, 75)));
    }
    for job in 0..40 {
        let (apart, count) = (dice.below(2), dice.between(1, 6));
        let asked = format!("0.0{},0.0{},0,{apart}", dice.between(1, 9), dice.between(1, 9));
        for event in 0..2 {
            for index in 0..count {
                tasks.push_str(&format!("{job}000000,,{job},{index},1,{event},u,0,9,{asked}\n"));
            }
        }
    }
    std::fs::write(folder.path().join("machine_events.csv"), machines).unwrap();
    std::fs::write(folder.path().join("task_events.csv"), tasks).unwrap();
    let trace = trace::read(Kind::Google2011, folder.path(), Choices::default()).unwrap();
    let work = trace.work_at(trace.busiest());
    assert!(work.tasks() > 40, "{}", work.tasks());
    let found = checked(&work, Policy::HYBRID);
    assert_eq!(found.violations, [], "{}", found.summary());
    assert_eq!(found.placed, work.tasks());
}
