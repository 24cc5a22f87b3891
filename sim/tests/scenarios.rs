//! Situations that an operator would name, played in a whole simulated cell: commands, `----`, and what
//! came of them.
//!
//! `UPDATE_EXPECT=1 cargo test -p borg-sim --test scenarios` rewrites what is expected; `TRACE=1` tells the whole
//! story. Nothing that is
//! expected names a moment or a machine that chance chose, so a change elsewhere leaves it as it is.
//!
//! ```text
//! machines N                      begins a cell of five masters; machine mI is in rack r(I mod 3)
//! submit JOB [tasks=N] [batch] [prod] [checked] [exclusive] [play=serve|sick|homely:MACHINE] [cpu=N] [ram=MIB]
//!            [spread=ATTRIBUTE:N]
//!            [budget=N|P%] [only=ATTRIBUTE:VALUE]
//!            [allocs] [keep=3600s]    an alloc set, which keeps what its allocs leave behind
//!            [in=SET] [rescues]       in the allocs of a set, and saves that
//! kill JOB
//! update JOB [options as of submit, all of them] [canary=TASKS] [healthy=10s] [deadline=60s]
//! scale JOB N      restart JOB      stop JOB TASKS      start JOB TASKS      pause|resume|undo|close JOB
//! until-over JOB [within=60s]     until nothing of its update goes on by itself
//! rollout JOB                     which version is in force, what became of those before, how many tasks are of which
//! fault crash-leader | crash-masters | cut|mute|pause|reboot MACHINE      over cut|mute|pause MACHINE
//!                                 MACHINE: mI, or JOB/INDEX for the one where that task was when it was first named so
//! drain mI[,mJ..]|rI [within=60s] [at-once=N] [force-with=N]      undrain mI[,mJ..]|rI|all
//! kept                            what allocs left behind, and how far it is
//! until-empty mI[,mJ..]|rI [within=60s]
//! drains                          how far it is, and what the first task that is left waits for
//! until JOB up=N|serving=N [within=60s]
//! run 30s
//! status JOB                      how many of its tasks are where, and the most that were down since `submit`
//!                                 or the last `status`
//! same JOB | moved JOB            whether all its processes are those of the last `status`
//! ```

#![expect(clippy::unwrap_used, reason = "a test stops where it is surprised")]
#![expect(clippy::print_stdout, reason = "TRACE=1 tells the story to whoever looks")]

use borg_cell::state::{Job, Kept, Machine, UpdateState};
use borg_proto::command::Action;
use borg_proto::disruption::Disruption;
use borg_proto::update::{Revision, Steer, UpdateOptions};
use borg_proto::{IncarnationId, JobKey, JobSpec, MachineName, Millis};
use borg_sim::world::World;
use borg_sim::{Fault, Play, job};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

#[test]
fn every_scenario_reads_as_expected() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let mut scripts: Vec<_> =
        files.filter(|path| path.extension() == Some("txt".as_ref())).collect();
    scripts.sort();
    assert!(!scripts.is_empty(), "no scenarios in {}", dir.display());
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        let played = play(&text);
        if update {
            std::fs::write(&path, &played).unwrap();
        }
        assert!(update || played == text, "{} now reads:\n{played}", path.display());
    }
}

/// The script with what the cell does now.
fn play(script: &str) -> String {
    let mut scene = Scene::new(10);
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
                    out.push_str(&scene.command(command));
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
    scene.world.check_all();
    format!("{}\n", out.trim_end())
}

/// A cell, and what was seen of its jobs.
struct Scene {
    world: World,
    /// Most tasks that were down at once.
    down: BTreeMap<JobKey, u32>,
    processes: BTreeMap<JobKey, BTreeSet<IncarnationId>>,
    /// Machines that were named by a task.
    homes: BTreeMap<String, usize>,
}

impl Scene {
    fn new(machines: usize) -> Self {
        let mut world = World::seeded(0x5ce0e).replicas(5).machines(machines).build();
        world.journal_mut().keep_lines();
        if std::env::var_os("TRACE").is_some() {
            world.journal_mut().trace(Box::new(|line| println!("{line}")));
        }
        Self { world, down: BTreeMap::new(), processes: BTreeMap::new(), homes: BTreeMap::new() }
    }

