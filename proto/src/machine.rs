//! A machine as the cell knows it.

use crate::names::MachineName;
use crate::resources::Resources;
use crate::time::Millis;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Number of a machine, given by the cell, dense from 0, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MachineId(pub u32);

/// Share of its memory and of its disk that a machine keeps for its system, in hundredths: tasks are given the rest.
/// Our choice.
pub const RESERVE_PERCENT: u64 = 5;
/// The attribute of a machine that says whether tasks with an image run there.
pub const IMAGES: &str = "images";
/// Its value where none does; machines that run them have no such attribute.
pub const NO_IMAGES: &str = "no";
/// Most machines that one change of access may name. 1,000: our choice; a tenth of a large cell.
pub const MAX_ACCESS_MACHINES: usize = 1_000;
/// Most machines that one order to drain may name. 10,000: our choice; the median cell of the Borg paper.
pub const MAX_DRAIN_MACHINES: usize = 10_000;
/// The longest that machines may take to become empty. 30 days: our choice; what takes longer is no
/// maintenance.
pub const MAX_DRAIN_TIME: Millis = Millis::from_secs(30 * 86_400);
/// Most users for whom one machine may be kept. 64: our choice; more is a team, and may share a user.
pub const MAX_KEPT_FOR: usize = 64;
/// Longest reason for which a machine is closed, in bytes: our choice, a line or two of a terminal.
pub const MAX_REASON_BYTES: usize = 256;

/// What a borglet says of its machine. Changes are events of the cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// What tasks may use in all. `ports` is the length of `port_range`.
    pub capacity: Resources,
    /// First port that may be handed out.
    pub first_port: u16,
    /// Facts for constraints: `arch`, `kernel`, `rack`, labels.
    pub attributes: BTreeMap<String, String>,
    /// Changes with every boot of the machine.
    pub boot_id: String,
    /// Which kinds of isolation the machine lacks, for people; empty when all are there.
    pub missing_isolation: Vec<String>,
    /// Host on which tasks listen, as other machines reach it.
    pub task_host: String,
}

/// A machine that the operator has added: where its borglet listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineAddress {
    /// Its name, which its certificate must carry.
    pub name: MachineName,
    /// `host:port` of its borglet.
    pub address: String,
}
