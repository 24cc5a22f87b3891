//! The constructors of the language: `job`, `alloc_set`, `task`, `resources`, `constraint`, `spread`,
//! `volume`, and `arg`.
//!
//! A constructor checks its own fields at once, where the mistake is, and leaves what it built in
//! the [`Session`]; the value that Starlark sees is a handle. `job` puts the pieces together,
//! checks the whole and adds it to the session's jobs.

use super::did_you_mean;
use super::fields::{FieldError, Fields, show, thousandths};
use super::kinds;
use super::session::{Piece, Session};
use super::units;
use borg_proto::disruption::{DEFAULT_MOST, Disruption, MAX_RATE_PER, Rate, Share};
use borg_proto::health::HealthCheck;
use borg_proto::names::{NameError, PortName, shorten};
use borg_proto::priority::{Band, MAX_PRIORITY};
use borg_proto::spec::{
    Constraint, ConstraintOp, MAX_GRACE, MAX_KEEP_DATA, MAX_TASKS, MIN_CPU_CAP_MILLI,
    MIN_RAM_BYTES, MemoryLimit, SpecError, Spread, TaskLabels, Volume,
};
use borg_proto::submitted;
use borg_proto::{
    AppClass, JobKey, JobKind, JobName, JobSpec, Millis, Network, Priority, Resources, TaskSpec,
};
use starlark::collections::SmallMap;
use starlark::environment::GlobalsBuilder;
use starlark::eval::Evaluator;
use starlark::starlark_module;
use starlark::values::dict::DictRef;
use starlark::values::none::NoneType;
use starlark::values::tuple::UnpackTuple;
use starlark::values::{Heap, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

const JOB: [&str; 17] = [
    "name",
    "kind",
    "tasks",
    "priority",
    "appclass",
    "task",
    "after",
    "retries",
    "exclusive",
    "gang",
    "concurrent",
    "alloc_set",
    "labels",
    "task_labels",
    "disruption",
    "disruption_rate",
    "rescue",
];
const ALLOC_SET: [&str; 13] = [
    "name",
    "allocs",
    "priority",
    "resources",
    "limit",
    "constraints",
    "spread",
    "after",
    "gang",
    "labels",
    "disruption",
    "disruption_rate",
    "keep_data",
];
const TASK: [&str; 17] = [
    "command",
    "resources",
    "limit",
    "env",
    "ports",
    "constraints",
    "spread",
    "volumes",
    "grace",
    "memory",
    "cpu_cap",
    "network",
    "health",
    "image",
    "packages",
    "loosen",
    "reclaim",
];
/// Grace when none is given. 5 s: the default of the JSON form.
const DEFAULT_GRACE: Millis = Millis(5_000);

type Named<'v> = SmallMap<String, Value<'v>>;

#[starlark_module]
pub(super) fn constructors(builder: &mut GlobalsBuilder) {
    /// Adds a job. A task's fields may stand here directly instead of `task = task(...)`.
    fn job<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let session = Session::of(eval);
        session.may_add_job()?;
        let known = [JOB.as_slice(), kinds::KIND.as_slice(), TASK.as_slice()].concat();
        let mut fields = Fields::new("job", &known, 0, args.items, named)?;
        session.add_job(build_job(session, &mut fields, eval.heap())?)?;
        Ok(NoneType)
    }

    /// Adds an alloc set: room on so many machines, held for the tasks of jobs that name it.
    fn alloc_set<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<NoneType> {
        let session = Session::of(eval);
        session.may_add_job()?;
        let mut fields = Fields::new("alloc_set", &ALLOC_SET, 0, args.items, named)?;
        session.add_job(build_alloc_set(session, &mut fields, eval.heap())?)?;
        Ok(NoneType)
    }

    /// What each task runs and needs.
    fn task<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut fields = Fields::new("task", &TASK, 0, args.items, named)?;
        let session = Session::of(eval);
        let task = build_task(session, &mut fields, eval.heap())?;
        Ok(session.keep(Piece::Task(Box::new(task)), eval.heap())?)
    }

    /// What a task may use.
    fn resources<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        const KNOWN: [&str; 4] = ["cpu", "ram", "disk", "devices"];
        let mut fields = Fields::new("resources", &KNOWN, 0, args.items, named)?;
        let missing =
            |fields: &Fields<'_>, name| fields.missing(name, "resources(cpu = 0.5, ram = 100*MiB)");
        let mut built = Resources {
            cpu_milli: fields.cores("cpu")?.ok_or_else(|| missing(&fields, "cpu"))?,
            ram_bytes: fields
                .bytes("ram", MIN_RAM_BYTES)?
                .ok_or_else(|| missing(&fields, "ram"))?,
            disk_bytes: fields.bytes("disk", 0)?.unwrap_or(0),
            ..Resources::default()
        };
        for (name, amount) in fields.entries("devices")? {
            let milli = thousandths(amount).ok().filter(|milli| (1..=1_000_000).contains(milli));
            let milli = milli.ok_or_else(|| {
                let why = format!(
                    "{} of {} is outside 0.001 to 1000 devices",
                    show(amount),
                    shorten(&name)
                );
                fields.error("devices", why)
            })?;
            built.devices.insert(name.into(), milli);
        }
        Ok(Session::of(eval).keep(Piece::Resources(built), eval.heap())?)
    }

    /// A condition on an attribute of a machine: `constraint("rack", "=", "r1")`.
    fn constraint<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        const KNOWN: [&str; 4] = ["attribute", "op", "value", "soft"];
        const OPS: [ConstraintOp; 9] = [
            ConstraintOp::Equal,
            ConstraintOp::NotEqual,
            ConstraintOp::Less,
            ConstraintOp::LessEqual,
            ConstraintOp::Greater,
            ConstraintOp::GreaterEqual,
            ConstraintOp::Present,
            ConstraintOp::Absent,
            ConstraintOp::In,
        ];
        let mut fields = Fields::new("constraint", &KNOWN, 3, args.items, named)?;
        let example = "constraint(\"rack\", \"=\", \"r1\")";
        let attribute =
            fields.text("attribute")?.ok_or_else(|| fields.missing("attribute", example))?;
        let symbol = fields.text("op")?.ok_or_else(|| fields.missing("op", example))?;
        let op = OPS.into_iter().find(|op| op.symbol() == symbol).ok_or_else(|| {
            let known = OPS.map(ConstraintOp::symbol).join(" ");
            fields.error("op", format!("{:?} is not one of {known}", shorten(&symbol)))
        })?;
        let values = fields.one_or_more("value")?;
        let soft = fields.flag("soft")?;
        Ok(Session::of(eval)
            .keep(Piece::Constraint(Constraint { attribute, op, values, soft }), eval.heap())?)
    }

    /// At most so many tasks of the job in one place: `spread("machine", 1)`.
    fn spread<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut fields = Fields::new("spread", &["attribute", "max"], 2, args.items, named)?;
        let example = "spread(\"machine\", 1)";
        let attribute =
            fields.text("attribute")?.ok_or_else(|| fields.missing("attribute", example))?;
        let max =
            fields.whole("max", 1, MAX_TASKS)?.ok_or_else(|| fields.missing("max", example))?;
        Ok(Session::of(eval).keep(Piece::Spread(Spread { attribute, max }), eval.heap())?)
    }

    /// A directory of the machine that the task sees: `volume("/data", writable = True)`.
    fn volume<'v>(
        #[starlark(args)] args: UnpackTuple<Value<'v>>,
        #[starlark(kwargs)] named: Named<'v>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let mut fields = Fields::new("volume", &["path", "writable"], 1, args.items, named)?;
        let path =
            fields.text("path")?.ok_or_else(|| fields.missing("path", "volume(\"/data\")"))?;
        let writable = fields.flag("writable")?;
        Ok(Session::of(eval).keep(Piece::Volume(Volume { path, writable }), eval.heap())?)
    }

    /// A value from the command line: `--arg name=value`. With a number or truth value as
    /// default, the given text is read as one.
    fn arg<'v>(
        #[starlark(require = pos)] name: &str,
        #[starlark(require = pos)] default: Option<Value<'v>>,
        eval: &mut Evaluator<'v, '_, '_>,
    ) -> starlark::Result<Value<'v>> {
        let refuse = |text| FieldError { field: None, text };
        let Some(given) = Session::of(eval).arg(name) else {
            let needed =
                || format!("arg {:?} is needed: give --arg {}=VALUE", shorten(name), shorten(name));
            return default.ok_or_else(|| refuse(needed()).into());
        };
        let heap = eval.heap();
        let wrong = |kind| refuse(format!("arg {name}: {:?} is not {kind}", shorten(&given)));
        Ok(match default.map(Value::get_type) {
            Some("int") => heap.alloc(given.parse::<i64>().map_err(|_| wrong("a whole number"))?),
            Some("float") => {
                let number = given.parse::<f64>().ok().filter(|number| number.is_finite());
                heap.alloc(number.ok_or_else(|| wrong("a number"))?)
            }
            Some("bool") => {
                let truth =
                    given.to_lowercase().parse::<bool>().map_err(|_| wrong("true or false"))?;
                Value::new_bool(truth)
            }
            _ => heap.alloc(given.as_str()),
        })
    }
}

