//! `update`, `rollback`, `scale` and `restart`: a job becomes something else, its tasks one after another.

use super::jobs::{evaluate, pair};
use super::names;
use super::rollout::{self, Watched};
use super::select::SelectArgs;
use crate::client::{Client, Kind};
use crate::config::units;
use crate::exit::{Code, Failure};
use crate::output::{Output, note};
use crate::target::TargetArgs;
use borg_proto::disruption::Share;
use borg_proto::update::{
    MAX_DEADLINE, MAX_MIN_HEALTHY, OnFailure, Order, Replacement, UpdateOptions,
};
use borg_proto::wire::pb;
use borg_proto::{IndexSet, JobKey, JobKind, JobSpec, Millis};
use clap::{Args, ValueEnum};
use pb::update_job::To;
use serde::Serialize;
use std::path::PathBuf;

/// How an update is done: the same words for every command that begins one.
#[derive(Debug, Clone, Args)]
pub(super) struct HowArgs {
    /// Most tasks on their way at once, as in 3 or 10%; the disruption budget always holds too [default: the budget]
    #[arg(long, value_name = "N|P%", value_parser = share)]
    most: Option<Share>,
    /// How long a task must serve before the next one goes
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = min_healthy)]
    min_healthy: Millis,
    /// How long a task may take from being placed until it serves
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = deadline)]
    deadline: Millis,
    /// These go first, and alone until `rollout resume`, as in 0-2
    #[arg(long, value_name = "TASKS")]
    canary: Option<IndexSet>,
    #[command(flatten)]
    which: SelectArgs,
    /// Which go first: ascending, descending, random, or indexes in their order, as in 3,1,2
    #[arg(long, value_name = "ORDER", default_value = "ascending", value_parser = order)]
    order: Order,
    /// What happens when more tasks fail than may
    #[arg(long, value_enum, default_value = "roll-back", value_name = "WHAT")]
    on_failure: Failing,
    /// How many tasks may fail
    #[arg(long, value_name = "N", default_value = "0")]
    failures: u32,
    /// Which tasks are started elsewhere, where there is room, before they are taken down: first: all that
    /// start anew; in-place: none; when not said, those that cannot stay where they are
    #[arg(long, value_enum, value_name = "HOW")]
    replacement: Option<Replaced>,
    /// It cannot be undone any more once it is done
    #[arg(long)]
    close: bool,
    /// Stay until it is done: 0 when it is, 8 when it was rolled back
    #[arg(short, long)]
    watch: bool,
    /// Say what would become of each task, and change nothing
    #[arg(long, conflicts_with = "watch")]
    plan: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Failing {
    /// The tasks go back to what they were
    RollBack,
    /// It waits for `rollout resume` or `rollout undo`
    Pause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Replaced {
    /// A replacement serves before the task is taken down, where there is room
    First,
    /// Each task is taken down and started anew, within the disruption budget
    InPlace,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// The file: .bcl, JSON, or - for standard input; each of its jobs must be live
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(super) struct RollbackArgs {
    /// JOB or USER/JOB
    job: String,
    /// The version to go back to, see `history JOB`
    #[arg(value_name = "VERSION")]
    back_to: u32,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(super) struct ScaleArgs {
    /// JOB or USER/JOB
    job: String,
    /// How many tasks it is to have
    #[arg(value_name = "TASKS")]
    count: u32,
    /// Stay until all of them serve
    #[arg(short, long)]
    watch: bool,
    /// Say what would become of each task, and change nothing
    #[arg(long, conflicts_with = "watch")]
    plan: bool,
}

#[derive(Debug, Args)]
pub(super) struct RestartArgs {
    /// JOB or USER/JOB
    job: String,
    #[command(flatten)]
    how: HowArgs,
}

fn min_healthy(text: &str) -> Result<Millis, String> {
    units::duration_within(text, Millis(0), MAX_MIN_HEALTHY)
}

fn deadline(text: &str) -> Result<Millis, String> {
    units::duration_within(text, Millis(1), MAX_DEADLINE)
}

fn share(text: &str) -> Result<Share, String> {
    text.parse::<Share>().map_err(|error| error.to_string())
}

fn order(text: &str) -> Result<Order, String> {
    Ok(match text {
        "ascending" => Order::Ascending,
        "descending" => Order::Descending,
        // What the order is must be the same on every master, so the command brings it.
        "random" => Order::Random(crate::client::random()),
        list => {
            let index = |one: &str| one.trim().parse::<u32>();
            let indexes = list.split(',').map(index).collect::<Result<Vec<_>, _>>();
            Order::Listed(indexes.map_err(|_| {
                "is none of ascending, descending and random, nor a list of indexes like 3,1,2"
                    .to_owned()
            })?)
        }
    })
}

impl HowArgs {
    async fn asked(
        &self,
        client: &mut Client,
        verb: &'static str,
        key: JobKey,
        to: To,
    ) -> Result<Asked, Failure> {
        let mut options = self.options();
        let chosen = self.which.chosen(client, &key).await;
        options.tasks =
            chosen.map_err(|failure| names::meant_a_task(failure, &key, client.user()))?;
        Ok(Asked { verb, key, to, options, plan: self.plan, watch: self.watch })
    }

    fn options(&self) -> UpdateOptions {
        UpdateOptions {
            most: self.most,
            min_healthy_ms: self.min_healthy,
            deadline_ms: self.deadline,
            canary: self.canary.clone(),
            tasks: None,
            order: self.order.clone(),
            on_failure: match self.on_failure {
                Failing::RollBack => OnFailure::RollBack,
                Failing::Pause => OnFailure::Pause,
            },
            failures: self.failures,
            close: self.close,
            replacement: match self.replacement {
                None => Replacement::ForMoves,
                Some(Replaced::First) => Replacement::First,
                Some(Replaced::InPlace) => Replacement::InPlace,
            },
        }
    }
}

/// What is asked for, and what to do with the answer.
struct Asked {
    /// The command, for errors.
    verb: &'static str,
    key: JobKey,
    to: To,
    options: UpdateOptions,
    plan: bool,
    watch: bool,
}

impl Asked {
    fn message(&self) -> pb::UpdateJob {
        let (job, to) = (self.key.to_string(), Some(self.to.clone()));
        pb::UpdateJob { job, to, options: Some((&self.options).into()) }
    }

    fn what(&self) -> String {
        format!("{} {}", self.verb, self.key)
    }
}

pub(super) async fn update(
    target: &TargetArgs,
    args: UpdateArgs,
    out: Output,
) -> Result<(), Failure> {
    let target = target.resolve()?;
    let evaluated = evaluate(&args.file, args.args, target.user.clone()).await?;
    let mut client = Client::new(&target)?;
    let mut all = Vec::new();
    for spec in meant(&mut client, &evaluated.jobs).await? {
        let (key, to) = (spec.key(client.user()), To::Spec(spec.into()));
        all.push(args.how.asked(&mut client, "update", key, to).await?);
    }
    if all.len() > 1 && !args.how.plan {
        // Nothing of the file is begun when a part of it would be refused.
        for asked in &all {
            foresee(&mut client, asked).await?;
        }
    }
    let mut refused = None;
    for asked in all {
        match ask(&mut client, asked, out).await {
            // A plan tells of all jobs.
            Err(failure) if args.how.plan && failure.code != Code::Unavailable => {
                refused = refused.or(Some(failure));
            }
            done => done?,
        }
    }
    refused.map_or(Ok(()), Err)
}

/// The jobs of a file that an update is about. Alloc sets that are just so are not, nor what does not live;
/// both are told of.
async fn meant<'a>(client: &mut Client, jobs: &'a [JobSpec]) -> Result<Vec<&'a JobSpec>, Failure> {
    if let [one] = jobs
        && one.kind != JobKind::AllocSet
    {
        return Ok(vec![one]);
    }
    let planned = super::plan::ask(client, jobs, String::new()).await?.jobs;
    let mut meant = Vec::new();
    for (job, planned) in jobs.iter().zip(&planned) {
        let (key, is_set) = (job.key(client.user()), job.kind == JobKind::AllocSet);
        match planned.change() {
            pb::PlannedChange::New => {
                note(&format!("{key}: does not live, and is left alone; borgctl submit runs it"))
            }
            pb::PlannedChange::None if is_set => {
                note(&format!("= {key}: an alloc set, and just so"));
            }
            pb::PlannedChange::Differs if is_set => {
                return Err(set_differs(&key, planned));
            }
            pb::PlannedChange::None
            | pb::PlannedChange::Differs
            | pb::PlannedChange::Unspecified => meant.push(job),
        }
    }
    let nothing_lives = planned.iter().all(|job| job.change() == pb::PlannedChange::New);
    match jobs.first().filter(|_| nothing_lives) {
        Some(job) => {
            let text = format!("update {}: no job of the file lives", job.key(client.user()));
            Err(Failure::new(Code::NotFound, text))
        }
        None => Ok(meant),
    }
}

fn set_differs(key: &JobKey, planned: &pb::JobPlan) -> Failure {
    let fields: Vec<String> = planned.fields.iter().map(rollout::changed).collect();
    let text = format!(
        "update {key}: an alloc set has no versions, and this one differs ({}): change its size with \
         borgctl resize {key}; nothing of the file was begun",
        fields.join(", ")
    );
    Failure::new(Code::Refused, text)
}

/// A job that was updated.
#[derive(Debug, Serialize)]
pub(super) struct Updated {
    pub(super) job: JobKey,
    version: u32,
    index: u64,
}

impl Updated {
    /// What there is to wait for.
    pub(super) fn to_watch(&self) -> Watched {
        Watched { version: self.version, index: self.index, all_serve: false }
    }
}

/// Updates a live job as when nothing but a file is given.
pub(super) async fn live(
    client: &mut Client,
    spec: &JobSpec,
    out: Output,
) -> Result<Updated, Failure> {
    let job = spec.key(client.user());
    let (to, options) = (To::Spec(spec.into()), UpdateOptions::default());
    let asked = Asked { verb: "update", key: job, to, options, plan: false, watch: false };
    let updated = begin(client, &asked).await?;
    tell(&updated, out)?;
    Ok(updated)
}

pub(super) async fn rollback(
    client: &mut Client,
    args: RollbackArgs,
    out: Output,
) -> Result<(), Failure> {
    let key = names::job(&args.job, client.user())?;
    let asked = args.how.asked(client, "rollback", key, To::Version(args.back_to)).await?;
    ask(client, asked, out).await
}

pub(super) async fn scale(
    client: &mut Client,
    args: ScaleArgs,
    out: Output,
) -> Result<(), Failure> {
    let key = names::job(&args.job, client.user())?;
    let (plan, watch) = (args.plan, args.watch);
    // More or fewer tasks are no release: nothing needs to be watched for long.
    let options =
        UpdateOptions { min_healthy_ms: Millis(0), close: true, ..UpdateOptions::default() };
    let (verb, to) = ("scale", To::Tasks(args.count));
    ask(client, Asked { verb, key, to, options, plan, watch }, out).await
}

pub(super) async fn restart(
    client: &mut Client,
    args: RestartArgs,
    out: Output,
) -> Result<(), Failure> {
    let key = names::job(&args.job, client.user())?;
    let mut asked = args.how.asked(client, "restart", key, To::Restart(true)).await?;
    asked.options.close = true;
    ask(client, asked, out).await
}

async fn ask(client: &mut Client, asked: Asked, out: Output) -> Result<(), Failure> {
    if asked.plan {
        return plan(client, &asked, out).await;
    }
    let before = version_of(client, &asked.key).await?;
    let updated = begin(client, &asked).await?;
    let scales = matches!(asked.to, To::Tasks(_));
    // What is said again may have been done before, and then is no news.
    if before == Some(updated.version) && !client.repeats() && !out.is_json() {
        let Updated { job, version, .. } = &updated;
        out.line(&format!("{job}: version {version} is in force and just so: nothing changes"))?;
        // More tasks that were asked for before may be on their way.
        if !(asked.watch && scales) {
            return Ok(());
        }
    }
    if asked.watch {
        let watched = Watched { all_serve: scales, ..updated.to_watch() };
        return rollout::watch(client, &updated.job, &watched, out).await;
    }
    if out.is_json() {
        return out.json(&updated, false);
    }
    tell(&updated, out)
}

async fn begin(client: &mut Client, asked: &Asked) -> Result<Updated, Failure> {
    let request_id = client.request_id();
    let message = pb::UpdateJobRequest { update: Some(asked.message()), request_id };
    let answer = client
        .call(&asked.what(), Kind::Change, message, async |mut master, request| {
            master.update_job(request).await
        })
        .await
        .map_err(|failure| names::meant_a_task(failure, &asked.key, client.user()))?;
    Ok(Updated { job: asked.key.clone(), version: answer.version, index: answer.index })
}

/// To a person.
fn tell(updated: &Updated, out: Output) -> Result<(), Failure> {
    if out.is_json() {
        return Ok(());
    }
    let Updated { job, version, .. } = updated;
    out.line(&format!("{job}: version {version}"))?;
    note(&format!("how far it is: borgctl rollout status {job}"));
    Ok(())
}

/// The version in force, if there is such a job.
async fn version_of(client: &mut Client, key: &JobKey) -> Result<Option<u32>, Failure> {
    match rollout::get(client, key).await {
        Ok(answer) => Ok(answer.head.map(|head| head.version)),
        Err(failure) if failure.code == Code::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What would become of the tasks, were it asked for.
///
/// # Errors
/// What it would be refused with.
async fn foresee(client: &mut Client, asked: &Asked) -> Result<pb::PlanUpdateResponse, Failure> {
    let message = pb::PlanUpdateRequest { update: Some(asked.message()) };
    let answer = client
        .call(&asked.what(), Kind::Read, message, async |mut master, request| {
            master.plan_update(request).await
        })
        .await
        .map_err(|failure| names::meant_a_task(failure, &asked.key, client.user()))?;
    match answer.refusal {
        Some(refusal) => {
            let failure = Failure::planned(refusal.code, &refusal.why);
            Err(failure
                .context(&format!("{} would be refused, and nothing was begun", asked.what())))
        }
        None => Ok(answer),
    }
}

async fn plan(client: &mut Client, asked: &Asked, out: Output) -> Result<(), Failure> {
    let (answer, key) = (foresee(client, asked).await?, &asked.key);
    let changes = answer.version != answer.from_version;
    if out.is_json() {
        return out.json(&planned_json(key, &answer), false);
    }
    if !changes {
        return out.line(&format!("= {key}: nothing changes"));
    }
    let (from, to) = (answer.from_version, answer.version);
    out.line(&format!("~ {key}: version {from} -> {to}"))?;
    for field in &answer.fields {
        out.line(&format!("    {}", rollout::changed(field)))?;
    }
    if answer.more_fields > 0 {
        out.line(&format!("    and {} more fields", answer.more_fields))?;
    }
    for effect in &answer.effects {
        let tasks = range(effect.tasks.as_ref());
        let why = if effect.why.is_empty() { String::new() } else { format!(" ({})", effect.why) };
        out.line(&format!("    {tasks}: {}{why}", effect_name(effect.effect())))?;
    }
    out.line(&format!("    at once: at most {}", answer.at_once))
}

fn range(range: Option<&pb::IndexRange>) -> String {
    match range {
        Some(range) if range.first == range.last => format!("task {}", range.first),
        Some(range) => format!("tasks {}-{}", range.first, range.last),
        None => "no task".to_owned(),
    }
}

fn effect_name(effect: pb::UpdateEffect) -> &'static str {
    match effect {
        pb::UpdateEffect::None => "stays as it is",
        pb::UpdateEffect::InPlace => "changes in place",
        pb::UpdateEffect::Restart => "restarts on its machine",
        pb::UpdateEffect::Move => "moves",
        pb::UpdateEffect::Start => "does not run, and starts as the new version",
        pb::UpdateEffect::End => "ends",
        pb::UpdateEffect::New => "new, and starts",
        pb::UpdateEffect::Over => "is over, and stays so",
        pb::UpdateEffect::Unspecified => "unknown",
    }
}

fn planned_json(key: &JobKey, answer: &pb::PlanUpdateResponse) -> serde_json::Value {
    let word = |effect: pb::UpdateEffect| match effect {
        pb::UpdateEffect::None => "none",
        pb::UpdateEffect::InPlace => "in_place",
        pb::UpdateEffect::Restart => "restart",
        pb::UpdateEffect::Move => "move",
        pb::UpdateEffect::Start => "start",
        pb::UpdateEffect::End => "end",
        pb::UpdateEffect::New => "new",
        pb::UpdateEffect::Over => "over",
        pb::UpdateEffect::Unspecified => "unknown",
    };
    let effects = answer.effects.iter().map(|effect| {
        let tasks = effect.tasks.unwrap_or_default();
        serde_json::json!({
            "first": tasks.first, "last": tasks.last,
            "effect": word(effect.effect()), "why": effect.why,
        })
    });
    let fields = answer.fields.iter().map(
        |field| serde_json::json!({ "field": field.field, "old": field.old, "new": field.new }),
    );
    serde_json::json!({
        "job": key, "from_version": answer.from_version, "version": answer.version,
        "fields": fields.collect::<Vec<_>>(), "more_fields": answer.more_fields,
        "effects": effects.collect::<Vec<_>>(), "at_once": answer.at_once,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_a_word_or_a_list() {
        assert_eq!(order("descending"), Ok(Order::Descending));
        assert_eq!(order("3, 1"), Ok(Order::Listed(vec![3, 1])));
        assert!(matches!(order("random"), Ok(Order::Random(_))));
        assert!(order("up").unwrap_err().contains("a list of indexes like 3,1,2"));
    }
}
