use std::net::IpAddr;

use super::*;
use crate::limits::json;
use crate::limits::rows::Defaults;

/// A window, and a tick within it.
const WINDOW: Window = Window(1_714_564_800);
const WITHIN: u64 = (WINDOW.0 + 60) * 1000;
const RULES: Windows = Windows {
    width_secs: 300,
    lateness_ms: Some(600_000),
    retention_ms: Some(3_600_000),
    max_gap_secs: 86_400,
};

fn pair(source: &str, destination: &str) -> Pair {
    network::pair(source.parse().unwrap(), destination.parse().unwrap()).unwrap()
}

fn v4() -> Pair {
    pair("10.0.0.1", "10.0.0.2")
}

/// Returns the facts of an open window with these limits and no records.
fn facts(pair: Pair, limits: &str) -> Facts {
    let table = json::read(limits.as_bytes(), Defaults::default()).unwrap();
    assert_eq!(table.refusals().count(), 0, "{limits}");
    let mut catalog = Catalog::new();
    catalog.add(LimitSet::Live, table.held());
    let existing = Existing { windows: RULES.only(WINDOW), seen: true, closed: false, whole: true };
    Facts {
        tick: WITHIN,
        rules: RULES,
        bounds: RULES.bounds(WITHIN),
        pair,
        counted: true,
        window: WINDOW,
        existing: Some(existing),
        catalog: Arc::new(catalog),
        amounts: Arc::default(),
    }
}

/// Returns the facts as of the end of the window, when it has closed.
fn closed(facts: Facts) -> Facts {
    let end = RULES.end_ms(WINDOW);
    let existing = facts.existing.map(|existing| Existing { closed: true, ..existing });
    Facts { tick: end, bounds: RULES.bounds(end), existing, ..facts }
}

/// A row, with more columns if `more` has some.
fn row(name: &str, value: &str, more: &str) -> String {
    format!(
        "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"2024-01-01\"{more}}}\n"
    )
}

/// Returns the facts with amounts: every entity that `reads` requests has this volume.
fn with_volume(facts: Facts, volume: Volume) -> Facts {
    let at = judged_at(&facts.rules, facts.window, facts.tick);
    let reads = reads(facts.catalog.in_force(at), &facts.pair, facts.window);
    let amounts = reads.into_iter().map(|read| match read {
        Read::Amount { window, rollup, entity } => ((window, rollup, entity), volume),
        other => panic!("{other:?} is not requested"),
    });
    Facts { amounts: Arc::new(amounts.collect()), ..facts }
}

/// The only limit that applies.
fn only(facts: &Facts) -> Applying {
    let explanation = explain(facts);
    assert_eq!((explanation.limits.len(), explanation.why_none()), (1, None), "{explanation:?}");
    explanation.limits[0].clone()
}

/// Returns the reason why the only limit does not apply: kind and text.
fn why_not(facts: &Facts) -> (&'static str, String) {
    let explanation = explain(facts);
    assert!(explanation.limits.is_empty(), "{explanation:?}");
    let [Other { why, .. }] = &*explanation.others else { panic!("{explanation:?}") };
    let text = why.text(&facts.pair);
    let whole = format!("the only limit does not apply: \"max\": {text}");
    assert_eq!(explanation.why_none(), Some(whole));
    (why.kind(), text)
}

#[test]
fn limit_that_does_not_apply_has_a_reason_in_words() {
    let dated = |value: &str, date: &str| row("max", value, "").replace("2024-01-01", date);
    for (limits, kind, text) in [
        (
            dated("1", "2024-05-01T12:01:00.001Z"),
            "not_yet",
            "no version is in force yet: the first begins at 2024-05-01T12:01:00.001Z",
        ),
        (
            dated("1", "2024-05-01T12:05:00Z"),
            "not_yet",
            "no version is in force: the first begins at 2024-05-01T12:05:00Z, after the window",
        ),
        (
            row("max", "1", "") + &dated("null", "2024-05-01T12:00:30Z"),
            "ended",
            "a version without a value has ended it at 2024-05-01T12:00:30Z",
        ),
        (
            row("max", "1", ",\"source\":\"10.0.0.2\""),
            "source",
            "10.0.0.1 is not in source 10.0.0.2/32",
        ),
        (
            row("max", "1", ",\"destination\":\"10.1.0.0/16\",\"per\":\"total\""),
            "destination",
            "10.0.0.2 is not in destination 10.1.0.0/16",
        ),
        (
            row("max", "1", ",\"host\":\"10.0.0.4/30\",\"per\":\"host\""),
            "host",
            "neither 10.0.0.1 nor 10.0.0.2 is in host 10.0.0.4/30",
        ),
        (
            row("max", "1", ",\"source\":\"2001:db8::/32\""),
            "family",
            "it is for source 2001:db8::/32, which is IPv6, and the pair is IPv4",
        ),
        (
            row("max", "1", ",\"host\":\"::/0\",\"per\":\"host\""),
            "family",
            "it is for host ::/0, which is IPv6, and the pair is IPv4",
        ),
    ] {
        assert_eq!(why_not(&facts(v4(), &limits)), (kind, text.to_owned()), "{limits}");
    }
    let six = pair("::ffff:10.0.0.1", "2001:db8::1");
    let limits = row("max", "1", ",\"destination\":\"10.0.0.0/8\"");
    let family = "it is for destination 10.0.0.0/8, which is IPv4, and the pair is IPv6";
    assert_eq!(why_not(&facts(six, &limits)), ("family", family.to_owned()));
}

