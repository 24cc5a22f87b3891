use super::*;

fn job() -> JobSpec {
    serde_json::from_str(
        r#"{"name":"web","kind":"service","task":{"command":["/bin/true"],"limit":{"cpu_milli":100,"ram_bytes":10485760}}}"#,
    )
    .unwrap()
}

fn with(change: impl FnOnce(&mut JobSpec, &mut TaskSpec)) -> String {
    let mut job = job();
    let mut task = (*job.task).clone();
    change(&mut job, &mut task);
    job.task = Arc::new(task);
    job.check().unwrap_err().to_string()
}

#[test]
fn the_smallest_job_is_accepted_with_defaults() {
    let job = job();
    job.check().unwrap();
    assert_eq!((job.tasks, job.priority.get()), (1, 100));
    assert_eq!(job.effective_appclass(), AppClass::LatencySensitive);
}

#[test]
fn every_bound_names_its_field_the_value_and_what_is_allowed() {
    assert_eq!(with(|j, _| j.tasks = 0), "tasks: 0 is outside 1 to 100000");
    assert_eq!(with(|j, _| j.tasks = 1_000_000_000), "tasks: 1000000000 is outside 1 to 100000");
    assert_eq!(with(|j, _| j.concurrent = Some(0)), "concurrent: 0 is outside 1 to 100000");
    assert_eq!(
        with(|_, t| t.command.clear()),
        "task.command: [] is empty: name the program to run"
    );
    assert_eq!(
        with(|_, t| t.limit.cpu_milli = 0),
        "task.limit.cpu_milli: 0 is outside 1 to 10000000"
    );
    assert_eq!(
        with(|_, t| t.limit.ram_bytes = 2 << 20),
        "task.limit.ram_bytes: 2097152 is outside 4194304 to 1125899906842624"
    );
    assert!(with(|_, t| t.limit.ram_bytes = u64::MAX).starts_with("task.limit.ram_bytes: 1844"));
    assert!(
        with(|_, t| t.ports = vec!["a".parse().unwrap(), "a".parse().unwrap()]).contains("twice")
    );
    assert!(
        with(|_, t| t.volumes = vec![Volume { path: "/a/../b".into(), writable: true }])
            .contains("absolute")
    );
    assert!(with(|_, t| t.env = BTreeMap::from([("a=b".into(), String::new())])).contains("key"));
}

#[test]
fn a_gang_is_of_bounded_size_and_contradicts_a_cap_below_it() {
    let gang = |tasks, concurrent| {
        with(|j, _| (j.gang, j.tasks, j.concurrent) = (true, tasks, concurrent))
    };
    assert_eq!(
        gang(1_001, None),
        "gang: true is for jobs of at most 1000 tasks, this one has 1001"
    );
    assert_eq!(
        gang(8, Some(7)),
        "gang: true places all 8 tasks together, and concurrent allows 7 at once: leave one out"
    );
    let fine = JobSpec { gang: true, tasks: 8, concurrent: Some(8), ..job() };
    fine.check().unwrap();
}

#[test]
fn unknown_fields_of_json_are_errors() {
    let text =
        r#"{"name":"web","kind":"service","replicas":3,"task":{"command":["x"],"limit":{}}}"#;
    assert!(serde_json::from_str::<JobSpec>(text).unwrap_err().to_string().contains("replicas"));
}

#[test]
fn a_missing_attribute_counts_as_empty_text_or_zero() {
    let none = BTreeMap::new();
    let c = |op, value: &str| Constraint {
        attribute: "x".into(),
        op,
        values: vec![value.into()],
        soft: false,
    };
    assert!(c(ConstraintOp::Equal, "").holds(&none));
    assert!(c(ConstraintOp::NotEqual, "a").holds(&none));
    assert!(c(ConstraintOp::Less, "1").holds(&none));
    assert!(!c(ConstraintOp::Greater, "0").holds(&none));
    assert!(c(ConstraintOp::In, "").holds(&none));
}

