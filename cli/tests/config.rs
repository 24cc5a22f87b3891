//! The language from outside: what is accepted, and what each mistake is answered with.

#![expect(clippy::unwrap_used, reason = "tests")]

use borg_proto::JobKind;
use borg_proto::JobSpec;
use borgctl::config::{ConfigError, Options, load, load_trusted};
use std::fs;
use std::path::Path;

fn options() -> Options {
    let args = [("dir", "/data"), ("out", "/out")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    Options {
        user: "ann".parse().unwrap(),
        args: args.into(),
        borgctl: env!("CARGO_BIN_EXE_borgctl").into(),
    }
}

fn no_args() -> Options {
    Options { args: Default::default(), ..options() }
}

/// The error of a file with this text, without its directory.
fn refused(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    refused_in(dir.path(), text)
}

fn refused_in(dir: &Path, text: &str) -> String {
    let path = dir.join("x.bcl");
    fs::write(&path, text).unwrap();
    let error = load_trusted(&path, &no_args()).unwrap_err();
    error.to_string().replace(&format!("{}/", dir.display()), "")
}

fn accepted(text: &str) -> Vec<JobSpec> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bcl");
    fs::write(&path, text).unwrap();
    load_trusted(&path, &no_args()).unwrap().jobs
}

/// The error of a file that only the child process can be trusted with.
async fn refused_by_the_guard(text: &str) -> ConfigError {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bcl");
    fs::write(&path, text).unwrap();
    load(&path, &no_args()).await.unwrap_err()
}

/// The smallest job, with one line put in or changed.
fn job_with(line: &str) -> String {
    format!(
        "job(\n    name = \"hello\", kind = \"batch\",\n    command = [\"echo\"], resources = resources(cpu = 0.1, ram = 16*MiB),\n    {line},\n)\n"
    )
}

fn resources_with(fields: &str) -> String {
    format!(
        "job(name = \"x\", kind = \"batch\", command = [\"x\"],\n    resources = resources({fields}))\n"
    )
}

#[tokio::test]
async fn every_example_evaluates_and_the_simplest_job_has_five_lines() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut seen = 0;
    let within = |dir: &Path| -> Vec<std::path::PathBuf> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let (dirs, files): (Vec<_>, Vec<_>) = within(&examples).into_iter().partition(|p| p.is_dir());
    for path in files.into_iter().chain(dirs.iter().flat_map(|dir| within(dir))) {
        if path.extension().is_none_or(|ext| ext != "bcl") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let mut options = options();
        options.args.insert("archive".to_owned(), "/archive".to_owned());
        options.args.retain(|name, _| text.contains(&format!("arg(\"{name}\"")));
        let jobs = load(&path, &options).await.unwrap().jobs;
        for job in &jobs {
            job.check().unwrap();
        }
        seen += 1;
    }
    assert!(seen >= 4);
    assert_eq!(fs::read_to_string(examples.join("hello.bcl")).unwrap().lines().count(), 5);
    let wordcount = load(&examples.join("wordcount.bcl"), &options()).await.unwrap().jobs;
    assert_eq!(
        (wordcount[0].tasks, wordcount[1].after[0].to_string()),
        (8, "ann/wordcount".to_owned())
    );
    let saved = examples.join("server-with-logsaver/server-with-logsaver.bcl");
    let archive = [("archive".to_owned(), "/archive".to_owned())].into();
    let shared = load(&saved, &Options { args: archive, ..options() }).await.unwrap().jobs;
    assert_eq!((shared[0].kind, shared[0].tasks), (JobKind::AllocSet, 1));
    assert_eq!(shared[0].keep_data_ms, Some(borg_proto::Millis(3 * 86_400_000)));
    assert!(shared[1..].iter().all(|job| job.alloc_set == Some("ann/room".parse().unwrap())));
    assert_eq!([shared[1].rescue, shared[2].rescue], [false, true]);
    let web = load(&examples.join("hello-web.bcl"), &no_args()).await.unwrap().jobs;
    assert_eq!((web[0].tasks, web[0].task.ports.len(), web[0].priority.get()), (3, 1, 120));
    assert_eq!(web[0].task.command[0], env!("CARGO_BIN_EXE_borgctl"));
}

