//! `fauxmaster fit`: how many more tasks of a job would fit.

use super::super::jobs;
use super::source::{ShowArgs, SourceArgs, made, refused};
use crate::exit::{Code, Failure};
use crate::output::Output;
use crate::target::TargetArgs;
use borg_fauxmaster::questions::fit::{fit, fit_sets};
use borg_proto::{JobName, JobSpec};
use clap::Args;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(in crate::commands) struct FitArgs {
    /// The file: .bcl, JSON, or - for standard input. Of several jobs, whole sets are counted: all tasks of each
    file: PathBuf,
    /// A value for arg("NAME") in the file
    #[arg(long = "arg", value_name = "NAME=VALUE", value_parser = jobs::pair)]
    args: Vec<(String, String)>,
    /// Count whole sets of so many tasks of these jobs of the file, instead of all of theirs
    #[arg(long, value_name = "JOB:TASKS", value_delimiter = ',', value_parser = part)]
    mix: Vec<(JobName, u32)>,
    #[command(flatten)]
    source: SourceArgs,
    /// Stop counting here
    #[arg(long, default_value_t = 1_000_000)]
    most: u32,
    #[command(flatten)]
    show: ShowArgs,
}

pub(super) async fn run(args: FitArgs, target: &TargetArgs, out: Output) -> Result<(), Failure> {
    args.show.apart(&[args.source.read_from(), Some(("the file", &args.file))])?;
    let jobs = jobs::evaluate(&args.file, args.args, target.user()).await?.jobs;
    if let Some(set) = jobs.iter().find_map(|spec| spec.alloc_set.as_ref()) {
        let text = format!("alloc_set: fit looks at machines, not into {set}: leave it out");
        return Err(Failure::new(Code::Refused, text));
    }
    let is_mix = !args.mix.is_empty();
    let jobs = if is_mix { mixed(&jobs, args.mix).map_err(refused)? } else { jobs };
    let loaded = args.source.load(target).await?;
    let answer = match jobs.as_slice() {
        // No part of a gang is placed.
        [spec] if !is_mix && !spec.gang => fit(&loaded, spec, args.most),
        specs => fit_sets(&loaded, specs, args.most),
    };
    args.show.show(&made(answer)?, out)
}

fn part(text: &str) -> Result<(JobName, u32), String> {
    let (name, tasks) = text.split_once(':').ok_or("JOB:TASKS is expected, as in web:3")?;
    let name: JobName = name.parse().map_err(|error| format!("{error}"))?;
    match tasks.parse() {
        Ok(tasks) if tasks > 0 => Ok((name, tasks)),
        _ => Err(format!("tasks of {name}: {tasks:?} is no whole number from 1 to {}", u32::MAX)),
    }
}

/// The jobs of a mix, each with the tasks that the mix has of it.
fn mixed(jobs: &[JobSpec], mix: Vec<(JobName, u32)>) -> Result<Vec<JobSpec>, String> {
    let mut set: Vec<JobSpec> = Vec::new();
    for (name, tasks) in mix {
        if set.iter().any(|spec| spec.name == name) {
            return Err(format!("--mix: {name} is given twice"));
        }
        let Some(spec) = jobs.iter().find(|spec| spec.name == name) else {
            let known: Vec<&str> = jobs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(format!("--mix: {name} is none of the file's jobs: {}", known.join(", ")));
        };
        set.push(JobSpec { tasks, ..spec.clone() });
    }
    Ok(set)
}
