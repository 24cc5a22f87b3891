//! `cron`: pause and resume cron jobs, make runs of them, show what became of their ticks.

use super::history::say_when;
use super::inspect::get_job;
use super::{examples, names};
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::views::{Job, Read};
use crate::output::{Output, table};
use borg_proto::Millis;
use borg_proto::time::Date;
use borg_proto::wire::pb;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(super) enum CronCommand {
    /// Make no more runs of a cron job until it is resumed; what runs goes on
    #[command(after_help = examples::CRON_PAUSE)]
    Pause(CronJob),
    /// Make runs again, from the next tick on
    #[command(after_help = examples::CRON_RESUME)]
    Resume(CronJob),
    /// Make a run now, as if there was a tick
    #[command(after_help = examples::CRON_RUN)]
    Run(CronJob),
    /// Show what became of the last ticks, the newest first
    #[command(after_help = examples::CRON_HISTORY)]
    History(CronJob),
}

#[derive(Debug, Args)]
pub(super) struct CronJob {
    /// JOB or USER/JOB
    job: String,
}

impl CronCommand {
    /// Whether it changes nothing.
    pub(super) const fn only_shows(&self) -> bool {
        matches!(self, Self::History(_))
    }
}

pub(super) async fn run(
    client: &mut Client,
    command: CronCommand,
    out: Output,
) -> Result<(), Failure> {
    let (job, order) = match command {
        CronCommand::Pause(args) => (args.job, pb::CronOrder::Pause),
        CronCommand::Resume(args) => (args.job, pb::CronOrder::Resume),
        CronCommand::Run(args) => (args.job, pb::CronOrder::Run),
        CronCommand::History(args) => return history(client, &args.job, out).await,
    };
    let job = names::job(&job, client.user())?.to_string();
    let request_id = client.request_id();
    let message = pb::OrderCronRequest { job: job.clone(), order: order.into(), request_id };
    let what = format!("cron job {job}");
    let answer = client
        .call(&what, Kind::Change, message, async |mut to, request| to.order_cron(request).await);
    let pb::OrderCronResponse { job: made, index } = answer.await?;
    if out.is_json() {
        let made = Some(made).filter(|made| !made.is_empty());
        return out.json(&serde_json::json!({ "job": job, "made": made, "index": index }), false);
    }
    match order {
        pb::CronOrder::Pause => out.line(&format!("{job} is paused")),
        pb::CronOrder::Resume => out.line(&format!("{job} makes runs again")),
        pb::CronOrder::Run | pb::CronOrder::Unspecified => out.line(&made),
    }
}

async fn history(client: &mut Client, job: &str, out: Output) -> Result<(), Failure> {
    let key = names::job(job, client.user())?;
    let answer = get_job(client, &format!("history of {key}"), &key).await?;
    say_when(client, out, answer.read.as_ref());
    let job = Job::from(answer.job.unwrap_or_default());
    let Some(cron) = job.cron else {
        let text = format!("{key} is a {} job: it has no schedule", job.kind);
        return Err(Failure::new(Code::Refused, text));
    };
    if out.is_json() {
        return out.json(&Read::of(answer.read, cron), false);
    }
    out.line(&format!("{}  {}  {}", job.job, cron.schedule, job.note))?;
    let date = |ms: u64| Date(Millis(ms)).to_string();
    let rows = cron.history.into_iter().map(|tick| {
        [
            date(tick.tick_ms),
            tick.job.unwrap_or_else(|| "-".into()),
            tick.state.to_owned(),
            tick.ended_ms.map_or_else(|| "-".into(), date),
            if tick.ordered { format!("by hand {}", tick.note).trim().into() } else { tick.note },
        ]
    });
    out.line(&table(["tick", "run", "state", "ended", "note"], rows))
}
