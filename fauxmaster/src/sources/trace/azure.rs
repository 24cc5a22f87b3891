//! Requests of virtual machines: flavours in steps of five minutes, in batches of a tenant, with bins of lifetimes.
//!
//! A batch is as many jobs as it has flavours. The trace has no machines: they are all alike, as many as was chosen.

use super::super::rows::Reading;
use super::super::table::TableError;
use super::super::workload::Runs;
use super::draft::{Asked, Draft, IN_TIME, LATEST};
use super::{Choices, Error};
use borg_proto::{Millis, Resources};
use borg_sim::dice::Dice;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What arrived, and how long it lived, line by line.
const FLAVOURS: &str = "v1.dev.txt";
const LIFETIMES: &str = "v1.dev.c2100000.txt";
/// What a flavour is, and what a bin.
const FLAVOUR_MAP: &str = "flav_map.txt";
const BIN_MAP: &str = "v1.interval_map.txt";
/// Steps of the trace, and of its bins.
const STEP_SECS: u64 = 300;
/// Machines without a choice. At most 44,600 cores are asked for at once; 1,000 machines have 64,000.
const MACHINES: u32 = 1_000;
/// A machine: 64 cores and 512 GiB, as large as four of the largest flavour. Ours, as the trace does not tell.
const CPU_MILLI: u64 = 64_000;
const RAM_BYTES: u64 = 512 << 30;
/// Most virtual machines of a trace. 10 million: our choice, 40 times the public one.
const MOST: usize = 10_000_000;
/// Ends the batch of a tenant.
const END_OF_BATCH: &str = "|";

/// A flavour: thousandths of a core, bytes of memory.
type Flavour = (u64, u64);
/// Seconds that a lifetime in a bin has: from, and before.
type Bin = (u64, u64);

/// How long a virtual machine lived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lived {
    /// It ended after a time in this bin.
    Until(Bin),
    /// It was there at the end of the trace.
    On,
}

pub(super) fn read(folder: &Path, reading: &mut Reading, choices: Choices) -> Result<Draft, Error> {
    let flavours = flavours(&folder.join(FLAVOUR_MAP), reading)?;
    let bins = bins(&folder.join(BIN_MAP), reading)?;
    let lives = lives(&folder.join(LIFETIMES), reading, &bins)?;
    let mut steps =
        Steps { folder, flavours, lives: &lives, begin: None, last: 0, found: Vec::new() };
    reading.lines(&steps.file(), |line, text| steps.take(line, text))?;
    if steps.found.len() != lives.len() {
        let (found, here, there) = (steps.found.len(), FLAVOURS, LIFETIMES);
        let lines = lives.len();
        return Err(format!(
            "{}: {here} has {found} lines and {there} {lines}: they belong together line by line",
            folder.display()
        )
        .into());
    }
    draft(&steps.found, choices)
}

/// What arrived in one step.
#[derive(Debug)]
struct Step {
    at: Millis,
    batches: Vec<Vec<(Flavour, Lived)>>,
}

fn draft(steps: &[Step], choices: Choices) -> Result<Draft, Error> {
    let mut draft = Draft::new();
    let capacity = || Resources {
        cpu_milli: CPU_MILLI,
        ram_bytes: RAM_BYTES,
        ports: 1_000,
        ..Resources::default()
    };
    for number in 0..choices.machines.unwrap_or(MACHINES) {
        draft.machine(&format!("m-{number}"), capacity(), BTreeMap::new());
    }
    let mut dice = Dice::new(choices.seed);
    let mut number = 0u64;
    let owner = draft.user("all")?;
    for step in steps {
        for batch in &step.batches {
            let mut by_flavour = BTreeMap::<Flavour, Vec<Lived>>::new();
            for (flavour, lived) in batch {
                by_flavour.entry(*flavour).or_default().push(*lived);
            }
            for ((cpu_milli, ram_bytes), lived) in by_flavour {
                let asked =
                    Asked { priority: 200, cpu_milli, ram_bytes, disk_bytes: 0, apart: false };
                let tasks = u32::try_from(lived.len())?;
                let runs = runs(lived, &mut dice);
                let (name, owner) = (format!("b{number}"), owner.clone());
                draft.job(step.at, owner, name, &asked, tasks, false, runs)?;
                number += 1;
            }
        }
        draft.lasts(step.at + Millis::from_secs(STEP_SECS));
    }
    Ok(draft)
}

/// Those that end first, each somewhere in its bin; the rest does not end.
fn runs(mut lived: Vec<Lived>, dice: &mut Dice) -> Runs {
    lived.sort_by_key(|lived| *lived == Lived::On);
    let times = lived.into_iter().filter_map(|lived| match lived {
        Lived::Until((from, before)) => {
            Some(Millis(dice.between(from * 1_000, before * 1_000 - 1).max(1)))
        }
        Lived::On => None,
    });
    let times: Vec<Millis> = times.collect();
    if times.is_empty() { Runs::Forever } else { Runs::ByIndex(times.into()) }
}

/// A word of a line is wrong.
fn wrong(path: &Path, line: usize, column: &str, found: &str, expected: &str) -> TableError {
    TableError::Field {
        path: path.to_owned(),
        line,
        column: column.to_owned(),
        found: found.chars().take(60).collect(),
        expected: expected.to_owned(),
    }
}

