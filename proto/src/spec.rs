//! What people ask for: the specification of a job.
//!
//! The same types are the JSON form that `borgctl submit` takes, so unknown fields are errors.
//! [`JobSpec::check`] holds every bound; a master and `borgctl` call the same one.

use crate::cron::Cron;
use crate::disruption::Disruption;
use crate::health::HealthCheck;
use crate::indexes::IndexSet;
use crate::names::{JobKey, JobName, PortName, UserName, shorten};
use crate::network::Network;
use crate::package::{MAX_TASK_PACKAGES, PackageRef};
use crate::priority::{AppClass, Priority};
use crate::privilege::{self, Privilege};
use crate::resources::{Resources, TASK_ADDRESS, WHOLE_DEVICE};
use crate::time::Millis;
use crate::update::within;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Most tasks of one job. 100,000: our choice, ten times the largest jobs usual in published
/// traces; a job is one log entry and one object of the state.
pub const MAX_TASKS: u32 = 100_000;
/// Most tasks of a gang. 1,000: our choice; they are decided in one pass and applied in one entry, which
/// both hold up all others, and an ordinary pass decides some 500.
pub const MAX_GANG: u32 = 1_000;
/// Largest encoded job specification in bytes: our choice, 1 MiB, so that one job is never more
/// than a small part of a log segment.
pub const MAX_SPEC_BYTES: usize = 1 << 20;
/// Least processor time of a task in millicores: 1, a thousandth of a core.
pub const MIN_CPU_MILLI: u64 = 1;
/// Most processor time of a task in millicores: 10,000 cores, more than any machine has.
pub const MAX_CPU_MILLI: u64 = 10_000_000;
/// Least hard cap on processor time in millicores: 10, what the kernel's accounting can hold.
pub const MIN_CPU_CAP_MILLI: u64 = 10;
/// Least memory of a task in bytes: 4 MiB, our choice; with less the kernel may kill it before its
/// first instruction, and no borglet takes it.
pub const MIN_RAM_BYTES: u64 = 4 << 20;
/// Most memory or disk of a task in bytes: 1 PiB, more than any machine has.
pub const MAX_BYTES: u64 = 1 << 50;
/// Most ports of a task.
pub const MAX_PORTS: usize = 64;
/// Most entries of labels of tasks. 64: our choice.
pub const MAX_TASK_LABELS: usize = 64;
/// Most devices of one kind of a task.
pub const MAX_DEVICES: u64 = 1_000;
/// Most words of a command, entries of an environment, constraints, labels, volumes, ...
pub const MAX_LIST: usize = 1024;
/// Longest single text of a specification in bytes.
pub const MAX_TEXT_BYTES: usize = 64 << 10;
/// Least time for a run of a task or for a job: 1 s, our choice; a cell needs as long to look at its clock.
pub const MIN_TIMEOUT: Millis = Millis::from_secs(1);
/// Most time for a run of a task or for a job: 366 days, our choice.
pub const MAX_TIMEOUT: Millis = Millis::from_secs(366 * 86_400);
/// Longest grace period between SIGTERM and SIGKILL: 10 minutes, our choice.
pub const MAX_GRACE: Millis = Millis(600_000);

/// Least time for which data of an alloc is kept: 1 minute, our choice; no run of a log saver can be counted on
/// within less.
pub const MIN_KEEP_DATA: Millis = Millis::from_secs(60);
/// Longest such time: 30 days, our choice. The paper (section 4) says "typically a few days"; a disk that is full of
/// what nobody fetched in a month helps nobody.
pub const MAX_KEEP_DATA: Millis = Millis::from_secs(30 * 86_400);

/// How a job lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// Runs until told to stop; a task that ends is started again.
    Service,
    /// Runs to completion; a task that exits with 0 is done.
    Batch,
    /// Runs nothing: an alloc set, whose tasks are allocs, each of which holds room on a machine for
    /// the tasks of other jobs (Borg paper, section 2.4).
    #[serde(rename = "alloc_set")]
    AllocSet,
    /// Runs like a service, one task on each machine that its constraints allow, also on machines that
    /// come later. How many there are is the cell's to know.
    Daemon,
    /// Runs nothing itself: at each tick of its schedule it makes a batch job that is otherwise like it.
    Cron,
}

