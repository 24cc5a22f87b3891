//! `plan`: what would become of the jobs of a file, and a token with which they are submitted only as
//! long as that holds.
//!
//! Exit codes of its own: 0 when the cell is just as the file says, 2 when submitting would change it, 1
//! when submit would refuse a job of the file, and for every error.

use super::jobs::{evaluate, pair};
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure, Success};
use crate::output::views::{Amount, JobPlan, Plan, Read};
use crate::output::{Output, cores, note, size};
use crate::target::TargetArgs;
use borg_proto::JobSpec;
use borg_proto::wire::pb;
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The file: .bcl, JSON, or - for standard input
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = pair)]
    args: Vec<(String, String)>,
}

pub(super) async fn run(
    target: &TargetArgs,
    args: PlanArgs,
    out: Output,
) -> Result<Success, Failure> {
    let file = args.file.clone();
    let planned = plan(target, args, out, &file.display().to_string()).await;
    // 2 means that there are changes, so that scripts need no other question.
    planned.map_err(|failure| Failure { code: Code::Internal, ..failure })
}

async fn plan(
    target: &TargetArgs,
    args: PlanArgs,
    out: Output,
    file: &str,
) -> Result<Success, Failure> {
    let target = target.resolve()?;
    let evaluated = evaluate(&args.file, args.args, target.user.clone()).await?;
    let mut client = Client::new(&target)?;
    let answer = ask(&mut client, &evaluated.jobs, String::new()).await?;
    let read = answer.read;
    let plan = Plan::from(answer);
    if out.is_json() {
        out.json(&Read::of(read, &plan), false)?;
    } else {
        plan.jobs.iter().try_for_each(|job| say(job, plan.most, out))?;
        say_end(&plan, file, out)?;
    }
    match (plan.refused(), plan.changes()) {
        (Some(job), _) => Err(Failure::new(
            Code::Internal,
            format!("submit would refuse {}: {}", job.job, job.refusal.as_deref().unwrap_or("")),
        )),
        (None, true) => Ok(Success::Changes),
        (None, false) => Ok(Success::Done),
    }
}

/// Asks for a plan; with the token of an earlier one, whether that still holds.
pub(super) async fn ask(
    client: &mut Client,
    jobs: &[JobSpec],
    token: String,
) -> Result<pb::PlanResponse, Failure> {
    let message = pb::PlanRequest { jobs: jobs.iter().map(Into::into).collect(), token };
    let ask = client
        .call("plan", Kind::Read, message, async |mut master, request| master.plan(request).await);
    ask.await
}

fn say(job: &JobPlan, most: u32, out: Output) -> Result<(), Failure> {
    let (sign, what) = match job.change {
        "new" => ("+", format!("new, {}", tasks(job.tasks))),
        "none" => ("=", "live and just so: nothing changes, no task starts anew".to_owned()),
        _ => ("~", "live, and differs".to_owned()),
    };
    out.line(&format!("{sign} {}: {what}", job.job))?;
    for field in &job.fields {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
        out.line(&format!("    {}: {} -> {}", field.field, text(&field.old), text(&field.new)))?;
    }
    more(job.more_fields, "fields", out)?;
    if let Some(refusal) = &job.refusal {
        out.line(&format!("    submit would refuse it: {refusal}"))?;
        if job.change == "differs" {
            out.line(
                "    what becomes of its tasks when it is updated: borgctl update FILE --plan",
            )?;
        }
    }
    say_quota(job, out)?;
    if job.change == "new" && job.refusal.is_none() {
        say_places(job, most, out)?;
    }
    Ok(())
}

fn say_quota(job: &JobPlan, out: Output) -> Result<(), Failure> {
    let needs = if job.needs_quota { "" } else { " (open: no quota is needed)" };
    out.line(&format!("    quota in {}{needs}:", job.band))?;
    let rows = amounts(&job.used).into_iter().zip(amounts(&job.after));
    let granted = job.granted.as_ref().map(amounts);
    for (at, ((name, used), (_, after))) in rows.enumerate() {
        let granted = granted.as_ref().map_or("nothing", |granted| &granted[at].1);
        out.line(&format!("      {name}: {used} used, {after} after, {granted} granted"))?;
    }
    let devices = job.after.devices.iter();
    for (name, after) in devices {
        let of = |amount: &Amount| cores(amount.devices.get(name).copied().unwrap_or(0));
        let granted = job.granted.as_ref().map_or_else(|| "nothing".to_owned(), of);
        let (used, after) = (of(&job.used), cores(*after));
        out.line(&format!("      {name}: {used} used, {after} after, {granted} granted"))?;
    }
    Ok(())
}

fn amounts(of: &Amount) -> [(&'static str, String); 4] {
    [
        ("cpu", cores(of.cpu_milli)),
        ("ram", size(of.ram_bytes)),
        ("disk", size(of.disk_bytes)),
        ("ports", of.ports.to_string()),
    ]
}

fn say_places(job: &JobPlan, most: u32, out: Output) -> Result<(), Failure> {
    out.line(&format!("    placed at once: {} of {}", job.placed, tasks(job.tasks)))?;
    for place in &job.places {
        out.line(&format!("      {}: {}", place.machine, place.tasks))?;
    }
    more(job.more_machines, "machines", out)?;
    if job.pending > 0 {
        out.line(&format!("    waits: {}: {}", tasks(job.pending), job.why))?;
    }
    if job.not_looked_at > 0 {
        let text = "not looked at, as a plan looks at no more than";
        out.line(&format!("    {}: {text} {most}", tasks(job.not_looked_at)))?;
    }
    if job.victims.is_empty() {
        return out.line("    pushes out: nobody");
    }
    let bands = job.victims_by_band.iter();
    let bands: Vec<String> = bands.map(|(band, tasks)| format!("{tasks} in {band}")).collect();
    out.line(&format!("    pushes out: {}", bands.join(", ")))?;
    job.victims.iter().try_for_each(|victim| out.line(&format!("      {victim}")))?;
    more(job.more_victims, "tasks", out)
}

fn more(count: u32, what: &str, out: Output) -> Result<(), Failure> {
    if count > 0 { out.line(&format!("      and {count} more {what}")) } else { Ok(()) }
}

fn tasks(count: u32) -> String {
    if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") }
}

fn say_end(plan: &Plan, file: &str, out: Output) -> Result<(), Failure> {
    let restarts: u32 = plan.jobs.iter().map(|job| job.restarts).sum();
    out.line(&format!(
        "restarts: {}",
        if restarts == 0 { "none".to_owned() } else { tasks(restarts) }
    ))?;
    match &plan.token {
        Some(token) => {
            note(&format!("submit just this, or nothing: borgctl submit --plan TOKEN {file}"));
            out.line(&format!("token: {token}"))
        }
        None => Ok(()),
    }
}
