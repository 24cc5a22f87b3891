//! How many more tasks of a job would fit into a cell, by band, and what stops the next one.
//!
//! Placed one by one in a copy with the production scan, or set by set by the production scheduler; nobody is pushed
//! out.

use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Table, Value};
use crate::driven::Driven;
use crate::sources::loaded::Loaded;
use borg_cell::event::{Event, EventKind, TaskChange};
use borg_cell::state::CellState;
use borg_proto::task::EvictCause;
use borg_proto::{Band, JobKind, JobSpec, MachineId, TaskId, UserName};
use borg_scheduler::Scheduler;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How many more tasks of `spec`, at most `most`, fit into the cell as it is: at its own priority, and at the least
/// of each other band, as tasks of production are fitted by limits and all others by reservations. Nothing changes.
///
/// # Errors
/// When the cell cannot be made of what was loaded.
pub fn fit(loaded: &Loaded, spec: &JobSpec, most: u32) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let scheduler = loaded.scheduler(&state);
    let found = scheduler.fit(spec, most);
    let stops = found
        .stopped_by
        .iter()
        .map(|rejected| vec![rejected.machines.into(), Value::Text(rejected.to_string())]);
    let mut bands = Vec::new();
    for band in Band::ALL {
        let own = band == spec.priority.band();
        let priority = if own { spec.priority } else { band.default_priority() };
        let fits = scheduler.fit(&JobSpec { priority, ..spec.clone() }, most);
        bands.push((band.to_string(), fits.tasks));
    }
    let machines = u32::try_from(state.machines().count()).unwrap_or(u32::MAX);
    let by_band = bands.iter().map(|(band, tasks)| vec![band.as_str().into(), (*tasks).into()]);
    Ok(Answer {
        question: "fit".to_owned(),
        provenance: loaded.provenance_of_scheduler(
            Vec::new(),
            vec![("job".to_owned(), spec.name.to_string()), ("most".to_owned(), most.to_string())],
        ),
        summary: vec![
            format!("{}.", found.summary),
            format!("{} of {machines} machines could take the first one.", found.machines),
        ],
        tables: vec![
            Table {
                name: "bands".to_owned(),
                title: "More tasks that fit, by band, pushing nobody out".to_owned(),
                columns: ["band", "tasks"].map(Column::plain).into(),
                rows: by_band.collect(),
            },
            Table {
                name: "stopped_by".to_owned(),
                title: "Why machines take no more".to_owned(),
                columns: ["machines", "reason"].map(Column::plain).into(),
                rows: stops.collect(),
            },
        ],
        charts: vec![Chart::Bars {
            name: "bands".to_owned(),
            title: format!("More tasks of {} that fit", spec.name),
            y: Axis { label: "tasks".to_owned(), unit: String::new() },
            parts: vec![String::new()],
            bars: bands.into_iter().map(|(band, tasks)| (band, vec![f64::from(tasks)])).collect(),
            stacked: false,
        }],
    })
}

/// How many more whole sets of several jobs, at most `most`, fit into the cell as it is before a task of theirs pends or
/// anybody is pushed out: at their own priorities, and all at the default of each band. Nothing changes.
///
/// # Errors
/// When there are no jobs, the cell refuses one of them, or state and scheduler disagree.
pub fn fit_sets(loaded: &Loaded, specs: &[JobSpec], most: u32) -> Result<Answer, Error> {
    if specs.is_empty() {
        return Err("there is no job in the set: nothing to fit".into());
    }
    for spec in specs {
        let name = &spec.name;
        match spec.kind {
            JobKind::Service | JobKind::Batch | JobKind::AllocSet => {}
            JobKind::Cron | JobKind::Daemon => {
                let why = "a cron job asks for nothing by itself and a daemon for a task on each machine: leave it out";
                return Err(format!("job {name}: kind: {why}").into());
            }
        }
        if !spec.after.is_empty() || spec.parent.is_some() {
            let why =
                "sets are fitted at once, whatever waits for what: leave after and parent out";
            return Err(format!("job {name}: after: {why}").into());
        }
    }
    // Whoever waits now and finds a place is there first.
    let mut cell = Driven::of_state(loaded.state()?);
    let mut origin = loaded.scheduler(&cell.state);
    cell.settle(&mut origin)?;
    let state = cell.state;
    let (own, why) = sets(&state, &origin, specs, most)?;
    let mut rows = vec![vec!["as they are".into(), own.into()]];
    let mut bars = vec![("as they are".to_owned(), vec![f64::from(own)])];
    for band in Band::ALL {
        let priority = band.default_priority();
        let specs: Vec<JobSpec> =
            specs.iter().map(|spec| JobSpec { priority, ..spec.clone() }).collect();
        let (fit, _) = sets(&state, &origin, &specs, most)?;
        rows.push(vec![band.name().into(), fit.into()]);
        bars.push((band.to_string(), vec![f64::from(fit)]));
    }
    let set = specs.iter().map(|spec| format!("{} {}", spec.tasks, spec.name));
    let set = set.collect::<Vec<_>>().join(", ");
    Ok(Answer {
        question: "fit".to_owned(),
        provenance: loaded.provenance_of_scheduler(
            Vec::new(),
            vec![("most".to_owned(), most.to_string()), ("set".to_owned(), set.clone())],
        ),
        summary: vec![format!("{own} of {most} sets of {set} fit; {why}.")],
        tables: vec![Table {
            name: "bands".to_owned(),
            title: "More whole sets that fit, by band, pushing nobody out".to_owned(),
            columns: ["band", "sets"].map(Column::plain).into(),
            rows,
        }],
        charts: vec![Chart::Bars {
            name: "bands".to_owned(),
            title: format!("More sets of {set} that fit"),
            y: Axis { label: "sets".to_owned(), unit: String::new() },
            parts: vec![String::new()],
            bars,
            stacked: false,
        }],
    })
}

