//! Attacks that once had an effect.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::http::{raw, statuses};
use serde_json::json;

use crate::bed::{Bed, block_on};

/// How long a socket may be silent before the test looks at what came.
const QUIET: Duration = Duration::from_secs(20);

/// Many callers who announced bodies filled the gateway's memory before anybody had decided on them. Now
/// nothing of a body is waited for unless its caller may do what it is for.
#[test]
fn nobody_fills_memory_with_bodies_that_are_refused() -> Result<()> {
    let bed = Bed::shop()?;
    let address = bed.gateway.address("http")?;
    let reader = format!("Authorization: Bearer {}\r\n", bed.token("rea", &["readers"])?);
    for (credentials, status) in [("", 401), (reader.as_str(), 403)] {
        for (method, path) in [("POST", "orders"), ("PATCH", "orders?id=eq.1")] {
            let head = format!(
                "{method} /shop/{path} HTTP/1.1\r\nHost: {address}\r\n{credentials}Content-Length: 1000000\r\n\r\n"
            );
            let answer = raw(address, head.as_bytes(), QUIET)?;
            ensure!(statuses(&answer) == [status], "{}", String::from_utf8_lossy(&answer));
        }
    }
    Ok(())
}

/// PostgreSQL quotes the value that it refuses. A value of a mebibyte broke the connection, and the caller
/// was told that the change's outcome is unknown.
#[test]
fn a_refused_value_may_be_large() -> Result<()> {
    let bed = Bed::shop()?;
    block_on(async {
        let writer = bed.client("wri", &["writers"])?;
        let large = "x".repeat(1_048_500);
        let refused = writer.post("/shop/orders", &json!({ "customer": "ann", "total": large })).await?;
        let says = refused.json()?;
        let code = says["code"].as_str().context("no code")?;
        ensure!((refused.status.as_u16(), code) == (400, "22P02"), "{} {code}", refused.status);
        Ok(())
    })?
}
