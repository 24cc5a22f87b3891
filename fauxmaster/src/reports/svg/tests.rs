use super::*;
use crate::answer::{Axis, Point, Series, Spread};

/// What jobs may be called, and what is no number.
const NAMES: [&str; 6] = [
    "a",
    "",
    "</text><script>alert('\"&')</script>\u{1}\n\u{ffff}",
    "a name that is far longer than whoever draws a chart thinks that any name of a job can be",
    "ünïcödé 漢字",
    "]]>",
];
const NUMBERS: [f64; 12] = [
    0.0,
    1.0,
    -3.5,
    1e-9,
    1e15,
    1e300,
    f64::MIN,
    f64::MAX,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    99.9,
];

fn axis() -> Axis {
    Axis { label: NAMES[3].into(), unit: NAMES[2].into() }
}

fn nth<T: Clone>(all: &[T], n: usize) -> T {
    all[n % all.len()].clone()
}

/// Charts of each kind with so many things in them, each of so many numbers, beginning at some.
fn charts(things: usize, each: usize, first: usize) -> Vec<Chart> {
    let (name, title) = ("n".to_owned(), nth(&NAMES, first).to_owned());
    let number = |n: usize| nth(&NUMBERS, first + n * 5);
    let called = |n: usize| nth(&NAMES, first + n).to_owned();
    let point = |n| Point {
        x: number(n),
        y: number(n + 1),
        between: (n % 2 == 0).then(|| (number(n + 2), number(n + 3))),
    };
    let numbers = |n| (0..each).map(|m| number(n + m)).collect::<Vec<f64>>();
    let series = |n| Series { name: called(n), points: (0..each).map(|m| point(n + m)).collect() };
    let spread =
        |n| Spread { name: called(n), samples: numbers(n), bound: (n % 2 == 0).then(|| number(n)) };
    let bars = |stacked| Chart::Bars {
        name: name.clone(),
        title: title.clone(),
        y: axis(),
        parts: (0..each).map(called).collect(),
        bars: (0..things).map(|n| (called(n), numbers(n))).collect(),
        stacked,
    };
    vec![
        Chart::Lines {
            name: name.clone(),
            title: title.clone(),
            x: axis(),
            y: axis(),
            series: (0..things).map(series).collect(),
        },
        Chart::Heat {
            name: name.clone(),
            title: title.clone(),
            x: axis(),
            y: axis(),
            counts: (0..things)
                .map(|n| (0..each).map(|m| u64::MAX >> (n + m).min(63)).collect())
                .collect(),
        },
        Chart::Boxes {
            name: name.clone(),
            title: title.clone(),
            y: axis(),
            boxes: (0..things).map(spread).collect(),
        },
        bars(true),
        bars(false),
    ]
}

/// Elements and texts of a drawing. Panics where it is no XML.
fn read(drawn: &str) -> Vec<(String, String)> {
    let (mut open, mut elements) = (Vec::new(), Vec::<(String, String)>::new());
    let mut rest = drawn;
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        let end = tag.find('>').expect("a tag ends");
        let (inner, after) = (&tag[1..end], &tag[end + 1..]);
        assert!(!text.contains(['"', '\'', '>']) || open.last() == Some(&"style"), "{text}");
        assert_eq!(inner.matches('"').count() % 2, 0, "{inner}");
        if let Some(closed) = inner.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{drawn}");
            if let Some((_, told)) = elements.last_mut() {
                told.push_str(text.trim());
            }
        } else {
            elements.push((inner.to_owned(), String::new()));
            if !inner.ends_with('/') {
                open.push(inner.split(' ').next().unwrap());
            }
        }
        rest = after;
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest}");
    elements
}

fn attribute(element: &str, name: &str) -> f64 {
    let (_, after) = element.split_once(&format!(" {name}=\"")).unwrap();
    after.split('"').next().unwrap().parse().unwrap()
}

