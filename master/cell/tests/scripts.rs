//! Scenarios that an operator can read: commands, `----`, and what the cell says to them.
//!
//! `UPDATE_EXPECT=1 cargo test -p borg-cell --test scripts` rewrites what is expected.
//!
//! ```text
//! machine NAME cpu=N ram=SIZE [ATTRIBUTE=VALUE ...]     adds a machine that is up
//! submit USER JOB service|batch|daemon|cron tasks=N cpu=N ram=SIZE [ports=A,B] [after=JOB,..] [retries=N] [priority=N] [spread=ATTRIBUTE]
//!     [budget=N|N%] [parent=JOB] [timeout=MS] [schedule=FIVE_FIELDS]
//! rerun USER JOB INDEX ...     pause|resume|run USER JOB     advance     level N
//! place TASK MACHINE [over TASK ...]     up TASK     ended TASK [exit=N | port]
//! down MACHINE     kill USER JOB [INDEX ...]     wait MS     jobs     resolve NAME
//! healthy TASK     sick TASK     tick MS     tasks JOB     rollout JOB     versions JOB
//! update USER JOB [command=X] [cpu=N] [priority=N] [label=X] [budget=N] [most=N] [canary=TASKS] [tasks=TASKS] [pause] [close]
//! rollout USER JOB pause|resume|undo|close     rollback USER JOB N     scale USER JOB N     restart USER JOB
//! stop USER JOB [TASKS]     start USER JOB [TASKS]
//! drain USER MACHINE[,..] within=MS [at-once=N] [force-with=N] REASON     undrain USER MACHINE[,..]
//! end-maintenance USER NUMBER     advance     drains     restarted MACHINE BOOT     gone TASK INCARNATION
//! backup     restore SPARE_MS     found TASK INCARNATION MACHINE [PORT ...]     settle USER
//! ```

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use borg_cell::event::Event;
use borg_cell::fixture::{Cell, batch, cron, daemon, info, master, service, user, with_task};
use borg_cell::rejection::Rejection;
use borg_cell::state::CellState;
use borg_proto::command::{Action, CronOrder, Observation};
use borg_proto::disruption::Disruption;
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::spec::Spread;
use borg_proto::update::{OnFailure, Revision, Steer, UpdateOptions};
use borg_proto::{
    FailureCause, Health, IncarnationId, JobId, MachineId, MachineInfo, MachineName, Millis,
    Priority, Resources, TaskId, TaskName, TaskState,
};
use std::collections::BTreeMap;
use std::path::Path;

#[test]
fn every_script_reads_as_expected() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut scripts = 0;
    for entry in std::fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text);
        if update {
            std::fs::write(&path, &played).unwrap();
        }
        assert!(update || played == text, "{} now reads:\n{played}", path.display());
        scripts += 1;
    }
    assert!(scripts > 0, "no scripts in {}", dir.display());
}

/// The script with what the cell says now.
fn play(script: &str) -> String {
    let mut cell = Cell::new();
    let mut backup = cell.state.clone();
    let mut out = String::new();
    let mut commands: Vec<&str> = Vec::new();
    let mut expected = false;
    for line in script.lines().chain([""]) {
        match line {
            "" if expected => {
                expected = false;
                commands.clear();
                out.push('\n');
            }
            "----" => {
                out.push_str("----\n");
                for command in &commands {
                    match command.split_once(' ') {
                        None if *command == "backup" => backup = cell.state.clone(),
                        Some(("restore", spare)) => restore(&mut cell, &backup, spare),
                        Some(_) | None => out.push_str(&answer(&mut cell, command)),
                    }
                }
                expected = true;
            }
            _ if expected => {}
            line => {
                out.push_str(line);
                out.push('\n');
                if !line.is_empty() && !line.starts_with('#') {
                    commands.push(line);
                }
            }
        }
    }
    format!("{}\n", out.trim_end())
}

/// The cell goes on from its backup, under the leader of a new epoch.
fn restore(cell: &mut Cell, backup: &CellState, spare_ms: &str) {
    let spare = Millis(spare_ms.parse().unwrap());
    cell.state = backup.clone().refound(&[(1, "a:1".into())], spare).0;
    let leader = cell.state.masters().next().unwrap().0;
    cell.apply(master(), Action::Lead { leader, term: 9 }).unwrap();
}

fn answer(cell: &mut Cell, line: &str) -> String {
    let seen = cell.events.len();
    let said = command(cell, line);
    let mut out = String::new();
    for event in &cell.events[seen..] {
        out.push_str(&shown(cell, event));
    }
    match said {
        Ok(text) => out.push_str(&text),
        Err(refused) => out = format!("refused, {:?}: {refused}\n", refused.code()),
    }
    out
}