#[test]
fn version_without_a_value_from_the_window_end_on_does_not_end_the_limit() {
    let null = row("max", "null", "").replace("2024-01-01", "2024-05-01T12:05:00Z");
    let limits = row("max", "1", "") + &null;
    assert_eq!(only(&facts(v4(), &limits)).amount, Some(0));
    // The version is dated at the end of the window, so it never ends the limit for this window.
    assert_eq!(only(&closed(facts(v4(), &limits))).row.effective, 1_704_067_200_000_000_000);
}

#[test]
fn version_that_judges_the_window_is_explained() {
    let limits = row("max", "1", "")
        + &row("max", "2", "").replace("2024-01-01", "2024-05-01T12:01:00Z")
        + &row("max", "3.50", "").replace("2024-01-01", "2024-05-01T12:04:59.999999999Z")
        + &row("max", "4", "").replace("2024-01-01", "2024-05-01T12:05:00Z");
    let judging = |facts: &Facts| only(facts).row.value.unwrap().text().to_owned();
    let open = facts(v4(), &limits);
    assert_eq!(judging(&Facts { tick: WITHIN - 1, ..open.clone() }), "1");
    assert_eq!(judging(&open), "2");
    assert_eq!(judging(&closed(open)), "3.50");
}

#[test]
fn limit_has_an_entry_for_each_entity_of_the_pair_that_it_judges() {
    let per = |per: &str| row("max", "100", &format!(",\"per\":\"{per}\""));
    let [a, b]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().unwrap());
    for (word, entities) in [
        ("pair", vec![Entity::Pair(v4())]),
        ("source", vec![Entity::Source(a)]),
        ("destination", vec![Entity::Destination(b)]),
        ("host", vec![Entity::Host(a), Entity::Host(b)]),
        ("total", vec![Entity::Total]),
    ] {
        let facts = with_volume(facts(v4(), &per(word)), Volume::new(101, 7));
        let explanation = explain(&facts);
        let judged: Vec<Entity> = explanation.limits.iter().map(|limit| limit.entity).collect();
        assert_eq!(judged, entities);
        for limit in explanation.limits {
            assert_eq!((limit.amount, limit.headroom), (Some(101), Some(-1)), "{word}");
            assert_eq!((limit.violated, limit.not_judged), (Some(true), None), "{word}");
            assert_eq!(limit.judged_from, WINDOW.0);
        }
    }
    // A pair with only one judged host, and a pair of a host with itself.
    let limits = row("max", "1", ",\"per\":\"host\",\"host\":\"10.0.0.2\"");
    assert_eq!(only(&facts(v4(), &limits)).entity, Entity::Host(b));
    let itself = pair("2001:db8::2", "2001:db8::2");
    assert_eq!(only(&facts(itself, &per("host"))).entity, Entity::Host(itself.source()));
}

#[test]
fn reads_request_the_rollups_by_which_limits_judge() {
    let limits = row("a", "1", ",\"per\":\"source\",\"source\":\"10.0.0.0/8\"")
        + &row("b", "1", ",\"per\":\"source\",\"metric\":\"packets\"")
        + &row("c", "1", ",\"per\":\"total\",\"destination\":\"10.0.0.2\"")
        + &row("d", "null", ",\"per\":\"host\"")
        + &row("e", "1", ",\"per\":\"destination\",\"source\":\"10.0.0.9\"");
    let facts = facts(v4(), &limits);
    let limits = facts.catalog.in_force(i128::from(WITHIN) * 1_000_000);
    let any = Prefix::ANY;
    let rollup = |per, source, destination| Some(Rollup { per, source, destination });
    let two = network::parse("10.0.0.2").unwrap();
    let read = |rollup, entity| Read::Amount { window: WINDOW, rollup, entity };
    // `a` and `b` share a rollup, since the network of `a` contains the whole source.
    assert_eq!(
        reads(limits, &facts.pair, WINDOW),
        BTreeSet::from([
            read(rollup(Per::Source, any, any), Entity::Source(facts.pair.source())),
            read(rollup(Per::Total, any, two), Entity::Total),
        ])
    );
}

