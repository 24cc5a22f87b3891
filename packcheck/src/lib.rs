//! Checks a packing that somebody wrote down, in the common format: machines, tasks, and which task is where.
//!
//! Shares no code with the scheduler, nor with anything else of the project, so that a mistake there is not made
//! here again. Reads four files:
//! `nodes.csv`: `node_id,<resource>...[,attr.<key>...][,dom.<level>...]`;
//! `tasks.csv`: `task_id,<resource>...[,count][,priority][,job][,constraint][,max_per_node][,max_per.<level>...]`;
//! `placements.csv`: `task_id,node_id[,count]`; and where it is there `order.csv`: `node_id`, the machines that are kept.
//!
//! Checked are: that ids are known and said once; that no more of a task is placed than there is; that what is placed on a
//! machine fits, in each resource; constraints; limits for a machine, and for a level over the whole job; and
//! that only machines of `order.csv` are used. `gpu_milli` and other devices in thousandths: a task that asks for
//! less than a whole one has to find it on a single device.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod files;

use files::{File, Row};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

/// Columns of tasks that are no resources.
const OF_TASKS: [&str; 6] = ["task_id", "count", "priority", "job", "constraint", "max_per_node"];
/// Amounts in these columns are of one pool; of all others in thousandths of single devices.
const POOLS: [&str; 3] = ["cpu_milli", "mem_mib", "disk_mib"];
/// Thousandths of a whole device.
const WHOLE: u64 = 1_000;
/// Most thousandths of devices of one kind that a machine may have: 1,000 devices, far over what is built.
const MOST_DEVICES: u64 = 1_000 * WHOLE;
/// How often a part is put on a device until it counts as not decided whether all of a machine fit.
const STEPS: u32 = 1_000_000;

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Everything that is wrong.
    pub violations: Vec<Violation>,
    /// Tasks that are placed.
    pub placed: u64,
    /// Tasks that there are.
    pub tasks: u64,
    /// Machines with at least one task.
    pub used: usize,
    /// Machines that may be used.
    pub machines: usize,
    /// Of each resource, what is placed and what the machines that may be used have.
    pub amounts: Vec<(String, u64, u64)>,
}

impl Found {
    /// All of it in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!(
            "{} of {} tasks on {} of {} machines",
            self.placed, self.tasks, self.used, self.machines
        );
        for (name, placed, all) in &self.amounts {
            let permille = u128::from(*placed) * 1_000 / u128::from((*all).max(1));
            text.push_str(&format!(", {name} {}.{} %", permille / 10, permille % 10));
        }
        match self.violations.len() {
            0 => text.push_str("; nothing is wrong"),
            many => text.push_str(&format!("; {many} violations")),
        }
        text
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// No such task, or no such machine.
    Unknown {
        /// `task` or `node`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// More of a task are placed than there are.
    TooMany {
        /// The task.
        task: String,
        /// Placed.
        placed: u64,
        /// There are.
        count: u64,
    },
    /// A machine is too small for what is on it.
    Capacity {
        /// The machine.
        node: String,
        /// The resource.
        resource: String,
        /// What is placed.
        placed: u64,
        /// What it has.
        has: u64,
    },
    /// Parts of devices do not fit on single ones, though there is enough of them together.
    Devices {
        /// The machine.
        node: String,
        /// The devices.
        resource: String,
        /// Whether that is sure. If not, looking at everything would have taken too long.
        decided: bool,
    },
    /// A machine does not meet a constraint.
    Constraint {
        /// The task.
        task: String,
        /// The machine.
        node: String,
        /// The constraint.
        constraint: String,
    },
    /// More tasks of a job are in one place than may be.
    Spread {
        /// The job.
        job: String,
        /// `node`, or a level.
        level: String,
        /// Which of those.
        place: String,
        /// Placed there.
        placed: u64,
        /// May be.
        most: u64,
    },
    /// A machine is used that is not kept.
    NotKept {
        /// The machine.
        node: String,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { what, id } => write!(f, "{what} {id}: there is none of that name"),
            Self::TooMany { task, placed, count } => {
                write!(f, "task {task}: {placed} are placed, there are {count}")
            }
            Self::Capacity { node, resource, placed, has } => {
                write!(f, "node {node}: {placed} of {resource} are placed, it has {has}")
            }
            Self::Devices { node, resource, decided: true } => {
                write!(f, "node {node}: parts of {resource} do not fit on single devices")
            }
            Self::Devices { node, resource, decided: false } => {
                write!(
                    f,
                    "node {node}: whether parts of {resource} fit on single devices was not decided"
                )
            }
            Self::Constraint { task, node, constraint } => {
                write!(f, "task {task} on node {node}: {constraint} does not hold")
            }
            Self::Spread { job, level, place, placed, most } => {
                write!(f, "job {job}: {placed} tasks on {level} {place}, at most {most}")
            }
            Self::NotKept { node } => write!(f, "node {node}: used and not in order.csv"),
        }
    }
}

