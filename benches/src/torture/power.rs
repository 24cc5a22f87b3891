//! Power cuts: the disks of one to five masters go back to what they had at one moment.
//!
//! Each master has a [`Disk`] of its own. At a random moment some of them are stopped together,
//! their disks are copied, they die, and they start again on the copies, while clients go on and
//! note what is acknowledged. Then every acknowledged change must be there.
//!
//! [`plain_sled`] shows that this can fail: with all syncs turned into nothing, the same cuts lose
//! acknowledged changes; and the disk itself is asked whether it forgets what nobody synced.

use super::books::Books;
use super::cell::{Cell, MASTERS, Plan};
use super::clients::{Clients, Pace};
use super::daemon::Daemon;
use super::disk::Disk;
use super::faults::{Faults, Wrong};
use super::reached::Reached;
use super::{Run, Says};
use crate::{Error, clock};
use borg_sim::dice::Dice;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

/// Cuts that one cell lives through: then a fresh one, so that a long run stays fast.
const PER_CELL: u32 = 100;
/// How long the masters may take to work together after a cut.
const RECOVERY: Duration = Duration::from_secs(30);
/// Milliseconds that the cell works before a cut.
const WORK_MS: (u64, u64) = (20, 400);
/// Changes that must be acknowledged before a cell without syncs loses power.
const AT_STAKE: u64 = 150;
/// Four clients, as fast as a small computer lets them.
const PACE: Pace = Pace { clients: 4, rest: Duration::from_millis(4), prefix: 't', ballast: 0 };
/// A cell whose masters have disks of their own.
struct Rig {
    // Before the disks: daemons have to be gone when those are unmounted.
    cell: Cell,
    disks: Vec<Disk>,
}

impl Rig {
    fn make(
        run: &Run,
        name: &str,
        store: &str,
        faults: Option<&Unsynced>,
        says: &mut Says,
    ) -> Result<Self, Error> {
        let work = &run.work;
        let mut plan = Plan::new(work, name, MASTERS, 7_001, store);
        let disks = work.join(name).join("disks");
        fs::create_dir_all(&disks)?;
        let disks: Vec<Disk> = (1..=MASTERS)
            .map(|n| Disk::make(&disks, &format!("disk-{n}")))
            .collect::<Result<_, _>>()?;
        plan.data = disks.iter().map(|disk| disk.at().join("data")).collect();
        let mut cell = Cell::make(plan)?;
        says.logs_are_in(cell.logs());
        for (disk, master) in disks.iter().zip(&mut cell.masters) {
            if let Some(faults) = faults {
                master.under = faults.command(disk.at());
            }
        }
        cell.start_masters()?;
        Ok(Self { cell, disks })
    }

    /// Cuts the power of some masters, and gives it back.
    fn cut(&mut self, victims: &[usize]) -> Result<(), Error> {
        let masters = &mut self.cell.masters;
        for &victim in victims {
            masters[victim].stop()?;
        }
        let mut copies = Vec::new();
        for &victim in victims {
            copies.push((victim, self.disks[victim].copy()?));
        }
        for &victim in victims {
            masters[victim].kill()?;
        }
        for (victim, copy) in copies {
            self.disks[victim].replace(copy)?;
            masters[victim].start()?;
        }
        Ok(())
    }
}

fn choose(dice: &mut Dice, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..MASTERS).collect();
    while all.len() > count {
        all.remove(dice.index(all.len()));
    }
    all
}

