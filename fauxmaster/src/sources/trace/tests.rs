mod google;

use super::*;
use crate::replay::{Replay, Settings};
use crate::sources::loaded::Loaded;
use crate::sources::workload::Runs;
use borg_sim::dice::Dice;
use flate2::Compression;
use flate2::write::GzEncoder;
use google::{COLLECTIONS_2019, INSTANCES_2019, MACHINES_2011, MACHINES_2019, TASKS_2011, of_2011};
use std::fs;
use std::io::Write;
use std::path::PathBuf;

const SKIP: Choices = Choices { skip_bad: true, seed: 1, machines: None };
const STRICT: Choices = Choices { skip_bad: false, ..SKIP };

/// A folder with these files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        for (name, text) in files {
            folder.put(name, text.as_bytes());
        }
        folder
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, kind: Kind, choices: Choices) -> Result<Trace, Error> {
        read(kind, self.0.path(), choices)
    }

    /// Why it cannot be read, from the name of the file on.
    fn refused(&self, kind: Kind) -> String {
        let error = self.read(kind, STRICT).unwrap_err();
        let folder = format!("{}/", self.0.path().display());
        borg_proto::in_full(&*error).replace(&folder, "")
    }
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Arrivals in few words: name, when, tasks, what each asks for, how long it runs.
fn told(trace: &Trace) -> Vec<String> {
    let arrivals = trace.workload.arrivals.iter();
    let told = arrivals.map(|arrival| {
        let (spec, limit) = (&arrival.spec, &arrival.spec.task.limit);
        let runs = match &arrival.runs {
            Runs::Forever => "on".to_owned(),
            Runs::Each(time) => time.0.to_string(),
            Runs::ByIndex(times) => {
                format!("{:?}", times.iter().map(|time| time.0).collect::<Vec<_>>())
            }
        };
        let (name, owner, at) = (&arrival.name, &arrival.owner, arrival.at.0);
        format!(
            "{name} {owner} @{at} {}x{}m/{}M p{} {runs}",
            spec.tasks,
            limit.cpu_milli,
            limit.ram_bytes >> 20,
            spec.priority.get()
        )
    });
    told.collect()
}

/// Replayed until its end, with what has to hold of every state.
fn replayed(trace: &Trace) -> Replay {
    let settings = Settings::new(Millis(0), Millis::from_secs(3_600));
    let mut replay = Replay::new(Arc::clone(&trace.workload), settings).unwrap();
    replay.run_until(trace.ends + Millis(1_000)).unwrap();
    assert_eq!(replay.state().audit(), []);
    replay
}

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\nn0,32000,262144,0,\nn1,64000,262144,8,T4\n";
const PODS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time,scheduled_time\n\
                    a,6000,1024,1,460,T4,LS,Running,10,100,20\nb,1000,1024,0,0,,BE,Pending,0,50,\n";

fn openb_of(pods: &str) -> Folder {
    Folder::of(&[("openb_node_list_all_node.csv", NODES), ("openb_pod_list_default.csv", pods)])
}

#[test]
fn pods_come_and_go_at_their_times() {
    let folder = openb_of(&PODS.replace('\n', "\r\n"));
    let trace = folder.read(Kind::Openb, STRICT).unwrap();
    assert_eq!(
        told(&trace),
        ["b all @0 1x1000m/1024M p100 50000", "a all @10000 1x6000m/1024M p100 80000"]
    );
    assert_eq!(trace.ends, Millis(100_001));
    assert_eq!(replayed(&trace).books.counts.ends, 2);
    let by_file = read(Kind::Openb, &folder.path("openb_pod_list_default.csv"), STRICT).unwrap();
    assert_eq!(told(&by_file), told(&trace));
    let late = PODS.replace("10,100,20", "10,9,20");
    let refused = openb_of(&late).refused(Kind::Openb);
    assert!(
        refused.ends_with(":2: column deletion_time: \"9\" is not a time from creation_time on"),
        "{refused}"
    );
    let twice = openb_of(&PODS.replace("\nb,", "\na,")).refused(Kind::Openb);
    assert!(
        twice.ends_with(":3: column name: \"a\" is not a name that no earlier line has"),
        "{twice}"
    );
    let early = openb_of(&PODS.replace("10,100,20", "-10,100,20")).refused(Kind::Openb);
    assert!(
        early.ends_with(
            "column creation_time: \"-10\" is not seconds from the beginning of the trace"
        ),
        "{early}"
    );
}

