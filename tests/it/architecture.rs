//! The rules of the house: which crate may know which, and what no file may name.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use doorward_testkit::program::Bounded;
use doorward_testkit::workspace_root;
use serde_json::Value;

/// The bottom: the vocabulary and the road.
const CORE: &str = "doorward-core";
/// Tools know the vocabulary at most.
const TOOLS: [&str; 7] = [
    "doorward-settings",
    "doorward-http",
    "doorward-pgclient",
    "doorward-redact",
    "doorward-sigv4",
    "doorward-sql",
    "doorward-tlog",
];
/// Organs know the core and tools.
const ORGANS: [&str; 4] = ["doorward-identity", "doorward-policy", "doorward-lease", "doorward-audit"];
/// Doors know the core and tools.
const DOOR_PREFIX: &str = "doorward-door-";
/// The binary puts everything together; these stand outside the house and look in.
const BINARY: &str = "doorward";
const OUTSIDE: [&str; 3] = ["doorward-tests", "doorward-benches", "doorward-demo"];
const TESTKIT: &str = "doorward-testkit";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Core,
    Tool,
    Organ,
    Door,
    Binary,
    Testkit,
    Outside,
}

fn place(name: &str) -> Option<Place> {
    Some(match name {
        CORE => Place::Core,
        BINARY => Place::Binary,
        TESTKIT => Place::Testkit,
        _ if TOOLS.contains(&name) => Place::Tool,
        _ if ORGANS.contains(&name) => Place::Organ,
        _ if OUTSIDE.contains(&name) => Place::Outside,
        _ if name.starts_with(DOOR_PREFIX) => Place::Door,
        _ => return None,
    })
}

/// Whether a crate may depend on another one, in what it ships.
fn may(from: Place, to: Place) -> bool {
    match from {
        Place::Core => false,
        // A tool may stand on another tool, never on what uses it.
        Place::Tool | Place::Organ | Place::Door => matches!(to, Place::Core | Place::Tool),
        Place::Testkit => matches!(to, Place::Core | Place::Tool),
        // What ships does not carry the testkit.
        Place::Binary => !matches!(to, Place::Outside | Place::Binary | Place::Testkit),
        Place::Outside => to != Place::Outside,
    }
}

/// Direct dependencies inside the house: (name, is it for development only).
type House = BTreeMap<String, BTreeSet<(String, bool)>>;

fn house() -> Result<House> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(workspace_root())
        .run()?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let mut house = House::new();
    for package in metadata["packages"].as_array().context("packages")? {
        let name = package["name"].as_str().context("a name")?;
        let dependencies = package["dependencies"].as_array().context("dependencies")?;
        let inside = dependencies.iter().filter_map(|dependency| {
            let name = dependency["name"].as_str()?;
            let development = dependency["kind"].as_str() == Some("dev");
            name.starts_with("doorward").then(|| (name.to_owned(), development))
        });
        house.insert(name.to_owned(), inside.collect());
    }
    Ok(house)
}

#[test]
fn every_arrow_points_to_the_core_or_to_a_tool() -> Result<()> {
    let mut wrong = Vec::new();
    for (name, dependencies) in house()? {
        let Some(from) = place(&name) else {
            wrong.push(format!("{name} has no place in the house: give it one in {}", file!()));
            continue;
        };
        for (dependency, development) in dependencies {
            let Some(to) = place(&dependency) else { continue };
            let allowed = may(from, to) || (development && to == Place::Testkit);
            if !allowed {
                wrong.push(format!("{name} ({from:?}) must not depend on {dependency} ({to:?})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_core_has_no_runtime_and_no_io() -> Result<()> {
    let manifest = std::fs::read_to_string(workspace_root().join("crates/core/Cargo.toml"))?;
    let shipped = manifest.split("[dev-dependencies]").next().unwrap_or_default();
    for absent in ["tokio", "hyper", "rustls", "serde.", "serde =", "schemars", "tracing"] {
        assert!(!shipped.contains(absent), "the core must do without {absent}");
    }
    Ok(())
}

#[test]
fn every_crate_takes_the_lints_of_the_house() -> Result<()> {
    for folder in std::fs::read_dir(workspace_root().join("crates"))? {
        let manifest = std::fs::read_to_string(folder?.path().join("Cargo.toml"))?;
        assert!(manifest.contains("[lints]\nworkspace = true"), "no lints in:\n{manifest}");
    }
    Ok(())
}

/// Files that git tracks, or would.
fn files() -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace_root())
        .run()?;
    ensure!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect())
}

#[test]
fn no_file_names_the_machine_that_it_was_made_on() -> Result<()> {
    let root = workspace_root();
    let home = std::env::var("HOME").unwrap_or_default();
    let mut wrong = Vec::new();
    for name in files()? {
        // Folders, links and files that are no text are skipped; so are files deleted meanwhile.
        let Ok(text) = std::fs::read_to_string(root.join(&name)) else { continue };
        let own_checkout = format!("{}/", root.display());
        // A home of "/" or "" would be found everywhere.
        let home = Some(format!("{home}/")).filter(|home| home.len() > 3);
        for needle in [Some(own_checkout), home].into_iter().flatten() {
            if text.contains(&needle) {
                wrong.push(format!("{name} names {needle}"));
            }
        }
        let lock = name.ends_with("package-lock.json");
        if lock && text.contains("\"resolved\"") {
            wrong.push(format!("{name} names a registry's address: see scripts/setup.sh on how it is made"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_to_do() -> Result<()> {
    let root = workspace_root();
    // Written in two parts, so that this file is not its own finding.
    let words = [concat!("#[ig", "nore"), concat!("TO", "DO"), concat!("XX", "X:")];
    let mut wrong = Vec::new();
    for name in files()?.into_iter().filter(|name| name.ends_with(".rs")) {
        let Ok(text) = std::fs::read_to_string(root.join(&name)) else { continue };
        for word in words.iter().filter(|word| text.contains(**word)) {
            wrong.push(format!("{name} has {word}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