impl JobKind {
    /// Whether it lasts until it is ended as a whole, however many of its tasks there are.
    #[must_use]
    pub const fn stands(self) -> bool {
        match self {
            Self::Daemon | Self::Cron => true,
            Self::Service | Self::Batch | Self::AllocSet => false,
        }
    }

    /// Whether its tasks, or those of what it makes, run to completion.
    #[must_use]
    pub const fn completes(self) -> bool {
        match self {
            Self::Batch | Self::Cron => true,
            Self::Service | Self::AllocSet | Self::Daemon => false,
        }
    }

    /// The kind as it is written.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Batch => "batch",
            Self::AllocSet => "alloc_set",
            Self::Daemon => "daemon",
            Self::Cron => "cron",
        }
    }
}

/// A job as submitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Its name among the user's jobs.
    pub name: JobName,
    /// How it lives.
    pub kind: JobKind,
    /// How many tasks, 1 to [`MAX_TASKS`]; of a cron job, each of its runs. A daemon has as many as there are
    /// machines for it, and says 1.
    #[serde(default = "one")]
    pub tasks: u32,
    /// Who goes first.
    #[serde(default = "default_priority")]
    pub priority: Priority,
    /// How a machine shares itself; unset means latency-sensitive for a service, batch for batch.
    #[serde(default)]
    pub appclass: Option<AppClass>,
    /// What each task runs and needs.
    pub task: Arc<TaskSpec>,
    /// Jobs that must have finished successfully before this one starts.
    #[serde(default)]
    pub after: Vec<JobKey>,
    /// Batch: how many times one task may fail before the job fails.
    #[serde(default)]
    pub retries: u32,
    /// Whether a task of the job may never run twice, not even while its machine is cut off: the
    /// machine ends it by itself when it is alone for [`FENCE_AFTER`](crate::poll::FENCE_AFTER), and
    /// it is placed again only after [`REPLACE_AFTER`](crate::poll::REPLACE_AFTER).
    #[serde(default)]
    pub exclusive: bool,
    /// The alloc set in whose allocs the job's tasks run: task N in alloc N. Such a task takes its
    /// limit from its alloc instead of from the machine; its ports are the machine's.
    #[serde(default)]
    pub alloc_set: Option<JobKey>,
    /// Whether all waiting tasks of the job are placed together or none is. At most [`MAX_GANG`] tasks.
    #[serde(default)]
    pub gang: bool,
    /// How many tasks of the job may be placed at once; `None` means all of them.
    #[serde(default)]
    pub concurrent: Option<u32>,
    /// A job of the same user with which it ends, however that ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobKey>,
    /// Batch: how many of its tasks may fail for good without ending the others. 0: the first one ends all.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub max_failures: u32,
    /// Batch: how long one run of a task may take, from when it is placed; then it has failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<Millis>,
    /// Batch: how long the job may take, from when it is submitted or run again; then what is left of it has
    /// failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<Millis>,
    /// Of a cron job, and of no other: when it makes its runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<Cron>,
    /// Free text pairs for people and selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Free text pairs of some of its tasks, for people and selectors; of the same label the last one
    /// counts. At most [`MAX_TASK_LABELS`] entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task_labels: Vec<TaskLabels>,
    /// How much of it the cell may disturb at once; `None`: see [`JobSpec::effective_disruption`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<Disruption>,
    /// Alloc set: how long the machine keeps what tasks of an alloc left in the directory that they share, once
    /// the alloc has left it. `None`: they share none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_data_ms: Option<Millis>,
    /// Of a job in an alloc set that keeps data: a run of it is made wherever an alloc left data behind, until one
    /// succeeds.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rescue: bool,
}

/// Labels of some tasks of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskLabels {
    /// Which tasks.
    pub tasks: IndexSet,
    /// What they are labelled.
    pub labels: BTreeMap<String, String>,
}

