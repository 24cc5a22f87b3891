//! In which order the jobs of a file are submitted: those first that others name.
//!
//! A job names others that have to be there before it: those that it starts after, its parent, its alloc set.
//! Of those that are in the file, it comes behind; else the file's order stays. Jobs that name each other in a
//! circle could never be submitted.

use super::ConfigError;
use borg_proto::{JobKey, JobSpec, UserName};
use std::collections::BTreeMap;

/// Where a job is in the search.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    No,
    Begun,
    Done,
}

/// Jobs of a file, by name.
struct Search<'a> {
    user: &'a UserName,
    jobs: &'a [JobSpec],
    places: BTreeMap<JobKey, usize>,
    seen: Vec<Seen>,
    /// Those that are being looked at, each named by the one before it, with how.
    path: Vec<(usize, &'static str)>,
    order: Vec<usize>,
}

/// The jobs in the order in which they can be submitted by `user`.
///
/// # Errors
/// When some of them name each other in a circle: which, and how.
pub(super) fn sort(
    file: &str,
    user: &UserName,
    jobs: Vec<JobSpec>,
) -> Result<Vec<JobSpec>, ConfigError> {
    let places = jobs.iter().enumerate().map(|(at, job)| (job.key(user), at)).collect();
    let seen = vec![Seen::No; jobs.len()];
    let mut search =
        Search { user, jobs: &jobs, places, seen, path: Vec::new(), order: Vec::new() };
    for at in 0..jobs.len() {
        search.visit(at, "").map_err(|circle| ConfigError::whole(file, circle))?;
    }
    let order = search.order;
    let mut left: Vec<Option<JobSpec>> = jobs.into_iter().map(Some).collect();
    Ok(order.into_iter().filter_map(|at| left[at].take()).collect())
}

impl Search<'_> {
    /// Those that a job names come before it. A file has few jobs, so this goes not deep.
    fn visit(&mut self, at: usize, named_as: &'static str) -> Result<(), String> {
        match self.seen[at] {
            Seen::Done => return Ok(()),
            Seen::Begun => return Err(self.circle(at, named_as)),
            Seen::No => {}
        }
        self.seen[at] = Seen::Begun;
        self.path.push((at, named_as));
        let spec = &self.jobs[at];
        let after = spec.after.iter().map(|job| (job, "after"));
        let parent = spec.parent.iter().map(|job| (job, "parent"));
        let set = spec.alloc_set.iter().map(|job| (job, "alloc_set"));
        for (job, how) in after.chain(parent).chain(set) {
            if let Some(place) = self.places.get(job).copied() {
                self.visit(place, how)?;
            }
        }
        self.path.pop();
        self.seen[at] = Seen::Done;
        self.order.push(at);
        Ok(())
    }

    /// `a -> b -> a`, where the path comes back to a job on it.
    fn circle(&self, to: usize, named_as: &'static str) -> String {
        let begin = self.path.iter().position(|(at, _)| *at == to).unwrap_or(0);
        let name = |at: usize| self.jobs[at].key(self.user).to_string();
        let mut text = name(to);
        for (at, how) in self.path.iter().skip(begin + 1) {
            text.push_str(&format!(" -{how}-> {}", name(*at)));
        }
        text.push_str(&format!(" -{named_as}-> {}", name(to)));
        let what = if self.path.len() - begin == 1 {
            "a job names itself"
        } else {
            "jobs name each other in a circle"
        };
        format!("{what}, so none of them can be first: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, after: &[&str], parent: Option<&str>) -> JobSpec {
        let text = r#"{"name":"x","kind":"batch","task":{"command":["/bin/true"],
            "limit":{"cpu_milli":100,"ram_bytes":10485760}}}"#;
        let spec: JobSpec = serde_json::from_str(text).unwrap();
        let key = |name: &&str| format!("ann/{name}").parse().unwrap();
        let (after, parent) = (after.iter().map(key).collect(), parent.as_ref().map(key));
        JobSpec { name: name.parse().unwrap(), after, parent, ..spec }
    }

    fn sorted(jobs: Vec<JobSpec>) -> Result<Vec<String>, String> {
        let user = "ann".parse().unwrap();
        let jobs = sort("jobs.bcl", &user, jobs).map_err(|error| error.to_string())?;
        Ok(jobs.iter().map(|job| job.name.to_string()).collect())
    }

    #[test]
    fn what_others_name_comes_first_and_else_the_file_says() {
        let jobs = vec![
            job("z", &[], None),
            job("merge", &["sort", "load", "elsewhere"], None),
            job("sort", &["load"], None),
            job("load", &[], Some("root")),
            job("root", &[], None),
        ];
        assert_eq!(sorted(jobs).unwrap(), ["z", "root", "load", "sort", "merge"]);
    }

    #[test]
    fn a_circle_is_shown() {
        let jobs = vec![
            job("first", &[], None),
            job("a", &["first", "b"], None),
            job("b", &[], Some("c")),
            job("c", &["a"], None),
        ];
        assert_eq!(
            sorted(jobs).unwrap_err(),
            "jobs.bcl: jobs name each other in a circle, so none of them can be first: ann/a -after-> \
             ann/b -parent-> ann/c -after-> ann/a"
        );
        assert_eq!(
            sorted(vec![job("a", &["a"], None)]).unwrap_err(),
            "jobs.bcl: a job names itself, so none of them can be first: ann/a -after-> ann/a"
        );
    }
}