#[test]
fn min_is_judged_once_the_window_is_closed_whole_and_seen() {
    let min = |per: &str| row("min", "100", &format!(",\"per\":\"{per}\",\"metric\":\"packets\""));
    for per in ["pair", "source", "destination", "total"] {
        let open = facts(v4(), &min(per));
        let some = with_volume(open.clone(), Volume::new(5, 60));
        let judged = |facts: &Facts| {
            let limit = only(facts);
            assert_eq!(limit.judged_from, WINDOW.0 + 300);
            (limit.headroom, limit.violated, limit.not_judged)
        };
        assert_eq!(judged(&some), (Some(-40), Some(false), Some(NotJudged::Open)), "{per}");
        assert_eq!(judged(&closed(some.clone())), (Some(-40), Some(true), None), "{per}");
        let enough = with_volume(closed(open.clone()), Volume::new(0, 100));
        assert_eq!(judged(&enough), (Some(0), Some(false), None), "{per}");
        let none = closed(open.clone());
        let silent = judged(&none);
        let total = per == "total";
        assert_eq!(
            silent,
            match total {
                true => (Some(-100), Some(true), None),
                false => (Some(-100), Some(false), Some(NotJudged::NoRecord)),
            }
        );
        let part = |facts: Facts, existing| Facts { existing, ..facts };
        let existing =
            Existing { windows: RULES.only(WINDOW), seen: true, closed: true, whole: false };
        let begun_within = part(closed(some.clone()), Some(existing));
        assert_eq!(judged(&begun_within).2, Some(NotJudged::NotWhole));
        let gap = Existing { seen: false, whole: true, ..existing };
        let gap = judged(&part(none.clone(), Some(gap)));
        assert_eq!(gap.2, (!total).then_some(NotJudged::NoWindow), "{per}");
        assert_eq!(gap.1, Some(total));
        assert_eq!(judged(&part(none, None)).2, Some(NotJudged::NoWindow));
        assert_eq!(judged(&part(open, None)).2, Some(NotJudged::Open));
    }
}

#[test]
fn window_is_in_one_of_six_states() {
    let open = facts(v4(), &row("max", "1", ""));
    let state = |facts: &Facts| explain(facts).state;
    assert_eq!(state(&open), WindowState::Open);
    let closed = closed(open.clone());
    assert_eq!(state(&closed), WindowState::Closed);
    let at = |facts: &Facts, after_secs: u64, existing| {
        let now = RULES.end_ms(WINDOW) + after_secs * 1000;
        Facts { tick: now, bounds: RULES.bounds(now), existing, ..facts.clone() }
    };
    assert_eq!(state(&at(&closed, 600, closed.existing)), WindowState::Settled);
    assert_eq!(state(&at(&closed, 4199, None)), WindowState::Unseen);
    let retired = at(&closed, 4200, None);
    assert_eq!(state(&retired), WindowState::Retired);
    let before = Facts { tick: WINDOW.0 * 1000 - 1, existing: None, ..open };
    assert_eq!(state(&before), WindowState::Future);
    // The amount in a window that has left memory is unknown; in a window that never existed it is 0.
    let gone = only(&retired);
    assert_eq!((gone.amount, gone.headroom, gone.violated), (None, None, None));
    assert_eq!(gone.not_judged, Some(NotJudged::Retired));
    let unseen = only(&at(&closed, 60, None));
    assert_eq!((unseen.amount, unseen.headroom, unseen.violated), (Some(0), Some(1), Some(false)));
}