    fn command(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["machines", number] => *self = Self::new(number.parse().unwrap()),
            ["submit", name, ref options @ ..] => {
                let spec = Arc::new(spec(name, options));
                let said = self.ask(false, Action::SubmitJob { spec });
                self.down.remove(&key(name));
                return said;
            }
            ["kill", name] => {
                return self.ask(false, Action::Kill { job: key(name), tasks: Vec::new() });
            }
            ["update", name, ref options @ ..] => return self.update(name, options),
            ["scale", name, tasks] => {
                return self.change(name, Revision::Tasks(tasks.parse().unwrap()), &[]);
            }
            ["restart", name, ref options @ ..] => {
                return self.change(name, Revision::Restart, options);
            }
            ["stop", name, tasks] => {
                let (job, tasks) = (key(name), Some(tasks.parse().unwrap()));
                return self.ask(false, Action::StopTasks { job, tasks });
            }
            ["start", name, tasks] => {
                let (job, tasks) = (key(name), Some(tasks.parse().unwrap()));
                return self.ask(false, Action::StartTasks { job, tasks });
            }
            ["pause" | "resume" | "undo" | "close", name] => {
                let verb = Steer::ALL.into_iter().find(|verb| verb.to_string() == words[0]);
                return self
                    .ask(false, Action::SteerUpdate { job: key(name), verb: verb.unwrap() });
            }
            ["until-over", name, ref options @ ..] => {
                let (job, most) = (key(name), within(options));
                let over = move |world: &World| {
                    let job = world.state().job_named(&job);
                    let update = job.and_then(Job::update);
                    update.is_none_or(|update| update.state != UpdateState::Rolling)
                };
                self.pass(most, &over);
                return if over(&self.world) {
                    String::new()
                } else {
                    format!("not within {most}\n")
                };
            }
            ["rollout", name] => return self.rollout(name),
            ["fault", "crash-leader"] => self.world.inflict(Fault::CrashLeader),
            ["fault", "crash-masters"] => self.world.inflict(Fault::CrashAllMasters),
            ["fault", what, machine] => {
                let fault = fault(what, self.numbered(machine));
                self.world.inflict(fault);
            }
            ["over", what, machine] => {
                let fault = fault(what, self.numbered(machine));
                self.world.end_fault(fault);
            }
            ["run", time] => self.pass(millis(time), |_| false),
            ["drain", which, ref options @ ..] => return self.drain(which, options),
            ["kept"] => return self.kept(),
            ["undrain", which] => {
                let machines = self.machines(which);
                return self.ask(true, Action::UndrainMachines { machines });
            }
            ["until-empty", which, ref options @ ..] => {
                let machines = self.machines(which);
                let most = within(options);
                let empty = move |world: &World| {
                    let of = |name| world.state().machine_named(name);
                    machines.iter().all(|name| of(name).is_some_and(Machine::is_drained))
                };
                self.pass(most, &empty);
                return if empty(&self.world) {
                    String::new()
                } else {
                    format!("not within {most}\n")
                };
            }
            ["drains"] => return self.drains(),
            ["until", name, what, ref options @ ..] => return self.until(name, what, options),
            ["status", name] => return self.status(name),
            ["same", name] => return self.same(name),
            _ => panic!("no such command: {line}"),
        }
        String::new()
    }

    /// To a specification: what is not said of it is as `submit` would have it.
    fn update(&mut self, name: &str, options: &[&str]) -> String {
        let is_of_update = |option: &&&str| {
            ["canary=", "healthy=", "deadline="].iter().any(|of| option.starts_with(of))
        };
        let (of_update, of_spec): (Vec<&str>, Vec<&str>) =
            options.iter().partition(|option| is_of_update(option));
        let spec = Arc::new(spec(name, &of_spec));
        self.change(name, Revision::Spec(spec), &of_update)
    }

    fn change(&mut self, name: &str, to: Revision, options: &[&str]) -> String {
        let said = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
        let default = UpdateOptions::default();
        let options = Box::new(UpdateOptions {
            canary: said("canary=").map(|tasks| tasks.parse().unwrap()),
            min_healthy_ms: said("healthy=").map_or(Millis(2_000), millis),
            deadline_ms: said("deadline=").map_or(Millis(30_000), millis),
            ..default
        });
        self.ask(false, Action::UpdateJob { job: key(name), to, options })
    }

    fn rollout(&self, name: &str) -> String {
        let Some(job) = self.world.state().job_named(&key(name)) else {
            return format!("there is no job {name}\n");
        };
        let head = job.head();
        let mut text = format!("version {} is in force", head.number);
        if let Some(update) = job.update() {
            text += &format!(", {}", update.state);
        }
        let each = job
            .slots_by_version()
            .iter()
            .map(|(version, tasks)| format!("{tasks} of version {version}"));
        text += &format!("; {}\n", each.collect::<Vec<_>>().join(", "));
        for version in job.versions().filter(|version| !version.outcome.is_empty()) {
            text += &format!("version {}: {}\n", version.number, version.outcome);
        }
        text
    }

    /// What a refusal says; nothing when the cell did it.
    fn ask(&mut self, as_admin: bool, action: Action) -> String {
        match self.world.change(as_admin, action) {
            Ok(_) => String::new(),
            Err(refused) => format!("refused, {:?}: {}\n", refused.code(), timeless(&refused)),
        }
    }

    /// Lets time pass, until something is so, and sees how many tasks of each job are down.
    fn pass(&mut self, most: Millis, is_so: impl Fn(&World) -> bool) {
        let began = self.world.now();
        while self.world.now().since(began) < most && !is_so(&self.world) {
            self.world.run_for(Millis(10));
            self.world.check_all();
            for job in self.world.state().jobs().filter(|job| job.is_alive()) {
                // Before all served for the first time nothing was taken down.
                let seen = self.down.get(&job.key).copied();
                if seen.is_some() || job.down() == 0 {
                    self.down.insert(job.key.clone(), seen.unwrap_or(0).max(job.down()));
                }
            }
        }
    }

    /// The number of a machine, by its name or by a task that it has, or had when it was first asked for.
    fn numbered(&mut self, which: &str) -> usize {
        let number = |name: &str| name.strip_prefix('m').unwrap().parse().unwrap();
        let Some((job, index)) = which.split_once('/') else { return number(which) };
        let state = self.world.state();
        let task = state.job_named(&key(job)).unwrap().task(index.parse().unwrap()).unwrap();
        let on = task.placement().and_then(|placement| state.machine(placement.machine));
        let on = on.map(|machine| number(machine.name.as_str()));
        *self.homes.entry(which.to_owned()).or_insert_with(|| on.unwrap())
    }

    /// Machines by name, those of a rack, or all.
    fn machines(&self, which: &str) -> Vec<MachineName> {
        let state = self.world.state();
        let of_rack = |machine: &&Machine| which == "all" || machine.attribute("rack") == which;
        let found: Vec<_> = state.machines().filter(of_rack).map(|m| m.name.clone()).collect();
        if !found.is_empty() {
            return found;
        }
        which.split(',').map(|name| name.parse().unwrap()).collect()
    }

    fn drain(&mut self, which: &str, options: &[&str]) -> String {
        let said = |key: &str| options.iter().find_map(|option| option.strip_prefix(key));
        let number = |key: &str| said(key).map(|text| text.parse().unwrap());
        let action = Action::DrainMachines {
            machines: self.machines(which),
            reason: "maintenance".to_owned(),
            within: within(options),
            at_once: number("at-once="),
            leaves: number("force-with="),
        };
        self.ask(true, action)
    }

    fn drains(&self) -> String {
        let state = self.world.state();
        let (mut empty, mut left, mut moved, mut forced, mut waits) = (0, 0, 0, 0, None);
        for machine in state.draining() {
            let drain = machine.drain.as_ref().unwrap();
            empty += u32::from(machine.is_drained());
            left += machine.tasks.len();
            (moved, forced) = (moved + drain.moved, forced + drain.forced);
            let first = state.leaving(machine).next();
            waits = waits.or_else(|| first.map(|task| state.stays_for(task, self.world.now())));
        }
        let all = state.draining().count();
        let mut text =
            format!("{empty} of {all} empty, {moved} tasks moved, {forced} forced, {left} left\n");
        for one in state.maintenances() {
            let out = state.out_for(one.number).count();
            text +=
                &format!("maintenance: {out} out, {} left, {} done\n", one.left.len(), one.done);
        }
        if let Some(waits) = waits {
            text += &format!("stays: {waits}\n");
        }
        text
    }

    fn kept(&self) -> String {
        let state = self.world.state();
        let name = |kept: &Kept| state.machine(kept.machine).map(|found| found.name.to_string());
        let line = |kept: &Kept| {
            let machine = name(kept).unwrap_or_default();
            format!("{} on {machine}: {}\n", kept.name(), kept.note(state))
        };
        let all: String = state.kept().map(line).collect();
        if all.is_empty() { "nothing is kept\n".to_owned() } else { all }
    }

    fn until(&mut self, name: &str, what: &str, options: &[&str]) -> String {
        let within = within(options);
        let (which, number) = what.split_once('=').unwrap();
        let (which, number, key) = (which.to_owned(), number.parse().unwrap(), key(name));
        let is_so = |world: &World| {
            let counts = world.state().job_named(&key).map(|job| job.counts);
            counts.is_some_and(|counts| match which.as_str() {
                "up" => counts.up == number,
                "serving" => counts.serving == number,
                other => panic!("no such count: {other}"),
            })
        };
        self.pass(within, is_so);
        if is_so(&self.world) { String::new() } else { format!("not within {within}\n") }
    }

    fn status(&mut self, name: &str) -> String {
        let key = key(name);
        let most_down = self.down.remove(&key);
        let Some(job) = self.world.state().job_named(&key) else {
            return format!("there is no job {name}\n");
        };
        let counts = job.counts;
        let mut text = format!("{name} {}:", job.state());
        for (count, what) in [
            (counts.serving, "serve"),
            (counts.up - counts.serving, "up and not serving"),
            (counts.running - counts.up, "starting"),
            (counts.pending, "pending"),
            (counts.finished, "finished"),
            (counts.failed, "failed"),
            (counts.killed, "killed"),
        ] {
            if count > 0 {
                text.push_str(&format!(" {count} {what},"));
            }
        }
        let down = most_down.map_or_else(|| "all".to_owned(), |down| down.to_string());
        let now_down = job.down();
        let processes = self.incarnations(&key);
        if most_down.is_some() {
            self.down.insert(key.clone(), now_down);
        }
        self.processes.insert(key, processes);
        format!("{} at most {down} down at once\n", text)
    }

    fn same(&self, name: &str) -> String {
        let key = key(name);
        let now = self.incarnations(&key);
        let kept = self.processes.get(&key).map_or(0, |before| before.intersection(&now).count());
        format!("{kept} of {} run as before\n", now.len())
    }

    fn incarnations(&self, key: &JobKey) -> BTreeSet<IncarnationId> {
        let id = self.world.state().job_named(key).map(|job| job.id);
        let all = self.world.processes();
        all.keys().map(|(id, _)| *id).filter(|one| Some(one.task.job) == id).collect()
    }
}

