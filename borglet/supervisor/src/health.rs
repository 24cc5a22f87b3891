//! Whether a task works: from what its probes came to, to a verdict (docs/adr/0023).
//!
//! Says when to probe and what the answers mean; probing is the shell's, ending an unhealthy task the
//! supervisor's. Invariant: at most one probe of a task is under way, and a probe that began and whose answer
//! never comes is a failure; none is for having waited for its turn.

use borg_proto::health::{Health, HealthCheck};
use borg_proto::{Millis, poll::TargetTask};

use crate::turn::ProbeAt;
use borg_proto::health::Probe;

/// Longest time between two probes of a task that is starting, so that callers are sent to it soon.
/// A second: our choice.
const STARTING_EVERY: Millis = Millis(1_000);
/// How long after a probe's time its answer is waited for: the machine may be busy. Our choice.
const ANSWER_SLACK: Millis = Millis(5_000);

/// How a task is, and what is asked of it next.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Checkup {
    verdict: Health,
    /// Failures since the last success.
    failures: u32,
    next: Next,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It has no check, or no process, or the verdict is final.
    #[default]
    Nothing,
    /// A probe is due.
    Probe(Millis),
    /// A probe is ordered, and waits for its turn.
    Begin,
    /// A probe is under way; after this moment it counts as failed.
    Answer(Millis),
}

/// What a moment asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Probe,
    /// The answer to the last probe did not come.
    Unanswered,
}

impl Checkup {
    /// For a process that is there now.
    pub(crate) fn of_new_process(now: Millis, check: Option<&HealthCheck>) -> Self {
        match check {
            None => Self::default(),
            Some(_) => Self { verdict: Health::Starting, failures: 0, next: Next::Probe(now) },
        }
    }

    pub(crate) const fn verdict(&self) -> Health {
        self.verdict
    }

    /// When time alone asks for something.
    pub(crate) const fn due(&self) -> Option<Millis> {
        match self.next {
            Next::Nothing | Next::Begin => None,
            Next::Probe(at) | Next::Answer(at) => Some(at),
        }
    }

    /// Takes note of the time. What it says to do must be done.
    pub(crate) fn at(&mut self, now: Millis) -> Due {
        match self.next {
            Next::Probe(at) if at <= now => {
                self.next = Next::Begin;
                Due::Probe
            }
            Next::Answer(until) if until <= now => Due::Unanswered,
            Next::Nothing | Next::Probe(_) | Next::Begin | Next::Answer(_) => Due::Nothing,
        }
    }

    /// The probe that was ordered begins.
    pub(crate) fn begun(&mut self, now: Millis, check: &HealthCheck) {
        if self.next == Next::Begin {
            self.next = Next::Answer(now + check.timeout_ms + ANSWER_SLACK);
        }
    }

    /// Takes an answer, for a process that runs `since` then. Whether the verdict is another one now.
    pub(crate) fn answered(
        &mut self,
        now: Millis,
        since: Millis,
        check: &HealthCheck,
        well: bool,
    ) -> bool {
        if !matches!(self.next, Next::Begin | Next::Answer(_)) {
            return false;
        }
        let before = self.verdict;
        let forgiven = before == Health::Starting && now < since + check.grace_ms;
        match (well, forgiven) {
            (true, _) => (self.verdict, self.failures) = (Health::Healthy, 0),
            (false, true) => {}
            (false, false) => self.failures = self.failures.saturating_add(1),
        }
        if self.failures >= check.failures {
            self.verdict = Health::Unhealthy;
            self.next = Next::Nothing;
        } else {
            let starting = self.verdict == Health::Starting;
            let every = check.interval_ms;
            self.next = Next::Probe(now + if starting { every.min(STARTING_EVERY) } else { every });
        }
        self.verdict != before
    }
}

/// What to probe for a task; `None` when it has no check, or the machine does not know its ports.
pub(crate) fn probe_of(task: &TargetTask) -> Option<ProbeAt> {
    let number = |name| {
        let place = task.spec.ports.iter().position(|port| port == name)?;
        task.ports.get(place).copied()
    };
    Some(match &task.spec.health.as_ref()?.probe {
        Probe::Http { port, path } => ProbeAt::Http { port: number(port)?, path: path.clone() },
        Probe::Tcp { port } => ProbeAt::Tcp { port: number(port)? },
        Probe::Command(words) => ProbeAt::Command(words.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check() -> HealthCheck {
        let mut check = HealthCheck::new(Probe::Tcp { port: "http".parse().unwrap() });
        (check.grace_ms, check.interval_ms, check.failures) = (Millis(5_000), Millis(2_000), 2);
        check
    }

    /// Probes at `now` and answers at once.
    fn probe(checkup: &mut Checkup, now: u64, well: bool) -> Health {
        assert_eq!(checkup.at(Millis(now)), Due::Probe, "at {now}");
        checkup.answered(Millis(now), Millis(0), &check(), well);
        checkup.verdict()
    }

    #[test]
    fn failures_while_it_starts_do_not_count_and_then_they_do() {
        let mut checkup = Checkup::of_new_process(Millis(0), Some(&check()));
        for now in [0, 1_000, 2_000, 3_000, 4_000] {
            assert_eq!(probe(&mut checkup, now, false), Health::Starting);
        }
        assert_eq!(probe(&mut checkup, 5_000, false), Health::Starting, "the first that counts");
        assert_eq!(probe(&mut checkup, 6_000, false), Health::Unhealthy);
        assert_eq!(checkup.due(), None, "the verdict is final");
    }

    #[test]
    fn a_success_ends_the_start_and_forgives_what_failed_before() {
        let mut checkup = Checkup::of_new_process(Millis(0), Some(&check()));
        assert_eq!(probe(&mut checkup, 0, true), Health::Healthy);
        assert_eq!(checkup.due(), Some(Millis(2_000)));
        assert_eq!(probe(&mut checkup, 2_000, false), Health::Healthy, "one of two");
        assert_eq!(probe(&mut checkup, 4_000, true), Health::Healthy);
        assert_eq!(probe(&mut checkup, 6_000, false), Health::Healthy, "one of two again");
        assert_eq!(probe(&mut checkup, 8_000, false), Health::Unhealthy);
    }

    #[test]
    fn one_probe_at_a_time_and_one_without_an_answer_has_failed() {
        let mut checkup = Checkup::of_new_process(Millis(0), Some(&check()));
        assert_eq!(checkup.at(Millis(2_000)), Due::Probe);
        assert_eq!(checkup.at(Millis(8_999)), Due::Nothing, "it waits for its turn");
        assert_eq!(checkup.due(), None);
        checkup.begun(Millis(9_000), &check());
        checkup.begun(Millis(14_000), &check());
        assert_eq!(checkup.at(Millis(15_000)), Due::Unanswered);
        checkup.answered(Millis(15_000), Millis(0), &check(), false);
        assert_eq!(checkup.failures, 1);
        let late = checkup.answered(Millis(15_001), Millis(0), &check(), true);
        assert!(!late && checkup.failures == 1, "nobody asks any more");
    }

    #[test]
    fn without_a_check_nothing_is_ever_due() {
        let checkup = Checkup::of_new_process(Millis(0), None);
        assert_eq!((checkup.due(), checkup.verdict()), (None, Health::Unchecked));
    }
}
