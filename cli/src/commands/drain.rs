//! `drain`, `undrain` and `drains`: empty machines for maintenance, and follow how far that is.

use super::history::say_when;
use crate::client::{Client, Kind};
use crate::clock;
use crate::config::units;
use crate::exit::{Code, Failure};
use crate::output::drains::{DrainedMachine, Drains, Maintenance, Plan};
use crate::output::views::Read;
use crate::output::{Output, age, note};
use borg_proto::disruption::Share;
use borg_proto::machine::MAX_DRAIN_TIME;
use borg_proto::names::shorten;
use borg_proto::wire::pb;
use borg_proto::{MachineName, Millis};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two looks at how far it is: as often as a person can read.
const LOOK: Duration = Duration::from_secs(1);
/// Tasks of each machine that are told.
const TASKS_TOLD: u32 = 5;

/// Which machines.
#[derive(Debug, Args)]
struct Which {
    /// Their names
    machines: Vec<MachineName>,
    /// All machines of a rack
    #[arg(long, value_name = "NAME")]
    rack: Option<String>,
    /// All machines with this attribute
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    which: Which,
    /// All machines of the cell: one after the other
    #[arg(long, requires = "rolling", conflicts_with_all = ["machines", "rack", "labels"])]
    all: bool,
    /// Why, for those who find them drained
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long each machine may take; then what is left is pushed out whatever disruption budgets say
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = deadline)]
    deadline: Millis,
    /// Push out at once all that is there, whatever disruption budgets say
    #[arg(long, conflicts_with = "deadline")]
    now: bool,
    /// One after the other: the next begins when one is undrained, or has restarted empty
    #[arg(long)]
    rolling: bool,
    /// With --rolling: how many may be out of service at a time, a number or a share of the machines
    #[arg(long, value_name = "N|N%", default_value = "5%", requires = "rolling", value_parser = batch)]
    batch: Share,
    /// Drain so much that only so many machines are left that take tasks
    #[arg(long, value_name = "N")]
    force_with: Option<u32>,
    /// Tell who would move where and what is in the way, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Follow until the machines are empty
    #[arg(long, conflicts_with = "dry_run")]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct UndrainArgs {
    #[command(flatten)]
    which: Which,
    /// All of a maintenance of one machine after the other, which is over then
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["machines", "rack", "labels"])]
    maintenance: Option<u64>,
}

#[derive(Debug, Args)]
pub(super) struct DrainsArgs {
    /// Show it anew each second
    #[arg(long)]
    watch: bool,
}

pub(super) fn deadline(text: &str) -> Result<Millis, String> {
    let time = units::duration_within(text, Millis(0), MAX_DRAIN_TIME)?;
    if time == Millis(0) {
        return Err("pushes out at once all that is there, over all disruption budgets: if that is meant, say \
                    --now in its place"
            .to_owned());
    }
    Ok(time)
}

/// A number of machines, or a share of them: at least one, and not more than all.
fn batch(text: &str) -> Result<Share, String> {
    let share: Share = text.parse().map_err(|_| {
        format!(
            "{:?} is neither a number of machines, as in 3, nor a share, as in 10%",
            shorten(text)
        )
    })?;
    match share {
        Share::Tasks(0) | Share::Percent(0) => Err(format!(
            "{share} machines at a time never end: allowed are 1 or more, or 1% to 100%"
        )),
        Share::Percent(101..) => Err(format!("{share} is outside 1% to 100%")),
        Share::Tasks(_) | Share::Percent(_) => Ok(share),
    }
}

impl Which {
    /// Whether none is said.
    fn is_nothing(&self) -> bool {
        self.machines.is_empty() && self.rack.is_none() && self.labels.is_empty()
    }

