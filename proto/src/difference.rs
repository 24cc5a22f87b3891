//! How one specification differs from another, field by field, for people.
//!
//! Values of the environment are not told: people keep secrets there, and what is told here ends in
//! the logs of build machines.

use crate::cron::Cron;
use crate::disruption::Disruption;
use crate::names::shorten;
use crate::spec::{JobSpec, TaskSpec};
use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

/// What stands for a value that is not told.
const HIDDEN: &str = "(hidden)";

/// A field in which two specifications differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// As in `task.limit.cpu_milli`.
    pub field: String,
    /// What it was; `None` when it was not there.
    pub old: Option<String>,
    /// What it is to be; `None` when it is to be there no more.
    pub new: Option<String>,
}

impl JobSpec {
    /// In which fields `new` differs.
    #[must_use]
    pub fn differences(&self, new: &Self) -> Vec<Difference> {
        // Taken apart, so that a new field does not compile until it is told here.
        let Self {
            name,
            kind,
            tasks,
            priority,
            appclass: _,
            task,
            after,
            retries,
            exclusive,
            gang,
            concurrent,
            alloc_set,
            parent,
            max_failures,
            timeout_ms,
            deadline_ms,
            cron,
            labels,
            disruption: _,
            task_labels,
            keep_data_ms,
            rescue,
        } = self;
        let mut found = Found::default();
        found.shown("name", name, &new.name);
        found.debugged("kind", kind, &new.kind);
        found.shown("tasks", tasks, &new.tasks);
        found.shown("priority", priority, &new.priority);
        // What it amounts to, if that differs: to write down what holds anyway changes nothing.
        found.debugged("appclass", &self.effective_appclass(), &new.effective_appclass());
        found.listed("after", after, &new.after);
        found.shown("retries", retries, &new.retries);
        found.shown("exclusive", exclusive, &new.exclusive);
        found.shown("gang", gang, &new.gang);
        found.maybe("concurrent", concurrent.as_ref(), new.concurrent.as_ref());
        found.maybe("alloc_set", alloc_set.as_ref(), new.alloc_set.as_ref());
        found.maybe("parent", parent.as_ref(), new.parent.as_ref());
        found.shown("max_failures", max_failures, &new.max_failures);
        found.maybe("timeout_ms", timeout_ms.as_ref(), new.timeout_ms.as_ref());
        found.maybe("deadline_ms", deadline_ms.as_ref(), new.deadline_ms.as_ref());
        found.maybe("keep_data_ms", keep_data_ms.as_ref(), new.keep_data_ms.as_ref());
        found.shown("rescue", rescue, &new.rescue);
        found.cron(cron.as_ref(), new.cron.as_ref());
        found.pairs("labels", labels, &new.labels, false);
        let (budget, wanted) = (self.effective_disruption(), new.effective_disruption());
        let most = |budget: Option<Disruption>| budget.map(|budget| budget.most);
        found.maybe("disruption.most", most(budget).as_ref(), most(wanted).as_ref());
        let rate = |budget: Option<Disruption>| budget.and_then(|budget| budget.rate);
        found.maybe("disruption.rate", rate(budget).as_ref(), rate(wanted).as_ref());
        let told = |some: &crate::spec::TaskLabels| {
            let pairs = some.labels.iter().map(|(key, value)| format!("{key}={value}"));
            format!("{}: {}", some.tasks, pairs.collect::<Vec<_>>().join(" "))
        };
        let some: Vec<String> = task_labels.iter().map(told).collect();
        let wanted: Vec<String> = new.task_labels.iter().map(told).collect();
        found.listed("task_labels", &some, &wanted);
        found.task(task, &new.task);
        found.0
    }
}

/// Differences found so far.
#[derive(Debug, Default)]
struct Found(Vec<Difference>);

impl Found {
    fn add(&mut self, field: impl Into<String>, old: Option<String>, new: Option<String>) {
        let short = |text: String| shorten(&text);
        self.0.push(Difference { field: field.into(), old: old.map(short), new: new.map(short) });
    }

