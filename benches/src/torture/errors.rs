//! The n-th open, write, sync or rename of a master's files fails.
//!
//! One master alone is the whole cell, so that nobody makes up for it. It makes its log, or starts
//! on an old one, or works, and one call for its files fails. It has to refuse or to end with a
//! word about it, without a panic; or it goes on, where the call was not needed. Then the power is
//! cut: its disk goes back to what was synced, and on that it has to start and to have everything
//! that it acknowledged.

use super::books::Books;
use super::cell::{Cell, Plan};
use super::clients::{Clients, Pace};
use super::disk::Disk;
use super::faults::{Call, Calls, Faults, Wrong};
use super::reached::Reached;
use super::{Run, Says};
use crate::{Error, clock};
use borg_sim::dice::Dice;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Changes during which calls fail, in the stage that works.
const OPERATIONS: u64 = 1_000;
/// How long a master may take to come up, or those changes to be made.
const PATIENCE: Duration = Duration::from_secs(60);
/// Few entries between two checkpoints, so that the changes make several.
const CHECKPOINT_EVERY: u64 = 200;
/// As fast as they can.
const PACE: Pace = Pace { clients: 4, rest: Duration::ZERO, prefix: 't', ballast: 0 };
/// Errors of a disk, and their names.
const ERRORS: [(&str, i32); 2] = [("EIO", 5), ("ENOSPC", 28)];

/// What the master does when the call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// Makes its log.
    New,
    /// Starts on the log of an earlier process.
    Again,
    /// Works.
    Works,
}

impl Stage {
    const ALL: [Self; 3] = [Self::New, Self::Again, Self::Works];

    fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Again => "again",
            Self::Works => "works",
        }
    }
}

/// One failure.
#[derive(Debug, Clone, Copy)]
struct Case {
    stage: Stage,
    call: Call,
    at: u64,
    error: (&'static str, i32),
}

/// `count` failures of all that there could be, all of them if there are fewer; half of them on each
/// store unless one is named.
///
/// # Errors
/// What was lost, or a master that did not do what it should.
pub fn errors(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    let faults = Faults::make(&run.work)?;
    let stores: &[&str] = match run.store.as_deref() {
        Some("sled") => &["sled"],
        Some(_) => &["redb"],
        None => &["redb", "sled"],
    };
    let each = run.count.div_ceil(u32::try_from(stores.len())?);
    for store in stores {
        let mut bench = Bench { run, faults: &faults, store, number: 0, dice: dice.clone() };
        let mut cases = Vec::new();
        for stage in Stage::ALL {
            let calls = bench.count(stage, says)?;
            let all: Vec<u64> = Call::ALL.iter().map(|call| calls.of(*call)).collect();
            says.note(&format!(
                "{store}, {}: open, write, sync, rename {all:?} times",
                stage.name()
            ));
            for call in Call::ALL {
                let case = |at| Case { stage, call, at, error: *dice.pick(&ERRORS) };
                cases.extend((1..=calls.of(call)).map(case));
            }
        }
        let chosen = choose(&mut dice, cases, usize::try_from(each)?);
        let all = chosen.len();
        for (n, case) in chosen.into_iter().enumerate() {
            let outcome = bench.one(case, says).map_err(|error| {
                let Case { stage, call, at, error: (code, _) } = case;
                format!("{store}, {}, {code} from {} {at}: {error}", stage.name(), call.name())
            })?;
            reached.one(format!("{store} {}: {outcome}", case.call.name()));
            reached.one(format!("{store} {}: {outcome}", case.stage.name()));
            says.progress(&format!("{store}: {}/{all} {case:?}: {outcome}", n + 1));
        }
    }
    // Each kind of call has to have been needed at least once. (Not each one is: an engine syncs when
    // it is closed, for one, and the log that it made is synced again.)
    let wanted: Vec<String> = stores
        .iter()
        .flat_map(|store| Call::ALL.map(|call| format!("{store} {}: ended", call.name())))
        .collect();
    reached.all_of(&wanted)?;
    Ok(reached)
}

/// So many of the cases, from each stage and kind of call about as many.
fn choose(dice: &mut Dice, cases: Vec<Case>, count: usize) -> Vec<Case> {
    let mut kinds: Vec<Vec<Case>> = Vec::new();
    for case in cases {
        let kind = |kind: &&mut Vec<Case>| (kind[0].stage, kind[0].call) == (case.stage, case.call);
        match kinds.iter_mut().find(kind) {
            Some(kind) => kind.push(case),
            None => kinds.push(vec![case]),
        }
    }
    let mut chosen = Vec::new();
    while chosen.len() < count && !kinds.is_empty() {
        for kind in &mut kinds {
            if chosen.len() < count {
                chosen.push(kind.swap_remove(dice.index(kind.len())));
            }
        }
        kinds.retain(|kind| !kind.is_empty());
    }
    chosen
}

/// What a failure came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It ended, and said why.
    Ended,
    /// It could do without.
    WentOn,
    /// It did not come to this call.
    NotMet,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ended => "ended",
            Self::WentOn => "went on",
            Self::NotMet => "not met",
        })
    }
}

/// Where failures are tried.
struct Bench<'a> {
    run: &'a Run,
    faults: &'a Faults,
    store: &'a str,
    number: u32,
    dice: Dice,
}

/// One cell of one master on a disk of its own.
struct Rig {
    cell: Cell,
    disk: Disk,
    report: PathBuf,
    dir: PathBuf,
    /// How often clients came to work.
    shifts: u32,
}

impl Rig {
    /// Takes it down and frees its memory.
    fn down(self) -> Result<(), Error> {
        let Self { cell, disk, dir, .. } = self;
        drop(cell);
        disk.remove()?;
        Ok(fs::remove_dir_all(dir)?)
    }

