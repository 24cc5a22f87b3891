//! The common format, in which machines and tasks are written down so that anyone can check a packing.
//!
//! `nodes.csv`: `node_id,<resource>...[,attr.<key>...][,dom.<level>...]`. `tasks.csv`:
//! `task_id,<resource>...[,count][,priority][,job][,constraint][,max_per_node][,max_per.<level>...]`.
//! Resources are `cpu_milli`, `mem_mib`, `disk_mib`; any other column in both files is a device in
//! thousandths (`gpu_milli`). Constraints are joined by `;`: `key=v`, `key!=v`, `key~a|b`, `key>=n`,
//! `key<=n`, `key?`, `key!?`.
//!
//! A row of tasks becomes a job. Amounts under the least that a cell accepts are taken for that: a
//! thousandth of a core and 4 MiB of memory.

use super::table::{Row, Table, TableError};
use crate::Error;
use crate::answer::{self, Column, Value};
use crate::questions::compact::Packing;
use crate::reports::{csv, write::whole};
use crate::work::Work;
use borg_proto::spec::{Constraint, ConstraintOp, MIN_CPU_MILLI, MIN_RAM_BYTES, Spread};
use borg_proto::{JobKind, JobSpec, MachineInfo, Millis, Priority, Resources, TaskSpec, UserName};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// Who owns the tasks; the format has no users.
const OWNER: &str = "all";
/// Columns of tasks that are no resources.
const OF_TASKS: [&str; 6] = ["task_id", "count", "priority", "job", "constraint", "max_per_node"];

/// Reads `nodes.csv` and `tasks.csv` of a folder.
///
/// # Errors
/// When a file is not in the format, or asks for what our jobs cannot say.
pub fn read(folder: &Path) -> Result<Work, Error> {
    let nodes = Table::read(&folder.join("nodes.csv"), ',')?;
    let tasks = Table::read(&folder.join("tasks.csv"), ',')?;
    let id = nodes.column("node_id")?;
    let resources: Vec<&str> = tasks
        .columns()
        .iter()
        .map(String::as_str)
        .filter(|name| !OF_TASKS.contains(name) && !name.starts_with("max_per."))
        .collect();
    for name in &resources {
        nodes.column(name)?;
    }
    let mut ids = BTreeSet::new();
    let named = |row: Row<'_>| {
        if !ids.insert(row.text(id).to_owned()) {
            return Err(row.field_error(id, "an id that no earlier line has"));
        }
        if row.text(id).is_empty() {
            return Err(row.field_error(id, "the name of a machine"));
        }
        Ok::<_, TableError>((row.text(id).to_owned(), machine(&nodes, row, &resources)?))
    };
    let machines = nodes.rows().map(named).collect::<Result<_, _>>()?;
    let owner: UserName = OWNER.parse()?;
    let task = tasks.column("task_id")?;
    let (mut names, mut task_ids) = (BTreeSet::new(), BTreeSet::new());
    let mut jobs = Vec::new();
    for row in tasks.rows() {
        if !task_ids.insert(row.text(task).to_owned()) {
            return Err(row.field_error(task, "an id that no earlier line has").into());
        }
        let spec = job(&tasks, row, &resources)?;
        if let Some(column) = tasks.find("job")
            && !names.insert(row.text(column).to_owned())
            && !spec.task.spread.is_empty()
        {
            return Err(row
                .field_error(column, "a job of its own, as limits count over it")
                .into());
        }
        jobs.push((owner.clone(), Arc::new(spec)));
    }
    Ok(Work { machines, jobs, tied: 0 })
}

fn amounts(table: &Table, row: Row<'_>, resources: &[&str]) -> Result<Resources, TableError> {
    let mut all = Resources::default();
    for name in resources {
        let column = table.column(name)?;
        let amount: u64 = row.value(column, "a whole number")?;
        let bytes = || {
            let bytes = amount.checked_mul(1 << 20);
            bytes.ok_or_else(|| row.field_error(column, "less than 2^44 MiB"))
        };
        match *name {
            "cpu_milli" => all.cpu_milli = amount,
            "mem_mib" => all.ram_bytes = bytes()?,
            "disk_mib" => all.disk_bytes = bytes()?,
            device if amount > 0 => drop(all.devices.insert(device.into(), amount)),
            _ => {}
        }
    }
    Ok(all)
}

