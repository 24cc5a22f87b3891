//! `rollout`, and `history` of one job: how far an update is, and what is to become of it.

use super::{examples, names};
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::{Output, age, note};
use borg_proto::JobKey;
use borg_proto::update::Steer;
use borg_proto::wire::pb;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::time::Duration;

/// How often an update that is watched is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub(super) enum RolloutCommand {
    /// Show how far the update of a job is, and what it waits for
    #[command(after_help = examples::ROLLOUT_STATUS)]
    Status(StatusArgs),
    /// Let no more tasks go for now
    #[command(after_help = examples::ROLLOUT_PAUSE)]
    Pause(JobArgs),
    /// Let tasks go again; also those after the canary
    #[command(after_help = examples::ROLLOUT_RESUME)]
    Resume(JobArgs),
    /// Take the tasks back to what they were, in the middle or after
    #[command(visible_alias = "abort", after_help = examples::ROLLOUT_UNDO)]
    Undo(JobArgs),
    /// Say that it is good: it cannot be undone any more
    #[command(after_help = examples::ROLLOUT_CLOSE)]
    Close(JobArgs),
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// JOB or USER/JOB
    job: String,
    /// Stay until it is done
    #[arg(short, long)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// JOB or USER/JOB
    job: String,
    /// Stay until it is done
    #[arg(short, long)]
    watch: bool,
}

/// What is watched.
pub(super) struct Watched {
    /// The version that was asked for.
    pub version: u32,
    /// Only what is as new as this entry counts.
    pub index: u64,
    /// Whether all tasks have to serve too.
    pub all_serve: bool,
}

/// An update, as `-o json` shows it.
#[derive(Debug, Serialize)]
struct Shown {
    job: String,
    version: u32,
    state: &'static str,
    from_version: Option<u32>,
    to_version: Option<u32>,
    by: Option<String>,
    since_ms: Option<u64>,
    done: u32,
    moving: u32,
    left: u32,
    failed: u32,
    waiting_for: String,
    why: String,
}

impl From<&pb::GetUpdateResponse> for Shown {
    fn from(answer: &pb::GetUpdateResponse) -> Self {
        let version = answer.head.as_ref().map_or(0, |head| head.version);
        let update = answer.update.clone();
        let state = update.as_ref().map_or("none", |update| state_name(update.state()));
        let of = update.unwrap_or_default();
        let is = state != "none";
        Self {
            job: answer.job.clone(),
            version,
            state,
            from_version: is.then_some(of.from_version),
            to_version: is.then_some(of.to_version),
            by: is.then_some(of.by),
            since_ms: is.then_some(of.since_ms),
            done: of.done,
            moving: of.moving,
            left: of.left,
            failed: of.failed,
            waiting_for: of.waiting_for,
            why: of.why,
        }
    }
}

fn state_name(state: pb::UpdateState) -> &'static str {
    match state {
        pb::UpdateState::Rolling => "rolling",
        pb::UpdateState::Canary => "canary",
        pb::UpdateState::Paused => "paused",
        pb::UpdateState::RollingBack => "rolling back",
        pb::UpdateState::Done => "done",
        pb::UpdateState::Unspecified => "unknown",
    }
}

pub(super) async fn run(
    client: &mut Client,
    command: RolloutCommand,
    out: Output,
) -> Result<(), Failure> {
    let (args, verb) = match command {
        RolloutCommand::Status(args) => return status(client, &args, out).await,
        RolloutCommand::Pause(args) => (args, Steer::Pause),
        RolloutCommand::Resume(args) => (args, Steer::Resume),
        RolloutCommand::Undo(args) => (args, Steer::Undo),
        RolloutCommand::Close(args) => (args, Steer::Close),
    };
    let key = names::job(&args.job, client.user())?;
    let message = pb::SteerUpdateRequest {
        job: key.to_string(),
        verb: pb::UpdateVerb::from(verb).into(),
        request_id: client.request_id(),
    };
    let what = format!("{verb} the update of {key}");
    let answer = client
        .call(&what, Kind::Change, message, async |mut master, request| {
            master.steer_update(request).await
        })
        .await?;
    if args.watch {
        let watched = Watched { version: 0, index: answer.index, all_serve: false };
        return watch(client, &key, &watched, out).await;
    }
    if out.is_json() {
        return out.json(&serde_json::json!({ "job": key, "index": answer.index }), false);
    }
    out.line(&match verb {
        Steer::Pause => format!("{key}: no more tasks go for now"),
        Steer::Resume => format!("{key}: tasks go again"),
        Steer::Undo => format!("{key}: its tasks go back to what they were"),
        Steer::Close => format!("{key}: the update is closed"),
    })
}

