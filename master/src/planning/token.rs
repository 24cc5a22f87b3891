//! What a plan's token holds, and what of it must still hold when its jobs are submitted.
//!
//! A token is what was told, in short: which cell, user and specifications, after which entry of the
//! log, how many tasks of each job would be placed, and who would be pushed out. It is no secret and
//! gives no right: whoever makes one up cheats nobody else. So it has a checksum against bad copies
//! and no signature.
//!
//! Invariant: no text makes reading a token panic or take more than [`MAX_TOKEN_BYTES`].

use borg_cell::state::CellState;
use borg_proto::names::{UserName, shorten};
use borg_proto::wire::pb;
use borg_proto::{Band, JobId, JobSpec};
use borg_scheduler::{JobPlan, Novelty, Plan, Victim};
use prost::Message;
use std::collections::BTreeMap;
use tonic::Status;
use xxhash_rust::xxh3::xxh3_64;

/// What a token of this form begins with.
const PREFIX: &str = "p1-";
/// Longest token: four times that of 64 jobs which each push out tasks of 16 others.
const MAX_TOKEN_BYTES: usize = 64 << 10;
/// Jobs of which a token says how many of their tasks would be pushed out; of those beyond it says it
/// by band.
const MAX_VICTIM_JOBS: usize = 16;
/// Bytes of the checksum.
const SUM: usize = 4;

/// The token of a plan; none when a job would be refused or nothing would change.
pub(super) fn of(
    state: &CellState,
    user: &UserName,
    specs: &[impl AsRef<JobSpec>],
    plan: &Plan,
) -> Option<String> {
    let submittable =
        |job: &JobPlan| job.novelty == Novelty::None || (job.refusal.is_none() && job.changes());
    if !plan.jobs.iter().all(submittable) || !plan.jobs.iter().any(JobPlan::changes) {
        return None;
    }
    let jobs = plan.jobs.iter().zip(specs).map(|(job, spec)| told(job, spec.as_ref()));
    let token = pb::PlanToken {
        cell: hash32(state.cell().as_str()),
        user: hash32(user.as_str()),
        epoch: state.epoch(),
        index: plan.index,
        jobs: jobs.collect(),
    };
    Some(write(&token))
}

fn write(token: &pb::PlanToken) -> String {
    let body = token.encode_to_vec();
    let sum = xxh3_64(&body).to_le_bytes();
    let bytes = sum[..SUM].iter().chain(&body);
    bytes.fold(PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Reads a token.
///
/// # Errors
/// INVALID_ARGUMENT when the text is none.
pub(super) fn read(text: &str) -> Result<pb::PlanToken, Status> {
    let wrong = |why: &str| {
        Status::invalid_argument(format!(
            "token: {:?} {why}: give the whole token that `borgctl plan` ends with",
            shorten(text)
        ))
    };
    if text.len() > MAX_TOKEN_BYTES {
        return Err(wrong("is too long for a token"));
    }
    let digits = text.strip_prefix(PREFIX).ok_or_else(|| wrong("is no token of a plan"))?;
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| {
        let pair = str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
        // A sign would be taken for a part of the number.
        pair.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u8::from_str_radix(pair, 16).ok())?
    };
    let bytes: Option<Vec<u8>> = pairs.map(byte).collect();
    let bytes = bytes.ok_or_else(|| wrong("is not a whole token"))?;
    let (sum, body) = bytes.split_at_checked(SUM).ok_or_else(|| wrong("is not a whole token"))?;
    if *sum != xxh3_64(body).to_le_bytes()[..SUM] {
        return Err(wrong("was not copied right"));
    }
    pb::PlanToken::decode(body).map_err(|_| wrong("is of another version"))
}

/// Whether a token is of this cell and user, and not of a state that this cell has not been in.
///
/// # Errors
/// FAILED_PRECONDITION, with whose it is not.
pub(super) fn check_scope(
    token: &pb::PlanToken,
    state: &CellState,
    user: &UserName,
) -> Result<(), Status> {
    let refuse = |why: String| Err(Status::failed_precondition(format!("token: {why}")));
    if token.cell != hash32(state.cell().as_str()) {
        return refuse(format!(
            "it is of a plan of another cell than {}: plan again",
            state.cell()
        ));
    }
    if token.user != hash32(user.as_str()) {
        return refuse(format!("it is of a plan of another user than {user}: plan again"));
    }
    if token.epoch != state.epoch() || token.index > state.applied() {
        return refuse("the cell was restored from a backup since the plan: plan again".to_owned());
    }
    Ok(())
}

/// Whether a token is of a plan of these specifications.
///
/// # Errors
/// FAILED_PRECONDITION, with which differs.
pub(super) fn check_specs(
    token: &pb::PlanToken,
    specs: &[impl AsRef<JobSpec>],
) -> Result<(), Status> {
    if token.jobs.len() != specs.len() {
        return Err(Status::failed_precondition(format!(
            "token: it is of a plan of another file: that had {} jobs, this has {}. Plan again",
            token.jobs.len(),
            specs.len()
        )));
    }
    for (told, spec) in token.jobs.iter().zip(specs) {
        check_spec(told, spec.as_ref())?;
    }
    Ok(())
}

/// Whether what was told is of this specification.
///
/// # Errors
/// FAILED_PRECONDITION when it is not.
pub(super) fn check_spec(told: &pb::ToldJob, spec: &JobSpec) -> Result<(), Status> {
    if told.spec == hash_of(spec) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "token: it is of a plan of another file: the specification of job {} is not the one that was \
         planned. Plan again",
        spec.name
    )))
}