impl<'v> Fields<'v> {
    /// A text, a list of texts, or nothing.
    fn one_or_more(&mut self, name: &str) -> Result<Vec<String>, FieldError> {
        let Some(value) = self.take(name) else { return Ok(Vec::new()) };
        self.put(name, value);
        if value.unpack_str().is_some() || !matches!(value.get_type(), "list" | "tuple") {
            return Ok(self.text(name)?.into_iter().collect());
        }
        self.texts(name)
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        words: &[(&str, T)],
    ) -> Result<Option<T>, FieldError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(Some(*value));
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = match did_you_mean(&text, known.iter().copied()) {
            Some(guess) => format!("did you mean {guess:?}?"),
            None => format!("it is {:?}", known).replace(['[', ']'], "").replace(", ", " or "),
        };
        Err(self.error(name, format!("{:?} is unknown; {hint}", shorten(&text))))
    }

    fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<Vec<T>, FieldError> {
        let texts = self.texts(name)?;
        let all = texts
            .iter()
            .enumerate()
            .map(|(i, text)| text.parse().map_err(|why| self.error(name, format!("[{i}] {why}"))));
        all.collect()
    }
}

/// The budget of what may be disturbed: how many tasks at once, and how many within a time.
fn disruption(fields: &mut Fields<'_>) -> Result<Option<Disruption>, FieldError> {
    let most = match fields.take("disruption") {
        None => None,
        Some(value) => {
            let text = value.unpack_str().map_or_else(|| value.to_repr(), str::to_owned);
            let most: Share = text.parse().map_err(|why| fields.error("disruption", why))?;
            Some(most)
        }
    };
    let rate = match fields.text("disruption_rate")? {
        None => None,
        Some(text) => Some(rate(&text).map_err(|why| fields.error("disruption_rate", why))?),
    };
    Ok(match (most, rate) {
        (None, None) => None,
        (most, rate) => Some(Disruption { most: most.unwrap_or(DEFAULT_MOST), rate }),
    })
}

