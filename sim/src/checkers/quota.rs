//! I14: what is admitted in an enforced band is within its user's quota.
//!
//! Adds the limits of live tasks up anew, from the specifications in the state; shares nothing with
//! what the cell reckons with. That what the cell remembers is the same sum is for its audit.

use borg_cell::event::{Event, EventKind};
use borg_cell::state::{CellState, Job};
use borg_proto::{Band, JobKind, Resources, UserName};
use std::collections::BTreeMap;

/// Looks at jobs that were accepted by entries that led to `state`. Nothing but another job but a daemon makes a user
/// use more, so after the last one of a user and band what is used in the end is within the quota of
/// its moment. Where quota or allocs changed in the same breath nothing is known of that moment.
///
/// # Errors
/// Who was admitted beyond the quota.
pub fn admitted(events: &[Event], state: &CellState) -> Result<(), String> {
    let mut last: BTreeMap<(&UserName, Band), (&Event, &Job)> = BTreeMap::new();
    for event in events {
        match &event.kind {
            EventKind::QuotaChanged(_)
            | EventKind::AllocsResized(_)
            | EventKind::JobUpdated { .. } => return Ok(()),
            EventKind::JobSubmitted(id) => {
                // What a daemon takes grows with the machines, beyond the quota if need be; a cron job
                // takes nothing, its runs are asked for one by one.
                let stands = |job: &&Job| job.spec.kind.stands();
                let Some(job) = state.job(*id).filter(|job| !stands(job)) else { continue };
                last.insert((job.owner(), job.priority().band()), (event, job));
            }
            EventKind::MachineAdded(_)
            | EventKind::MachineAccess(..)
            | EventKind::PolicyChanged
            | EventKind::ReclamationChanged
            | EventKind::Maintenance { .. }
            | EventKind::PackagePut(_)
            | EventKind::PackageRemoved(_)
            | EventKind::PrivilegeChanged { .. }
            | EventKind::MachineChanged(_)
            | EventKind::MachineRemoved(..)
            | EventKind::JobChanged { .. }
            | EventKind::JobForgotten(..)
            | EventKind::CronChanged(_)
            | EventKind::DataChanged { .. }
            | EventKind::TaskChanged { .. }
            | EventKind::MastersChanged
            | EventKind::SafeMode { .. }
            | EventKind::Led { .. } => {}
        }
    }
    for ((user, band), (event, job)) in last {
        if !state.enforces_quota(band) {
            continue;
        }
        let mut grants = state.quota_of(user, band).iter();
        let Some(grant) = grants.find(|grant| grant.in_force(event.at)) else {
            return Err(format!("{} was admitted in {band} without quota", job.key));
        };
        let used = used(state, user, band);
        let asked = job.spec.charged();
        for (what, asked, used, most) in [
            ("millicores", asked.cpu_milli, used.cpu_milli, grant.amount.cpu_milli),
            ("bytes of memory", asked.ram_bytes, used.ram_bytes, grant.amount.ram_bytes),
            ("bytes of disk", asked.disk_bytes, used.disk_bytes, grant.amount.disk_bytes),
            ("ports", asked.ports.into(), used.ports.into(), grant.amount.ports.into()),
        ] {
            if asked > 0 && used > most {
                let key = &job.key;
                return Err(format!("{key}: {user} has {used} {what} in {band}, quota is {most}"));
            }
        }
    }
    Ok(())
}

fn used(state: &CellState, user: &UserName, band: Band) -> Resources {
    let counts = |job: &&Job| job.owner() == user && job.priority().band() == band;
    let jobs = state.jobs().filter(counts).filter(|job| job.spec.kind != JobKind::Daemon);
    let live = jobs.flat_map(|job| {
        // Of each resource as much as any version takes that tasks may go back to.
        let held = job.held_versions().map(|version| version.spec.charged());
        let most = held.reduce(|most, asked| most.at_least(&asked)).unwrap_or_default();
        let tasks = state.tasks_of(job.id).filter(|(_, task)| !task.is_dead());
        tasks.map(move |_| most.clone())
    });
    live.fold(Resources::default(), |sum, asked| sum.plus(&asked))
}