#[test]
fn headroom_is_exact_up_to_38_digits() {
    let of = |bound: &str, value: &str, bytes: i64| {
        let limits = row("x", value, &format!(",\"bound\":\"{bound}\""));
        let facts = with_volume(facts(v4(), &limits), Volume::new(bytes, 1));
        let limit = only(&closed(facts));
        (limit.headroom, limit.violated)
    };
    let exactly = |number: &str| Some(number.parse::<i128>().unwrap());
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(of("max", "9007199254740993", 9_007_199_254_740_993), (Some(0), no));
    assert_eq!(of("max", "9007199254740993", 9_007_199_254_740_994), (Some(-1), yes));
    // A value that is no whole number counts as its whole part, and for a `min` as the next whole number above.
    assert_eq!(of("max", "0.5", 1), (Some(-1), yes));
    assert_eq!(of("max", "10.999", 10), (Some(0), no));
    assert_eq!(of("min", "10.001", 10), (Some(-1), yes));
    assert_eq!(of("min", "1e-9", 1), (Some(0), no));
    assert_eq!(of("max", "9223372036854775808", i64::MAX), (Some(1), no));
    let large = "999999999999999999999999999999";
    assert_eq!(of("max", "1e30", 1), (exactly(large), no));
    assert_eq!(of("min", "1e30", 1), (exactly(&format!("-{large}")), yes));
    assert_eq!(of("max", "99999999999999999999999999999999999999", 0).0, Some(10i128.pow(38) - 1));
    assert_eq!(of("min", "1e39", 5), (None, yes));
    assert_eq!(of("max", "1e999999999999999999999", 5), (None, no));
}

#[test]
fn reason_names_20_limits_and_counts_the_rest() {
    let none = explain(&facts(v4(), ""));
    assert_eq!(none.why_none().as_deref(), Some("there are no limits"));
    let limits = |count: usize| -> String {
        (0..count).map(|n| row(&format!("l{n:02}\\n"), "1", ",\"source\":\"10.9.9.9\"")).collect()
    };
    let why = |count| explain(&facts(v4(), &limits(count))).why_none().unwrap();
    let two = why(2);
    let one = |n| format!("\"l0{n}\\n\": 10.0.0.1 is not in source 10.9.9.9/32");
    assert_eq!(two, format!("none of 2 limits applies: {}; {}", one(0), one(1)));
    assert!(why(20).ends_with("10.9.9.9/32"), "{}", why(20));
    assert!(why(23).ends_with("10.9.9.9/32; and 3 more"), "{}", why(23));
    assert_eq!(why(23).matches("is not in").count(), 20);
    let applies = facts(v4(), &row("max", "1", ""));
    let left_out = explain(&Facts { counted: false, ..applies });
    assert!(left_out.limits.is_empty());
    assert!(left_out.why_none().unwrap().contains("not counted"));
}

#[test]
fn limits_are_sorted_by_name() {
    let limits = row("b", "1", "") + &row("c", "1", ",\"per\":\"host\"") + &row("a", "1", "");
    let mut facts = facts(v4(), &limits);
    // A name that was added later has a greater number.
    let late = json::read(row("aa", "1", "").as_bytes(), Defaults::default()).unwrap();
    Arc::make_mut(&mut facts.catalog).add(LimitSet::Live, late.held());
    let explanation = explain(&facts);
    let names: Vec<&str> = explanation.limits.iter().map(|limit| &*limit.row.name).collect();
    assert_eq!(names, ["a", "aa", "b", "c", "c"]);
}

#[test]
fn reason_of_each_of_two_sets_is_separate() {
    let mut facts = facts(v4(), "");
    let mut catalog = Catalog::of_two_sets();
    let mut add = |set, rows: String| {
        let table = json::read(rows.as_bytes(), Defaults::default()).unwrap();
        catalog.add(set, table.held());
    };
    let later = row("both", "5", "").replace("2024-01-01", "2030-01-01");
    add(LimitSet::Live, later + &row("six", "5", ",\"source\":\"::/0\""));
    add(LimitSet::WhatIf, row("both", "5", ""));
    facts.catalog = Arc::new(catalog);
    let explanation = explain(&facts);
    let applying: Vec<_> =
        explanation.limits.iter().map(|one| (one.set, one.row.name.as_str())).collect();
    assert_eq!(applying, [(Some(LimitSet::WhatIf), "both")]);
    // No limit of the live set applies, and one of the what-if set does.
    let why = explanation.why_none().expect("no limit that holds applies");
    assert!(why.starts_with("live: none of 2 limits applies: \"both\": no version"), "{why}");
    assert!(!why.contains("what_if"), "{why}");
    let left_out = explain(&Facts { counted: false, ..facts });
    assert_eq!(left_out.limits, []);
    assert_eq!(left_out.others.len(), 3);
    assert_eq!(left_out.others[1].why.kind(), "not_counted");
}
