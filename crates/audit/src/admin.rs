//! Records of what administrators do to the timeline itself, from a process of their own.
//!
//! Such a process writes through a spool of its own, the folder `cli` in the gateway's, and carries it to the
//! store before it ends; what it cannot carry waits there for the next one. So the record takes the one road of
//! all records (durable before the deed, numbered, in a transparency log of its own), works while the gateway
//! runs, while it is stopped, and on a machine that has none, and needs no address that would have to be
//! guarded.
//!
//! Invariants: nothing is done before its intent is durable; a deed that was begun and not ended is a record
//! with outcome `unknown`; a deed names ids, never a person.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{
    AccessId, AccessRecord, Action, Actions, AuthMethod, Clock, ConfigDigest, IssuerName, NotDurable, Object,
    Outcome, Principal, PrincipalKind, ResourceName, Slot, SystemClock, Verb,
};
use serde_json::{Map, Value};
use tokio::runtime::{Handle, Runtime};
use uuid::Uuid;

use crate::config::{AuditConfig, GATEWAY_ID_MAX, Retention, RetentionClasses, RollupRetention};
use crate::log::publish::Cosigner;
use crate::transport::Reach;
use crate::{Audit, AuditError};

/// The folder of these processes' spool, in the gateway's.
const FOLDER: &str = "cli";
/// The resource that stands for the timeline itself.
pub(crate) const RESOURCE: &str = "timeline";
/// Characters of a name that is drawn.
const RANDOM_CHARS: usize = 12;
/// How long another such process is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// How long carrying the records to the store may take.
const SHIP_WAIT: Duration = Duration::from_secs(10);

/// Why a deed is not done.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// It cannot be recorded.
    #[error("nothing was done, because it cannot be recorded: {0}")]
    Audit(#[from] AuditError),
    /// It could not be made durable.
    #[error("nothing was done, because its record cannot be made durable")]
    NotDurable,
    /// The record's thread cannot run.
    #[error("nothing was done: {0}")]
    Runtime(#[from] std::io::Error),
}

impl From<NotDurable> for AdminError {
    fn from(_: NotDurable) -> Self {
        Self::NotDurable
    }
}

/// What is about to be done.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The command: `audit erase`.
    pub endpoint: &'static str,
    /// What it does to the objects.
    pub verb: Verb,
    /// What it is done to, as segments of a path: `["subjects", ID]`.
    pub objects: Vec<Vec<String>>,
    /// More about it; nothing personal.
    pub ext: Map<String, Value>,
}

/// Where deeds are recorded.
pub struct Deeds {
    audit: Audit,
    operator: Arc<Principal>,
    environment: Arc<str>,
    digest: ConfigDigest,
    runtime: Runtime,
}

impl Deeds {
    /// Opens the spool. `operator` is who runs the command, as the operating system tells it.
    pub fn open(
        config: &AuditConfig,
        operator: &str,
        environment: &str,
        digest: &ConfigDigest,
    ) -> Result<Self, AdminError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let config = spool_of_its_own(config);
        let started = Instant::now();
        let audit = loop {
            match Audit::open(&config) {
                Err(AuditError::InUse(_)) if started.elapsed() < LOCK_WAIT => {
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                other => break other?,
            }
        };
        let operator = Principal {
            issuer: IssuerName::new("os"),
            subject: operator.into(),
            kind: PrincipalKind::User,
            auth_method: AuthMethod::None,
            ..Principal::public()
        };
        let (operator, environment) = (Arc::new(operator), environment.into());
        Ok(Self { audit, operator, environment, digest: digest.clone(), runtime })
    }

