//! `floodmark limits init`.

use std::time::Duration;

use floodmark::limits::feed::runtime;
use floodmark::limits::postgres::Session;

use super::Bench;
use crate::common::broker::STUCK_AFTER;

/// A query of all columns, constraints, triggers and functions of the table.
const CATALOG: &str = "
    select 'column', column_name, data_type, is_nullable from information_schema.columns
    where table_name = 'traffic_limits'
    union all select 'constraint', conname, pg_get_constraintdef(oid), '' from pg_constraint
    where conrelid = 'traffic_limits'::regclass
    union all select 'trigger', tgname, pg_get_triggerdef(oid), '' from pg_trigger
    where tgrelid = 'traffic_limits'::regclass
    union all select 'function', proname, prosrc, '' from pg_proc
    where proname = 'floodmark_notify_limits' order by 1, 2";

#[test]
fn second_init_changes_nothing() {
    let bench = Bench::new();
    let made = bench.run("init URI").stdout(0);
    assert_eq!(
        made,
        "table public.traffic_limits: created\n\
         trigger floodmark_notify, which notifies of changes: created\n"
    );
    let catalog = bench.database.query(CATALOG);
    assert_eq!(bench.run("init URI").stdout(0), made.replace(": created", ": already exists"));
    assert_eq!(
        bench.run("init URI --add-columns").stdout(0),
        made.replace("created", "already exists")
    );
    assert_eq!(bench.database.query(CATALOG), catalog);
    // The printed script creates the same, and may be run twice, too.
    let script = bench.run("init --print").stdout(0);
    let other = Bench::new();
    for _ in 0..2 {
        other.database.session("floodmark").sql(&script);
        assert_eq!(other.database.query(CATALOG), catalog);
    }
    assert_eq!(other.run("init URI").stdout(0), made.replace(": created", ": already exists"));
}

#[test]
fn table_with_a_quoted_name_is_created_and_edited() {
    let bench = Bench::new();
    bench.database.sql("create schema \"Net; x\" authorization floodmark");
    let table = ["--limits-table", "\"Net; x\".\"lim\"\"its\""];
    let run = |words: &str| bench.run(words).arg(table[0]).arg(table[1]);
    let made = run("init URI").stdout(0);
    assert!(made.starts_with("table \"Net; x\".\"lim\"\"its\": created\n"), "{made}");
    run("set max 5 --limits URI --effective 2024-05-01").stdout(0);
    let rows = bench.database.query("select limit_name from \"Net; x\".\"lim\"\"its\"");
    assert_eq!(rows, "max");
    assert_eq!(bench.database.query("select to_regclass('public.traffic_limits')"), "");
}

#[test]
fn every_kind_of_change_is_notified() {
    let bench = Bench::with_table();
    let address = bench.database.uri("reader").parse().expect("an address");
    let runtime = runtime().expect("a runtime");
    let row = "('a', 1, '2024-05-01')";
    let table = "traffic_limits".parse().expect("a name");
    let listener = runtime.block_on(async {
        let listener = Session::connect(&address).await.expect("a session");
        listener.listen().await.expect("a server that notifies");
        listener
    });
    let is_notified = |wait: Duration| {
        runtime.block_on(async { tokio::time::timeout(wait, listener.notified()).await.is_ok() })
    };
    for sql in [
        &format!("insert into traffic_limits values {row}"),
        "update traffic_limits set limit_value = 2",
        "delete from traffic_limits",
        "truncate traffic_limits",
    ] {
        bench.database.sql(sql);
        assert!(is_notified(STUCK_AFTER), "{sql}");
    }
    // A rolled-back change is not notified.
    bench.database.sql(&format!("begin; insert into traffic_limits values {row}; rollback"));
    let notifies = || {
        let shape = runtime.block_on(listener.shape(&table));
        shape.expect("a shape").expect("a table").notifies
    };
    assert!(notifies() && !is_notified(Duration::ZERO));
    // A disabled trigger is enabled again.
    bench.database.sql("alter table traffic_limits disable trigger floodmark_notify");
    assert!(!notifies());
    let again = bench.run("init URI").stdout(0);
    assert!(again.contains("which notifies of changes: created"), "{again}");
    assert!(notifies());
}