#[test]
fn what_is_kept_of_allocs_and_who_saves_it_is_checked() {
    let set = |fields: &str| {
        format!(
            "alloc_set(name = \"room\", {fields}, resources = resources(cpu = 1, ram = 64*MiB))\n"
        )
    };
    let jobs = accepted(&set("keep_data = \"3d\""));
    assert_eq!(jobs[0].keep_data_ms, Some(borg_proto::Millis(3 * 86_400_000)));
    let job = |fields: &str| {
        format!(
            "job(name = \"x\", kind = \"service\", command = [\"x\"], {fields}, resources = resources(cpu = 1, ram = 64*MiB))\n"
        )
    };
    assert!(accepted(&job("alloc_set = \"ann/room\", rescue = True"))[0].rescue);
    for (text, says) in [
        (set("keep_data = \"10s\""), "keep_data: 10000 is outside 60000 to 2592000000"),
        (set("keep_data = \"31d\""), "keep_data"),
        (set("keep_data = True"), "is not a time"),
        (set("rescue = True"), "rescue"),
        (job("keep_data = \"3d\""), "keep_data"),
        (job("rescue = True"), "rescue: true is for jobs in an alloc set: name it with alloc_set"),
        (job("alloc_set = \"room\", rescue = 1"), "rescue"),
    ] {
        let refused = refused(&text);
        assert!(refused.contains(says), "{text}: {refused}");
    }
}

#[test]
fn kinds_of_jobs_arrive_as_written() {
    let jobs = accepted(
        r#"
small = resources(cpu = 0.1, ram = 16*MiB)
job(name = "child", kind = "batch", parent = "web", max_failures = 2, timeout = "1m", deadline = 3600,
    command = ["x"], resources = small)
job(name = "web", kind = "service", command = ["x"], resources = small)
job(name = "exporter", kind = "daemon", command = ["x"], resources = small)
job(name = "report", kind = "cron", schedule = "*/5 * * * mon-fri", overlap = "allow", catch_up = "all",
    start_by = "90s", keep_finished = 3, keep_failed = 0, time_zone = "UTC", command = ["x"], resources = small)
"#,
    );
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["web", "child", "exporter", "report"], "a parent comes before its child");
    let child = serde_json::to_value(&jobs[1]).unwrap();
    let caps =
        ["parent", "max_failures", "timeout_ms", "deadline_ms"].map(|field| child[field].clone());
    let wanted = serde_json::json!(["ann/web", 2, 60_000, 3_600_000]);
    assert_eq!(serde_json::Value::from(caps.to_vec()), wanted);
    assert_eq!((jobs[2].kind, jobs[2].tasks), (JobKind::Daemon, 1));
    let cron = serde_json::to_value(&jobs[3].cron).unwrap();
    let wanted = serde_json::json!({
        "schedule": "*/5 * * * mon-fri", "overlap": "allow", "catch_up": "all", "start_by_ms": 90_000,
        "keep_finished": 3, "keep_failed": 0,
    });
    assert_eq!(cron, wanted);
}

