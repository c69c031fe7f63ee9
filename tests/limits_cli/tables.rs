//! Edits of tables of any origin.

use super::{Bench, squeezed};

#[test]
fn versions_are_set_listed_and_deleted() {
    let bench = Bench::with_table();
    let set = |words: &str| bench.run(&format!("set {words} --limits URI")).stdout(0);
    set("web 1000000 --effective 2024-05-01 --per source --source 10.1.2.3/8");
    let output = set("web 2e6 --effective 2024-06-01T02:00:00+02:00");
    assert_eq!(
        output,
        "\"web\" from 2024-06-01T00:00:00Z: max 2e6 bytes per source, source 10.0.0.0/8\n  \
         until then: max 1000000 bytes per source, source 10.0.0.0/8 (since 2024-05-01T00:00:00Z)\n"
    );
    set("web null --effective 2025-01-01");
    set("web 9007199254740993.5 --effective 2024-06-01 --metric packets");
    let listed = bench.run("list URI --at 2024-06-15 --all").stdout(0);
    assert_eq!(
        squeezed(&listed),
        "limit_name state from limit \
         web past 2024-05-01T00:00:00Z max 1000000 bytes per source, source 10.0.0.0/8 \
         web now 2024-06-01T00:00:00Z max 9007199254740993.5 packets per source, source 10.0.0.0/8 \
         web next 2025-01-01T00:00:00Z no limit"
    );
    let listed = bench.run("list READER --at 2024-06-15").stdout(0);
    assert_eq!(listed.lines().count(), 3, "{listed}");
    let again = set("web 9007199254740993.50 --effective 2024-06-01");
    assert!(again.contains(", unchanged\n"), "{again}");
    bench.run("delete web --effective 2024-06-02 --limits URI").run().expect(66).assert_stderr(&[
        "\"web\" has no version of 2024-06-02T00:00:00Z; it has 2024-05-01T00:00:00Z, 2024-06-01T00:00:00Z, 2025-",
    ]);
    bench.run("delete wob --effective 2024-06-02 --limits URI").run().expect(66);
    let deleted = bench.run("delete web --effective 2024-06-01 --limits URI").stdout(0);
    assert!(deleted.contains("instead: max 1000000 bytes per source"), "{deleted}");
    assert_eq!(
        bench.export(),
        "[\n{\"limit_name\":\"web\",\"limit_value\":1000000,\"effective_date\":\"2024-05-01T00:00:00Z\",\
         \"per\":\"source\",\"source\":\"10.0.0.0/8\"},\n\
         {\"limit_name\":\"web\",\"limit_value\":null,\"effective_date\":\"2025-01-01T00:00:00Z\",\
         \"per\":\"source\",\"source\":\"10.0.0.0/8\"}\n]\n"
    );
}

#[test]
fn scenario_reads_limits_from_a_table() {
    let bench = Bench::with_table();
    bench.run("set web 1000 --effective 2024-05-01 --limits URI").stdout(0);
    let reader = bench.database.uri("reader");
    let case = format!(
        "limits {reader}\nat 10s\n  10.0.0.1 > 10.0.0.2 1001 bytes\n  \
         expect raised web 10.0.0.1 > 10.0.0.2 value=1000 effective_date=2024-05-01\n"
    );
    bench.place.write("table.scenario", &case);
    bench.place.floodmark("test table.scenario").stdout(0);
    bench.place.write("gone.scenario", case.replace(&reader, &format!("{reader}_gone")));
    let done = bench.place.floodmark("test gone.scenario").run().expect(65);
    assert!(done.stderr.contains("gone.scenario:1: "), "{}", done.stderr);
}