impl JobSpec {
    /// The labels of one of its tasks.
    #[must_use]
    pub fn labels_of(&self, index: u32) -> BTreeMap<&str, &str> {
        let some = self.task_labels.iter().filter(|some| some.tasks.contains(index));
        some.flat_map(|some| &some.labels).map(|(k, v)| (k.as_str(), v.as_str())).collect()
    }

    fn check_task_labels(&self) -> Result<(), SpecError> {
        let entries = self.task_labels.len();
        if entries > MAX_TASK_LABELS {
            let why = format!("is more than {MAX_TASK_LABELS}");
            return refuse("task_labels", format!("{entries} entries"), why);
        }
        for (i, some) in self.task_labels.iter().enumerate() {
            let field = format!("task_labels[{i}]");
            within(&format!("{field}.tasks"), Some(&some.tasks), self.tasks)?;
            check_pairs(&format!("{field}.labels"), &some.labels)?;
        }
        Ok(())
    }
}

const fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn default_priority() -> Priority {
    crate::priority::Band::Batch.default_priority()
}

/// What each task of a job runs and needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Program and arguments; empty in an alloc set. The program is an absolute path or found in the machine's PATH.
    /// With an image it takes the place of the image's entrypoint and arguments, and may be empty.
    /// `%task%`, `%tasks%` and `%port.NAME%` are replaced in arguments and environment.
    #[serde(default)]
    pub command: Vec<String>,
    /// Environment beside what the cell itself sets (`BORG_*`, `HOME`, `PATH`).
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The most that a task may use. `ports` here is derived from the list below.
    pub limit: Resources,
    /// Ports that the cell hands out, by name; told as `BORG_PORT_NAME` and `%port.NAME%`.
    #[serde(default)]
    pub ports: Vec<PortName>,
    /// Machines that will do.
    #[serde(default)]
    pub constraints: Vec<Constraint>,
    /// At most so many tasks of the job in one place.
    #[serde(default)]
    pub spread: Vec<Spread>,
    /// Directories of the machine that the task sees. The machine's operator decides which may be
    /// asked for.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Time between SIGTERM and SIGKILL.
    #[serde(default = "default_grace")]
    pub grace_ms: Millis,
    /// The image whose files are the root of the task's; without one it sees the machine's, read-only.
    #[serde(default)]
    pub image: Option<PackageRef>,
    /// Packages that it sees in [`SHOWN_IN`](crate::package::SHOWN_IN), each under its name; told as
    /// `BORG_PACKAGE_NAME`. At most [`MAX_TASK_PACKAGES`], no two of one name.
    #[serde(default)]
    pub packages: Vec<PackageRef>,
    /// Whether it may use more memory than its limit while its machine has some.
    #[serde(default, skip_serializing_if = "MemoryLimit::is_hard")]
    pub memory: MemoryLimit,
    /// The most processor time that it gets, in millicores, whether or not more is idle; `None`: all
    /// that nobody else wants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_cap_milli: Option<u64>,
    /// How its machine finds out whether it works; `None`: it works as long as it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    /// Whose network it is in.
    #[serde(default, skip_serializing_if = "Network::is_host")]
    pub network: Network,
    /// What of its isolation it does without. Its user must hold each of these privileges.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub loosen: BTreeSet<Privilege>,
    /// Whether what it holds and does not use may be lent to tasks that are not prod. If not, its user must
    /// hold the privilege [`Reservation`](Privilege::Reservation).
    #[serde(default = "lends", skip_serializing_if = "is_lent")]
    pub reclaim: bool,
}

const fn lends() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_lent(reclaim: &bool) -> bool {
    *reclaim
}

/// What a memory limit means (Autopilot paper, section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemoryLimit {
    /// Beyond it the task is killed.
    #[default]
    Hard,
    /// It may be exceeded until the machine is short of memory. Then whoever is over a limit goes
    /// first, whatever its priority.
    Soft,
}

impl MemoryLimit {
    const fn is_hard(&self) -> bool {
        matches!(self, Self::Hard)
    }
}

impl std::fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_hard() { "hard" } else { "soft" })
    }
}