fn machine(table: &Table, row: Row<'_>, resources: &[&str]) -> Result<MachineInfo, TableError> {
    let mut attributes = BTreeMap::new();
    for (column, name) in table.columns().iter().enumerate() {
        let key = name.strip_prefix("attr.").or_else(|| name.strip_prefix("dom."));
        if let Some(key) = key
            && !row.text(column).is_empty()
        {
            attributes.insert(key.to_owned(), row.text(column).to_owned());
        }
    }
    Ok(machine_of(amounts(table, row, resources)?, attributes))
}

/// A machine with this room and these attributes.
#[must_use]
pub fn machine_of(capacity: Resources, attributes: BTreeMap<String, String>) -> MachineInfo {
    MachineInfo {
        capacity,
        first_port: 20_000,
        attributes,
        boot_id: String::new(),
        missing_isolation: Vec::new(),
        task_host: "m".into(),
    }
}

fn job(table: &Table, row: Row<'_>, resources: &[&str]) -> Result<JobSpec, Error> {
    let number = |name: &str, default: u32| match table.find(name) {
        Some(column) if !row.text(column).is_empty() => row.value(column, "a whole number"),
        _ => Ok(default),
    };
    let id = table.column("task_id")?;
    let mut spec = job_of(row.text(id), number("count", 1)?, amounts(table, row, resources)?)
        .map_err(|error| row.field_error(id, format!("the name of a job: {error}")))?;
    if let Some(column) = table.find("priority") {
        let priority: u64 = row.value(column, "a priority from 0 to 450")?;
        spec.priority = Priority::new(priority)
            .map_err(|_| row.field_error(column, "a priority from 0 to 450"))?;
    }
    let mut constraints = Vec::new();
    if let Some(column) = table.find("constraint") {
        for text in row.text(column).split(';').filter(|text| !text.is_empty()) {
            constraints.push(constraint(text).ok_or_else(|| row.field_error(column, FORMS))?);
        }
    }
    let mut spread = Vec::new();
    for (column, name) in table.columns().iter().enumerate() {
        let level =
            if name == "max_per_node" { Some("machine") } else { name.strip_prefix("max_per.") };
        if let Some(level) = level
            && !row.text(column).is_empty()
        {
            let max = row.value(column, "a whole number")?;
            spread.push(Spread { attribute: level.to_owned(), max });
        }
    }
    let task = Arc::make_mut(&mut spec.task);
    (task.constraints, task.spread) = (constraints, spread);
    spec.check()
        .map_err(|error| row.field_error(id, format!("a task that a cell takes: {error}")))?;
    Ok(spec)
}

/// A batch job of equal tasks that only take up room.
///
/// # Errors
/// When the name is none.
pub fn job_of(name: &str, tasks: u32, limit: Resources) -> Result<JobSpec, Error> {
    let task = TaskSpec {
        command: vec!["/bin/true".into()],
        env: BTreeMap::new(),
        limit: Resources {
            cpu_milli: limit.cpu_milli.max(MIN_CPU_MILLI),
            ram_bytes: limit.ram_bytes.max(MIN_RAM_BYTES),
            ..limit
        },
        ports: Vec::new(),
        constraints: Vec::new(),
        spread: Vec::new(),
        volumes: Vec::new(),
        grace_ms: Millis(5_000),
        memory: borg_proto::spec::MemoryLimit::Hard,
        cpu_cap_milli: None,
        health: None,
        image: None,
        packages: Vec::new(),
        network: borg_proto::Network::Host,
        loosen: BTreeSet::new(),
        reclaim: true,
    };
    Ok(JobSpec {
        name: name.parse()?,
        kind: JobKind::Batch,
        tasks,
        priority: Priority::new(100)?,
        appclass: None,
        task: Arc::new(task),
        after: Vec::new(),
        retries: 0,
        exclusive: false,
        alloc_set: None,
        gang: false,
        concurrent: None,
        parent: None,
        max_failures: 0,
        timeout_ms: None,
        deadline_ms: None,
        cron: None,
        labels: BTreeMap::new(),
        disruption: None,
        task_labels: Vec::new(),
        keep_data_ms: None,
        rescue: false,
    })
}

