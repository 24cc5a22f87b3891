//! `submit`, `kill` and `eval`.

use super::rollout::serves;
use super::select::{SelectArgs, told};
use super::update::Updated;
use super::{must_exist, names, plan, rollout, update};
use crate::client::{Client, Kind};
use crate::config::{self, Evaluated, Options};
use crate::exit::{Code, Failure};
use crate::output::views::{Job, Submitted};
use crate::output::{Output, note};
use crate::target::TargetArgs;
use borg_proto::wire::pb;
use borg_proto::{IndexSet, JobKey, JobKind, JobSpec, UserName};
use clap::Args;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often a job that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(super) struct SubmitArgs {
    /// The file: .bcl, JSON, or - for standard input
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
    /// Wait until batch jobs have ended, and all tasks of services and daemons serve
    #[arg(long)]
    wait: bool,
    /// Only if this plan of the file still holds; jobs that it found live and just so are left alone
    #[arg(long, value_name = "TOKEN")]
    plan: Option<String>,
    /// Update jobs of the file that are live, as `update` does when nothing else is said; submit the others
    #[arg(long, conflicts_with = "plan")]
    update: bool,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    /// The file: .bcl, JSON, or - for standard input
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
    /// On whose behalf [default: the owner of the credentials, or nobody]
    #[arg(long)]
    user: Option<UserName>,
}

#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// JOB, USER/JOB or USER/JOB/INDEX; without it, with --label, one's own jobs that have these labels
    #[arg(required_unless_present = "labels")]
    name: Option<String>,
    #[command(flatten)]
    which: SelectArgs,
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("is not NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) async fn evaluate(
    file: &Path,
    args: Vec<(String, String)>,
    user: UserName,
) -> Result<Evaluated, Failure> {
    must_exist(file)?;
    let options = Options { args: args.into_iter().collect(), ..Options::new(user)? };
    let evaluated = config::load(file, &options).await?;
    for line in &evaluated.printed {
        note(line);
    }
    Ok(evaluated)
}

pub(super) async fn eval(target: &TargetArgs, args: EvalArgs, out: Output) -> Result<(), Failure> {
    let user = args.user.unwrap_or_else(|| target.user());
    let evaluated = evaluate(&args.file, args.args, user).await?;
    match evaluated.jobs.as_slice() {
        [job] => out.json(job, false),
        jobs => out.json(&jobs, false),
    }
}

pub(super) async fn submit(
    target: &TargetArgs,
    args: SubmitArgs,
    out: Output,
) -> Result<(), Failure> {
    let target = target.resolve()?;
    let evaluated = evaluate(&args.file, args.args, target.user.clone()).await?;
    let mut client = Client::new(&target)?;
    let (mut submitted, mut updated) = (Vec::new(), Vec::new());
    let jobs = match &args.plan {
        // Whether the plan holds as a whole is asked for first, so that not a part of it is done. Not when
        // a part may have been done under this id before: then each job is checked by itself.
        Some(token) => {
            let whole = if client.repeats() { String::new() } else { token.clone() };
            new_ones(&mut client, &evaluated.jobs, whole).await?
        }
        None => evaluated.jobs.iter().enumerate().collect(),
    };
    for (n, job) in &jobs {
        let planned = args.plan.as_ref().map(|token| pb::PlannedJob {
            token: token.clone(),
            number: u32::try_from(*n).unwrap_or(u32::MAX),
        });
        let request_id = client.request_id_of(u32::try_from(*n).unwrap_or(u32::MAX));
        match submit_one(&mut client, job, request_id, planned, out).await {
            Ok(one) => submitted.push((one, job.kind)),
            Err(failure) if args.update && failure.code == Code::AlreadyExists => {
                updated.push(update::live(&mut client, job, out).await?);
            }
            Err(failure) => return Err(failure),
        }
    }
    if args.wait {
        for one in &updated {
            rollout::watch(&mut client, &one.job, &one.to_watch(), out).await?;
        }
        // Nothing is told of no jobs where there were others.
        let is_rest = !submitted.is_empty() || updated.is_empty();
        return if is_rest { wait(&mut client, submitted, out).await } else { Ok(()) };
    }
    if out.is_json() { told_json(&submitted, &updated, out) } else { Ok(()) }
}