/// A machine.
struct Node {
    has: Vec<u64>,
    attributes: BTreeMap<String, String>,
    levels: BTreeMap<String, String>,
    used: Vec<u64>,
}

/// A row of tasks.
struct Task {
    asks: Vec<u64>,
    count: u64,
    job: String,
    constraints: Vec<String>,
    /// By level, `node` for the machine itself.
    most: BTreeMap<String, u64>,
}

/// Checks the files of a folder.
///
/// # Errors
/// When a file cannot be read or is not in the format: file, line, column and what was expected.
pub fn check_folder(folder: &Path) -> Result<Found, String> {
    let nodes = File::read(&folder.join("nodes.csv"))?;
    let tasks = File::read(&folder.join("tasks.csv"))?;
    let resources: Vec<String> = tasks
        .columns
        .iter()
        .filter(|name| !OF_TASKS.contains(&name.as_str()) && !name.starts_with("max_per."))
        .cloned()
        .collect();
    let mut machines = read_nodes(&nodes, &resources)?;
    let tasks = read_tasks(&tasks, &resources)?;
    let order = folder.join("order.csv");
    let kept = if order.exists() { Some(read_order(&order)?) } else { None };
    let placements = File::read(&folder.join("placements.csv"))?;
    check(&resources, &mut machines, &tasks, kept.as_ref(), &placements)
}

fn read_nodes(file: &File, resources: &[String]) -> Result<BTreeMap<String, Node>, String> {
    let id = file.column("node_id")?;
    let mut nodes = BTreeMap::new();
    for row in file.rows() {
        let has = amounts(file, row, resources)?;
        let of_kind = |kind: &str| {
            let named = file.columns.iter().enumerate();
            let some = named.filter_map(|(n, name)| Some((name.strip_prefix(kind)?, row.text(n))));
            some.filter(|(_, value)| !value.is_empty())
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect()
        };
        for (name, amount) in resources.iter().zip(&has) {
            if !POOLS.contains(&name.as_str()) && *amount > MOST_DEVICES {
                return Err(row.wrong(name, &format!("at most {MOST_DEVICES}")));
            }
        }
        let used = vec![0; has.len()];
        let node = Node { has, attributes: of_kind("attr."), levels: of_kind("dom."), used };
        if nodes.insert(row.text(id).to_owned(), node).is_some() {
            return Err(row.wrong("node_id", "an id that no earlier line has"));
        }
    }
    Ok(nodes)
}

fn read_tasks(file: &File, resources: &[String]) -> Result<BTreeMap<String, Task>, String> {
    let id = file.column("task_id")?;
    let mut tasks = BTreeMap::new();
    for row in file.rows() {
        let text = |name: &str| file.find(name).map_or("", |column| row.text(column));
        let mut most = BTreeMap::new();
        for name in &file.columns {
            let level = match name.as_str() {
                "max_per_node" => "node",
                other => match other.strip_prefix("max_per.") {
                    Some(level) => level,
                    None => continue,
                },
            };
            if !text(name).is_empty() {
                most.insert(level.to_owned(), row.number(name)?);
            }
        }
        let constraints: Vec<String> = text("constraint")
            .split(';')
            .filter(|one| !one.is_empty())
            .map(str::to_owned)
            .collect();
        if constraints.iter().any(|one| holds(one, &BTreeMap::new()).is_none()) {
            return Err(row.wrong("constraint", "key=v key!=v key~a|b key>=n key<=n key? key!?"));
        }
        let task = Task {
            asks: amounts(file, row, resources)?,
            count: if text("count").is_empty() { 1 } else { row.number("count")? },
            job: if text("job").is_empty() { row.text(id) } else { text("job") }.to_owned(),
            constraints,
            most,
        };
        if tasks.insert(row.text(id).to_owned(), task).is_some() {
            return Err(row.wrong("task_id", "an id that no earlier line has"));
        }
    }
    Ok(tasks)
}

