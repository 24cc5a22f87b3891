//! Names on the command line: the user may be left out when it is oneself.

use crate::exit::{Code, Failure};
use borg_proto::names::shorten;
use borg_proto::{JobKey, TaskName, UserName};

fn wrong(text: &str, wanted: &str) -> Failure {
    Failure::new(Code::Usage, format!("{:?} is not {wanted}", shorten(text)))
}

/// `JOB` or `USER/JOB`.
pub(super) fn job(text: &str, own: &UserName) -> Result<JobKey, Failure> {
    let full = if text.contains('/') { text.to_owned() } else { format!("{own}/{text}") };
    full.parse().map_err(|error| wrong(text, &format!("JOB or USER/JOB: {error}")))
}

/// `JOB/INDEX` or `USER/JOB/INDEX`.
pub(super) fn task(text: &str, own: &UserName) -> Result<TaskName, Failure> {
    let full =
        if text.matches('/').count() == 1 { format!("{own}/{text}") } else { text.to_owned() };
    full.parse().map_err(|error| wrong(text, &format!("JOB/INDEX or USER/JOB/INDEX: {error}")))
}

/// A job, or one of its tasks: `JOB`, `USER/JOB` or `USER/JOB/INDEX`.
pub(super) fn job_or_task(text: &str, own: &UserName) -> Result<(JobKey, Option<u32>), Failure> {
    if text.matches('/').count() < 2 {
        return Ok((job(text, own)?, None));
    }
    let name = task(text, own)?;
    Ok((name.job, Some(name.index)))
}

/// The own task that `JOB/INDEX` names, which may be read as `USER/JOB` too.
pub(super) fn own_task(text: &str, own: &UserName) -> Option<TaskName> {
    (text.matches('/').count() == 1).then(|| task(text, own).ok()).flatten()
}

/// Where there is no job `USER/N`, most likely a task of one's own was meant: says how that is named.
pub(super) fn meant_a_task(mut failure: Failure, key: &JobKey, own: &UserName) -> Failure {
    if failure.code == Code::NotFound && key.name.as_str().parse::<u32>().is_ok() {
        let (job, index) = (&key.user, &key.name);
        failure.text.push_str(&format!(
            "; task {index} of a job {job} is {own}/{job}/{index}, or {job} --tasks {index}"
        ));
    }
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_user_may_be_left_out() {
        let own: UserName = "ann".parse().unwrap();
        assert_eq!(job("web", &own).unwrap().to_string(), "ann/web");
        assert_eq!(job("bob/web", &own).unwrap().to_string(), "bob/web");
        assert_eq!(task("web/3", &own).unwrap().to_string(), "ann/web/3");
        assert_eq!(task("bob/web/3", &own).unwrap().to_string(), "bob/web/3");
        assert_eq!(job_or_task("bob/web/3", &own).unwrap().1, Some(3));
        for bad in ["", "a/b/c/d", "../x", "WEB", "é"] {
            assert_eq!(job_or_task(bad, &own).unwrap_err().code, Code::Usage, "{bad}");
        }
        let gone = || Failure::new(Code::NotFound, "there is no job web/0");
        let told = meant_a_task(gone(), &job("web/0", &own).unwrap(), &own).text;
        assert!(told.ends_with("is ann/web/0, or web --tasks 0"), "{told}");
        assert_eq!(meant_a_task(gone(), &job("web", &own).unwrap(), &own), gone());
        assert!(task("web", &own).is_err() && task("web/x", &own).is_err());
        assert_eq!(own_task("web/3", &own).unwrap().to_string(), "ann/web/3");
        assert_eq!([own_task("web", &own), own_task("bob/web", &own)], [None, None]);
    }
}
