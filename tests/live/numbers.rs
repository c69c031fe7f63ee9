//! Runs that reuse the numbers of removed names and rows of limits.

use floodmark::limits::catalog::Catalog;
use serde_json::Value;

use super::clock::{InProcessRun, NOON};

/// Returns a limit that stays, and one with another name and value in each round. Traffic breaks both.
fn limits(round: u32) -> String {
    let row = |name: &str, value: u32| {
        format!(
            "{{\"limit_name\":\"{name}\",\"limit_value\":{value},\"effective_date\":\"1970-01-01\"}}\n"
        )
    };
    row("stays", 50) + &row(&format!("round-{round}"), round)
}

#[test]
fn reused_limit_numbers_name_each_limit_correctly() {
    const ROUNDS: u32 = 25;
    // Enough numbers for the rows of two rounds.
    let catalog = Catalog::new().with_numbers(4);
    let run = InProcessRun::start_with(&limits(0), catalog, NOON, &[("10.0.0.1", NOON)]);
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