fn read_order(path: &Path) -> Result<BTreeSet<String>, String> {
    let file = File::read(path)?;
    let id = file.column("node_id")?;
    Ok(file.rows().map(|row| row.text(id).to_owned()).collect())
}

fn amounts(file: &File, row: Row<'_>, resources: &[String]) -> Result<Vec<u64>, String> {
    let amount = |name: &String| {
        file.column(name)?;
        row.number(name)
    };
    resources.iter().map(amount).collect()
}

fn check(
    resources: &[String],
    nodes: &mut BTreeMap<String, Node>,
    tasks: &BTreeMap<String, Task>,
    kept: Option<&BTreeSet<String>>,
    placements: &File,
) -> Result<Found, String> {
    let (task_id, node_id) = (placements.column("task_id")?, placements.column("node_id")?);
    let mut violations = Vec::new();
    let mut placed_of = BTreeMap::<&str, u64>::new();
    // Tasks of a job by level and place.
    let mut crowds = BTreeMap::<(&str, &str, String), u64>::new();
    let mut whole = Vec::new();
    let mut used = BTreeSet::new();
    for row in placements.rows() {
        let (task_name, node_name) = (row.text(task_id), row.text(node_id));
        let Some(task) = tasks.get(task_name) else {
            violations.push(Violation::Unknown { what: "task", id: task_name.to_owned() });
            continue;
        };
        let Some(node) = nodes.get_mut(node_name) else {
            violations.push(Violation::Unknown { what: "node", id: node_name.to_owned() });
            continue;
        };
        let has_count = placements.find("count").is_some_and(|n| !row.text(n).is_empty());
        let count = if has_count { row.number("count")? } else { 1 };
        add(placed_of.entry(task_name).or_default(), count);
        used.insert(node_name);
        if kept.is_some_and(|kept| !kept.contains(node_name)) {
            violations.push(Violation::NotKept { node: node_name.to_owned() });
        }
        for (sum, asked) in node.used.iter_mut().zip(&task.asks) {
            add(sum, asked.saturating_mul(count));
        }
        whole.push((node_name, task, count));
        for constraint in &task.constraints {
            if holds(constraint, &node.attributes) != Some(true) {
                violations.push(Violation::Constraint {
                    task: task_name.to_owned(),
                    node: node_name.to_owned(),
                    constraint: constraint.clone(),
                });
            }
        }
        add(crowds.entry((&task.job, "node", node_name.to_owned())).or_default(), count);
        for (level, place) in &node.levels {
            let key = task.most.get_key_value(level).map(|(key, _)| key.as_str());
            if let Some(key) = key {
                add(crowds.entry((&task.job, key, place.clone())).or_default(), count);
            }
        }
    }
    for (name, placed) in &placed_of {
        let count = tasks[*name].count;
        if *placed > count {
            let task = (*name).to_owned();
            violations.push(Violation::TooMany { task, placed: *placed, count });
        }
    }
    violations.extend(overfull(resources, nodes));
    violations.extend(broken_devices(resources, nodes, whole));
    violations.extend(crowded(tasks, &crowds));
    let may = |name: &String| kept.is_none_or(|kept| kept.contains(name));
    let amounts = resources.iter().enumerate().map(|(n, name)| {
        let placed = total(nodes.values().map(|node| node.used[n]));
        let kept = nodes.iter().filter(|(name, _)| may(name));
        let all = total(kept.map(|(_, node)| node.has[n]));
        (name.clone(), placed, all)
    });
    Ok(Found {
        placed: total(placed_of.values().copied()),
        tasks: total(tasks.values().map(|task| task.count)),
        used: used.len(),
        machines: nodes.keys().filter(|name| may(name)).count(),
        amounts: amounts.collect(),
        violations,
    })
}

fn add(sum: &mut u64, amount: u64) {
    *sum = sum.saturating_add(amount);
}

fn total(amounts: impl Iterator<Item = u64>) -> u64 {
    amounts.fold(0, u64::saturating_add)
}

fn overfull(resources: &[String], nodes: &BTreeMap<String, Node>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, node) in nodes {
        for ((resource, placed), has) in resources.iter().zip(&node.used).zip(&node.has) {
            if placed > has {
                violations.push(Violation::Capacity {
                    node: name.clone(),
                    resource: resource.clone(),
                    placed: *placed,
                    has: *has,
                });
            }
        }
    }
    violations
}