/// Writes down a packing, so that others can check it: `nodes.csv`, `tasks.csv`, `order.csv`, `placements.csv`. Tasks that
/// stand in allocs are left out, as the format has none: the allocs hold the room.
///
/// # Errors
/// When the disk does not take it. Each file is whole or not there.
pub fn write(folder: &Path, packing: &Packing) -> Result<(), Error> {
    std::fs::create_dir_all(folder)
        .map_err(|error| Error::from(format!("{}: {error}", folder.display())))?;
    let ids = task_ids(&packing.jobs);
    let put = |name: &str, table: &answer::Table| {
        let path = folder.join(name);
        whole(&path, csv::table(table).as_bytes())
            .map_err(|error| Error::from(format!("{}: {error}", path.display())))
    };
    put("nodes.csv", &nodes_of(&packing.machines))?;
    put("tasks.csv", &tasks_of(&packing.jobs, &ids))?;
    let order = packing.machines.iter().map(|(name, _)| vec![name.as_str().into()]);
    put("order.csv", &table_of(&["node_id".to_owned()], order.collect()))?;
    let own = ids.iter().zip(&packing.jobs).zip(&packing.places);
    let own = own.filter(|((_, spec), _)| spec.alloc_set.is_none());
    let places = own.flat_map(|((id, _), places)| {
        let node = |at: &usize| packing.machines[*at].0.as_str();
        let row = move |(at, count): (&usize, &u32)| {
            vec![id.as_str().into(), Value::from(node(at)), (*count).into()]
        };
        places.iter().map(row)
    });
    let head = ["task_id", "node_id", "count"].map(str::to_owned);
    put("placements.csv", &table_of(&head, places.collect()))
}

/// Names of jobs, where each has one of its own; the format has no users, of whom several may have a job of one name.
fn task_ids(jobs: &[Arc<JobSpec>]) -> Vec<String> {
    let names: BTreeSet<&str> = jobs.iter().map(|spec| spec.name.as_str()).collect();
    let own = names.len() == jobs.len();
    let id = |(n, spec): (usize, &Arc<JobSpec>)| match own {
        true => spec.name.to_string(),
        false => format!("t{n}"),
    };
    jobs.iter().enumerate().map(id).collect()
}

fn table_of(head: &[String], rows: Vec<Vec<Value>>) -> answer::Table {
    let columns = head.iter().map(|name| Column::plain(name)).collect();
    answer::Table { name: String::new(), title: String::new(), columns, rows }
}

/// Columns of resources, and their amounts.
fn resources_of(amounts: &Resources, devices: &BTreeSet<String>) -> Vec<Value> {
    let device = |name: &String| amounts.devices.get(name.as_str()).copied().unwrap_or(0);
    [amounts.cpu_milli, amounts.ram_bytes >> 20, amounts.disk_bytes >> 20]
        .into_iter()
        .chain(devices.iter().map(device))
        .map(Value::from)
        .collect()
}

fn resource_names(devices: &BTreeSet<String>) -> impl Iterator<Item = String> {
    ["cpu_milli", "mem_mib", "disk_mib"]
        .map(str::to_owned)
        .into_iter()
        .chain(devices.iter().cloned())
}

fn devices_of<'a>(all: impl Iterator<Item = &'a Resources>) -> BTreeSet<String> {
    all.flat_map(|amounts| amounts.devices.keys()).map(ToString::to_string).collect()
}

fn nodes_of(machines: &[(String, MachineInfo)]) -> answer::Table {
    let devices = devices_of(machines.iter().map(|(_, info)| &info.capacity));
    let keys: BTreeSet<&String> =
        machines.iter().flat_map(|(_, info)| info.attributes.keys()).collect();
    // Both, as constraints ask for attributes and limits for levels.
    let names = ["attr.", "dom."]
        .iter()
        .flat_map(|kind| keys.iter().map(move |key| format!("{kind}{key}")));
    let head: Vec<String> =
        ["node_id".to_owned()].into_iter().chain(resource_names(&devices)).chain(names).collect();
    let row = |(name, info): &(String, MachineInfo)| {
        let attributes = keys.iter().chain(&keys).map(|key| {
            info.attributes.get(*key).map_or(Value::Nothing, |value| value.as_str().into())
        });
        let amounts = resources_of(&info.capacity, &devices);
        [name.as_str().into()].into_iter().chain(amounts).chain(attributes).collect()
    };
    table_of(&head, machines.iter().map(row).collect())
}

