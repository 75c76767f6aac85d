//! The provisioned dashboards against a filled store, as their reader: each panel's SQL runs, and shows something.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use doorward_audit::store::postgres::Migration;
use doorward_audit::time::rfc3339;
use doorward_core::{Login, Secret, Timestamp};
use doorward_pgclient::Target;
use doorward_pgclient::blocking::{Client, Options};
use doorward_testkit::grafana::{self, Fill, Panel};
use doorward_testkit::postgres::{Cluster, Database, SUPERUSER};
use doorward_testkit::workspace_root;

use crate::analysis::{READER, migrate};

fn client(database: &Database<'_>, user: &str, password: &str) -> Result<Client> {
    let target = Target::parse(&database.url(), true)?;
    let login = Login::new(user, Secret::from(password.to_owned()));
    Ok(Client::connect(&target, &login.into(), &Options::default())?)
}

/// Three hours of traffic, some of it not folded yet.
fn filled(cluster: &Cluster) -> Result<Database<'_>> {
    let database = cluster.database()?;
    migrate(&database, Migration::default())?;
    let mut owner = client(&database, SUPERUSER, cluster.password())?;
    owner.batch(
        "INSERT INTO doorward.access_event (ts, gateway_id, epoch, seq, access_id, action_index, action_count)
         VALUES (now() - interval '2 seconds', 'gw', 1, 1, gen_random_uuid(), 0, 1)",
    )?;
    let script = workspace_root().join("tests/data/rollups.sql");
    for minutes in ["180", "2"] {
        let variables = [("minutes", minutes), ("endpoints", "5"), ("calls", "40")];
        cluster.script(database.name(), &script, &variables, &workspace_root())?;
        let fold = "SELECT doorward.fold_rollups()";
        while minutes == "180" && owner.query(fold, &[])?.first().and_then(|row| row.bool(0)) == Some(true) {}
    }
    Ok(database)
}

fn clusters() -> Result<Vec<Cluster>> {
    let mut clusters = vec![Cluster::debian()?];
    clusters.extend(Cluster::timescale_if_possible()?);
    Ok(clusters)
}

fn check(client: &mut Client, panel: &Panel, fill: &Fill) -> Result<()> {
    let sql = grafana::expand(&panel.sql, fill)?;
    let reply = client.query(&sql, &[])?;
    let names: Vec<String> = reply.fields().iter().map(|field| field.name.to_string()).collect();
    ensure!(!reply.is_empty(), "no rows");
    match panel.kind.as_str() {
        "timeseries" => {
            ensure!(names.first().is_some_and(|name| name == "time"), "no time: {names:?}");
            ensure!(names.len() >= 2, "no value: {names:?}");
            if names.get(1).is_some_and(|name| name == "metric") {
                ensure!(names.len() == 3, "a metric has one value: {names:?}");
            }
            let known = reply.rows().filter(|row| row.values().skip(1).all(|value| value.is_some())).count();
            ensure!(known > 0, "nothing but unknown values");
        }
        "stat" => ensure!(reply.len() == 1 && names.len() == 1, "a figure is one value: {names:?}"),
        _ => ensure!(names.len() >= 2, "a table has columns: {names:?}"),
    }
    let first = reply.first().and_then(|row| row.text(0).map(str::to_owned));
    first.map(drop).context("the first value is unknown")
}

#[test]
fn every_panel_shows_something_to_a_reader() -> Result<()> {
    let panels = grafana::panels(&workspace_root().join("deploy/grafana/dashboards"))?;
    ensure!(panels.len() > 25, "{} panels", panels.len());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let time =
        |ago: u64| rfc3339(Timestamp::from_seconds((now - Duration::from_secs(ago)).as_secs().cast_signed()));
    for cluster in clusters()? {
        let database = filled(&cluster)?;
        let mut reader = client(&database, READER.0, READER.1)?;
        // An hour is shown by the minute, a week by quarters of an hour, a month by days.
        for span in [3_600, 7 * 86_400, 30 * 86_400] {
            let environments = vec!["production".to_owned(), "o'brien".to_owned()];
            let fill = Fill { from: time(span), to: time(0), interval_seconds: 60, environments };
            for panel in &panels {
                check(&mut reader, panel, &fill)
                    .with_context(|| format!("{}, {:?}, {span} s", panel.dashboard, panel.title))?;
            }
        }
        for refused in [
            "SELECT * FROM doorward.rollup_1m",
            "SELECT doorward.fold_rollups()",
            "DELETE FROM timeline.traffic_1m",
            "INSERT INTO doorward.rollup_part SELECT * FROM doorward.rollup_part",
        ] {
            let error = reader.query(refused, &[]).err().with_context(|| format!("{refused} was allowed"))?;
            // Nobody may, or the view cannot be written at all.
            ensure!(matches!(error.sqlstate(), Some("42501" | "55000")), "{refused}: {error}");
        }
    }
    Ok(())
}
