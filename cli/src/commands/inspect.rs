//! `status` and `why`: what the cell knows.

use super::history::say_when;
use super::jobs::pair;
use super::names;
use super::runs;
use super::select::SelectArgs;
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::privileges::privilege_name;
use crate::output::views::{Job, JobDetail, Read, Task, Why, WhyWithRuns};
use crate::output::{Output, age, cores, size};
use borg_proto::wire::{pb, read_indexes};
use borg_proto::{IndexSet, JobKey};
use clap::Args;
use std::time::Duration;

/// How often `--watch` looks again.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// JOB or USER/JOB, to list its tasks; JOB/INDEX or USER/JOB/INDEX, for one task and how its last runs ended
    #[arg(value_name = "JOB|TASK")]
    job: Option<String>,
    /// Look again every second, until the job has ended
    #[arg(short, long)]
    watch: bool,
    /// Also list jobs that are over
    #[arg(short, long)]
    all: bool,
    /// Only this user's jobs
    #[arg(short, long, conflicts_with = "job")]
    user: Option<String>,
    /// Of a job only these tasks, as in 0-2,7
    #[arg(long, value_name = "TASKS", requires = "job")]
    tasks: Option<IndexSet>,
    /// Only jobs with this label, or of a job only tasks with it; with several, those that have them all
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
}

#[derive(Debug, Args)]
pub(super) struct WhyArgs {
    /// JOB/INDEX or USER/JOB/INDEX; with --tasks or --label, JOB or USER/JOB
    #[arg(value_name = "TASK|JOB")]
    task: String,
    #[command(flatten)]
    which: SelectArgs,
}