fn shown(cell: &Cell, event: &Event) -> String {
    let (kind, subject, detail) = event.describe(&cell.state);
    format!("{}\n", format!("{kind} {subject} {detail}").trim_end())
}

fn command(cell: &mut Cell, line: &str) -> Result<String, Rejection> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["machine", name, ref rest @ ..] => {
            let mut options = options(rest);
            let cpu = options.remove("cpu").unwrap().parse().unwrap();
            let ram = size(options.remove("ram").unwrap());
            let attributes: Vec<_> = options.into_iter().collect();
            cell.machine_with(name, info(cpu, ram, &attributes));
        }
        ["submit", user, name, kind, ref rest @ ..] => {
            submit(cell, user, name, kind, &options(rest))?
        }
        ["place", task, machine] => place(cell, task, machine, &[]).map(|_: IncarnationId| ())?,
        ["place", task, machine, "over", ref victims @ ..] => {
            place(cell, task, machine, victims).map(|_: IncarnationId| ())?
        }
        ["up", task, "next"] => {
            let task = incarnation(cell, task).task;
            let next = cell.state.task(task).unwrap().successor().unwrap();
            let number = next.placement.incarnation;
            cell.up(IncarnationId { task, number });
        }
        ["up", task] => {
            let id = incarnation(cell, task);
            cell.up(id);
        }
        ["ended", task, ref how @ ..] => {
            let failure = how.first().map(|how| match how.strip_prefix("exit=") {
                Some(code) => FailureCause::Exit { code: code.parse().unwrap() },
                None => FailureCause::PortTaken { port: 20_000 },
            });
            let id = incarnation(cell, task);
            cell.ended(id, failure);
        }
        ["down", name] => {
            let machine = machine(cell, name);
            cell.observe(Observation::MachineDown { machine });
        }
        ["kill", user, job, ref tasks @ ..] => {
            let tasks: Vec<u32> = tasks.iter().map(|index| index.parse().unwrap()).collect();
            return Ok(format!("{} killed\n", cell.kill(user, job, &tasks)?));
        }
        ["rerun", by, job, ref tasks @ ..] => {
            let job = job.parse().unwrap();
            let tasks = tasks.iter().map(|index| index.parse().unwrap()).collect();
            cell.apply(user(by), Action::Rerun { job, tasks })?;
        }
        [order @ ("pause" | "resume" | "run"), by, job] => {
            let order = match order {
                "pause" => CronOrder::Pause,
                "resume" => CronOrder::Resume,
                _ => CronOrder::Run,
            };
            let job = job.parse().unwrap();
            cell.apply(user(by), Action::OrderCron { job, order })?;
        }
        ["advance"] => cell.advance(),
        ["found", task, number, on, ref ports @ ..] => {
            let id = IncarnationId { task: task_id(cell, task), number: number.parse().unwrap() };
            let ports = ports.iter().map(|port| port.parse().unwrap()).collect();
            let (machine, pid, since) = (machine(cell, on), 7, Millis(0));
            cell.observe(Observation::TaskAdopted { id, machine, pid, since, restarts: 0, ports });
        }
        ["healthy", task] => health(cell, task, Health::Healthy),
        ["sick", task] => health(cell, task, Health::Unhealthy),
        ["tick", ms] => {
            cell.wait(ms.parse().unwrap());
            cell.apply(master(), Action::Advance)?;
        }
        ["tasks", job] => return Ok(tasks(cell, job)),
        ["rollout", job] => return Ok(rollout(cell, job)),
        ["versions", job] => return Ok(versions(cell, job)),
        ["update", by, job, ref rest @ ..] => return update(cell, by, job, rest),
        ["rollback", by, job, number] => {
            let to = Revision::Version(number.parse().unwrap());
            return revise(cell, by, job, to, UpdateOptions::default());
        }
        ["scale", by, job, tasks] => {
            let to = Revision::Tasks(tasks.parse().unwrap());
            return revise(cell, by, job, to, UpdateOptions::default());
        }
        ["restart", by, job] => {
            return revise(cell, by, job, Revision::Restart, UpdateOptions::default());
        }
        ["rollout", by, job, verb] => {
            let verb = Steer::ALL.into_iter().find(|known| known.to_string() == verb).unwrap();
            let job = job.parse().unwrap();
            cell.apply(user(by), Action::SteerUpdate { job, verb })?;
        }
        ["stop", by, job, ref which @ ..] => {
            let (job, tasks) =
                (job.parse().unwrap(), which.first().map(|set| set.parse().unwrap()));
            cell.apply(user(by), Action::StopTasks { job, tasks })?;
        }
        ["start", by, job, ref which @ ..] => {
            let (job, tasks) =
                (job.parse().unwrap(), which.first().map(|set| set.parse().unwrap()));
            cell.apply(user(by), Action::StartTasks { job, tasks })?;
        }
        ["settle", by] => {
            cell.apply(user(by), Action::Settle)?;
        }
        ["level", level] => {
            cell.apply(master(), Action::RaiseLevel { level: level.parse().unwrap() })?;
        }
        ["quota", by, who, band, ref rest @ ..] => {
            set_quota(cell, by, who, band, &options(rest))?;
        }
        ["enforce", by, band] => {
            let bands = vec![band.parse().unwrap()];
            cell.apply(user(by), Action::EnforceQuota { bands, on: true })?;
        }
        ["keep", by, name, ref users @ ..] => {
            let machines = vec![name.parse().unwrap()];
            let users = users.iter().map(|user| user.parse().unwrap()).collect();
            cell.apply(user(by), Action::KeepMachines { machines, users })?;
        }
        ["close", by, name, ref reason @ ..] => {
            let (machines, reason) = (vec![name.parse().unwrap()], reason.join(" "));
            cell.apply(user(by), Action::CloseMachines { machines, reason })?;
        }
        ["open", by, name] => {
            let machines = vec![name.parse().unwrap()];
            cell.apply(user(by), Action::OpenMachines { machines })?;
        }
        ["drain", by, names, ref rest @ ..] => drain(cell, by, names, rest)?,
        ["undrain", by, names] => {
            cell.apply(user(by), Action::UndrainMachines { machines: machines(names) })?;
        }
        ["end-maintenance", by, number] => {
            let number = number.parse().unwrap();
            cell.apply(user(by), Action::EndMaintenance { number })?;
        }
        ["drains", ..] => return Ok(drains(cell)),
        ["restarted", name, boot] => {
            let machine = machine(cell, name);
            let info = cell.state.machine(machine).unwrap().info.as_deref().unwrap();
            let info = MachineInfo { boot_id: boot.to_owned(), ..info.clone() };
            cell.observe(Observation::MachineUp { machine, info });
        }
        ["gone", task, number] => {
            let id = IncarnationId { task: task_id(cell, task), number: number.parse().unwrap() };
            cell.observe(Observation::TaskGone { id });
        }
        ["safe-mode", on] => {
            let safe_mode = on == "on";
            cell.observe(Observation::Silence { safe_mode, silent: 2, machines: 3 });
        }
        ["policy", by, named, ref weights @ ..] => {
            let weight = |text: &&str| {
                let (term, weight) = text.split_once('=').unwrap();
                (term.parse().unwrap(), weight.parse().unwrap())
            };
            let (policy, weights) = (named.parse().ok(), weights.iter().map(weight).collect());
            cell.apply(user(by), Action::SetPolicy { policy, weights })?;
        }
        ["used", who, band] => {
            let used = cell.state.used_quota(&who.parse().unwrap(), band.parse().unwrap()).amount();
            return Ok(format!("{} m, {} MiB\n", used.cpu_milli, used.ram_bytes >> 20));
        }
        ["wait", ms] => cell.wait(ms.parse().unwrap()),
        ["jobs"] => return Ok(jobs(cell)),
        ["resolve", name] => {
            let found = cell.state.resolve(name).unwrap();
            return Ok(found
                .iter()
                .map(|e| format!("{} {} {}:{} up={}\n", e.task, e.port_name, e.host, e.port, e.up))
                .collect());
        }
        _ => panic!("no such command: {line}"),
    }
    Ok(String::new())
}