fn tasks_of(jobs: &[Arc<JobSpec>], ids: &[String]) -> answer::Table {
    let devices = devices_of(jobs.iter().map(|spec| &spec.task.limit));
    let levels: BTreeSet<&str> = jobs
        .iter()
        .flat_map(|spec| spec.task.spread.iter().map(|spread| spread.attribute.as_str()))
        .filter(|level| *level != "machine")
        .collect();
    let rest = ["count", "priority", "job", "constraint", "max_per_node"].map(str::to_owned);
    let head: Vec<String> = ["task_id".to_owned()]
        .into_iter()
        .chain(resource_names(&devices))
        .chain(rest)
        .chain(levels.iter().map(|level| format!("max_per.{level}")))
        .collect();
    let row = |(n, spec): (usize, &Arc<JobSpec>)| {
        let most = |level: &str| {
            let found = spec.task.spread.iter().find(|spread| spread.attribute == level);
            found.map_or(Value::Nothing, |spread| spread.max.into())
        };
        let hard: Vec<String> =
            spec.task.constraints.iter().filter(|one| !one.soft).map(form).collect();
        let mut row = vec![Value::from(ids[n].as_str())];
        row.extend(resources_of(&spec.task.limit, &devices));
        row.extend([
            spec.tasks.into(),
            u64::from(spec.priority.get()).into(),
            format!("j{n}").into(),
            hard.join(";").into(),
            most("machine"),
        ]);
        row.extend(levels.iter().map(|level| most(level)));
        row
    };
    let own = jobs.iter().enumerate().filter(|(_, spec)| spec.alloc_set.is_none());
    table_of(&head, own.map(row).collect())
}

/// A constraint in the format's own form.
fn form(constraint: &Constraint) -> String {
    let Constraint { attribute, op, values, .. } = constraint;
    let number = || values.first().and_then(|value| value.parse::<i64>().ok()).unwrap_or(0);
    match op {
        ConstraintOp::Present => format!("{attribute}?"),
        ConstraintOp::Absent => format!("{attribute}!?"),
        ConstraintOp::In => format!("{attribute}~{}", values.join("|")),
        // The format has no strict comparisons; these are of whole numbers.
        ConstraintOp::Less => format!("{attribute}<={}", number().saturating_sub(1)),
        ConstraintOp::Greater => format!("{attribute}>={}", number().saturating_add(1)),
        ConstraintOp::Equal
        | ConstraintOp::NotEqual
        | ConstraintOp::LessEqual
        | ConstraintOp::GreaterEqual => {
            format!("{attribute}{}{}", op.symbol(), values.first().map_or("", String::as_str))
        }
    }
}

const FORMS: &str = "constraints of the forms key=v key!=v key~a|b key>=n key<=n key? key!?";

