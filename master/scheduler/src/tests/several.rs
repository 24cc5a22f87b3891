//! Several schedulers at once, as in the Borg paper (section 3.4) and in Omega: each decides on a copy of the
//! cell that is more or less old, the state takes what it can, and the rest is decided again.

use super::fixture::{Cell, EVERYTHING};
use super::laws::{Op, a_machine, an_op, carry_out, is_at_cap, some_weights};
use super::reference;
use crate::{Config, Scheduler};
use borg_cell::event::Event;
use borg_cell::state::Answer;
use borg_proto::command::{Action, Assignment};
use borg_proto::{Millis, TaskId};
use proptest::prelude::*;
use std::collections::VecDeque;

/// Rounds in which everything must settle once nothing changes any more: in each, whoever's decisions
/// come first gets all of them. Ours.
const ROUNDS: usize = 200;

/// A scheduler, what it has not heard of yet, and what it decided that the state has not seen yet.
struct Peer {
    config: Config,
    scheduler: Scheduler,
    news: Vec<Event>,
    decided: VecDeque<Vec<Assignment>>,
    refused: Vec<TaskId>,
}

#[derive(Debug, Clone)]
enum Step {
    /// Something happens in the cell.
    Happens(Box<Op>),
    /// One of them hears all news; of its refusals before, or after.
    Hears { who: prop::sample::Index, refusals_first: bool },
    /// One of them decides.
    Decides { who: prop::sample::Index, max: usize },
    /// The oldest decisions of one of them come to the state.
    Commits { who: prop::sample::Index },
}

fn a_step() -> impl Strategy<Value = Step> {
    let who = any::<prop::sample::Index>;
    prop_oneof![
        5 => an_op().prop_map(|op| Step::Happens(Box::new(op))),
        3 => (who(), any::<bool>()).prop_map(|(who, refusals_first)| Step::Hears { who, refusals_first }),
        4 => (who(), prop_oneof![Just(1usize), 2usize..5, Just(EVERYTHING)])
            .prop_map(|(who, max)| Step::Decides { who, max }),
        4 => who().prop_map(|who| Step::Commits { who }),
    ]
}

/// A cell with its schedulers.
struct Several {
    cell: Cell,
    peers: Vec<Peer>,
    /// How many decisions were taken, and refused.
    taken: usize,
    refused: usize,
}

impl Several {
    fn new(machines: Vec<borg_proto::MachineInfo>, configs: &[Config]) -> Self {
        let mut cell = Cell::new();
        for info in machines {
            cell.add_machine(info);
        }
        cell.news.clear();
        let peer = |config: &Config| Peer {
            config: *config,
            scheduler: Scheduler::new(&cell.state, *config),
            news: Vec::new(),
            decided: VecDeque::new(),
            refused: Vec::new(),
        };
        let peers = configs.iter().map(peer).collect();
        Self { cell, peers, taken: 0, refused: 0 }
    }

    fn spread_news(&mut self) {
        for peer in &mut self.peers {
            peer.news.extend_from_slice(&self.cell.news);
        }
        self.cell.news.clear();
    }

    fn hears(&mut self, who: usize, refusals_first: bool) {
        let Peer { scheduler, news, refused, .. } = &mut self.peers[who];
        let mut give_back = |scheduler: &mut Scheduler| {
            std::mem::take(refused).into_iter().for_each(|task| scheduler.refused(task));
        };
        if refusals_first {
            give_back(scheduler);
        }
        scheduler.follow(self.cell.state.clone(), news);
        news.clear();
        give_back(scheduler);
    }

    /// How many it decided.
    fn decides(&mut self, who: usize, max: usize) -> usize {
        let peer = &mut self.peers[who];
        let decided = peer.scheduler.pass(self.cell.now, max);
        let count = decided.len();
        if count > 0 {
            peer.decided.push_back(decided);
        }
        count
    }

