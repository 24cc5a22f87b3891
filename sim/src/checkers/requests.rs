//! A request has one answer and one effect however often it is asked (I4).
//!
//! The effect that can be counted is a job: every job that the cell ever accepted is the answer to
//! one request, or the work of one whose outcome nobody was told.

use borg_cell::rejection::Rejection;
use borg_cell::state::Answer;
use borg_proto::JobId;
use std::collections::BTreeMap;

/// Client and number of the request.
pub type Request = (usize, u64);

/// The first answer to each request.
#[derive(Debug, Default)]
pub struct Requests {
    answers: BTreeMap<Request, Result<Answer, Rejection>>,
    jobs: BTreeMap<JobId, Request>,
}

impl Requests {
    /// A client was told an outcome. True when it had been told before.
    ///
    /// # Errors
    /// When it was another outcome.
    pub fn told(
        &mut self,
        request: Request,
        answer: &Result<Answer, Rejection>,
    ) -> Result<bool, String> {
        let Some(first) = self.answers.get(&request) else {
            self.answers.insert(request, answer.clone());
            if let Ok(Answer::Job { id, .. }) = answer
                && let Some(other) = self.jobs.insert(*id, request)
            {
                return Err(format!("requests {other:?} and {request:?} both made job {}", id.0));
            }
            return Ok(false);
        };
        if first == answer {
            return Ok(true);
        }
        Err(format!("request {request:?} was answered {first:?}, then {answer:?}"))
    }
    /// Holds the jobs that the cell accepted against those that clients know of. `unknown` is how
    /// many submissions nobody was told the outcome of.
    ///
    /// # Errors
    /// When there are more jobs than requests for them.
    pub fn one_effect_each<'a>(
        &self,
        accepted: impl Iterator<Item = &'a JobId>,
        unknown: usize,
    ) -> Result<(), String> {
        let stray: Vec<u64> =
            accepted.filter(|id| !self.jobs.contains_key(id)).map(|id| id.0).collect();
        if stray.len() <= unknown {
            return Ok(());
        }
        Err(format!(
            "nobody was told of jobs {stray:?}, and only {unknown} submissions have no known outcome"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(id: u64) -> Result<Answer, Rejection> {
        Ok(Answer::Job { id: JobId(id), key: "ann/web".parse().unwrap() })
    }

    #[test]
    fn another_answer_to_a_request_is_noticed() {
        let mut requests = Requests::default();
        assert!(!requests.told((1, 1), &made(5)).unwrap());
        assert!(requests.told((1, 1), &made(5)).unwrap());
        assert!(requests.told((1, 1), &made(6)).is_err());
    }

    #[test]
    fn a_job_too_many_is_noticed() {
        let mut requests = Requests::default();
        requests.told((1, 1), &made(5)).unwrap();
        assert!(requests.told((2, 1), &made(5)).is_err());
        let accepted = [JobId(5), JobId(6)];
        requests.one_effect_each(accepted[..1].iter(), 0).unwrap();
        requests.one_effect_each(accepted.iter(), 1).unwrap();
        assert!(requests.one_effect_each(accepted.iter(), 0).is_err());
    }
}
