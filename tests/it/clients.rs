//! Clients that others wrote, unchanged, through the real binary: npm's `@supabase/postgrest-js`, and curl.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_testkit::gateway::{CONFIG, Running, Setup};
use doorward_testkit::issuer::{Issuer, PEOPLE};
use doorward_testkit::oidc_provider::{node, node_modules};
use doorward_testkit::postgres::{Cluster, Database};
use doorward_testkit::program::Bounded;
use doorward_testkit::workspace_root;
use serde_json::Value;

use crate::bed::{PASSWORD, on_newer, record_of, roles_turn};

/// The demo's database and gateway: the example's policy, with the addresses of this test laid over it.
struct Air {
    gateway: Running,
    issuer: Issuer,
    _database: Database<'static>,
}

impl Air {
    fn start(cluster: &'static Cluster) -> Result<Self> {
        let database = cluster.database()?;
        {
            let _turn = roles_turn();
            let script = workspace_root().join("demo/load.sql");
            let data = node_modules()?.join("vega-datasets/data");
            cluster.script(database.name(), &script, &[("authenticator_password", PASSWORD)], &data)?;
        }
        let issuer = Issuer::start()?;
        let example = std::fs::read_to_string(workspace_root().join("examples/demo.yaml"))?;
        let overlay = format!(
            "listen: {{ http: 127.0.0.1:0, admin: 127.0.0.1:0, postgres: 127.0.0.1:0 }}
issuers: {{ demo: {{ url: \"{}\" }} }}
resources: {{ air: {{ url: \"{}\" }} }}
",
            issuer.url(),
            database.url(),
        );
        let gateway = Setup::new(&example)?
            .file("overlay.yaml", overlay)?
            .env("DOORWARD_CONFIG", &format!("{CONFIG}:overlay.yaml"))
            .env("AIR_PASSWORD", PASSWORD)
            .arg("--config=overlay.yaml")
            .start()?;
        Ok(Self { gateway, issuer, _database: database })
    }

    fn token(&self, name: &str) -> Result<String> {
        let person = PEOPLE.iter().find(|person| person.name == name).context("nobody of this name")?;
        person.token(&self.issuer, Duration::from_secs(600))
    }
}

fn postgrest_js(cluster: &'static Cluster) -> Result<()> {
    let air = Air::start(cluster)?;
    let output = Command::new(node()?)
        .arg(workspace_root().join("tests/clients/postgrest-js.mjs"))
        .env("NODE_MODULES", node_modules()?)
        .env("NODE_NO_WARNINGS", "1")
        .env("DOORWARD_URL", format!("{}/air", air.gateway.url()?))
        .env("DOORWARD_ADMIN", air.token("administrator")?)
        .env("DOORWARD_ANALYST", air.token("analyst")?)
        .env("DOORWARD_SUPPORT", air.token("support")?)
        .run()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{complaint}{}", air.gateway.log());
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    ensure!(passed >= 15, "only {passed} checks ran: {said}");
    Ok(())
}

#[test]
fn postgrest_js_on_debians_postgresql() -> Result<()> {
    postgrest_js(Cluster::shared()?)
}

#[test]
fn postgrest_js_on_a_newer_postgresql() -> Result<()> {
    on_newer(postgrest_js)
}

/// curl's answer: its status, its lower-cased head, its body.
fn curl(arguments: &[&str]) -> Result<(u16, String, String)> {
    let output = Command::new("curl").args(["-sS", "-i", "--max-time", "30"]).args(arguments).run()?;
    ensure!(output.status.success(), "curl: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let (mut head, mut body) = text.split_once("\r\n\r\n").context("no head")?;
    if head.starts_with("HTTP/1.1 100") {
        (head, body) = body.split_once("\r\n\r\n").context("no head behind 100 Continue")?;
    }
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok((status, head.to_lowercase(), body.to_owned()))
}

#[test]
fn curl_reads_writes_and_is_refused() -> Result<()> {
    let air = Air::start(Cluster::shared()?)?;
    let url = |path: &str| anyhow::Ok(format!("{}/air/{path}", air.gateway.url()?));
    let bearer = |name: &str| anyhow::Ok(format!("Authorization: Bearer {}", air.token(name)?));
    let admin = bearer("administrator")?;

    let (status, head, body) = curl(&["-H", &admin, &url("airports?select=iata&iata=eq.SFO")?])?;
    ensure!(status == 200 && body == r#"[{"iata":"SFO"}]"#, "{head}\n{body}");
    ensure!(head.contains("content-range: 0-0/*"), "{head}");

    // A body that is sent in chunks, of a form that curl chooses itself (`Expect: 100-continue` too).
    let row = r#"{"iata":"ZZC","name":"From curl","country":"Nowhere","latitude":0,"longitude":0}"#;
    let args = ["-H", &admin, "-H", "Content-Type: application/json", "-H", "Transfer-Encoding: chunked"];
    let extra = ["-H", "Prefer: return=representation", "-H", "Expect: 100-continue", "-d", row];
    let target = url("airports?select=name")?;
    let arguments: Vec<&str> = args.into_iter().chain(extra).chain([target.as_str()]).collect();
    let (status, head, body) = curl(&arguments)?;
    ensure!(status == 201 && body.contains("From curl") && !body.contains("Nowhere"), "{head}\n{body}");

    let (status, head, _) = curl(&["-I", "-H", &admin, &url("airports?limit=1")?])?;
    ensure!(status == 200, "{head}");
    let (status, head, body) = curl(&["-X", "DELETE", "-H", &admin, &url("flights?id=eq.1")?])?;
    let refusal: Value = serde_json::from_str(&body)?;
    ensure!(status == 403 && body.contains("flights-stay"), "{head}\n{refusal}");
    let (status, head, _) = curl(&[&url("airports")?])?;
    ensure!(status == 401 && head.contains("www-authenticate: bearer"), "{head}");
    let id = head.lines().find_map(|line| line.strip_prefix("doorward-access-id: "));
    let row = record_of(&air.gateway, id.context("no access id")?)?;
    ensure!(row["fault_code"] == "authenticate.required" && row["user_agent"].is_string(), "{row}");
    Ok(())
}
