use super::*;
use crate::sources::synthetic::synthetic;
use crate::sources::workload::Steady;
use crate::work::Work;

fn settings() -> Settings {
    Settings::new(Millis(25_000), Millis(300_000))
}
const HOUR: Millis = Millis::from_secs(3_600);

fn workload(losses_a_month: u64) -> Arc<Workload> {
    let work = Work::of_cell(&synthetic(40, 3).unwrap());
    let how = Steady {
        lasts: Millis(HOUR.0 * 12),
        startup: settings().startup,
        shortest: Millis::from_secs(300),
        batch_percent: 100,
        losses_a_month,
        seed: 5,
    };
    Arc::new(Workload::steady(work, &how).unwrap())
}

fn replayed(until: Millis, losses_a_month: u64) -> Replay {
    let mut replay = Replay::new(workload(losses_a_month), settings()).unwrap();
    replay.run_until(until).unwrap();
    replay
}

#[test]
fn what_is_counted_is_what_the_state_says_and_the_state_is_sound() {
    let replay = replayed(Millis(HOUR.0 * 6), 30);
    let (books, state) = (&replay.books, replay.state());
    assert_eq!(state.audit(), []);
    let placed: usize = state.machines().map(|machine| machine.tasks.len()).sum();
    assert_eq!(books.bands.values().map(|band| band.placed).sum::<u64>(), placed as u64);
    let counts = books.counts;
    assert_eq!(counts.placements, counts.ends + counts.evictions + placed as u64);
    assert!(counts.ends > 0 && counts.starts > counts.ends, "{counts:?}");
    assert_eq!(books.looks.len(), 72);
    let down: u64 =
        books.bands.values().filter_map(|band| band.evictions.get("machine down")).sum();
    assert!(down > 0, "machines were lost: {:?}", replay.workload.losses);
}

/// One that is saved in the middle is where one is that never stopped, and so is a copy of it.
#[test]
fn a_replay_that_stopped_goes_on_as_if_it_had_not() {
    let whole = replayed(Millis(HOUR.0 * 4), 30);
    for stop in [1, HOUR.0, HOUR.0 * 2 + 12_345] {
        let mut stopped = replayed(Millis(stop), 30);
        let mut copy = stopped.clone();
        stopped.run_until(Millis(HOUR.0 * 4)).unwrap();
        copy.run_until(Millis(HOUR.0 * 4)).unwrap();
        for one in [&stopped, &copy] {
            assert_eq!(one.books, whole.books, "stopped at {stop}");
            assert_eq!(one.state().encode(), whole.state().encode());
        }
    }
}

/// A task is up when its start-up is over and not before, and ends when it has run for its time after that.
#[test]
fn tasks_start_and_end_at_their_time() {
    let mut made = Workload::clone(&workload(0));
    let batch = |arrival: &crate::sources::workload::Arrival| arrival.runs != Runs::Forever;
    made.arrivals.retain(batch);
    made.arrivals.truncate(1);
    made.arrivals[0].runs = Runs::Each(Millis(100_000));
    let tasks = u64::from(made.arrivals[0].spec.tasks);
    let mut replay = Replay::new(Arc::new(made), settings()).unwrap();
    let mut seen = |until| {
        replay.run_until(Millis(until)).unwrap();
        let counts = replay.books.counts;
        (counts.placements, counts.starts, counts.ends)
    };
    assert_eq!(seen(1), (tasks, 0, 0));
    assert_eq!(seen(25_000), (tasks, 0, 0));
    assert_eq!(seen(25_001), (tasks, tasks, 0));
    assert_eq!(seen(125_000), (tasks, tasks, 0));
    assert_eq!(seen(125_001), (tasks, tasks, tasks));
}

#[test]
fn looks_without_time_between_them_are_refused() {
    let settings = Settings { every: Millis(0), ..settings() };
    let refused = Replay::new(workload(0), settings).unwrap_err();
    assert!(refused.to_string().starts_with("time between two looks: 0 ms"), "{refused}");
}

/// A trace may have what no cell takes: the rest of it goes on.
#[test]
fn a_job_that_the_state_refuses_is_counted_by_reason_and_stops_nothing() {
    let mut made = Workload::clone(&workload(0));
    let again = made.arrivals[0].clone();
    let mut large = again.clone();
    large.spec = Arc::new(JobSpec { tasks: 0, ..JobSpec::clone(&again.spec) });
    large.name = "none".to_owned();
    made.arrivals.splice(1..1, [again, large]);
    let jobs = made.arrivals.len() as u64;
    let mut replay = Replay::new(Arc::new(made), settings()).unwrap();
    replay.run_until(Millis(HOUR.0 * 13)).unwrap();
    let refused: Vec<_> = replay.books.refused.iter().collect();
    assert_eq!(refused.len(), 2, "{refused:?}");
    assert_eq!(*refused[0].0, "its user has a job of that name");
    assert!(refused[1].0.starts_with("tasks: 0"), "{refused:?}");
    assert_eq!(replay.books.counts.submits, jobs - 2);
}