/// `cores,GB letter` on every line.
fn flavours(path: &Path, reading: &mut Reading) -> Result<BTreeMap<String, Flavour>, TableError> {
    let mut found = BTreeMap::new();
    reading.lines(path, |line, text| {
        let wrong = || wrong(path, line, "flavour", text, "CORES,GB LETTER");
        let (size, letter) = text.split_once(' ').ok_or_else(wrong)?;
        let (cores, gb) = size.split_once(',').ok_or_else(wrong)?;
        let (cores, gb) =
            (thousandths(cores).ok_or_else(wrong)?, thousandths(gb).ok_or_else(wrong)?);
        let ram_bytes = gb.checked_mul(1 << 30).ok_or_else(wrong)? / 1_000;
        if found.insert(letter.trim().to_owned(), (cores, ram_bytes)).is_some() {
            return Err(wrong());
        }
        Ok(())
    })?;
    Ok(found)
}

/// A number with at most three digits after its point, in thousandths.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let part: u64 = if digits { format!("{part:0<3}").parse().ok()? } else { return None };
    whole.parse::<u64>().ok()?.checked_mul(1_000)?.checked_add(part)
}

/// `seconds bin` on every line; a bin goes on until the next begins.
fn bins(path: &Path, reading: &mut Reading) -> Result<Vec<Bin>, TableError> {
    let mut found = Vec::<Bin>::new();
    let mut last = None;
    reading.lines(path, |line, text| {
        let wrong = || wrong(path, line, "bin", text, "SECONDS BIN, both in order");
        let (seconds, bin) = text.split_once(' ').ok_or_else(wrong)?;
        let seconds: u32 = seconds.parse().map_err(|_| wrong())?;
        let (seconds, bin) =
            (u64::from(seconds), bin.trim().parse::<usize>().map_err(|_| wrong())?);
        let end = seconds + STEP_SECS;
        if last.is_some_and(|last| seconds <= last) {
            return Err(wrong());
        }
        last = Some(seconds);
        match found.len() {
            bins if bin == bins => found.push((seconds, end)),
            bins if bin + 1 == bins => found[bin].1 = end,
            _ => return Err(wrong()),
        }
        Ok(())
    })?;
    Ok(found)
}

/// For every line, in which bin its virtual machines ended; batches as in the other file.
fn lives(path: &Path, reading: &mut Reading, bins: &[Bin]) -> Result<Vec<Vec<Lived>>, TableError> {
    let mut found = Vec::new();
    let mut all = 0;
    reading.lines(path, |line, text| {
        let (_, words) = stepped(path, line, text)?;
        let lived = |word: &str| {
            let (end, bin) = word.split_at_checked(1)?;
            let bin = *bins.get(bin.parse::<usize>().ok()?)?;
            match end {
                "U" => Some(Lived::Until(bin)),
                "C" => Some(Lived::On),
                _ => None,
            }
        };
        let expected = "U or C with a bin of the map, or |";
        let words = words.filter(|word| *word != END_OF_BATCH);
        let lives = words
            .map(|word| lived(word).ok_or_else(|| wrong(path, line, "lifetime", word, expected)));
        let lives = lives.collect::<Result<Vec<_>, _>>()?;
        all += lives.len();
        if all > MOST {
            let expected = format!("at most {MOST} virtual machines until this line");
            return Err(wrong(path, line, "lifetime", &all.to_string(), &expected));
        }
        found.push(lives);
        Ok(())
    })?;
    Ok(found)
}

/// A line: seconds, and words after them.
fn stepped<'a>(
    path: &Path,
    line: usize,
    text: &'a str,
) -> Result<(u64, impl Iterator<Item = &'a str>), TableError> {
    let (seconds, words) = text.split_once(' ').unwrap_or((text, ""));
    let expected = "seconds from the beginning, 0 or more, and a space";
    let seconds: u32 = seconds.parse().map_err(|_| wrong(path, line, "time", seconds, expected))?;
    Ok((seconds.into(), words.split(',').filter(|word| !word.is_empty())))
}

/// Lines of arrivals, taken one by one.
struct Steps<'a> {
    folder: &'a Path,
    flavours: BTreeMap<String, Flavour>,
    lives: &'a [Vec<Lived>],
    /// Seconds of the first line: there the trace begins.
    begin: Option<u64>,
    last: u64,
    found: Vec<Step>,
}

impl Steps<'_> {
    fn file(&self) -> PathBuf {
        self.folder.join(FLAVOURS)
    }

    fn take(&mut self, line: usize, text: &str) -> Result<(), TableError> {
        let path = self.file();
        let (seconds, words) = stepped(&path, line, text)?;
        if Millis::from_secs(seconds) > LATEST {
            return Err(wrong(&path, line, "time", &seconds.to_string(), IN_TIME));
        }
        let begin = *self.begin.get_or_insert(seconds);
        if seconds < self.last {
            let expected = "a time from that of the line before on";
            return Err(wrong(&path, line, "time", &seconds.to_string(), expected));
        }
        self.last = seconds;
        let mut lives = self.lives.get(self.found.len()).map_or(&[][..], Vec::as_slice).iter();
        let mut batches = vec![Vec::new()];
        for word in words {
            if word == END_OF_BATCH {
                batches.push(Vec::new());
                continue;
            }
            let expected = format!("a flavour of {FLAVOUR_MAP}, or |");
            let flavour = self
                .flavours
                .get(word)
                .ok_or_else(|| wrong(&path, line, "flavour", word, &expected))?;
            let expected = format!("as many flavours as lifetimes in line {line} of {LIFETIMES}");
            let lived =
                lives.next().ok_or_else(|| wrong(&path, line, "flavour", word, &expected))?;
            batches.last_mut().into_iter().for_each(|batch| batch.push((*flavour, *lived)));
        }
        if lives.next().is_some() {
            let expected = format!("as many flavours as lifetimes in line {line} of {LIFETIMES}");
            return Err(wrong(&path, line, "flavour", "the end", &expected));
        }
        batches.retain(|batch| !batch.is_empty());
        self.found.push(Step { at: Millis::from_secs(seconds - begin), batches });
        Ok(())
    }
}
