//! Files of a master that are not what it wrote.
//!
//! One or two masters die; in each, one file gets a flipped bit, a zeroed sector, a shorter end, no
//! content, or is gone; they start again with the arguments that they had, while clients go on. It
//! is harmless, or the master finds it, says so and repairs itself by rejoining: within ten seconds
//! all five work, and nothing is lost. With the logs of all five damaged, nobody may go on as if
//! nothing had been, and each has to say what to do.

use super::apart::run as program;
use super::books::Books;
use super::cell::{Cell, MASTERS, Plan};
use super::clients::{Clients, Pace};
use super::reached::Reached;
use super::{Run, Says};
use crate::{Error, clock};
use borg_sim::dice::Dice;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a master may take from its start until it works again with the others.
const REPAIR: Duration = Duration::from_secs(10);
/// How long masters without a log are watched doing nothing.
const HALTED: Duration = Duration::from_secs(3);
/// How long everything else may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Two clients, so that the masters have something to catch up with.
const PACE: Pace = Pace { clients: 2, rest: Duration::from_millis(10), prefix: 't', ballast: 0 };

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Bit,
    Sector,
    Tail,
    Empty,
    Gone,
}

impl Damage {
    const ALL: [Self; 5] = [Self::Bit, Self::Sector, Self::Tail, Self::Empty, Self::Gone];

    fn name(self) -> &'static str {
        match self {
            Self::Bit => "bit flipped",
            Self::Sector => "sector zeroed",
            Self::Tail => "tail cut",
            Self::Empty => "emptied",
            Self::Gone => "deleted",
        }
    }

    fn befall(self, path: &Path, dice: &mut Dice) -> Result<(), Error> {
        let length = fs::metadata(path)?.len();
        match self {
            Self::Gone => return Ok(fs::remove_file(path)?),
            Self::Empty => return Ok(File::options().write(true).open(path)?.set_len(0)?),
            Self::Bit | Self::Sector | Self::Tail if length == 0 => return Ok(()),
            Self::Bit | Self::Sector | Self::Tail => {}
        }
        let mut file = File::options().read(true).write(true).open(path)?;
        match self {
            Self::Bit => {
                let at = SeekFrom::Start(dice.below(length));
                let mut byte = [0];
                file.seek(at)?;
                file.read_exact(&mut byte)?;
                file.seek(at)?;
                file.write_all(&[byte[0] ^ (1 << dice.below(8))])?;
            }
            Self::Sector => {
                let at = dice.below(length.div_ceil(512)) * 512;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&vec![0; usize::try_from((length - at).min(512))?])?;
            }
            Self::Tail => file.set_len(length - dice.between(1, length.min(8_192)))?,
            Self::Empty | Self::Gone => {}
        }
        Ok(())
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It worked as before, and said nothing.
    Harmless,
    /// It found the damage and put it right.
    Repaired,
}

