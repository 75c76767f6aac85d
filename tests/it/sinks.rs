//! Sinks over the real binary: a bucket of a real S3 server, a syslog receiver behind OpenSSL's TLS, a
//! collector; and what was redacted on the way to all of them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::Setup;
use doorward_testkit::http::StrictClient;
use doorward_testkit::object_store::ObjectStore;
use doorward_testkit::postgres::Cluster;
use doorward_testkit::program::Bounded;
use doorward_testkit::{free_port, wait_until};
use serde_json::Value;

use crate::bed::{Bed, GRANTS, SHOP, block_on, id_of};

const SOON: Duration = Duration::from_secs(60);
const COLLECTOR_TOKEN: &str = "s3cret-of-the-collector-77aa";

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<String>>);

impl Collector {
    /// Listens, and answers 200 to each request.
    fn start(&self) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let seen = self.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || seen.serve(stream));
            }
        });
        Ok(format!("http://{address}"))
    }

    fn serve(&self, stream: std::net::TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let (mut length, mut allowed) = (0, false);
            let mut line = String::new();
            loop {
                line.clear();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let small = line.to_ascii_lowercase();
                allowed |= line.contains(COLLECTOR_TOKEN);
                if let Some(value) = small.strip_prefix("content-length:") {
                    length = value.trim().parse()?;
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let status = if allowed { "200 OK" } else { "401 Unauthorized" };
            if allowed {
                self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8(body)?);
            }
            stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}").as_bytes())?;
        }
    }

    fn text(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// OpenSSL's server, which prints what comes.
struct Receiver(Child);

impl Receiver {
    fn start(folder: &std::path::Path, port: u16) -> Result<Self> {
        let out = fs::File::create(folder.join("syslog.out"))?;
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")])
            .arg("-cert")
            .arg(folder.join("siem.crt"))
            .arg("-key")
            .arg(folder.join("siem.key"))
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn setup(config: &str, store: &ObjectStore, collector: &str, syslog: u16) -> Result<Setup> {
    let authority = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let sinks = format!(
        "sinks:
  archive:
    s3: {{ url: \"{}/audit\", every: 1s, access_key_id: \"env:ARCHIVE_ID\", secret_access_key: \"env:ARCHIVE_SECRET\" }}
    personal: sealed
  siem:
    syslog: {{ address: \"tls://127.0.0.1:{syslog}\", ca: siem.crt }}
    format: ocsf
  collector:
    otlp: {{ endpoint: \"{collector}\", headers: {{ x-token: \"env:COLLECTOR_TOKEN\" }} }}
",
        store.url()
    );
    Ok(Setup::new(&format!("{config}{GRANTS}{sinks}"))?
        .file("siem.crt", authority.cert.pem())?
        .file("siem.key", authority.signing_key.serialize_pem())?
        .env("ARCHIVE_ID", ObjectStore::ACCESS_KEY_ID)
        .env("ARCHIVE_SECRET", ObjectStore::SECRET_ACCESS_KEY)
        .env("COLLECTOR_TOKEN", COLLECTOR_TOKEN))
}

/// All lines of the archive.
pub(crate) fn archive(store: &ObjectStore) -> Result<String> {
    let mut lines = String::new();
    for key in store.keys()?.into_iter().filter(|key| key.ends_with(".jsonl.gz")) {
        let output = Command::new("gzip").arg("-dc").run_with(store.get(&key)?)?;
        ensure!(output.status.success(), "{key} is not compressed");
        lines.push_str(&String::from_utf8(output.stdout)?);
    }
    Ok(lines)
}

#[test]
fn records_reach_every_sink_over_kill_9_without_what_is_secret() -> Result<()> {
    let (store, collector, port) = (ObjectStore::start()?, Collector::default(), free_port()?);
    let endpoint = collector.start()?;
    let mut bed =
        Bed::start_with(Cluster::shared()?, SHOP, |_, config| setup(config, &store, &endpoint, port))?;
    let folder = bed.gateway.folder().to_owned();
    let token = bed.token("ann", &["readers"])?;
    let mut ids = BTreeSet::new();
    for round in 0..3 {
        let client = StrictClient::new(bed.gateway.url()?).bearer(token.clone());
        let more = block_on(async {
            let mut ids = Vec::new();
            for n in 0..10 {
                let path = format!("/shop/orders?select=id&limit={n}");
                ids.push(id_of(&client.get(&path).await?)?);
            }
            let card = client.get("/shop/4111111111111111?select=id,dw_planted_0123456789abcdef").await?;
            ids.push(id_of(&card)?);
            Ok::<_, anyhow::Error>(ids)
        })??;
        ids.extend(more);
        if round < 2 {
            bed.gateway.kill9()?;
            bed.gateway.again()?;
        }
    }
    // The receiver of syslog messages comes last: all was kept for it.
    let _receiver = Receiver::start(&folder, port)?;
    let syslog = || fs::read_to_string(folder.join("syslog.out")).unwrap_or_default();
    let everywhere = || {
        let sinks = [archive(&store).unwrap_or_default(), syslog(), collector.text()];
        ids.iter().all(|id| sinks.iter().all(|sink| sink.contains(id.as_str())))
    };
    if !wait_until(SOON, everywhere) {
        let ready = block_on(StrictClient::new(bed.gateway.admin_url()?).get("/readyz"))??;
        let sinks = [archive(&store)?, syslog(), collector.text()];
        let missing = |sink: &String| ids.iter().filter(|id| !sink.contains(id.as_str())).count();
        let missing: Vec<(usize, usize)> = sinks.iter().map(|sink| (missing(sink), sink.len())).collect();
        anyhow::bail!(
            "of {} some are missing (archive, syslog, collector): {missing:?} {}",
            ids.len(),
            ready.text()
        );
    }
    let ready = block_on(StrictClient::new(bed.gateway.admin_url()?).get("/readyz"))??;
    ensure!(ready.status == 200 && ready.text().contains("\"syslog\""), "{}", ready.text());
    let metrics = block_on(StrictClient::new(bed.gateway.admin_url()?).get("/metrics"))??.text();
    ensure!(metrics.contains("doorward_sink_up{sink=\"archive\",kind=\"s3\"} 1"), "{metrics}");
    bed.gateway.term()?;

    let sinks = [archive(&store)?, syslog(), collector.text()];
    let mut written = bed.gateway.log();
    for entry in fs::read_dir(folder.join("data/spool/sinks"))? {
        written.push_str(&String::from_utf8_lossy(&fs::read(entry?.path())?));
    }
    written.push_str(&String::from_utf8_lossy(&fs::read(folder.join("data/audit.db"))?));
    for text in sinks.iter().chain([&written]) {
        for secret in
            ["4111111111111111", "planted", ObjectStore::SECRET_ACCESS_KEY, COLLECTOR_TOKEN, token.as_str()]
        {
            ensure!(!text.contains(secret), "{secret} stands in {text:.300}");
        }
    }
    for sink in &sinks {
        ensure!(sink.contains("[redacted:card]"), "what was taken out is named");
        ensure!(
            !sink.contains("\"ann\"") && !sink.contains("127.0.0.1"),
            "nothing personal goes out in clear"
        );
    }
    let first: Value = serde_json::from_str(sinks[0].lines().next().context("an empty archive")?)?;
    ensure!(first["leaf_hash"].is_string() && first["environment"] == "test", "{first}");
    Ok(())
}
