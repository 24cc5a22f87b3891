//! Reports as a browser shows them: Debian's `chromium`, without a window.
//!
//! Without it these say why they skip; `BORG_PRIVILEGED=1` makes that a failure.

use borg_fauxmaster::answer::{
    Answer, Axis, Chart, Column, Point, Provenance, Series, Spread, Table,
};
use borg_fauxmaster::questions::show::show;
use borg_fauxmaster::reports::html::html;
use borg_fauxmaster::sources::loaded::Loaded;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the browser asks for by itself, whatever it shows.
const OWN: [&str; 4] =
    [".google.com", "update.googleapis.com", "optimizationguide-pa.googleapis.com", ".gvt1.com"];
/// Runs if text is taken for a page, and asks for something from elsewhere.
const HOSTILE: &str = "</title></text></svg></td><script>console.error('it ran')</script>\
                       <img src=\"http://elsewhere.test/x.png\" onerror=\"console.error('it ran')\">";

/// What came of showing a page.
struct Shown {
    dom: String,
    console: Vec<String>,
    requests: Vec<String>,
    /// Bytes of the picture of it: the more is in it, the more.
    picture: u64,
}

/// Whether there is a browser; says so when not.
#[expect(clippy::print_stdout, reason = "`./ci test` shows lines that begin with `skip`")]
fn has_browser() -> bool {
    if Command::new("chromium").arg("--version").output().is_ok() {
        return true;
    }
    let why = "there is no chromium: Debian's package chromium has it";
    assert!(std::env::var_os("BORG_PRIVILEGED").is_none(), "{why}");
    println!("skipped: {why}");
    false
}

/// A proxy that answers nothing and keeps the first line of what it is asked. Ends with the test.
fn proxy() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let keeps = asked.clone();
    let keep = move |stream: TcpStream| {
        stream.set_read_timeout(Some(Duration::from_secs(1))).expect("that is a time");
        let mut line = String::new();
        if BufReader::new(stream).read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
            keeps.lock().expect("nobody panics with it").push(line);
        }
    };
    std::thread::spawn(move || listener.incoming().flatten().for_each(keep));
    (port, asked)
}

/// Whether the browser asks for this by itself.
fn is_own(request: &str) -> bool {
    let target = request.split(' ').nth(1).unwrap_or_default();
    let host = target.trim_start_matches("http://").split(['/', ':']).next().unwrap_or_default();
    OWN.iter().any(|own| host.ends_with(own))
}

fn shown(page: &str, wide: u32, dark: bool) -> Shown {
    let folder = tempfile::tempdir().expect("there is room");
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("page.html"), page).expect("there is room");
    let (port, asked) = proxy();
    let mut command = Command::new("timeout");
    command.args(["-k", "5", "120", "chromium", "--headless=new", "--no-sandbox", "--disable-gpu"]);
    command.args(["--no-first-run", "--disable-background-networking", "--disable-sync"]);
    command.args(["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]);
    command.args(["--proxy-bypass-list=<-loopback>", &format!("--proxy-server=127.0.0.1:{port}")]);
    command.args([
        &format!("--window-size={wide},2400"),
        &format!("--user-data-dir={}", at("user").display()),
    ]);
    if dark {
        command.arg("--blink-settings=preferredColorScheme=0");
    }
    command.arg(format!("--screenshot={}", at("page.png").display()));
    command.arg(format!("file://{}", at("page.html").display()));
    let output = command.output().expect("timeout is of coreutils");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log = text(&output.stderr);
    assert!(output.status.success(), "{log}");
    keep(&at("page.png"), &format!("{wide}-{dark}"));
    let requests = asked
        .lock()
        .expect("nobody panics with it")
        .iter()
        .filter(|line| !is_own(line))
        .cloned()
        .collect();
    Shown {
        dom: text(&output.stdout),
        console: log.lines().filter(|line| line.contains(":CONSOLE:")).map(str::to_owned).collect(),
        requests,
        picture: std::fs::metadata(at("page.png")).expect("it was taken").len(),
    }
}

/// Keeps a picture for people where `BORG_PICTURES` names a directory.
fn keep(picture: &Path, name: &str) {
    if let Some(folder) = std::env::var_os("BORG_PICTURES") {
        let to = Path::new(&folder).join(format!("report-{name}.png"));
        std::fs::copy(picture, to).expect("there is room");
    }
}

/// Without this the others could not fail.
#[test]
fn a_page_that_complains_and_asks_elsewhere_is_seen_to() {
    if !has_browser() {
        return;
    }
    let shown = shown(&format!("<!doctype html><p>{HOSTILE}"), 600, false);
    assert!(shown.console.iter().any(|line| line.contains("it ran")), "{:?}", shown.console);
    assert!(
        shown.requests.iter().any(|line| line.contains("elsewhere.test")),
        "{:?}",
        shown.requests
    );
}

#[test]
fn a_report_of_a_cell_is_seen_whole_on_a_desk_in_a_hand_and_in_the_dark() {
    if !has_browser() {
        return;
    }
    let answer = show(&Loaded::made_up(60, 1).unwrap()).unwrap();
    let page = html(&answer);
    for (wide, dark) in [(1_200, false), (500, false), (1_200, true)] {
        let blank = shown("<!doctype html><title>nothing</title>", wide, dark);
        let seen = shown(&page, wide, dark);
        assert_eq!((seen.console.as_slice(), seen.requests.as_slice()), (&[][..], &[][..]));
        assert!(seen.picture > 4 * blank.picture, "{} of {}", seen.picture, blank.picture);
        assert_eq!(seen.dom.matches("<svg").count(), answer.charts.len());
        assert_eq!(seen.dom.matches("<table").count(), answer.tables.len());
    }
}

#[test]
fn hostile_names_are_only_text_in_a_report() {
    if !has_browser() {
        return;
    }
    let name = || HOSTILE.to_owned();
    let axis = || Axis { label: name(), unit: name() };
    let point = Point { x: 1.0, y: 2.0, between: Some((0.0, 3.0)) };
    let answer = Answer {
        question: name(),
        provenance: Provenance {
            source: name(),
            parameters: vec![(name(), name())],
            ..Provenance::default()
        },
        summary: vec![name()],
        tables: vec![Table {
            name: name(),
            title: name(),
            columns: vec![Column::of(HOSTILE, HOSTILE)],
            rows: vec![vec![HOSTILE.into()]; 501],
        }],
        charts: vec![
            Chart::Lines {
                name: name(),
                title: name(),
                x: axis(),
                y: axis(),
                series: vec![Series { name: name(), points: vec![point; 3] }],
            },
            Chart::Boxes {
                name: name(),
                title: name(),
                y: axis(),
                boxes: vec![Spread { name: name(), samples: vec![1.0, 2.0], bound: None }],
            },
            Chart::Bars {
                name: name(),
                title: name(),
                y: axis(),
                parts: vec![name(), name()],
                bars: vec![(name(), vec![1.0, 2.0]); 3],
                stacked: true,
            },
        ],
    };
    let seen = shown(&html(&answer), 800, false);
    assert_eq!((seen.console.as_slice(), seen.requests.as_slice()), (&[][..], &[][..]));
    assert!(!seen.dom.contains("<script") && !seen.dom.contains("<img"));
    assert_eq!(seen.dom.matches("<svg").count(), 3);
}
