//! What clients were told, and whether the cell still says so.
//!
//! A job is in the books from before its first call on. Whoever reads the cell holds what it lists
//! against what was acknowledged before the read began and what was asked for until it ended, so
//! clients need not stand still.
//!
//! Invariant: an acknowledged job is never written off but by a kill that somebody asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is known of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Its submission has no answer yet.
    Asked,
    /// Acknowledged, with this id.
    Lives(u64),
    /// A kill of it has no answer yet.
    Dying,
    /// Its kill is acknowledged.
    Dead,
}

/// Dead jobs that stay in the books, to see that none comes back.
const DEAD_KEPT: usize = 4_000;

#[derive(Debug, Default)]
struct Pages {
    jobs: BTreeMap<String, Known>,
    dead: std::collections::VecDeque<String>,
    acknowledged: u64,
    /// Place in the log of the newest acknowledged change.
    index: u64,
    /// Start of the names of jobs that somebody else looks after.
    others: Option<String>,
    wrong: Vec<String>,
}

/// Shared by the clients and whoever checks.
#[derive(Debug, Clone, Default)]
pub struct Books(Arc<Mutex<Pages>>);

/// What must hold of a read that begins now.
#[derive(Debug)]
pub struct Expected {
    /// A read of a state with this entry must find it all; an older one says so and binds nobody.
    pub index: u64,
    lives: Vec<(String, u64)>,
    dead: Vec<String>,
}

impl Books {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job is about to be submitted.
    pub fn asks(&self, job: &str) {
        self.pages().jobs.insert(job.to_owned(), Known::Asked);
    }

    /// Its submission was acknowledged, as the entry `index` of the log.
    pub fn lives(&self, job: &str, id: u64, index: u64) {
        let mut pages = self.pages();
        pages.acknowledged += 1;
        pages.index = pages.index.max(index);
        pages.jobs.insert(job.to_owned(), Known::Lives(id));
    }

    /// It is about to be killed.
    pub fn kills(&self, job: &str) {
        self.pages().jobs.insert(job.to_owned(), Known::Dying);
    }

    /// Its kill was acknowledged, as the entry `index` of the log.
    pub fn died(&self, job: &str, index: u64) {
        let mut pages = self.pages();
        pages.acknowledged += 1;
        pages.index = pages.index.max(index);
        pages.jobs.insert(job.to_owned(), Known::Dead);
        pages.dead.push_back(job.to_owned());
        if pages.dead.len() > DEAD_KEPT
            && let Some(forgotten) = pages.dead.pop_front()
        {
            pages.jobs.remove(&forgotten);
        }
    }

    /// Jobs whose names begin like this are not in these books.
    pub fn ignore(&self, prefix: &str) {
        self.pages().others = Some(prefix.to_owned());
    }

    /// Something was answered that must not be.
    pub fn wrong(&self, what: String) {
        self.pages().wrong.push(what);
    }

    /// Changes that were acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.pages().acknowledged
    }

    /// What a read that begins now must find.
    #[must_use]
    pub fn expected(&self) -> Expected {
        let pages = self.pages();
        let mut expected = Expected { index: pages.index, lives: Vec::new(), dead: Vec::new() };
        for (job, known) in &pages.jobs {
            match known {
                Known::Lives(id) => expected.lives.push((job.clone(), *id)),
                Known::Dead => expected.dead.push(job.clone()),
                Known::Asked | Known::Dying => {}
            }
        }
        expected
    }

    /// Holds the live jobs that a read listed, by name with their ids, against the books.
    ///
    /// # Errors
    /// Names what was acknowledged and is not so, and what clients were told that must not be.
    pub fn check(
        &self,
        who: &str,
        expected: &Expected,
        listed: &BTreeMap<String, u64>,
    ) -> Result<(), String> {
        let pages = self.pages();
        let mut wrong = pages.wrong.clone();
        for (job, id) in &expected.lives {
            match listed.get(job) {
                Some(listed) if listed == id => {}
                Some(other) => {
                    wrong.push(format!("{job} was acknowledged as {id}, now is {other}"))
                }
                None if pages.jobs.get(job) == Some(&Known::Lives(*id)) => {
                    wrong.push(format!("{job} was acknowledged and is lost"));
                }
                None => {}
            }
        }
        let back = expected.dead.iter().filter(|job| listed.contains_key(*job));
        wrong.extend(back.map(|job| format!("the kill of {job} was acknowledged and is lost")));
        let others = |job: &str| pages.others.as_ref().is_some_and(|start| job.starts_with(start));
        let strange = listed.keys().filter(|job| !pages.jobs.contains_key(*job) && !others(job));
        wrong.extend(strange.map(|job| format!("{job} was never asked for")));
        if wrong.is_empty() {
            return Ok(());
        }
        let (some, all) = (wrong.len().min(5), wrong.len());
        Err(format!("{who}: {all} wrong: {}", wrong[..some].join("; ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(jobs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        jobs.iter().map(|(job, id)| ((*job).to_owned(), *id)).collect()
    }

    #[test]
    fn an_acknowledged_job_that_is_not_listed_is_lost_and_one_without_an_answer_is_not() {
        let books = Books::default();
        books.asks("a/1");
        books.lives("a/1", 7, 1);
        books.asks("a/2");
        let expected = books.expected();
        books.check("m", &expected, &listed(&[("a/1", 7)])).unwrap();
        books.check("m", &expected, &listed(&[("a/1", 7), ("a/2", 8)])).unwrap();
        let said = books.check("m", &expected, &listed(&[("a/2", 8)])).unwrap_err();
        assert_eq!(said, "m: 1 wrong: a/1 was acknowledged and is lost");
        let said = books.check("m", &expected, &listed(&[("a/1", 9)])).unwrap_err();
        assert_eq!(said, "m: 1 wrong: a/1 was acknowledged as 7, now is 9");
        // Killed while the read went on: either is right.
        books.kills("a/1");
        books.check("m", &expected, &listed(&[])).unwrap();
    }

    #[test]
    fn a_killed_job_that_comes_back_and_one_that_nobody_asked_for_are_wrong() {
        let books = Books::default();
        books.asks("a/1");
        books.lives("a/1", 7, 1);
        books.kills("a/1");
        books.died("a/1", 2);
        let expected = books.expected();
        books.check("m", &expected, &listed(&[])).unwrap();
        let said = books.check("m", &expected, &listed(&[("a/1", 7), ("b/1", 1)])).unwrap_err();
        assert_eq!(
            said,
            "m: 2 wrong: the kill of a/1 was acknowledged and is lost; b/1 was never asked for"
        );
    }
}
