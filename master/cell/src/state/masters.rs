//! The masters of the cell: who is one, where it listens, and who is on the way in or out.
//!
//! People invite and remove masters by number; a process that has no log joins under a name of its
//! own ([`ReplicaId`]: the number, and a life that was never used before). The leader makes Raft's
//! configuration follow this table, one step at a time (`replica::members`), and the entries by
//! which it does so lead the table on.
//!
//! Invariants: a replica's id is used by one log only, ever: whoever lost its log comes back as
//! another replica, so that nothing it has forgotten counts. One change is under way at a time. The
//! table never loses the last voter.

use super::{Answer, CellState};
use crate::event::EventKind;
use crate::rejection::Rejection;
use crate::state::turn::Turn;
use crate::store::Membership;
use borg_proto::ReplicaId;

/// Most masters in the table, those on their way in and out included. Ours: Raft works with up to
/// 64; more than nine only slow it down.
pub const MAX_MASTERS: usize = 16;

/// One master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MasterRecord {
    /// `HOST:PORT`, as the others reach it.
    pub address: String,
    /// Where it stands.
    pub standing: Standing,
    /// Chosen by the process that joined as it, so that asking again is recognised, however late;
    /// 0 when none did.
    pub token: u64,
}

/// Where a master stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It may join; nothing was heard of it yet.
    Invited {
        /// Whose place it takes.
        replaces: Option<ReplicaId>,
    },
    /// It takes the log and the state, and does not vote yet.
    Joining {
        /// Whose place it takes.
        replaces: Option<ReplicaId>,
    },
    /// It votes.
    Voting,
    /// It is being taken out.
    Leaving,
}

impl CellState {
    /// The masters, by replica id. Empty in a state that an older version made.
    pub fn masters(&self) -> impl Iterator<Item = (ReplicaId, &MasterRecord)> {
        self.masters.iter().map(|(id, record)| (*id, record))
    }

    /// One master.
    #[must_use]
    pub fn master(&self, id: ReplicaId) -> Option<&MasterRecord> {
        self.masters.get(&id)
    }

    /// The newest life of a master's number.
    #[must_use]
    pub fn master_numbered(&self, number: u64) -> Option<ReplicaId> {
        self.masters.keys().filter(|id| id.number() == number).max().copied()
    }

    /// The newest life that was given to a master. Whoever has one up to this and is not in the table
    /// was taken out.
    #[must_use]
    pub fn master_lives(&self) -> u64 {
        self.master_lives
    }

    fn voting(&self) -> impl Iterator<Item = ReplicaId> {
        let votes = |record: &MasterRecord| matches!(record.standing, Standing::Voting);
        self.masters.iter().filter(move |(_, record)| votes(record)).map(|(id, _)| *id)
    }

    /// A change of masters that is not complete yet.
    #[must_use]
    pub fn masters_changing(&self) -> Option<ReplicaId> {
        let settled = |record: &MasterRecord| matches!(record.standing, Standing::Voting);
        self.masters.iter().find(|(_, record)| !settled(record)).map(|(id, _)| *id)
    }

    /// A master that is on its way in or out, and not only invited.
    fn masters_moving(&self) -> Option<ReplicaId> {
        let moves = |record: &MasterRecord| {
            matches!(record.standing, Standing::Joining { .. } | Standing::Leaving)
        };
        self.masters.iter().find(|(_, record)| moves(record)).map(|(id, _)| *id)
    }

    /// Leads the table on after Raft's configuration became `members`. True when it changed.
    pub(crate) fn follow_members(&mut self, members: &Membership) -> bool {
        let before = self.masters.clone();
        let lists = [&members.voters, &members.voters_outgoing, &members.learners];
        let mut next = imbl::OrdMap::new();
        for (id, record) in &self.masters {
            let there = lists.iter().any(|list| list.contains(&id.0));
            let votes = members.voters.contains(&id.0);
            let standing = match record.standing {
                Standing::Joining { .. } if votes => Standing::Voting,
                Standing::Voting | Standing::Leaving if !there => continue,
                Standing::Voting if !votes => Standing::Leaving,
                standing @ (Standing::Invited { .. }
                | Standing::Joining { .. }
                | Standing::Voting
                | Standing::Leaving) => standing,
            };
            next.insert(*id, MasterRecord { standing, ..record.clone() });
        }
        self.masters = next;
        self.masters != before
    }
}

