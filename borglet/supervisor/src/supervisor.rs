//! The supervisor: fencing, the comparison of target and actual, and the answers it holds back.

use crate::turn::{Adopted, Config, Counts, Effect, Input};
use borg_proto::poll::{Fence, MachineReport, ReportVersion};
use borg_proto::{MachineInfo, Millis};

/// Decides for one machine.
#[derive(Debug)]
pub struct Supervisor {
    config: Config,
    info: MachineInfo,
    obeyed: Fence,
}

impl Supervisor {
    /// Starts from what an earlier process left: the fence it remembered and its containers.
    #[must_use]
    pub fn new(
        config: Config,
        remembered: Fence,
        adopted: Vec<Adopted>,
        info: MachineInfo,
    ) -> Self {
        let _ = adopted;
        Self { config, info, obeyed: remembered }
    }

    /// Takes one input at moment `now` and returns what is to be done, in order.
    pub fn handle(&mut self, now: Millis, input: Input) -> Vec<Effect> {
        let _ = (now, input);
        Vec::new()
    }

    /// When the next `Tick` is due; `None` while only other inputs can change anything.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<Millis> {
        None
    }

    /// The present report.
    #[must_use]
    pub fn report(&self) -> (ReportVersion, MachineReport) {
        let version = ReportVersion { session: self.config.session, number: 1 };
        (version, MachineReport { info: self.info.clone(), tasks: Vec::new() })
    }

    /// The newest order obeyed.
    #[must_use]
    pub const fn obeyed(&self) -> Fence {
        self.obeyed
    }

    /// How many incarnations are in which state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}
