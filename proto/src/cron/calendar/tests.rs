use super::*;
use crate::time::Date;
use proptest::prelude::*;

fn schedule(text: &str) -> Schedule {
    text.parse().unwrap()
}

fn refused(text: &str) -> String {
    text.parse::<Schedule>().unwrap_err().to_string()
}

/// The seconds of a date.
fn at(date: &str) -> Millis {
    let days = (0..LAST_DAY).find(|day| {
        Date(Millis(day * 86_400_000)).to_string().starts_with(date.split('T').next().unwrap())
    });
    let clock = date.split('T').nth(1).unwrap();
    let (hour, minute) = clock.split_once(':').unwrap();
    let minutes = hour.parse::<u64>().unwrap() * 60 + minute.parse::<u64>().unwrap();
    Millis(days.unwrap() * 86_400_000 + minutes * 60_000)
}

fn ticks(text: &str, from: &str, many: usize) -> Vec<String> {
    let schedule = schedule(text);
    let next = |last: &Millis| schedule.after(*last);
    let all = std::iter::successors(schedule.after(at(from)), next);
    all.take(many).map(|tick| Date(tick).to_string().replace(":00Z", "")).collect()
}

#[test]
fn ticks_are_those_that_the_fields_name() {
    assert_eq!(
        ticks("*/20 22 * * *", "2026-11-27T22:05", 4),
        ["2026-11-27T22:20", "2026-11-27T22:40", "2026-11-28T22:00", "2026-11-28T22:20"]
    );
    assert_eq!(ticks("0 0 29 2 *", "2096-03-01T00:00", 1), ["2104-02-29T00:00"]);
    assert_eq!(
        ticks("30 4 1 jan,JUL fri-sun", "2026-12-30T00:00", 4),
        ["2027-01-01T04:30", "2027-01-02T04:30", "2027-01-03T04:30", "2027-01-08T04:30"],
        "either of two restricted day fields"
    );
    assert_eq!(
        ticks("0 12 */10 * 7", "2026-11-27T00:00", 2),
        ["2027-01-31T12:00", "2027-02-21T12:00"],
        "both when one begins with a star"
    );
    assert_eq!(ticks("@weekly", "2026-11-27T00:00", 1), ["2026-11-29T00:00"]);
    assert_eq!(ticks("59 23 31 12 *", "2026-12-31T23:58", 1), ["2026-12-31T23:59"]);
    assert_eq!(
        ticks("50/5 1-2 * * *", "2026-01-01T01:51", 2),
        ["2026-01-01T01:55", "2026-01-01T02:50"]
    );
}

#[test]
fn what_is_no_schedule_is_told_with_the_place_and_what_is_allowed() {
    assert_eq!(refused("61 * * * *"), "at character 1: minute 61 is outside 0 to 59");
    assert_eq!(refused("0 1,24 * * *"), "at character 5: hour 24 is outside 0 to 23");
    assert_eq!(refused("0 0 0 * *"), "at character 5: day of the month 0 is outside 1 to 31");
    assert_eq!(
        refused("0 0 * febr *"),
        "at character 7: month febr is not a number or a name of three letters"
    );
    assert_eq!(refused("9-3 * * * *"), "at character 1: minute 9 to 3 goes backwards");
    assert_eq!(refused("*/0 * * * *"), "at character 3: step 0 is not 1 to 59");
    assert_eq!(refused("0, * * * *"), "at character 3: there is no minute here");
    assert_eq!(
        refused("* * * *"),
        "at character 8: five fields are needed, minute hour day month weekday, and there are 4"
    );
    assert_eq!(
        refused("* * * * * *"),
        "at character 11: five fields are needed, minute hour day month weekday, and there are 6; \
         nothing fires more than once a minute"
    );
    assert_eq!(
        refused("0 0 30,31 2 *"),
        "at character 5: never: none of these months has such a day"
    );
    assert!(refused("0 0 31 4,6,9,11 *").contains("never"));
    schedule("0 0 31 4 mon");
    assert!(
        refused("@reboot").starts_with("at character 1: @reboot is unknown: there are @hourly")
    );
    assert_eq!(
        refused("CRON_TZ=Europe/Berlin 0 0 * * *"),
        "at character 1: CRON_TZ=Europe/Berlin: schedules are in UTC, time zones are not known"
    );
    assert!(refused("0 0 * * \u{1F41F}").contains("only letters"));
    assert!(refused(&"1,".repeat(200)).contains("longer than 256 bytes"));
}

