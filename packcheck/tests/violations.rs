//! Each kind of violation, found in a small packing that has it and no other.

use packcheck::{Found, check_folder};

const NODES: &str = "node_id,cpu_milli,mem_mib,gpu_milli,attr.kernel,dom.rack\n\
                     a,4000,1024,2000,5,r0\nb,4000,1024,0,6,r0\nc,2000,1024,0,6,r1\n";
const TASKS: &str = "task_id,cpu_milli,mem_mib,gpu_milli,count,priority,job,constraint,max_per_node,max_per.rack\n\
                     t,1000,64,0,4,200,j,kernel>=6,2,3\nu,500,64,600,3,0,k,,,\n";

fn checked(placements: &str, order: Option<&str>) -> Result<Found, String> {
    let folder = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("there is room");
    };
    write("nodes.csv", NODES);
    write("tasks.csv", TASKS);
    write("placements.csv", &format!("task_id,node_id,count\n{placements}"));
    if let Some(order) = order {
        write("order.csv", &format!("node_id\n{order}"));
    }
    check_folder(folder.path())
}

fn violations(placements: &str) -> Vec<String> {
    let found = checked(placements, None).expect("it is in the format");
    found.violations.iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_packing_has_nothing_wrong_with_it() {
    let found = checked("t,b,2\nt,c,\nu,a,2\n", Some("a\nb\nc\n")).unwrap();
    assert_eq!(found.violations, []);
    assert_eq!(
        found.summary(),
        "5 of 7 tasks on 3 of 3 machines, cpu_milli 40.0 %, mem_mib 10.4 %, gpu_milli 60.0 %; nothing is wrong"
    );
}

#[test]
fn each_kind_of_violation_is_found_and_named() {
    for (placements, wrong) in [
        ("v,a,1\n", "task v: there is none of that name"),
        ("u,d,1\n", "node d: there is none of that name"),
        ("t,a,1\n", "task t on node a: kernel>=6 does not hold"),
        ("u,a,3\n", "node a: parts of gpu_milli do not fit on single devices"),
        ("t,b,2\nt,b,1\n", "job j: 3 tasks on node b, at most 2"),
    ] {
        assert_eq!(violations(placements), [wrong], "{placements}");
    }
    let many = violations("t,b,2\nt,c,2\nt,b,1\n");
    assert!(many.contains(&"task t: 5 are placed, there are 4".to_owned()), "{many:?}");
    let full = violations("t,c,2\nu,c,1\n");
    assert!(
        full.contains(&"node c: 2500 of cpu_milli are placed, it has 2000".to_owned()),
        "{full:?}"
    );
    let kept = checked("t,b,1\n", Some("a\n")).unwrap().violations;
    assert_eq!(
        kept.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["node b: used and not in order.csv"]
    );
}

#[test]
fn a_limit_for_a_level_counts_over_its_places() {
    let racks = violations("t,a,2\nt,b,2\n");
    assert!(racks.contains(&"job j: 4 tasks on rack r0, at most 3".to_owned()), "{racks:?}");
}

#[test]
fn what_is_not_in_the_format_is_said_with_file_line_and_column() {
    let wrong = checked("t,b,x\n", None).unwrap_err();
    assert_eq!(wrong, "placements.csv:2: column count: \"x\" is not a whole number");
    let short = checked("t,b\n", None).unwrap_err();
    assert_eq!(short, "placements.csv:2: 2 fields, not 3");
}

/// Two devices: the largest parts first on the fullest would leave 200 and 200 for the last of 300.
#[test]
fn parts_that_fit_only_in_one_way_are_found_to_fit() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("nodes.csv", "node_id,gpu_milli\na,2000\n");
    write("tasks.csv", "task_id,gpu_milli,count\nx,400,2\ny,300,4\n");
    write("placements.csv", "task_id,node_id,count\nx,a,2\ny,a,4\n");
    assert_eq!(check_folder(folder.path()).unwrap().violations, []);
    // Counts that no sum can hold are told, and take no memory.
    let most = u64::MAX;
    write("placements.csv", &format!("task_id,node_id,count\nx,a,{most}\ny,a,{most}\n"));
    assert_eq!(check_folder(folder.path()).unwrap().violations.len(), 3);
}