    /// Begins a deed: its intent is durable when this returns.
    pub fn begin(&self, deed: &Deed) -> Result<Begun<'_>, AdminError> {
        let record = Box::new(self.record(deed));
        let mut slot = self.audit.recorder().reserve().ok_or(NotDurable)?;
        let durable = slot.intent(&record);
        self.runtime.block_on(durable)?;
        Ok(Begun { deeds: self, slot, record, started: Instant::now() })
    }

    /// Records a deed that was refused.
    pub fn refused(&self, deed: &Deed) -> Result<(), AdminError> {
        let mut record = Box::new(self.record(deed));
        record.outcome = Outcome::Denied;
        let slot = self.audit.recorder().reserve().ok_or(NotDurable)?;
        Ok(self.runtime.block_on(slot.complete(record))?)
    }

    /// What the record's checkpoints can be carried on.
    pub fn runtime(&self) -> &Handle {
        self.runtime.handle()
    }

    /// Lets the record's checkpoints go to witnesses and buckets.
    pub fn reach(
        &self,
        config: &AuditConfig,
        cosigner: Arc<dyn Cosigner>,
        reach: &Reach,
    ) -> Result<(), AuditError> {
        self.audit.speak_to_witnesses(cosigner);
        self.audit.reach_buckets(config, reach)
    }

    /// Carries what waits in such a spool to the store, if there is one: the calls that were settled on the way
    /// included. How many records, and whether all are there by then. Blocks.
    pub fn drain(config: &AuditConfig, within: Duration) -> Result<Option<(u64, bool)>, AuditError> {
        if !folder(&config.spool.dir).is_dir() {
            return Ok(None);
        }
        let started = Instant::now();
        let audit = Audit::open(&spool_of_its_own(config))?;
        while !audit.status().settled && started.elapsed() < within {
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let all = audit.shutdown(within.saturating_sub(started.elapsed()));
        Ok(Some((audit.status().shipped_total, all)))
    }

    /// Carries the records to the store. Whether all are there; what is not waits for the next time.
    pub fn finish(self) -> bool {
        self.audit.shutdown(SHIP_WAIT)
    }

    fn record(&self, deed: &Deed) -> AccessRecord {
        // A deed on more objects than a record holds says how many it does not name.
        let left_out = deed.objects.len().saturating_sub(Actions::MAX);
        let mut ext = deed.ext.clone();
        if left_out > 0 {
            ext.insert("objects_left_out".to_owned(), left_out.into());
        }
        let actions = deed.objects.iter().take(Actions::MAX).map(|segments| Action {
            verb: deed.verb,
            resource: ResourceName::new(RESOURCE),
            object: Object::from_segments(segments.iter().map(String::as_str)),
        });
        // The class of these records is told by their door.
        let begun =
            AccessRecord::begin(AccessId::fresh(), SystemClock.now(), self.environment.clone(), "admin");
        AccessRecord {
            principal: Some(self.operator.clone()),
            actions: Actions::new(actions.collect()),
            endpoint: Some(deed.endpoint.into()),
            outcome: Outcome::Allowed,
            config_digest: Some(self.digest.clone()),
            ext,
            ..begun
        }
    }
}

impl std::fmt::Debug for Deeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deeds").field("audit", &self.audit).finish_non_exhaustive()
    }
}

/// A deed that was begun.
#[must_use = "a deed that is not ended is recorded as unknown"]
pub struct Begun<'d> {
    deeds: &'d Deeds,
    slot: Box<dyn Slot>,
    record: Box<AccessRecord>,
    started: Instant,
}

impl Begun<'_> {
    /// Ends it: whether it was done, and to how many rows.
    pub fn end(mut self, done: bool, rows: Option<u64>) -> Result<(), AdminError> {
        self.record.outcome = if done { Outcome::Allowed } else { Outcome::Failed };
        self.record.rows = rows;
        self.record.duration_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(self.deeds.runtime.block_on(self.slot.complete(self.record))?)
    }
}

impl std::fmt::Debug for Begun<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Begun").finish_non_exhaustive()
    }
}

/// Whether a gateway's name is that of a log of commands.
pub(crate) fn is_of_commands(gateway_id: &str) -> bool {
    gateway_id.strip_prefix(FOLDER).is_some_and(|rest| rest.starts_with('-'))
}

fn own_name(name: &str, bytes_max: usize) -> String {
    let whole = format!("{FOLDER}-{name}");
    whole.get(..bytes_max.min(whole.len())).unwrap_or(&whole).to_owned()
}

/// The folder of these processes' spool, in the gateway's.
pub fn folder(spool: &Path) -> PathBuf {
    spool.join(FOLDER)
}

/// The same store and keys, and a spool beside the gateway's. Removing old records is the gateways' work.
pub(crate) fn spool_of_its_own(config: &AuditConfig) -> AuditConfig {
    let mut config = config.clone();
    config.spool.dir = folder(&config.spool.dir);
    let known = config.spool.dir.join("gateway-id").exists();
    let random = Uuid::new_v4().simple().to_string();
    let name = config.spool.gateway_id.take();
    // A random name is kept in the folder, as a gateway's is.
    config.spool.gateway_id = match (name.as_deref(), known) {
        (None, true) => None,
        (Some(name), _) => Some(own_name(name, GATEWAY_ID_MAX)),
        (None, false) => Some(own_name(&random, RANDOM_CHARS)),
    };
    config.retention = Retention {
        age: None,
        size: None,
        classes: RetentionClasses::default(),
        rollups: RollupRetention { minute: None, quarter: None, day: None },
    };
    config
}
