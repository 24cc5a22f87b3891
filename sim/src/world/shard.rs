//! The link shard of a simulated Borgmaster with its poller, and what masters say to each other.

use super::{Asking, Happening, PeerMessage, PollId, World, index_of, machine, number};
use crate::checkers::Invariant;
use crate::marks::Mark;
use borg_cell::master::Input;
use borg_linkshard::{Effect as ShardEffect, Input as ShardInput, PollFailure};
use borg_proto::peer::{ShardOrders, ShardReport};
use borg_proto::poll::{PollAnswer, PollRefusal, PollRequest};
use borg_proto::wire::pb;
use borg_proto::{MachineName, Millis};

/// How often states are compared, as in production.
pub(crate) const COMPARE: Millis = Millis(10_000);

impl World {
    pub(crate) fn tell_shard(&mut self, index: usize, input: ShardInput) {
        let replica = &mut self.replicas[index];
        let life = replica.life;
        let Some(process) = &mut replica.process else { return };
        process.shard_inbox.push(input);
        if process.shard_inbox.len() == 1 {
            self.agenda.after(Millis(0), Happening::ShardTurn { replica: index, life });
        }
    }

    pub(crate) fn shard_wakes(&mut self, index: usize, life: u32) {
        let now = self.master_clock(index);
        let Some(process) = self.replicas[index].alive(life) else { return };
        if process.shard_wakes_at.is_none_or(|at| at > now) {
            return;
        }
        process.shard_wakes_at = None;
        if process.shard.next_due().is_some_and(|due| due <= now) {
            self.shard_turn(index, life);
        } else {
            self.plan_shard(index);
        }
    }

    pub(crate) fn shard_turn(&mut self, index: usize, life: u32) {
        let (now, world_now) = (self.master_clock(index), self.now());
        let paused_until = self.replicas[index].paused_until;
        let Some(process) = self.replicas[index].alive(life) else { return };
        if paused_until > world_now {
            let wait = super::replica::NUDGE.min(paused_until - world_now);
            return self.agenda.after(wait, Happening::ShardTurn { replica: index, life });
        }
        let inputs = std::mem::take(&mut process.shard_inbox);
        let effects = process.shard.handle(now, inputs);
        for effect in effects {
            match effect {
                ShardEffect::Poll { ticket, address, request, .. } => {
                    let machine = machine::host_at(&address);
                    let id = PollId { replica: index, life, machine, ticket };
                    let to_life = self.machines[machine].life;
                    self.send_poll(Asking { id, to_life, request });
                }
                ShardEffect::Push { .. } => unreachable!("no simulated job names packages"),
                ShardEffect::Forget(_) => {}
                ShardEffect::Report { to, report } => {
                    if report.deltas.iter().any(|delta| delta.full && delta.seq > 1) {
                        self.hit(Mark::FullReportAgain);
                    }
                    if to == self.replicas[index].id {
                        self.tell_master(index, Input::Report(report));
                    } else {
                        self.send_peer(index, index_of(to), PeerMessage::Report(Box::new(report)));
                    }
                }
            }
        }
        self.plan_shard(index);
    }

    fn plan_shard(&mut self, index: usize) {
        let now = self.master_clock(index);
        let replica = &mut self.replicas[index];
        let life = replica.life;
        let Some(process) = &mut replica.process else { return };
        let Some(due) = process.shard.next_due() else { return };
        // The production shell looks at the time every 10 ms.
        let due = due.max(now + Millis(1));
        if process.shard_wakes_at.is_none_or(|at| due < at) {
            process.shard_wakes_at = Some(due);
            let delay = replica.clock.until(due.since(now));
            self.agenda.after(delay, Happening::ShardWakes { replica: index, life });
        }
    }

    fn send_poll(&mut self, mut asking: Asking) {
        let PollId { replica, machine, ticket, .. } = asking.id;
        self.note(&[7, number(replica), number(machine), ticket]);
        if self.setup.wire {
            asking.request = PollRequest::try_from(pb::PollRequest::from(&asking.request))
                .expect("what a shard asks survives the wire");
        }
        let copies = self.network.send(&mut self.dice, replica, self.setup.masters + machine);
        let again = copies[1].is_some().then(|| asking.clone());
        if let (Some(delay), Some(asked)) = (copies[1], again) {
            self.agenda.after(delay, Happening::Poll { asked: Box::new(asked) });
        }
        if let Some(delay) = copies[0] {
            self.agenda.after(delay, Happening::Poll { asked: Box::new(asking) });
        }
    }

    /// A borglet's word reaches the poller.
    pub(crate) fn poll_answered(&mut self, asked: PollId, result: Result<PollAnswer, PollFailure>) {
        let PollId { replica, life, machine, ticket } = asked;
        if self.replicas[replica].alive(life).is_none() {
            return;
        }
        let name = self.machines[machine].name.clone();
        match &result {
            Err(PollFailure::Refused(PollRefusal::Stale { .. })) => {
                self.hit(Mark::StaleOrderRefused)
            }
            Err(PollFailure::Refused(PollRefusal::TargetMissing { .. })) => {
                self.hit(Mark::TargetMissing)
            }
            Err(
                PollFailure::Refused(PollRefusal::Cell { .. } | PollRefusal::Machine { .. })
                | PollFailure::Unreachable(_),
            )
            | Ok(_) => {}
        }
        let input = match result {
            Ok(answer) => ShardInput::Answered { machine: name, ticket, answer },
            Err(failure) => ShardInput::Failed { machine: name, ticket, failure },
        };
        self.tell_shard(replica, input);
    }

