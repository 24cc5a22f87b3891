//! The scheduler's thread of a simulated Borgmaster: news is merged in a letter, and read a little
//! later; while its master leads, every look ends in a pass, and a pass takes its time. As in production
//! it survives a panic over one job, which is a violation all the same.

use super::{Happening, World, number};
use crate::checkers::Invariant;
use crate::checkers::decisions::Recording;
use crate::marks::Mark;
use borg_cell::event::Event;
use borg_cell::master::Input;
use borg_cell::state::CellState;
use borg_proto::command::Assignment;
use borg_proto::reclamation::Amounts;
use borg_proto::{IncarnationId, Millis, TaskId};
use borg_scheduler::{Scheduler, SetAside};
use std::collections::{BTreeMap, BTreeSet};

/// Placements proposed at once, as in production.
const BATCH: usize = 512;
/// Longest sleep of the scheduler, as in production.
const NAP: Millis = Millis(500);

/// What the scheduler has to look at when it next can.
#[derive(Debug, Default)]
pub(crate) struct Letter {
    pub(crate) state: Option<CellState>,
    pub(crate) events: Vec<Event>,
    pub(crate) afresh: bool,
    pub(crate) leads: Option<bool>,
    pub(crate) lent: BTreeMap<IncarnationId, Amounts>,
    pub(crate) lent_afresh: bool,
    pub(crate) reconsider: Vec<TaskId>,
}

/// Takes over what a letter says.
fn heed(scheduler: &mut Scheduler, letter: &Letter) {
    if let Some(state) = &letter.state {
        if letter.afresh {
            scheduler.start_afresh(state);
        } else {
            scheduler.follow(state.clone(), &letter.events);
        }
    }
    if letter.lent_afresh || letter.leads == Some(false) {
        scheduler.lend_nothing();
    }
    scheduler.lend(&letter.lent.iter().map(|(id, lent)| (*id, *lent)).collect::<Vec<_>>());
    for task in &letter.reconsider {
        scheduler.refused(*task);
    }
}

impl World {
    pub(crate) fn reconsider(&mut self, index: usize, tasks: Vec<TaskId>) {
        let Some(process) = &mut self.replicas[index].process else { return };
        process.letter.reconsider.extend(tasks);
        self.wake_scheduler(index, Millis(0));
    }

    pub(crate) fn lend(&mut self, index: usize, afresh: bool, news: Vec<(IncarnationId, Amounts)>) {
        let Some(process) = &mut self.replicas[index].process else { return };
        if afresh {
            process.letter.lent.clear();
            process.letter.lent_afresh = true;
        }
        process.letter.lent.extend(news);
        self.wake_scheduler(index, Millis(0));
    }

    pub(crate) fn wake_scheduler(&mut self, index: usize, delay: Millis) {
        let replica = &mut self.replicas[index];
        let life = replica.life;
        let Some(process) = &mut replica.process else { return };
        if !process.scheduler_due {
            process.scheduler_due = true;
            self.agenda.after(delay, Happening::SchedulerWakes { replica: index, life });
        }
    }

    pub(crate) fn scheduler_wakes(&mut self, index: usize, life: u32) {
        let (now, world_now) = (self.master_clock(index), self.now());
        let paused_until = self.replicas[index].paused_until;
        let Some(process) = self.replicas[index].alive(life) else { return };
        if paused_until > world_now {
            let wait = super::replica::NUDGE.min(paused_until - world_now);
            return self.agenda.after(wait, Happening::SchedulerWakes { replica: index, life });
        }
        process.scheduler_due = false;
        let may_place = process.master.may_place(now);
        let silent: BTreeSet<_> =
            process.master.silent(now).into_iter().map(|(id, _)| id).collect();
        let now = process.master.cell_time(now);
        let letter = std::mem::take(&mut process.letter);
        process.leads = letter.leads.unwrap_or(process.leads);
        let leads = process.leads;
        let attend = |(scheduler, recording): (&mut Scheduler, &mut Recording)| {
            scheduler.avoid(silent.clone());
            recording.heeds(&silent, &letter);
            let decided = scheduler.survive(|scheduler| {
                heed(scheduler, &letter);
                (leads && may_place).then(|| scheduler.pass(now, BATCH))
            })?;
            if let Some(decided) = &decided {
                recording.decides(now, BATCH, decided);
            }
            Ok(decided.unwrap_or_default())
        };
        let both = process.schedulers.iter_mut().zip(&mut process.recordings);
        let attended: Result<Vec<_>, Vec<SetAside>> = both.map(attend).collect();
        let decided = match attended {
            Ok(decided) => decided,
            Err(blamed) => {
                let what = format!("a scheduler of master {} panicked: {blamed:?}", index + 1);
                return self.check(Invariant::NoPanic, Err(what));
            }
        };
        if !leads {
            return;
        }
        if !may_place {
            // A restored cell hears its machines out first.
            return self.wake_scheduler(index, NAP);
        }
        if decided.iter().all(Vec::is_empty) {
            let wakes = process.schedulers.iter().filter_map(|s| s.next_wakeup(now)).min();
            let wake = wakes.map_or(NAP, |at| at.since(now));
            self.wake_scheduler(index, Millis(wake.0.clamp(1, NAP.0)));
            return;
        }
        // Until it has decided it looks at nothing else, and the state goes on meanwhile.
        process.scheduler_due = true;
        if let [one, two] = &decided[..]
            && one.iter().any(|one| two.iter().any(|two| two.task == one.task))
        {
            self.hit(Mark::DecidedTwice);
        }
        for decisions in decided.into_iter().filter(|decisions| !decisions.is_empty()) {
            let (count, first) = (number(decisions.len()), decisions[0].task.job.0);
            self.note(&[6, number(index), count, first]);
            let took = Millis(self.dice.between(0, self.setup.scheduler_lag));
            let decided = Happening::SchedulerDecided { replica: index, life, decisions };
            self.agenda.after(took, decided);
        }
    }

    pub(crate) fn scheduler_decided(
        &mut self,
        index: usize,
        life: u32,
        decisions: Vec<Assignment>,
    ) {
        let Some(process) = self.replicas[index].alive(life) else { return };
        process.scheduler_due = false;
        if self.journal.is_read() {
            let what = self.decided(&decisions);
            self.say(|| format!("scheduler of master {} decides: {what}", index + 1));
        }
        self.tell_master(index, Input::Decisions(decisions));
        self.wake_scheduler(index, Millis(1));
    }
}