fn health(cell: &mut Cell, task: &str, health: Health) {
    let id = incarnation(cell, task);
    cell.observe(Observation::TaskHealth { id, health });
}

fn update(cell: &mut Cell, by: &str, job: &str, words: &[&str]) -> Result<String, Rejection> {
    let (flags, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| !word.contains('='));
    let given = options(&words);
    let spec = cell.state.job_named(&job.parse().unwrap()).unwrap().spec.as_ref().clone();
    let mut spec = with_task(spec, |task| {
        if let Some(command) = given.get("command") {
            task.command = vec![(*command).to_owned()];
        }
        if let Some(cpu) = given.get("cpu") {
            task.limit.cpu_milli = cpu.parse().unwrap();
        }
    });
    if let Some(priority) = given.get("priority") {
        spec.priority = Priority::new(priority.parse().unwrap()).unwrap();
    }
    if let Some(label) = given.get("label") {
        spec.labels.insert("label".to_owned(), (*label).to_owned());
    }
    if let Some(budget) = given.get("budget") {
        spec.disruption = Some(Disruption { most: budget.parse().unwrap(), rate: None });
    }
    let set = |key: &str| given.get(key).map(|set| set.parse().unwrap());
    let how = UpdateOptions {
        most: given.get("most").map(|most| most.parse().unwrap()),
        canary: set("canary"),
        tasks: set("tasks"),
        on_failure: if flags.contains(&"pause") { OnFailure::Pause } else { OnFailure::RollBack },
        close: flags.contains(&"close"),
        ..UpdateOptions::default()
    };
    revise(cell, by, job, Revision::Spec(std::sync::Arc::new(spec)), how)
}