/// `5 in 1h`.
fn rate(text: &str) -> Result<Rate, String> {
    let wrong =
        || format!("{:?} is not a number of tasks in a time, as in \"5 in 1h\"", shorten(text));
    let (tasks, per) = text.split_once(" in ").ok_or_else(wrong)?;
    let tasks = tasks.trim().parse().map_err(|_| wrong())?;
    units::duration(per.trim()).map_err(|_| wrong())?;
    let per_ms = units::duration_within(per.trim(), Millis(1), MAX_RATE_PER)?;
    Ok(Rate { tasks, per_ms })
}

/// Labels of some of the tasks: `{"0-2": {"canary": "yes"}}`.
fn task_labels(fields: &mut Fields<'_>) -> Result<Vec<TaskLabels>, FieldError> {
    let mut all = Vec::new();
    for (tasks, labels) in fields.entries("task_labels")? {
        let tasks = tasks.parse().map_err(|why| fields.error("task_labels", why))?;
        let Some(dict) = DictRef::from_value(labels) else {
            let why = format!("{} is not a dict of labels", show(labels));
            return Err(fields.error("task_labels", why));
        };
        let mut of = BTreeMap::new();
        for (key, value) in dict.iter() {
            let (Some(key), Some(value)) = (key.unpack_str(), value.unpack_str()) else {
                let why = format!("{}: {} is not a text and a text", show(key), show(value));
                return Err(fields.error("task_labels", why));
            };
            of.insert(key.to_owned(), value.to_owned());
        }
        all.push(TaskLabels { tasks, labels: of });
    }
    Ok(all)
}