    /// The names of those that are meant: the named ones, or all with the attributes.
    async fn names(&self, client: &mut Client, all: bool) -> Result<Vec<String>, Failure> {
        let named: Vec<String> = self.machines.iter().map(ToString::to_string).collect();
        let rack = self.rack.iter().map(|rack| ("rack".to_owned(), rack.clone()));
        let labels = self.labels.iter().map(|label| match label.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Failure::new(
                Code::Usage,
                format!("--label: {label:?} is not KEY=VALUE, as in zone=east"),
            )),
        });
        let wanted: Vec<(String, String)> =
            rack.map(Ok).chain(labels).collect::<Result<_, Failure>>()?;
        if wanted.is_empty() && !all {
            return match named.is_empty() {
                false => Ok(named),
                true => Err(Failure::new(
                    Code::Usage,
                    "no machine is named: give names, --rack NAME or --label KEY=VALUE",
                )),
            };
        }
        if !named.is_empty() {
            let why = "name machines, or say --rack and --label: not both";
            return Err(Failure::new(Code::Usage, why));
        }
        let machines = super::machines::ask(client).await?.machines;
        let meets = |machine: &pb::Machine| {
            let attributes = machine.info.as_ref().map(|info| &info.attributes);
            let has = |(key, value): &(String, String)| {
                attributes.is_some_and(|all| all.get(key) == Some(value))
            };
            wanted.iter().all(has)
        };
        let found: Vec<String> =
            machines.into_iter().filter(meets).map(|machine| machine.name).collect();
        if found.is_empty() {
            let said: Vec<String> = wanted.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let what = format!("no machine of the cell has {}", said.join(", "));
            return Err(Failure::new(Code::NotFound, what));
        }
        Ok(found)
    }
}

fn several(names: &[String]) -> String {
    match names {
        [one] => one.clone(),
        all => format!("{} machines", all.len()),
    }
}

pub(super) async fn drain(
    client: &mut Client,
    args: DrainArgs,
    out: Output,
) -> Result<(), Failure> {
    let names = args.which.names(client, args.all).await?;
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let within = if args.now { Millis(0) } else { args.deadline };
    let at_once = args.rolling.then(|| args.batch.of(count).max(1));
    let message = pb::DrainMachinesRequest {
        machines: names.clone(),
        reason: args.reason,
        within_ms: within.0,
        at_once,
        leaves: args.force_with,
        request_id: client.request_id(),
    };
    if args.dry_run {
        return plan(client, message, out).await;
    }
    let what = several(&names);
    let answer = client
        .call(&format!("drain {what}"), Kind::Change, message, async |mut to, request| {
            to.drain_machines(request).await
        })
        .await?;
    if out.is_json() {
        let done = serde_json::json!({ "machines": names, "index": answer.index });
        out.json(&done, args.watch)?;
    } else {
        let time = humantime::format_duration(Duration::from_millis(within.0));
        let how = match at_once {
            None if args.now => format!("draining {what}: what is there is pushed out at once"),
            None => format!("draining {what}: what is left after {time} is pushed out"),
            Some(1) => format!("draining {what}, one at a time, each within {time}"),
            Some(many) => format!("draining {what}, {many} at a time, each within {time}"),
        };
        out.line(&how)?;
    }
    if !args.watch {
        return Ok(());
    }
    let wanted: BTreeSet<String> = names.into_iter().collect();
    let watched = match at_once {
        None => Watched::Emptied { wanted, empty: BTreeSet::new() },
        Some(_) => Watched::Maintained { wanted, number: None, left: count },
    };
    follow(client, watched, answer.index, out).await
}

async fn plan(
    client: &mut Client,
    message: pb::DrainMachinesRequest,
    out: Output,
) -> Result<(), Failure> {
    let answer = client
        .call("plan a drain", Kind::Read, message, async |mut to, request| {
            to.plan_drain(request).await
        })
        .await?;
    let code = answer.refusal_code;
    let plan = Plan::from(answer);
    if !plan.refusal.is_empty() {
        return Err(Failure::planned(code, &plan.refusal).context("would be refused"));
    }
    if out.is_json() {
        return out.json(&plan, false);
    }
    let rows = plan.moves.iter().map(|one| {
        let over = if one.victims.is_empty() {
            String::new()
        } else {
            format!("over {}", one.victims.join(", "))
        };
        [one.step.to_string(), one.task.clone(), one.from.clone(), one.to.clone(), over]
    });
    if !plan.moves.is_empty() {
        out.table(["step", "task", "from", "to", ""], rows)?;
    }
    if plan.more_moves > 0 {
        out.line(&format!("and {} more", plan.more_moves))?;
    }
    for one in &plan.stay {
        out.line(&format!("{} stays until the deadline: {}", one.task, one.waits))?;
    }
    if plan.more_stay > 0 {
        out.line(&format!("and {} more", plan.more_stay))?;
    }
    out.line(&plan.summary())
}