    /// Works until so many changes are acknowledged, or the master has ended.
    fn work(&mut self, books: &Books, seed: u64, changes: u64) -> Result<(), Error> {
        // Other users each time: the names and request ids of the last ones are used up.
        self.shifts += 1;
        let pace = Pace { prefix: if self.shifts == 1 { 't' } else { 'u' }, ..PACE };
        let clients = Clients::start(&self.cell, books, seed, pace)?;
        let began = clock::now();
        while books.acknowledged() < changes && self.cell.masters[0].ended()?.is_none() {
            if began.elapsed() > PATIENCE {
                let done = books.acknowledged();
                let tail = self.cell.masters[0].tail();
                return Err(format!("only {done} changes in {PATIENCE:?}\n{tail}").into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        clients.abort(&self.cell);
        Ok(())
    }

    /// Waits until it serves or has ended.
    fn until_up_or_ended(&mut self) -> Result<bool, Error> {
        let began = clock::now();
        loop {
            if self.cell.masters[0].ended()?.is_some() || !self.cell.masters[0].is_started() {
                return Ok(false);
            }
            if self.cell.applied(0).is_ok() {
                return Ok(true);
            }
            if began.elapsed() > PATIENCE {
                let tail = self.cell.masters[0].tail();
                return Err(format!("neither serves nor ends\n{tail}").into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Bench<'_> {
    fn rig(&mut self, says: &mut Says) -> Result<Rig, Error> {
        self.number += 1;
        let name = format!("errors-{}-{}", self.store, self.number);
        let mut plan = Plan::new(&self.run.work, &name, 1, 7_001, self.store);
        plan.checkpoint_every = CHECKPOINT_EVERY;
        let dir = self.run.work.join(&name);
        fs::create_dir_all(&dir)?;
        let disk = Disk::make(&dir, "disk")?;
        plan.data = vec![disk.at().join("data")];
        let cell = Cell::make(plan)?;
        says.logs_are_in(cell.logs());
        Ok(Rig { cell, disk, report: dir.join("calls"), dir, shifts: 0 })
    }

    fn start(&self, rig: &mut Rig, wrong: Wrong) -> Result<(), Error> {
        if rig.report.exists() {
            fs::remove_file(&rig.report)?;
        }
        let under = self.faults.command(wrong, rig.disk.at(), &rig.report);
        rig.cell.masters[0].start_under(&under)
    }

    /// Prepares a stage and starts the master in it; what was acknowledged before is in the books.
    fn enter(
        &mut self,
        rig: &mut Rig,
        stage: Stage,
        wrong: Wrong,
        books: &Books,
    ) -> Result<(), Error> {
        match stage {
            Stage::New => {}
            Stage::Again => {
                rig.cell.start_masters()?;
                rig.work(books, self.dice.roll(), CHECKPOINT_EVERY * 2)?;
                rig.cell.masters[0].must_run()?;
                rig.cell.masters[0].kill()?;
            }
            // Later than what makes and opens the log: that is for the other stages.
            Stage::Works => {}
        }
        self.start(rig, wrong)
    }

    /// How many calls a stage makes when none fails.
    fn count(&mut self, stage: Stage, says: &mut Says) -> Result<Calls, Error> {
        let mut rig = self.rig(says)?;
        let books = Books::default();
        self.enter(&mut rig, stage, Wrong::Nothing, &books)?;
        if !rig.until_up_or_ended()? {
            return Err(format!("it ended by itself\n{}", rig.cell.masters[0].tail()).into());
        }
        if stage == Stage::Works {
            rig.work(&books, self.dice.roll(), OPERATIONS)?;
        }
        let calls = Faults::calls(&rig.report)?;
        rig.down()?;
        Ok(calls)
    }

    fn one(&mut self, case: Case, says: &mut Says) -> Result<Outcome, Error> {
        let mut rig = self.rig(says)?;
        let books = Books::default();
        let wrong = Wrong::Nth(case.call, case.at, case.error.1);
        self.enter(&mut rig, case.stage, wrong, &books)?;
        let is_up = rig.until_up_or_ended()?;
        if is_up {
            let more = match case.stage {
                Stage::New | Stage::Again => books.acknowledged() + 20,
                Stage::Works => OPERATIONS,
            };
            rig.work(&books, self.dice.roll(), more)?;
        }
        let calls = Faults::calls(&rig.report).unwrap_or_default();
        let ended = !rig.cell.masters[0].is_started();
        if ended {
            let said = rig.cell.masters[0].said_last();
            if said.contains("panicked") || !said.contains("ERROR") {
                return Err(format!("it did not say what is wrong\n{said}").into());
            }
        } else {
            rig.cell.masters[0].stop()?;
        }
        // The power is cut, so that what was only written does not count.
        let copy = rig.disk.copy()?;
        if !ended {
            rig.cell.masters[0].kill()?;
        }
        rig.disk.replace(copy)?;
        // One that never had a log, or lost it before anything was acknowledged, is told so again.
        if case.stage != Stage::Again && !rig.disk.at().join("data/log").exists() {
            if books.acknowledged() > 0 {
                return Err("changes were acknowledged without a log on disk".into());
            }
            let new = std::mem::take(&mut rig.cell.masters[0].first);
            rig.cell.masters[0].args.extend(new);
        }
        rig.cell.masters[0].start()?;
        rig.cell.until_all_serve(Duration::from_secs(20))?;
        rig.cell.check(&books, 0, true)?;
        rig.down()?;
        Ok(match (calls.injected > 0, ended) {
            (true, true) => Outcome::Ended,
            (true, false) => Outcome::WentOn,
            (false, false) => Outcome::NotMet,
            (false, true) => return Err("it ended although nothing failed".into()),
        })
    }
}