    fn shown<T: PartialEq + Display>(&mut self, field: &str, old: &T, new: &T) {
        if old != new {
            self.add(field, Some(old.to_string()), Some(new.to_string()));
        }
    }

    fn maybe<T: PartialEq + Display>(&mut self, field: &str, old: Option<&T>, new: Option<&T>) {
        if old != new {
            self.add(field, old.map(ToString::to_string), new.map(ToString::to_string));
        }
    }

    fn debugged<T: PartialEq + Debug>(&mut self, field: &str, old: &T, new: &T) {
        if old != new {
            let word = |value: &T| format!("{value:?}").to_lowercase();
            self.add(field, Some(word(old)), Some(word(new)));
        }
    }

    /// A list, by its places.
    fn listed<T: PartialEq + Display>(&mut self, field: &str, old: &[T], new: &[T]) {
        for at in 0..old.len().max(new.len()) {
            let (old, new) = (old.get(at), new.get(at));
            if old != new {
                let text = |value: &T| value.to_string();
                self.add(format!("{field}[{at}]"), old.map(text), new.map(text));
            }
        }
    }

    fn pairs<K: Ord + Display, V: PartialEq + Display>(
        &mut self,
        field: &str,
        old: &BTreeMap<K, V>,
        new: &BTreeMap<K, V>,
        hidden: bool,
    ) {
        let text = |value: &V| if hidden { HIDDEN.to_owned() } else { value.to_string() };
        let added = new.keys().filter(|key| !old.contains_key(*key));
        for key in old.keys().chain(added) {
            let (old, new) = (old.get(key), new.get(key));
            if old != new {
                let key = shorten(&key.to_string());
                self.add(format!("{field}.{key}"), old.map(text), new.map(text));
            }
        }
    }

    fn cron(&mut self, old: Option<&Cron>, new: Option<&Cron>) {
        let (Some(old), Some(new)) = (old, new) else {
            return self.maybe("cron", old, new);
        };
        let Cron { schedule, overlap, catch_up, start_by_ms, keep_finished, keep_failed } = old;
        self.shown("cron.schedule", schedule, &new.schedule);
        self.shown("cron.overlap", overlap, &new.overlap);
        self.shown("cron.catch_up", catch_up, &new.catch_up);
        self.maybe("cron.start_by_ms", start_by_ms.as_ref(), new.start_by_ms.as_ref());
        self.shown("cron.keep_finished", keep_finished, &new.keep_finished);
        self.shown("cron.keep_failed", keep_failed, &new.keep_failed);
    }

