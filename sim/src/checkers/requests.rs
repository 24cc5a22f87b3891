//! A request has one answer however often it is asked (I4). That it has one effect follows from
//! the answer, which names the job's number, and from the state's audit.

use borg_cell::rejection::Rejection;
use borg_cell::state::Answer;
use std::collections::BTreeMap;

/// Client and number of the request.
pub type Request = (usize, u64);

/// The first answer to each request.
#[derive(Debug, Default)]
pub struct Requests {
    answers: BTreeMap<Request, Result<Answer, Rejection>>,
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
            return Ok(false);
        };
        if first == answer {
            return Ok(true);
        }
        Err(format!("request {request:?} was answered {first:?}, then {answer:?}"))
    }
}
