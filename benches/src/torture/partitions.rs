//! Masters that cannot hear each other, or stand still.
//!
//! Five masters in five network namespaces, clients in a sixth. Each round makes one trouble for a
//! second or three, then heals it. Nothing acknowledged may be lost; no consistent read may be
//! older than what was acknowledged before it, also at a master that is cut off or has just
//! woken up; no call may hang; and where a majority can talk, changes must go on.

use super::books::Books;
use super::cell::{Cell, MASTERS, Plan};
use super::clients::{Clients, Pace, Readers};
use super::network::{Network, Place};
use super::reached::Reached;
use super::{Run, Says};
use crate::{Error, clock};
use borg_sim::dice::Dice;
use std::time::Duration;

/// The masters' port.
const PORT: u16 = 7_000;
/// How long a trouble lasts, in milliseconds.
const TROUBLE_MS: (u64, u64) = (1_000, 3_000);
/// How long it may take until a majority that can talk acknowledges changes again: an election, and
/// a client that waits one try, 1 s, for each master that does not answer.
const TAKES_OVER: Duration = Duration::from_secs(15);
/// How long the cell may take to be whole again.
const RECOVERY: Duration = Duration::from_secs(30);
/// Four clients.
const PACE: Pace = Pace { clients: 4, rest: Duration::from_millis(5), prefix: 't', ballast: 0 };

/// What is wrong for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The leader and the other masters do not hear each other; clients reach all.
    LeaderAlone,
    /// Nobody hears the leader and it hears nobody.
    LeaderGone,
    /// The leader hears no other master, and is heard.
    LeaderDeaf,
    /// No other master hears the leader, and it hears them.
    LeaderMute,
    /// The leader and one more on one side, three on the other.
    Minority,
    /// Some random directions between masters are cut.
    Mesh,
    /// Clients do not hear one master, and it hears them.
    BlackHole,
    /// The leader's process stands still.
    LeaderStopped,
    /// Two processes stand still.
    TwoStopped,
    /// All stand still, one after the other, a little.
    Hiccups,
}

impl Trouble {
    const ALL: [Self; 10] = [
        Self::LeaderAlone,
        Self::LeaderGone,
        Self::LeaderDeaf,
        Self::LeaderMute,
        Self::Minority,
        Self::Mesh,
        Self::BlackHole,
        Self::LeaderStopped,
        Self::TwoStopped,
        Self::Hiccups,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::LeaderAlone => "leader alone",
            Self::LeaderGone => "leader gone",
            Self::LeaderDeaf => "leader deaf",
            Self::LeaderMute => "leader mute",
            Self::Minority => "leader in a minority",
            Self::Mesh => "random directions",
            Self::BlackHole => "black hole for clients",
            Self::LeaderStopped => "leader stopped",
            Self::TwoStopped => "two stopped",
            Self::Hiccups => "hiccups",
        }
    }

    /// Whether three masters can talk to each other and clients to them, whatever the dice say.
    fn leaves_a_majority(self) -> bool {
        match self {
            Self::LeaderAlone
            | Self::LeaderGone
            | Self::LeaderDeaf
            | Self::LeaderMute
            | Self::Minority
            | Self::BlackHole
            | Self::LeaderStopped
            | Self::TwoStopped => true,
            Self::Mesh | Self::Hiccups => false,
        }
    }
}