    fn commits(&mut self, who: usize) {
        let Some(assignments) = self.peers[who].decided.pop_front() else { return };
        let tasks: Vec<TaskId> = assignments.iter().map(|one| one.task).collect();
        let Some(Answer::Placed { results }) = self.cell.master(Action::Place { assignments })
        else {
            panic!("decisions are taken one by one")
        };
        assert_eq!(self.cell.state.audit(), []);
        for (task, result) in tasks.into_iter().zip(results) {
            match result {
                Ok(_) => self.taken += 1,
                Err(_) => {
                    self.refused += 1;
                    self.peers[who].refused.push(task);
                }
            }
        }
        self.spread_news();
    }

    fn step(&mut self, step: &Step) {
        let pick = |who: &prop::sample::Index| who.index(self.peers.len());
        match step {
            Step::Happens(op) => {
                carry_out(&mut self.cell, op);
                self.spread_news();
            }
            Step::Hears { who, refusals_first } => self.hears(pick(who), *refusals_first),
            Step::Decides { who, max } => drop(self.decides(pick(who), *max)),
            Step::Commits { who } => self.commits(pick(who)),
        }
    }

    /// Nothing happens any more but what they decide, until nobody has anything to decide.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            self.cell.now = self.cell.now + Millis(1_000);
            for who in 0..self.peers.len() {
                self.hears(who, false);
            }
            let decided: usize =
                (0..self.peers.len()).map(|who| self.decides(who, EVERYTHING)).sum();
            for who in 0..self.peers.len() {
                while !self.peers[who].decided.is_empty() {
                    self.commits(who);
                }
            }
            if decided == 0
                && self.peers.iter().all(|peer| peer.refused.is_empty() && peer.news.is_empty())
            {
                return;
            }
        }
        panic!("they still decide after {ROUNDS} rounds");
    }

    fn check_settled(&self) {
        assert_eq!(self.cell.state.audit(), []);
        for peer in &self.peers {
            let mut anew = Scheduler::new(&self.cell.state, peer.config);
            assert_eq!(peer.scheduler.contents(), anew.contents());
            assert_eq!(
                anew.pass(self.cell.now, EVERYTHING),
                [],
                "nor would a new one decide anything"
            );
        }
        for task in self.cell.ready() {
            if !self.cell.spec(task).gang && !is_at_cap(&self.cell, task) {
                let best = reference::best(&self.cell, self.peers[0].config.weights, task);
                assert_eq!(best, None, "nothing that fits is left waiting");
            }
        }
    }
}

fn some_configs() -> impl Strategy<Value = Vec<Config>> {
    let relaxed = prop_oneof![3 => Just(None), 1 => (1u32..4).prop_map(Some)];
    let config = (some_weights(), 0u64..5, relaxed).prop_map(|(weights, seed, relaxed)| Config {
        weights,
        seed,
        relaxed,
        ..Config::default()
    });
    prop::collection::vec(config, 2..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Two or three schedulers with policies and seeds of their own, each with a delay of its own.
    #[test]
    fn several_schedulers_come_to_one_cell_in_which_nobody_waits_in_vain(
        machines in prop::collection::vec(a_machine(), 1..8),
        configs in some_configs(),
        steps in prop::collection::vec(a_step(), 1..80),
    ) {
        let mut several = Several::new(machines, &configs);
        for step in &steps {
            several.step(step);
        }
        several.settle();
        several.check_settled();
    }
}

/// The law says nothing if they are never in each other's way.
#[test]
fn schedulers_are_in_each_others_way_and_go_on() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..64 {
        let given = (
            prop::collection::vec(a_machine(), 3..8),
            some_configs(),
            prop::collection::vec(a_step(), 80),
        );
        let (machines, configs, steps) = given.new_tree(&mut runner).unwrap().current();
        let mut several = Several::new(machines, &configs);
        steps.iter().for_each(|step| several.step(step));
        several.settle();
        (taken, refused) = (taken + several.taken, refused + several.refused);
    }
    assert!(refused > 100 && taken > 100, "{taken} taken, {refused} refused");
}
