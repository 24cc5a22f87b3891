//! Refusals that carry an amount of several resources: too little quota, too much of it sold.
//!
//! Amounts are told as `borgctl quota set` takes them, so that what is asked for can be given by
//! copying.

use borg_proto::resources::Dimension;
use borg_proto::time::Date;
use borg_proto::{Band, Millis, Privilege, Resources, UserName};
use std::fmt;

/// Most resources that a refusal tells of. 16: our choice; a task may ask for a thousand devices, and
/// refusals are remembered with the requests that they answered.
const MAX_FIGURES: usize = 16;

/// What is asked for of one resource, against what is there. Millicores, bytes, counts, and
/// thousandths of a device; the largest number stands for anything larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Of what.
    pub dimension: Dimension,
    /// What is asked for.
    pub asked: u64,
    /// What is taken already: used by the user, or sold to others.
    pub used: u64,
    /// What there is in all: the user's quota, or the capacity of the cell.
    pub most: u64,
}

impl Figures {
    fn is_short(&self) -> bool {
        let sum = u128::from(self.asked) + u128::from(self.used);
        self.asked > 0 && (self.asked == u64::MAX || sum > self.most.into())
    }

    /// Keeps [`MAX_FIGURES`] at most, those that are short before the others.
    pub(crate) fn most_telling(figures: &mut Vec<Self>) {
        if figures.len() > MAX_FIGURES {
            figures.sort_by_key(|one| !one.is_short());
            figures.truncate(MAX_FIGURES);
        }
    }

    fn amount(&self, amount: u64) -> Amount<'_> {
        Amount(&self.dimension, amount)
    }
}

/// An amount of a resource as `borgctl` takes it: `2.5`, `32GiB`, `1500kB` or `7`.
#[derive(Debug, Clone, Copy)]
pub struct Amount<'a>(pub &'a Dimension, pub u64);

impl fmt::Display for Amount<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(dimension, amount) = *self;
        match dimension {
            Dimension::Cpu | Dimension::Device(_) => {
                let text = format!("{}.{:03}", amount / 1000, amount % 1000);
                f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
            }
            Dimension::Ram | Dimension::Disk => {
                const UNITS: [(u32, &str); 4] =
                    [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
                let exact =
                    |(shift, _): &(u32, &str)| amount > 0 && amount.trailing_zeros() >= *shift;
                match UNITS.into_iter().find(exact) {
                    Some((shift, unit)) => write!(f, "{}{unit}", amount >> shift),
                    None => write!(f, "{amount}"),
                }
            }
            Dimension::Ports => write!(f, "{amount}"),
        }
    }
}

/// The name by which `borgctl` takes a resource.
#[must_use]
pub fn quota_name(dimension: &Dimension) -> &str {
    match dimension {
        Dimension::Cpu => "cpu",
        Dimension::Ram => "ram",
        Dimension::Disk => "disk",
        Dimension::Ports => "ports",
        Dimension::Device(name) => name,
    }
}

/// Amounts of several resources as `borgctl` takes them: `cpu=0.5,ram=64MiB`.
#[must_use]
pub fn amounts(of: &Resources) -> String {
    let each = of.dimensions();
    let each = each.map(|(of, amount)| format!("{}={}", quota_name(&of), Amount(&of, amount)));
    let each = each.collect::<Vec<_>>().join(",");
    if each.is_empty() { "nothing".to_owned() } else { each }
}

/// A job for which its user has too little quota, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// Whose quota.
    pub user: UserName,
    /// In which band.
    pub band: Band,
    /// When the user's quota there ends, or when the last one ended.
    pub ends: Option<Millis>,
    /// When the user's next quota there begins.
    pub begins: Option<Millis>,
    /// What the job asks for, and what was given that it does not ask for: the command that gives
    /// enough must not take that away.
    pub figures: Vec<Figures>,
}

impl Shortage {
    pub(super) fn none(&self) -> String {
        let Self { user, band, .. } = self;
        let when = match (self.begins, self.ends) {
            (Some(begins), _) => format!(" before {}", Date(begins)),
            (None, Some(ended)) => format!(" since {}", Date(ended)),
            (None, None) => String::new(),
        };
        let ask = self.ask();
        let or = if *band == Band::Monitoring {
            let privilege = Privilege::Monitoring;
            format!(" or, while the band is open, borgctl privilege grant {user} {privilege}")
        } else {
            String::new()
        };
        format!(
            "user {user} has no quota in band {band}{when}, and jobs in it need some: {ask}{or}"
        )
    }

    pub(super) fn too_small(&self) -> String {
        let Self { user, band, .. } = self;
        let until = self.ends.map_or_else(String::new, |ends| format!(" --until {}", Date(ends)));
        format!("quota of user {user} in band {band} is too small: {}{until}", self.ask())
    }

    /// What is short, and whom to ask for what.
    fn ask(&self) -> String {
        let short = self.figures.iter().filter(|figures| figures.is_short());
        let short = short.map(|figures| {
            format!(
                "{}: the job asks for {}, granted {}, used {}",
                quota_name(&figures.dimension),
                figures.amount(figures.asked),
                figures.amount(figures.most),
                figures.amount(figures.used)
            )
        });
        let enough = self.figures.iter().map(|figures| {
            let needed = figures.asked.saturating_add(figures.used);
            let enough = if figures.asked > 0 { needed.max(figures.most) } else { figures.most };
            format!("{}={}", quota_name(&figures.dimension), figures.amount(enough))
        });
        format!(
            "{}. Ask an operator for: borgctl quota set {} {} {}",
            short.collect::<Vec<_>>().join("; "),
            self.user,
            self.band,
            enough.collect::<Vec<_>>().join(",")
        )
    }
}

/// More prod quota than the cell has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Oversold {
    /// The first moment at which it would be.
    pub at: Millis,
    /// Of what.
    pub figures: Vec<Figures>,
}

impl fmt::Display for Oversold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.figures.iter().map(|figures| {
            format!(
                "{}: {} asked for, {} sold to others, the machines have {}",
                quota_name(&figures.dimension),
                figures.amount(figures.asked),
                figures.amount(figures.used),
                figures.amount(figures.most)
            )
        });
        let figures = figures.collect::<Vec<_>>().join("; ");
        write!(
            f,
            "more production and monitoring quota would be sold than the cell has, from {} on: {figures}. \
             Sell less, add machines, or say --oversell",
            Date(self.at)
        )
    }
}