#[test]
fn value_that_a_column_cannot_hold_is_rejected() {
    let bench = Bench::new();
    bench.database.session("floodmark").sql(
        "create table traffic_limits
             (limit_name varchar(5), limit_value numeric(10, 2), effective_date date, note text);
         insert into traffic_limits values ('a', 1, '2024-05-01', 'kept')",
    );
    for (words, expected) in [
        ("a 0.005 --effective 2024-05-01", "does not keep \"a\" of 2024-05-01T00:00:00Z"),
        ("a 5 --effective 2024-05-01T12:00:00Z", "does not keep \"a\""),
        ("longname 5 --effective 2024-05-01", "does not keep \"longname\""),
        ("a 99999999999 --effective 2024-05-01", "changing rows: numeric field overflow"),
        ("a 5 --effective 2024-05-01 --per source", "table traffic_limits has no column per"),
    ] {
        bench.run(&format!("set {words} --limits URI")).run().expect(78).assert_stderr(&[expected]);
    }
    for (words, expected) in [
        ("a -1 --effective 2024-05-01", "\"-1\" is negative"),
        ("a 1e3000 --effective 2024-05-01", "more than 2000 digits"),
        ("a 1 --effective 2024-05-01T00:00:00.0000001Z", "finer than a microsecond"),
        ("a 1 --effective 0000-05-01", "not between the years 1 and 9999"),
    ] {
        bench.run(&format!("set {words} --limits URI")).run().expect(64).assert_stderr(&[expected]);
    }
    let rows = "select * from traffic_limits";
    assert_eq!(bench.database.query(rows), "a|1.00|2024-05-01|kept");
    bench.run("set a 0.05 --effective 2024-05-01 --limits URI").stdout(0);
    assert_eq!(bench.database.query(rows), "a|0.05|2024-05-01|kept");
}

#[test]
fn rows_are_matched_by_name_and_date_in_any_notation() {
    let bench = Bench::new();
    bench.database.session("floodmark").sql(
        "create table traffic_limits
             (limit_name text, limit_value text, effective_date text, per text)
             partition by list (limit_name);
         create table only_a partition of traffic_limits for values in ('a');
         create table others partition of traffic_limits default;
         insert into traffic_limits values
             ('a', '1', '2024-05-01 02:00:00+02:00', ''), ('a', '2', '2024-05-01', 'flow'),
             ('b', '1', '2024-05-01', null), ('b', 'NaN', '2024-05-02', null)",
    );
    bench.run("set a 5 --effective 2024-05-01 --limits URI").stdout(0);
    let output = bench.run("set b 7 --effective 2024-05-02 --limits URI").stdout(0);
    assert!(output.contains("instead of: a row that was refused"), "{output}");
    let rows = "select * from traffic_limits order by 1, 3";
    assert_eq!(
        bench.database.query(rows),
        "a|5|2024-05-01T00:00:00Z|\nb|1|2024-05-01|\nb|7|2024-05-02T00:00:00Z|"
    );
    bench.run("delete b --effective 2024-05-01T00:00:00 --limits URI").stdout(0);
    assert_eq!(bench.database.query("select count(*) from traffic_limits"), "2");
}

#[test]
fn view_is_read_and_not_written() {
    let bench = Bench::with_table();
    let owner = bench.database.session("floodmark");
    owner.sql("create view shown as select * from traffic_limits");
    bench.run("set web 1 --limits URI#shown").run().expect(78).assert_stderr(&["is a view"]);
    bench.run("check URI#shown").stdout(0);
}

#[test]
fn concurrent_edits_of_a_table_all_apply() {
    let bench = Bench::new();
    // The table has no constraint against duplicate names and dates.
    bench.database.session("floodmark").sql(
        "create table traffic_limits \
         (limit_name text, limit_value numeric, effective_date timestamptz)",
    );
    let set = |number: usize| {
        let one = bench.run(&format!("set n{number} 1 --effective 2024-05-01 --limits URI"));
        let same = bench.run(&format!("set all {number} --effective 2024-05-01 --limits URI"));
        [one.start(), same.start()]
    };
    let running: Vec<_> = (0..6).flat_map(set).collect();
    running.into_iter().for_each(|run| drop(run.finish().expect(0)));
    let names = "select string_agg(limit_name, ' ' order by limit_name) from traffic_limits";
    assert_eq!(bench.database.query(names), "all n0 n1 n2 n3 n4 n5");
}

