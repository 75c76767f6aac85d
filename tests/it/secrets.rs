//! No secret that was used shows anywhere: spool, store, log, answers, metrics, process arguments.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use doorward_testkit::http::raw;
use serde_json::json;

use crate::bed::{Bed, PASSWORD, block_on};

/// A value that a caller writes: records keep the form of a call, never its values.
const VALUE: &str = "a-value-in-a-body-8471";
const FILTER: &str = "a-value-in-a-filter-5519";

#[test]
fn no_secret_shows_anywhere() -> Result<()> {
    let mut bed = Bed::shop()?;
    let good = bed.token("ann", &["writers"])?;
    let expired = bed.issuer.token("ann").expires_in(-3600).sign()?;
    let opaque = "an-opaque-token-that-nobody-knows-31415926";
    let mut answers = Vec::new();
    block_on(async {
        for token in
            [good.as_str(), expired.as_str(), opaque, "dw_0123456789abcdef_00112233445566778899aabbccddeeff"]
        {
            let client = bed.anonymous()?.bearer(token);
            answers.push(client.get(&format!("/shop/orders?customer=eq.{FILTER}")).await?.text());
            answers.push(
                client
                    .post("/shop/orders", &json!({ "customer": VALUE, "total": "no number" }))
                    .await?
                    .text(),
            );
        }
        let client = bed.anonymous()?;
        answers.push(client.get(&format!("/shop/orders?access_token={good}")).await?.text());
        Ok::<_, anyhow::Error>(())
    })??;
    let twice =
        format!("GET /shop/orders HTTP/1.1\r\nHost: a\r\nHost: b\r\nAuthorization: Bearer {good}\r\n\r\n");
    answers.push(
        String::from_utf8_lossy(&raw(
            bed.gateway.address("http")?,
            twice.as_bytes(),
            Duration::from_secs(2),
        )?)
        .into_owned(),
    );
    let metrics =
        block_on(doorward_testkit::http::StrictClient::new(bed.gateway.admin_url()?).get("/metrics"))??;
    answers.push(metrics.text());
    let arguments = fs::read_to_string(format!("/proc/{}/cmdline", bed.gateway.pid()))?;
    bed.gateway.term()?;

    // The signature is what makes a token good; the other parts name the caller, whose name is recorded.
    let signature = |token: &str| token.rsplit('.').next().unwrap_or_default().to_owned();
    let secrets = [
        signature(&good),
        signature(&expired),
        opaque.to_owned(),
        "00112233445566778899aabbccddeeff".to_owned(),
        PASSWORD.to_owned(),
    ];
    let mut searched = 0;
    let master = bed.gateway.folder().join("data/master.key");
    let master_key = fs::read_to_string(&master)?.trim().to_owned();
    for file in files(bed.gateway.folder())? {
        let bytes = fs::read(&file)?;
        ensure!(
            file == master || !contains(&bytes, master_key.as_bytes()),
            "the master key stands in {}",
            file.display()
        );
        searched += bytes.len();
        for secret in secrets.iter().map(String::as_str).chain([VALUE, FILTER]) {
            ensure!(!contains(&bytes, secret.as_bytes()), "{secret:?} stands in {}", file.display());
        }
    }
    ensure!(searched > 10_000, "there was nothing to search: {searched} bytes");
    for (text, place) in answers.iter().map(|text| (text, "an answer")).chain([(&arguments, "the arguments")])
    {
        for secret in &secrets {
            ensure!(!text.contains(secret.as_str()), "{secret:?} stands in {place}: {text}");
        }
    }
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}
