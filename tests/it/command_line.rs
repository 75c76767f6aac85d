//! What the command line says to somebody who has only the documentation.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::workspace_root;

#[test]
fn check_points_at_the_key_that_is_wrong() -> Result<()> {
    for (section, told) in [
        ("sinks: { siem: { stdout: {}, lag_max: 1KiB } }", "4:39: sinks.siem.lag_max: at least 16MiB"),
        ("sinks: { siem: {} }", "4:16: sinks.siem: a sink names exactly one"),
        ("checkpoints: { quorum: 3 }", "4:24: checkpoints.quorum: there are fewer witnesses"),
        ("spool: { size_max: 1KiB }", "4:20: spool.size_max: the spool needs"),
        ("personal: { fields: [user_agnt] }", "no column `user_agnt`; did you mean \"user_agent\"?"),
        ("redact: { patterns: [{ name: a, match: x* }] }", "4:40: redact.patterns[0].match: "),
    ] {
        let output = Setup::new(&format!("version: 1\nlisten: {{}}\nresources: {{}}\n{section}\n"))?
            .run(&["check"])?;
        ensure!(!output.status.success() && text(&output).contains(told), "{section}: {}", text(&output));
    }
    Ok(())
}

#[test]
fn questions_that_cannot_be_meant_are_refused_with_what_could_be() -> Result<()> {
    let setup = Setup::new("version: 1\nresources: {}\n")?;
    for (arguments, told) in [
        (&["audit", "query", "--verb", "raed"][..], "'read'"),
        (&["audit", "query", "--outcome", "deny"], "'denied'"),
        (&["audit", "query", "--limit", "0"], "1 to 100000 is expected"),
        (&["audit", "query", "--since", "1w"], "a span back from now such as 15m or 7d"),
        (&["audit", "stats", "--by", "recource"], "'resource'"),
        (&["audit", "hold", "add", "--name", "x", "--from", "soon"], "a span back from now"),
    ] {
        let output = setup.run(arguments)?;
        ensure!(output.status.code() == Some(2) && text(&output).contains(told), "{}", text(&output));
    }
    Ok(())
}

#[test]
fn check_accepts_every_example() -> Result<()> {
    let mut checked = 0;
    for entry in std::fs::read_dir(workspace_root().join("examples"))? {
        let path = entry?.path();
        let example = path.to_str().context("the path is not UTF-8")?;
        let output = Setup::new("")?.run(&["--config", example, "check", "--strict"])?;
        ensure!(output.status.success(), "{example}: {}", text(&output));
        checked += 1;
    }
    ensure!(checked > 5, "{checked}");
    Ok(())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}