pub(super) async fn undrain(
    client: &mut Client,
    args: UndrainArgs,
    out: Output,
) -> Result<(), Failure> {
    let (text, index) = match args.maintenance {
        Some(number) => {
            let message = pb::EndMaintenanceRequest { number, request_id: client.request_id() };
            let what = format!("end maintenance {number}");
            let answer = client
                .call(&what, Kind::Change, message, async |mut to, request| {
                    to.end_maintenance(request).await
                })
                .await?;
            (format!("maintenance {number} is over: its machines take tasks again"), answer.index)
        }
        None if args.which.is_nothing() => {
            let why = "no machine is named: give names, --rack NAME, --label KEY=VALUE or \
                       --maintenance NUMBER";
            return Err(Failure::new(Code::Usage, why));
        }
        None => {
            let machines = args.which.names(client, false).await?;
            let what = several(&machines);
            let message = pb::UndrainMachinesRequest { machines, request_id: client.request_id() };
            let answer = client
                .call(&format!("undrain {what}"), Kind::Change, message, async |mut to, request| {
                    to.undrain_machines(request).await
                })
                .await?;
            (format!("{what}: drained no more"), answer.index)
        }
    };
    if out.is_json() {
        out.json(&serde_json::json!({ "index": index }), false)
    } else {
        out.line(&text)
    }
}

async fn ask(client: &mut Client) -> Result<pb::ListDrainsResponse, Failure> {
    let message = pb::ListDrainsRequest { tasks: TASKS_TOLD };
    client
        .call("drains", Kind::Read, message, async |mut to, request| to.list_drains(request).await)
        .await
}

pub(super) async fn drains(
    client: &mut Client,
    args: DrainsArgs,
    out: Output,
) -> Result<(), Failure> {
    loop {
        let answer = ask(client).await?;
        out.clear()?;
        say_when(client, out, answer.read.as_ref());
        let (read, drains) = (answer.read, Drains::from(answer));
        if out.is_json() {
            out.json(&Read::of(read, &drains), args.watch)?;
        } else {
            show(&drains, out)?;
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn show(drains: &Drains, out: Output) -> Result<(), Failure> {
    if drains.machines.is_empty() && drains.maintenances.is_empty() {
        return out.line("no machine is drained");
    }
    let now = if drains.now_ms > 0 { drains.now_ms } else { clock::now().0 };
    let rows = drains.machines.iter().map(|one| {
        let left = match one.drain.empty_since_ms {
            Some(since) if since <= now => format!("empty for {}", age(now - since)),
            Some(_) => "empty, its last tasks are ending".to_owned(),
            None => one.left(),
        };
        let deadline = match (one.drain.empty_since_ms, one.drain.deadline_ms.checked_sub(now)) {
            (Some(_), _) => "-".to_owned(),
            (None, Some(left)) => format!("in {}", age(left)),
            (None, None) => "over".to_owned(),
        };
        [
            one.name.clone(),
            left,
            one.drain.moved.to_string(),
            one.drain.forced.to_string(),
            deadline,
            one.drain.by.clone(),
            one.drain.reason.clone(),
        ]
    });
    out.table(["machine", "state", "moved", "forced", "deadline", "by", "reason"], rows)?;
    for machine in &drains.machines {
        for one in &machine.leaving {
            out.line(&format!("{} on {} stays for now: {}", one.task, machine.name, one.waits))?;
        }
    }
    for one in &drains.maintenances {
        out.line(&one.summary())?;
    }
    Ok(())
}

/// What was said last of each machine, in a pipe; a line that moves on a terminal.
struct Progress {
    bar: Option<ProgressBar>,
    told: BTreeMap<String, String>,
    out: Output,
}

impl Progress {
    fn new(out: Output) -> Self {
        let bar = out.is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} machines {wide_msg}");
            bar.set_style(style.expect("the template is well-formed"));
            bar
        });
        Self { bar, told: BTreeMap::new(), out }
    }

    /// Tells what is new of a machine.
    fn tell(&mut self, machine: &str, text: String) -> Result<(), Failure> {
        if self.told.get(machine) == Some(&text) {
            return Ok(());
        }
        let line = format!("{machine}: {text}");
        self.told.insert(machine.to_owned(), text);
        match &self.bar {
            Some(bar) => {
                bar.set_message(line);
                Ok(())
            }
            None => self.out.line(&line),
        }
    }

    fn count(&self, done: usize, all: usize) {
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        }
    }
}