#[test]
fn mistakes_in_kinds_of_jobs_are_told_at_their_field() {
    let cron = |fields: &str| {
        refused(&format!(
            "job(name = \"x\", kind = \"cron\", command = [\"x\"],\n    resources = resources(cpu = 0.1, ram = 16*MiB), {fields})\n"
        ))
    };
    assert!(cron("").contains("job needs schedule, as in schedule = \"*/5 * * * *\""));
    let told = cron("schedule = \"0 0 30 2 *\"");
    assert!(told.contains("job.schedule: at character 5: never: none of these months"), "{told}");
    let told = cron("schedule = \"* * * * * *\"");
    assert!(told.contains("nothing fires more than once a minute"), "{told}");
    let told = cron("schedule = \"@daily\", time_zone = \"Europe/Berlin\"");
    assert!(
        told.contains("job.time_zone: \"Europe/Berlin\" is not known: schedules are in UTC"),
        "{told}"
    );
    let told = cron("schedule = \"@daily\", catch_up = \"all\"");
    assert!(told.contains("job.catch_up: all begins several runs at once"), "{told}");
    let told = refused(&job_with("schedule = \"@daily\""));
    assert!(told.contains("job.schedule: is for jobs of kind \"cron\""), "{told}");
    let told = refused(&job_with("tasks = 3").replace("\"batch\"", "\"daemon\""));
    assert!(told.contains("job.tasks: 3 says nothing of a daemon"), "{told}");
    let told = refused(&job_with("timeout = \"0s\""));
    assert!(told.contains("job.timeout: 0 is outside 1000"), "{told}");
    let told = refused(&job_with("after = [\"hello\"]"));
    assert!(
        told.contains(
            "a job names itself, so none of them can be first: ann/hello -after-> ann/hello"
        ),
        "{told}"
    );
}

#[test]
fn all_fields_arrive_as_written_and_numbers_are_exact() {
    let jobs = accepted(
        r#"
common = resources(cpu = 0.5, ram = 100*MiB, disk = 2*GB, devices = {"gpu": 0.5})
job(
    name = "web", kind = "service", tasks = 3, priority = "production", appclass = "batch",
    after = ["mine", "bob/other"], labels = {"team": "search"}, retries = 2, gang = True, concurrent = 3,
    task = task(
        command = ["serve", "%port.http%"], limit = common, env = {"A": "b"}, ports = ["http"],
        constraints = [constraint("rack", "=", "r1"), constraint("gpu", "present"),
                       constraint("zone", "in", ["a", "b"], soft = True)],
        spread = [spread("machine", 1)], volumes = [volume("/data", writable = True)], grace = "1m 30s",
        image = "bob/base:2", packages = ["tools:1", "bob/data:x"],
    ),
)
[job(name = n, kind = "batch", command = [n], resources = common) for n in ["a", "b"]]
"#,
    );
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["web", "a", "b"]);
    let json = serde_json::to_value(&jobs[0]).unwrap();
    let expected = serde_json::json!({
        "name": "web", "kind": "service", "tasks": 3, "priority": 120, "appclass": "batch",
        "exclusive": false, "gang": true, "concurrent": 3, "alloc_set": null,
        "after": ["ann/mine", "bob/other"], "retries": 2, "labels": {"team": "search"},
        "task": {
            "command": ["serve", "%port.http%"], "env": {"A": "b"}, "ports": ["http"], "grace_ms": 90_000,
            "limit": {"cpu_milli": 500, "ram_bytes": 104_857_600, "disk_bytes": 2_000_000_000_u64, "ports": 0,
                      "devices": {"gpu": 500}},
            "constraints": [
                {"attribute": "rack", "op": "=", "values": ["r1"], "soft": false},
                {"attribute": "gpu", "op": "present", "values": [], "soft": false},
                {"attribute": "zone", "op": "in", "values": ["a", "b"], "soft": true}],
            "spread": [{"attribute": "machine", "max": 1}],
            "volumes": [{"path": "/data", "writable": true}],
            "image": "bob/base:2", "packages": ["tools:1", "bob/data:x"],
        },
    });
    assert_eq!(json, expected);
}

#[test]
fn health_checks_caps_and_soft_memory_become_parts_of_the_task() {
    let text = job_with(
        "ports = [\"http\"], memory = \"soft\", cpu_cap = 1.5, network = \"own\", health = http(\"http\", interval = \"5s\", failures = 5)",
    );
    let task = serde_json::to_value(&accepted(&text)[0]).unwrap()["task"].take();
    assert_eq!((&task["memory"], &task["cpu_cap_milli"]), (&"soft".into(), &1_500.into()));
    assert_eq!(task["network"], "own");
    let expected = serde_json::json!({
        "probe": {"http": {"port": "http", "path": "/healthz"}},
        "grace_ms": 30_000, "interval_ms": 5_000, "timeout_ms": 1_000, "failures": 5,
    });
    assert_eq!(task["health"], expected);
}