/// Nothing acknowledged is lost, whoever loses power: `count` cuts, half of them on each store
/// unless one is named.
///
/// # Errors
/// What was lost, or what does not work any more.
pub fn cuts(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    let stores: &[&str] = match run.store.as_deref() {
        Some("sled") => &["sled"],
        Some(_) => &["redb"],
        None => &["redb", "sled"],
    };
    let per_cell = PER_CELL.min(run.count.div_ceil(u32::try_from(stores.len())?));
    let mut done = 0;
    for (round, store) in stores.iter().cycle().enumerate() {
        if done >= run.count {
            break;
        }
        let name = format!("power-{round}");
        let mut rig = Rig::make(run, &name, store, None, says)?;
        let books = Books::default();
        let clients = Clients::start(&rig.cell, &books, dice.roll(), PACE)?;
        let mut sizes: Vec<usize> = (1..=MASTERS).collect();
        for _ in 0..per_cell.min(run.count - done) {
            let rest = dice.between(WORK_MS.0, WORK_MS.1);
            std::thread::sleep(Duration::from_millis(rest));
            // Each once, then quorums more often than the rest: there is most to lose.
            let many = match sizes.len() {
                0 => [1, 2, 3, 3, 4, 5, 5][dice.index(7)],
                left => sizes.swap_remove(dice.index(left)),
            };
            let victims = choose(&mut dice, many);
            let at_least: Vec<u64> =
                (0..MASTERS).map(|i| rig.cell.applied(i).unwrap_or(0)).collect();
            rig.cut(&victims)?;
            rig.cell.until_all_serve(RECOVERY)?;
            // A master applies only what is on its own disk.
            for (i, least) in at_least.iter().enumerate() {
                let now = rig.cell.applied(i)?;
                if now < *least {
                    let name = &rig.cell.masters[i].name;
                    return Err(format!("{name} had applied {least}, and now {now}").into());
                }
            }
            rig.cell.check(&books, dice.index(MASTERS), true)?;
            for &victim in &victims {
                rig.cell.check(&books, victim, false)?;
            }
            done += 1;
            reached.one(format!("{store}: {many} cut"));
            let acknowledged = books.acknowledged();
            says.progress(&format!(
                "cut {done}/{}, {store}, {acknowledged} acknowledged",
                run.count
            ));
        }
        says.slowest(clients.slowest_ms());
        clients.finish(&rig.cell);
        rig.cell.check_calm(&books)?;
        rig.cell.check_equal_states()?;
        rig.cell.check_logs()?;
        must_not_have_been_refused(&rig.cell)?;
        if books.acknowledged() < u64::from(per_cell) {
            return Err("fewer changes than cuts: that proves little".into());
        }
    }
    let wanted: Vec<String> = stores
        .iter()
        .flat_map(|store| (1..=MASTERS).map(move |many| format!("{store}: {many} cut")))
        .collect();
    reached.all_of(&wanted)?;
    Ok(reached)
}

/// A power cut damages nothing that was synced: no log may have been put aside or refused.
fn must_not_have_been_refused(cell: &Cell) -> Result<(), Error> {
    for master in &cell.masters {
        let said = master.said();
        let suspect = |line: &&str| line.contains("ERROR") || line.contains("quarantine");
        if let Some(line) = said.lines().find(suspect) {
            return Err(format!("{} after a power cut: {line}", master.name).into());
        }
    }
    Ok(())
}

/// Which syncs say that they are done, and are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lies {
    /// All of redb's and of ours.
    Redb,
    /// All: sled as it is, with nothing of ours around it.
    Sled,
    /// Those of sled's own file; the watermark is synced as ever.
    SledOnly,
}

impl Lies {
    const ALL: [Self; 3] = [Self::Redb, Self::Sled, Self::SledOnly];

    fn name(self) -> &'static str {
        match self {
            Self::Redb => "redb unsynced",
            Self::Sled => "sled unsynced",
            Self::SledOnly => "sled's own file unsynced",
        }
    }

    fn store(self) -> &'static str {
        match self {
            Self::Redb => "redb",
            Self::Sled | Self::SledOnly => "sled",
        }
    }
}

/// Daemons whose syncs lie.
struct Unsynced {
    faults: Faults,
    lies: Lies,
}

impl Unsynced {
    fn command(&self, disk: &Path) -> Vec<String> {
        let under = match self.lies {
            Lies::Redb | Lies::Sled => disk.to_owned(),
            Lies::SledOnly => disk.join("data/log/log.sled"),
        };
        self.faults.command(Wrong::SyncsLie, &under, &disk.join("calls"))
    }
}

/// What the cut of a cell without syncs came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    /// Acknowledged changes were gone, and the masters went on as if nothing had been.
    Silent,
    /// Masters found that their logs lack what they acknowledged.
    Noticed,
    /// The kernel had written enough back by itself.
    None,
}

impl Loss {
    fn name(self) -> &'static str {
        match self {
            Self::Silent => "lost in silence",
            Self::Noticed => "loss noticed",
            Self::None => "nothing lost",
        }
    }
}