impl Turn<'_> {
    /// An operator lets a number join.
    pub(super) fn invite_master(
        &mut self,
        number: u64,
        address: &str,
        replaces: Option<u64>,
    ) -> Result<Answer, Rejection> {
        let replaces = replaces.map(|number| self.known(number)).transpose()?;
        if let Some(changing) = self.state.masters_changing() {
            return Err(Rejection::MastersChanging { master: changing });
        }
        if self.state.master_numbered(number).is_some() {
            return Err(Rejection::MasterExists { number });
        }
        self.address_free(number, address, replaces)?;
        let id = self.new_life(number)?;
        self.set(id, address, Standing::Invited { replaces }, 0);
        Ok(Answer::Master(id))
    }

    /// A process without a log asks to be a master: an invited one, or one that lost its log.
    pub(super) fn join_master(
        &mut self,
        number: u64,
        address: &str,
        token: u64,
    ) -> Result<Answer, Rejection> {
        let known = self.known(number)?;
        let record = self.state.masters[&known].clone();
        if token != 0 && record.token == token {
            return Ok(Answer::Master(known));
        }
        let replaced = match record.standing {
            Standing::Invited { replaces } | Standing::Joining { replaces } => replaces,
            Standing::Voting | Standing::Leaving => None,
        };
        self.address_free(number, address, replaced)?;
        let (id, replaces) = match record.standing {
            Standing::Invited { replaces } => (known, replaces),
            // It lost its log on the way in: what it was is taken out again.
            Standing::Joining { replaces } => {
                let id = self.new_life(number)?;
                self.set(known, &record.address, Standing::Leaving, record.token);
                (id, replaces)
            }
            Standing::Voting => {
                // An invitation that nobody follows must not keep a master from repairing itself.
                if let Some(changing) = self.state.masters_moving() {
                    return Err(Rejection::MastersChanging { master: changing });
                }
                (self.new_life(number)?, Some(known))
            }
            Standing::Leaving => return Err(Rejection::MastersChanging { master: known }),
        };
        self.set(id, address, Standing::Joining { replaces }, token);
        Ok(Answer::Master(id))
    }

    /// An operator takes a master out, or takes an invitation back.
    pub(super) fn remove_master(&mut self, number: u64) -> Result<Answer, Rejection> {
        let id = self.known(number)?;
        match self.state.masters[&id].standing {
            Standing::Invited { .. } => {
                self.state.masters.remove(&id);
                self.emit(EventKind::MastersChanged);
                return Ok(Answer::Master(id));
            }
            // That is how a join that leads nowhere is given up.
            Standing::Joining { .. } => {}
            Standing::Leaving => return Ok(Answer::Master(id)),
            Standing::Voting => {
                if let Some(changing) = self.state.masters_changing() {
                    return Err(Rejection::MastersChanging { master: changing });
                }
                if self.state.voting().count() == 1 {
                    return Err(Rejection::LastMaster { number });
                }
            }
        }
        let MasterRecord { address, token, .. } = self.state.masters[&id].clone();
        self.set(id, &address, Standing::Leaving, token);
        Ok(Answer::Master(id))
    }

    /// The leader found that a master on its way out is in no configuration of Raft's any more.
    pub(super) fn forget_master(&mut self, id: ReplicaId) -> Result<Answer, Rejection> {
        let standing = self.state.master(id).map(|record| record.standing);
        if standing != Some(Standing::Leaving) {
            return Err(Rejection::NoSuchMaster { number: id.number() });
        }
        self.state.masters.remove(&id);
        self.emit(EventKind::MastersChanged);
        Ok(Answer::None)
    }

    /// Two masters at one address: one of them would never be reached, and count as a voter. The master that
    /// is replaced may hand its address on.
    fn address_free(
        &self,
        number: u64,
        address: &str,
        replaced: Option<ReplicaId>,
    ) -> Result<(), Rejection> {
        let taken = self.state.masters.iter().find(|(id, record)| {
            record.address == address && id.number() != number && replaced != Some(**id)
        });
        match taken {
            Some((id, _)) => {
                let (number, address) = (id.number(), address.to_owned());
                Err(Rejection::AddressTaken { number, address })
            }
            None => Ok(()),
        }
    }

    fn known(&self, number: u64) -> Result<ReplicaId, Rejection> {
        self.state.master_numbered(number).ok_or(Rejection::NoSuchMaster { number })
    }

    /// An id that no log was ever made under.
    fn new_life(&mut self, number: u64) -> Result<ReplicaId, Rejection> {
        let (there, most) = (self.state.masters.len() as u64, MAX_MASTERS as u64);
        if there >= most {
            return Err(Rejection::CellFull { what: "masters".into(), there, most });
        }
        self.state.master_lives += 1;
        Ok(ReplicaId::of_life(number, self.state.master_lives))
    }

    fn set(&mut self, id: ReplicaId, address: &str, standing: Standing, token: u64) {
        let record = MasterRecord { address: address.to_owned(), standing, token };
        self.state.masters.insert(id, record);
        self.emit(EventKind::MastersChanged);
    }
}
