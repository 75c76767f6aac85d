//! The demo: a private PostgreSQL with airports and flights, an identity provider with four people, the
//! gateway with its timeline in TimescaleDB or PostgreSQL, and lines to paste. Ctrl-C ends all of it and
//! leaves nothing behind. With `--check` it runs the lines itself, prints what came back, and fails when one
//! is not as promised.

mod lines;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use doorward_testkit::gateway::{Running, Setup, binary};
use doorward_testkit::issuer::{Issuer, PEOPLE};
use doorward_testkit::postgres::{Cluster, Durability, Installation};

use crate::store::Store;

/// How long the people's tokens last.
const TOKEN_LIFETIME: Duration = Duration::from_secs(8 * 60 * 60);
const DATABASE: &str = "air";
/// The gateway's login at the database; the cluster lives as long as the demo does.
const LOGIN_PASSWORD: &str = "AIR_PASSWORD";
/// What is laid over the configuration for the timeline.
const STORE_OVERLAY: &str = "store.yaml";

/// What runs while the demo does. Dropped, it stops, last started first.
struct Demo {
    gateway: Running,
    _issuer: Issuer,
    _store: Store,
    _cluster: Cluster,
}

fn main() -> Result<ExitCode> {
    let check = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => bail!("unknown argument {other:?}; the demo knows --check"),
    };
    let demo = start()?;
    let folder = demo.gateway.folder();
    if check {
        return Ok(if lines::check(folder)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    lines::print(folder);
    wait_for_signal()?;
    println!("\nStopping …");
    Ok(ExitCode::SUCCESS)
}

fn start() -> Result<Demo> {
    let root = checkout()?;
    println!("Starting a private PostgreSQL, and loading airports and flights …");
    let cluster = Cluster::start_new(Installation::debian()?, Durability::Safe)?;
    cluster.sql(&format!("create database {DATABASE}"))?;
    let data = root.join(".cache/node/node_modules/vega-datasets/data");
    let password = cluster.password();
    cluster
        .script(DATABASE, &root.join("demo/load.sql"), &[("authenticator_password", password)], &data)
        .context("the data cannot be loaded")?;

    let store = Store::start(&cluster)?;

    println!("Starting an identity provider with four people …");
    let issuer = Issuer::start()?;

    println!("Starting the gateway …");
    let example = std::fs::read_to_string(root.join("examples/demo.yaml"))?;
    let overlay = format!(
        "listen: {{ http: 127.0.0.1:0, postgres: 127.0.0.1:0, admin: 127.0.0.1:0 }}\n\
         issuers: {{ demo: {{ url: \"{}\" }} }}\n\
         resources: {{ air: {{ url: \"postgres://127.0.0.1:{}/{DATABASE}\" }} }}\n",
        issuer.url(),
        cluster.port(),
    );
    let mut setup = Setup::new(&example)?
        .file("ports.yaml", overlay)?
        .env(LOGIN_PASSWORD, password)
        .arg("--config=ports.yaml")
        .arg(&format!("--config={STORE_OVERLAY}"));
    for person in &PEOPLE {
        setup = setup.file(&format!("{}.token", person.name), person.token(&issuer, TOKEN_LIFETIME)?)?;
    }
    let gateway = store.prepare(setup, STORE_OVERLAY)?.start()?;
    let environment = lines::environment(&gateway, &binary()?)?;
    gateway.write(lines::ENVIRONMENT, environment + &store.environment())?;
    Ok(Demo { gateway, _issuer: issuer, _store: store, _cluster: cluster })
}

/// The checkout that the demo runs in: its data and its configuration are there.
fn checkout() -> Result<PathBuf> {
    let here = std::env::current_dir()?;
    let found = here.ancestors().find(|folder| folder.join("demo/load.sql").is_file()).map(Path::to_owned);
    found.context("run the demo in its checkout: make demo")
}

fn wait_for_signal() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result?,
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}
