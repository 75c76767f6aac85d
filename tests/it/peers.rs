//! Two gateways that are each other's witnesses: each cosigns the other's checkpoints, and writes them into its own
//! timeline.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::http::StrictClient;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::Bounded;
use doorward_testkit::{free_port, wait_until};
use doorward_tlog::note::{Kind, Signer, Vkey};
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP, SOON, block_on, id_of, records};
use crate::identity::Authority;

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

/// Who asks a witness, and how: more keys of the entry in `checkpoints.witnesses`, and what its trouble says.
struct Asking {
    host: &'static str,
    keys: &'static str,
    trouble: &'static str,
}

/// A gateway's certificate, for so many days from today on; it is over when these are negative.
fn certificate(names: &[&str], days: i64) -> Result<rcgen::CertificateParams> {
    let mut params =
        rcgen::CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
    let today = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() / 86_400)?;
    let at = |day: i64| {
        let span = Duration::from_secs(u64::try_from(day)? * 86_400);
        anyhow::Ok(rcgen::date_time_ymd(1970, 1, 1) + span)
    };
    (params.not_before, params.not_after) = (at(today - 30)?, at(today + days)?);
    Ok(params)
}

#[test]
fn peers_speak_tls_and_whoever_is_not_one_is_turned_away() -> Result<()> {
    let (a, b) = (Peer::new("gw-a")?, Peer::new("gw-b")?);
    let (ours, others) = (Authority::new("peers")?, Authority::new("others")?);
    let server = ours.sign(&certificate(&["localhost"], 30)?)?;
    let expired = ours.sign(&certificate(&["localhost"], -1)?)?;
    let folder = |setup: Setup| -> Result<Setup> {
        let mut setup = setup.file("ca.pem", &ours.pem)?.file("others.pem", &others.pem)?;
        for (name, (cert, key)) in [
            ("server", server.clone()),
            ("client", ours.sign(&certificate(&["gw-b"], 30)?)?),
            ("old", ours.sign(&certificate(&["gw-b"], -1)?)?),
            ("foreign", others.sign(&certificate(&["gw-b"], 30)?)?),
        ] {
            setup = setup.file(&format!("{name}.crt"), cert)?.file(&format!("{name}.key"), key)?;
        }
        Ok(setup)
    };
    let mut witness = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let more = format!(
            "{GRANTS}
spool: {{ gateway_id: gw-a }}
tls: {{ cert: \"file:server.crt\", key: \"file:server.key\", client_ca: \"file:ca.pem\" }}
peers: {{ listen: \"127.0.0.1:{}\", logs: [\"{}\"], client_certificate_required: true }}
",
            a.port, b.log.0
        );
        let setup = folder(Setup::new(&format!("{config}{more}"))?)?;
        std::fs::create_dir_all(setup.folder().join("data/spool/witness"))?;
        setup.file("data/spool/witness/key", &a.witness.1)
    })?;
    const GOOD: &str = "ca: ca.pem, cert: \"file:client.crt\", key: \"file:client.key\"";
    let asking = [
        Asking { host: "https://localhost", keys: GOOD, trouble: "" },
        Asking { host: "https://localhost", keys: "ca: ca.pem", trouble: "alert" },
        Asking {
            host: "https://localhost",
            keys: "ca: ca.pem, cert: \"file:foreign.crt\", key: \"file:foreign.key\"",
            trouble: "alert",
        },
        Asking {
            host: "https://localhost",
            keys: "ca: ca.pem, cert: \"file:old.crt\", key: \"file:old.key\"",
            trouble: "alert",
        },
        Asking {
            host: "https://localhost",
            keys: "ca: others.pem, cert: \"file:client.crt\", key: \"file:client.key\"",
            trouble: "certificate",
        },
        Asking { host: "https://127.0.0.1", keys: GOOD, trouble: "certificate" },
        Asking { host: "http://localhost", keys: "dangerous_plaintext: true", trouble: "" },
    ];
    let entry = |one: &Asking| {
        format!("    - {{ url: \"{}:{}\", vkey: \"{}\", {} }}\n", one.host, a.port, a.witness.0, one.keys)
    };
    let witnesses: String = asking.iter().map(entry).collect();
    let mut asks = Bed::start_with(Cluster::shared()?, SHOP, |_, config| {
        let more = format!(
            "{GRANTS}
spool: {{ gateway_id: gw-b }}
checkpoints:
  interval: 100ms
  key: file:log.key
  quorum: 1
  witnesses:
{witnesses}"
        );
        folder(Setup::new(&format!("{config}{more}"))?)?.file("log.key", &b.log.1)
    })?;
    call(&asks)?;
    cosigned(&asks.gateway)?;
    let told = |gateway: &Running| -> Result<Vec<String>> {
        let now = checkpoints(gateway)?;
        let witnesses = now["witnesses"].as_array().context("witnesses")?;
        Ok(witnesses.iter().map(|one| one["trouble"].as_str().unwrap_or_default().to_owned()).collect())
    };
    let all = wait_until(SOON, || {
        told(&asks.gateway)
            .is_ok_and(|told| told.iter().filter(|trouble| !trouble.is_empty()).count() == asking.len() - 1)
    });
    let troubles = told(&asks.gateway)?;
    ensure!(all && troubles[0].is_empty(), "{troubles:?}");
    for (one, trouble) in asking.iter().zip(&troubles) {
        ensure!(trouble.to_lowercase().contains(one.trouble), "{} {}: {trouble}", one.host, one.keys);
    }
    let log = asks.gateway.log();
    ensure!(!log.contains("PRIVATE KEY"), "a key is told");

    // A certificate that was replaced is shown from then on; one that has ended is believed by nobody.
    witness.gateway.write("server.key", &expired.1)?;
    witness.gateway.write("server.crt", &expired.0)?;
    let shown = wait_until(SOON, || {
        let output = Command::new("curl")
            .current_dir(witness.gateway.folder())
            .args([
                "-sS",
                "--max-time",
                "20",
                "--cacert",
                "ca.pem",
                "--cert",
                "client.crt",
                "--key",
                "client.key",
            ])
            .arg(format!("https://localhost:{}/", a.port))
            .run();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stderr).contains("expired"))
    });
    ensure!(shown, "{}", witness.gateway.log());
    asks.gateway.term()?;
    asks.gateway.again()?;
    call(&asks)?;
    let ended =
        wait_until(SOON, || told(&asks.gateway).is_ok_and(|told| told[0].to_lowercase().contains("expired")));
    ensure!(ended, "{:?}", told(&asks.gateway)?);
    asks.gateway.term()?;
    witness.gateway.term()?;
    Ok(())
}

#[test]
fn peers_are_not_heard_in_the_clear_beyond_loopback() -> Result<()> {
    let peer = Peer::new("gw-a")?;
    let check = |more: &str| -> Result<(bool, String)> {
        let yaml = format!(
            "version: 1\nstore: sqlite:data/audit.db\nlisten: {{}}\nresources: {{}}\npeers: {{ logs: [\"{}\"], {more} }}\n",
            peer.log.0
        );
        let setup = Setup::new(&yaml)?;
        let output = setup.run(&["check"])?;
        Ok((output.status.success(), String::from_utf8(output.stderr)?))
    };
    for (more, wanted) in [
        ("listen: \"127.0.0.1:8092\"", None),
        ("listen: \"10.0.0.1:8092\"", Some("without TLS, peers are heard on loopback only")),
        ("listen: \"10.0.0.1:8092\", dangerous_plaintext: true", None),
        (
            "listen: \"127.0.0.1:8092\", client_certificate_required: true",
            Some("peers are to show certificates, and none are believed"),
        ),
    ] {
        let (good, said) = check(more)?;
        ensure!(
            good == wanted.is_none() && wanted.is_none_or(|wanted| said.contains(wanted)),
            "{more}: {said}"
        );
    }
    Ok(())
}