#[test]
fn row_that_floodmark_rejects_is_rejected_by_the_table() {
    let bench = Bench::with_table();
    let owner = bench.database.session("floodmark");
    let insert = |number: usize, columns: &str| {
        let (names, values): (Vec<&str>, Vec<&str>) =
            columns.split("; ").filter_map(|column| column.split_once('=')).unzip();
        let (names, values) = (names.join(", "), values.join(", "));
        owner.try_sql(&match names.contains("limit_name") {
            true => format!("insert into traffic_limits ({names}) values ({values})"),
            false => {
                format!(
                    "insert into traffic_limits (limit_name, {names}) values ('n{number}', {values})"
                )
            }
        })
    };
    let good = "limit_value=5; effective_date='2024-05-01'; ";
    for (number, (columns, expected)) in [
        ("limit_value=-1; effective_date='2024-05-01'", "limit_value_0_or_more"),
        ("limit_value='NaN'; effective_date='2024-05-01'", "limit_value_0_or_more"),
        ("limit_value='infinity'; effective_date='2024-05-01'", "limit_value_0_or_more"),
        ("limit_value=1; effective_date='infinity'", "effective_date_in_years"),
        ("limit_value=1; effective_date='-infinity'", "effective_date_in_years"),
        ("limit_value=1; effective_date='10000-01-01Z'", "effective_date_in_years"),
        ("limit_value=1", "not-null"),
        ("limit_name=''; limit_value=1; effective_date='2024-05-01'", "limit_name_not_empty"),
        (&format!("{good}bound='most'"), "bound_known"),
        (&format!("{good}metric='bits'"), "metric_known"),
        (&format!("{good}per='flow'"), "per_known"),
        (&format!("{good}source='10.0.0.256'"), "inet"),
        (&format!("{good}destination='10.0.0.0/33'"), "inet"),
        (&format!("{good}host='10.0.0.1'"), "host_only_with_per_host"),
        (&format!("{good}host='10.0.0.1'; per='pair'"), "host_only_with_per_host"),
        (&format!("{good}host='web'; per='host'"), "inet"),
        (&format!("{good}source='10.0.0.1'; destination='::1'"), "of_one_family"),
    ]
    .into_iter()
    .enumerate()
    {
        let refused = insert(number, columns).expect_err(columns);
        assert!(refused.contains(expected), "{columns}: {refused}");
    }
    let accepted = [
        "limit_value=null; effective_date='2024-05-01'",
        "limit_value=1e30; effective_date='0001-01-01Z'",
        "limit_value=0.5; effective_date='9999-12-31T23:59:59.999999Z'",
        &format!("{good}bound='min'; metric='packets'; per='total'"),
        &format!("{good}source='10.1.2.3/8'; destination='10.0.0.1'"),
        &format!("{good}source='2001:db8::/32'; destination='::ffff:1.2.3.4'"),
        &format!("{good}source='any'; destination='::1'; host=''"),
        &format!("{good}per='host'; host='10.0.0.0/8'"),
    ];
    for (number, columns) in accepted.iter().enumerate() {
        insert(number, columns).unwrap_or_else(|why| panic!("{columns}: {why}"));
    }
    let same = insert(0, good).expect_err("a name and date twice");
    assert!(same.contains("duplicate key"), "{same}");
    // All accepted rows hold.
    let checked = bench.run("check URI").stdout(0);
    assert!(checked.contains("8 rows: 8 held, 0 duplicate, 0 refused"), "{checked}");
}

