//! `docs/errors.md` lists every fault code, and examples load.

use std::fmt::Write;

use anyhow::{Result, ensure};
use doorward_core::{Code, Stage};
use doorward_testkit::workspace_root;

/// Set to write the page anew instead of comparing it.
const UPDATE: &str = "UPDATE_EXPECT";

fn page(codes: &[&Code]) -> String {
    let mut text = String::from(
        "# Fault codes\n\n\
         Each refusal or failure has a stable code, `STAGE.SLUG`. It stands in the answer (`code` of\n\
         `application/problem+json`, `fault` of PostgREST's error body on REST paths), in the record's\n\
         `fault_code`, and in the metric `doorward_faults_total`. The answer's text says what was wrong with this\n\
         call, its hint what to do; `doorward audit trace ACCESS-ID` shows the cause to the operator.\n\n\
         *Side* is whose cause it is; *again* says whether the same call may succeed later.\n\n\
         <!-- Written by the test `errors`; run it with UPDATE_EXPECT=1 after a change. -->\n",
    );
    for stage in Stage::ALL {
        let of_stage: Vec<&&Code> = codes.iter().filter(|code| code.stage == stage).collect();
        if of_stage.is_empty() {
            continue;
        }
        // A String takes whatever is written to it.
        let _ =
            write!(text, "\n## {}\n\n| code | meaning | side | again |\n|---|---|---|---|\n", stage.as_str());
        for code in of_stage {
            let again = if code.retry { "yes" } else { "no" };
            let _ = writeln!(text, "| `{}` | {} | {} | {again} |", code.name, code.title, code.side.as_str());
        }
    }
    text
}

#[test]
fn every_fault_code_is_documented() -> Result<()> {
    let codes = doorward::codes();
    for pair in codes.windows(2) {
        ensure!(pair[0].name != pair[1].name, "{} is declared twice", pair[0].name);
    }
    for code in &codes {
        ensure!(
            code.name.starts_with(&format!("{}.", code.stage.as_str())),
            "{} is not named after its stage",
            code.name
        );
    }
    let path = workspace_root().join("docs/errors.md");
    let page = page(&codes);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, &page)?;
    }
    let kept = std::fs::read_to_string(&path)?;
    ensure!(kept == page, "docs/errors.md is not up to date; run this test with {UPDATE}=1");
    Ok(())
}

#[test]
fn every_example_loads() -> Result<()> {
    let mut count = 0;
    for entry in std::fs::read_dir(workspace_root().join("examples"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let read = doorward::config::Config::read(std::slice::from_ref(&path), std::sync::Arc::default());
        ensure!(
            read.is_ok(),
            "{}: {}",
            path.display(),
            read.err().map(|problems| problems.to_string()).unwrap_or_default()
        );
        count += 1;
    }
    ensure!(count >= 4, "only {count} examples were found");
    Ok(())
}