/// What a plan says of a job, in short.
fn told(job: &JobPlan, spec: &JobSpec) -> pb::ToldJob {
    let mut by_job: Vec<(JobId, u32)> = victims_by_job(&job.victims).into_iter().collect();
    by_job.sort_by_key(|(id, tasks)| (std::cmp::Reverse(*tasks), *id));
    by_job.truncate(MAX_VICTIM_JOBS);
    by_job.sort_unstable();
    let named = |victim: &&Victim| by_job.iter().any(|(id, _)| *id == victim.task.job);
    let others = by_band(job.victims.iter().filter(|victim| !named(victim)));
    pb::ToldJob {
        spec: hash_of(spec),
        before: job.before.map_or(0, |id| id.0),
        unchanged: job.novelty == Novelty::None,
        placed: job.placed(),
        victims: by_job
            .into_iter()
            .map(|(id, tasks)| pb::ToldVictims { job: id.0, tasks })
            .collect(),
        others: others
            .into_iter()
            .map(|(band, tasks)| pb::PlannedVictims { band: pb::Band::from(band).into(), tasks })
            .collect(),
    }
}

/// What of that which was told of a job holds no longer, by the plan that is made of it now: in words,
/// after "job NAME: ".
pub(super) fn moved(told: &pb::ToldJob, now: &JobPlan) -> Option<String> {
    let before = Some(JobId(told.before)).filter(|id| id.0 > 0);
    if told.unchanged {
        let same = now.novelty == Novelty::None && now.before == before;
        return (!same).then(|| "it was live and just so, and is not any more".to_owned());
    }
    if let Some(refusal) = &now.refusal {
        return Some(format!("it would be refused now: {refusal}"));
    }
    // A job that is over may have been forgotten since.
    if now.before.is_some() && now.before != before {
        return Some("another job had the name since the plan".to_owned());
    }
    if now.placed() < told.placed {
        let why = if now.why.is_empty() { String::new() } else { format!(" ({})", now.why) };
        let (all, placed) = (told.placed, now.placed());
        return Some(format!("{placed} of its tasks would be placed now, planned were {all}{why}"));
    }
    more_victims(told, &now.victims)
}

/// Whom a job would push out beyond what was told.
fn more_victims(told: &pb::ToldJob, victims: &[Victim]) -> Option<String> {
    let of_job: BTreeMap<JobId, u32> =
        told.victims.iter().map(|told| (JobId(told.job), told.tasks)).collect();
    let more = |what: String, now: u32, told: u32| {
        Some(format!("it would push out {now} tasks of {what} now, planned were {told}"))
    };
    for (id, now) in victims_by_job(victims) {
        let Some(most) = of_job.get(&id).copied().filter(|most| now > *most) else { continue };
        let name = victims.iter().find(|victim| victim.task.job == id);
        return more(name.map_or_else(String::new, |victim| victim.job.to_string()), now, most);
    }
    let others = victims.iter().filter(|victim| !of_job.contains_key(&victim.task.job));
    for (band, now) in by_band(others) {
        let told = told.others.iter().find(|told| told.band() == pb::Band::from(band));
        let most = told.map_or(0, |told| told.tasks);
        if now > most {
            return more(format!("other jobs in band {band}"), now, most);
        }
    }
    None
}

