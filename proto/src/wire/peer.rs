//! The leader's orders to its link shards and their differences.

use super::cause::replica;
use super::data;
use super::error::{At, WireError, check_range, each, required};
use super::machine::check_address;
use super::pb;
use super::poll::{MAX_TASKS_PER_MACHINE, incarnation};
use crate::names::IncarnationId;
use crate::peer::{
    MachineAck, MachineDelta, ShardMachine, ShardOrders, ShardReport, ShardSession, ShardStamp,
};
use crate::poll::{Target, TargetDigest, TaskReport, Usage};
use crate::time::Millis;
use std::sync::Arc;

/// Most machines in one message: ten times the median cell of the Borg paper (section 2.2).
pub const MAX_MACHINES: usize = 100_000;
/// Most usages in one message.
pub const MAX_USAGES: usize = 1_000_000;

impl From<&ShardSession> for pb::ShardSession {
    fn from(s: &ShardSession) -> Self {
        Self { epoch: s.epoch, term: s.term, session: s.session }
    }
}

impl From<pb::ShardSession> for ShardSession {
    fn from(s: pb::ShardSession) -> Self {
        Self { epoch: s.epoch, term: s.term, session: s.session }
    }
}

impl From<ShardStamp> for pb::ShardStamp {
    fn from(s: ShardStamp) -> Self {
        Self { process: s.process, at_ms: s.at.0 }
    }
}

impl From<pb::ShardStamp> for ShardStamp {
    fn from(s: pb::ShardStamp) -> Self {
        Self { process: s.process, at: Millis(s.at_ms) }
    }
}

impl From<&ShardMachine> for pb::ShardMachine {
    fn from(m: &ShardMachine) -> Self {
        Self {
            machine: m.machine.to_string(),
            address: m.address.clone(),
            generation: m.generation,
            target: m.target.as_deref().map(Into::into),
            digest: m.digest.0,
        }
    }
}

impl TryFrom<pb::ShardMachine> for ShardMachine {
    type Error = WireError;
    fn try_from(m: pb::ShardMachine) -> Result<Self, WireError> {
        check_address("address", &m.address)?;
        Ok(Self {
            machine: m.machine.parse().at("machine")?,
            address: m.address,
            generation: m.generation,
            target: m.target.map(Target::try_from).transpose().at("target")?.map(Arc::new),
            digest: TargetDigest(m.digest),
        })
    }
}

impl From<&MachineAck> for pb::MachineSeq {
    fn from(ack: &MachineAck) -> Self {
        Self { machine: ack.machine.to_string(), seq: ack.seq, generation: ack.generation }
    }
}

impl TryFrom<pb::MachineSeq> for MachineAck {
    type Error = WireError;
    fn try_from(ack: pb::MachineSeq) -> Result<Self, WireError> {
        let machine = ack.machine.parse().at("machine")?;
        Ok(Self { machine, seq: ack.seq, generation: ack.generation })
    }
}

impl From<&ShardOrders> for pb::ShardOrders {
    fn from(o: &ShardOrders) -> Self {
        Self {
            session: Some((&o.session).into()),
            leader: o.leader.0,
            whole: o.whole,
            machines: o.machines.iter().map(Into::into).collect(),
            acks: o.acks.iter().map(Into::into).collect(),
            resync: o.resync.iter().map(ToString::to_string).collect(),
            confirmed: o.confirmed.map(Into::into),
        }
    }
}

impl TryFrom<pb::ShardOrders> for ShardOrders {
    type Error = WireError;
    fn try_from(o: pb::ShardOrders) -> Result<Self, WireError> {
        Ok(Self {
            session: required("session", o.session)?.into(),
            leader: replica(o.leader).at("leader")?,
            whole: o.whole,
            machines: each("machines", o.machines, MAX_MACHINES, ShardMachine::try_from)?,
            acks: each("acks", o.acks, MAX_MACHINES, MachineAck::try_from)?,
            resync: each("resync", o.resync, MAX_MACHINES, |name| name.parse())?,
            confirmed: o.confirmed.map(Into::into),
        })
    }
}

impl From<&MachineDelta> for pb::MachineDelta {
    fn from(d: &MachineDelta) -> Self {
        Self {
            machine: d.machine.to_string(),
            seq: d.seq,
            full: d.full,
            reachable: d.reachable,
            info: d.info.as_ref().map(Into::into),
            tasks: d.tasks.iter().map(Into::into).collect(),
            gone: d.gone.iter().map(Into::into).collect(),
            obeyed: d.obeyed,
            data: d
                .data
                .as_ref()
                .map(|data| pb::DataReports { data: data.iter().map(Into::into).collect() }),
        }
    }
}

impl TryFrom<pb::MachineDelta> for MachineDelta {
    type Error = WireError;
    fn try_from(d: pb::MachineDelta) -> Result<Self, WireError> {
        check_range("seq", d.seq, 1, u64::MAX)?;
        Ok(Self {
            machine: d.machine.parse().at("machine")?,
            seq: d.seq,
            full: d.full,
            reachable: d.reachable,
            obeyed: d.obeyed,
            info: d.info.map(TryInto::try_into).transpose().at("info")?,
            tasks: each("tasks", d.tasks, MAX_TASKS_PER_MACHINE, TaskReport::try_from)?,
            gone: each("gone", d.gone, MAX_TASKS_PER_MACHINE, IncarnationId::try_from)?,
            data: d.data.map(|data| data::read_reports(data.data)).transpose()?,
        })
    }
}

impl From<&ShardReport> for pb::ShardReport {
    fn from(r: &ShardReport) -> Self {
        let usage = |(id, usage): &(IncarnationId, Usage)| pb::TaskUsage {
            id: Some(id.into()),
            usage: Some(usage.into()),
        };
        Self {
            session: Some((&r.session).into()),
            from: r.from.0,
            deltas: r.deltas.iter().map(Into::into).collect(),
            usage: r.usage.iter().map(usage).collect(),
            stamp: r.stamp.map(Into::into),
            wanting: r.wanting.iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<pb::ShardReport> for ShardReport {
    type Error = WireError;
    fn try_from(r: pb::ShardReport) -> Result<Self, WireError> {
        let usage = |u: pb::TaskUsage| -> Result<_, WireError> {
            Ok((incarnation("id", u.id)?, required("usage", u.usage)?.into()))
        };
        Ok(Self {
            session: required("session", r.session)?.into(),
            from: replica(r.from).at("from")?,
            deltas: each("deltas", r.deltas, MAX_MACHINES, MachineDelta::try_from)?,
            usage: each("usage", r.usage, MAX_USAGES, usage)?,
            stamp: r.stamp.map(Into::into),
            wanting: each("wanting", r.wanting, MAX_MACHINES, |name| name.parse())?,
        })
    }
}
