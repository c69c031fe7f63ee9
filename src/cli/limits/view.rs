//! Formats an explanation for people, from the JSON object for programs.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::quote::Shown;
use crate::cli::grid::Grid;

/// Joins the parts that are not empty with commas.
fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// Formats a field; null is empty.
fn cell(of: &Value, field: &str) -> String {
    match of.get(field) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => Shown(text).to_string(),
        Some(other) => other.to_string(),
    }
}

/// Formats the name of a limit, with its set if there are two sets.
fn name(limit: &Value) -> String {
    match cell(limit, "limit_set").as_str() {
        "" => cell(limit, "limit_name"),
        set => format!("{} ({set})", cell(limit, "limit_name")),
    }
}

/// Formats the entity that is judged.
fn entity(limit: &Value) -> String {
    let entity = &limit["entity"];
    match cell(limit, "per").as_str() {
        "pair" => format!("{} > {}", cell(entity, "source"), cell(entity, "destination")),
        "total" => "total".into(),
        per => format!("{per} {}", cell(entity, per)),
    }
}

/// Formats the networks that narrow a limit.
fn scope(limit: &Value) -> String {
    joined(["source", "destination", "host"].map(|column| match cell(limit, column) {
        network if network == "any" || network.is_empty() => String::new(),
        network => format!("{column} {network}"),
    }))
}

fn state(limit: &Value) -> String {
    let state = match (&limit["violated"], cell(limit, "not_judged")) {
        (Value::Bool(true), _) => "broken".into(),
        (_, why) if !why.is_empty() => format!("not judged: {why}"),
        _ => "kept".into(),
    };
    let overflow = if limit["overflow"] == true { "overflow" } else { "" };
    joined([state, overflow.into()])
}

/// The values of limits, spelled as in the response.
#[derive(serde::Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    limits: Vec<WrittenValue<'a>>,
}

#[derive(serde::Deserialize)]
struct WrittenValue<'a> {
    #[serde(borrow)]
    limit_value: &'a RawValue,
}

/// Formats an explanation as lines.
///
/// # Errors
/// The text is not an explanation.
pub(super) fn table(text: &str) -> serde_json::Result<String> {
    let written: Written<'_> = serde_json::from_str(text)?;
    let object: Value = serde_json::from_str(text)?;
    Ok(lines(&object, &written))
}

fn lines(object: &Value, written: &Written<'_>) -> String {
    let limits = object["limits"].as_array().into_iter().flatten();
    let [source, destination, start, end, window, as_of] =
        ["source", "destination", "window_start", "window_end", "window_state", "as_of"]
            .map(|field| cell(object, field));
    let mut text = format!(
        "{source} > {destination}, window {start} to {end}, which is {window}, as of {as_of}\n\n"
    );
    let mut grid = Grid::new([
        "limit_name",
        "who",
        "limit_value",
        "amount",
        "headroom",
        "state",
        "scope",
        "effective_date",
    ]);
    for (limit, value) in limits.zip(&written.limits) {
        let value = Shown(value.limit_value.get()).to_string();
        let words = [cell(limit, "bound"), value, cell(limit, "metric")];
        grid.push([
            name(limit),
            entity(limit),
            words.join(" "),
            cell(limit, "amount"),
            cell(limit, "headroom"),
            state(limit),
            scope(limit),
            cell(limit, "effective_date"),
        ]);
    }
    let none = written.limits.is_empty();
    if !none {
        text += &grid.to_string();
    }
    // With two sets, limits of the other one may apply.
    if object.get("why_none").is_some() {
        let whose = if none { "no limit applies" } else { "\nnone of a set applies" };
        text += &format!("{whose}: {}\n", sentence(object, "why_none"));
    }
    let others = object.get("not_applying").and_then(Value::as_array);
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        let mut grid = Grid::new(["limit_name", "why it does not apply"]);
        for other in others {
            grid.push([name(other), sentence(other, "text")]);
        }
        text += &format!("\n{grid}");
    }
    text
}

/// Returns a text without control characters: the server may have sent some that act on a terminal.
fn sentence(of: &Value, field: &str) -> String {
    let text = of.get(field).and_then(Value::as_str).unwrap_or_default();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
