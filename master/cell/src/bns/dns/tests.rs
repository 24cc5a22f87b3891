use super::*;
use crate::fixture::{Cell, PORTS, info, service, with_task};
use borg_proto::command::Observation;
use borg_proto::health::{HealthCheck, Probe};
use borg_proto::{Health, IncarnationId};

/// Ann's `web`, which has two ports and a health check, on two machines at 10.0.0.1 and 10.0.0.2.
fn web(tasks: u32) -> (Cell, Vec<IncarnationId>) {
    let mut cell = Cell::new();
    let machines = [("m-1", "10.0.0.1"), ("m-2", "10.0.0.2")].map(|(name, host)| {
        let mut info = info(100_000, 1 << 40, &[]);
        info.task_host = host.into();
        cell.machine_with(name, info)
    });
    let spec = with_task(service("web", tasks, 100, 4 << 20), |task| {
        task.ports = ["http", "admin"].map(|port| port.parse().unwrap()).to_vec();
        task.health = Some(HealthCheck::new(Probe::Tcp { port: task.ports[0].clone() }));
    });
    let job = cell.submit("ann", spec);
    let place = |index: u32| {
        let id = cell.place(job, index, machines[index as usize % 2]).unwrap();
        cell.up(id);
        cell.observe(Observation::TaskHealth { id, health: Health::Healthy });
        id
    };
    let ids = (0..tasks).map(place).collect();
    (cell, ids)
}

fn ask(names: &mut Names, name: &str, wanted: Wanted) -> Reply {
    let labels: Vec<&str> = name.split('.').filter(|label| !label.is_empty()).collect();
    names.answer(&labels, wanted, 100)
}

fn shown(reply: &Reply) -> Vec<String> {
    let name = |name: &Name| match name {
        Name::Asked => "@".to_owned(),
        Name::Task(job, index) => format!("{index}.{}.{}", job.name, job.user),
        Name::Master(label) => label.clone(),
        Name::Host(host) => format!("{host}."),
    };
    let show = |record: &Record| match &record.data {
        Data::Address(address) => format!("{} {address}", name(&record.of)),
        Data::Alias(of) => format!("alias {}", name(of)),
        Data::Service(port, of) => format!("{port} {}", name(of)),
        Data::Text(text) => text.join(" "),
        Data::Server(of) => format!("server {}", name(of)),
        Data::Zone(index) => format!("zone {index}"),
        Data::Minimal => "minimal".to_owned(),
    };
    reply.answers.iter().chain(&reply.additional).map(show).collect()
}

#[test]
fn a_task_has_the_address_and_the_ports_where_it_listens() {
    let (cell, _) = web(2);
    let mut names = Names::new(cell.state);
    assert_eq!(shown(&ask(&mut names, "1.web.ann", Wanted::A)), ["@ 10.0.0.2"]);
    let (http, admin) = (PORTS.0, PORTS.0 + 1);
    assert_eq!(
        shown(&ask(&mut names, "1.web.ann", Wanted::Srv)),
        [format!("{http} 1.web.ann"), format!("{admin} 1.web.ann"), "1.web.ann 10.0.0.2".into()]
    );
    assert_eq!(
        shown(&ask(&mut names, "_admin._tcp.1.web.ann", Wanted::Srv)),
        [format!("{admin} 1.web.ann"), "1.web.ann 10.0.0.2".into()]
    );
    assert_eq!(ask(&mut names, "_http._tcp.web.ann", Wanted::Srv).answers.len(), 2);
}

#[test]
fn a_job_has_the_addresses_of_its_healthy_tasks_and_another_comes_first_each_time() {
    let (mut cell, ids) = web(4);
    let mut names = Names::new(cell.state.clone());
    let first = |names: &mut Names| ask(names, "web.ann", Wanted::Srv).additional[0].of.clone();
    let firsts: BTreeSet<_> = (0..4).map(|_| format!("{:?}", first(&mut names))).collect();
    assert_eq!(firsts.len(), 4);
    assert_eq!(ask(&mut names, "web.ann", Wanted::A).answers.len(), 2, "each host once");
    cell.observe(Observation::TaskHealth { id: ids[1], health: Health::Unhealthy });
    cell.observe(Observation::TaskHealth { id: ids[3], health: Health::Unhealthy });
    names.follow(cell.state.clone());
    assert_eq!(shown(&ask(&mut names, "web.ann", Wanted::A)), ["@ 10.0.0.1"]);
    assert_eq!(ask(&mut names, "web.ann", Wanted::Srv).answers.len(), 4);
    let ill = ask(&mut names, "1.web.ann", Wanted::A);
    assert!(ill.exists && ill.answers.is_empty());
    cell.observe(Observation::TaskHealth { id: ids[1], health: Health::Healthy });
    names.follow(cell.state);
    assert_eq!(ask(&mut names, "web.ann", Wanted::A).answers.len(), 2);
}