/// Machines whose parts of devices do not fit on single ones. Those that have too much of the resource as a whole are
/// told already.
fn broken_devices(
    resources: &[String],
    nodes: &BTreeMap<String, Node>,
    placed: Vec<(&str, &Task, u64)>,
) -> Vec<Violation> {
    let mut asked = BTreeMap::<(&str, usize), Vec<u64>>::new();
    for (name, task, count) in placed {
        let node = &nodes[name];
        for (device, ask) in task.asks.iter().enumerate().filter(|(_, ask)| **ask > 0) {
            if POOLS.contains(&resources[device].as_str()) || node.used[device] > node.has[device] {
                continue;
            }
            let parts = asked.entry((name, device)).or_default();
            for _ in 0..count {
                // From one device on, whole ones.
                let whole = if *ask < WHOLE { 0 } else { ask.div_ceil(WHOLE) };
                parts.extend((0..whole).map(|_| WHOLE));
                parts.extend((whole == 0).then_some(*ask));
            }
        }
    }
    let mut violations = Vec::new();
    for ((name, device), mut parts) in asked {
        parts.sort_unstable_by(|a, b| b.cmp(a));
        let many = usize::try_from(nodes[name].has[device] / WHOLE).unwrap_or(usize::MAX);
        let mut steps = STEPS;
        if !fit_on(&parts, &mut vec![WHOLE; many.min(parts.len())], &mut steps) {
            let (node, resource) = (name.to_owned(), resources[device].clone());
            violations.push(Violation::Devices { node, resource, decided: steps > 0 });
        }
    }
    violations
}

/// Whether parts, the largest first, fit on single devices that have so much left. Looks at everything, but devices that
/// have the same left only once, and no more than so many times.
fn fit_on(parts: &[u64], left: &mut [u64], steps: &mut u32) -> bool {
    let Some((part, rest)) = parts.split_first() else { return true };
    let mut tried = BTreeSet::new();
    for at in 0..left.len() {
        if left[at] < *part || !tried.insert(left[at]) {
            continue;
        }
        if *steps == 0 {
            return false;
        }
        *steps -= 1;
        left[at] -= part;
        if fit_on(rest, left, steps) {
            return true;
        }
        left[at] += part;
    }
    false
}

fn crowded(
    tasks: &BTreeMap<String, Task>,
    crowds: &BTreeMap<(&str, &str, String), u64>,
) -> Vec<Violation> {
    // Of rows of one job the strictest counts.
    let mut most = BTreeMap::<(&str, &str), u64>::new();
    for task in tasks.values() {
        for (level, may) in &task.most {
            let strictest = most.entry((&task.job, level)).or_insert(*may);
            *strictest = (*strictest).min(*may);
        }
    }
    let over = |((job, level, place), placed): (&(&str, &str, String), &u64)| {
        let most = *most.get(&(*job, *level))?;
        (*placed > most).then(|| Violation::Spread {
            job: (*job).to_owned(),
            level: (*level).to_owned(),
            place: place.clone(),
            placed: *placed,
            most,
        })
    };
    crowds.iter().filter_map(over).collect()
}

/// Whether a machine meets a constraint; `None` when that is none.
fn holds(constraint: &str, attributes: &BTreeMap<String, String>) -> Option<bool> {
    let found = |key: &str| attributes.get(key).map(String::as_str);
    let number = |text: &str| text.parse::<i64>();
    if let Some(key) = constraint.strip_suffix("!?") {
        return Some(found(key).is_none());
    }
    if let Some(key) = constraint.strip_suffix('?') {
        return Some(found(key).is_some());
    }
    if let Some((key, value)) = constraint.split_once("!=") {
        return Some(found(key).unwrap_or("") != value);
    }
    if let Some((key, value)) = constraint.split_once(">=") {
        return Some(number(found(key).unwrap_or("0")).unwrap_or(0) >= number(value).ok()?);
    }
    if let Some((key, value)) = constraint.split_once("<=") {
        return Some(number(found(key).unwrap_or("0")).unwrap_or(0) <= number(value).ok()?);
    }
    if let Some((key, value)) = constraint.split_once('=') {
        return Some(found(key).unwrap_or("") == value);
    }
    let (key, values) = constraint.split_once('~')?;
    Some(values.split('|').any(|value| value == found(key).unwrap_or("")))
}
