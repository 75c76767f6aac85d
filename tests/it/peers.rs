//! Two gateways that are each other's witnesses: each cosigns the other's checkpoints, and writes them into its own
//! timeline.

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::{free_port, wait_until};
use doorward_tlog::note::{Kind, Signer, Vkey};
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP, SOON, block_on, id_of, records};

/// One of the two, before it runs.
struct Peer {
    name: &'static str,
    port: u16,
    log: (Vkey, String),
    witness: (Vkey, String),
}

impl Peer {
    fn new(name: &'static str) -> Result<Self> {
        let keys = |kind, prefix: &str| -> Result<(Vkey, String)> {
            let (signer, text) = Signer::generate(&format!("{prefix}/{name}"), kind)?;
            Ok((signer.vkey(), text))
        };
        let (log, witness) = (keys(Kind::Ed25519, "doorward")?, keys(Kind::Cosignature, "witness.example")?);
        Ok(Self { name, port: free_port()?, log, witness })
    }

    fn start(&self, other: &Self) -> Result<Bed> {
        let more = format!(
            "{GRANTS}
spool: {{ gateway_id: {} }}
checkpoints:
  interval: 100ms
  key: file:log.key
  witnesses: [{{ url: \"http://127.0.0.1:{}\", vkey: \"{}\" }}]
peers:
  listen: 127.0.0.1:{}
  logs: [\"{}\"]
",
            self.name, other.port, other.witness.0, self.port, other.log.0
        );
        Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
            let setup = Setup::new(&format!("{config}{more}"))?.file("log.key", &self.log.1)?;
            std::fs::create_dir_all(setup.folder().join("data/spool/witness"))?;
            setup.file("data/spool/witness/key", &self.witness.1)
        })
    }
}

fn call(bed: &Bed) -> Result<()> {
    let client = bed.client("ann", &["readers"])?;
    let id = block_on(async { id_of(&client.get("/shop/orders?limit=1").await?) })??;
    records(&bed.gateway, &[id]).map(drop)
}

fn checkpoints(gateway: &Running) -> Result<Value> {
    let ready = block_on(StrictClient::new(gateway.admin_url()?).get("/readyz"))??;
    ensure!(ready.status == 200, "{}", ready.text());
    Ok(serde_json::from_str::<Value>(&ready.text())?["checkpoints"].clone())
}

/// Waits until everything that a gateway has is cosigned.
fn cosigned(gateway: &Running) -> Result<Value> {
    let mut last = Value::Null;
    let all = wait_until(SOON, || {
        last = checkpoints(gateway).unwrap_or_default();
        last["witnessed"].as_u64() > Some(1) && last["witnessed"] == last["leaves"]
    });
    ensure!(all, "{last}; {}", gateway.log());
    Ok(last)
}

/// What a gateway has written of the other's log: origins and sizes.
fn written(gateway: &Running) -> Result<Vec<(String, u64)>> {
    let output = gateway.run(&["audit", "query", "--class", "admin", "--json"])?;
    let text = String::from_utf8(output.stdout)?;
    let rows = text.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>()?;
    rows.iter()
        .map(|row| {
            ensure!(row["door"] == "admin" && row["endpoint"] == "witness cosign", "{row}");
            let cosigned = &row["ext"]["cosigned"];
            ensure!(cosigned["root"].as_str().is_some_and(|root| root.len() == 64), "{row}");
            let origin = cosigned["origin"].as_str().context("an origin")?.to_owned();
            Ok((origin, cosigned["size"].as_u64().context("a size")?))
        })
        .collect()
}

#[test]
fn two_gateways_witness_each_other() -> Result<()> {
    let (a, b) = (Peer::new("gw-a")?, Peer::new("gw-b")?);
    // The first finds nobody yet, and asks again by itself.
    let mut first = a.start(&b)?;
    call(&first)?;
    let alone = wait_until(SOON, || {
        checkpoints(&first.gateway).is_ok_and(|now| now["witnesses"][0]["trouble"].is_string())
    });
    ensure!(alone, "{}", checkpoints(&first.gateway)?);
    let mut second = b.start(&a)?;
    let key = String::from_utf8(second.gateway.run(&["audit", "key", "--witness"])?.stdout)?;
    ensure!(key.trim() == b.witness.0.to_string(), "{key}");
    call(&second)?;
    for bed in [&first, &second] {
        cosigned(&bed.gateway)?;
    }
    // Each has the other's log in its own timeline, once: two that watch each other do not talk without end.
    let of = |bed: &Bed, log: &str| -> Result<usize> {
        let written = written(&bed.gateway)?;
        ensure!(written.iter().all(|(origin, size)| origin.starts_with(log) && *size > 0), "{written:?}");
        Ok(written.len())
    };
    ensure!(
        wait_until(SOON, || of(&first, "doorward/gw-b/").is_ok_and(|count| count == 1)),
        "no record of b"
    );
    ensure!(
        wait_until(SOON, || of(&second, "doorward/gw-a/").is_ok_and(|count| count == 1)),
        "no record of a"
    );
    for _ in 0..3 {
        call(&first)?;
        cosigned(&first.gateway)?;
    }
    ensure!(of(&second, "doorward/gw-a/")? == 1, "{:?}", written(&second.gateway)?);

    // Another start is another log.
    first.gateway.kill9()?;
    first.gateway.again()?;
    call(&first)?;
    cosigned(&first.gateway)?;
    ensure!(
        wait_until(SOON, || of(&second, "doorward/gw-a/").is_ok_and(|count| count == 2)),
        "no new record"
    );
    for (bed, peer) in [(&first, &a), (&second, &b)] {
        let output = bed.gateway.run(&["audit", "verify", "--vkey", &peer.log.0.to_string()])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    // One that goes away stops nothing.
    second.gateway.term()?;
    call(&first)?;
    let told = wait_until(SOON, || {
        checkpoints(&first.gateway).is_ok_and(|now| now["witnesses"][0]["behind"].as_u64() > Some(0))
    });
    ensure!(told, "{}", checkpoints(&first.gateway)?);
    first.gateway.term()?;
    Ok(())
}