#[test]
fn a_task_larger_than_any_machine_is_told_and_stays_pending() {
    let trace =
        openb_of(&PODS.replace("6000,1024", "65000,1024")).read(Kind::Openb, STRICT).unwrap();
    let note = "1 tasks asked for more than any machine has: they stay pending";
    assert!(trace.notes.iter().any(|told| told == note), "{:?}", trace.notes);
    let replay = replayed(&trace);
    assert_eq!((replay.state().pending_len(), replay.books.counts.ends), (1, 1));
}

#[test]
fn empty_traces_and_folders_where_files_should_be_are_refused_with_what_is_missing() {
    let head = PODS.split_once('\n').unwrap().0;
    let only = openb_of(&format!("{head}\n")).refused(Kind::Openb);
    assert!(only.ends_with("there is no job in the trace, 2 rows were read"), "{only}");
    assert!(
        openb_of("")
            .refused(Kind::Openb)
            .ends_with("is empty; a line with the names of the columns is expected")
    );
    let empty = of_2011("", "").refused(Kind::Google2011);
    assert!(empty.ends_with("there is no machine in the trace, 0 rows were read"), "{empty}");
    let missing = Folder::of(&[("machine_events.csv", MACHINES_2011)]).refused(Kind::Google2011);
    assert!(missing.ends_with("neither task_events.csv nor task_events.csv.gz, and no folder task_events with such parts"), "{missing}");
    let file = of_2011(MACHINES_2011, TASKS_2011).path("task_events.csv");
    assert!(read(Kind::Google2011, &file, STRICT).is_err(), "a file where a folder should be");
    let folder = tempfile::tempdir().unwrap();
    let error = read(Kind::Swf, folder.path(), STRICT).unwrap_err().to_string();
    assert!(error.ends_with("is a folder; a file is expected"), "{error}");
    let all_bad =
        openb_of(&PODS.replace("1024", "x")).read(Kind::Openb, SKIP).unwrap_err().to_string();
    assert!(
        all_bad.contains("no job in the trace") && all_bad.contains("2 rows skipped"),
        "{all_bad}"
    );
}

#[test]
fn packed_traces_that_are_damaged_are_refused_also_when_bad_rows_are_skipped() {
    let folder = Folder::of(&[("machine_events.csv", MACHINES_2011)]);
    let whole = packed(TASKS_2011);
    folder.put("task_events.csv.gz", &whole[..whole.len() / 2]);
    let error = folder.read(Kind::Google2011, SKIP).unwrap_err().to_string();
    assert!(
        error.contains("task_events.csv.gz: packed data ends too early or is damaged"),
        "{error}"
    );
    let row = "1,,1,0,,8,a,0,0,0,0,0,0\n";
    folder.put("task_events.csv.gz", &packed(&row.repeat((17 << 20) / row.len())));
    let error = folder.read(Kind::Google2011, SKIP).unwrap_err().to_string();
    assert!(error.contains("bytes of packed data became"), "{error}");
}

const SWF: &str = "; Version: 2.2\n; MaxNodes: 4\n; MaxProcs: 32 (8 a node)\n\
                   1 100 5 60 4 -1 -1 4 100 2048 1 7 1 1 1 1 -1 -1\n\
                   2 110 -1 -1 -1 -1 -1 4 100 -1 5 8 1 1 1 1 -1 -1\n\
                   3 120 0 30 -1 -1 1048576 2 100 -1 1 8 1 1 1 1 -1 -1\n";

fn swf_of(text: &str, choices: Choices) -> Result<Trace, Error> {
    let folder = Folder::of(&[("log.swf", text)]);
    read(Kind::Swf, &folder.path("log.swf"), choices)
}

