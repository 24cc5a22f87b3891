//! All masters are lost, with their disks, and the cell goes on from a backup (I29).

use super::client::{ADMIN_CLIENT, Asked, add_machine};
use super::masters::address;
use super::{World, number};
use crate::marks::Mark;
use borg_cell::state::CellState;
use borg_cell::store::{CheckpointDraft, ReplicaIdentity};
use borg_proto::Millis;

impl World {
    /// Ends all masters and starts them again on empty disks, from a state that the cell once had.
    /// What machines have and the backup does not know is spared for `spare` after the first leader.
    /// What was acknowledged after the backup is forgotten by all, those who check included. Machines
    /// that the backup lacks are added again.
    ///
    /// # Panics
    /// When the state that a backup founds lacks one of its masters.
    pub fn restore(&mut self, backup: &CellState, spare: Millis) {
        let masters = self.setup.masters;
        for master in 0..masters {
            self.crash_master(master);
        }
        let all: Vec<_> = (0..masters).map(|at| (number(at) + 1, address(at))).collect();
        let (state, place) = backup.clone().refound(&all, spare);
        self.say(|| format!("the cell goes on from a backup, in epoch {}", state.epoch()));
        for master in 0..masters {
            let id = state.master_numbered(number(master) + 1).expect("it was just appointed");
            let identity = ReplicaIdentity {
                cell: state.cell().to_string(),
                replica: id.0,
                epoch: state.epoch(),
            };
            let replica = &mut self.replicas[master];
            replica.id = id;
            replica.joining = false;
            replica.disk.wipe();
            replica.disk.found(
                &identity,
                &CheckpointDraft {
                    place,
                    membership: &state.founding_membership(),
                    at: state.clock(),
                    state: &state.encode(),
                    log: &[],
                },
            );
        }
        self.checks.restored(masters, &state);
        self.newest = state;
        self.spared_until = Some(self.now() + spare);
        self.hit(Mark::Restored);
        for master in 0..masters {
            self.start_master(master);
        }
        // As an operator would who finds them missing.
        for index in 0..self.machines.len() {
            if self.newest.machine_named(&self.machines[index].name).is_none() {
                self.wish(ADMIN_CLIENT, Asked::Change(add_machine(self, index)));
            }
        }
    }
}