fn victims_by_job(victims: &[Victim]) -> BTreeMap<JobId, u32> {
    let mut counts = BTreeMap::new();
    victims.iter().for_each(|victim| *counts.entry(victim.task.job).or_default() += 1);
    counts
}

/// How many victims are of which band.
pub(super) fn by_band<'a>(victims: impl Iterator<Item = &'a Victim>) -> BTreeMap<Band, u32> {
    let mut counts = BTreeMap::new();
    victims.for_each(|victim| *counts.entry(victim.band).or_default() += 1);
    counts
}

fn hash_of(spec: &JobSpec) -> u64 {
    xxh3_64(&pb::JobSpec::from(spec).encode_to_vec())
}

fn hash32(text: &str) -> u32 {
    let [a, b, c, d, ..] = xxh3_64(text.as_bytes()).to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use borg_proto::{JobKey, TaskId};
    use borg_scheduler::QuotaPlan;
    use std::sync::Arc;
    use tonic::Code;

    fn spec(name: &str) -> Arc<JobSpec> {
        let limit =
            pb::Resources { cpu_milli: 50, ram_bytes: 64 << 20, ..pb::Resources::default() };
        let task = pb::TaskSpec {
            command: vec!["/bin/true".into()],
            limit: Some(limit),
            ..pb::TaskSpec::default()
        };
        let spec = pb::JobSpec {
            name: name.into(),
            kind: pb::JobKind::Batch.into(),
            tasks: 3,
            priority: 200,
            task: Some(task),
            ..pb::JobSpec::default()
        };
        Arc::new(spec.try_into().unwrap())
    }

    /// A plan of a new job of three tasks that pushes out so many tasks of the jobs of these numbers.
    fn plan_of(victims: &[(u64, u32)]) -> JobPlan {
        let job = |id: u64| format!("bob/j{id}").parse::<JobKey>().unwrap();
        let victim = |id, index| Victim {
            task: TaskId { job: JobId(id), index },
            job: job(id),
            band: Band::Batch,
        };
        JobPlan {
            key: "ann/web".parse().unwrap(),
            before: None,
            novelty: Novelty::New,
            refusal: None,
            quota: QuotaPlan {
                band: Band::Production,
                needed: false,
                used: Default::default(),
                after: Default::default(),
                granted: None,
            },
            tasks: 3,
            places: [(borg_proto::MachineId(1), 3)].into(),
            pending: 0,
            why: String::new(),
            rejections: Vec::new(),
            not_looked_at: 0,
            victims: victims
                .iter()
                .flat_map(|(id, tasks)| (0..*tasks).map(|index| victim(*id, index)))
                .collect(),
        }
    }

    fn state() -> CellState {
        CellState::new("lab".parse().unwrap())
    }

    fn text_of(job: JobPlan) -> String {
        let plan = Plan { index: 0, jobs: vec![job], looked_at: 3 };
        of(&state(), &"ann".parse().unwrap(), &[spec("web")], &plan).unwrap()
    }

    #[test]
    fn a_token_is_small_and_says_what_was_told() {
        let text = text_of(plan_of(&[(7, 2)]));
        assert!(text.len() < 100, "{text}");
        let token = read(&text).unwrap();
        check_scope(&token, &state(), &"ann".parse().unwrap()).unwrap();
        check_specs(&token, &[spec("web")]).unwrap();
        assert_eq!(moved(&token.jobs[0], &plan_of(&[(7, 2)])), None);
    }

    #[test]
    fn what_is_no_token_or_a_damaged_one_is_refused_as_such() {
        let good = text_of(plan_of(&[]));
        let mut flipped = good.clone().into_bytes();
        let last = flipped.len() - 1;
        flipped[last] = if flipped[last] == b'0' { b'1' } else { b'0' };
        let flipped = String::from_utf8(flipped).unwrap();
        let long = format!("p1-{}", "00".repeat(MAX_TOKEN_BYTES));
        let cut = &good[..good.len() - 1];
        let bad = ["", "x", "p1-", "p1-+1+1+1+1", "p1-é", "p2-00", cut, &flipped, &long];
        for text in bad {
            let refused = read(text).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{text:?}");
            assert!(refused.message().contains("borgctl plan"), "{}", refused.message());
        }
    }

    #[test]
    fn a_token_of_another_cell_user_file_or_past_is_refused_with_which() {
        let token = read(&text_of(plan_of(&[]))).unwrap();
        let ann = "ann".parse().unwrap();
        let said = |result: Result<(), Status>| {
            let status = result.unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition);
            status.message().to_owned()
        };
        let other = CellState::new("other".parse().unwrap());
        assert!(said(check_scope(&token, &other, &ann)).contains("another cell than other"));
        let bob = "bob".parse().unwrap();
        assert!(said(check_scope(&token, &state(), &bob)).contains("another user than bob"));
        let later = pb::PlanToken { index: 9, ..token.clone() };
        assert!(said(check_scope(&later, &state(), &ann)).contains("restored from a backup"));
        let two = [spec("web"), spec("web")];
        assert!(said(check_specs(&token, &two)).contains("that had 1 jobs, this has 2"));
        assert!(said(check_specs(&token, &[spec("api")])).contains("specification of job api"));
    }

    #[test]
    fn fewer_places_a_taken_name_and_more_victims_matter_and_fewer_victims_do_not() {
        let told =
            |victims: &[(u64, u32)]| read(&text_of(plan_of(victims))).unwrap().jobs.remove(0);
        let what = |told: &pb::ToldJob, now: JobPlan| moved(told, &now).unwrap_or_default();
        let plain = told(&[]);
        let fewer = JobPlan {
            places: [(borg_proto::MachineId(2), 2)].into(),
            pending: 1,
            why: "no room".into(),
            ..plan_of(&[])
        };
        assert_eq!(
            what(&plain, fewer),
            "2 of its tasks would be placed now, planned were 3 (no room)"
        );
        let taken = JobPlan { before: Some(JobId(4)), ..plan_of(&[]) };
        assert_eq!(what(&plain, taken), "another job had the name since the plan");
        let elsewhere = JobPlan { places: [(borg_proto::MachineId(2), 3)].into(), ..plan_of(&[]) };
        assert_eq!(what(&plain, elsewhere), "", "which machine it is matters to nobody");

        let hurts = told(&[(7, 2), (8, 1)]);
        assert_eq!(what(&hurts, plan_of(&[(7, 1)])), "");
        let more = "it would push out 3 tasks of bob/j7 now, planned were 2";
        assert_eq!(what(&hurts, plan_of(&[(7, 3)])), more);
        let others = "it would push out 1 tasks of other jobs in band batch now, planned were 0";
        assert_eq!(what(&hurts, plan_of(&[(9, 1)])), others);
    }

    #[test]
    fn victims_of_many_jobs_are_told_by_band_beyond_the_first() {
        let many: Vec<(u64, u32)> = (1..=20).map(|id| (id, 1)).collect();
        let told = read(&text_of(plan_of(&many))).unwrap().jobs.remove(0);
        assert_eq!((told.victims.len(), told.others[0].tasks), (MAX_VICTIM_JOBS, 4));
        assert_eq!(moved(&told, &plan_of(&many)), None);
        let more: Vec<(u64, u32)> = (1..=21).map(|id| (id, 1)).collect();
        assert!(moved(&told, &plan_of(&more)).unwrap().contains("5 tasks of other jobs"));
    }

    #[test]
    fn there_is_no_token_for_what_would_be_refused_or_changes_nothing() {
        let token = |jobs: Vec<JobPlan>| {
            let specs: Vec<_> = jobs.iter().map(|_| spec("web")).collect();
            let plan = Plan { index: 0, jobs, looked_at: 0 };
            of(&state(), &"ann".parse().unwrap(), &specs, &plan)
        };
        let same = JobPlan { novelty: Novelty::None, ..plan_of(&[]) };
        let refused =
            JobPlan { refusal: Some(borg_cell::rejection::Rejection::FreeBand), ..plan_of(&[]) };
        assert_eq!(token(vec![same.clone()]), None);
        assert_eq!(token(vec![plan_of(&[]), refused]), None);
        let token = read(&token(vec![same.clone(), plan_of(&[])]).unwrap()).unwrap();
        assert_eq!(moved(&token.jobs[0], &same), None);
        let gone = plan_of(&[]);
        assert_eq!(
            moved(&token.jobs[0], &gone).unwrap(),
            "it was live and just so, and is not any more"
        );
    }
}