/// Proof that [`cuts`] can fail: without syncs, all five masters lose acknowledged changes when they
/// lose power. Three kinds, `count` cells of each. Where the watermark is synced and only sled is
/// not, as sled is without our sync, the watermark has to tell.
///
/// # Errors
/// When nothing is lost: then the cuts prove nothing. When a watermark did not help.
pub fn plain_sled(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    forgets_what_is_not_synced(&run.work)?;
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    for round in 1..=run.count {
        for lies in Lies::ALL {
            let unsynced = Unsynced { faults: Faults::make(&run.work)?, lies };
            let name = format!("plain-{round}-{lies:?}").to_lowercase();
            let loss = lose(run, &name, &unsynced, &mut dice, says)?;
            if (lies, loss) == (Lies::SledOnly, Loss::Silent) {
                return Err("sled lost acknowledged changes, and the watermark did not tell".into());
            }
            let outcome = format!("{}: {}", lies.name(), loss.name());
            says.progress(&format!("round {round}/{}: {outcome}", run.count));
            reached.one(outcome);
            reached.one(format!(
                "{}: {}",
                lies.name(),
                if loss == Loss::None { "kept" } else { "lost" }
            ));
        }
    }
    reached.all_of(&Lies::ALL.map(|lies| format!("{}: lost", lies.name())))?;
    reached
        .all_of(&["redb unsynced: lost in silence", "sled's own file unsynced: loss noticed"])?;
    Ok(reached)
}

fn lose(
    run: &Run,
    name: &str,
    unsynced: &Unsynced,
    dice: &mut Dice,
    says: &mut Says,
) -> Result<Loss, Error> {
    let mut rig = Rig::make(run, name, unsynced.lies.store(), Some(unsynced), says)?;
    // The creation of the logs may reach the disks; the changes after it are at stake.
    for disk in &rig.disks {
        super::apart::run("sync", &["-f", &disk.at().display().to_string()])?;
    }
    let books = Books::default();
    // Large changes: sled's file has to grow, as what is written into a part that it has already
    // needs no sync on a disk that keeps what it is given.
    let large = Pace { ballast: 8 << 10, rest: Duration::ZERO, ..PACE };
    let clients = Clients::start(&rig.cell, &books, dice.roll(), large)?;
    let began = clock::now();
    while books.acknowledged() < AT_STAKE {
        if began.elapsed() > RECOVERY {
            return Err(format!("only {} changes in {RECOVERY:?}", books.acknowledged()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    clients.finish(&rig.cell);
    rig.cell.check(&books, 0, true)?;
    for (disk, master) in rig.disks.iter().zip(&mut rig.cell.masters) {
        if Faults::calls(&disk.at().join("calls"))?.injected == 0 {
            return Err(format!("no sync of {} lied", master.name).into());
        }
        master.under.clear();
    }
    rig.cut(&[0, 1, 2, 3, 4])?;
    if let Err(error) = rig.cell.until_all_serve(Duration::from_secs(10)) {
        let noticed = |master: &Daemon| {
            let said = master.said_last();
            said.contains("the log in ") || said.contains("quarantine")
        };
        if rig.cell.masters.iter().any(noticed) {
            return Ok(Loss::Noticed);
        }
        return Err(error);
    }
    match rig.cell.check(&books, 0, true) {
        Ok(()) => Ok(Loss::None),
        Err(error) if error.to_string().contains("lost") => Ok(Loss::Silent),
        Err(error) => Err(error),
    }
}

/// The method itself: what was synced is on a copy, what was only written is not.
fn forgets_what_is_not_synced(work: &Path) -> Result<(), Error> {
    let mut disk = Disk::make(work, "method")?;
    for name in ["synced", "written"] {
        let mut file = File::create(disk.at().join(name))?;
        file.write_all(name.as_bytes())?;
        if name == "synced" {
            file.sync_all()?;
            File::open(disk.at())?.sync_all()?;
        }
    }
    let copy = disk.copy()?;
    disk.replace(copy)?;
    let read = |name: &str| fs::read_to_string(disk.at().join(name)).unwrap_or_default();
    if read("synced") != "synced" {
        return Err("a copied disk has lost what was synced".into());
    }
    if read("written") == "written" {
        // Possible, if the kernel happened to commit in between: every 5 s.
        return Err(
            "a copied disk has what nobody synced; again, and see whether that repeats".into()
        );
    }
    Ok(())
}