async fn status(client: &mut Client, args: &StatusArgs, out: Output) -> Result<(), Failure> {
    let key = names::job(&args.job, client.user())?;
    if args.watch {
        return watch(client, &key, &Watched { version: 0, index: 0, all_serve: false }, out).await;
    }
    let answer = get(client, &key).await?;
    if out.is_json() {
        return out.json(&Shown::from(&answer), false);
    }
    let Some(update) = &answer.update else {
        let head = answer.head.unwrap_or_default();
        let outcome = if head.outcome.is_empty() { "" } else { ", " };
        return out.line(&format!(
            "{key}: version {} is in force{outcome}{}; no update is open",
            head.version, head.outcome
        ));
    };
    out.line(&format!(
        "{key}: version {} -> {}, {} for {} (by {}, begun {} ago)",
        update.from_version,
        update.to_version,
        state_name(update.state()),
        age(answer.now_ms.saturating_sub(update.since_ms)),
        update.by,
        age(answer.now_ms.saturating_sub(update.begun_ms)),
    ))?;
    if !update.why.is_empty() {
        out.line(&format!("  it goes back: {}", update.why))?;
    }
    out.line(&format!("  {}", counts(update)))?;
    if !update.waiting_for.is_empty() {
        out.line(&format!("  {}", update.waiting_for))?;
    }
    Ok(())
}

fn counts(update: &pb::UpdateInfo) -> String {
    let failed =
        if update.failed == 0 { String::new() } else { format!(", {} failed", update.failed) };
    format!("{} done, {} on their way, {} left{failed}", update.done, update.moving, update.left)
}

pub(super) async fn get(
    client: &mut Client,
    key: &JobKey,
) -> Result<pb::GetUpdateResponse, Failure> {
    let message = pb::GetUpdateRequest { job: key.to_string() };
    client
        .call(&format!("rollout of {key}"), Kind::Read, message, async |mut master, request| {
            master.get_update(request).await
        })
        .await
}

