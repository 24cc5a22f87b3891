//! Plans, as those who submit meet them: told, submitted as told, and refused when the cell moved.

use crate::cell::{Cell, Run, borgctl, job, run};
use borg_proto::wire::pb;
use serde_json::{Value, json};
use tonic::Code;

/// `borgctl` as another user than the admin.
struct User<'a> {
    cell: &'a Cell,
    credentials: std::path::PathBuf,
}

impl<'a> User<'a> {
    fn new(cell: &'a Cell, name: &str) -> Self {
        Self { cell, credentials: cell.credentials_dir("user", name) }
    }

    fn run(&self, args: &[&str], input: &Value) -> Run {
        let mut command = borgctl();
        command.env("BORG_CELL_DIR", self.cell.dir()).arg("--creds").arg(&self.credentials);
        run(command.args(args), &input.to_string())
    }
}

fn plan(cell: &Cell, jobs: &Value) -> (i32, Value) {
    let run = cell.borgctl_with(&["-o", "json", "plan", "-"], &jobs.to_string());
    let told = serde_json::from_str(&run.out).unwrap_or_else(|_| panic!("{run:?}"));
    (run.code, told)
}

fn token(told: &Value) -> String {
    told["token"].as_str().unwrap_or_else(|| panic!("{told:#}")).to_owned()
}

fn submit(cell: &Cell, token: &str, jobs: &Value) -> Run {
    cell.borgctl_with(&["submit", "--plan", token, "-"], &jobs.to_string())
}

#[test]
fn what_was_planned_is_submitted_and_then_nothing_changes_any_more() {
    let cell = Cell::shared();
    let jobs =
        json!([job("plan-a", "service", "sleep 1000"), job("plan-b", "service", "sleep 1000")]);
    let (code, told) = plan(cell, &jobs);
    assert_eq!(code, 2, "{told:#}");
    let first = &told["jobs"][0];
    assert_eq!((&first["change"], &first["placed"]), (&json!("new"), &json!(1)), "{told:#}");
    assert_eq!(first["places"].as_array().unwrap().len(), 1);
    assert_eq!((&first["restarts"], &first["victims"]), (&json!(0), &json!([])));
    assert!(told["read"]["index"].as_u64() > Some(0));
    cell.borgctl(&["status", "admin/plan-a"]).failed(4);

    // Told to people, with the token at the end, by whichever master.
    for _ in 0..3 {
        let said = cell.borgctl_with(&["plan", "-"], &jobs.to_string());
        assert_eq!(said.code, 2, "{said:?}");
        assert!(said.out.contains("+ admin/plan-a: new, 1 task"), "{}", said.out);
        assert!(said.out.contains("pushes out: nobody\n"), "{}", said.out);
        assert!(said.out.lines().last().unwrap().starts_with("token: p1-"), "{}", said.out);
    }

    let said = submit(cell, &token(&told), &jobs).ok();
    assert_eq!(said, "admin/plan-a\nadmin/plan-b\n");
    cell.until_up("admin/plan-a", 1);
    let (code, again) = plan(cell, &jobs);
    assert_eq!((code, &again["token"]), (0, &Value::Null), "{again:#}");
    assert_eq!(again["jobs"][0]["change"], "none");
    let said = submit(cell, &token(&told), &jobs).failed(3);
    assert!(said.contains("the cell has moved since the plan"), "{said}");
    assert!(
        said.contains("job admin/plan-a: it would be refused now: job admin/plan-a exists"),
        "{said}"
    );

    // A job that is as the file says is left alone, the other one is made.
    cell.borgctl(&["kill", "admin/plan-b"]).ok();
    let (code, told) = plan(cell, &jobs);
    assert_eq!(code, 2, "{told:#}");
    let said = cell.borgctl_with(
        &["submit", "--request-id", "plan-once", "--plan", &token(&told), "-"],
        &jobs.to_string(),
    );
    assert_eq!(said.ok(), "admin/plan-b\n");
    // Asked for again under the same id, it is done once, though its own job is there by now.
    let twice = ["submit", "--request-id", "plan-once", "--plan", &token(&told), "-"];
    cell.borgctl_with(&twice, &jobs.to_string()).ok();
    for name in ["admin/plan-a", "admin/plan-b"] {
        cell.borgctl(&["kill", name]).ok();
    }
}

