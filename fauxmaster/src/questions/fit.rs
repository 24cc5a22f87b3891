//! How many more tasks of a job would fit into a cell, by band, and what stops the next one.
//!
//! Placed one by one in a copy with the production scan; nobody is pushed out.

use crate::Error;
use crate::answer::{Answer, Axis, Chart, Column, Table, Value};
use crate::sources::loaded::Loaded;
use borg_proto::{Band, JobSpec};
use borg_scheduler::{Config, Scheduler};

/// How many more tasks of `spec`, at most `most`, fit into the cell as it is: at its own priority, and at the least
/// of each other band, as tasks of production are fitted by limits and all others by reservations. Nothing changes.
///
/// # Errors
/// When the cell cannot be made of what was loaded.
pub fn fit(loaded: &Loaded, spec: &JobSpec, most: u32) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let scheduler = Scheduler::new(&state, Config::default());
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
        provenance: loaded.provenance(
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

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn a_job_that_fits_nowhere_is_told_why() {
        let spec = job("huge").limit(100, 10 << 20).spec();
        let answer = fit(&Loaded::made_up(3, 1).unwrap(), &spec, 5).unwrap();
        assert!(answer.summary[0].starts_with("0 of 5 tasks fit"), "{answer:?}");
        assert!(answer.summary[0].contains("memory"), "{answer:?}");
    }
}