#[test]
fn a_budget_of_disruption_and_labels_of_tasks_become_parts_of_the_job() {
    let text = job_with(
        "tasks = 3, disruption = \"25%\", disruption_rate = \"5 in 1h\", task_labels = {\"0,2\": {\"ring\": \"a\"}}",
    );
    let job = serde_json::to_value(&accepted(&text)[0]).unwrap();
    let rate = serde_json::json!({"tasks": 5, "per_ms": 3_600_000});
    assert_eq!(job["disruption"], serde_json::json!({"most": "25%", "rate": rate}));
    let labels = serde_json::json!([{"tasks": "0,2", "labels": {"ring": "a"}}]);
    assert_eq!(job["task_labels"], labels);
    let number = serde_json::to_value(&accepted(&job_with("disruption = 2"))[0]).unwrap();
    assert_eq!(number["disruption"], serde_json::json!({"most": 2}));
    for (wrong, says) in [
        ("disruption = \"half\"", "job.disruption: \"half\" is neither a number of tasks, as in 3"),
        ("disruption = -1", "job.disruption: \"-1\" is neither a number of tasks"),
        ("disruption = \"101%\"", "disruption.most: 101 is outside 0 to 100"),
        ("disruption_rate = \"often\"", "is not a number of tasks in a time, as in \"5 in 1h\""),
        ("task_labels = {\"9\": {}}", "task_labels[0].tasks: 9 is no task of the job"),
        ("task_labels = {\"x\": {}}", "is no index of a task, nor several of them"),
        ("task_labels = {\"0\": 1}", "1 is not a dict of labels"),
    ] {
        let said = refused(&job_with(wrong));
        assert!(said.contains(says), "{wrong}: {said}");
    }
}