/// How many sets fit, placed one after the other in a copy, and what stops the next one.
fn sets(
    state: &CellState,
    origin: &Scheduler,
    specs: &[JobSpec],
    most: u32,
) -> Result<(u32, String), Error> {
    let owner: UserName = "fit".parse()?;
    let (mut cell, mut scheduler) = (Driven::of_state(state.clone()), origin.clone());
    let waited: BTreeSet<TaskId> = state.pending().collect();
    for set in 0..most {
        for (number, spec) in specs.iter().enumerate() {
            let name = format!("set-{set}-{number}").parse()?;
            if let Err(why) = cell.submit(&owner, Arc::new(JobSpec { name, ..spec.clone() })) {
                return match set {
                    0 => Err(why),
                    _ => Ok((set, format!("the cell refuses the next one: {why}"))),
                };
            }
        }
        cell.tell(&mut scheduler);
        while cell.decide(&mut scheduler)?.is_some() {
            cell.start_placed()?;
            let news = cell.tell(&mut scheduler);
            if let Some(machine) = news.iter().find_map(pushed_out) {
                let machine = cell.state.machine(machine).map(|machine| machine.name.to_string());
                let machine = machine.unwrap_or_default();
                return Ok((
                    set,
                    format!("for the next one somebody on {machine} would be pushed out"),
                ));
            }
        }
        if let Some(task) = cell.state.pending().find(|task| !waited.contains(task)) {
            let why = scheduler.explain(task, cell.now()).summary;
            return Ok((set, format!("of the next one a task would wait: {why}")));
        }
    }
    Ok((most, "more were not tried".to_owned()))
}

/// The machine from which somebody went to make room.
fn pushed_out(event: &Event) -> Option<MachineId> {
    match event.kind {
        EventKind::TaskChanged {
            change: TaskChange::Evicted(EvictCause::Preempted { .. }),
            machine,
            ..
        } => machine,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_cell::fixture::info;
    use borg_scheduler::Config;
    use borg_sim::job;

    fn told(answer: &Answer, table: usize, row: usize, column: usize) -> String {
        crate::reports::written(&answer.tables[table].rows[row][column])
    }

    #[test]
    fn what_a_cell_saved_answers_as_the_cell_does_and_says_what_stops_the_next_task() {
        let cell = Loaded::made_up(10, 1).unwrap();
        let spec = job("big").limit(8_000, 16_384).spec();
        let answer = fit(&cell, &spec, 1_000).unwrap();
        assert_eq!(answer, fit(&cell.clone(), &spec, 1_000).unwrap());
        assert!(answer.summary[0].contains("of 1000 tasks fit; for the next one"), "{answer:?}");
        let at_most = told(&answer, 0, 0, 1).parse::<u32>().unwrap();
        assert!((1..1_000).contains(&at_most) && !answer.tables[1].rows.is_empty(), "{answer:?}");
    }

    /// Whole sets alone count, and what fits by itself need not fit together.
    #[test]
    fn sets_of_jobs_fit_as_often_as_all_of_one_does_and_push_nobody_out() {
        let machines = [info(4_000, 8 << 30, &[]), info(4_000, 8 << 30, &[])];
        let mut cell = Driven::with_machines(&machines).unwrap();
        let batch = job("old").tasks(2).limit(1_000, 64).priority(100).spec();
        cell.submit(&"ann".parse().unwrap(), Arc::new(batch)).unwrap();
        cell.settle(&mut Scheduler::new(&cell.state, Config::default())).unwrap();
        let loaded = Loaded::cell("test".to_owned(), cell.state, None);
        // Six cores are free: two sets of a large and a small task take all of them but two.
        let set = [
            job("web").tasks(1).limit(2_000, 64).priority(200).spec(),
            job("log").tasks(1).limit(500, 64).priority(100).spec(),
        ];
        let answer = fit_sets(&loaded, &set, 10).unwrap();
        assert_eq!(told(&answer, 0, 0, 1), "2", "{answer:?}");
        assert!(answer.summary[0].starts_with("2 of 10 sets of 1 web, 1 log fit; "), "{answer:?}");
        assert_eq!(
            fit_sets(&loaded, &set, 1).unwrap().summary[0],
            "1 of 1 sets of 1 web, 1 log fit; more were not tried."
        );
        assert!(fit_sets(&loaded, &[], 1).is_err());
        let mut cron = set[1].clone();
        cron.kind = JobKind::Cron;
        assert!(
            fit_sets(&loaded, &[cron], 1).unwrap_err().to_string().starts_with("job log: kind")
        );
        assert_eq!(loaded.state().unwrap().jobs().count(), 1, "nothing changed");
    }

    #[test]
    fn a_job_that_fits_nowhere_is_told_why() {
        let spec = job("huge").limit(100, 10 << 20).spec();
        let answer = fit(&Loaded::made_up(3, 1).unwrap(), &spec, 5).unwrap();
        assert!(answer.summary[0].starts_with("0 of 5 tasks fit"), "{answer:?}");
        assert!(answer.summary[0].contains("memory"), "{answer:?}");
    }
}
