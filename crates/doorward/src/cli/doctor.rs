//! `doorward doctor`: looks at what the gateway stands on, and says of each part whether it is well and what to
//! do if it is not. It changes nothing, and may be run beside a gateway.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use doorward_audit::config::{Server, StoreUrl};
use doorward_audit::query::Timeline;
use doorward_audit::store::postgres;
use doorward_door_postgres::WireResource;
use doorward_identity::{Fetch, FetchRequest};
use serde_json::json;

use super::{Source, out};
use crate::config::Config;
use crate::fetch::Outbound;
use crate::role_sources;
use crate::wiring::Wiring;

/// How long a backend may take to accept the gateway's login.
const BACKEND_WAIT_MAX: Duration = Duration::from_secs(8);
/// How often it is asked.
const BACKEND_ASK_EVERY: Duration = Duration::from_millis(100);
/// A clock that is further off makes tokens and records wrong.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(2);
/// The most bytes of an issuer's metadata.
const METADATA_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

/// How a part is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Warn,
    Fail,
}

impl State {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

/// What was found, in the order in which it was looked at.
#[derive(Default)]
struct Findings(Vec<(State, String, String)>);

impl Findings {
    fn add(&mut self, state: State, part: impl Into<String>, text: impl Into<String>) {
        self.0.push((state, part.into(), text.into()));
    }

    fn result(&mut self, part: &str, found: Result<String, impl std::fmt::Display>) {
        match found {
            Ok(text) => self.add(State::Ok, part, text),
            Err(error) => self.add(State::Fail, part, error.to_string()),
        }
    }

