//! Which machines could run a task at all, and for each that could not, every reason.
//!
//! [`misses`] says of one machine what `rooms` and `class` say of many at once, from the same
//! columns, filters and crowds; `explain` counts what it finds.
//!
//! Invariant: the rules are those of the state machine: limits of what stands on the machine
//! against its capacity, whose tasks it takes, hard constraints, spread limits, ports and devices by count, and how much
//! a machine can be told.

use crate::machines::Machines;
use crate::need::{Need, is_of_images};
use crate::rooms::{CPU, DISK, PORTS, RAM};
use crate::victims::Freed;
use borg_proto::JobKey;
use borg_proto::machine::RESERVE_PERCENT;
use borg_proto::resources::{Dimension, TASK_ADDRESS};
use borg_proto::spec::Constraint;
use std::fmt;

/// Why a machine was rejected.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It does not answer, or never did.
    NotUp,
    /// It is closed to new tasks.
    Closed,
    /// It is kept for other users.
    Kept,
    /// It does not meet a hard constraint.
    Constraint(Constraint),
    /// There are as many tasks of the job in that place as the job allows.
    Spread {
        /// The attribute that is limited; `machine` is the machine itself.
        attribute: String,
        /// How many are allowed.
        max: u32,
    },
    /// The task failed there lately, and there are others to try.
    Crashed,
    /// It would have room if tasks were pushed out whose job's disruption budget is used up.
    Budget {
        /// Whose.
        job: JobKey,
    },
    /// It lacks room, even if everything left that may be pushed out.
    Short {
        /// Of what.
        dimension: Dimension,
        /// What the task asks for.
        asks: u64,
        /// The most that any of the machines rejected for this has or could free.
        room: u64,
        /// The most that any of them has in all.
        capacity: u64,
    },
    /// It has as many tasks as a machine may have, even if everything left that may be pushed out.
    TooManyTasks {
        /// How many that is.
        most: u64,
    },
    /// What it is told to run is as long as it may be, even if everything left that may be pushed
    /// out.
    TargetFull {
        /// Bytes of the task's specification, rounded up.
        asks: u64,
        /// The most that any of the machines rejected for this has or could free.
        room: u64,
        /// The most that any machine may be told.
        most: u64,
    },
}

/// A reason, and how many machines were rejected for it. One machine may have several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub reason: Reason,
    /// How many machines.
    pub machines: u32,
}

/// What one machine is rejected for, as a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Misses(pub(crate) u32);

impl Misses {
    pub(crate) const NOT_UP: u32 = 1 << 8;
    pub(crate) const CONSTRAINT: u32 = 1 << 9;
    pub(crate) const SPREAD: u32 = 1 << 10;
    pub(crate) const ROOM: u32 = 1 << 11;
    pub(crate) const CRASHED: u32 = 1 << 12;
    pub(crate) const CLOSED: u32 = 1 << 13;
    pub(crate) const KEPT: u32 = 1 << 14;

    pub(crate) fn none(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// Everything that a row is missing for one task of `need`, when `freed` is given back
/// first. `crowded` is the class's answer on spread, `avoided` the task's own on machines where it
/// failed.
pub(crate) fn misses(
    machines: &Machines,
    need: &Need,
    row: usize,
    freed: &Freed<'_>,
    crowded: bool,
    avoided: bool,
) -> Misses {
    // A machine that never answered has no known room or attributes: only that is said of it.
    if machines.info(row).is_none() {
        return Misses(Misses::NOT_UP);
    }
    let bit = |missing: bool, bit: u32| if missing { bit } else { 0 };
    let short = !freed.fits(machines, need);
    let unmet = need.hard.iter().any(|filter| !machines.filters.holds(*filter, row));
    Misses(
        bit(!machines.answers(row), Misses::NOT_UP)
            | bit(machines.is_closed(row), Misses::CLOSED)
            | bit(!machines.access.admits(need.group, row), Misses::KEPT)
            | bit(short, Misses::ROOM)
            | bit(unmet, Misses::CONSTRAINT)
            | bit(crowded, Misses::SPREAD)
            | bit(avoided, Misses::CRASHED),
    )
}

/// The hard constraints that the machine of a row does not meet.
pub(crate) fn unmet<'a>(
    machines: &'a Machines,
    need: &'a Need,
    row: usize,
) -> impl Iterator<Item = &'a Constraint> {
    let hard = need.task.constraints.iter().filter(|c| !c.soft);
    let numbered = hard.zip(&need.hard);
    numbered.filter(move |(_, f)| !machines.filters.holds(**f, row)).map(|(c, _)| c)
}

/// The resource of a column, for people.
pub(crate) fn dimension(machines: &Machines, column: usize) -> Dimension {
    match column {
        CPU => Dimension::Cpu,
        RAM => Dimension::Ram,
        DISK => Dimension::Disk,
        PORTS => Dimension::Ports,
        device => Dimension::Device(
            machines.device_name(device).expect("other columns are devices").clone(),
        ),
    }
}

