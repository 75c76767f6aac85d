//! A private S3 server: SeaweedFS, as `scripts/setup.sh test` installs it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::child::{Guarded, Signal};
use crate::program::Bounded;
use crate::{free_port, wait_until, workspace_root};

/// How long it may take to serve.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running server with one bucket, which anybody may read and the key may write.
#[derive(Debug)]
pub struct ObjectStore {
    // It is stopped before its folder goes: fields drop in this order.
    child: Guarded,
    port: u16,
    _folder: TempDir,
}

impl ObjectStore {
    /// The bucket.
    pub const BUCKET: &str = "records";
    /// The id of the key that may write.
    pub const ACCESS_KEY_ID: &str = "archivist";
    /// Its secret.
    pub const SECRET_ACCESS_KEY: &str = "s3cret-of-the-archive-5d2f";

    /// Starts one and waits until it serves.
    pub fn start() -> Result<Self> {
        let program = workspace_root().join(".cache/tools/bin/weed");
        ensure!(program.exists(), "there is no {}: run scripts/setup.sh test", program.display());
        let folder = tempfile::tempdir()?;
        let identities = json!({"identities": [
            {"name": "writer", "actions": ["Admin", "Read", "Write", "List"],
             "credentials": [{"accessKey": Self::ACCESS_KEY_ID, "secretKey": Self::SECRET_ACCESS_KEY}]},
            {"name": "anonymous", "actions": ["Read", "List"]},
        ]});
        let config = folder.path().join("s3.json");
        std::fs::write(&config, identities.to_string())?;
        let port = free_port()?;
        let mut command = Command::new(program);
        command.arg("mini").arg("-dir").arg(folder.path());
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-admin.ui=false", "-webdav=false"]);
        command.args(["-master.telemetry=false", "-s3.port.iceberg=0"]);
        command.arg(format!("-bucket={}", Self::BUCKET)).arg(format!("-s3.port={port}"));
        command.arg(format!("-s3.config={}", config.display()));
        for part in ["master", "volume", "filer"] {
            // Each has a second port, 10,000 above.
            let port = std::iter::repeat_with(free_port).take(50).flatten().find(|port| *port < 50_000);
            command.arg(format!("-{part}.port={}", port.context("no free port below 50000")?));
        }
        let log = folder.path().join("weed.log");
        let child = Guarded::start("weed", &mut command, &log, Signal::Kill, Some(folder.path()))?;
        let store = Self { child, port, _folder: folder };
        let serves =
            wait_until(READY_WITHIN, || store.list().is_ok_and(|list| list.contains("<ListBucketResult")));
        ensure!(serves, "the object store does not serve: {}", store.child.log());
        Ok(store)
    }

    /// The bucket's address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/{}", self.port, Self::BUCKET)
    }

    /// The bucket's objects, by key.
    pub fn keys(&self) -> Result<Vec<String>> {
        let list = self.list()?;
        let keys = list.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        Ok(keys.map(|(key, _)| key.to_owned()).collect())
    }

    /// An object's bytes.
    pub fn get(&self, key: &str) -> Result<Vec<u8>> {
        self.fetch(&format!("{}/{key}", self.url()))
    }

    fn list(&self) -> Result<String> {
        Ok(String::from_utf8(self.fetch(&format!("{}?list-type=2", self.url()))?)?)
    }

    fn fetch(&self, url: &str) -> Result<Vec<u8>> {
        let output = Command::new("curl").args(["-sSf", "--max-time", "10", url]).run()?;
        ensure!(output.status.success(), "{url}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout)
    }
}