/// What is followed.
#[derive(Debug)]
enum Watched {
    /// Until all of these machines are empty, or were once.
    Emptied { wanted: BTreeSet<String>, empty: BTreeSet<String> },
    /// Until the maintenance of these machines is over, of which so many have not had their turn.
    Maintained { wanted: BTreeSet<String>, number: Option<u64>, left: u32 },
}

impl Watched {
    fn wanted(&self) -> &BTreeSet<String> {
        match self {
            Self::Emptied { wanted, .. } | Self::Maintained { wanted, .. } => wanted,
        }
    }

    /// Takes in how it is now. Gives of how many machines all is done, and whether it is of all.
    ///
    /// # Errors
    /// When somebody ended it before it was done.
    fn look(&mut self, drains: &Drains, now: u64) -> Result<(u32, bool), Failure> {
        let is_empty =
            |one: &&DrainedMachine| one.drain.empty_since_ms.is_some_and(|since| since <= now);
        let ended = |text: String| Err(Failure::new(Code::JobFailed, text));
        match self {
            Self::Emptied { wanted, empty } => {
                let ours = drains.machines.iter().filter(|one| wanted.contains(&one.name));
                empty.extend(ours.clone().filter(is_empty).map(|one| one.name.clone()));
                let there: BTreeSet<&String> = ours.map(|one| &one.name).collect();
                let lost = |name: &&String| !there.contains(*name) && !empty.contains(*name);
                let lost: Vec<&str> = wanted.iter().filter(lost).map(String::as_str).collect();
                if !lost.is_empty() {
                    let lost = lost.join(", ");
                    return ended(format!("{lost}: drained no more, and was not seen empty"));
                }
                Ok((counted(empty.len()), empty.len() == wanted.len()))
            }
            Self::Maintained { wanted, number, left } => {
                let ours = drains.machines.iter().filter(|one| wanted.contains(&one.name));
                *number = number.or_else(|| ours.filter_map(|one| one.drain.maintenance).max());
                let is_it = |one: &&Maintenance| Some(one.number) == *number;
                if let Some(found) = drains.maintenances.iter().find(is_it) {
                    *left = found.left;
                    return Ok((found.done, false));
                }
                if *left > 0 {
                    return ended(format!("the maintenance is over, {left} machines had no turn"));
                }
                Ok((counted(wanted.len()), true))
            }
        }
    }
}

fn counted(machines: usize) -> u32 {
    u32::try_from(machines).unwrap_or(u32::MAX)
}