#[test]
fn a_live_job_that_differs_is_told_field_by_field_and_cannot_be_submitted() {
    let cell = Cell::shared();
    let mut changed = job("plan-live", "service", "sleep 1000");
    cell.submit(&changed);
    changed["tasks"] = json!(2);
    changed["task"]["env"] = json!({"TOKEN": "a secret"});
    let run = cell.borgctl_with(&["plan", "-"], &changed.to_string());
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.out.contains("~ admin/plan-live: live, and differs\n    tasks: 1 -> 2\n"),
        "{}",
        run.out
    );
    assert!(run.out.contains("task.env.TOKEN: (none) -> (hidden)"), "{}", run.out);
    assert!(run.out.contains("submit would refuse it: job admin/plan-live exists"), "{}", run.out);
    assert!(run.out.contains("borgctl update FILE --plan"), "{}", run.out);
    assert!(!run.out.contains("token:"), "{}", run.out);
    assert!(run.err.contains("submit would refuse admin/plan-live"), "{}", run.err);
    cell.borgctl(&["kill", "admin/plan-live"]).ok();
}

#[test]
fn quota_is_told_and_refused_in_the_words_of_submit() {
    let cell = Cell::up(1, 1);
    let ann = User::new(&cell, "ann");
    let mut web = job("web", "service", "sleep 1000");
    web["priority"] = json!(118);
    cell.borgctl(&["quota", "enforce", "mid"]).ok();
    let refused = ann.run(&["submit", "-"], &web).failed(6);
    let planned = ann.run(&["-o", "json", "plan", "-"], &web);
    assert_eq!(planned.code, 1, "{planned:?}");
    let told: Value = serde_json::from_str(&planned.out).unwrap();
    let words = told["jobs"][0]["refusal"].as_str().unwrap();
    assert!(refused.contains(words) && words.contains("has no quota in band mid"), "{words}");

    cell.borgctl(&["quota", "set", "ann", "mid", "cpu=1,ram=1GiB"]).ok();
    let planned = ann.run(&["-o", "json", "plan", "-"], &web);
    assert_eq!(planned.code, 2, "{planned:?}");
    let told: Value = serde_json::from_str(&planned.out).unwrap();
    let first = &told["jobs"][0];
    assert_eq!(first["used"]["cpu_milli"], 0);
    assert_eq!(first["after"]["cpu_milli"], 50);
    assert_eq!(first["granted"]["cpu_milli"], 1000);
    // The same quota answer is a part of what must still hold.
    cell.borgctl(&["quota", "remove", "ann", "mid"]).ok();
    let said = ann.run(&["submit", "--plan", &token(&told), "-"], &web).failed(3);
    assert!(said.contains("it would be refused now: user ann has no quota in band mid"), "{said}");
}

#[test]
fn a_plan_that_no_longer_finds_room_is_refused() {
    let cell = Cell::up(1, 1);
    cell.until_up(&cell.submit(&job("first", "service", "sleep 1000")), 1);
    let machines = cell.json(&["machines"]);
    let cpu = machines[0]["capacity"]["cpu_milli"].as_u64().unwrap();
    let mut big = job("big", "service", "sleep 1000");
    big["task"]["limit"]["cpu_milli"] = json!(cpu / 2 + 10);
    let (code, told) = plan(&cell, &big);
    assert_eq!((code, &told["jobs"][0]["placed"]), (2, &json!(1)), "{told:#}");
    let mut other = big.clone();
    other["name"] = json!("other");
    cell.until_up(&cell.submit(&other), 1);
    let said = submit(&cell, &token(&told), &big).failed(3);
    assert!(said.contains("0 of its tasks would be placed now, planned were 1"), "{said}");
    assert!(said.contains("1 lacks cpu"), "{said}");
    // Planned as it is now, it may be submitted, and waits as it was told.
    let (code, told) = plan(&cell, &big);
    assert_eq!((code, &told["jobs"][0]["pending"]), (2, &json!(1)), "{told:#}");
    submit(&cell, &token(&told), &big).ok();
}