    fn task(&mut self, old: &TaskSpec, new: &TaskSpec) {
        let TaskSpec {
            command,
            env,
            limit,
            ports,
            constraints,
            spread,
            volumes,
            grace_ms,
            memory,
            cpu_cap_milli,
            health,
            image,
            packages,
            network,
            loosen,
            reclaim,
        } = old;
        self.listed("task.command", command, &new.command);
        self.pairs("task.env", env, &new.env, true);
        self.shown("task.limit.cpu_milli", &limit.cpu_milli, &new.limit.cpu_milli);
        self.shown("task.limit.ram_bytes", &limit.ram_bytes, &new.limit.ram_bytes);
        self.shown("task.limit.disk_bytes", &limit.disk_bytes, &new.limit.disk_bytes);
        self.pairs("task.limit.devices", &limit.devices, &new.limit.devices, false);
        self.listed("task.ports", ports, &new.ports);
        let told = |constraint: &crate::spec::Constraint| {
            format!("{constraint}{}", if constraint.soft { " (soft)" } else { "" })
        };
        let constraints: Vec<String> = constraints.iter().map(told).collect();
        let wanted: Vec<String> = new.constraints.iter().map(told).collect();
        self.listed("task.constraints", &constraints, &wanted);
        let told = |spread: &crate::spec::Spread| {
            format!("at most {} per {}", spread.max, spread.attribute)
        };
        let spread: Vec<String> = spread.iter().map(told).collect();
        let wanted: Vec<String> = new.spread.iter().map(told).collect();
        self.listed("task.spread", &spread, &wanted);
        let told = |volume: &crate::spec::Volume| {
            format!("{}{}", volume.path, if volume.writable { " (writable)" } else { "" })
        };
        let volumes: Vec<String> = volumes.iter().map(told).collect();
        let wanted: Vec<String> = new.volumes.iter().map(told).collect();
        self.listed("task.volumes", &volumes, &wanted);
        self.maybe("task.image", image.as_ref(), new.image.as_ref());
        self.listed("task.packages", packages, &new.packages);
        self.shown("task.grace_ms", &grace_ms.0, &new.grace_ms.0);
        self.shown("task.memory", memory, &new.memory);
        self.maybe("task.cpu_cap_milli", cpu_cap_milli.as_ref(), new.cpu_cap_milli.as_ref());
        self.shown("task.network", network, &new.network);
        self.maybe("task.health", health.as_ref(), new.health.as_ref());
        let [loosen, wanted] =
            [loosen, &new.loosen].map(|of| of.iter().copied().collect::<Vec<_>>());
        self.listed("task.loosen", &loosen, &wanted);
        self.shown("task.reclaim", reclaim, &new.reclaim);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cron::Overlap;
    use std::sync::Arc;

    fn spec() -> JobSpec {
        let text = r#"{"name": "web", "kind": "service", "tasks": 3,
            "task": {"command": ["/bin/web", "-v"], "env": {"TOKEN": "secret", "MODE": "a"},
                     "limit": {"cpu_milli": 50, "ram_bytes": 67108864}}}"#;
        serde_json::from_str(text).unwrap()
    }

    fn told(new: &JobSpec) -> Vec<String> {
        let told = |d: Difference| format!("{}: {:?} -> {:?}", d.field, d.old, d.new);
        spec().differences(new).into_iter().map(told).collect()
    }

    #[test]
    fn each_field_that_differs_is_told_once_and_no_other() {
        assert_eq!(told(&spec()), [""; 0]);
        let mut new = spec();
        new.tasks = 5;
        new.labels.insert("team".into(), "x".into());
        let task = Arc::make_mut(&mut new.task);
        task.command.pop();
        task.limit.cpu_milli = 100;
        task.network = crate::Network::Own;
        assert_eq!(
            told(&new),
            [
                r#"tasks: Some("3") -> Some("5")"#,
                r#"labels.team: None -> Some("x")"#,
                r#"task.command[1]: Some("-v") -> None"#,
                r#"task.limit.cpu_milli: Some("50") -> Some("100")"#,
                r#"task.network: Some("host") -> Some("own")"#,
            ]
        );
    }

    #[test]
    fn values_of_the_environment_are_not_told() {
        let mut new = spec();
        Arc::make_mut(&mut new.task).env.insert("TOKEN".into(), "another secret".into());
        let told = told(&new);
        assert_eq!(told, [r#"task.env.TOKEN: Some("(hidden)") -> Some("(hidden)")"#]);
    }

    #[test]
    fn a_cron_job_differs_field_by_field() {
        let with = |schedule: &str, overlap| {
            let cron = Cron { overlap, ..Cron::new(schedule.parse().unwrap()) };
            JobSpec { cron: Some(cron), ..spec() }
        };
        let (old, new) = (with("0 0 1 1 *", Overlap::Forbid), with("5 0 1 1 *", Overlap::Replace));
        let told: Vec<_> = old.differences(&new).into_iter().map(|d| (d.field, d.new)).collect();
        let expected = [("cron.schedule", "5 0 1 1 *"), ("cron.overlap", "replace")];
        let expected = expected.map(|(field, new)| (field.to_owned(), Some(new.to_owned())));
        assert_eq!(told, expected);
        assert_eq!(spec().differences(&new)[0].field, "cron", "all of it is new");
    }
}