/// Twice the batch work, and what limits promise is lent.
fn lent(plan: &'static [(Millis, NumberSet)]) -> Replay {
    let work = Work::of_cell(&synthetic(40, 3).unwrap());
    let how = Steady {
        lasts: Millis(HOUR.0 * 12),
        startup: settings().startup,
        shortest: Millis::from_secs(1_200),
        batch_percent: 250,
        losses_a_month: 0,
        seed: 5,
    };
    let workload = Arc::new(Workload::steady(work, &how).unwrap());
    let reclaim = Some(Reclaim { load: reclaim::Load::Mixed, plan });
    Replay::new(workload, Settings { reclaim, ..settings() }).unwrap()
}

/// With nothing lent, limits stay within machines; with a plan they go beyond them from its step on, nobody of
/// production is ended, and the state is sound.
#[test]
fn what_is_lent_follows_the_plan_and_production_loses_nothing_by_it() {
    const PLAN: &[(Millis, NumberSet)] =
        &[(Millis(0), NumberSet::Off), (Millis(4 * 3_600_000), NumberSet::Aggressive)];
    let mut replay = lent(PLAN);
    replay.run_until(Millis(HOUR.0 * 8)).unwrap();
    assert_eq!(replay.state().audit(), []);
    let (before, after): (Vec<&reclaim::Lent>, Vec<_>) =
        replay.books.lent.iter().partition(|lent| lent.at <= Millis(HOUR.0 * 4));
    assert!(before.iter().all(|lent| lent.sums.reclaimed.is_nothing()), "{before:?}");
    let most = after.iter().map(|lent| lent.sums.reclaimed.cpu_milli).max().unwrap();
    assert!(most > 0, "{after:?}");
    for lent in &replay.books.lent {
        let all = lent.sums.prod.plus(lent.sums.others);
        assert!(all.used.fits_in(all.limits) && all.reserved.fits_in(all.limits), "{lent:?}");
    }
    for (band, of) in &replay.books.bands {
        assert!(!band.is_prod() || of.out_of_memory == 0, "{band}: {of:?}");
    }
    let placed: usize = replay.state().machines().map(|machine| machine.tasks.len()).sum();
    assert_eq!(replay.books.bands.values().map(|band| band.placed).sum::<u64>(), placed as u64);
}

#[test]
fn a_replay_that_lends_goes_on_after_a_stop_as_if_there_had_been_none() {
    let mut whole = lent(Reclaim::always(NumberSet::Medium));
    whole.run_until(Millis(HOUR.0 * 3)).unwrap();
    let mut stopped = lent(Reclaim::always(NumberSet::Medium));
    stopped.run_until(Millis(HOUR.0 + 7)).unwrap();
    let mut copy = stopped.clone();
    drop(stopped);
    copy.run_until(Millis(HOUR.0 * 3)).unwrap();
    assert_eq!(copy.books, whole.books);
    assert_eq!(copy.state().encode(), whole.state().encode());
}

/// Memory that is not there takes whoever is not production, by the borglet's own rule.
#[test]
fn a_machine_without_memory_ends_tasks_that_are_not_production() {
    let mut replay = lent(Reclaim::always(NumberSet::Aggressive));
    replay.run_until(Millis(HOUR.0 * 6)).unwrap();
    assert!(replay.books.lent.iter().any(|lent| !lent.sums.reclaimed.is_nothing()));
    // The same machines with limits beyond them, and from one moment on all use all of it.
    let mut full = replay.clone();
    full.reclaiming = Some(Reclaiming::new(reclaim::Load::Constant(1_000)));
    let reclaiming = full.reclaiming.as_mut().unwrap();
    let found = reclaiming.look(Millis(HOUR.0 * 6), full.cell.now(), &full.cell.state);
    let ended: Vec<_> = found
        .changes
        .iter()
        .filter_map(|change| match change {
            Observation::TaskEnded { id, .. } => Some(id.task.job),
            _ => None,
        })
        .collect();
    assert!(!ended.is_empty(), "limits were beyond some machine's memory");
    for job in ended {
        assert!(!full.state().job(job).unwrap().priority().band().is_prod());
    }
}

/// Everybody uses all of a limit once the cell has lent much of it: tasks end for want of memory or give room back, and
/// none of production.
#[test]
fn when_all_use_all_of_their_limits_others_end_and_production_does_not() {
    let mut replay = lent(Reclaim::always(NumberSet::Aggressive));
    replay.run_until(Millis(HOUR.0 * 6)).unwrap();
    replay.reclaiming.as_mut().unwrap().load = reclaim::Load::Constant(1_000);
    replay.run_until(Millis(HOUR.0 * 8)).unwrap();
    assert_eq!(replay.state().audit(), []);
    assert!(!replay.books.killed.is_empty(), "{:?}", replay.books.counts);
    for (band, of) in &replay.books.bands {
        assert!(!band.is_prod() || of.out_of_memory == 0, "{band}: {of:?}");
        assert!(!band.is_prod() || of.evictions.is_empty(), "{band}: {of:?}");
    }
}