/// As most clients do.
#[test]
fn who_asks_for_both_kinds_of_addresses_gets_each_task_first_too() {
    let (cell, _) = web(2);
    let mut names = Names::new(cell.state);
    let mut firsts = BTreeSet::new();
    for _ in 0..2 {
        firsts.insert(shown(&ask(&mut names, "web.ann", Wanted::A))[0].clone());
        ask(&mut names, "web.ann", Wanted::Aaaa);
    }
    assert_eq!(firsts.len(), 2);
}

#[test]
fn what_there_is_not_does_not_exist_and_what_leads_to_names_does() {
    let (cell, _) = web(1);
    let mut names = Names::new(cell.state);
    for name in [
        "1.web.ann",
        "00.web.ann",
        "+0.web.ann",
        "4294967296.web.ann",
        "x.web.ann",
        "no.ann",
        "bob",
        "master-9",
        "_no._tcp.web.ann",
        "http._tcp.web.ann",
        "_http._udp.web.ann",
        "_http.web.ann",
        "a.b.c.d.e.f",
        "_tcp",
        "_tcp.ann",
        "é.ann",
        "a_._tcp.0.web.ann",
        "_http._tcp._tcp.web.ann",
    ] {
        assert!(!ask(&mut names, name, Wanted::A).exists, "{name}");
    }
    for name in ["", "ann", "web.ann", "_tcp.web.ann", "_tcp.0.web.ann", "_http._tcp.0.web.ann"] {
        let reply = ask(&mut names, name, Wanted::Other);
        assert_eq!((reply.exists, reply.answers.len()), (true, 0), "{name}");
        assert_eq!(shown(&ask(&mut names, name, Wanted::Any)), ["minimal"]);
    }
    assert!(ask(&mut names, "0.web.ann", Wanted::Aaaa).answers.is_empty());
}

#[test]
fn text_tells_the_state_of_what_is_not_in_service_too() {
    let (mut cell, ids) = web(2);
    cell.observe(Observation::TaskHealth { id: ids[1], health: Health::Unhealthy });
    let mut names = Names::new(cell.state);
    assert_eq!(
        shown(&ask(&mut names, "1.web.ann", Wanted::Txt)),
        [
            "task=ann/web/1 state=running health=unhealthy in_service=false machine=m-2 incarnation=1"
        ]
    );
    assert_eq!(
        shown(&ask(&mut names, "web.ann", Wanted::Txt)),
        ["job=ann/web state=running tasks=2 pending=0 running=2 in_service=1"]
    );
}

#[test]
fn a_host_that_has_a_name_is_that_name() {
    let (mut cell, ids) = web(3);
    let machine = cell.state.task(ids[0].task).unwrap().placement().unwrap().machine;
    let mut named = info(100_000, 1 << 40, &[]);
    named.task_host = "m-1.example.net".into();
    cell.observe(Observation::MachineUp { machine, info: named });
    let mut names = Names::new(cell.state.clone());
    assert_eq!(shown(&ask(&mut names, "0.web.ann", Wanted::A)), ["alias m-1.example.net."]);
    assert_eq!(shown(&ask(&mut names, "web.ann", Wanted::A)), ["@ 10.0.0.2"], "what has addresses");
    let services = shown(&ask(&mut names, "0.web.ann", Wanted::Srv));
    assert_eq!(services[0], format!("{} m-1.example.net.", PORTS.0));
    cell.observe(Observation::TaskHealth { id: ids[1], health: Health::Unhealthy });
    names.follow(cell.state.clone());
    assert_eq!(shown(&ask(&mut names, "web.ann", Wanted::A)), ["alias m-1.example.net."]);
    let mut six = info(100_000, 1 << 40, &[]);
    six.task_host = "fd00::1".into();
    cell.observe(Observation::MachineUp { machine, info: six });
    names.follow(cell.state);
    assert_eq!(shown(&ask(&mut names, "web.ann", Wanted::Aaaa)), ["@ fd00::1"]);
    assert!(ask(&mut names, "web.ann", Wanted::A).answers.is_empty());
}