#[tokio::test]
async fn bad_plans_and_tokens_are_refused_with_what_is_wrong() {
    let cell = Cell::shared();
    let (ann, bob) = (User::new(cell, "ann"), User::new(cell, "bob"));
    let web = job("plan-bad", "batch", "true");
    let told: Value =
        serde_json::from_str(&ann.run(&["-o", "json", "plan", "-"], &web).out).unwrap();
    let token = token(&told);
    let said = ann.run(&["submit", "--plan", "garbage", "-"], &web).failed(3);
    assert!(said.contains("token: \"garbage\" is no token of a plan"), "{said}");
    let cut = &token[..token.len() - 2];
    let said = ann.run(&["submit", "--plan", cut, "-"], &web).failed(3);
    assert!(said.contains("was not copied right"), "{said}");
    let said = bob.run(&["submit", "--plan", &token, "-"], &web).failed(3);
    assert!(said.contains("plan of another user than bob"), "{said}");
    let mut other = web.clone();
    other["tasks"] = json!(2);
    let said = ann.run(&["submit", "--plan", &token, "-"], &other).failed(3);
    assert!(said.contains("specification of job plan-bad is not the one"), "{said}");
    let said = ann.run(&["submit", "--plan", &token, "-"], &json!([web, other])).failed(3);
    assert!(said.contains("duplicate") || said.contains("that had 1 jobs, this has 2"), "{said}");
    ann.run(&["plan", "/no/such/file"], &web).failed(1);
    ann.run(&["plan", "--bogus", "-"], &web).failed(1);
    ann.run(&["plan", "--at", "-1m", "-"], &web).failed(1);
    let mut zero = web.clone();
    zero["tasks"] = json!(0);
    ann.run(&["plan", "-"], &zero).failed(1);

    // The check of each job by itself is the leader's, whichever master is asked, whatever was asked before.
    let spec: pb::JobSpec = (&serde_json::from_value::<borg_proto::JobSpec>(web).unwrap()).into();
    for master in 0..3 {
        let mut client = cell.client(master, &cell.credentials("user", "ann"));
        let asked = |token: &str, number, id: &str| pb::SubmitJobRequest {
            spec: Some(spec.clone()),
            request_id: format!("{id}-{master}"),
            planned: Some(pb::PlannedJob { token: token.into(), number }),
        };
        let status = client.submit_job(asked("p1-00", 0, "bad")).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = client.submit_job(asked(&token, 7, "number")).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("planned.number: 7"), "{status}");
        let empty = pb::PlanRequest::default();
        let status = client.plan(empty).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains("jobs: 0 jobs are outside 1 to 64"), "{status}");
        let many = pb::PlanRequest { jobs: vec![spec.clone(); 65], token: String::new() };
        assert_eq!(client.plan(many).await.unwrap_err().code(), Code::InvalidArgument);
        // Only users plan.
        let borglet = cell.credentials("borglet", "m1");
        let one = pb::PlanRequest { jobs: vec![spec.clone()], token: String::new() };
        let status = cell.client(master, &borglet).plan(one).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    cell.borgctl(&["status", "ann/plan-bad"]).failed(4);

    // Done once under its id, whichever master is asked again; under another id the plan is over.
    let asked = |id: &str| pb::SubmitJobRequest {
        spec: Some(spec.clone()),
        request_id: id.into(),
        planned: Some(pb::PlannedJob { token: token.clone(), number: 0 }),
    };
    let ann = cell.credentials("user", "ann");
    let mut done = Vec::new();
    for master in 0..3 {
        let mut client = cell.client(master, &ann);
        done.push(client.submit_job(asked("planned-once")).await.unwrap().into_inner().job_id);
        let status = client.submit_job(asked(&format!("other-{master}"))).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
        assert!(status.message().contains("the cell has moved since the plan"), "{status}");
    }
    assert!(done.windows(2).all(|pair| pair[0] == pair[1]), "{done:?}");
}