fn build_job<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<JobSpec, FieldError> {
    let name =
        fields.text("name")?.ok_or_else(|| fields.missing("name", "job(name = \"hello\", ...)"))?;
    let name: JobName = name.parse().map_err(|why| fields.error("name", why))?;
    let kind = kinds::kind(fields)?;
    let caps = kinds::caps(fields)?;
    let classes = [("latency-sensitive", AppClass::LatencySensitive), ("batch", AppClass::Batch)];
    let job = JobSpec {
        name,
        kind,
        tasks: fields.whole("tasks", 1, MAX_TASKS)?.unwrap_or(1),
        priority: priority(fields)?,
        appclass: fields.word("appclass", &classes)?,
        after: after(session, fields)?,
        retries: fields.whole("retries", 0, 1_000_000)?.unwrap_or(0),
        exclusive: fields.flag("exclusive")?,
        alloc_set: set_of(session, fields)?,
        gang: fields.flag("gang")?,
        concurrent: fields.whole("concurrent", 1, MAX_TASKS)?,
        parent: kinds::parent(session, fields)?,
        max_failures: caps.max_failures,
        timeout_ms: caps.timeout_ms,
        deadline_ms: caps.deadline_ms,
        cron: kinds::cron(kind, fields)?,
        labels: fields.pairs("labels")?,
        task_labels: task_labels(fields)?,
        disruption: disruption(fields)?,
        keep_data_ms: None,
        rescue: fields.flag("rescue")?,
        task: Arc::new(the_task(session, fields, heap)?),
    };
    job.check()
        .and_then(|()| submitted::check(&job))
        .map_err(|error| out_of_bounds("job", &error))?;
    Ok(job)
}

fn build_alloc_set<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<JobSpec, FieldError> {
    let name = fields
        .text("name")?
        .ok_or_else(|| fields.missing("name", "alloc_set(name = \"room\", ...)"))?;
    let name: JobName = name.parse().map_err(|why| fields.error("name", why))?;
    let set = JobSpec {
        name,
        kind: JobKind::AllocSet,
        tasks: fields.whole("allocs", 1, MAX_TASKS)?.unwrap_or(1),
        priority: priority(fields)?,
        appclass: None,
        after: after(session, fields)?,
        retries: 0,
        exclusive: false,
        gang: fields.flag("gang")?,
        concurrent: None,
        parent: None,
        max_failures: 0,
        timeout_ms: None,
        deadline_ms: None,
        cron: None,
        alloc_set: None,
        labels: fields.pairs("labels")?,
        task_labels: Vec::new(),
        disruption: disruption(fields)?,
        keep_data_ms: fields.time("keep_data", MAX_KEEP_DATA)?,
        rescue: false,
        task: Arc::new(TaskSpec {
            command: Vec::new(),
            env: BTreeMap::new(),
            limit: limit(session, fields, heap)?,
            ports: Vec::new(),
            constraints: constraints(session, fields, heap)?,
            spread: spreads(session, fields, heap)?,
            volumes: Vec::new(),
            grace_ms: DEFAULT_GRACE,
            memory: MemoryLimit::Hard,
            cpu_cap_milli: None,
            health: None,
            image: None,
            packages: Vec::new(),
            network: Network::Host,
            loosen: BTreeSet::new(),
            reclaim: true,
        }),
    };
    set.check()
        .and_then(|()| submitted::check(&set))
        .map_err(|error| out_of_bounds("alloc_set", &error))?;
    Ok(set)
}