/// From where to where a text goes, and in which line it is. `None` for those that stand upright.
fn extent((element, text): &(String, String)) -> Option<(f64, f64, f64)> {
    if !element.starts_with("text ") || element.contains("transform") {
        return None;
    }
    let written = text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let written = written.replace("&quot;", "\"").replace("&#39;", "'");
    let letter = if element.contains("title") { 8.5 } else { 6.0 };
    let wide = letter * drawing::letters(&written);
    let x = attribute(element, "x");
    let from = if element.contains("mid") {
        x - wide / 2.0
    } else if element.contains("end") {
        x - wide
    } else {
        x
    };
    Some((attribute(element, "y"), from, from + wide))
}

/// Nothing, one, equal ones, tiny and huge ones, those that are no numbers, many, and hostile names.
#[test]
fn whatever_is_drawn_is_sound_and_no_text_means_anything_or_stands_on_another() {
    for (things, each) in [(0, 0), (1, 0), (1, 1), (2, 1), (3, 7), (9, 2), (30, 3), (200, 1)] {
        for first in 0..NUMBERS.len() {
            for chart in charts(things, each, first) {
                let drawn = svg(&chart);
                assert_eq!(drawn, svg(&chart));
                let numbers = drawn.split("<title>").next().unwrap();
                assert!(!numbers.contains("NaN") && !numbers.contains("inf\""), "{drawn}");
                assert!(!drawn.contains("<script") && !drawn.contains('\u{1}'), "{drawn}");
                let mut texts: Vec<_> = read(&drawn).iter().filter_map(extent).collect();
                texts.sort_by(|a, b| a.partial_cmp(b).unwrap());
                for (_, from, to) in &texts {
                    assert!(*from >= -2.0 && *to <= drawing::WIDTH + 2.0, "{from} {to}: {drawn}");
                }
                for pair in texts.windows(2) {
                    let ((y, _, to), (next, from, _)) = (pair[0], pair[1]);
                    assert!(y != next || to <= from + 1.0, "{pair:?}: {drawn}");
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_drawn_says_so() {
    for chart in charts(0, 0, 0) {
        assert!(svg(&chart).contains("nothing to show"), "{chart:?}");
    }
}

/// A law for pictures cannot see that they are empty: each kind has what it is made of.
#[test]
fn every_kind_shows_its_numbers() {
    let shapes = |chart: &Chart, what: &str| svg(chart).matches(what).count();
    let series = |points: &[f64]| Series {
        name: "s".into(),
        points: points.iter().map(|y| Point { x: *y, y: *y, between: Some((0.0, 9.0)) }).collect(),
    };
    let lines = Chart::Lines {
        name: "n".into(),
        title: "t".into(),
        x: axis(),
        y: axis(),
        series: vec![series(&[1.0, 2.0, 3.0]), series(&[4.0])],
    };
    assert_eq!(["<polyline", "<polygon", "<circle"].map(|what| shapes(&lines, what)), [1, 1, 1]);
    let mut all = charts(3, 7, 11);
    let heat = Chart::Heat {
        name: "n".into(),
        title: "t".into(),
        x: axis(),
        y: axis(),
        counts: vec![vec![0, 5], vec![1, 0]],
    };
    assert_eq!(shapes(&heat, "<rect"), 2);
    all.retain(|chart| matches!(chart, Chart::Boxes { .. }));
    assert_eq!(shapes(&all[0], "<rect"), 3);
    let bars = |names: &[&str]| Chart::Bars {
        name: "n".into(),
        title: "t".into(),
        y: axis(),
        parts: vec!["p".into(), "q".into()],
        bars: names.iter().map(|name| ((*name).to_owned(), vec![1.0, 2.0])).collect(),
        stacked: true,
    };
    assert_eq!(shapes(&bars(&["a", "b"]), "<rect"), 4);
    assert_eq!(shapes(&bars(&[NAMES[3], "b"]), "<rect"), 4);
}