fn constraint(text: &str) -> Option<Constraint> {
    let of = |attribute: &str, op, values: Vec<String>| Constraint {
        attribute: attribute.to_owned(),
        op,
        values,
        soft: false,
    };
    let one = |value: &str| vec![value.to_owned()];
    if let Some(key) = text.strip_suffix("!?") {
        return Some(of(key, ConstraintOp::Absent, Vec::new()));
    }
    if let Some(key) = text.strip_suffix('?') {
        return Some(of(key, ConstraintOp::Present, Vec::new()));
    }
    for (form, op) in [
        ("!=", ConstraintOp::NotEqual),
        (">=", ConstraintOp::GreaterEqual),
        ("<=", ConstraintOp::LessEqual),
        ("=", ConstraintOp::Equal),
    ] {
        if let Some((key, value)) = text.split_once(form) {
            return Some(of(key, op, one(value)));
        }
    }
    let (key, values) = text.split_once('~')?;
    Some(of(key, ConstraintOp::In, values.split('|').map(str::to_owned).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(nodes: &str, tasks: &str) -> Result<Work, Error> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("nodes.csv"), nodes).unwrap();
        std::fs::write(folder.path().join("tasks.csv"), tasks).unwrap();
        read(folder.path())
    }

    const NODES: &str =
        "node_id,cpu_milli,mem_mib,gpu_milli,attr.kernel,dom.rack\nm0,4000,1024,2000,5,r0\n";

    #[test]
    fn all_of_the_format_becomes_machines_and_jobs() {
        let tasks = "task_id,cpu_milli,mem_mib,gpu_milli,count,priority,job,constraint,max_per_node,max_per.rack\n\
                     t0,0,64,500,3,200,j0,kernel>=4;ssd!?;rack~r0|r1,1,2\n";
        let read = written(NODES, tasks).unwrap();
        assert_eq!(read.machines[0].1.attributes["rack"], "r0");
        assert_eq!(read.machines[0].1.capacity.devices["gpu_milli"], 2_000);
        let job = &read.jobs[0].1;
        assert_eq!((job.tasks, job.priority.get(), job.task.limit.cpu_milli), (3, 200, 1));
        let texts: Vec<_> = job.task.constraints.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["kernel >= 4", "ssd absent", "rack in r0 r1"]);
        let limits: Vec<_> =
            job.task.spread.iter().map(|s| (s.attribute.as_str(), s.max)).collect();
        assert_eq!(limits, [("machine", 1), ("rack", 2)]);
    }

    /// What is written is read again as the same work, placed as it was.
    #[test]
    fn what_was_written_is_read_as_the_same_work() {
        let tasks = "task_id,cpu_milli,mem_mib,gpu_milli,count,priority,job,constraint,max_per_node,max_per.rack\n\
                     t0,10,64,500,3,200,j0,kernel>=4;ssd!?;rack~r0|r1,1,2\n";
        let work = written(NODES, tasks).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let packing = Packing {
            machines: work.machines.clone(),
            jobs: work.jobs.iter().map(|(_, spec)| spec.clone()).collect(),
            places: vec![BTreeMap::from([(0, 1)])],
        };
        write(folder.path(), &packing).unwrap();
        let again = read(folder.path()).unwrap();
        assert_eq!(again.machines, work.machines);
        assert_eq!(again.jobs, work.jobs);
        let places = std::fs::read_to_string(folder.path().join("placements.csv")).unwrap();
        assert_eq!(places, "task_id,node_id,count\r\nt0,m0,1\r\n");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        let error = |tasks: &str| written(NODES, tasks).unwrap_err().to_string();
        let wrong = error("task_id,cpu_milli,constraint\nt0,1,kernel\n");
        assert!(wrong.contains("tasks.csv:2: column constraint: \"kernel\" is not"), "{wrong}");
        let wrong = error("task_id,cpu_milli,disk_mib\nt0,1,1\n");
        assert!(wrong.contains("nodes.csv:1: no column disk_mib"), "{wrong}");
        let wrong = error("task_id,cpu_milli,priority\nt0,1,451\n");
        assert!(wrong.contains("tasks.csv:2: column priority: \"451\" is not"), "{wrong}");
        let tasks = "task_id,cpu_milli\nt0,1\n";
        let twice = written("node_id,cpu_milli\nm0,4\nm0,4\n", tasks).unwrap_err().to_string();
        assert!(
            twice.contains("nodes.csv:3: column node_id: \"m0\" is not an id that no"),
            "{twice}"
        );
        let nodes = "node_id,cpu_milli\nm0,4\n";
        for (tasks, why) in [
            ("t0,1\nt0,1\n", "tasks.csv:3: column task_id: \"t0\" is not an id that no"),
            ("Bad Name,1\n", "tasks.csv:2: column task_id: \"Bad Name\" is not the name of a job"),
        ] {
            let tasks = format!("task_id,cpu_milli\n{tasks}");
            let wrong = written(nodes, &tasks).unwrap_err().to_string();
            assert!(wrong.contains(why), "{wrong}");
        }
        let huge = "node_id,cpu_milli,mem_mib\nm0,4,18446744073709551615\n";
        let wrong = written(huge, "task_id,cpu_milli,mem_mib\nt0,1,1\n").unwrap_err().to_string();
        assert!(wrong.contains("nodes.csv:2: column mem_mib"), "{wrong}");
    }

    /// It would be taken for down, and the rest of the cell be told of as if it were all.
    #[test]
    fn a_machine_that_no_cell_takes_is_told_and_not_left_out() {
        let nodes = "node_id,cpu_milli\nm0,4000\nm1,10000001\n";
        let work = written(nodes, "task_id,cpu_milli\nt0,1\n").unwrap();
        let machines: Vec<_> = work.machines.iter().map(|(_, info)| info.clone()).collect();
        let refused = crate::Driven::with_machines(&machines).unwrap_err().to_string();
        assert!(
            refused.starts_with("machine 2 of the list: a cell takes no machine of 10000001"),
            "{refused}"
        );
    }
}