/// The task of a job: `task = task(...)`, or a task's fields directly.
fn the_task<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<TaskSpec, FieldError> {
    let Some(value) = fields.take("task") else {
        return build_task(session, fields, heap);
    };
    if let Some(double) = TASK.iter().find(|name| fields.has(name)) {
        return Err(fields.error(double, "belongs into task(...), since task is given"));
    }
    match session.piece(value, heap) {
        Some(Piece::Task(task)) => Ok(*task),
        _ => Err(fields.error("task", format!("{} is not a task(...)", show(value)))),
    }
}

fn build_task<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<TaskSpec, FieldError> {
    if !fields.has("command") && !fields.has("image") {
        return Err(fields.missing("command", "command = [\"echo\", \"hello\"]"));
    }
    let limit = limit(session, fields, heap)?;
    let cpu_cap_milli = fields.cores("cpu_cap")?;
    if cpu_cap_milli.is_some_and(|cap| cap < MIN_CPU_CAP_MILLI) {
        return Err(fields.error("cpu_cap", "the least cap is 0.01 cores"));
    }
    let networks = [("host", Network::Host), ("own", Network::Own)];
    let memories = [("hard", MemoryLimit::Hard), ("soft", MemoryLimit::Soft)];
    let task = TaskSpec {
        command: fields.texts("command")?,
        env: fields.pairs("env")?,
        limit,
        ports: fields.parsed::<PortName>("ports")?,
        constraints: constraints(session, fields, heap)?,
        spread: spreads(session, fields, heap)?,
        volumes: pieces(session, fields, heap, "volumes", |piece| match piece {
            Piece::Volume(volume) => Some(volume),
            Piece::Task(_)
            | Piece::Resources(_)
            | Piece::Constraint(_)
            | Piece::Spread(_)
            | Piece::Health(_) => None,
        })?,
        grace_ms: fields.time("grace", MAX_GRACE)?.unwrap_or(DEFAULT_GRACE),
        memory: fields.word("memory", &memories)?.unwrap_or_default(),
        cpu_cap_milli,
        health: health(session, fields, heap)?,
        image: fields
            .text("image")?
            .map(|image| image.parse().map_err(|why| fields.error("image", why)))
            .transpose()?,
        packages: fields.parsed("packages")?,
        network: fields.word("network", &networks)?.unwrap_or_default(),
        loosen: fields.parsed("loosen")?.into_iter().collect(),
        reclaim: !fields.has("reclaim") || fields.flag("reclaim")?,
    };
    task.check().map_err(|error| out_of_bounds("task", &error))?;
    Ok(task)
}

/// `health = http(...)`, `tcp(...)` or `command(...)`.
fn health<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<Option<HealthCheck>, FieldError> {
    let Some(value) = fields.take("health") else { return Ok(None) };
    match session.piece(value, heap) {
        Some(Piece::Health(check)) => Ok(Some(check)),
        _ => {
            let why = format!("{} is not http(...), tcp(...) or command(...)", show(value));
            Err(fields.error("health", why))
        }
    }
}