impl Reason {
    /// The reason as what one machine, or several, do: "lacks memory (...)", "are not up".
    fn say(&self, f: &mut fmt::Formatter<'_>, one: bool) -> fmt::Result {
        let verb =
            |singular: &'static str, plural: &'static str| if one { singular } else { plural };
        match self {
            Self::NotUp => write!(f, "{} not up", verb("is", "are")),
            Self::Closed => write!(f, "{} closed", verb("is", "are")),
            Self::Kept => write!(f, "{} kept for other users", verb("is", "are")),
            Self::Constraint(constraint) if is_of_images(constraint) => {
                write!(f, "{} no tasks that bring an image", verb("runs", "run"))
            }
            Self::Constraint(constraint) => {
                write!(f, "{} not meet {constraint}", verb("does", "do"))
            }
            Self::Spread { attribute, max } => {
                write!(
                    f,
                    "{} no more of the job (at most {max} per {attribute})",
                    verb("takes", "take")
                )
            }
            Self::Crashed => write!(f, "{} avoided as the task failed there", verb("is", "are")),
            Self::Budget { job } => write!(
                f,
                "{} only tasks of {job} to push out, whose disruption budget is used up",
                verb("has", "have")
            ),
            Self::Short { dimension, asks, room, capacity } => {
                let amount = |n: u64| Amount(dimension, n);
                let noun = noun(dimension);
                write!(f, "{} {noun} (asks {}, ", verb("lacks", "lack"), amount(*asks))?;
                match asks > capacity {
                    true => write!(f, "largest has {}", amount(*capacity))?,
                    false => write!(f, "most free is {}", amount(*room))?,
                }
                // Or people look at the machine, and find more.
                if *dimension == Dimension::Disk {
                    write!(f, " beside the {RESERVE_PERCENT} % that each keeps for itself")?;
                }
                f.write_str(")")
            }
            Self::TooManyTasks { most } => {
                write!(f, "{} as many tasks as a machine may ({most})", verb("has", "have"))
            }
            Self::TargetFull { asks, room, most } => {
                let amount = |bytes: u64| Amount(&Dimension::Ram, bytes);
                write!(
                    f,
                    "{} no more specifications (asks {}, most free is {} of {})",
                    verb("takes", "take"),
                    amount(*asks),
                    amount(*room),
                    amount(*most)
                )
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.say(f, false)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.machines)?;
        self.reason.say(f, self.machines == 1)
    }
}

pub(crate) fn noun(dimension: &Dimension) -> String {
    match dimension {
        Dimension::Cpu => "cpu".into(),
        Dimension::Ram => "memory".into(),
        Dimension::Disk => "disk".into(),
        Dimension::Ports => "ports".into(),
        Dimension::Device(name) if **name == *TASK_ADDRESS => {
            "addresses for tasks (borglet --task-network)".into()
        }
        Dimension::Device(name) => format!("device {name}"),
    }
}

/// An amount as people write it: `1.5` cores, `24 GiB`, `3` ports.
pub(crate) struct Amount<'a>(pub(crate) &'a Dimension, pub(crate) u64);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Dimension::Ports => write!(f, "{}", self.1),
            Dimension::Cpu | Dimension::Device(_) => {
                let (whole, rest) = (self.1 / 1000, self.1 % 1000);
                if rest == 0 {
                    return write!(f, "{whole}");
                }
                write!(f, "{}", format!("{whole}.{rest:03}").trim_end_matches('0'))
            }
            Dimension::Ram | Dimension::Disk => {
                const UNITS: [(&str, u32); 5] =
                    [("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
                let Some((unit, shift)) = UNITS.iter().find(|(_, shift)| self.1 >= 1 << shift)
                else {
                    return write!(f, "{} bytes", self.1);
                };
                // Tenths, rounded down: "has 23.9 GiB" must not read as the 24 that were asked for.
                let tenths = (u128::from(self.1) * 10) >> shift;
                if tenths % 10 == 0 {
                    return write!(f, "{} {unit}", tenths / 10);
                }
                write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_reads_as_a_person_would_say_it() {
        let short = |dimension, asks, room, capacity| {
            Reason::Short { dimension, asks, room, capacity }.to_string()
        };
        assert_eq!(
            short(Dimension::Ram, 1 << 40, 0, 24 << 30),
            "lack memory (asks 1 TiB, largest has 24 GiB)"
        );
        assert_eq!(
            short(Dimension::Cpu, 1500, 250, 2000),
            "lack cpu (asks 1.5, most free is 0.25)"
        );
        assert_eq!(
            short(Dimension::Device("gpu".into()), 2000, 0, 0),
            "lack device gpu (asks 2, largest has 0)"
        );
        assert_eq!(
            short(Dimension::Device(TASK_ADDRESS.into()), 1000, 0, 0),
            "lack addresses for tasks (borglet --task-network) (asks 1, largest has 0)"
        );
        assert_eq!(
            short(Dimension::Disk, 1 << 30, (1 << 30) - 1, 1 << 30),
            "lack disk (asks 1 GiB, most free is 1023.9 MiB beside the 5 % that each keeps for itself)"
        );
    }
}