const fn default_grace() -> Millis {
    Millis(5_000)
}

/// A directory of the machine, seen by a task under the same path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Absolute path on the machine and in the task.
    pub path: String,
    /// Whether the task may write there.
    #[serde(default)]
    pub writable: bool,
}

/// A condition on an attribute of a machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constraint {
    /// The attribute, as in `arch`, `rack` or a label.
    pub attribute: String,
    /// How it is compared.
    pub op: ConstraintOp,
    /// What with. One value, except for `in` (any number) and `present`/`absent` (none).
    #[serde(default)]
    pub values: Vec<String>,
    /// A soft constraint is a preference: it changes the score, never rules a machine out.
    #[serde(default)]
    pub soft: bool,
}

/// Comparisons of the 2019 Google trace and set membership. A missing attribute counts as the
/// empty text for `=`, `!=` and `in`, as 0 for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConstraintOp {
    /// Equal as text.
    #[serde(rename = "=")]
    Equal,
    /// Not equal as text.
    #[serde(rename = "!=")]
    NotEqual,
    /// Less, as whole numbers.
    #[serde(rename = "<")]
    Less,
    /// Less or equal, as whole numbers.
    #[serde(rename = "<=")]
    LessEqual,
    /// Greater, as whole numbers.
    #[serde(rename = ">")]
    Greater,
    /// Greater or equal, as whole numbers.
    #[serde(rename = ">=")]
    GreaterEqual,
    /// The machine has the attribute.
    #[serde(rename = "present")]
    Present,
    /// The machine lacks the attribute.
    #[serde(rename = "absent")]
    Absent,
    /// Equal to one of several texts.
    #[serde(rename = "in")]
    In,
}

impl ConstraintOp {
    /// The comparison as it is written.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessEqual => "<=",
            Self::Greater => ">",
            Self::GreaterEqual => ">=",
            Self::Present => "present",
            Self::Absent => "absent",
            Self::In => "in",
        }
    }

    /// Whether values are compared as whole numbers.
    #[must_use]
    pub const fn is_numeric(self) -> bool {
        matches!(self, Self::Less | Self::LessEqual | Self::Greater | Self::GreaterEqual)
    }
}

impl std::fmt::Display for Constraint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.attribute, self.op.symbol())?;
        for value in &self.values {
            write!(f, " {value}")?;
        }
        Ok(())
    }
}

impl Constraint {
    /// Whether a machine with these attributes meets the condition (hard or soft alike).
    #[must_use]
    pub fn holds(&self, attributes: &BTreeMap<String, String>) -> bool {
        let found = attributes.get(&self.attribute).map(String::as_str);
        let text = found.unwrap_or("");
        let number = || text.parse::<i64>().unwrap_or(0);
        let wanted = self.values.first().map_or("", String::as_str);
        let bound = || wanted.parse::<i64>().unwrap_or(0);
        match self.op {
            ConstraintOp::Equal => text == wanted,
            ConstraintOp::NotEqual => text != wanted,
            ConstraintOp::Less => number() < bound(),
            ConstraintOp::LessEqual => number() <= bound(),
            ConstraintOp::Greater => number() > bound(),
            ConstraintOp::GreaterEqual => number() >= bound(),
            ConstraintOp::Present => found.is_some(),
            ConstraintOp::Absent => found.is_none(),
            ConstraintOp::In => self.values.iter().any(|value| value == text),
        }
    }
}

/// At most `max` tasks of the job where the attribute has one value; the attribute `machine`
/// stands for the machine itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// `machine`, `rack`, or any attribute.
    pub attribute: String,
    /// How many, at least 1.
    pub max: u32,
}

/// A field of a specification that is out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value} {why}")]
pub struct SpecError {
    /// Path of the field, as in `task.limit.cpu_milli`.
    pub field: String,
    /// What it was, shortened.
    pub value: String,
    /// What is allowed and what to do.
    pub why: String,
}

pub(crate) fn refuse(
    field: &str,
    value: impl ToString,
    why: impl Into<String>,
) -> Result<(), SpecError> {
    Err(SpecError { field: field.into(), value: shorten(&value.to_string()), why: why.into() })
}