/// `count` times, one or two masters; and every tenth time all five.
///
/// # Errors
/// What was lost, not found, or not repaired in time.
pub fn damage(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    let stores: &[&str] = match run.store.as_deref() {
        Some("sled") => &["sled"],
        Some(_) => &["redb"],
        None => &["redb", "sled"],
    };
    let each = run.count.div_ceil(u32::try_from(stores.len())?);
    for store in stores {
        let mut rig = Rig::make(run, store, says)?;
        let clients = Clients::start(&rig.cell, &rig.books, dice.roll(), PACE)?;
        // Every kind of file has to be there.
        let began = clock::now();
        while !rig.kinds(0)?.iter().any(|kind| kind.contains("checkpoint")) {
            if began.elapsed() > PATIENCE {
                return Err("no checkpoint was written".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut tried = Vec::new();
        for n in 0..each {
            if n % 10 == 9 {
                rig.all_five(&mut dice)?;
                reached.one("all five damaged");
            }
            // What has been tried least, of the files that are there just now.
            let kinds = rig.kinds(0)?;
            let (kind, damage) = kinds
                .iter()
                .flat_map(|kind| Damage::ALL.map(|damage| (kind.clone(), damage)))
                .min_by_key(|(kind, damage)| {
                    let times = |fits: &dyn Fn(&(String, Damage)) -> bool| {
                        tried.iter().filter(|pair| fits(pair)).count()
                    };
                    (
                        times(&|pair| pair.0 == *kind && pair.1 == *damage),
                        times(&|pair| pair.0 == *kind),
                        times(&|pair| pair.1 == *damage),
                    )
                })
                .ok_or("a master without files")?;
            tried.push((kind.clone(), damage));
            let many = 1 + dice.index(2);
            let outcome = rig
                .some(&kind, damage, many, &mut dice)
                .map_err(|error| format!("{store}, {kind} of {many} {}: {error}", damage.name()))?;
            reached.one(damage.name());
            reached.one(format!("{store} {kind}: {outcome:?}"));
            says.progress(&format!(
                "{store} {}/{each}: {kind} of {many} {}: {outcome:?}",
                n + 1,
                damage.name()
            ));
        }
        says.slowest(clients.slowest_ms());
        says.note(&format!("{store}: longest repair {:.1} s", rig.longest.as_secs_f64()));
        clients.finish(&rig.cell);
        rig.cell.check_calm(&rig.books)?;
        rig.cell.check_equal_states()?;
        rig.cell.check_logs()?;
        // One engine keeps its entries in a file, the other in a directory.
        let entries = if *store == "sled" { "log/log.sled/db" } else { "log/log.redb" };
        reached.all_of(&[
            format!("{store} {entries}: Repaired"),
            format!("{store} log/watermark: Repaired"),
        ])?;
    }
    reached.all_of(&Damage::ALL.map(Damage::name))?;
    Ok(reached)
}

struct Rig {
    cell: Cell,
    books: Books,
    data: Vec<PathBuf>,
    saved: PathBuf,
    longest: Duration,
}

impl Rig {
    fn make(run: &Run, store: &str, says: &mut Says) -> Result<Self, Error> {
        let name = format!("damage-{store}");
        let mut plan = Plan::new(&run.work, &name, MASTERS, 7_001, store);
        plan.checkpoint_every = 100;
        let data = plan.data.clone();
        let mut cell = Cell::make(plan)?;
        says.logs_are_in(cell.logs());
        cell.start_masters()?;
        let saved = run.work.join(format!("{name}-saved"));
        Ok(Self { cell, books: Books::default(), data, saved, longest: Duration::ZERO })
    }

    /// Files of a master by what they are for: names without their numbers.
    fn kinds(&self, master: usize) -> Result<Vec<String>, Error> {
        let mut kinds: Vec<String> = files(&self.data[master])?
            .iter()
            .map(|path| kind_of(&self.data[master], path))
            .collect();
        kinds.sort();
        kinds.dedup();
        Ok(kinds)
    }

    /// One or two masters.
    fn some(
        &mut self,
        kind: &str,
        damage: Damage,
        many: usize,
        dice: &mut Dice,
    ) -> Result<Outcome, Error> {
        let first = dice.index(MASTERS);
        let victims: Vec<usize> = (0..many).map(|n| (first + n) % MASTERS).collect();
        for &victim in &victims {
            self.cell.masters[victim].kill()?;
            let all = files(&self.data[victim])?;
            let fitting: Vec<&PathBuf> =
                all.iter().filter(|path| kind_of(&self.data[victim], path) == kind).collect();
            // A file that comes and goes may not be there just now.
            if !fitting.is_empty() {
                let file = *dice.pick::<&PathBuf>(&fitting);
                damage.befall(file, dice)?;
            }
        }
        let began = clock::now();
        for &victim in &victims {
            self.cell.masters[victim].start()?;
        }
        self.cell.until_all_serve(REPAIR)?;
        self.longest = self.longest.max(began.elapsed());
        let mut outcome = Outcome::Harmless;
        for &victim in &victims {
            self.cell.check(&self.books, victim, false)?;
            if says_that_it_repaired(&self.cell.masters[victim].said_last()) {
                outcome = Outcome::Repaired;
            }
        }
        self.cell.check(&self.books, dice.index(MASTERS), true)?;
        Ok(outcome)
    }

    /// The logs of all five: none of them may serve; then they get back what they had.
    fn all_five(&mut self, dice: &mut Dice) -> Result<(), Error> {
        for master in &mut self.cell.masters {
            master.kill()?;
        }
        // Nothing that might do no harm: a watermark ends in padding.
        let damage = *dice.pick(&[Damage::Empty, Damage::Gone]);
        for (n, data) in self.data.iter().enumerate() {
            let saved = self.saved.join(n.to_string());
            fs::create_dir_all(&self.saved)?;
            program("cp", &["-a", &data.display().to_string(), &saved.display().to_string()])?;
            damage.befall(&data.join("log/watermark"), dice)?;
        }
        for master in &mut self.cell.masters {
            master.start()?;
        }
        let began = clock::now();
        while began.elapsed() < HALTED {
            for i in 0..MASTERS {
                if self.cell.masters[i].ended()?.is_none()
                    && self.cell.masters[i].is_started()
                    && let Ok(index) = self.cell.applied(i)
                {
                    return Err(format!(
                        "all five logs {}, and master {} serves entry {index}",
                        damage.name(),
                        i + 1
                    )
                    .into());
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        for (n, data) in self.data.iter().enumerate() {
            let said = self.cell.masters[n].said_last();
            if !says_what_to_do(&said) {
                return Err(format!("master {} does not say what to do: {said}", n + 1).into());
            }
            if self.cell.masters[n].is_started() {
                self.cell.masters[n].kill()?;
            }
            fs::remove_dir_all(data)?;
            let saved = self.saved.join(n.to_string());
            program("mv", &[&saved.display().to_string(), &data.display().to_string()])?;
            self.cell.masters[n].start()?;
        }
        self.cell.until_all_serve(PATIENCE)?;
        self.cell.check(&self.books, dice.index(MASTERS), true)
    }
}

/// A damaged log was put aside, or none was found, and the master joined again.
fn says_that_it_repaired(said: &str) -> bool {
    said.contains("taken in by the cell without a log")
}

/// Where the operator finds a way out.
fn says_what_to_do(said: &str) -> bool {
    said.contains("borgctl backup restore")
}

fn kind_of(data: &Path, path: &Path) -> String {
    let name = path.strip_prefix(data).unwrap_or(path).display().to_string();
    let name: String = name
        .split(['-', '.'])
        .filter(|part| !part.chars().all(|c| c.is_ascii_hexdigit()))
        .collect::<Vec<_>>()
        .join(".");
    name
}

/// All files of a data directory that matter: not those that were put aside.
fn files(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if !entry.file_name().to_string_lossy().starts_with("quarantine") {
                found.extend(files(&path)?);
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
