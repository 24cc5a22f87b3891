//! Which tasks of a job are meant: by index, or by their labels.

use super::inspect::get_job;
use super::jobs::pair;
use crate::client::Client;
use crate::exit::{Code, Failure};
use borg_proto::wire::{pb, read_indexes};
use borg_proto::{IndexSet, JobKey};
use clap::Args;
use std::collections::BTreeMap;

#[derive(Debug, Clone, Default, Args)]
pub(super) struct SelectArgs {
    /// Only these, as in 0-2,7
    #[arg(long, value_name = "TASKS")]
    pub(super) tasks: Option<IndexSet>,
    /// Only tasks that the job labels so; with several, those that have them all
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    pub(super) labels: Vec<(String, String)>,
}

impl SelectArgs {
    /// Whether it says nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_none() && self.labels.is_empty()
    }

    /// Refuses to choose among tasks where one is named already.
    ///
    /// # Errors
    /// When it says something.
    pub(super) fn must_be_empty(&self, named: &str) -> Result<(), Failure> {
        if self.is_empty() {
            return Ok(());
        }
        let text =
            format!("{named} names one task: leave out --tasks and --label, or name the job");
        Err(Failure::new(Code::Usage, text))
    }

    /// The tasks of a job that are meant; `None`: all.
    ///
    /// # Errors
    /// When there is no such job, or none of its tasks is labelled so.
    pub(super) async fn chosen(
        &self,
        client: &mut Client,
        key: &JobKey,
    ) -> Result<Option<IndexSet>, Failure> {
        if self.labels.is_empty() {
            return Ok(self.tasks.clone());
        }
        let spec = get_job(client, &format!("labels of {key}"), key).await?.spec;
        let all = labelled(&spec.unwrap_or_default(), &self.labels);
        let meant = |index: &u32| self.tasks.as_ref().is_none_or(|tasks| tasks.contains(*index));
        let found: Vec<u32> = all.into_iter().filter(meant).collect();
        if found.is_empty() {
            return Err(Failure::new(
                Code::NotFound,
                format!("no task of {key} is labelled {}", told(&self.labels)),
            ));
        }
        let set = IndexSet::new(found);
        set.map(Some).map_err(|error| Failure::new(Code::Refused, error.to_string()))
    }
}

/// `team=x zone=a`.
pub(super) fn told(labels: &[(String, String)]) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// The tasks that have all of these labels; of one label the last entry counts.
fn labelled(spec: &pb::JobSpec, wanted: &[(String, String)]) -> Vec<u32> {
    let mut of: BTreeMap<u32, BTreeMap<&str, &str>> = BTreeMap::new();
    for some in &spec.task_labels {
        let Ok(Some(tasks)) = read_indexes("tasks", some.tasks.clone()) else { continue };
        for index in tasks.iter().filter(|index| *index < spec.tasks) {
            let labels = some.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            of.entry(index).or_default().extend(labels);
        }
    }
    let has = |labels: &BTreeMap<&str, &str>| {
        wanted.iter().all(|(key, value)| labels.get(key.as_str()) == Some(&value.as_str()))
    };
    of.into_iter().filter(|(_, labels)| has(labels)).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_are_found_by_all_of_their_labels_and_the_last_word_counts() {
        let some = |tasks: &str, labels: &[(&str, &str)]| pb::TaskLabels {
            tasks: borg_proto::wire::write_indexes(tasks.parse().ok().as_ref()),
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let spec = pb::JobSpec {
            tasks: 4,
            task_labels: vec![
                some("0-3", &[("ring", "outer"), ("zone", "a")]),
                some("1-2", &[("ring", "inner")]),
            ],
            ..pb::JobSpec::default()
        };
        let find = |labels: &[(&str, &str)]| {
            let wanted: Vec<_> =
                labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            labelled(&spec, &wanted)
        };
        assert_eq!(find(&[("ring", "outer")]), [0, 3]);
        assert_eq!(find(&[("ring", "inner"), ("zone", "a")]), [1, 2]);
        assert!(find(&[("zone", "b")]).is_empty());
    }
}