    pub(crate) fn send_peer(&mut self, from: usize, to: usize, message: PeerMessage) {
        let message = if self.setup.wire { over_the_wire(message) } else { message };
        let copies = self.network.send(&mut self.dice, from, to);
        if copies[1].is_some() {
            let again = message.clone();
            self.carry(
                copies,
                || Happening::Peer { from, to, message: again.clone() },
                Happening::Peer { from, to, message },
            );
        } else if let Some(delay) = copies[0] {
            self.agenda.after(delay, Happening::Peer { from, to, message });
        }
    }

    pub(crate) fn peer_message(&mut self, from: usize, to: usize, message: PeerMessage) {
        if self.replicas[to].process.is_none() {
            return;
        }
        let (kind, facts) = match &message {
            PeerMessage::Raft(raft) => {
                (u64::from(raft.r#type), [raft.term, raft.index, raft.commit])
            }
            PeerMessage::Orders(orders) => {
                (100, [orders.session.term, orders.session.session, number(orders.machines.len())])
            }
            PeerMessage::Report(report) => {
                (101, [report.session.term, report.session.session, number(report.deltas.len())])
            }
            PeerMessage::Digest { replica, index, .. } => (102, [replica.0, *index, 0]),
            PeerMessage::Fitness { replica, write_micros, level } => {
                (105, [replica.0, *write_micros, u64::from(*level)])
            }
            PeerMessage::Ask(ask) => (103, [ask.offset, ask.length.into(), 0]),
            PeerMessage::Piece(piece) => (104, [piece.offset, number(piece.data.len()), 0]),
        };
        self.note(&[8, number(from), number(to), kind, facts[0], facts[1], facts[2]]);
        match message {
            PeerMessage::Raft(message) => self.tell_master(to, Input::Raft(*message)),
            PeerMessage::Orders(orders) => self.tell_shard(to, ShardInput::Orders(*orders)),
            PeerMessage::Report(report) => self.tell_master(to, Input::Report(*report)),
            PeerMessage::Ask(ask) => {
                self.tell_master(to, Input::Ask { from: self.replicas[from].id, ask })
            }
            PeerMessage::Piece(piece) => {
                self.tell_master(to, Input::Piece { from: self.replicas[from].id, piece });
            }
            PeerMessage::Digest { replica, index, digest } => {
                self.tell_master(to, Input::PeerDigest { replica, index, digest });
            }
            PeerMessage::Fitness { replica, write_micros, level } => {
                self.tell_master(to, Input::Peer { replica, write_micros, level });
            }
        }
    }

    /// What a leader believes of these machines must be what they said.
    pub(crate) fn look_at_views(&mut self, index: usize, machines: &[MachineName]) {
        for name in machines {
            let Some(process) = &self.replicas[index].process else { return };
            let Some(id) = process.master.state().machine_named(name).map(|machine| machine.id)
            else {
                continue;
            };
            let Some(view) = process.master.report_of(id) else { continue };
            let term = process.master.term();
            let at = self.machines.iter().position(|host| host.name == *name);
            let at = at.expect("only machines of this world are added");
            let result = self.checks.views.believed(term, id, at, &view);
            self.check(Invariant::DeltaSound, result);
        }
    }

    /// Every master tells the others how it is, and what its state looked like.
    pub(crate) fn compare_digests(&mut self, index: usize, life: u32) {
        let Some(process) = self.replicas[index].alive(life) else { return };
        let status = process.master.status();
        let (newest, write_micros, level) =
            (status.digests.last().copied(), status.write_micros, status.level);
        self.agenda.after(COMPARE, Happening::DigestsCompared { replica: index, life });
        let replica = self.replicas[index].id;
        for to in (0..self.setup.masters).filter(|to| *to != index) {
            self.send_peer(index, to, PeerMessage::Fitness { replica, write_micros, level });
        }
        let Some((at, digest)) = newest else { return };
        for to in (0..self.setup.masters).filter(|to| *to != index) {
            self.send_peer(index, to, PeerMessage::Digest { replica, index: at, digest });
        }
    }
}

/// The message as the other side reads it.
fn over_the_wire(message: PeerMessage) -> PeerMessage {
    match message {
        PeerMessage::Orders(orders) => {
            let orders = ShardOrders::try_from(pb::ShardOrders::from(&*orders));
            PeerMessage::Orders(Box::new(orders.expect("a leader's orders survive the wire")))
        }
        PeerMessage::Report(report) => {
            let report = ShardReport::try_from(pb::ShardReport::from(&*report));
            PeerMessage::Report(Box::new(report.expect("a shard's report survives the wire")))
        }
        PeerMessage::Raft(_)
        | PeerMessage::Digest { .. }
        | PeerMessage::Fitness { .. }
        | PeerMessage::Ask(_)
        | PeerMessage::Piece(_) => message,
    }
}
