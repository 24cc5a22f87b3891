use super::*;
use crate::fixture::{Cell, batch, master, service, user};
use crate::rejection::RejectionCode;
use borg_proto::command::Action;
use borg_proto::{JobId, Priority};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn cell() -> Cell {
    let mut cell = Cell::new();
    cell.apply(master(), Action::RaiseLevel { level: QUOTA_LEVEL }).unwrap();
    cell
}

fn amount(cpu_milli: u64, ram_bytes: u64) -> Resources {
    Resources { cpu_milli, ram_bytes, ..Resources::default() }
}

fn enforce(cell: &mut Cell, band: Band, on: bool) {
    cell.apply(user("admin"), Action::EnforceQuota { bands: vec![band], on }).unwrap();
}

/// `quota set` in production.
#[derive(Clone)]
struct Set(&'static str, Resources, Option<u64>, Option<u64>);

fn set(cell: &mut Cell, of: Set) -> Result<(), Rejection> {
    set_in(cell, Band::Production, of, false)
}

fn set_in(cell: &mut Cell, band: Band, of: Set, oversell: bool) -> Result<(), Rejection> {
    let Set(who, amount, from, until) = of;
    let (from, until) = (from.map(Millis), until.map(Millis));
    let user_name = who.parse().unwrap();
    let action = Action::SetQuota { user: user_name, band, amount, from, until, oversell };
    cell.apply(user("admin"), action).map(|_| ())
}

fn of(cell: &Cell, who: &str) -> Vec<(u64, u64, Option<u64>)> {
    let grants = cell.state.quota_of(&who.parse().unwrap(), Band::Production);
    grants.iter().map(|g| (g.amount.cpu_milli, g.from.0, g.until.map(|u| u.0))).collect()
}

fn used(cell: &Cell, who: &str) -> Resources {
    cell.state.used_quota(&who.parse().unwrap(), Band::Production).amount()
}

fn monitor(name: &str) -> JobSpec {
    let mut spec = service(name, 1, 100, 4 * MIB);
    spec.priority = Priority::new(360).unwrap();
    spec
}

#[test]
fn an_open_band_asks_for_no_quota_and_an_enforced_one_tells_what_to_do() {
    let mut cell = cell();
    cell.machine("m-1", 8_000, 64 * GIB);
    cell.submit("ann", service("before", 2, 500, GIB));
    enforce(&mut cell, Band::Production, true);
    let refused = cell.try_submit("ann", service("web", 3, 500, 100 * MIB)).unwrap_err();
    assert_eq!(refused.code(), RejectionCode::PermissionDenied);
    assert_eq!(
        refused.to_string(),
        "user ann has no quota in band production, and jobs in it need some: \
         cpu: the job asks for 1.5, granted 0, used 1; ram: the job asks for 300MiB, granted 0, used 2GiB. \
         Ask an operator for: borgctl quota set ann production cpu=2.5,ram=2348MiB"
    );
    set(&mut cell, Set("ann", amount(2_000, 4 * GIB), None, None)).unwrap();
    let refused = cell.try_submit("ann", service("web", 3, 500, 100 * MIB)).unwrap_err();
    assert_eq!(refused.code(), RejectionCode::ResourceExhausted);
    assert_eq!(
        refused.to_string(),
        "quota of user ann in band production is too small: \
         cpu: the job asks for 1.5, granted 2, used 1. \
         Ask an operator for: borgctl quota set ann production cpu=2.5,ram=4GiB"
    );
    cell.submit("ann", service("web", 2, 500, 100 * MIB));
    enforce(&mut cell, Band::Production, false);
    cell.submit("ann", service("more", 9, 500, 100 * MIB));
    cell.submit("bob", batch("lower", 9, 5_000, GIB));
}

#[test]
fn the_free_band_needs_no_quota_ever() {
    let mut cell = cell();
    let bands = vec![Band::Mid, Band::Free];
    let refused = cell.apply(user("admin"), Action::EnforceQuota { bands, on: true }).unwrap_err();
    assert_eq!(refused.to_string(), "band free needs no quota: everybody has endless quota there");
    assert!(!cell.state.enforces_quota(Band::Mid), "a refusal changes nothing");
    let refused = set_in(&mut cell, Band::Free, Set("ann", amount(1, 1), None, None), false);
    assert_eq!(refused, Err(Rejection::FreeBand));
    for band in &Band::ALL[1..] {
        enforce(&mut cell, *band, true);
    }
    let mut huge = batch("huge", 100_000, 10_000_000, 1 << 50);
    huge.priority = Priority::new(0).unwrap();
    cell.submit("ann", huge);
}

/// Adversary: the sum of what is asked leaves 64 bits.
#[test]
fn a_sum_that_leaves_the_numbers_is_refused_and_not_wrapped() {
    let mut cell = cell();
    let grant = Set("ann", amount(u64::MAX, u64::MAX), None, None);
    set_in(&mut cell, Band::Batch, grant, false).unwrap();
    enforce(&mut cell, Band::Batch, true);
    let refused = cell.try_submit("ann", batch("huge", 100_000, 1, 1 << 50)).unwrap_err();
    assert!(
        refused.to_string().starts_with("quota of user ann in band batch is too small: ram: "),
        "{refused}"
    );
    assert_eq!(Rejection::decode(&refused.encode()), Ok(refused));
    enforce(&mut cell, Band::Batch, false);
    cell.submit("ann", batch("huge", 100_000, 1, 1 << 50));
    let used = cell.state.used_quota(&"ann".parse().unwrap(), Band::Batch);
    assert_eq!(used.get(&Dimension::Ram), 100_000 << 50);
    cell.kill("ann", "ann/huge", &[]).unwrap();
    assert_eq!(cell.state.used_quotas().count(), 0);
}

#[test]
fn monitoring_is_for_those_with_quota_there_even_while_it_is_open() {
    let mut cell = cell();
    cell.machine("m-1", 8_000, 64 * GIB);
    let refused = cell.try_submit("ann", monitor("eye")).unwrap_err();
    assert_eq!(refused.code(), RejectionCode::PermissionDenied);
    cell.submit("admin", monitor("eye"));
    set_in(&mut cell, Band::Monitoring, Set("ann", amount(1, 1), None, None), false).unwrap();
    cell.submit("ann", monitor("eye"));
    enforce(&mut cell, Band::Monitoring, true);
    assert!(cell.try_submit("ann", monitor("ear")).is_err(), "enforced, its size counts");
    assert!(cell.try_submit("admin", monitor("ear")).is_err(), "and the admin needs it too");
}

#[test]
fn a_cell_of_an_older_level_asks_for_no_quota() {
    let mut cell = Cell::new();
    cell.submit("ann", monitor("eye"));
}

#[test]
fn each_task_is_refunded_when_it_is_over_for_good_and_only_then() {
    let mut cell = cell();
    let machine = cell.machine("m-1", 8_000, 64 * GIB);
    let web = cell.submit("ann", service("web", 3, 500, 4 * MIB));
    assert_eq!(used(&cell, "ann"), amount(1_500, 12 * MIB));
    let id = cell.place(web, 0, machine).unwrap();
    cell.ended(id, None);
    assert_eq!(used(&cell, "ann"), amount(1_500, 12 * MIB), "a service is placed again");
    cell.kill("ann", "ann/web", &[1, 1]).unwrap();
    cell.kill("ann", "ann/web", &[1]).unwrap();
    assert_eq!(used(&cell, "ann"), amount(1_000, 8 * MIB));
    cell.kill("ann", "ann/web", &[]).unwrap();
    assert_eq!(used(&cell, "ann"), Resources::default());
    assert_eq!(cell.state.used_quotas().count(), 0);
    enforce(&mut cell, Band::Batch, true);
    set_in(&mut cell, Band::Batch, Set("bob", amount(200, GIB), None, None), false).unwrap();
    let count = cell.submit("bob", batch("count", 2, 100, 4 * MIB));
    assert!(cell.try_submit("bob", batch("more", 1, 100, 4 * MIB)).is_err());
    let id = cell.place(count, 1, machine).unwrap();
    cell.ended(id, None);
    cell.submit("bob", batch("more", 1, 100, 4 * MIB));
}

#[test]
fn jobs_that_fail_with_the_one_they_wait_for_are_refunded_too() {
    let mut cell = cell();
    cell.submit("ann", batch("first", 1, 100, 4 * MIB));
    let mut then = batch("then", 5, 100, 4 * MIB);
    then.after = vec!["ann/first".parse().unwrap()];
    cell.submit("bob", then);
    assert_eq!(cell.state.used_quotas().count(), 2);
    cell.kill("ann", "ann/first", &[]).unwrap();
    assert_eq!(cell.state.used_quotas().count(), 0);
}

#[test]
fn quota_counts_from_its_beginning_until_before_its_end() {
    let mut cell = cell();
    cell.machine("m-1", 8_000, 64 * GIB);
    enforce(&mut cell, Band::Production, true);
    let now = cell.now.0;
    set(&mut cell, Set("ann", amount(1_000, GIB), Some(now + 10), Some(now + 20))).unwrap();
    let mut tried = |after: u64, name: &str| {
        cell.now = Millis(now + after);
        cell.try_submit("ann", service(name, 1, 100, 4 * MIB)).map_err(|e| e.to_string())
    };
    let early = tried(9, "a").unwrap_err();
    assert!(early.contains("no quota in band production before 1970-01-01T00:16:40Z"), "{early}");
    let job: JobId = tried(10, "a").unwrap();
    tried(19, "b").unwrap();
    let late = tried(20, "c").unwrap_err();
    assert!(late.contains("no quota in band production since 1970-01-01T00:16:40Z"), "{late}");
    assert!(cell.state.job(job).unwrap().is_alive(), "what runs goes on");
    assert_eq!(used(&cell, "ann").cpu_milli, 200);
}

#[test]
fn quota_for_a_later_time_leaves_that_of_now() {
    let mut cell = cell();
    cell.machine("m-1", 8_000, 64 * GIB);
    let now = cell.now.0;
    let give = |cell: &mut Cell, cpu, from, until| {
        set(cell, Set("ann", amount(cpu, GIB), from, until)).unwrap();
    };
    give(&mut cell, 1_000, None, Some(now + 100));
    give(&mut cell, 2_000, Some(now + 100), None);
    assert_eq!(of(&cell, "ann"), [(1_000, now, Some(now + 100)), (2_000, now + 100, None)]);
    give(&mut cell, 3_000, Some(now + 50), Some(now + 150));
    assert_eq!(
        of(&cell, "ann"),
        [
            (1_000, now, Some(now + 50)),
            (3_000, now + 50, Some(now + 150)),
            (2_000, now + 150, None)
        ]
    );
    cell.wait(60);
    give(&mut cell, 4_000, Some(1), None);
    assert_eq!(of(&cell, "ann"), [(4_000, now + 60, None)], "nothing begins in the past");
}

#[test]
fn quota_of_the_past_or_for_no_time_is_refused() {
    let mut cell = cell();
    let now = cell.now.0;
    for (from, until) in [(None, now), (Some(5), 10), (Some(now + 10), now + 10)] {
        let refused = set(&mut cell, Set("ann", amount(1, 1), from, Some(until))).unwrap_err();
        assert_eq!(refused.code(), RejectionCode::InvalidArgument);
        assert!(refused.to_string().contains("is for no time, now is"), "{refused}");
    }
    assert_eq!(cell.state.quotas().count(), 0);
}

#[test]
fn prod_quota_is_not_sold_beyond_the_machines_at_any_time() {
    let mut cell = cell();
    cell.machine("m-1", 4_000, 8 * GIB);
    cell.machine("m-2", 4_000, 8 * GIB);
    let now = cell.now.0;
    let day = |days: u64| Some(now + days * 86_400_000);
    set(&mut cell, Set("ann", amount(5_000, GIB), None, day(10))).unwrap();
    set(&mut cell, Set("bob", amount(6_000, GIB), day(10), None)).unwrap();
    let eye = Set("eye", amount(2_000, GIB), None, None);
    set_in(&mut cell, Band::Monitoring, eye, false).unwrap();
    set_in(&mut cell, Band::Batch, Set("cid", amount(100_000, GIB), None, None), false).unwrap();
    let dan = Set("dan", amount(1_000, GIB), day(5), None);
    let refused = set(&mut cell, dan.clone()).unwrap_err();
    assert_eq!(refused.code(), RejectionCode::FailedPrecondition);
    assert_eq!(
        refused.to_string(),
        "more production and monitoring quota would be sold than the cell has, from \
         1970-01-11T00:16:40Z on: cpu: 1 asked for, 8 sold to others, the machines have 8. \
         Sell less, add machines, or say --oversell"
    );
    set(&mut cell, Set("dan", amount(1_000, GIB), day(5), day(10))).unwrap();
    set_in(&mut cell, Band::Production, dan, true).unwrap();
    let oversold = |cell: &Cell, who: &str| -> Vec<bool> {
        let grants = cell.state.quota_of(&who.parse().unwrap(), Band::Production);
        grants.iter().map(|grant| grant.oversold).collect()
    };
    assert_eq!(oversold(&cell, "dan"), [true]);
    assert_eq!(oversold(&cell, "bob"), [false]);
    // What raises no sum is fine, however much is sold.
    set(&mut cell, Set("bob", amount(5_500, GIB), day(10), None)).unwrap();
    assert!(set(&mut cell, Set("bob", amount(5_600, GIB), day(10), None)).is_err());
}

#[test]
fn only_the_admin_changes_quota() {
    let mut cell = cell();
    let ann = || "ann".parse().unwrap();
    for (action, what) in [
        (
            Action::SetQuota {
                user: ann(),
                band: Band::Mid,
                amount: amount(1, 1),
                from: None,
                until: None,
                oversell: false,
            },
            "set quota",
        ),
        (Action::RemoveQuota { user: ann(), band: Band::Mid }, "remove quota"),
        (Action::EnforceQuota { bands: vec![Band::Mid], on: true }, "enforce quota"),
        (Action::EnforceQuota { bands: vec![Band::Mid], on: false }, "open a band"),
    ] {
        let refused = cell.apply(user("ann"), action).unwrap_err();
        assert_eq!(refused.to_string(), format!("user ann may not {what}: that needs admin"));
    }
}

#[test]
fn removed_quota_is_gone_and_what_was_not_there_is_named() {
    let mut cell = cell();
    let remove = || Action::RemoveQuota { user: "ann".parse().unwrap(), band: Band::Mid };
    set_in(&mut cell, Band::Mid, Set("ann", amount(1, 1), None, None), false).unwrap();
    cell.apply(user("admin"), remove()).unwrap();
    let refused = cell.apply(user("admin"), remove()).unwrap_err();
    assert_eq!(refused.to_string(), "user ann has no quota in band mid");
    assert_eq!(refused.code(), RejectionCode::NotFound);
    let (kind, subject, _) = cell.events.last().unwrap().describe(&cell.state);
    assert_eq!((kind.as_str(), subject.as_str()), ("quota.removed", "ann mid"));
}

#[test]
fn watchers_are_told_of_quota_and_of_what_is_enforced_once() {
    let mut cell = cell();
    let until = Some(cell.now.0 + 86_400_000);
    set_in(&mut cell, Band::Mid, Set("ann", amount(1_500, 2 * GIB), None, until), false).unwrap();
    let told = |cell: &Cell| cell.events.last().unwrap().describe(&cell.state);
    assert_eq!(
        told(&cell),
        (
            "quota.set".to_owned(),
            "ann mid".to_owned(),
            "cpu=1.5,ram=2GiB from 1970-01-01T00:16:40Z until 1970-01-02T00:16:40Z".to_owned()
        )
    );
    enforce(&mut cell, Band::Mid, true);
    assert_eq!(told(&cell).0, "quota.enforced");
    let before = cell.events.len();
    enforce(&mut cell, Band::Mid, true);
    assert_eq!(cell.events.len(), before);
    enforce(&mut cell, Band::Mid, false);
    assert_eq!(told(&cell).0, "quota.opened");
}

/// Who copies the command from a refusal loses nothing that was given before.
#[test]
fn the_command_of_a_refusal_keeps_what_was_given_and_until_when() {
    let mut cell = cell();
    enforce(&mut cell, Band::Batch, true);
    let day = Some(cell.now.0 + 86_400_000);
    let given = Resources { disk_bytes: 5 * GIB, ports: 3, ..amount(100, GIB) };
    set_in(&mut cell, Band::Batch, Set("ann", given, None, day), false).unwrap();
    let refused = cell.try_submit("ann", batch("count", 2, 100, 4 * MIB)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "quota of user ann in band batch is too small: cpu: the job asks for 0.2, granted 0.1, used 0. \
         Ask an operator for: borgctl quota set ann batch cpu=0.2,ram=1GiB,disk=5GiB,ports=3 \
         --until 1970-01-02T00:16:40Z"
    );
}

/// Adversary: a refusal is remembered, so a job must not make it large.
#[test]
fn a_refusal_tells_of_a_few_resources_however_many_are_asked_for() {
    let mut cell = cell();
    enforce(&mut cell, Band::Batch, true);
    let job = crate::fixture::with_task(batch("many", 1, 100, 4 * MIB), |task| {
        let devices = (0..1_000).map(|i| (format!("{i:063}").into(), 1_000));
        task.limit.devices = devices.collect();
    });
    let refused = cell.try_submit("ann", job).unwrap_err();
    assert!(refused.encode().len() < 2_000, "{} bytes", refused.encode().len());
}

#[test]
fn a_user_has_no_more_grants_than_fit() {
    let mut cell = cell();
    let give = |cell: &mut Cell, i: u64| {
        let from = cell.now.0 + i * 100;
        let of = Set("ann", amount(1, 1), Some(from), Some(from + 50));
        set_in(cell, Band::Mid, of, false)
    };
    for i in 0..MAX_GRANTS as u64 {
        give(&mut cell, i).unwrap();
    }
    let refused = give(&mut cell, 99).unwrap_err();
    assert_eq!(refused.to_string(), "the cell has 8 grants of this user in this band, most is 8");
    cell.wait(50);
    give(&mut cell, 99).unwrap();
}
