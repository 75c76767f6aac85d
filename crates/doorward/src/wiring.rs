//! Puts a gateway together: opens what the configuration names, and makes a snapshot of it.
//!
//! What must outlive a reload is kept here: the limits' counters, identity's caches, and the open
//! resources whose section and login have not changed (their pools keep their connections).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use doorward_core::{OwnLogin, ResourceName, Snapshot};
use doorward_identity::{Fetch, Identity, KeySources, Plan};
use doorward_lease::{Clouds, Keepers, Logins, Vaults};
use doorward_policy::Limiter;
use doorward_settings::Problems;
use parking_lot::Mutex;

use crate::config::{Config, ResourceEntry};
use crate::doors::{Opened, Opening};
use crate::logins::{self, Sources};

/// Opens configurations, one after another, keeping what they share.
pub(crate) struct Wiring {
    files: Vec<PathBuf>,
    limiter: Arc<Limiter>,
    key_sources: KeySources,
    keepers: Keepers,
    clouds: Arc<Clouds>,
    vaults: Arc<Vaults>,
    open: Mutex<HashMap<ResourceName, Kept>>,
}

/// What sources of logins are made with: it outlives each configuration.
#[derive(Clone, Copy)]
pub(crate) struct Makers<'a> {
    /// The keepers of all configurations.
    pub(crate) keepers: &'a Keepers,
    /// The identities that clouds give the gateway.
    pub(crate) clouds: &'a Arc<Clouds>,
}

struct Kept {
    fingerprint: String,
    login: OwnLogin,
    opened: Arc<Opened>,
}

/// An open configuration.
pub(crate) struct Wired {
    /// What it was opened from.
    pub(crate) config: Config,
    /// What calls live under.
    pub(crate) snapshot: Arc<Snapshot>,
    /// The open resources, for readiness.
    pub(crate) resources: Vec<(ResourceName, Arc<Opened>)>,
    /// The backend logins.
    pub(crate) logins: Arc<Logins>,
}

impl Wiring {
    /// For the configuration in these files.
    pub(crate) fn new(files: Vec<PathBuf>, fetch: Arc<dyn Fetch>) -> Self {
        let key_sources = KeySources::new(fetch);
        let (limiter, keepers, clouds, vaults, open) = Default::default();
        Self { files, limiter, key_sources, keepers, clouds, vaults, open }
    }

    /// Revokes the credentials that were issued to the gateway. `false` when the time was over before.
    pub(crate) async fn revoke(&self, within: Duration) -> bool {
        let revoked = self.keepers.shutdown(within).await;
        self.vaults.close().await;
        revoked
    }

    /// The files.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Reads the configuration anew. Does not open anything; safe to call from the runtime.
    pub(crate) async fn read(self: &Arc<Self>) -> Result<Config, Problems> {
        let wiring = self.clone();
        blocking(move || Config::read(&wiring.files, wiring.limiter.clone())).await?
    }

    /// Opens a configuration. What has not changed since the last one stays open; what this one no longer
    /// names closes when the last call that uses it ends.
    pub(crate) async fn open(&self, config: Config) -> Result<Wired, Problems> {
        let mut problems = Problems::new();
        let mut logins = Logins::default();
        let mut kept = HashMap::new();
        let makers = Makers { keepers: &self.keepers, clouds: &self.clouds };
        let sources = Sources::open(makers, &self.vaults, &config).await?;
        for entry in &config.resources {
            if let Some(resource) = self.open_resource(entry, &sources, &mut logins, &mut problems).await {
                kept.insert(entry.name.clone(), resource);
            }
        }
        let identity = config.root.identity();
        let plan = blocking(move || Plan::load(&identity)).await.flatten();
        let plan = match plan {
            Ok(plan) if problems.is_empty() => plan,
            Ok(_) => return Err(problems),
            Err(more) => {
                problems.append(more);
                return Err(problems);
            }
        };
        if let Some(key) = config.root.redact.hash_key.clone() {
            let redactor = config.redactor.clone();
            blocking(move || Config::keyed(&redactor, &key)).await??;
        }
        let logins = Arc::new(logins);
        let resources: Vec<_> = kept
            .iter()
            .map(|(name, kept)| (name.clone(), logins::watched(&kept.opened, name, &logins)))
            .collect();
        let snapshot = Snapshot {
            digest: config.digest.clone(),
            environment: config.root.environment.as_str().into(),
            authenticator: Arc::new(Identity::new(plan, &self.key_sources)),
            policy: config.policy.clone(),
            lessor: logins.clone(),
            redactor: config.redactor.clone(),
            resources: resources
                .iter()
                .map(|(name, opened)| (name.clone(), opened.resource.clone()))
                .collect(),
            deadlines: config.root.deadlines(),
        };
        for (room, places) in kept.values().filter_map(|kept| kept.opened.room.as_ref()) {
            room.resize(*places);
        }
        *self.open.lock() = kept;
        Ok(Wired { config, snapshot: Arc::new(snapshot), resources, logins })
    }

    async fn open_resource(
        &self,
        entry: &ResourceEntry,
        sources: &Sources<'_>,
        logins: &mut Logins,
        problems: &mut Problems,
    ) -> Option<Kept> {
        let login = match sources.hold(entry, logins).await {
            Ok(login) => login,
            Err(more) => {
                problems.append(more);
                return None;
            }
        };
        let fingerprint = entry.node.fingerprint();
        let same = |kept: &&Kept| kept.fingerprint == fingerprint && kept.login.is_same(&login);
        let room = {
            let open = self.open.lock();
            let before = open.get(&entry.name);
            if let Some(kept) = before.filter(same) {
                return Some(Kept { fingerprint, login, opened: kept.opened.clone() });
            }
            before.and_then(|kept| kept.opened.room.as_ref()).map(|(room, _)| room.clone())
        };
        let (name, node) = (entry.name.clone(), entry.node.clone());
        let opening = Opening { name, node, login: login.clone(), room };
        let opened = problems.take((entry.door.open)(opening).await)?;
        Some(Kept { fingerprint, login, opened: Arc::new(opened) })
    }
}

/// Runs blocking work off the runtime's threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problems> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.map_err(|error| doorward_settings::Problem::of_file("doorward", error.to_string()).into())
}
