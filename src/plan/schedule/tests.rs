//! Tests that slots are due once and in order, also when the clock is set forward or back.

use jiff::ToSpan;
use proptest::prelude::*;

use super::*;

fn schedule(text: &str, zone: &str) -> Schedule {
    Schedule::parse(text, "orchard/cellar/prune", time_zone(zone).unwrap()).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// All slots after `from` and not after `until`, by walking from one slot to the next.
fn walk(schedule: &Schedule, from: Timestamp, to: Timestamp) -> Vec<Timestamp> {
    let mut slots = Vec::new();
    let mut now = from;
    while let Some(next) = schedule.slots(now, now).next.filter(|next| *next <= to) {
        slots.push(next);
        now = next;
    }
    slots
}

fn walked(text: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
    walk(&schedule(text, zone), time(from), time(to)).iter().map(ToString::to_string).collect()
}

#[test]
fn missed_slots_make_one_run_and_are_counted() {
    let daily = schedule(" 30 3 * * *\t", "UTC");
    let at_noon = daily.slots(time("2026-05-01T03:30:00Z"), time("2026-05-04T12:00:00Z"));
    assert_eq!(at_noon.due, Some(Due { slot: time("2026-05-04T03:30:00Z"), missed: 2 }));
    assert_eq!(at_noon.next, Some(time("2026-05-05T03:30:00Z")));
    let done = daily.slots(time("2026-05-04T03:30:00Z"), time("2026-05-04T12:00:00Z"));
    assert_eq!((done.due, done.next), (None, at_noon.next));
    let on_the_dot = daily.slots(time("2026-05-04T03:30:00Z"), time("2026-05-05T03:30:00Z"));
    assert_eq!(on_the_dot.due, Some(Due { slot: time("2026-05-05T03:30:00Z"), missed: 0 }));
    assert_eq!(on_the_dot.next, Some(time("2026-05-06T03:30:00Z")));
    let clock_went_back = daily.slots(time("2026-05-04T03:30:00Z"), time("2026-05-01T12:00:00Z"));
    assert_eq!(clock_went_back.due, None);
    let for_years = schedule("* * * * *", "UTC").slots(time("2006-05-04T03:30:00Z"), time("2026-05-04T03:30:00Z"));
    assert_eq!(for_years.due, Some(Due { slot: time("2026-05-04T03:30:00Z"), missed: MAX_COUNTED }));
}

#[test]
fn slot_of_the_hour_that_is_left_out_is_due_once_when_it_is() {
    // In Berlin 2026-03-29 has no 2 o'clock: 01:00Z is 3 o'clock.
    let night = ["2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"];
    for line in ["30 2 * * *", "*/20 2 * * *", "0 2,3 * * *"] {
        assert_eq!(walked(line, "Europe/Berlin", night[0], night[1]), ["2026-03-29T01:00:00Z"], "{line}");
    }
    assert_eq!(walked("0 4 * * *", "Europe/Berlin", night[0], night[1]), ["2026-03-29T02:00:00Z"]);
    // A day whose midnight is skipped.
    let midnight = walked("@daily", "America/Sao_Paulo", "2018-11-03T12:00:00Z", "2018-11-04T12:00:00Z");
    assert_eq!(midnight, ["2018-11-04T03:00:00Z"]);
}

#[test]
fn slot_of_the_hour_that_comes_twice_is_due_the_first_time_alone() {
    // In Berlin 2026-10-25 has 2 o'clock at 00:00Z and at 01:00Z.
    let night = ["2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z"];
    assert_eq!(walked("30 2 * * *", "Europe/Berlin", night[0], night[1]), ["2026-10-25T00:30:00Z"]);
    let hourly = walked("@hourly", "Europe/Berlin", night[0], night[1]);
    assert_eq!(hourly, ["2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z", "2026-10-25T03:00:00Z"]);
    // Evaluated in the second 2 o'clock.
    let slots =
        schedule("30 2 * * *", "Europe/Berlin").slots(time("2026-10-24T12:00:00Z"), time("2026-10-25T01:10:00Z"));
    assert_eq!(slots.due, Some(Due { slot: time("2026-10-25T00:30:00Z"), missed: 0 }));
    assert_eq!(slots.next, Some(time("2026-10-26T01:30:00Z")));
}

#[test]
fn keywords_are_cron_lines() {
    for (keyword, first, second) in [
        ("@hourly", "2026-02-03T05:00:00Z", "2026-02-03T06:00:00Z"),
        ("@daily", "2026-02-04T00:00:00Z", "2026-02-05T00:00:00Z"),
        ("@midnight", "2026-02-04T00:00:00Z", "2026-02-05T00:00:00Z"),
        // Sundays.
        ("@weekly", "2026-02-08T00:00:00Z", "2026-02-15T00:00:00Z"),
        ("@monthly", "2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z"),
        ("@yearly", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
        ("@annually", "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
    ] {
        let slots = walk(&schedule(keyword, "UTC"), time("2026-02-03T04:05:06Z"), time(second));
        assert_eq!(slots, [time(first), time(second)], "{keyword}");
    }
    let monday = walked("0 8 * * MON-FRI", "UTC", "2026-02-06T09:00:00Z", "2026-02-09T09:00:00Z");
    assert_eq!(monday, ["2026-02-09T08:00:00Z"]);
}

#[test]
fn random_times_are_stable_and_spread_over_every_minute() {
    let of = |keyword: &str, number: u32| line_of(keyword, &format!("shop/{number}/prune")).unwrap();
    assert_eq!(of("daily-random", 7), of("daily-random", 7));
    let spread = |keyword: &str, seeds: u32| {
        (0..seeds).map(|number| of(keyword, number)).collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(spread("hourly-random", 1000), 60);
    assert_eq!(spread("daily-random", 30_000), 1440);
    assert!(spread("weekly-random", 5000) > 3500 && spread("monthly-random", 5000) > 4500);
    for (keyword, wanted) in
        [("hourly", 8760..=8760), ("daily", 365..=365), ("weekly", 52..=53), ("monthly", 12..=12), ("yearly", 1..=1)]
    {
        for number in 0..20 {
            let seed = format!("shop/{number}/check");
            let random = Schedule::parse(&format!("@{keyword}-random"), &seed, TimeZone::UTC).unwrap();
            let year = walk(&random, time("2025-12-31T23:59:59Z"), time("2026-12-31T23:59:59Z")).len();
            assert!(wanted.contains(&year), "{keyword} {seed}: {year}");
        }
    }
}

#[test]
fn text_that_is_no_schedule_is_refused() {
    let parse = |text: &str| Schedule::parse(text, "", TimeZone::UTC).map(|_| ());
    for keyword in ["@", "@dayly", "@every 1h", "@random", "@daily-", "@Daily"] {
        assert_eq!(parse(keyword), Err(ScheduleError::Keyword), "{keyword}");
    }
    for line in [
        "",
        "* * * *",
        "* * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "a * * * *",
        "1-70 * * * *",
    ] {
        assert!(matches!(parse(line), Err(ScheduleError::Line(_))), "{line}");
    }
    assert_eq!(parse("0 0 30 2 *"), Err(ScheduleError::Never));
    assert_eq!(parse("0 0 29 2 *"), Ok(()));
}

#[test]
fn time_zones_are_known_without_files() {
    for name in ["UTC", "Europe/Berlin", "america/argentina/ushuaia", "Etc/GMT+5"] {
        assert!(time_zone(name).is_ok(), "{name}");
    }
    for name in ["", "Berlin", "Europe/Atlantis", "../etc/passwd", "+01:00"] {
        assert_eq!(time_zone(name).map(|_| ()), Err(UnknownTimeZone), "{name}");
    }
}

#[test]
fn parts_of_a_time_are_as_many_as_there_are_slots_in_it_wherever_it_begins() {
    for (text, span, expected) in [
        ("@daily", 30.days(), 30),
        ("@weekly", 30.days(), 4),
        ("@monthly", 1.year(), 12),
        // February is shorter.
        ("@daily", 1.month(), 28),
        ("@yearly", 30.days(), 0),
        ("@hourly", 90.days(), 256),
    ] {
        let fewest = schedule(text, "Europe/Berlin").fewest_within(span, 256);
        assert!(fewest == expected || expected == 28 && (28..=29).contains(&fewest), "{text} in {span}: {fewest}");
    }
}

const ZONES: [&str; 8] = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    // Half an hour of daylight saving time.
    "Australia/Lord_Howe",
    "America/Santiago",
    // Different offset in Ramadan.
    "Africa/Casablanca",
    "Asia/Kathmandu",
    "Pacific/Chatham",
];

proptest! {
    /// In every time zone, slots come in order, each is due exactly once, and counts agree with them.
    #[test]
    fn every_slot_is_due_once_and_in_order(
        zone in proptest::sample::select(&ZONES),
        line in "(\\*|[0-9]|[1-5][0-9]|\\*/[1-9]|\\*/[1-5][0-9]|[0-9],[3-5][0-9]) (\\*|[0-9]|1[0-9]|\\*/[1-5]|[0-3],[4-7]) (\\*|[1-9],1[0-9]) \\* (\\*|[0-7])",
        begin in 1_735_000_000_i64..1_800_000_000,
        seconds in 1_i64..400_000,
    ) {
        let schedule = schedule(&line, zone);
        let (from, to) = (Timestamp::from_second(begin).unwrap(), Timestamp::from_second(begin + seconds).unwrap());
        let slots = walk(&schedule, from, to);
        prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]), "{slots:?}");
        let due = schedule.slots(from, to).due;
        prop_assert_eq!(due.map(|due| due.slot), slots.last().copied());
        if let Some(due) = due {
            let missed = u32::try_from(slots.len()).unwrap() - 1;
            prop_assert_eq!(due.missed, missed.min(MAX_COUNTED));
        }
        for slot in slots.iter().take(20) {
            let before = *slot - 1.nanosecond();
            prop_assert_eq!(schedule.slots(before, *slot).due, Some(Due { slot: *slot, missed: 0 }));
            prop_assert_eq!(schedule.slots(before, before).next, Some(*slot));
            prop_assert_eq!(schedule.slots(*slot, *slot).due, None);
        }
    }

    /// A daily schedule has as many slots as there are days, also if a day does not have this time, or has it twice.
    #[test]
    fn every_day_has_one_slot(zone in proptest::sample::select(&ZONES), hour in 0..24, minute in 0..60) {
        let slots = walk(
            &schedule(&format!("{minute} {hour} * * *"), zone),
            time("2025-06-15T00:00:00Z"),
            time("2026-06-15T00:00:00Z"),
        );
        prop_assert_eq!(slots.len(), 365);
    }
}