#[test]
fn mistakes_are_answered_with_place_field_value_and_what_is_allowed() {
    let golden = [
        ("job(name = \n", "x.bcl:2:1: Parse error: unexpected new line, expected expression"),
        ("{nonsense", "x.bcl:1:10: Parse error: unexpected new line, expected symbol ':'"),
        ("x = 1\n", "x.bcl: has no job: call job(name = ..., ...)"),
        ("nojob()\n", "x.bcl:1:1: Variable `nojob` not found, did you mean `job`?"),
        (&job_with("retires = 3"), "x.bcl:4:5: job has no field retires; did you mean retries?"),
        (&job_with("tasks = 0"), "x.bcl:4:5: job.tasks: 0 is outside 1 to 100000"),
        (
            &job_with("tasks = 1000000000"),
            "x.bcl:4:5: job.tasks: 1000000000 is outside 1 to 100000",
        ),
        (&job_with("tasks = -1"), "x.bcl:4:5: job.tasks: -1 is outside 1 to 100000"),
        (&job_with("tasks = \"3\""), "x.bcl:4:5: job.tasks: \"3\" is not a whole number"),
        (&job_with("tasks = 1.5"), "x.bcl:4:5: job.tasks: 1.5 is not a whole number"),
        (&job_with("tasks = True"), "x.bcl:4:5: job.tasks: True is not a whole number"),
        (&job_with("priority = 451"), "x.bcl:4:5: job.priority: 451 is outside 0 to 450"),
        (
            &job_with("priority = \"prod\""),
            "x.bcl:4:5: job.priority: \"prod\" is unknown; did you mean \"production\"?",
        ),
        (
            &job_with("after = \"a/b/c\""),
            "x.bcl:4:5: job.after: [0] job name \"b/c\" has a character that is not allowed; allowed are 1 to 63 of a-z, 0-9, '-', '_', beginning with a letter or digit",
        ),
        (
            &job_with("env = {\"A\": 1}"),
            "x.bcl:4:5: job.env: A 1 is a number, not a text: put it in quotes",
        ),
        (
            &job_with("grace = \"1 parsec\""),
            "x.bcl:4:5: job.grace: \"1 parsec\" is not a time, as in \"500ms\", \"90s\", \"1h 30m\" or a number of seconds",
        ),
        (&job_with("grace = \"1h\""), "x.bcl:4:5: job.grace: \"1h\" is more than 600 s"),
        (
            &job_with("memory = \"sot\""),
            "x.bcl:4:5: job.memory: \"sot\" is unknown; did you mean \"soft\"?",
        ),
        (&job_with("cpu_cap = 0.001"), "x.bcl:4:5: job.cpu_cap: the least cap is 0.01 cores"),
        (
            &job_with("health = 1"),
            "x.bcl:4:5: job.health: 1 is not http(...), tcp(...) or command(...)",
        ),
        (
            &job_with("health = tcp(\"http\")"),
            "x.bcl:4:5: task.health.port: http is no port of the task: name it in task.ports",
        ),
        (
            &job_with("ports = [\"http\"], health = http(\"http\", \"x\")"),
            "x.bcl:4:23: task.health.path: \"x\" is not a path as in \"/healthz\": it begins with a slash, and has printable ASCII only",
        ),
        (
            &job_with("health = http()"),
            "x.bcl:4:14: http needs port, as in http(\"http\", \"/healthz\")",
        ),
        (
            &job_with("health = tcp(\"http\", failures = 0)"),
            "x.bcl:4:26: tcp.failures: 0 is outside 1 to 1000",
        ),
        (&job_with("ports = [\"a\", \"a\"]"), "x.bcl:4:5: task.ports[1]: a is there twice"),
        (
            &job_with("volumes = [volume(\"/a/../b\")]"),
            "x.bcl:4:5: task.volumes[0].path: \"/a/../b\" is not an absolute path without '..'",
        ),
        (
            &job_with("spread = [volume(\"/a\")]"),
            "x.bcl:4:5: job.spread: [0] a value of type struct is not a spread(...)",
        ),
        (
            &job_with("constraints = [constraint(\"n\", \"<\", \"many\")]"),
            "x.bcl:4:5: task.constraints[0].values: many is not a whole number, which this comparison needs",
        ),
        (
            &job_with("constraints = [constraint(\"n\", \"~\", \"1\")]"),
            "x.bcl:4:20: constraint.op: \"~\" is not one of = != < <= > >= present absent in",
        ),
        (
            &job_with("labels = [1]"),
            "x.bcl:4:5: job.labels: a list is not a dict, as in {\"key\": \"value\"}",
        ),
        (
            &job_with("limit = 1"),
            "x.bcl:4:5: job.limit: is another name for resources: give one of them",
        ),
        (
            &resources_with("cpu = -1, ram = 1*GiB"),
            "x.bcl:2:27: resources.cpu: -1 is outside 0.001 to 10000 cores",
        ),
        (
            &resources_with("cpu = 0, ram = 1*GiB"),
            "x.bcl:2:27: resources.cpu: 0 is outside 0.001 to 10000 cores",
        ),
        (
            &resources_with("cpu = 0.0001, ram = 1*GiB"),
            "x.bcl:2:27: resources.cpu: 0.0001 cores: the smallest amount and step is 0.001",
        ),
        (
            &resources_with("cpu = 1e300, ram = 1*GiB"),
            "x.bcl:2:27: resources.cpu: 1e+300 is outside 0.001 to 10000 cores",
        ),
        (
            &resources_with("cpu = \"lots\", ram = 1*GiB"),
            "x.bcl:2:27: resources.cpu: \"lots\" is not a number of cores, as in 0.5",
        ),
        (
            &resources_with("cpu = 1, ram = -1"),
            "x.bcl:2:36: resources.ram: -1 bytes are outside 4*MiB to 1024*TiB",
        ),
        (
            &resources_with("cpu = 1, ram = 100"),
            "x.bcl:2:36: resources.ram: 100 bytes are outside 4*MiB to 1024*TiB",
        ),
        (
            &resources_with("cpu = 1, ram = 1000000*TiB*TiB*TiB*TiB"),
            "x.bcl:2:36: resources.ram: 1461501637330902918203684832716283019655… (55 bytes) bytes are outside 4*MiB to 1024*TiB",
        ),
        (
            &resources_with("cpu = 1, ram = \"1G\""),
            "x.bcl:2:36: resources.ram: \"1G\" is not a whole number of bytes, as in 100*MiB",
        ),
        (
            &resources_with("cpu = 1"),
            "x.bcl:2:17: resources needs ram, as in resources(cpu = 0.5, ram = 100*MiB)",
        ),
        ("job(\"x\")", "x.bcl:1:1: job: fields are named, as in job(name = ...)"),
        (
            "job(name = \"x\")",
            "x.bcl:1:1: job needs kind, as in kind = \"batch\" (runs to its end), \"service\" (runs until killed), \"daemon\" (one task on each machine) or \"cron\" (makes a batch job at each tick)",
        ),
        (
            "job(name = \"x\", kind = \"bach\")",
            "x.bcl:1:17: job.kind: \"bach\" is unknown; did you mean \"batch\"?",
        ),
        (
            "job(name = \"x\", kind = \"batch\")",
            "x.bcl:1:1: job needs command, as in command = [\"echo\", \"hello\"]",
        ),
        ("arg(\"dir\")", "x.bcl:1:1: arg \"dir\" is needed: give --arg dir=VALUE"),
        ("fail(\"not today\")", "x.bcl:1:1: fail: not today"),
    ];
    let wrong: Vec<String> = golden
        .iter()
        .filter(|(text, expected)| refused(text) != *expected)
        .map(|(text, expected)| {
            format!("{text}\n expected {expected}\n but was  {}", refused(text))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn names_that_are_no_names_are_refused_shortly() {
    for bad in ["", "a/b", "..", "é", "Big", &"x".repeat(10_240)] {
        let text = refused(&format!("job(name = \"{bad}\", kind = \"batch\")"));
        assert!(text.starts_with("x.bcl:1:5: job.name: job name \""), "{text}");
        assert!(text.len() < 250, "{text}");
    }
}

#[test]
fn endless_or_growing_files_stop_at_a_limit() {
    assert_eq!(
        refused("def f():\n    for i in range(1000000000):\n        pass\nf()\n")
            .split_once(": ")
            .unwrap()
            .1,
        "takes more than 1000000 steps: a loop without an end?"
    );
    assert_eq!(
        refused("def f(n):\n    return f(n + 1)\nf(0)\n").split_once(": ").unwrap().1,
        "calls are nested more than 64 deep: recursion without an end?"
    );
    assert_eq!(
        refused("def f():\n    x = []\n    for i in range(900000):\n        x.append(str(i) * 100)\nf()\n").split_once(": ").unwrap().1,
        "its values take more than 64 MiB"
    );
}

#[tokio::test]
async fn a_single_step_that_asks_for_everything_ends_in_an_error_not_in_a_crash() {
    for text in
        ["x = \"x\" * 2000000000", "x = [0] * 2000000000", "x = \"x\" * 2000000000 * 2000000000"]
    {
        let error = refused_by_the_guard(text).await;
        assert_eq!(error.text, "takes more than 192 MiB of memory to evaluate", "{text}");
    }
    let doubling = "def f():\n    x = \"x\"\n    for i in range(60):\n        x = x + x\nf()\n";
    assert_eq!(
        refused_by_the_guard(doubling).await.text,
        "takes more than 192 MiB of memory to evaluate"
    );
    let deep = format!("x = {}1{}", "(".repeat(200_000), ")".repeat(200_000));
    let error = refused_by_the_guard(&deep).await.text;
    assert!(error.contains("nested too deeply"), "{error}");
}

#[tokio::test]
async fn good_files_give_the_same_in_the_child_process_as_here() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bcl");
    fs::write(&path, format!("print(\"for\", USER)\n{}", job_with("tasks = 2"))).unwrap();
    let here = load_trusted(&path, &no_args()).unwrap();
    assert_eq!(here, load(&path, &no_args()).await.unwrap());
    assert_eq!(here.printed, ["for ann"]);
}

#[tokio::test]
async fn a_huge_file_is_refused_before_it_is_read_and_others_that_are_no_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bcl");
    fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
    let error = load(&path, &no_args()).await.unwrap_err();
    assert_eq!(error.text, "has 104857600 bytes; configuration may have 1048576 bytes (1 MiB)");
    fs::write(&path, b"ok\n  \xff").unwrap();
    let error = load(&path, &no_args()).await.unwrap_err();
    assert_eq!((error.place, error.text.as_str()), (Some((2, 3)), "byte 0xff is not UTF-8 text"));
    fs::write(&path, b"\xef\xbb\xbfjob()").unwrap();
    assert!(load(&path, &no_args()).await.unwrap_err().text.contains("byte order mark"));
    assert!(load(dir.path(), &no_args()).await.unwrap_err().text.contains("is a directory"));
    assert!(
        load(&dir.path().join("none"), &no_args()).await.unwrap_err().text.contains("cannot read")
    );
}

#[test]
fn files_load_from_their_own_directory_tree_only_and_never_in_circles() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("tree/lib")).unwrap();
    let tree = root.join("tree");
    fs::write(root.join("secret.bcl"), "x = 1").unwrap();
    fs::write(tree.join("lib/sizes.bcl"), "small = resources(cpu = 0.1, ram = 16*MiB)").unwrap();
    fs::write(tree.join("lib/web.bcl"), "load(\"sizes.bcl\", \"small\")\nload(\"//top.bcl\", \"kind\")\ndef web(name):\n    job(name = name, kind = kind, command = [\"x\"], resources = small)\n").unwrap();
    fs::write(tree.join("top.bcl"), "kind = \"batch\"").unwrap();
    fs::write(tree.join("main.bcl"), "load(\"lib/web.bcl\", \"web\")\nweb(\"a\")\nweb(\"b\")\n")
        .unwrap();
    assert_eq!(load_trusted(&tree.join("main.bcl"), &no_args()).unwrap().jobs.len(), 2);

    assert_eq!(
        refused_in(&tree, "load(\"../secret.bcl\", \"x\")"),
        "x.bcl:1:6: load \"../secret.bcl\": lies outside the first file's directory"
    );
    assert!(
        refused_in(&tree, "load(\"/etc/passwd\", \"x\")")
            .starts_with("x.bcl:1:6: load \"/etc/passwd\": only files below")
    );
    assert!(refused_in(&tree, "load(\"//none.bcl\", \"x\")").contains("No such file"));
    fs::write(tree.join("a.bcl"), "load(\"b.bcl\", \"x\")").unwrap();
    fs::write(tree.join("b.bcl"), "load(\"a.bcl\", \"x\")").unwrap();
    assert_eq!(
        refused_in(&tree, "load(\"a.bcl\", \"x\")"),
        "//b.bcl:1:6: load \"a.bcl\": goes in a circle: //a.bcl -> //b.bcl -> //a.bcl"
    );
    fs::write(tree.join("adds.bcl"), "x = 1\njob(name = \"x\")").unwrap();
    assert!(
        refused_in(&tree, "load(\"adds.bcl\", \"x\")")
            .starts_with("//adds.bcl:2:1: job: a loaded file cannot add jobs itself")
    );
}

#[test]
fn arguments_fill_the_file_with_the_type_of_their_default_and_unknown_ones_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.bcl");
    fs::write(&path, job_with("tasks = arg(\"tasks\", 2)")).unwrap();
    let with = |name: &str, value: &str| {
        let options = Options { args: [(name.to_owned(), value.to_owned())].into(), ..no_args() };
        load_trusted(&path, &options)
            .map(|evaluated| evaluated.jobs[0].tasks)
            .map_err(|error| error.text)
    };
    assert_eq!(with("tasks", "7"), Ok(7));
    assert_eq!(with("tasks", "x"), Err("arg tasks: \"x\" is not a whole number".into()));
    assert_eq!(with("task", "7"), Err("does not ask for --arg task; did you mean tasks?".into()));
}
