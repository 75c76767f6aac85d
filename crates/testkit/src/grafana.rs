//! The provisioned dashboards as Grafana reads them: each panel's SQL, with its macros replaced.
//!
//! Constraints: only the macros and variables that our dashboards use are known; another one is an error, so that a
//! test fails rather than a panel.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// One panel.
#[derive(Clone, Debug)]
pub struct Panel {
    /// The dashboard's file, without its ending.
    pub dashboard: String,
    /// The panel's title.
    pub title: String,
    /// `timeseries`, `table` or `stat`.
    pub kind: String,
    /// The SQL, with macros.
    pub sql: String,
}

/// What Grafana fills in.
#[derive(Clone, Debug)]
pub struct Fill {
    /// The start of the time shown, RFC 3339.
    pub from: String,
    /// Its end.
    pub to: String,
    /// A step of time in seconds.
    pub interval_seconds: u32,
    /// The environments chosen.
    pub environments: Vec<String>,
}

/// The panels of all dashboards in a folder.
///
/// # Errors
/// When a file cannot be read, or is no dashboard.
pub fn panels(folder: &Path) -> Result<Vec<Panel>> {
    let mut panels = Vec::new();
    let mut files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::path);
    for file in files.iter().map(std::fs::DirEntry::path) {
        let dashboard: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        let name = file.file_stem().and_then(|name| name.to_str()).context("a dashboard has a name")?;
        for panel in
            dashboard.pointer("/panels").and_then(Value::as_array).context("a dashboard has panels")?
        {
            for target in
                panel.pointer("/targets").and_then(Value::as_array).context("a panel has targets")?
            {
                let text = |value: &Value, at: &str| {
                    let text = value.pointer(at).and_then(Value::as_str).map(str::to_owned);
                    text.with_context(|| format!("{name}: {at} is missing"))
                };
                let variable = text(target, "/datasource/uid")? == "${datasource}";
                ensure!(variable, "{name}: a data source is fixed");
                panels.push(Panel {
                    dashboard: name.to_owned(),
                    title: text(panel, "/title")?,
                    kind: text(panel, "/type")?,
                    sql: text(target, "/rawSql")?,
                });
            }
        }
    }
    Ok(panels)
}

/// Replaces macros and variables as Grafana's PostgreSQL data source does.
///
/// # Errors
/// When one is left over.
pub fn expand(sql: &str, fill: &Fill) -> Result<String> {
    let Fill { from, to, interval_seconds, environments } = fill;
    let quoted = |text: &String| format!("'{}'", text.replace('\'', "''"));
    let environments = environments.iter().map(quoted).collect::<Vec<_>>().join(",");
    let group = format!("floor(extract(epoch from time)/{interval_seconds})*{interval_seconds} AS \"time\"");
    let expanded = sql
        .replace("$__timeGroupAlias(time, $__interval)", &group)
        .replace("$__timeFilter(time)", &format!("time BETWEEN '{from}' AND '{to}'"))
        .replace("$__timeFrom()", &format!("'{from}'"))
        .replace("$__timeTo()", &format!("'{to}'"))
        .replace("$__interval_ms", &format!("{}", u64::from(*interval_seconds) * 1_000))
        .replace("$environment", &environments);
    if let Some(place) = expanded.find('$') {
        bail!("a macro is not known: {}", expanded.get(place..).unwrap_or_default());
    }
    Ok(expanded)
}