/// `count` troubles.
///
/// # Errors
/// What was lost, wrong, or stood still.
pub fn partitions(run: &Run, says: &mut Says) -> Result<Reached, Error> {
    let mut reached = Reached::default();
    let mut dice = Dice::new(run.seed);
    let store = run.store.as_deref().unwrap_or("redb");
    let network = Network::make(MASTERS)?;
    let mut plan = Plan::new(&run.work, "partitions", MASTERS, PORT, store);
    plan.addresses = (0..MASTERS).map(|i| network.address(i, PORT)).collect();
    let mut cell = Cell::make(plan)?;
    says.logs_are_in(cell.logs());
    for (i, master) in cell.masters.iter_mut().enumerate() {
        master.under = network.command(i);
    }
    cell.start_masters()?;
    let books = Books::default();
    let clients = Clients::start(&cell, &books, dice.roll(), PACE)?;
    let readers = Readers::start(&cell, &books, dice.roll(), 2)?;
    for round in 0..run.count {
        // All of them in turn, in an order of the dice after the first turn.
        let turn = usize::try_from(round)?;
        let trouble = Trouble::ALL.get(turn).copied().unwrap_or_else(|| *dice.pick(&Trouble::ALL));
        let leader = cell.leader()?;
        let lasts = Duration::from_millis(dice.between(TROUBLE_MS.0, TROUBLE_MS.1));
        let told = books.acknowledged();
        let began = clock::now();
        let stopped = make(&cell, &network, trouble, leader, &mut dice)?;
        if trouble.leaves_a_majority() {
            // Twice each client: the first may have been under way.
            while books.acknowledged() < told + 2 * PACE.clients {
                if began.elapsed() > TAKES_OVER {
                    return Err(format!(
                        "{}: nothing acknowledged for {TAKES_OVER:?}",
                        trouble.name()
                    )
                    .into());
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            reached.one("took over");
        }
        std::thread::sleep(lasts.saturating_sub(began.elapsed()));
        for &master in &stopped {
            cell.masters[master].go_on()?;
        }
        for &master in &stopped {
            // It may still think that it leads. What it answers now must be true all the same.
            cell.check(&books, master, true)
                .map_err(|error| format!("after {}: {error}", trouble.name()))?;
            reached.one("asked just after waking up");
        }
        network.heal()?;
        cell.until_all_serve(RECOVERY)
            .map_err(|error| format!("after {}: {error}", trouble.name()))?;
        for master in 0..MASTERS {
            cell.check(&books, master, dice.chance(500))
                .map_err(|error| format!("after {}: {error}", trouble.name()))?;
        }
        reached.one(trouble.name());
        let (done, acknowledged) = (round + 1, books.acknowledged());
        says.progress(&format!("trouble {done}/{}, {acknowledged} acknowledged", run.count));
    }
    says.slowest(clients.slowest_ms());
    clients.finish(&cell);
    readers.finish(&cell, &mut reached);
    cell.check_calm(&books)?;
    cell.check_equal_states()?;
    cell.check_logs()?;
    reached.all_of(&Trouble::ALL.map(Trouble::name))?;
    reached.all_of(&["consistent reads", "asked just after waking up"])?;
    Ok(reached)
}

/// Makes the trouble; gives the masters that stand still.
fn make(
    cell: &Cell,
    network: &Network,
    trouble: Trouble,
    leader: usize,
    dice: &mut Dice,
) -> Result<Vec<usize>, Error> {
    let others: Vec<usize> = (0..MASTERS).filter(|i| *i != leader).collect();
    let both = |a: Place, b: Place| network.cut(a, b).and_then(|()| network.cut(b, a));
    match trouble {
        Trouble::LeaderAlone | Trouble::LeaderGone => {
            for &other in &others {
                both(Place::Master(leader), Place::Master(other))?;
            }
            if trouble == Trouble::LeaderGone {
                both(Place::Master(leader), Place::Clients)?;
            }
        }
        Trouble::LeaderDeaf => {
            for &other in &others {
                network.cut(Place::Master(other), Place::Master(leader))?;
            }
        }
        Trouble::LeaderMute => {
            for &other in &others {
                network.cut(Place::Master(leader), Place::Master(other))?;
            }
        }
        Trouble::Minority => {
            let friend = *dice.pick(&others);
            for &other in others.iter().filter(|other| **other != friend) {
                both(Place::Master(leader), Place::Master(other))?;
                both(Place::Master(friend), Place::Master(other))?;
            }
        }
        Trouble::Mesh => {
            for from in 0..MASTERS {
                for to in 0..MASTERS {
                    if from != to && dice.chance(300) {
                        network.cut(Place::Master(from), Place::Master(to))?;
                    }
                }
            }
        }
        Trouble::BlackHole => {
            network.cut(Place::Master(dice.index(MASTERS)), Place::Clients)?;
        }
        Trouble::LeaderStopped => {
            cell.masters[leader].stop()?;
            return Ok(vec![leader]);
        }
        Trouble::TwoStopped => {
            let friend = *dice.pick(&others);
            cell.masters[leader].stop()?;
            cell.masters[friend].stop()?;
            return Ok(vec![leader, friend]);
        }
        Trouble::Hiccups => {
            for _ in 0..10 {
                let master = dice.index(MASTERS);
                cell.masters[master].stop()?;
                std::thread::sleep(Duration::from_millis(dice.between(20, 400)));
                cell.masters[master].go_on()?;
            }
        }
    }
    Ok(Vec::new())
}