pub(crate) fn check_range(field: &str, value: u64, least: u64, most: u64) -> Result<(), SpecError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    refuse(field, value, format!("is outside {least} to {most}"))
}

pub(crate) fn check_text(field: &str, text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_TEXT_BYTES {
        return refuse(field, text, format!("is longer than {MAX_TEXT_BYTES} bytes"));
    }
    if text.contains('\0') {
        return refuse(field, format!("{text:?}"), "contains a zero byte");
    }
    Ok(())
}

fn check_len(field: &str, len: usize) -> Result<(), SpecError> {
    if len <= MAX_LIST {
        return Ok(());
    }
    refuse(field, format!("{len} entries"), format!("is more than {MAX_LIST}"))
}

fn check_pairs(field: &str, pairs: &BTreeMap<String, String>) -> Result<(), SpecError> {
    check_len(field, pairs.len())?;
    for (key, value) in pairs {
        if key.is_empty() || key.contains('=') || key.chars().any(char::is_control) {
            return refuse(
                field,
                format!("{key:?}"),
                "is not a usable key: empty, '=' or control character",
            );
        }
        check_text(&format!("{field}.{}", shorten(key)), value)?;
    }
    Ok(())
}

impl JobSpec {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field that is out of bounds, with what is allowed.
    pub fn check(&self) -> Result<(), SpecError> {
        check_range("tasks", self.tasks.into(), 1, MAX_TASKS.into())?;
        check_len("after", self.after.len())?;
        check_range("retries", self.retries.into(), 0, 1_000_000)?;
        if let Some(most) = self.concurrent {
            check_range("concurrent", most.into(), 1, MAX_TASKS.into())?;
        }
        self.check_gang()?;
        self.check_batch()?;
        self.check_rescue()?;
        self.check_cron()?;
        self.disruption.map_or(Ok(()), |budget| budget.check())?;
        check_pairs("labels", &self.labels)?;
        self.check_task_labels()?;
        if self.kind == JobKind::Daemon {
            self.check_daemon()?;
        }
        if self.kind == JobKind::AllocSet {
            self.check_alloc_set()?;
            return self.task.check_room();
        }
        if self.alloc_set.is_some() {
            self.check_in_alloc()?;
        }
        self.task.check()
    }

    fn check_gang(&self) -> Result<(), SpecError> {
        if !self.gang {
            return Ok(());
        }
        if self.tasks > MAX_GANG {
            let why =
                format!("is for jobs of at most {MAX_GANG} tasks, this one has {}", self.tasks);
            return refuse("gang", true, why);
        }
        match self.concurrent.filter(|most| *most < self.tasks) {
            None => Ok(()),
            Some(most) => {
                let why = format!(
                    "places all {} tasks together, and concurrent allows {most} at once: leave one out",
                    self.tasks
                );
                refuse("gang", true, why)
            }
        }
    }

    /// What is said of jobs that come to an end is said of no others.
    fn check_batch(&self) -> Result<(), SpecError> {
        let times = [("timeout_ms", self.timeout_ms), ("deadline_ms", self.deadline_ms)];
        if !self.kind.completes() {
            let why = format!("is for batch jobs, and this is a {}", self.kind.word());
            if self.max_failures > 0 {
                return refuse("max_failures", self.max_failures, why);
            }
            let given = times.into_iter().find_map(|(field, time)| Some((field, time?)));
            return given.map_or(Ok(()), |(field, time)| refuse(field, time.0, why));
        }
        check_range("max_failures", self.max_failures.into(), 0, MAX_TASKS.into())?;
        for (field, time) in times {
            let Some(time) = time else { continue };
            check_range(field, time.0, MIN_TIMEOUT.0, MAX_TIMEOUT.0)?;
        }
        Ok(())
    }