/// What was done, as JSON: one object, or a list when it was not one.
fn told_json(
    submitted: &[(Submitted, JobKind)],
    updated: &[Updated],
    out: Output,
) -> Result<(), Failure> {
    match (submitted, updated) {
        ([(one, _)], []) => out.json(one, false),
        ([], [one]) => out.json(one, false),
        _ => {
            let submitted = submitted.iter().map(|(one, _)| serde_json::json!(one));
            let updated = updated.iter().map(|one| serde_json::json!(one));
            out.json(&submitted.chain(updated).collect::<Vec<_>>(), false)
        }
    }
}

/// The jobs of a planned file that are to be submitted, with their numbers: not those that are live and
/// just so. With the plan's token, only if it holds.
async fn new_ones<'a>(
    client: &mut Client,
    jobs: &'a [JobSpec],
    token: String,
) -> Result<Vec<(usize, &'a JobSpec)>, Failure> {
    let planned = plan::ask(client, jobs, token).await?.jobs;
    let live = |n: usize| planned.get(n).map(pb::JobPlan::change) == Some(pb::PlannedChange::None);
    Ok(jobs.iter().enumerate().filter(|(n, _)| !live(*n)).collect())
}

async fn submit_one(
    client: &mut Client,
    job: &JobSpec,
    request_id: String,
    planned: Option<pb::PlannedJob>,
    out: Output,
) -> Result<Submitted, Failure> {
    let message = pb::SubmitJobRequest { spec: Some(job.into()), request_id, planned };
    let what = format!("submit {}", job.key(client.user()));
    let answer = client
        .call(&what, Kind::Change, message, async |mut master, request| {
            master.submit_job(request).await
        })
        .await?;
    if !out.is_json() {
        out.line(&answer.job)?;
    }
    if answer.fitting_machines == 0 {
        let more = if job.kind.stands() {
            String::new()
        } else {
            format!(": borgctl why {}/0", answer.job)
        };
        note(&format!("warning: no machine of the cell could run a task of it{more}"));
    }
    Ok(Submitted {
        job: answer.job,
        job_id: answer.job_id,
        index: answer.index,
        fitting_machines: answer.fitting_machines,
    })
}