/// `resources = resources(...)`, or `limit`, its other name.
fn limit<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<Resources, FieldError> {
    if fields.has("limit") && fields.has("resources") {
        return Err(fields.error("limit", "is another name for resources: give one of them"));
    }
    let name = if fields.has("limit") { "limit" } else { "resources" };
    let example = "resources = resources(cpu = 0.5, ram = 100*MiB)";
    let limit = fields.take(name).ok_or_else(|| fields.missing("resources", example))?;
    let Some(Piece::Resources(built)) = session.piece(limit, heap) else {
        return Err(fields
            .error(name, format!("{} is not a resources(cpu = 0.5, ram = 100*MiB)", show(limit))));
    };
    Ok(built)
}

fn constraints<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<Vec<Constraint>, FieldError> {
    pieces(session, fields, heap, "constraints", |piece| match piece {
        Piece::Constraint(constraint) => Some(constraint),
        Piece::Task(_)
        | Piece::Resources(_)
        | Piece::Spread(_)
        | Piece::Volume(_)
        | Piece::Health(_) => None,
    })
}

fn spreads<'v>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
) -> Result<Vec<Spread>, FieldError> {
    pieces(session, fields, heap, "spread", |piece| match piece {
        Piece::Spread(spread) => Some(spread),
        Piece::Task(_)
        | Piece::Resources(_)
        | Piece::Constraint(_)
        | Piece::Volume(_)
        | Piece::Health(_) => None,
    })
}

fn pieces<'v, T>(
    session: &Session,
    fields: &mut Fields<'v>,
    heap: Heap<'v>,
    name: &str,
    pick: impl Fn(Piece) -> Option<T>,
) -> Result<Vec<T>, FieldError> {
    let items = fields.items(name)?;
    let built = items.into_iter().enumerate().map(|(i, item)| {
        session.piece(item, heap).and_then(&pick).ok_or_else(|| {
            let constructor = name.trim_end_matches('s');
            fields.error(name, format!("[{i}] {} is not a {constructor}(...)", show(item)))
        })
    });
    built.collect()
}

fn priority(fields: &mut Fields<'_>) -> Result<Priority, FieldError> {
    let Some(value) = fields.take("priority") else { return Ok(Band::Batch.default_priority()) };
    fields.put("priority", value);
    if value.unpack_str().is_some() {
        let bands = Band::ALL.map(|band| (band.name(), band));
        let band = fields.word("priority", &bands)?.unwrap_or(Band::Batch);
        return Ok(band.default_priority());
    }
    let number = fields.whole("priority", 0, MAX_PRIORITY.into())?.unwrap_or(0);
    Priority::new(number.into()).map_err(|why| fields.error("priority", why))
}

/// Where the job's tasks run, if that is in an alloc set.
fn set_of(session: &Session, fields: &mut Fields<'_>) -> Result<Option<JobKey>, FieldError> {
    let Some(text) = fields.text("alloc_set")? else { return Ok(None) };
    key(session, &text).map(Some).map_err(|why| fields.error("alloc_set", why))
}

/// Jobs to wait for.
fn after(session: &Session, fields: &mut Fields<'_>) -> Result<Vec<JobKey>, FieldError> {
    let texts = fields.one_or_more("after")?;
    let keys = texts.iter().enumerate().map(|(i, text)| {
        key(session, text).map_err(|why| fields.error("after", format!("[{i}] {why}")))
    });
    keys.collect()
}

/// The name of a job or alloc set; one without an owner is one of the user's own.
pub(super) fn key(session: &Session, text: &str) -> Result<JobKey, NameError> {
    if text.contains('/') {
        return text.parse();
    }
    text.parse().map(|name| JobKey { user: session.user().clone(), name })
}

/// An error of the whole specification, told with the names of the language.
fn out_of_bounds(constructor: &str, error: &SpecError) -> FieldError {
    let path = error.field.trim_start_matches("task.");
    let path = path.replace("limit.", "resources.").replace("cpu_cap_milli", "cpu_cap");
    let path = path.replace("health.probe.", "health.").replace("_ms", "").replace("cron.", "");
    let field = path.split(['.', '[']).next().unwrap_or_default().to_owned();
    FieldError {
        text: format!("{constructor}.{path}: {} {}", error.value, error.why),
        field: Some(field),
    }
}