    /// Data is an alloc's to leave behind, and saved by a job in its set.
    fn check_rescue(&self) -> Result<(), SpecError> {
        if let Some(time) = self.keep_data_ms {
            if self.kind != JobKind::AllocSet {
                let why = format!("is for alloc sets, and this is a {}", self.kind.word());
                return refuse("keep_data_ms", time.0, why);
            }
            check_range("keep_data_ms", time.0, MIN_KEEP_DATA.0, MAX_KEEP_DATA.0)?;
        }
        if !self.rescue {
            return Ok(());
        }
        let saves = matches!(self.kind, JobKind::Service | JobKind::Batch);
        let why = match (saves, &self.alloc_set) {
            (false, _) => {
                format!("is for services and batch jobs, and this is a {}", self.kind.word())
            }
            (true, None) => "is for jobs in an alloc set: name it with alloc_set".to_owned(),
            (true, Some(_)) => return Ok(()),
        };
        refuse("rescue", true, why)
    }

    /// Where its tasks are and how many there are is not a daemon's to say.
    fn check_daemon(&self) -> Result<(), SpecError> {
        if self.tasks != 1 {
            let why = "says nothing of a daemon: it has one task on each machine that its constraints allow";
            return refuse("tasks", self.tasks, why);
        }
        let given = [
            ("task.spread", !self.task.spread.is_empty()),
            ("gang", self.gang),
            ("concurrent", self.concurrent.is_some()),
            ("exclusive", self.exclusive),
            ("alloc_set", self.alloc_set.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((field, _)) => refuse(
                field,
                "given",
                "says nothing of a daemon, which has one task on each machine",
            ),
        }
    }

    /// How many slots it has when it is accepted.
    #[must_use]
    pub fn first_slots(&self) -> u32 {
        if self.kind.stands() { 0 } else { self.tasks }
    }

    /// Whether its tasks stay on a machine that is being emptied, until nothing else is there.
    #[must_use]
    pub fn stays_on_drain(&self) -> bool {
        self.kind == JobKind::Daemon
    }

    /// An alloc set runs nothing.
    fn check_alloc_set(&self) -> Result<(), SpecError> {
        let task = &self.task;
        let given = [
            ("task.command", !task.command.is_empty()),
            ("task.env", !task.env.is_empty()),
            ("task.ports", !task.ports.is_empty()),
            ("task.volumes", !task.volumes.is_empty()),
            ("task.memory", !task.memory.is_hard()),
            ("task.cpu_cap_milli", task.cpu_cap_milli.is_some()),
            ("task.health", task.health.is_some()),
            ("task.network", task.network.is_own()),
            ("task.image", task.image.is_some()),
            ("task.packages", !task.packages.is_empty()),
            ("task.loosen", !task.loosen.is_empty()),
            ("task.reclaim", !task.reclaim),
            ("retries", self.retries > 0),
            ("exclusive", self.exclusive),
            ("concurrent", self.concurrent.is_some()),
            ("appclass", self.appclass.is_some()),
            ("alloc_set", self.alloc_set.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((field, _)) => {
                refuse(field, "given", "says nothing in an alloc set: it belongs to the jobs in it")
            }
        }
    }

    /// Where a task in an alloc goes is where its alloc is, and when is when that has room.
    fn check_in_alloc(&self) -> Result<(), SpecError> {
        let task = &self.task;
        let given = [
            ("task.constraints", !task.constraints.is_empty()),
            ("task.spread", !task.spread.is_empty()),
            ("task.limit.devices", !task.limit.devices.is_empty()),
        ];
        if self.gang || self.concurrent.is_some() {
            let why = "does not go with alloc_set: a task in an alloc starts when that has room";
            return match self.concurrent.filter(|_| !self.gang) {
                Some(most) => refuse("concurrent", most, why),
                None => refuse("gang", true, why),
            };
        }
        match given.into_iter().find(|(_, given)| *given) {
            None => Ok(()),
            Some((field, _)) => {
                let why = "says nothing of a task in an alloc, which is where its alloc is: it \
                           belongs to the alloc set";
                refuse(field, "given", why)
            }
        }
    }

    /// The level of entries ([`crate::command::LEVEL`]) that the newest of its fields came with.
    #[must_use]
    pub fn level(&self) -> u32 {
        let since_6 = self.kind.stands()
            || self.parent.is_some()
            || self.max_failures > 0
            || self.timeout_ms.is_some()
            || self.deadline_ms.is_some()
            || self.disruption.is_some()
            || !self.task_labels.is_empty()
            || self.keep_data_ms.is_some()
            || self.rescue
            || !self.task.reclaim;
        if since_6 {
            return 6;
        }
        if self.task.since_5() || self.task.image.is_some() || !self.task.packages.is_empty() {
            return 5;
        }
        let since_4 = self.kind == JobKind::AllocSet
            || self.alloc_set.is_some()
            || self.gang
            || self.concurrent.is_some();
        if since_4 { 4 } else { 1 + u32::from(self.exclusive) }
    }

    /// The appclass in force.
    #[must_use]
    pub fn effective_appclass(&self) -> AppClass {
        self.appclass.unwrap_or(match self.kind {
            JobKind::Service | JobKind::AllocSet | JobKind::Daemon => AppClass::LatencySensitive,
            JobKind::Batch | JobKind::Cron => AppClass::Batch,
        })
    }

    /// The key under which `user` owns this job.
    #[must_use]
    pub fn key(&self, user: &UserName) -> JobKey {
        JobKey { user: user.clone(), name: self.name.clone() }
    }
}

impl TaskSpec {
    /// Whether a field is used that came with level 5.
    fn since_5(&self) -> bool {
        !self.memory.is_hard()
            || self.cpu_cap_milli.is_some()
            || self.health.is_some()
            || self.network.is_own()
            || !self.loosen.is_empty()
    }

    /// Checks every bound of the task's part.
    ///
    /// # Errors
    /// The first field that is out of bounds, named from the job: `task.limit.cpu_milli`.
    pub fn check(&self) -> Result<(), SpecError> {
        let left_to_image = self.command.is_empty() && self.image.is_some();
        if self.command.first().is_none_or(String::is_empty) && !left_to_image {
            return refuse("task.command", "[]", "is empty: name the program to run");
        }
        check_len("task.command", self.command.len())?;
        for (i, word) in self.command.iter().enumerate() {
            check_text(&format!("task.command[{i}]"), word)?;
        }
        check_pairs("task.env", &self.env)?;
        self.check_ports()?;
        for (i, word) in self.command.iter().enumerate() {
            self.check_port_names(&format!("task.command[{i}]"), word)?;
        }
        for (key, value) in &self.env {
            self.check_port_names(&format!("task.env.{}", shorten(key)), value)?;
        }
        check_len("task.volumes", self.volumes.len())?;
        for (i, volume) in self.volumes.iter().enumerate() {
            check_volume(&format!("task.volumes[{i}].path"), &volume.path)?;
        }
        if let Some(cap) = self.cpu_cap_milli {
            check_range("task.cpu_cap_milli", cap, MIN_CPU_CAP_MILLI, MAX_CPU_MILLI)?;
        }
        if let Some(health) = &self.health {
            health.check(&self.ports)?;
        }
        self.check_packages()?;
        privilege::check_loosened(&self.loosen)?;
        self.check_room()
    }

    fn check_packages(&self) -> Result<(), SpecError> {
        if self.packages.len() > MAX_TASK_PACKAGES {
            let many = format!("{} packages", self.packages.len());
            return refuse("task.packages", many, format!("are more than {MAX_TASK_PACKAGES}"));
        }
        let mut seen = BTreeSet::new();
        for (i, package) in self.packages.iter().enumerate() {
            if !seen.insert(package.name.as_str().replace('-', "_")) {
                let why =
                    "has the name of another one: each has a directory and a variable of its own";
                return refuse(&format!("task.packages[{i}]"), package, why);
            }
        }
        Ok(())
    }

    /// Checks the bounds of what says how much room it needs, and where.
    fn check_room(&self) -> Result<(), SpecError> {
        self.check_limit()?;
        check_len("task.constraints", self.constraints.len())?;
        for (i, constraint) in self.constraints.iter().enumerate() {
            check_constraint(&format!("task.constraints[{i}]"), constraint)?;
        }
        check_len("task.spread", self.spread.len())?;
        for (i, spread) in self.spread.iter().enumerate() {
            check_text(&format!("task.spread[{i}].attribute"), &spread.attribute)?;
            check_range(&format!("task.spread[{i}].max"), spread.max.into(), 1, MAX_TASKS.into())?;
        }
        check_range("task.grace_ms", self.grace_ms.0, 0, MAX_GRACE.0)
    }

    fn check_limit(&self) -> Result<(), SpecError> {
        let limit = &self.limit;
        check_range("task.limit.cpu_milli", limit.cpu_milli, MIN_CPU_MILLI, MAX_CPU_MILLI)?;
        check_range("task.limit.ram_bytes", limit.ram_bytes, MIN_RAM_BYTES, MAX_BYTES)?;
        check_range("task.limit.disk_bytes", limit.disk_bytes, 0, MAX_BYTES)?;
        if limit.ports != 0 {
            return refuse(
                "task.limit.ports",
                limit.ports,
                "is set: name ports in task.ports instead",
            );
        }
        check_len("task.limit.devices", limit.devices.len())?;
        for (name, amount) in &limit.devices {
            let field = format!("task.limit.devices.{}", shorten(name));
            if **name == *TASK_ADDRESS {
                return refuse(&field, amount, "is set: ask for network = \"own\" instead");
            }
            check_range(&field, *amount, 1, MAX_DEVICES * WHOLE_DEVICE)?;
        }
        Ok(())
    }

    /// `%port.NAME%` must name one of the task's ports.
    fn check_port_names(&self, field: &str, text: &str) -> Result<(), SpecError> {
        for rest in text.split("%port.").skip(1) {
            let Some((name, _)) = rest.split_once('%') else { continue };
            if !self.ports.iter().any(|port| port.as_str() == name) {
                let named = format!("%port.{name}%");
                return refuse(field, named, "is no port of the task: name it in task.ports");
            }
        }
        Ok(())
    }

    fn check_ports(&self) -> Result<(), SpecError> {
        if self.ports.len() > MAX_PORTS {
            return refuse(
                "task.ports",
                format!("{} ports", self.ports.len()),
                format!("is more than {MAX_PORTS}"),
            );
        }
        let mut seen = BTreeSet::new();
        for (i, port) in self.ports.iter().enumerate() {
            if !seen.insert(port) {
                return refuse(&format!("task.ports[{i}]"), port, "is there twice");
            }
        }
        Ok(())
    }
}

fn check_constraint(field: &str, constraint: &Constraint) -> Result<(), SpecError> {
    check_text(&format!("{field}.attribute"), &constraint.attribute)?;
    if constraint.attribute.is_empty() {
        return refuse(&format!("{field}.attribute"), "\"\"", "is empty");
    }
    check_len(&format!("{field}.values"), constraint.values.len())?;
    for value in &constraint.values {
        check_text(&format!("{field}.values"), value)?;
        if constraint.op.is_numeric() && value.parse::<i64>().is_err() {
            return refuse(
                &format!("{field}.values"),
                value,
                "is not a whole number, which this comparison needs",
            );
        }
    }
    let count = constraint.values.len();
    let fine = match constraint.op {
        ConstraintOp::Present | ConstraintOp::Absent => count == 0,
        ConstraintOp::In => count >= 1,
        ConstraintOp::Equal
        | ConstraintOp::NotEqual
        | ConstraintOp::Less
        | ConstraintOp::LessEqual
        | ConstraintOp::Greater
        | ConstraintOp::GreaterEqual => count == 1,
    };
    if fine {
        return Ok(());
    }
    refuse(
        &format!("{field}.values"),
        format!("{count} values"),
        format!(
            "do not go with '{}': one value, any number for 'in', none for 'present' and 'absent'",
            constraint.op.symbol()
        ),
    )
}

fn check_volume(field: &str, path: &str) -> Result<(), SpecError> {
    check_text(field, path)?;
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return refuse(field, format!("{path:?}"), "is not an absolute path without '..'");
    }
    Ok(())
}

#[cfg(test)]
mod tests;