#[test]
fn the_end_of_time_has_no_ticks_and_no_panics() {
    let each = schedule("* * * * *");
    assert_eq!(each.after(Millis(u64::MAX)), None);
    assert_eq!(each.until(Millis(u64::MAX)), None);
    assert_eq!(each.until(Millis(0)), Some(Millis(0)));
    assert_eq!(schedule("1 * * * *").until(Millis(0)), None);
}

#[test]
fn a_leap_day_on_one_weekday_is_found_over_the_year_2100() {
    assert_eq!(ticks("0 0 29 2 */7", "2088-03-01T00:00", 1), ["2128-02-29T00:00"]);
}

/// Month, day, weekday, hour, minute, by way of the text of a date.
fn told(moment: Millis) -> [u64; 5] {
    let text = Date(moment).to_string();
    let part = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
    let weekday = (moment.0 / 86_400_000 + 4) % 7;
    [part(5, 7), part(8, 10), weekday, part(11, 13), part(14, 16)]
}

proptest! {
    /// Minute by minute, by another way through the calendar.
    #[test]
    fn a_tick_is_the_next_minute_that_meets_the_fields(
        start in 0..4_102_444_800_000_u64,
        minutes in proptest::collection::btree_set(0..60_u64, 1..4),
        hours in proptest::collection::btree_set(0..24_u64, 1..4),
        days in proptest::option::of(proptest::collection::btree_set(1..=31_u64, 1..5)),
        weekdays in proptest::option::of(proptest::collection::btree_set(0..7_u64, 1..3)),
    ) {
        let list = |set: &std::collections::BTreeSet<u64>| {
            set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        };
        let star = |set: &Option<_>| set.as_ref().map_or("*".to_owned(), list);
        let text = format!("{} {} {} * {}", list(&minutes), list(&hours), star(&days), star(&weekdays));
        let schedule: Schedule = text.parse().unwrap();
        let meets = |moment: Millis| {
            let [_, day, weekday, hour, minute] = told(moment);
            let day_fits = match (&days, &weekdays) {
                (None, None) => true,
                (Some(days), None) => days.contains(&day),
                (None, Some(weekdays)) => weekdays.contains(&weekday),
                (Some(days), Some(weekdays)) => days.contains(&day) || weekdays.contains(&weekday),
            };
            minutes.contains(&minute) && hours.contains(&hour) && day_fits
        };
        let tick = schedule.after(Millis(start)).unwrap();
        prop_assert!(meets(tick) && tick.0.is_multiple_of(60_000) && tick.0 > start, "{text}: {}", Date(tick));
        let first = start / 60_000 + 1;
        // Near ones in full, of far ones the days before.
        let between = (first..tick.0 / 60_000).take(3 * 1440);
        for minute in between {
            prop_assert!(!meets(Millis(minute * 60_000)), "{text}: {}", Date(Millis(minute * 60_000)));
        }
        prop_assert_eq!(schedule.until(tick), Some(tick));
        prop_assert_eq!(schedule.until(Millis(tick.0 + 59_999)), Some(tick));
        if let Some(before) = schedule.until(Millis(tick.0 - 1)) {
            prop_assert_eq!(schedule.after(before), Some(tick));
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "[0-9a-z*/,@ -]{0,30}") {
        if let Ok(schedule) = text.parse::<Schedule>() {
            let tick = schedule.after(Millis(1_800_000_000_000));
            prop_assert!(tick.is_some(), "{text} has no tick");
            let text = String::from(schedule.clone());
            prop_assert_eq!(text.parse::<Schedule>().unwrap(), schedule);
        }
    }
}