pub(super) async fn status(
    client: &mut Client,
    args: StatusArgs,
    out: Output,
) -> Result<(), Failure> {
    if args.watch && client.at().is_some() {
        return Err(Failure::new(Code::Usage, "--watch with --at: the past does not change"));
    }
    let name = args.job.as_ref().map(|name| names::job_or_task(name, client.user())).transpose()?;
    let task = args.job.as_ref().and_then(|name| names::own_task(name, client.user()));
    let which = SelectArgs { tasks: args.tasks.clone(), labels: args.labels.clone() };
    let mut before = String::new();
    loop {
        let (text, over) = match &name {
            Some((job, Some(index))) => {
                which.must_be_empty(args.job.as_deref().unwrap_or_default())?;
                runs::one_task(client, job, *index, out, args.watch).await?
            }
            Some((job, None)) => match (one_job(client, job, &which, out, args.watch).await, &task)
            {
                // A job may have a number for a name: only where there is none it is a task's.
                (Err(failure), Some(task)) if failure.code == Code::NotFound => {
                    runs::one_task(client, &task.job, task.index, out, args.watch).await?
                }
                (shown, _) => shown?,
            },
            None => all_jobs(client, &args, out).await?,
        };
        // Ages change every second: a terminal is drawn anew, a pipe gets what is new otherwise.
        if out.is_terminal() || text != before {
            if args.watch {
                out.clear()?;
            }
            out.line(&text)?;
        }
        if !args.watch || over {
            return Ok(());
        }
        before = text;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The list of jobs as text. It is never over.
async fn all_jobs(
    client: &mut Client,
    args: &StatusArgs,
    out: Output,
) -> Result<(String, bool), Failure> {
    let message =
        pb::ListJobsRequest { user: args.user.clone().unwrap_or_default(), all: args.all };
    let answer = client
        .call("status", Kind::Read, message, async |mut master, request| {
            master.list_jobs(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let now = answer.now_ms;
    let has = |job: &pb::JobSummary| args.labels.iter().all(|(k, v)| job.labels.get(k) == Some(v));
    let jobs: Vec<Job> = answer.jobs.into_iter().filter(has).map(Job::from).collect();
    if out.is_json() {
        return Ok((json(&Read::each(answer.read, jobs), args.watch)?, false));
    }
    if jobs.is_empty() {
        let text = if args.all {
            "no jobs"
        } else {
            "no jobs are running (--all lists those that are over)"
        };
        return Ok((text.into(), false));
    }
    let rows = jobs.into_iter().map(|job| {
        let since = age(now.saturating_sub(job.submitted_at_ms));
        [
            job.job,
            job.kind.into(),
            job.state.into(),
            format!("{}/{}", job.up, job.tasks),
            job.pending.to_string(),
            job.finished.to_string(),
            job.failed.to_string(),
            job.priority.to_string(),
            since,
            job.note,
        ]
    });
    let head =
        ["job", "kind", "state", "up", "pending", "finished", "failed", "prio", "age", "note"];
    Ok((crate::output::table(head, rows), false))
}

/// A job with its tasks, as a master has it.
pub(super) async fn get_job(
    client: &mut Client,
    what: &str,
    key: &JobKey,
) -> Result<pb::GetJobResponse, Failure> {
    let message = pb::GetJobRequest { job: key.to_string() };
    client
        .call(what, Kind::Read, message, async |mut master, request| master.get_job(request).await)
        .await
}

async fn one_job(
    client: &mut Client,
    key: &JobKey,
    which: &SelectArgs,
    out: Output,
    watch: bool,
) -> Result<(String, bool), Failure> {
    let chosen = which.chosen(client, key).await?;
    let answer = get_job(client, &format!("status of {key}"), key).await?;
    say_when(client, out, answer.read.as_ref());
    let now = answer.now_ms;
    let job = Job::from(answer.job.unwrap_or_default());
    let over = job.is_over();
    let of_some = answer.spec.as_ref().map(task_labels).unwrap_or_default();
    let loosened = loosened(answer.spec);
    let is_meant = |task: &pb::TaskInfo| chosen.as_ref().is_none_or(|set| set.contains(task.index));
    let tasks: Vec<Task> = answer.tasks.into_iter().filter(is_meant).map(Task::from).collect();
    if out.is_json() {
        let detail = JobDetail { job, loosened, task_list: tasks };
        return Ok((json(&Read::of(answer.read, detail), watch)?, over));
    }
    let mut head = format!(
        "{}  {}  {}  priority {}  {} of {} up  submitted {} ago",
        job.job,
        job.kind,
        job.state,
        job.priority,
        job.up,
        job.tasks,
        age(now.saturating_sub(job.submitted_at_ms))
    );
    if job.version > 1 {
        head.push_str(&format!("  version {}", job.version));
    }
    if let Some(parent) = &job.parent {
        head.push_str(&format!("\nends with {parent}"));
    }
    if let Some(alloc) = &job.rescues {
        head.push_str(&format!("\nrescues what alloc {alloc} left behind"));
    }
    if let Some(cron) = &job.cron {
        let made = if cron.made == 1 { "run" } else { "runs" };
        head.push_str(&format!("\nat {} (UTC), {} {made} made", cron.schedule, cron.made));
    }
    if !loosened.is_empty() {
        head.push_str(&format!(
            "\nwithout the isolation that these loosen: {}",
            loosened.join(", ")
        ));
    }
    if !job.note.is_empty() {
        head.push('\n');
        head.push_str(&job.note);
    }
    for line in of_some {
        head.push('\n');
        head.push_str(&line);
    }
    let rows = tasks.into_iter().map(|mut task| {
        if task.version != job.version {
            let rest = if task.note.is_empty() { "" } else { "; " };
            task.note = format!("version {}{rest}{}", task.version, task.note);
        }
        task_row(task, now)
    });
    Ok((format!("{head}\n\n{}", crate::output::table(TASK_TITLES, rows)), over))
}

/// The labels of some of a job's tasks, a line for each entry.
fn task_labels(spec: &pb::JobSpec) -> Vec<String> {
    let line = |some: &pb::TaskLabels| {
        let tasks = read_indexes("tasks", some.tasks.clone()).ok().flatten();
        let labels = some.labels.iter().map(|(key, value)| format!("{key}={value}"));
        let labels = labels.collect::<Vec<_>>().join(" ");
        format!("tasks {}: {labels}", tasks.map(|tasks| tasks.to_string()).unwrap_or_default())
    };
    spec.task_labels.iter().map(line).collect()
}

/// The names of what a job's tasks do without.
fn loosened(spec: Option<pb::JobSpec>) -> Vec<String> {
    let numbers = spec.and_then(|spec| spec.task).map(|task| task.loosen).unwrap_or_default();
    numbers.into_iter().map(privilege_name).collect()
}

/// Above the rows of [`task_row`].
pub(super) const TASK_TITLES: [&str; 11] =
    ["task", "phase", "age", "machine", "try", "pid", "ports", "cpu", "ram", "fails", "note"];

pub(super) fn task_row(task: Task, now: u64) -> [String; 11] {
    let none_if = |empty: bool, text: String| if empty { String::from("-") } else { text };
    let ports = task.ports.iter().map(|(name, port)| format!("{name}:{port}"));
    // First the address of a task that has one of its own.
    let ports: Vec<String> = task.address.clone().into_iter().chain(ports).collect();
    let measured = task.ram_bytes > 0 || task.cpu_milli > 0;
    [
        task.index.to_string(),
        task.phase.into(),
        age(now.saturating_sub(task.since_ms)),
        task.machine.unwrap_or_else(|| "-".into()),
        none_if(task.incarnation == 0, task.incarnation.to_string()),
        task.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
        none_if(ports.is_empty(), ports.join(" ")),
        none_if(!measured, cores(task.cpu_milli)),
        none_if(!measured, size(task.ram_bytes)),
        task.failures.to_string(),
        // Why it is in trouble comes before what it says of itself.
        if task.note.is_empty() { task.status_line } else { task.note },
    ]
}

pub(super) fn json(value: &impl serde::Serialize, one_line: bool) -> Result<String, Failure> {
    let text =
        if one_line { serde_json::to_string(value) } else { serde_json::to_string_pretty(value) };
    Ok(text.map_err(std::io::Error::from)?)
}

/// Most tasks that one command explains: of each a master is asked by itself. Our choice.
const MOST_WHYS: usize = 100;

pub(super) async fn why(client: &mut Client, args: WhyArgs, out: Output) -> Result<(), Failure> {
    if args.which.is_empty() {
        let task = names::task(&args.task, client.user())?.to_string();
        return why_one(client, task, false, out).await;
    }
    let key = names::job(&args.task, client.user())?;
    let chosen = args.which.chosen(client, &key).await?;
    let tasks: Vec<u32> = chosen.iter().flat_map(IndexSet::iter).collect();
    if tasks.len() > MOST_WHYS {
        let many = tasks.len();
        let text = format!(
            "--tasks: {many} tasks are more than the {MOST_WHYS} that are explained at once"
        );
        return Err(Failure::new(Code::Usage, text));
    }
    for index in tasks {
        why_one(client, format!("{key}/{index}"), true, out).await?;
    }
    Ok(())
}

/// Why one task is where it is; as JSON on a line of its own where others follow.
async fn why_one(
    client: &mut Client,
    task: String,
    of_several: bool,
    out: Output,
) -> Result<(), Failure> {
    let message = pb::WhyRequest { task: task.clone() };
    let answer = client
        .call(&format!("why {task}"), Kind::Read, message, async |mut master, request| {
            master.why(request).await
        })
        .await?;
    say_when(client, out, answer.read.as_ref());
    let read = answer.read;
    let why = Why::new(task, answer);
    let runs = runs::of_task(client, &why.task).await?;
    if out.is_json() {
        return out.json(&Read::of(read, WhyWithRuns { why, runs: runs.list }), of_several);
    }
    out.line(&format!("{}: {}", why.task, why.summary))?;
    if let Some(text) = runs.last_trouble() {
        out.line(&text)?;
    }
    say_standings(&why, out)?;
    if why.phase == "pending" {
        let ahead = match (why.higher, why.equal) {
            (0, 0) => "nobody waits before it".to_owned(),
            (higher, equal) => format!(
                "before it: {higher} ready tasks of higher priority; {equal} of its own priority \
                 (itself, if it may go) take turns by user; next is {}",
                why.next
            ),
        };
        out.line(&ahead)?;
        out.line(&format!("quota: {}", why.quota))?;
    }
    if !why.victims.is_empty() {
        out.line(&format!("it would push out {}", why.victims.join(", ")))?;
    }
    if why.rejections.is_empty() {
        return Ok(());
    }
    out.line(&format!("{} of {} machines could take it now", why.feasible, why.machines))?;
    out.table(
        ["machines", "rejected because"],
        why.rejections.into_iter().map(|r| [r.machines.to_string(), r.reason]),
    )?;
    if why.advice.is_empty() {
        return Ok(());
    }
    out.line("it would be placed with these changes:")?;
    let rows = why.advice.into_iter().map(|a| [a.machine, a.changes.join(" and ")]);
    out.table(["on machine", "change"], rows)
}

/// Of a running task: what its machine costs it beside the next best ones, and who had to go.
fn say_standings(why: &Why, out: Output) -> Result<(), Failure> {
    if !why.pushed_out.is_empty() {
        out.line(&format!("pushed out for it: {}", why.pushed_out.join(", ")))?;
    }
    if why.standings.is_empty() {
        return Ok(());
    }
    out.line("were it placed now, in thousandths of a machine (least is best):")?;
    let rows = why.standings.iter().map(|standing| {
        let terms = standing.terms.iter().filter(|(_, cost)| **cost != 0);
        let terms: Vec<String> = terms.map(|(name, cost)| format!("{name} {cost}")).collect();
        [standing.machine.clone(), standing.cost.to_string(), terms.join(", ")]
    });
    out.table(["machine", "cost", "terms"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state counts restarts by the machine among the failures already.
    #[test]
    fn failures_are_shown_as_the_state_counts_them() {
        let task = pb::TaskInfo { failures: 5, restarts: 4, ..pb::TaskInfo::default() };
        let row = task_row(task.into(), 0);
        let place = TASK_TITLES.iter().position(|title| *title == "fails").unwrap();
        assert_eq!(row[place], "5");
    }
}