#[test]
fn jobs_of_parallel_machines_are_gangs_on_as_many_machines_as_the_head_says() {
    let trace = swf_of(SWF, STRICT).unwrap();
    assert_eq!(
        told(&trace),
        ["s1 u0 @0 4x1000m/4M p100 60000", "s3 u1 @20000 2x1000m/1024M p100 30000"]
    );
    assert!(trace.workload.arrivals.iter().all(|arrival| arrival.spec.gang));
    let has = |trace: &Trace| {
        (trace.workload.machines.len(), trace.workload.machines[0].1.capacity.cpu_milli)
    };
    assert_eq!(has(&trace), (4, 8_000));
    assert_eq!(trace.notes, ["1 jobs left out, as they never ran"]);
    assert_eq!(replayed(&trace).books.counts.ends, 6);
    let cores = |machines: u32| {
        let trace = swf_of(SWF, Choices { machines: Some(machines), ..STRICT })?;
        let cores = trace.workload.machines.iter().map(|(_, info)| info.capacity.cpu_milli / 1_000);
        Ok::<Vec<u64>, Error>(cores.collect())
    };
    let all: u64 = cores(2).unwrap().iter().sum();
    let three = cores(3).unwrap();
    assert_eq!(three.iter().sum::<u64>(), all, "none is made up: {three:?}");
    assert!(cores(u32::try_from(all + 1).unwrap()).is_err());
    let shared = swf_of(SWF, Choices { machines: Some(2), ..STRICT }).unwrap();
    assert_eq!(has(&shared), (2, 16_000));
    let headless = swf_of(&SWF.replace("Max", "Most"), STRICT).unwrap_err().to_string();
    assert!(headless.contains("--trace-machines"), "{headless}");
    for (from, to, why) in [
        ("3 120", "1 120", "column job_number: \"1\" is not a number that no earlier line has"),
        ("3 120", "3 -5", "column submit_time: \"-5\" is not seconds, 0 or more"),
        ("30 -1 -1 1048576", "-30 -1 -1 1048576", "column run_time: \"-30\" is not seconds, or -1"),
        (
            "1048576 2",
            "1048576 x",
            "column requested_processors: \"x\" is not a number, -1 for unknown",
        ),
        (
            " -1 -1\n3",
            " -1\n3",
            "column number of fields: \"17\" is not 18, as many as there are columns",
        ),
    ] {
        let error = swf_of(&SWF.replacen(from, to, 1), STRICT).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

const AZURE: [(&str, &str); 4] = [
    ("flav_map.txt", "1,1.75 b\n16,112 d\n"),
    ("v1.interval_map.txt", "0 0\n300 1\n600 1\n"),
    ("v1.dev.txt", "900 b,b,d,|,d,|\n1200 b,|\n"),
    ("v1.dev.c2100000.txt", "900 U0,C1,U1,|,C0,|\n1200 U0,|\n"),
];

fn azure_of(arrivals: &str, lives: &str) -> Folder {
    let [flavours, bins, ..] = AZURE;
    Folder::of(&[flavours, bins, ("v1.dev.txt", arrivals), ("v1.dev.c2100000.txt", lives)])
}

#[test]
fn machines_of_a_tenant_live_for_a_time_in_their_bin() {
    let folder =
        azure_of("\n900 b,b,d,|,d,|\r\n\n1200 b,|\n\n", "900 U0,C1,U1,|,C0,|\n1200 U0,|\n");
    let trace = folder.read(Kind::AzureV1, STRICT).unwrap();
    let of_one = told(&trace);
    assert!(of_one[0].starts_with("b0 u0 @0 2x1000m/1792M p200 ["), "{of_one:?}");
    assert_eq!(of_one[2], "b2 u0 @0 1x16000m/114688M p200 on");
    let run = |job: usize| trace.workload.arrivals[job].runs.of(0).unwrap().0;
    assert!((1..300_000).contains(&run(0)) && (300_000..900_000).contains(&run(1)), "{of_one:?}");
    assert_eq!(trace.workload.arrivals[0].runs.of(1), None, "it was there at the end");
    assert_eq!(trace.workload.machines.len(), 1_000);
    let few = Choices { machines: Some(3), seed: 2, ..STRICT };
    let other = folder.read(Kind::AzureV1, few).unwrap();
    assert_eq!(other.workload.machines.len(), 3);
    assert_ne!(told(&other), of_one, "another seed");
    folder.put("flav_map.txt", b"1,1.75 b\n99999999,112 d\n");
    let without = folder.read(Kind::AzureV1, STRICT).unwrap();
    assert_eq!(without.workload.arrivals.len(), 2, "{:?}", without.notes);
    assert!(without.notes[0].starts_with("2 jobs left out, as a cell refuses them: "));
    for (arrivals, lives, why) in [
        ("900 b,|\n", "900 U0,U0,|\n", "v1.dev.txt:1: column flavour: \"the end\" is not as many"),
        ("900 b,b,|\n", "900 U0,|\n", "v1.dev.txt:1: column flavour: \"b\" is not as many"),
        ("900 z,|\n", "900 U0,|\n", "v1.dev.txt:1: column flavour: \"z\" is not a flavour of"),
        ("900 b,|\n", "900 U7,|\n", "column lifetime: \"U7\" is not U or C with a bin of the map"),
        ("900 b,|\n800 b,|\n", "900 U0,|\n800 U0,|\n", "v1.dev.txt:2: column time: \"800\" is not"),
        ("-900 b,|\n", "900 U0,|\n", "column time: \"-900\" is not seconds"),
        ("900 b,|\n", "900 U0,|\n1200 U0,|\n", "belong together line by line"),
    ] {
        let refused = azure_of(arrivals, lives).refused(Kind::AzureV1);
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn questions_of_one_moment_are_of_the_busiest_unless_told_otherwise() {
    let trace =
        openb_of(&PODS.replace("10,100,20", "400,1000,400")).read(Kind::Openb, STRICT).unwrap();
    assert_eq!(trace.busiest(), Millis(400_000), "of every second of 1,000");
    let busiest = Loaded::trace(trace.clone(), None).unwrap();
    let names = |loaded: &Loaded| {
        let jobs = loaded.work().jobs;
        jobs.iter().map(|(_, spec)| spec.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(names(&busiest), ["a"]);
    assert_eq!(names(&Loaded::trace(trace.clone(), Some(Millis(0))).unwrap()), ["b"]);
    let late = Loaded::trace(trace, Some(Millis(9_000_000))).unwrap_err().to_string();
    assert!(late.contains("the trace is over after"), "{late}");
    let trace = of_2011(MACHINES_2011, TASKS_2011).read(Kind::Google2011, STRICT).unwrap();
    let there = |at: u64| {
        let loaded = Loaded::trace(trace.clone(), Some(Millis(at))).unwrap();
        let work = loaded.work();
        (work.machines.len(), work.tasks())
    };
    // One task is over after 69 s of its own; one machine is away, another not there yet.
    assert_eq!((there(0), there(62_500), there(71_000)), ((2, 2), (1, 3), (1, 1)));
}

#[test]
fn a_number_of_machines_is_refused_where_the_trace_has_its_own() {
    let error =
        openb_of(PODS).read(Kind::Openb, Choices { machines: Some(2), ..STRICT }).unwrap_err();
    assert!(error.to_string().contains("has its own: leave it out"), "{error}");
}

/// Where public traces are: as in the benches.
fn data() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    std::env::var_os("BORG_DATA").map_or_else(built, PathBuf::from)
}

/// Real traces, where they are.
#[test]
fn the_public_traces_are_read_as_published() {
    for (kind, folder, machines, tasks) in
        [(Kind::Openb, "openb-fgd", 1_523, 8_152), (Kind::AzureV1, "azure-v1", 1_000, 259_159)]
    {
        let path = data().join(folder);
        if !path.exists() {
            eprintln!("skipped: there is no {}", path.display());
            continue;
        }
        let trace = read(kind, &path, STRICT).unwrap();
        let sum: u64 =
            trace.workload.arrivals.iter().map(|arrival| u64::from(arrival.spec.tasks)).sum();
        assert_eq!((trace.workload.machines.len(), sum), (machines, tasks), "{kind}");
    }
}

/// Whatever is in a file, it is read or refused, and skipping bad rows changes nothing where there are none.
#[test]
fn no_damage_to_a_trace_is_a_panic() {
    let mut dice = Dice::new(7);
    let kinds: [(Kind, &[(&str, &str)]); 5] = [
        (
            Kind::Google2011,
            &[("machine_events.csv", MACHINES_2011), ("task_events.csv", TASKS_2011)],
        ),
        (
            Kind::Google2019,
            &[
                ("machine_events.csv", MACHINES_2019),
                ("instance_events.csv", INSTANCES_2019),
                ("collection_events.csv", COLLECTIONS_2019),
            ],
        ),
        (
            Kind::Openb,
            &[("openb_node_list_all_node.csv", NODES), ("openb_pod_list_default.csv", PODS)],
        ),
        (Kind::AzureV1, &AZURE),
        (Kind::Swf, &[("log.swf", SWF)]),
    ];
    let (mut good, mut bad) = (0, 0);
    for _ in 0..150 {
        for (kind, files) in kinds {
            let folder = Folder::of(files);
            let (name, text) = *dice.pick(files);
            folder.put(name, &damaged(text, &mut dice));
            let path =
                if kind == Kind::Swf { folder.path(name) } else { folder.0.path().to_owned() };
            let strict = read(kind, &path, STRICT);
            let skipped = read(kind, &path, SKIP);
            match strict {
                Ok(trace) => {
                    good += 1;
                    let again = skipped.unwrap();
                    assert_eq!((told(&again), again.digest), (told(&trace), trace.digest));
                    let work = trace.work_at(trace.busiest());
                    assert!(work.jobs.len() <= trace.workload.arrivals.len());
                }
                Err(_) => bad += 1,
            }
        }
    }
    assert!(good > 20 && bad > 100, "{good} could be read, {bad} could not");
}

/// A text with something in it changed, left out or said twice.
fn damaged(text: &str, dice: &mut Dice) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..dice.between(1, 3) {
        let at = dice.index(bytes.len());
        match dice.below(4) {
            0 => bytes[at] = *dice.pick(b"0123456789-,.;\n \"\xff"),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, *dice.pick(b"9999-,\n\0")),
            _ => {
                let end = (at + 40).min(bytes.len());
                let again = bytes[at..end].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}