    fn print(&self, as_json: bool) -> anyhow::Result<ExitCode> {
        let mut text = String::new();
        for (state, part, said) in &self.0 {
            if as_json {
                writeln!(text, "{}", json!({ "state": state.as_str(), "part": part, "text": said }))?;
            } else {
                writeln!(text, "{:<5} {part:<20} {said}", state.as_str())?;
            }
        }
        out(&text)?;
        let failed = self.0.iter().any(|(state, ..)| *state == State::Fail);
        Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

pub(super) fn run(source: &Source, args: &Args) -> anyhow::Result<ExitCode> {
    let mut findings = Findings::default();
    let config = match Config::read(&source.config, Arc::default()) {
        Ok(config) => config,
        Err(problems) => {
            findings.add(State::Fail, "configuration", problems.to_string());
            return findings.print(args.json);
        }
    };
    configuration(&config, &mut findings);
    spool(&config.root.spool.dir, &mut findings);
    match &config.root.store {
        StoreUrl::Sqlite(path) => sqlite(path, &config.root.store, &mut findings),
        StoreUrl::Postgres(server) => database(server, &mut findings),
    }
    let outbound = Outbound::new()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        issuers(&config, &*outbound, &mut findings).await;
        backends(source, config, outbound.clone(), &mut findings).await;
    });
    findings.print(args.json)
}

fn configuration(config: &Config, findings: &mut Findings) {
    let issuers = config.root.issuers.keys().map(String::as_str).chain(["api-key", "certificate"]);
    let lints = config.policy.lints().iter().map(ToString::to_string);
    let unknown = config.policy.issuer_lints(&issuers.collect::<Vec<_>>());
    let warnings = lints.chain(unknown.iter().map(ToString::to_string)).chain(config.shared_roles());
    let warnings = warnings.chain(role_sources::advice(config));
    let text = format!("{} resources, {}", config.resources.len(), config.digest);
    findings.add(State::Ok, "configuration", text);
    for warning in warnings.chain(config.grants_without_role()) {
        findings.add(State::Warn, "configuration", warning);
    }
}

fn spool(dir: &Path, findings: &mut Findings) {
    let shown = dir.display();
    if !dir.exists() {
        let parent = dir.ancestors().find(|parent| parent.exists()).unwrap_or(Path::new("."));
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let found = can_write(parent).map(|()| format!("{shown} will be made by the first start"));
        return findings.result("spool", found.map_err(|error| format!("{shown} cannot be made: {error}")));
    }
    let found = can_write(dir).map(|()| format!("{shown} can be written"));
    let hint =
        "records cannot be kept; run the gateway as the folder's owner, or name another with `spool.dir`";
    findings.result("spool", found.map_err(|error| format!("{shown}: {error}; {hint}")));
}

/// Makes a file and removes it.
fn can_write(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

fn sqlite(path: &Path, url: &StoreUrl, findings: &mut Findings) {
    if !path.exists() {
        return findings.add(State::Ok, "store", format!("{url} will be made by the first start"));
    }
    findings.result("store", Timeline::connect(url).map(|_| format!("{url} can be read")));
}

fn database(server: &Server, findings: &mut Findings) {
    let facts = match postgres::facts(server) {
        Ok(facts) => facts,
        Err(error) => return findings.add(State::Fail, "store", error.to_string()),
    };
    let text = format!("PostgreSQL {}, {}", facts.server, facts.edition);
    findings.add(State::Ok, "store", text);
    let schema = postgres::check(server).map(|()| format!("version {}", facts.schema_version));
    findings.result("store schema", schema);
    for power in &facts.powers {
        let text = format!(
            "{} is {power}; give the gateway a login that is a member of doorward_writer and of nothing else",
            server.login.user
        );
        findings.add(State::Warn, "store login", text);
    }
    if let Some(reader) = &server.reader {
        match postgres::scopes(server, reader) {
            Ok(0) => findings.add(
                State::Warn,
                "store reader",
                format!("{0} sees no record; run `doorward store reader {0}`", reader.user),
            ),
            found => findings.result(
                "store reader",
                found.map(|count| format!("{} may read; scopes: {count}", reader.user)),
            ),
        }
    }
    let off = Duration::from_micros(facts.clock_ahead_us.unsigned_abs());
    let text = format!("{off:.1?} from the store's server");
    if off > CLOCK_OFF_MAX {
        let text = format!("{text}: tokens and records have wrong times; set both machines' clocks (NTP)");
        findings.add(State::Warn, "clock", text);
    } else {
        findings.add(State::Ok, "clock", text);
    }
}

async fn issuers(config: &Config, fetch: &dyn Fetch, findings: &mut Findings) {
    for (name, issuer) in &config.root.issuers {
        let part = format!("issuer {name}");
        let base = issuer.get().url.get().trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration");
        let request = FetchRequest {
            url: url.as_str().into(),
            authorization: None,
            form: None,
            body_bytes_max: METADATA_BYTES_MAX,
        };
        match fetch.fetch(request).await {
            Ok(answer) if answer.status == 200 => findings.add(State::Ok, part, format!("{url} answers")),
            // Issuers may publish their metadata elsewhere, or have their keys configured.
            Ok(answer) => findings.add(State::Warn, part, format!("{url} answers {}", answer.status)),
            Err(error) => findings.add(
                State::Fail,
                part,
                format!("{url}: {error}; its tokens are refused until it answers"),
            ),
        }
    }
}

/// Whether the database has what it needs to believe the sessions' signed claims, and the key that they are signed with.
async fn claims(name: &str, wire: &WireResource, findings: &mut Findings) {
    let part = format!("claims of {name}");
    match tokio::time::timeout(BACKEND_WAIT_MAX, wire.check_claims()).await {
        Ok(None) => {}
        Ok(Some(Ok(()))) => findings.add(State::Ok, part, "the database believes what the gateway signs"),
        Ok(Some(Err(fault))) => {
            let (cause, hint) =
                (fault.cause_text().unwrap_or_default(), fault.hint_text().unwrap_or_default());
            findings.add(State::Fail, part, format!("{} ({cause}). {hint}", fault.public()));
        }
        Err(_) => findings.add(State::Fail, part, "the database does not answer in time"),
    }
}

/// Opens the backends as the gateway would: their logins are checked on the way.
async fn backends(source: &Source, config: Config, outbound: Arc<Outbound>, findings: &mut Findings) {
    let wiring = Wiring::new(source.config.clone(), outbound);
    let wired = match wiring.open(config).await {
        Ok(wired) => wired,
        Err(problems) => return findings.add(State::Fail, "resources", problems.to_string()),
    };
    for (name, opened) in &wired.resources {
        let part = format!("resource {name}");
        let asked = tokio::time::timeout(BACKEND_WAIT_MAX, async {
            while (opened.trouble)().is_some() {
                tokio::time::sleep(BACKEND_ASK_EVERY).await;
            }
        });
        match (asked.await, (opened.trouble)()) {
            (Ok(()), _) | (Err(_), None) => findings.add(State::Ok, part, opened.well),
            (Err(_), Some(trouble)) => findings.add(State::Fail, part, trouble),
        }
    }
    for (name, opened) in &wired.resources {
        let Some(wire) = opened.resource.shared::<WireResource>() else { continue };
        claims(name.as_str(), &wire, findings).await;
    }
    for (role, resource) in wired.config.policy.roles() {
        let part = format!("role {role} of {resource}");
        match wired.logins.probe(resource, role).await {
            None => {}
            Some(Ok(())) => findings.add(State::Ok, part, "its source issues credentials"),
            Some(Err(fault)) => {
                let cause = fault.cause_text().unwrap_or_default();
                findings.add(State::Fail, part, format!("{}: {cause}", fault.public()));
            }
        }
    }
    // What was issued for the look is given back.
    if !wiring.revoke(BACKEND_WAIT_MAX).await {
        findings.add(State::Warn, "credentials", "some that were issued for this look end by themselves");
    }
}
