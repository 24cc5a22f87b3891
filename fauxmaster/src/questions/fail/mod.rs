//! What the loss of machines does: what goes down, how long until it is placed and up again, what never fits.

mod outage;
mod told;

use crate::answer::Answer;
use crate::sources::loaded::Loaded;
use crate::{Error, parallel};
use borg_cell::state::{CellState, MachineState};
use borg_proto::{MachineId, MachineName, Millis};
use borg_sim::dice::Dice;
use outage::{Before, Outage, Outcome};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Names of which a choice is told when there is none of that name.
const TOLD: usize = 8;

/// What is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// These machines, all at once.
    Machines(Vec<MachineName>),
    /// All machines with this value of an attribute, such as a rack.
    Domain {
        /// The attribute, as in `rack` or `power`.
        attribute: String,
        /// Its value.
        value: String,
    },
    /// All machines with one value of an attribute, for each value in a cell of its own.
    EachDomain {
        /// The attribute.
        attribute: String,
    },
    /// So many by chance, for each seed in a cell of its own.
    Random {
        /// How many machines.
        machines: usize,
        /// The first seed.
        first_seed: u64,
        /// How many seeds.
        seeds: u64,
    },
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What is lost.
    pub loss: Loss,
    /// From placed to up.
    pub startup: Millis,
    /// How long to look at what follows.
    pub within: Millis,
    /// How many losses are looked at at the same time; the answer is the same for any number.
    pub threads: usize,
}

/// One loss: its name, and the machines.
type Case = (String, BTreeSet<MachineId>);

/// What the loss of machines would do to a cell. Of several losses, the worst is told of in full.
/// Machines that do not answer as it is take nobody, count towards safe mode, and are not given up meanwhile.
///
/// # Errors
/// When there is no such machine or domain, or state and scheduler disagree.
pub fn fail(
    loaded: &Loaded,
    options: &Options,
    tell: impl Fn(&str) + Sync,
) -> Result<Answer, Error> {
    let state = loaded.state()?;
    let cases = cases(&state, &options.loss)?;
    if cases.is_empty() {
        return Err("seeds: 0; at least one is needed".into());
    }
    let scheduler = loaded.scheduler(&state);
    let silent = loaded.known().iter().flat_map(|known| known.silent.iter().copied()).collect();
    let lived = parallel::each(&cases, options.threads, |(name, lost)| {
        let before = Before { state: &state, scheduler: &scheduler, silent: &silent };
        let outcome = Outage::live(before, lost, options.startup, options.within)?;
        tell(&format!("{name}: {} tasks down", outcome.hits.len()));
        Ok::<_, Error>((name.clone(), outcome))
    });
    let mut lived = lived.into_iter().collect::<Result<Vec<_>, _>>()?;
    lived.sort_by_key(|(_, outcome)| Reverse(severity(outcome)));
    Ok(told::answer(loaded, options, &state, &lived))
}

/// How bad it is: production that is not up again counts most, then all that is not, then all that was down.
fn severity(outcome: &Outcome) -> (usize, usize, usize) {
    let not_up = outcome.hits.values().filter(|hit| hit.up.is_none());
    let prod = not_up.clone().filter(|hit| hit.band.is_prod()).count();
    (prod, not_up.count(), outcome.hits.len())
}

fn cases(state: &CellState, loss: &Loss) -> Result<Vec<Case>, Error> {
    match loss {
        Loss::Machines(names) => {
            let mut lost = BTreeSet::new();
            for name in names {
                let found = state.machine_named(name).ok_or_else(|| {
                    let all = state.machines().map(|machine| machine.name.to_string());
                    format!("machine {name}: there is none of that name; {}", known(all))
                })?;
                if found.state != MachineState::Up {
                    return Err(
                        format!("machine {name}: it is not up: nothing more is lost").into()
                    );
                }
                if !lost.insert(found.id) {
                    return Err(format!("machine {name}: it is named twice").into());
                }
            }
            let name = names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            Ok(vec![(name, lost)])
        }
        Loss::Domain { attribute, value } => {
            let mut all = domains(state, attribute)?;
            let Some(lost) = all.remove(value) else {
                let why = format!(
                    "{attribute} {value}: no machine that is up has it; {}",
                    known(all.into_keys())
                );
                return Err(why.into());
            };
            Ok(vec![(format!("{attribute} {value}"), lost)])
        }
        Loss::EachDomain { attribute } => {
            let all = domains(state, attribute)?.into_iter();
            Ok(all.map(|(value, lost)| (format!("{attribute} {value}"), lost)).collect())
        }
        Loss::Random { machines, first_seed, seeds } => {
            let up: Vec<MachineId> = up(state).map(|machine| machine.id).collect();
            if *machines == 0 || *machines > up.len() {
                let why = format!("random {machines}: 1 to {} machines are up", up.len());
                return Err(why.into());
            }
            let one = |seed: u64| {
                let mut left = up.clone();
                Dice::new(seed).shuffle(&mut left);
                (format!("seed {seed}"), left.into_iter().take(*machines).collect())
            };
            Ok(parallel::seeds(*first_seed, *seeds).into_iter().map(one).collect())
        }
    }
}

fn up(state: &CellState) -> impl Iterator<Item = &borg_cell::state::Machine> {
    state.machines().filter(|machine| machine.state == MachineState::Up)
}

/// Machines that are up by their value of an attribute.
fn domains(
    state: &CellState,
    attribute: &str,
) -> Result<BTreeMap<String, BTreeSet<MachineId>>, Error> {
    let mut domains = BTreeMap::<String, BTreeSet<MachineId>>::new();
    let mut others = BTreeSet::new();
    for machine in up(state) {
        let Some(info) = &machine.info else { continue };
        if let Some(value) = info.attributes.get(attribute) {
            domains.entry(value.clone()).or_default().insert(machine.id);
        }
        others.extend(info.attributes.keys().cloned());
    }
    if domains.is_empty() {
        let others = known(others.into_iter());
        return Err(format!("no machine that is up has attribute {attribute}; {others}").into());
    }
    Ok(domains)
}

fn known(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    if names.is_empty() {
        return "there are none".to_owned();
    }
    names.sort();
    let more = names.len().saturating_sub(TOLD);
    names.truncate(TOLD);
    let more = if more > 0 { format!(" and {more} others") } else { String::new() };
    format!("there are {}{more}", names.join(", "))
}

#[cfg(test)]
mod tests;