/// Until it is done, from this entry on.
async fn follow(
    client: &mut Client,
    mut watched: Watched,
    since: u64,
    out: Output,
) -> Result<(), Failure> {
    let mut progress = Progress::new(out);
    loop {
        let answer = ask(client).await?;
        // A master that is behind has not heard of it.
        let is_new = answer.read.as_ref().is_some_and(|read| read.index >= since);
        if is_new && look(&mut watched, answer, &mut progress)? {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    if let Some(bar) = &progress.bar {
        bar.finish_and_clear();
    }
    if out.is_json() {
        return Ok(());
    }
    let names: Vec<String> = watched.wanted().iter().cloned().collect();
    let what = several(&names);
    match watched {
        Watched::Maintained { .. } => out.line(&format!("{what}: done")),
        Watched::Emptied { .. } => {
            out.line(&format!("{what}: empty"))?;
            note("no task comes to them until: borgctl undrain");
            Ok(())
        }
    }
}

/// Shows how it is; says whether it is done.
fn look(
    watched: &mut Watched,
    answer: pb::ListDrainsResponse,
    progress: &mut Progress,
) -> Result<bool, Failure> {
    let (now, drains) = (answer.now_ms, Drains::from(answer));
    if progress.out.is_json() {
        progress.out.json(&drains, true)?;
    } else {
        for one in drains.machines.iter().filter(|one| watched.wanted().contains(&one.name)) {
            progress.tell(&one.name, one.progress(now))?;
        }
    }
    let (done, is_all) = watched.look(&drains, now)?;
    progress.count(done as usize, watched.wanted().len());
    Ok(is_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str, empty_since_ms: Option<u64>, maintenance: u64) -> pb::DrainedMachine {
        let drain = pb::Drain { empty_since_ms, maintenance, ..pb::Drain::default() };
        pb::DrainedMachine { name: name.into(), drain: Some(drain), ..Default::default() }
    }

    fn look(
        watched: &mut Watched,
        machines: Vec<pb::DrainedMachine>,
        maintenance: Option<(u32, u32)>,
    ) -> Result<(u32, bool), String> {
        let told = |(left, done)| pb::Maintenance { number: 7, left, done, ..Default::default() };
        let maintenances = maintenance.map(told).into_iter().collect();
        let drains = pb::ListDrainsResponse { machines, maintenances, ..Default::default() };
        watched.look(&drains.into(), 100).map_err(|failure| {
            assert_eq!(failure.code, Code::JobFailed);
            failure.text
        })
    }

    fn names() -> BTreeSet<String> {
        ["m-1", "m-2"].map(str::to_owned).into()
    }

    #[test]
    fn machines_are_empty_that_were_seen_so_and_others_that_are_gone_are_lost() {
        let mut watched = Watched::Emptied { wanted: names(), empty: BTreeSet::new() };
        let (first, busy) = (machine("m-1", Some(50), 0), machine("m-2", None, 0));
        let other = machine("m-9", Some(50), 0);
        assert_eq!(look(&mut watched, vec![first, busy.clone(), other], None), Ok((1, false)));
        // Somebody needed it again.
        assert_eq!(look(&mut watched, vec![busy], None), Ok((1, false)));
        let ending = machine("m-2", Some(101), 0);
        assert_eq!(look(&mut watched, vec![ending], None), Ok((1, false)));
        let lost = look(&mut watched, vec![], None).unwrap_err();
        assert_eq!(lost, "m-2: drained no more, and was not seen empty");
        assert_eq!(look(&mut watched, vec![machine("m-2", Some(100), 0)], None), Ok((2, true)));
    }

    #[test]
    fn a_maintenance_is_done_when_all_had_their_turn_and_else_somebody_ended_it() {
        let begun = || Watched::Maintained { wanted: names(), number: None, left: 2 };
        let mut watched = begun();
        let first = machine("m-1", None, 7);
        assert_eq!(look(&mut watched, vec![first.clone()], Some((1, 0))), Ok((0, false)));
        assert_eq!(look(&mut watched, vec![machine("m-2", None, 7)], Some((0, 1))), Ok((1, false)));
        assert_eq!(look(&mut watched, vec![], None), Ok((2, true)));
        let mut watched = begun();
        assert_eq!(look(&mut watched, vec![first], Some((1, 0))), Ok((0, false)));
        let ended = look(&mut watched, vec![], None).unwrap_err();
        assert_eq!(ended, "the maintenance is over, 1 machines had no turn");
    }

    #[test]
    fn a_batch_is_at_least_one_machine_and_not_more_than_all() {
        assert_eq!((batch("3"), batch("100%")), (Ok(Share::Tasks(3)), Ok(Share::Percent(100))));
        for (bad, why) in
            [("0", "1% to 100%"), ("0%", "1% to 100%"), ("200%", "1% to 100%"), ("x", "as in 3")]
        {
            assert!(batch(bad).unwrap_err().contains(why), "{bad}");
        }
    }

    #[test]
    fn a_deadline_of_nothing_has_another_word_and_bounds_are_told_as_times() {
        assert_eq!(deadline("1h"), Ok(Millis(3_600_000)));
        assert!(deadline("0s").unwrap_err().contains("--now"));
        assert!(deadline("999999999h").unwrap_err().ends_with("is outside 0s to 30days"));
    }
}