#[test]
fn existing_table_keeps_its_rows_and_columns() {
    let bench = Bench::new();
    bench.database.session("floodmark").sql(
        "create table traffic_limits (limit_name varchar(20), limit_value int, effective_date date, \
         note text, source cidr);
         insert into traffic_limits values ('a', 1, '2024-05-01', 'x', '10.0.0.0/8')",
    );
    let made = bench.run("init URI").stdout(0);
    let missing = "missing, optional; --add-columns adds it\n";
    let [bound, metric, per, destination, host] = ["bound", "metric", "per", "destination", "host"]
        .map(|column| format!("column {column}: {missing}"));
    let table = "table public.traffic_limits: already exists\n";
    let trigger = "trigger floodmark_notify, which notifies of changes: ";
    assert_eq!(made, format!("{table}{bound}{metric}{per}{destination}{host}{trigger}created\n"));
    let added = bench.run("init URI --add-columns").stdout(0);
    assert_eq!(
        added,
        format!("{table}{bound}{metric}{per}{destination}{host}{trigger}already exists\n")
            .replace(missing, "created\n")
    );
    let rows = "select limit_name, limit_value, effective_date, note, source, per \
                from traffic_limits";
    assert_eq!(bench.database.query(rows), "a|1|2024-05-01|x|10.0.0.0/8|");
    let owner = bench.database.session("floodmark");
    let refused = owner.try_sql("update traffic_limits set destination = '::1'");
    assert!(refused.is_err_and(|why| why.contains("of_one_family")));
    let checked = bench.run("check URI").stdout(0);
    assert!(checked.contains("columns that limits don't have\nnote\n"), "{checked}");
}

#[test]
fn table_without_limits_is_rejected_and_left_unchanged() {
    let bench = Bench::new();
    let owner = bench.database.session("floodmark");
    for (sql, expected) in [
        (
            "create table traffic_limits (limit_name text, limit_value int)",
            "no column effective_date",
        ),
        (
            "create table traffic_limits (limit_name text, limit_value int, effective_date date, \
             sorce text)",
            "column \"sorce\", which looks like \"source\"",
        ),
        (
            "create view traffic_limits as select 'a' as limit_name, 1 as limit_value, \
             date '2024-05-01' as effective_date",
            "is a view",
        ),
    ] {
        owner.sql(sql);
        bench.run("init URI --add-columns").run().expect(78).assert_stderr(&[expected]);
        assert_eq!(owner.query("select count(*) from pg_trigger where not tgisinternal"), "0");
        let kind = if sql.contains("view") { "view" } else { "table" };
        owner.sql(&format!("drop {kind} traffic_limits"));
    }
    bench.run("init limits.json").run().expect(64).assert_stderr(&["works on a table"]);
    bench.run("init").run().expect(64);
}

#[test]
fn command_without_the_right_names_the_remedy() {
    let bench = Bench::new();
    let print =
        "as the owner of the database, run the SQL that `floodmark limits init --print` prints";
    let run = bench.run("init READER").run().expect(78);
    run.assert_stderr(&[print, "creating the table: permission denied for schema public"]);
    let plain = "create table traffic_limits \
                 (limit_name text, limit_value numeric, effective_date timestamptz)";
    bench.database.session("floodmark").sql(plain);
    let run = bench.run("init READER").run().expect(78);
    run.assert_stderr(&[print, "creating the function floodmark_notify_limits: permission denied"]);
    let run = bench.run("init READER --add-columns").run().expect(78);
    run.assert_stderr(&["adding column bound: must be owner of table traffic_limits"]);
    let run = bench.run("set max 5 --limits READER").run().expect(78);
    run.assert_stderr(&["needs the rights SELECT, INSERT, UPDATE and DELETE", "permission denied"]);
    bench.run("list READER").stdout(0);
}

#[test]
fn concurrent_inits_create_the_table_once() {
    let bench = Bench::new();
    let running: Vec<_> = (0..6).map(|_| bench.run("init URI").start()).collect();
    let output: Vec<String> =
        running.into_iter().map(|run| run.finish().expect(0).stdout).collect();
    let made = output.iter().filter(|output| output.contains("traffic_limits: created")).count();
    assert_eq!(made, 1, "{output:?}");
}