#[test]
fn what_ends_has_caps_and_what_stands_has_none() {
    let whole = |change: fn(&mut JobSpec)| with(|job, _| change(job));
    assert_eq!(
        whole(|j| j.timeout_ms = Some(Millis(5))),
        "timeout_ms: 5 is for batch jobs, and this is a service"
    );
    assert_eq!(
        whole(|j| j.max_failures = 3),
        "max_failures: 3 is for batch jobs, and this is a service"
    );
    assert_eq!(
        whole(|j| (j.kind, j.deadline_ms) = (JobKind::Batch, Some(Millis(5)))),
        "deadline_ms: 5 is outside 1000 to 31622400000"
    );
}

#[test]
fn a_daemon_does_not_say_how_many_tasks_it_has_nor_how_they_spread() {
    let daemon = |change: fn(&mut JobSpec, &mut TaskSpec)| {
        with(|job, task| {
            job.kind = JobKind::Daemon;
            change(job, task);
        })
    };
    let on_each = "it has one task on each machine that its constraints allow";
    assert_eq!(daemon(|j, _| j.tasks = 3), format!("tasks: 3 says nothing of a daemon: {on_each}"));
    for told in [
        daemon(|j, _| j.gang = true),
        daemon(|j, _| j.exclusive = true),
        daemon(|j, _| j.concurrent = Some(1)),
        daemon(|j, _| j.alloc_set = Some("ann/room".parse().unwrap())),
        daemon(|_, t| t.spread.push(Spread { attribute: "rack".into(), max: 1 })),
    ] {
        assert!(told.contains("says nothing of a daemon"), "{told}");
    }
}

#[test]
fn a_cron_job_has_a_schedule_and_no_other_job_has() {
    use crate::cron::{CatchUp, Cron, Overlap};
    let hourly = || Cron::new("@hourly".parse().unwrap());
    let cron = |change: fn(&mut Cron)| {
        with(|job, _| {
            let mut its = hourly();
            change(&mut its);
            (job.kind, job.cron) = (JobKind::Cron, Some(its));
        })
    };
    assert_eq!(
        with(|j, _| j.kind = JobKind::Cron),
        "cron: nothing is given: a cron job has a schedule"
    );
    assert_eq!(
        with(|j, _| j.cron = Some(hourly())),
        "cron: @hourly is given, and the job's kind is not cron"
    );
    assert_eq!(
        cron(|its| its.catch_up = CatchUp::All),
        "cron.catch_up: all begins several runs at once, which needs overlap = \"allow\""
    );
    assert_eq!(cron(|its| its.keep_failed = 101), "cron.keep_failed: 101 is outside 0 to 100");
    assert_eq!(
        cron(|its| its.start_by_ms = Some(Millis(1))),
        "cron.start_by_ms: 1 is outside 1000 to 31622400000"
    );
    let long = "a".repeat(60);
    let named = with(|j, _| {
        (j.kind, j.cron, j.name) = (JobKind::Cron, Some(hourly()), long.parse().unwrap());
    });
    assert!(named.contains("is longer than 52 bytes: its runs have a number behind it"), "{named}");
    let after = with(|j, _| {
        (j.kind, j.cron, j.after) = (JobKind::Cron, Some(hourly()), vec!["ann/x".parse().unwrap()]);
    });
    assert!(after.starts_with("after: given says nothing of a cron job"), "{after}");
    let mut fine = job();
    let all = Cron { overlap: Overlap::Allow, catch_up: CatchUp::All, ..hourly() };
    (fine.kind, fine.cron) = (JobKind::Cron, Some(all));
    fine.check().unwrap();
    assert_eq!((fine.level(), fine.first_slots()), (6, 0));
    let text = serde_json::to_string(&fine).unwrap();
    assert_eq!(serde_json::from_str::<JobSpec>(&text).unwrap(), fine);
    assert!(serde_json::from_str::<JobSpec>(&text.replace("@hourly", "61 * * * *")).is_err());
}
