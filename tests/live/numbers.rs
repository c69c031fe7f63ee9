//! Runs that give names and rows of limits numbers again: edits go on for as long as a run does.

use floodmark::limits::catalog::Catalog;
use serde_json::Value;

use super::clock::{NOON, Run};

/// A limit that stays, and one that each round has another name and value; both are broken.
fn limits(round: u32) -> String {
    let row = |name: &str, value: u32| {
        format!(
            "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"}}\n"
        )
    };
    row("stays", 50) + &row(&format!("round-{round}"), round)
}

#[test]
fn run_with_fewer_numbers_than_edits_names_each_limit_right() {
    const ROUNDS: u32 = 25;
    // The rows of one round, and those of the next.
    let catalog = Catalog::new().with_numbers(4);
    let run = Run::by(&limits(0), catalog, NOON, &[("10.0.0.1", NOON)]);
    for round in 0..ROUNDS {
        if round > 0 {
            run.place.write("new", limits(round));
            std::fs::rename(run.place.path("new"), run.place.path("limits.json"))
                .expect("it is moved");
        }
        let raised = format!("\"limit_name\":\"round-{round}\"");
        run.wait(&raised, || run.alerts().contains(&raised));
    }
    let alerts = run.end();
    let alerts: Vec<Value> =
        alerts.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let text = |alert: &Value, key: &str| alert[key].as_str().expect("a text").to_owned();
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        let of_name: Vec<&Value> =
            alerts.iter().filter(|alert| text(alert, "limit_name") == name).collect();
        let events: Vec<String> = of_name.iter().map(|alert| text(alert, "event")).collect();
        match round + 1 == ROUNDS {
            true => assert_eq!(events, ["raised"]),
            false => assert_eq!(events, ["raised", "cleared"]),
        }
        assert_eq!(of_name[0]["limit_value"], round);
        if let Some(cleared) = of_name.get(1) {
            assert_eq!(text(cleared, "reason"), "limit_change");
            assert_eq!(cleared["id"], of_name[0]["id"]);
        }
    }
    let stays = alerts.iter().filter(|alert| text(alert, "limit_name") == "stays");
    let stays: Vec<&Value> = stays.collect();
    assert_eq!(stays.len(), 1, "{stays:?}");
    assert_eq!(stays[0]["limit_value"], 50);
}