fn key(name: &str) -> JobKey {
    format!("ann/{name}").parse().unwrap()
}

/// What is said, without the moments that it names.
fn timeless(said: &impl ToString) -> String {
    let said = said.to_string();
    let is_time = |word: &str| word.starts_with("20") && word.contains("Z");
    let words = said.split(' ').map(|word| if is_time(word) { "TIME." } else { word });
    words.collect::<Vec<_>>().join(" ")
}

fn within(options: &[&str]) -> Millis {
    let within = options.iter().find_map(|option| option.strip_prefix("within="));
    within.map_or(Millis(60_000), millis)
}

fn millis(text: &str) -> Millis {
    Millis(text.strip_suffix('s').unwrap().parse::<u64>().unwrap() * 1_000)
}

fn fault(what: &str, machine: usize) -> Fault {
    match what {
        "cut" => Fault::CutMachine(machine),
        "mute" => Fault::MuteMachine(machine),
        "pause" => Fault::PauseBorglet(machine),
        "reboot" => Fault::Reboot(machine),
        other => panic!("no such fault: {other}"),
    }
}

fn spec(name: &str, options: &[&str]) -> JobSpec {
    let mut builder = job(name);
    let (mut cpu, mut ram, mut budget) = (100, 64, None);
    for option in options {
        let (what, value) = option.split_once('=').unwrap_or((option, ""));
        let pair = || value.split_once(':').unwrap();
        builder = match what {
            "tasks" => builder.tasks(value.parse().unwrap()),
            "batch" => builder.batch(0),
            "prod" => builder.prod(),
            "checked" => builder.checked(),
            "exclusive" => builder.exclusive(),
            "play" => {
                let words = std::iter::once("/sim/play").chain(value.split(':'));
                builder.plays(Play::read(&words.map(ToOwned::to_owned).collect::<Vec<_>>()))
            }
            "allocs" => builder.alloc_set(),
            "keep" => builder.keeps_data(millis(value)),
            "in" => builder.within(key(value)),
            "rescues" => builder.rescues(),
            "spread" => builder.spread(pair().0, pair().1.parse().unwrap()),
            "only" => builder.only_on(pair().0, pair().1),
            "cpu" => {
                cpu = value.parse().unwrap();
                builder
            }
            "ram" => {
                ram = value.parse().unwrap();
                builder
            }
            "budget" => {
                budget = Some(value.parse().unwrap());
                builder
            }
            other => panic!("no such option: {other}"),
        };
    }
    let disruption = budget.map(|most| Disruption { most, rate: None });
    JobSpec { disruption, ..builder.limit(cpu, ram).spec() }
}