fn revise(
    cell: &mut Cell,
    by: &str,
    job: &str,
    to: Revision,
    how: UpdateOptions,
) -> Result<String, Rejection> {
    let action = Action::UpdateJob { job: job.parse().unwrap(), to, options: Box::new(how) };
    cell.apply(user(by), action).map(|_| String::new())
}

/// Each task with its version and how it is.
fn tasks(cell: &Cell, job: &str) -> String {
    let job = cell.state.job_named(&job.parse().unwrap()).unwrap();
    let line = |(id, task): (TaskId, &borg_cell::state::Task)| {
        let state = match &task.state {
            TaskState::Pending { .. } if task.is_stopped() => "stopped",
            TaskState::Pending { .. } => "pending",
            TaskState::Running(placed) if placed.serves_since.is_some() => "serves",
            TaskState::Running(_) => "does not serve",
            TaskState::Dead { .. } => "dead",
        };
        format!("{}: version {}, {state}\n", id.index, task.version)
    };
    cell.state.tasks_of(job.id).map(line).collect()
}

fn rollout(cell: &Cell, job: &str) -> String {
    let job = cell.state.job_named(&job.parse().unwrap()).unwrap();
    let Some(update) = job.update() else { return "no update is open\n".to_owned() };
    let progress = job.progress(update);
    format!(
        "{} from {} to {}, {} done, {} moving, {} left: {}\n",
        update.state,
        update.from,
        update.to,
        progress.done,
        progress.moving,
        progress.left,
        job.waits_for_update(update, cell.now)
    )
}

fn versions(cell: &Cell, job: &str) -> String {
    let job = cell.state.job_named(&job.parse().unwrap()).unwrap();
    let line = |version: &borg_cell::state::Version| {
        let words = [version.note.as_str(), version.outcome.as_str()];
        let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let tasks = job.slots_by_version().get(&version.number).copied().unwrap_or(0);
        format!("{} by {}, {tasks} tasks: {}\n", version.number, version.by, words.join("; "))
    };
    job.versions().map(line).collect()
}

fn machines(names: &str) -> Vec<MachineName> {
    names.split(',').map(|name| name.parse().unwrap()).collect()
}

fn drain(cell: &mut Cell, by: &str, names: &str, rest: &[&str]) -> Result<(), Rejection> {
    let (said, reason): (Vec<&str>, Vec<&str>) = rest.iter().partition(|word| word.contains('='));
    let said = options(&said);
    let number = |key: &str| said.get(key).map(|value| value.parse().unwrap());
    let action = Action::DrainMachines {
        machines: machines(names),
        reason: reason.join(" "),
        within: Millis(said["within"].parse().unwrap()),
        at_once: number("at-once"),
        leaves: number("force-with"),
    };
    cell.apply(user(by), action).map(|_| ())
}

/// Machines that are drained, with what is left and why, and maintenances.
fn drains(cell: &Cell) -> String {
    let name = |task: TaskId| format!("{}/{}", cell.state.job(task.job).unwrap().key, task.index);
    let mut out = String::new();
    for machine in cell.state.draining() {
        let drain = machine.drain.as_ref().unwrap();
        let how = if drain.empty_since.is_some() { "empty" } else { "draining" };
        let (moved, forced) = (drain.moved, drain.forced);
        out += &format!("{} {how}, {moved} moved, {forced} forced\n", machine.name);
        for task in cell.state.leaving(machine) {
            let waits = cell.state.stays_for(task, cell.now);
            out += &format!("  {} stays: {waits}\n", name(task));
        }
    }
    for one in cell.state.maintenances() {
        let out_now: Vec<_> = cell.state.out_for(one.number).map(|m| m.name.to_string()).collect();
        let (number, left, done) = (one.number, one.left.len(), one.done);
        let names = out_now.join(", ");
        out += &format!("maintenance {number}: {names} out, {left} left, {done} done\n");
    }
    out
}