/// Waits until batch jobs have ended, and all tasks of what goes on for ever serve.
async fn wait(
    client: &mut Client,
    mut open: Vec<(Submitted, JobKind)>,
    out: Output,
) -> Result<(), Failure> {
    let mut done: Vec<Job> = Vec::new();
    let mut shown: BTreeMap<String, String> = BTreeMap::new();
    let accepted = tokio::time::Instant::now();
    while !open.is_empty() {
        for (submitted, kind) in std::mem::take(&mut open) {
            let Some((job, serve)) = look(client, &submitted).await? else {
                if accepted.elapsed() > client.timeout() {
                    let text = format!("{} was accepted but no master shows it", submitted.job);
                    return Err(Failure::new(Code::Unavailable, text));
                }
                open.push((submitted, kind));
                continue;
            };
            let line = format!(
                "{}: {} ({} of {} up, {} finished)",
                job.job, job.state, job.up, job.tasks, job.finished
            );
            if out.is_terminal() && shown.get(&job.job) != Some(&line) {
                note(&line);
                shown.insert(job.job.clone(), line);
            }
            // A cron job is there as soon as it is accepted: its runs come with time.
            let there = kind == JobKind::Cron || (kind != JobKind::Batch && serve);
            if job.is_over() || there {
                done.push(job);
            } else {
                open.push((submitted, kind));
            }
        }
        if !open.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
    if out.is_json() {
        match done.as_slice() {
            [one] => out.json(one, false)?,
            several => out.json(&several, false)?,
        }
    }
    let bad: Vec<String> = done
        .iter()
        .filter(|job| job.is_over() && job.state != "finished")
        .map(|job| {
            format!("{} {}: {}", job.job, job.state, job.note)
                .trim_end_matches([':', ' '])
                .to_owned()
        })
        .collect();
    if bad.is_empty() { Ok(()) } else { Err(Failure::new(Code::JobFailed, bad.join("\n"))) }
}

/// The job as a master knows it. Any master may answer, and one that is a little behind knows
/// nothing of it yet, or only an earlier job of that name: then there is nothing to tell. With it, whether
/// all of its tasks serve.
async fn look(client: &mut Client, submitted: &Submitted) -> Result<Option<(Job, bool)>, Failure> {
    let name = &submitted.job;
    let message = pb::GetJobRequest { job: name.clone() };
    let asked = client
        .call(&format!("status of {name}"), Kind::Read, message, async |mut master, request| {
            master.get_job(request).await
        })
        .await;
    let (job, serve) = match asked {
        Ok(answer) => {
            let serve = answer.tasks.iter().all(serves);
            (Job::from(answer.job.unwrap_or_default()), serve)
        }
        Err(failure) if failure.code == Code::NotFound => return Ok(None),
        Err(failure) => return Err(failure),
    };
    match job.job_id.cmp(&submitted.job_id) {
        Ordering::Less => Ok(None),
        Ordering::Equal => Ok(Some((job, serve))),
        Ordering::Greater => {
            let text = format!("{name} was replaced by another job of that name");
            Err(Failure::new(Code::JobFailed, text))
        }
    }
}

pub(super) async fn kill(client: &mut Client, args: KillArgs, out: Output) -> Result<(), Failure> {
    let Some(name) = args.name else {
        for job in with_labels(client, &args.which).await? {
            kill_one(client, &job, Vec::new(), out).await?;
        }
        return Ok(());
    };
    let (job, index) = names::job_or_task(&name, client.user())?;
    let tasks = match index {
        Some(index) => {
            args.which.must_be_empty(&name)?;
            vec![index]
        }
        // No index at all: the job.
        None => args.which.chosen(client, &job).await?.iter().flat_map(IndexSet::iter).collect(),
    };
    kill_one(client, &job, tasks, out).await
}

/// One's own live jobs that have these labels.
async fn with_labels(client: &mut Client, which: &SelectArgs) -> Result<Vec<JobKey>, Failure> {
    if which.tasks.is_some() {
        let text = "--tasks says which tasks of a job: name the job";
        return Err(Failure::new(Code::Usage, text));
    }
    let message = pb::ListJobsRequest { user: client.user().to_string(), all: false };
    let answer = client
        .call("jobs by label", Kind::Read, message, async |mut master, request| {
            master.list_jobs(request).await
        })
        .await?;
    let has =
        |job: &&pb::JobSummary| which.labels.iter().all(|(k, v)| job.labels.get(k) == Some(v));
    let found: Vec<JobKey> =
        answer.jobs.iter().filter(has).filter_map(|job| job.job.parse().ok()).collect();
    if found.is_empty() {
        let text = format!("no live job of {} is labelled {}", client.user(), told(&which.labels));
        return Err(Failure::new(Code::NotFound, text));
    }
    Ok(found)
}

async fn kill_one(
    client: &mut Client,
    job: &JobKey,
    tasks: Vec<u32>,
    out: Output,
) -> Result<(), Failure> {
    let message = pb::KillRequest { job: job.to_string(), tasks, request_id: client.request_id() };
    let answer = client
        .call(&format!("kill {job}"), Kind::Change, message, async |mut master, request| {
            master.kill(request).await
        })
        .await
        .map_err(|failure| names::meant_a_task(failure, job, client.user()))?;
    if out.is_json() {
        return out.json(
            &serde_json::json!({ "job": job, "killed": answer.killed, "index": answer.index }),
            false,
        );
    }
    let tasks = if answer.killed == 1 { "task" } else { "tasks" };
    out.line(&format!("{job}: {} {tasks} killed", answer.killed))
}