#[test]
fn an_answer_has_as_many_records_as_are_wanted_and_says_that_there_are_more() {
    let (cell, _) = web(5);
    let mut names = Names::new(cell.state);
    let reply = names.answer(&["web", "ann"], Wanted::Srv, 3);
    assert_eq!((reply.answers.len(), reply.more), (3, true));
    let reply = names.answer(&["web", "ann"], Wanted::Srv, 10);
    assert_eq!((reply.answers.len(), reply.more), (10, false));
    let reply = names.answer(&["web", "ann"], Wanted::A, 1);
    assert_eq!((reply.answers.len(), reply.more), (1, true));
}

/// A batch job of many tasks would make an answer that is as large as the job.
#[test]
fn who_has_no_ports_is_no_host_of_services() {
    let mut cell = Cell::new();
    let machine = cell.machine("m-1", 100_000, 1 << 40);
    let job = cell.submit("ann", service("silent", 3, 100, 4 << 20));
    for index in 0..3 {
        let id = cell.place(job, index, machine).unwrap();
        cell.up(id);
    }
    let mut names = Names::new(cell.state);
    let reply = ask(&mut names, "silent.ann", Wanted::Srv);
    assert_eq!((reply.exists, reply.answers.len(), reply.additional.len()), (true, 0, 0));
}

#[test]
fn a_large_job_is_not_gone_through_for_services_that_it_has_not() {
    let (cell, _) = web(1);
    let job = cell.state.job_named(&"ann/web".parse().unwrap()).unwrap();
    let other: PortName = "other".parse().unwrap();
    let mut looked = 0;
    let order = std::iter::repeat_n(0, 3 * MOST_LOOKED_AT).inspect(|_| looked += 1);
    services(&cell.state, (job, Some(&other)), order, 10, &mut Reply::default());
    assert_eq!(looked, MOST_LOOKED_AT);
}

/// Another name has everything that it is another name for: a resolver that keeps it would look for addresses of
/// the other kind there, too.
#[test]
fn what_has_addresses_of_one_kind_is_no_other_name_for_the_other_kind() {
    let (mut cell, ids) = web(2);
    let machine = cell.state.task(ids[0].task).unwrap().placement().unwrap().machine;
    let mut named = info(100_000, 1 << 40, &[]);
    named.task_host = "m-1.example.net".into();
    cell.observe(Observation::MachineUp { machine, info: named });
    let mut names = Names::new(cell.state);
    assert_eq!(shown(&ask(&mut names, "web.ann", Wanted::A)), ["@ 10.0.0.2"]);
    assert!(ask(&mut names, "web.ann", Wanted::Aaaa).answers.is_empty());
}

#[test]
fn a_question_about_one_task_does_not_go_through_its_job() {
    let (cell, _) = web(4);
    let mut names = Names::new(cell.state);
    for wanted in [Wanted::A, Wanted::Srv] {
        assert!(!ask(&mut names, "1.web.ann", wanted).answers.is_empty());
    }
    assert_eq!(names.rotations.remembered(), 0);
    ask(&mut names, "web.ann", Wanted::A);
    assert_eq!(names.rotations.remembered(), 1);
}

/// Of every job that ever served, else, all tasks would be kept for as long as the master runs.
#[test]
fn what_a_job_was_is_not_kept_in_memory() {
    let (mut cell, ids) = web(2);
    let mut names = Names::new(cell.state.clone());
    ask(&mut names, "web.ann", Wanted::A);
    let before = std::sync::Arc::downgrade(cell.state.shared_job(ids[0].task.job).unwrap());
    cell.kill("ann", "ann/web", &[]).unwrap();
    names.follow(cell.state);
    assert!(before.upgrade().is_none());
}

#[test]
fn a_job_that_came_again_under_its_name_is_the_one_that_answers() {
    let (mut cell, _) = web(1);
    let mut names = Names::new(cell.state.clone());
    assert_eq!(ask(&mut names, "web.ann", Wanted::A).answers.len(), 1);
    cell.kill("ann", "ann/web", &[]).unwrap();
    names.follow(cell.state.clone());
    let dead = ask(&mut names, "web.ann", Wanted::A);
    assert!(dead.exists && dead.answers.is_empty(), "it is remembered");
    cell.submit("ann", service("web", 3, 100, 4 << 20));
    names.follow(cell.state);
    assert!(ask(&mut names, "2.web.ann", Wanted::A).exists);
}
