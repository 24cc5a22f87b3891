//! Copies of a scheduler share memory, and nothing else: what happens in one is never seen in the other.

use super::fixture::{Cell, EVERYTHING};
use super::laws::{Op, a_machine, an_op, carry_out, some_weights};
use crate::{Config, Scheduler};
use borg_proto::command::Assignment;
use proptest::prelude::*;

/// A cell and the scheduler that knows it.
#[derive(Clone)]
struct Side {
    cell: Cell,
    scheduler: Scheduler,
}

impl Side {
    /// Something happens, is followed, and leads to decisions, which are applied and followed too. `alone`
    /// lets go of the state while it changes.
    fn live(&mut self, op: &Op, alone: bool) -> Vec<Assignment> {
        if alone {
            self.scheduler.let_go();
        }
        carry_out(&mut self.cell, op);
        self.cell.tell(&mut self.scheduler);
        let decisions = self.scheduler.pass(self.cell.now, EVERYTHING);
        if alone {
            self.scheduler.let_go();
        }
        self.cell.place(&decisions);
        self.cell.tell(&mut self.scheduler);
        decisions
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_fork_and_its_origin_decide_alike_and_see_nothing_of_each_other(
        machines in prop::collection::vec(a_machine(), 1..80),
        weights in some_weights(),
        before in prop::collection::vec(an_op(), 1..12),
        aside in prop::collection::vec(an_op(), 1..8),
        after in prop::collection::vec(an_op(), 1..12),
        caches in any::<bool>(),
    ) {
        let mut cell = Cell::new();
        for info in machines {
            cell.add_machine(info);
        }
        let config = Config { weights, caches, ..Config::default() };
        let scheduler = Scheduler::new(&cell.state, config);
        cell.news.clear();
        let mut origin = Side { cell, scheduler };
        for op in &before {
            origin.live(op, false);
        }
        let (mut fork, was) = (origin.clone(), origin.scheduler.contents());
        let mut astray = origin.clone();
        for op in &aside {
            astray.live(op, false);
        }
        prop_assert_eq!(&origin.scheduler.contents(), &was);
        prop_assert_eq!(&fork.scheduler.contents(), &was);
        for op in &after {
            let decided = origin.live(op, false);
            prop_assert_eq!(fork.live(op, true), decided);
        }
        prop_assert_eq!(fork.scheduler.contents(), origin.scheduler.contents());
        prop_assert_eq!(fork.cell.state.digest(), origin.cell.state.digest());
    }
}