/// Stays until nothing goes on by itself. On a terminal a bar shows how far it is; a pipe gets a line for
/// each thing that it waits for.
pub(super) async fn watch(
    client: &mut Client,
    key: &JobKey,
    watched: &Watched,
    out: Output,
) -> Result<(), Failure> {
    let bar = out.is_terminal().then(|| {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
        ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    });
    let mut before = String::new();
    loop {
        let answer = get(client, key).await?;
        let index = answer.read.as_ref().map_or(0, |read| read.index);
        if index < watched.index {
            // This master has not heard of it yet.
            tokio::time::sleep(LOOK_EVERY).await;
            continue;
        }
        if let Some(end) = over(client, key, &answer, watched, out).await? {
            if let Some(bar) = &bar {
                bar.finish_and_clear();
            }
            return end;
        }
        let line = answer.update.as_ref().map_or_else(String::new, |update| {
            format!("{}: {}; {}", state_name(update.state()), counts(update), update.waiting_for)
        });
        match (&bar, &answer.update) {
            (Some(bar), Some(update)) => {
                let all = update.done + update.moving + update.left;
                bar.set_length(all.into());
                bar.set_position(update.done.into());
                bar.set_message(format!("{}: {}", state_name(update.state()), update.waiting_for));
            }
            (Some(_), None) => {}
            // What counts down is no news.
            (None, _) => {
                let news: String = line.chars().filter(|c| !c.is_ascii_digit()).collect();
                if !out.is_json() && news != before {
                    note(&format!("{key}: {line}"));
                    before = news;
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What came of what is watched, if it is over or waits for somebody.
async fn over(
    client: &mut Client,
    key: &JobKey,
    answer: &pb::GetUpdateResponse,
    watched: &Watched,
    out: Output,
) -> Result<Option<Result<(), Failure>>, Failure> {
    let head = answer.head.clone().unwrap_or_default();
    let open = answer.update.as_ref();
    let waits = open.is_some_and(|update| update.state() != pb::UpdateState::Done);
    let for_somebody = open.is_some_and(|update| {
        matches!(update.state(), pb::UpdateState::Paused | pb::UpdateState::Canary)
    });
    if waits && !for_somebody {
        return Ok(None);
    }
    // A job that has ended has no update any more, as one of which all is done.
    let (mut lost, mut over) = (None, String::new());
    if !waits {
        let index = answer.read.as_ref().map_or(0, |read| read.index);
        let Some(found) = job_since(client, key, index).await? else { return Ok(None) };
        (lost, over) = (found.job.as_ref().and_then(how_lost), dead(&found));
        if lost.is_none() && watched.all_serve && !found.tasks.iter().all(is_well) {
            return Ok(None);
        }
    }
    if out.is_json() {
        out.json(&Shown::from(answer), false)?;
    }
    if let Some(lost) = lost {
        return Ok(Some(Err(lost)));
    }
    if let Some(update) = open.filter(|_| for_somebody) {
        let text = format!("{key}: {}", update.waiting_for);
        // A canary is what was asked for; a pause is not.
        if update.state() == pb::UpdateState::Canary {
            if !out.is_json() {
                out.line(&text)?;
            }
            return Ok(Some(Ok(())));
        }
        return Ok(Some(Err(Failure::new(Code::JobFailed, text))));
    }
    // Another version is in force by now: this one was taken back.
    if watched.version > 0 && head.version != watched.version {
        let why = outcome_of(client, key, watched.version).await?;
        return Ok(Some(Err(Failure::new(
            Code::JobFailed,
            format!(
                "{key}: version {} was {why}; version {} is in force",
                watched.version, head.version
            ),
        ))));
    }
    if !out.is_json() {
        out.line(&format!("{key}: version {} is in force, all is done{over}", head.version))?;
    }
    Ok(Some(Ok(())))
}

/// Whether all tasks of a job serve that are to, at this entry or later.
///
/// # Errors
/// When the job was killed or failed.
pub(super) async fn all_serve(
    client: &mut Client,
    key: &JobKey,
    index: u64,
) -> Result<bool, Failure> {
    let Some(found) = job_since(client, key, index).await? else { return Ok(false) };
    let lost = found.job.as_ref().and_then(how_lost);
    lost.map_or_else(|| Ok(found.tasks.iter().all(is_well)), Err)
}

/// A job as it is at this entry or later; nothing when the master that was asked has not heard of that yet.
async fn job_since(
    client: &mut Client,
    key: &JobKey,
    index: u64,
) -> Result<Option<pb::GetJobResponse>, Failure> {
    let answer = super::inspect::get_job(client, &format!("status of {key}"), key).await?;
    let is_new = answer.read.as_ref().is_some_and(|read| read.index >= index);
    Ok(Some(answer).filter(|_| is_new))
}

/// Whether nobody waits for a task: it serves, or is stopped or over.
fn is_well(task: &pb::TaskInfo) -> bool {
    use pb::TaskPhase::{Failed, Finished, Killed};
    task.stopped || matches!(task.phase(), Finished | Failed | Killed) || serves(task)
}

/// Whether a task does what it is for: it runs, and is healthy if somebody looks; an alloc is held.
pub(super) fn serves(task: &pb::TaskInfo) -> bool {
    match task.phase() {
        pb::TaskPhase::Running => {
            matches!(task.health(), pb::Health::Unspecified | pb::Health::Healthy)
        }
        pb::TaskPhase::Held => true,
        pb::TaskPhase::Pending
        | pb::TaskPhase::Starting
        | pb::TaskPhase::BackOff
        | pb::TaskPhase::Finished
        | pb::TaskPhase::Failed
        | pb::TaskPhase::Killed
        | pb::TaskPhase::Unspecified => false,
    }
}

/// How many tasks were killed or failed for good: no update brings them back, and who reads that all is
/// done would not think of them.
fn dead(answer: &pb::GetJobResponse) -> String {
    let job = answer.job.clone().unwrap_or_default();
    let told = |count: u32, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let told: Vec<String> =
        [told(job.killed, "killed"), told(job.failed, "failed")].into_iter().flatten().collect();
    let told = told.join(", ");
    if told.is_empty() { told } else { format!("; these stay dead: {told}") }
}

/// Why nothing comes of a job any more, if it did not end well.
fn how_lost(job: &pb::JobSummary) -> Option<Failure> {
    let how = match job.state() {
        pb::JobState::Failed => "failed",
        pb::JobState::Killed => "was killed",
        pb::JobState::Waiting
        | pb::JobState::Pending
        | pb::JobState::Running
        | pb::JobState::Finished
        | pb::JobState::Unspecified => return None,
    };
    let text = format!("{}: the job {how}: {}", job.job, job.note);
    Some(Failure::new(Code::JobFailed, text.trim_end_matches([':', ' '])))
}

async fn outcome_of(client: &mut Client, key: &JobKey, version: u32) -> Result<String, Failure> {
    let versions = list(client, key).await?.versions;
    let found = versions.into_iter().find(|found| found.version == version);
    let outcome = found.map(|found| found.outcome).filter(|outcome| !outcome.is_empty());
    Ok(outcome.unwrap_or_else(|| "replaced".to_owned()))
}

async fn list(client: &mut Client, key: &JobKey) -> Result<pb::ListVersionsResponse, Failure> {
    let message = pb::ListVersionsRequest { job: key.to_string() };
    client
        .call(&format!("history of {key}"), Kind::Read, message, async |mut master, request| {
            master.list_versions(request).await
        })
        .await
}

/// The versions of a job.
pub(super) async fn history(client: &mut Client, job: &str, out: Output) -> Result<(), Failure> {
    let key = names::job(job, client.user())?;
    let answer = list(client, &key).await?;
    if out.is_json() {
        let fields = |version: &pb::VersionInfo| {
            let field = |f: &pb::FieldChange| serde_json::json!({ "field": f.field, "old": f.old, "new": f.new });
            version.fields.iter().map(field).collect::<Vec<_>>()
        };
        let versions = answer.versions.iter().map(|version| {
            serde_json::json!({
                "version": version.version, "at_ms": version.at_ms, "by": version.by,
                "note": version.note, "outcome": version.outcome, "tasks": version.tasks,
                "fields": fields(version), "more_fields": version.more_fields,
            })
        });
        return out.json(&versions.collect::<Vec<_>>(), false);
    }
    for version in &answer.versions {
        let words: Vec<&str> = [version.note.as_str(), version.outcome.as_str()]
            .into_iter()
            .filter(|word| !word.is_empty())
            .collect();
        let words =
            if words.is_empty() { String::new() } else { format!(": {}", words.join("; ")) };
        out.line(&format!(
            "version {}, {} ago by {}, {} tasks{words}",
            version.version,
            age(answer.now_ms.saturating_sub(version.at_ms)),
            version.by,
            version.tasks
        ))?;
        for field in &version.fields {
            out.line(&format!("    {}", changed(field)))?;
        }
        if version.more_fields > 0 {
            out.line(&format!("    and {} more fields", version.more_fields))?;
        }
    }
    Ok(())
}

/// `task.command[0]: /bin/a -> /bin/b`.
pub(super) fn changed(field: &pb::FieldChange) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
    format!("{}: {} -> {}", field.field, text(&field.old), text(&field.new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_lost_that_ended_and_not_well() {
        let job = |state: pb::JobState, note: &str| pb::JobSummary {
            job: "ann/web".into(),
            state: state.into(),
            note: note.into(),
            ..pb::JobSummary::default()
        };
        let told = |job| how_lost(&job).map(|failure| (failure.code, failure.text));
        let killed = "ann/web: the job was killed: by bob".to_owned();
        assert_eq!(told(job(pb::JobState::Killed, "by bob")), Some((Code::JobFailed, killed)));
        let failed = "ann/web: the job failed".to_owned();
        assert_eq!(told(job(pb::JobState::Failed, "")), Some((Code::JobFailed, failed)));
        assert_eq!(told(job(pb::JobState::Finished, "")), None);
        assert_eq!(told(job(pb::JobState::Running, "")), None);
    }
}
