//! A person's rights over the real binary: to be erased, to be given one's data, to be left alone by mistakes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::wait_until;
use serde_json::Value;

use crate::bed::{Bed, base, block_on, id_of, records};

const ANN: &str = "ann-who-wants-to-go-4711";
const BOB: &str = "bob-who-stays-4712";
/// How soon a running gateway has forgotten an erased key.
const FORGOTTEN_WITHIN: Duration = Duration::from_secs(60);

/// A call of each of these people; the access ids.
fn calls(bed: &Bed, subjects: &[&str]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for subject in subjects {
        let client = bed.client(subject, &["readers"])?;
        let answer = block_on(async { client.get("/shop/orders?limit=1&select=id").await })??;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
        ids.push(id_of(&answer)?);
    }
    records(&bed.gateway, &ids)?;
    Ok(ids)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What a command prints, when it succeeds.
fn said(gateway: &Running, arguments: &[&str]) -> Result<String> {
    let output = gateway.run(arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", text(&output));
    Ok(String::from_utf8(output.stdout)?)
}

/// What a command prints, when it fails.
fn refused(gateway: &Running, arguments: &[&str]) -> Result<String> {
    let output = gateway.run(arguments)?;
    ensure!(!output.status.success(), "{arguments:?} did not fail: {}", text(&output));
    Ok(text(&output))
}

fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn query(gateway: &Running, more: &[&str]) -> Result<Vec<Value>> {
    let output = gateway.run(&[&["audit", "query", "--json", "--limit", "1000"], more].concat())?;
    lines(&String::from_utf8(output.stdout)?)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

fn contains(bytes: &[u8], wanted: &str) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted.as_bytes())
}

#[test]
fn an_erased_person_is_gone_and_the_timeline_stays_whole() -> Result<()> {
    let mut bed = Bed::shop()?;
    let ids = calls(&bed, &[ANN, BOB, ANN])?;
    let gateway = &bed.gateway;
    let of_ann = query(gateway, &["--user", ANN])?;
    ensure!(of_ann.len() == 2, "{of_ann:?}");
    let subject_id = of_ann[0]["subject_id"].as_str().context("no id")?.to_owned();
    let leaves = |rows: &[Value]| rows.iter().map(|row| row["leaf_hash"].clone()).collect::<Vec<_>>();
    let before = leaves(&of_ann);
    ensure!(before.iter().all(Value::is_string), "{before:?}");

    // Somebody else, nobody, and a look before the deed.
    ensure!(gateway.run(&["audit", "erase", "--subject", "who"])?.status.code() == Some(4));
    ensure!(refused(gateway, &["audit", "erase"])?.contains("--subject"));
    let would = said(gateway, &["audit", "erase", "--subject", ANN])?;
    ensure!(
        would.contains("would erase") && would.contains("records: 2") && would.contains("--yes"),
        "{would}"
    );
    ensure!(query(gateway, &["--user", ANN])?.len() == 2, "a look has an effect");

    // A legal hold forbids it, and says which.
    said(gateway, &["audit", "hold", "add", "--name", "case-17", "--subject", ANN])?;
    let no = refused(gateway, &["audit", "erase", "--subject", ANN, "--yes"])?;
    ensure!(no.contains("case-17") && no.contains("hold release"), "{no}");
    said(gateway, &["audit", "hold", "release", "case-17"])?;
    said(gateway, &["audit", "hold", "add", "--name", "case-18", "--resource", "shop"])?;
    let no = refused(gateway, &["audit", "erase", "--subject", ANN, "--yes"])?;
    ensure!(no.contains("case-18"), "{no}");
    said(gateway, &["audit", "hold", "release", "case-18"])?;
    ensure!(refused(gateway, &["audit", "hold", "release", "case-18"])?.contains("no hold case-18"));

    let done = said(gateway, &["audit", "erase", "--subject", ANN, "--yes", "--json"])?;
    let erased_at = Instant::now();
    let done: Value = serde_json::from_str(&done)?;
    ensure!(
        done["erased"] == true && done["records"] == 2 && done["subject_ids"][0] == *subject_id,
        "{done}"
    );

    // The records are there, with the same leaves, and name nobody; Bob's are as they were.
    let all = query(gateway, &[])?;
    let row = |id: &str| all.iter().find(|row| row["access_id"] == *id).context("a record is gone");
    for id in [&ids[0], &ids[2]] {
        let row = row(id)?;
        ensure!(row["subject_id"] == *subject_id && row["principal_subject"] == "erased", "{row}");
        ensure!(row["source_ip"] == "erased" && row["claims"] == "erased" && row["verb"] == "read", "{row}");
    }
    ensure!(leaves(&query(gateway, &["--user", &subject_id])?) == before, "a leaf has changed");
    ensure!(row(&ids[1])?["principal_subject"] == BOB);
    ensure!(query(gateway, &["--user", ANN])?.is_empty(), "the name leads somewhere still");
    let again = said(gateway, &["audit", "erase", "--subject-id", &subject_id, "--yes"])?;
    ensure!(again.contains("was erased at"), "{again}");

    // The commands sign a log of their own; its key is among those that are kept elsewhere.
    let keys = said(gateway, &["audit", "key"])?;
    ensure!(keys.lines().count() == 2, "{keys}");
    said(gateway, &["audit", "verify", "--vkey", keys.trim()])?;
    let first = keys.lines().next().context("no key")?;
    let found = gateway.run(&["audit", "verify", "--vkey", first])?;
    ensure!(found.status.code() == Some(6) && text(&found).contains("bad-signature"), "{}", text(&found));

    // What administrators did stands in the timeline, by whom, and without a name of the person.
    let admin: Vec<&Value> = all.iter().filter(|row| row["class"] == "admin").collect();
    let deeds: Vec<String> = admin
        .iter()
        .map(|row| {
            format!("{} {}", row["endpoint"].as_str().unwrap_or("-"), row["outcome"].as_str().unwrap_or("-"))
        })
        .collect();
    let expected = [
        "audit hold add allowed",
        "audit erase denied",
        "audit hold release allowed",
        "audit hold add allowed",
        "audit erase denied",
        "audit hold release allowed",
        "audit erase allowed",
    ];
    ensure!(deeds == expected, "{deeds:?}");
    let erasure = admin.last().context("no record of the erasure")?;
    ensure!(
        erasure["object"] == format!("subjects/{subject_id}") && erasure["source"] == "gateway",
        "{erasure}"
    );
    ensure!(erasure["principal_subject"].as_str().is_some_and(|who| who.contains('@')), "{erasure}");
    ensure!(!erasure.to_string().contains(ANN), "{erasure}");

    // The same person later is somebody new, soon also to the gateway that was running all the time.
    ensure!(
        wait_until(FORGOTTEN_WITHIN, || {
            let new = calls(&bed, &[ANN]).is_ok();
            let rows = query(&bed.gateway, &["--user", ANN]).unwrap_or_default();
            new && rows.iter().any(|row| row["subject_id"] != *subject_id)
        }),
        "the key is in use after {:?}",
        erased_at.elapsed()
    );
    bed.gateway.term()?;
    Ok(())
}

#[test]
fn nothing_of_an_erased_person_is_left_in_any_file() -> Result<()> {
    let mut bed = Bed::shop()?;
    calls(&bed, &[ANN, BOB])?;
    let folder = bed.gateway.folder().to_owned();
    let wal = fs::read(folder.join("data/subjects.db-wal"))?;
    ensure!(wal.len() > 1_000, "the key store has not been written to");
    said(&bed.gateway, &["audit", "erase", "--subject", ANN, "--yes"])?;
    ensure!(fs::read(folder.join("data/subjects.db-wal"))?.len() < wal.len(), "the log was not emptied");
    bed.gateway.term()?;
    let mut searched = 0;
    for file in files(&folder)? {
        let bytes = fs::read(&file)?;
        searched += bytes.len();
        ensure!(!contains(&bytes, ANN), "the name stands in {}", file.display());
        ensure!(!contains(&bytes, BOB), "names stand in {}", file.display());
    }
    ensure!(searched > 10_000);
    // With all that was ever written and the master key, nobody can tell any more who it was.
    let rows = query(&bed.gateway, &[])?;
    let names: Vec<&Value> =
        rows.iter().filter(|row| row["class"] == "access").map(|row| &row["principal_subject"]).collect();
    ensure!(names == ["erased", BOB], "{names:?}");
    Ok(())
}

#[test]
fn a_person_is_given_what_is_theirs() -> Result<()> {
    let bed = Bed::shop()?;
    let token = bed
        .issuer
        .token(ANN)
        .claim("groups", ["readers"])
        .claim("email", format!("{ANN}@corp.example"))
        .claim("email_verified", true)
        .claim("act", serde_json::json!({ "sub": BOB }))
        .sign()?;
    let answer =
        block_on(async { bed.anonymous()?.bearer(token).get("/shop/orders?limit=1&select=id").await })??;
    ensure!(answer.status == 200, "{}", answer.text());
    records(&bed.gateway, &[id_of(&answer)?])?;
    calls(&bed, &[BOB])?;
    let gateway = &bed.gateway;
    let exported = said(gateway, &["audit", "export", "--subject", ANN, "--issuer", "idp"])?;
    let given = lines(&exported)?;
    let person = &given[0]["person"]["ids"][0];
    ensure!(person["subject"] == ANN && person["issuer"] == "idp", "{person}");
    ensure!(given.len() == 2 && given[1]["principal_subject"] == ANN, "{given:?}");
    ensure!(given[1]["operation"].as_str().is_some_and(|text| text.starts_with("GET")), "{}", given[1]);
    ensure!(given[1]["on_behalf_of"][0] == "redacted" && !exported.contains(BOB), "{exported}");
    let csv = said(gateway, &["audit", "export", "--subject", ANN, "--format", "csv"])?;
    ensure!(csv.lines().count() == 2 && csv.contains(ANN) && !csv.contains(BOB), "{csv}");
    ensure!(gateway.run(&["audit", "export", "--email", "nobody@x"])?.status.code() == Some(4));
    let deeds = query(gateway, &["--class", "admin"])?;
    ensure!(deeds.len() == 2 && deeds.iter().all(|deed| deed["endpoint"] == "audit export"), "{deeds:?}");
    ensure!(deeds[0]["verb"] == "read" && deeds[0]["rows"] == 1, "{}", deeds[0]);
    Ok(())
}

#[test]
fn readers_without_the_keys_see_that_values_are_sealed() -> Result<()> {
    let bed = Bed::shop()?;
    calls(&bed, &[ANN])?;
    let folder = bed.gateway.folder();
    let key = folder.join("data/master.key");
    let hidden = folder.join("hidden");
    fs::rename(&key, &hidden)?;
    let output = bed.gateway.run(&["audit", "tail", "--no-follow"])?;
    ensure!(
        text(&output).contains("personal values stay sealed") && text(&output).contains("sealed  "),
        "{}",
        text(&output)
    );
    ensure!(!text(&output).contains(ANN), "{}", text(&output));
    fs::rename(&hidden, &key)?;
    let output = bed.gateway.run(&["audit", "tail", "--no-follow"])?;
    ensure!(text(&output).contains(ANN), "{}", text(&output));
    Ok(())
}

#[test]
fn a_gateway_under_another_master_key_does_not_start() -> Result<()> {
    let mut bed = Bed::shop()?;
    calls(&bed, &[ANN])?;
    bed.gateway.term()?;
    let key = bed.gateway.folder().join("data/master.key");
    let right = fs::read(&key)?;
    let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    fs::write(&key, other)?;
    let error = format!("{:#}", bed.gateway.again().err().context("it has started")?);
    ensure!(
        error.contains("lie under the master key") && error.contains("personal.old_master_keys"),
        "{error}"
    );
    ensure!(!error.contains(other), "{error}");
    fs::write(&key, right)?;
    bed.gateway.again()?;
    calls(&bed, &[ANN])?;
    // A new master key, in three steps.
    bed.gateway.term()?;
    let folder = bed.gateway.folder();
    fs::rename(&key, folder.join("old.key"))?;
    fs::write(folder.join("new.key"), other)?;
    let config = base(&bed.issuer, &bed.database) + crate::bed::GRANTS;
    let with = |personal: &str| format!("{config}\npersonal: {{ master_key: 'file:new.key'{personal} }}\n");
    bed.gateway.write("doorward.yaml", with(", old_master_keys: ['file:old.key']"))?;
    bed.gateway.again()?;
    calls(&bed, &[BOB])?;
    ensure!(said(&bed.gateway, &["audit", "rewrap"])?.contains("alone"));
    bed.gateway.term()?;
    bed.gateway.write("doorward.yaml", with(""))?;
    bed.gateway.again()?;
    calls(&bed, &[ANN])?;
    let subjects: Vec<Value> = query(&bed.gateway, &["--class", "access"])?
        .iter()
        .map(|row| row["principal_subject"].clone())
        .collect();
    ensure!(subjects == [ANN, ANN, BOB, ANN], "{subjects:?}");
    Ok(())
}

#[test]
fn check_advises_to_keep_the_master_key_elsewhere() -> Result<()> {
    let resources = "version: 1\nresources: {}\n";
    let setup = Setup::new(resources)?;
    let output = setup.run(&["check"])?;
    ensure!(text(&output).contains("personal.master_key"), "{}", text(&output));
    ensure!(setup.run(&["check", "--strict"])?.status.success(), "advice is no warning");
    let named = format!("{resources}personal: {{ master_key: env:MASTER }}\n");
    let output = Setup::new(&named)?.run(&["check"])?;
    ensure!(output.status.success() && !text(&output).contains("advice"), "{}", text(&output));
    let wrong = format!("{resources}personal: {{ fields: [verb] }}\n");
    let output = Setup::new(&wrong)?.run(&["check"])?;
    ensure!(
        !output.status.success() && text(&output).contains("`verb` cannot be sealed"),
        "{}",
        text(&output)
    );
    Ok(())
}
