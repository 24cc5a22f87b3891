//! How the last runs of a task ended: part of `status USER/JOB/INDEX` and of `why`.

use super::history::say_when;
use super::inspect::{TASK_TITLES, get_job, json, task_row};
use crate::client::{Client, Kind};
use crate::exit::{Code, Failure};
use crate::output::views::{Read, Task, TaskDetail, TaskRun};
use crate::output::{Output, age, cores, size};
use borg_proto::JobKey;
use borg_proto::wire::pb;

/// How the last runs of a task ended, the newest first.
pub(super) struct Runs {
    pub(super) list: Vec<TaskRun>,
    now_ms: u64,
}

/// Asks for them.
pub(super) async fn of_task(client: &mut Client, task: &str) -> Result<Runs, Failure> {
    let message = pb::ListRunsRequest { task: task.to_owned() };
    let answer = client
        .call(&format!("runs of {task}"), Kind::Read, message, async |mut master, request| {
            master.list_runs(request).await
        })
        .await?;
    let list = answer.runs.into_iter().map(TaskRun::from).collect();
    Ok(Runs { list, now_ms: answer.now_ms })
}

/// One task as text, and whether it is over.
pub(super) async fn one_task(
    client: &mut Client,
    job: &JobKey,
    index: u32,
    out: Output,
    watch: bool,
) -> Result<(String, bool), Failure> {
    let name = format!("{job}/{index}");
    let what = format!("status of {name}");
    let answer = get_job(client, &what, job).await?;
    say_when(client, out, answer.read.as_ref());
    let found = answer.tasks.into_iter().find(|task| task.index == index);
    let task = Task::from(found.ok_or_else(|| {
        Failure::new(Code::NotFound, format!("{what}: {job} has no task {index}"))
    })?);
    let runs = of_task(client, &name).await?;
    let over = matches!(task.phase, "finished" | "failed" | "killed");
    if out.is_json() {
        let detail = TaskDetail { job: job.to_string(), task, runs: runs.list };
        return Ok((json(&Read::of(answer.read, detail), watch)?, over));
    }
    let status_line = task.status_line.clone();
    let mut text =
        format!("{job}\n\n{}", crate::output::table(TASK_TITLES, [task_row(task, answer.now_ms)]));
    if !status_line.is_empty() {
        text.push_str(&format!("\n\nit says: {status_line}"));
    }
    if !runs.list.is_empty() {
        text.push_str(&format!("\n\nits last runs, the newest first:\n{}", runs.table()));
    }
    for run in &runs.list {
        text.push_str(&last_words(run));
    }
    Ok((text, over))
}

impl Runs {
    fn table(&self) -> String {
        let titles = ["try", "restart", "machine", "ended", "ran for", "end", "cpu", "most ram"];
        let none = || "-".to_owned();
        let row = |run: &TaskRun| {
            let told = run.told.as_ref();
            let ran = told.and_then(|told| Some(told.ended_ms.saturating_sub(told.started_ms?)));
            let ended = age(self.now_ms.saturating_sub(run.over_ms()));
            [
                run.incarnation.to_string(),
                told.map_or_else(none, |told| told.run.to_string()),
                run.machine.clone(),
                format!("{ended} ago"),
                ran.map_or_else(none, age),
                if run.cause.is_empty() {
                    run.end.clone()
                } else {
                    format!("{}: {}", run.end, run.cause)
                },
                told.filter(|told| told.cpu_ms > 0)
                    .map_or_else(none, |told| format!("{}s", cores(told.cpu_ms))),
                told.filter(|told| told.ram_peak_bytes > 0)
                    .map_or_else(none, |told| size(told.ram_peak_bytes)),
            ]
        };
        crate::output::table(titles, self.list.iter().map(row))
    }

    /// The last failure, in words.
    pub(super) fn last_trouble(&self) -> Option<String> {
        let run = self.list.iter().find(|run| run.end == "failed")?;
        let ago = age(self.now_ms.saturating_sub(run.over_ms()));
        let text = format!("last failure {ago} ago on {}: {}", run.machine, run.cause);
        Some(text + &last_words(run))
    }
}

/// What a run wrote last. It was made harmless by its machine and by each master.
fn last_words(run: &TaskRun) -> String {
    let lines = run.told.as_ref().map(|told| told.last_lines.as_str()).unwrap_or_default();
    if lines.is_empty() {
        return String::new();
    }
    let indented: Vec<String> = lines.lines().map(|line| format!("  {line}")).collect();
    format!("\nlast words of try {}:\n{}", run.incarnation, indented.join("\n"))
}