#[test]
fn edit_of_a_locked_table_fails_after_the_lock_timeout() {
    let bench = Bench::with_table();
    let holder = bench.database.session("postgres");
    holder.sql("begin; lock table traffic_limits in row exclusive mode");
    let waiting = bench.run("set max 5 --limits URI").start();
    // The lock does not block readers.
    bench.run("check URI").stdout(0);
    waiting
        .finish()
        .expect(69)
        .assert_stderr(&["locking it against other writers", "lock timeout"]);
    holder.sql("rollback");
    bench.run("set max 5 --limits URI").stdout(0);
}

#[test]
fn invalid_rows_are_named_and_the_others_hold() {
    let bench = Bench::new();
    bench.database.session("floodmark").sql(
        "create table traffic_limits
             (limit_name text, limit_value text, effective_date text, per text, note text);
         insert into traffic_limits values
             ('b', '1', '2024-05-01', null, 'x'), (null, '1', '2024-05-01', null, null),
             ('nan', 'NaN', '2024-05-01', null, null), ('late', '1', 'infinity', null, null),
             ('flow', '1', '2024-05-01', 'flow', null), ('b', '1.0', '2024-05-01Z', null, null),
             ('b', '1.0', '2024-05-01T00:00:00Z', null, null),
             (repeat('x', 5000), '1', '2024-05-01', null, null)",
    );
    let checked = bench.run("check READER --at 2024-05-02").stdout(65);
    assert!(checked.contains("columns that limits don't have\nnote\n"), "{checked}");
    assert!(checked.contains("8 rows: 1 held, 1 duplicate, 6 refused"), "{checked}");
    assert!(checked.contains("\"nan\": limit_value \"NaN\" is not a finite number"), "{checked}");
    // The physical order of rows does not matter.
    bench.database.sql("update traffic_limits set per = per where limit_name = 'b'");
    assert_eq!(bench.run("check URI --at 2024-05-02").stdout(65), checked);
    let json = bench.run("check URI --at 2024-05-02 --format json").run().expect(65);
    assert_eq!(json.stdout.lines().count(), 8);
    json.assert_stderr(&["column \"note\" is no column of limits"]);
    let listed = bench.run("list URI --at 2024-05-02").run().expect(0);
    assert_eq!(squeezed(&listed.stdout).matches("now").count(), 1);
    listed.assert_stderr(&["\"late\": effective_date \"infinity\" is no point in time"]);
    let exported = bench.run("export URI out.json").run().expect(65);
    exported.assert_stderr(&["\"flow\": per \"flow\" is not known"]);
    assert_eq!(bench.place.read("out.json").lines().count(), 3);
}

#[test]
fn failures_have_distinct_exit_codes() {
    let bench = Bench::with_table();
    for command in ["check", "list", "export"] {
        let run = |place: &str| bench.run(&format!("{command} {place}"));
        run("URI --limits-table none").run().expect(66).assert_stderr(&["has no table none"]);
        run("URI_none").run().expect(78).assert_stderr(&["does not exist"]);
        run("none.json").run().expect(66);
        run("postgres://floodmark@127.0.0.1:1/x")
            .run()
            .expect(69)
            .assert_stderr(&["cannot reach the database"]);
        run("mysql://x").run().expect(64).assert_stderr(&["cannot read limits from"]);
        run("postgres://me:hunter2@h/x").run().expect(64).assert_stderr(&["PGPASSWORD"]);
    }
    let run = bench.run("set a 1 --limits postgres://floodmark@127.0.0.1:1/x").run();
    run.expect(69).assert_stderr(&["writing limits: cannot reach the database"]);
    bench.run("set a 1").run().expect(64).assert_stderr(&["--limits"]);
}