fn set_quota(
    cell: &mut Cell,
    by: &str,
    who: &str,
    band: &str,
    options: &BTreeMap<&str, &str>,
) -> Result<(), Rejection> {
    let amount = Resources {
        cpu_milli: options["cpu"].parse().unwrap(),
        ram_bytes: size(options["ram"]),
        ..Resources::default()
    };
    let lasts = options.get("for").map(|ms| cell.now + Millis(ms.parse().unwrap()));
    let action = Action::SetQuota {
        user: who.parse().unwrap(),
        band: band.parse().unwrap(),
        amount,
        from: None,
        until: lasts,
        oversell: options.contains_key("oversell"),
    };
    cell.apply(user(by), action).map(|_| ())
}

fn submit(
    cell: &mut Cell,
    user: &str,
    name: &str,
    kind: &str,
    options: &BTreeMap<&str, &str>,
) -> Result<(), Rejection> {
    let number = |key: &str| options.get(key).map(|value| value.parse::<u64>().unwrap());
    let list = |key: &str| options.get(key).map_or(Vec::new(), |value| value.split(',').collect());
    let tasks = u32::try_from(number("tasks").unwrap()).unwrap();
    let (cpu, ram) = (number("cpu").unwrap(), size(options["ram"]));
    let mut spec = match kind {
        "service" => service(name, tasks, cpu, ram),
        "daemon" => daemon(name, cpu, ram),
        "cron" => cron(name, &options["schedule"].replace('_', " ")),
        _ => batch(name, tasks, cpu, ram),
    };
    spec.parent = options.get("parent").map(|job| job.parse().unwrap());
    spec.timeout_ms = number("timeout").map(Millis);
    spec.after = list("after").iter().map(|job| job.parse().unwrap()).collect();
    spec.retries = u32::try_from(number("retries").unwrap_or(0)).unwrap();
    spec.priority = number("priority").map_or(spec.priority, |value| Priority::new(value).unwrap());
    spec.disruption =
        options.get("budget").map(|most| Disruption { most: most.parse().unwrap(), rate: None });
    spec.exclusive = options.contains_key("exclusive");
    let spec = with_task(spec, |task| {
        task.ports = list("ports").iter().map(|port| port.parse().unwrap()).collect();
        if options.contains_key("health") {
            task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
        }
        let spread = |attribute: &&str| Spread { attribute: (*attribute).to_owned(), max: 1 };
        task.spread = list("spread").iter().map(spread).collect();
    });
    cell.try_submit(user, spec).map(|_: JobId| ())
}

fn place(
    cell: &mut Cell,
    task: &str,
    on: &str,
    victims: &[&str],
) -> Result<IncarnationId, Rejection> {
    let id = task_id(cell, task);
    let on = machine(cell, on);
    let victims = victims.iter().map(|victim| incarnation(cell, victim)).collect();
    cell.place_over(id.job, id.index, on, victims)
}

fn jobs(cell: &Cell) -> String {
    let line = |job: &borg_cell::state::Job| {
        let counts = job.counts;
        let counts = format!(
            "{} pending, {} running ({} up), {} finished, {} failed, {} killed",
            counts.pending,
            counts.running,
            counts.up,
            counts.finished,
            counts.failed,
            counts.killed
        );
        let note = job.note(&cell.state);
        format!(
            "{} {}: {counts}{}{note}\n",
            job.key,
            job.state(),
            if note.is_empty() { "" } else { "; " }
        )
    };
    cell.state.jobs().map(line).collect()
}

fn options<'a>(words: &[&'a str]) -> BTreeMap<&'a str, &'a str> {
    words
        .iter()
        .map(|word| word.split_once('=').unwrap_or_else(|| panic!("{word} is not KEY=VALUE")))
        .collect()
}

fn size(text: &str) -> u64 {
    let mib = text.strip_suffix("MiB").map(|n| n.parse::<u64>().unwrap());
    mib.unwrap_or_else(|| text.strip_suffix("GiB").unwrap().parse::<u64>().unwrap() << 10) << 20
}

fn machine(cell: &Cell, name: &str) -> MachineId {
    cell.state.machine_named(&name.parse().unwrap()).unwrap().id
}

fn task_id(cell: &Cell, name: &str) -> TaskId {
    let name: TaskName = name.parse().unwrap();
    TaskId { job: cell.state.job_named(&name.job).unwrap().id, index: name.index }
}

/// The present incarnation of a task, or its last.
fn incarnation(cell: &Cell, name: &str) -> IncarnationId {
    let task = task_id(cell, name);
    IncarnationId { task, number: cell.state.task(task).unwrap().incarnations }
}
