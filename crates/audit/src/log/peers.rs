//! A gateway as a witness of its peers: the witness of [`super::witness`], which writes what it cosigns into its own
//! timeline too, so that this gateway's log commits what the peer's log was.
//!
//! Constraints: of each log the first checkpoint of a start is recorded, and then one each `record_every`: gateways
//! that cosign for each other make a record each in that time and no more. When a record that is due cannot be made
//! durable, nothing is cosigned.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{
    AccessId, AccessRecord, Action, Actions, Clock, ConfigDigest, Object, Outcome, Recorder, ResourceName,
    SystemClock, Verb, hex,
};
use doorward_tlog::checkpoint::Checkpoint;
use doorward_tlog::note::Vkey;
use parking_lot::Mutex;
use serde_json::{Map, json};
use tokio::runtime::Handle;

use super::config::PeersConfig;
use super::witness::{Answer, Witness, WitnessError};
use crate::config::AuditConfig;
use crate::spool::files::Directory;

/// The folder in the spool's directory.
const FOLDER: &str = "witness";
/// How long a record may take to be durable.
const DURABLE_WITHIN: Duration = Duration::from_secs(5);

/// Where what the gateway's log does is recorded: that it cosigned, or gave something up.
#[derive(Clone)]
pub struct Records {
    /// This gateway's recorder.
    pub recorder: Arc<dyn Recorder>,
    /// Its environment.
    pub environment: Arc<str>,
    /// The configuration that it started with.
    pub digest: ConfigDigest,
    /// Where records are waited for.
    pub runtime: Handle,
}

/// The witness of this gateway's peers.
pub struct Peers {
    witness: Witness,
    records: Records,
    record_every: Duration,
    /// What was recorded last of each log, by the name of its key: the origin, and when. Bounded by the
    /// configuration's keys.
    recorded: Mutex<HashMap<String, (String, Instant)>>,
}

impl Peers {
    /// Opens it, with its key and its memory in the spool's directory. Blocks.
    pub fn open(
        config: &PeersConfig,
        spool: &Path,
        gateway_id: &str,
        records: Records,
    ) -> Result<Self, WitnessError> {
        let witness = witness(config, spool, gateway_id)?;
        let record_every = config.record_every.get();
        Ok(Self { witness, records, record_every, recorded: Mutex::default() })
    }

    /// Its public key, which peers configure.
    pub fn vkey(&self) -> Vkey {
        self.witness.vkey()
    }

    /// Answers `add-checkpoint`. Blocks, on a thread of its own.
    pub fn add_checkpoint(&self, body: &[u8]) -> Answer {
        let now = u64::try_from(SystemClock.now().seconds()).unwrap_or(0);
        self.witness.add_checkpoint_if(body, now, &|checkpoint| self.keep(checkpoint))
    }

    /// Records a checkpoint, if one is due. Whether nothing is missing.
    fn keep(&self, checkpoint: &Checkpoint) -> bool {
        // Called for one request at a time.
        let log = checkpoint.origin.rsplit_once('/').map_or(&*checkpoint.origin, |(name, _)| name);
        let fresh = self
            .recorded
            .lock()
            .get(log)
            .is_some_and(|(origin, at)| *origin == checkpoint.origin && at.elapsed() < self.record_every);
        if fresh {
            return true;
        }
        let Some(slot) = self.records.recorder.reserve() else { return false };
        let durable = slot.complete(Box::new(self.record(checkpoint)));
        let waited = async { tokio::time::timeout(DURABLE_WITHIN, durable).await };
        let done = matches!(self.records.runtime.block_on(waited), Ok(Ok(())));
        if done {
            self.recorded.lock().insert(log.to_owned(), (checkpoint.origin.clone(), Instant::now()));
        }
        done
    }

    fn record(&self, checkpoint: &Checkpoint) -> AccessRecord {
        let mut path = vec!["checkpoints"];
        path.extend(checkpoint.origin.split('/'));
        let action = Action {
            verb: Verb::Write,
            resource: ResourceName::new(crate::admin::RESOURCE),
            object: Object::from_segments(path),
        };
        let cosigned = json!({
            "origin": checkpoint.origin, "size": checkpoint.size, "root": hex(&checkpoint.root),
            "time_us": checkpoint.time_us,
        });
        let ext = Map::from_iter([("cosigned".to_owned(), cosigned)]);
        // The class of these records is told by their door.
        let begun = AccessRecord::begin(
            AccessId::fresh(),
            SystemClock.now(),
            self.records.environment.clone(),
            "admin",
        );
        AccessRecord {
            actions: Actions::new(vec![action]),
            endpoint: Some("witness cosign".into()),
            outcome: Outcome::Allowed,
            config_digest: Some(self.records.digest.clone()),
            ext,
            ..begun
        }
    }
}

fn witness(config: &PeersConfig, spool: &Path, gateway_id: &str) -> Result<Witness, WitnessError> {
    let folder = spool.join(FOLDER);
    let name = config.name.clone().unwrap_or_else(|| format!("doorward-witness/{gateway_id}"));
    let logs = config.keys().unwrap_or_default();
    Witness::open(&folder.join("seen"), &folder.join("key"), &name, logs)
}

/// The public key of a gateway as a witness, for `doorward audit key --witness`. Makes it when there is none, so
/// that peers can be given it before the first start.
pub fn public_key(audit: &AuditConfig, config: &PeersConfig) -> Result<Vkey, WitnessError> {
    let dir = &audit.spool.dir;
    let failed = |cause| WitnessError::File { path: dir.display().to_string(), cause };
    let files = Directory::open(dir).map_err(failed)?;
    let gateway_id = crate::spool::gateway_id(&files, audit.spool.gateway_id.as_deref()).map_err(failed)?;
    Ok(witness(config, dir, &gateway_id)?.vkey())
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").field("vkey", &self.vkey().to_string()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use doorward_tlog::note::{Kind, Signer};
    use doorward_tlog::tree::{Tree, leaf_hash};
    use doorward_tlog::witness::AddCheckpoint;

    use super::*;
    use crate::Audit;

    #[test]
    fn what_is_cosigned_is_recorded_but_not_without_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = AuditConfig::default().relative_to(dir.path());
        config.spool.gateway_id = Some("gw-1".to_owned());
        let audit = Audit::open(&config).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (peer, _) = Signer::generate("doorward/gw-2", Kind::Ed25519).unwrap();
        let peers: PeersConfig = serde_json::from_value(
            json!({ "listen": "127.0.0.1:0", "logs": [peer.vkey().to_string()], "record_every": "1h" }),
        )
        .unwrap();
        let records = || Records {
            recorder: audit.recorder(),
            environment: "test".into(),
            digest: ConfigDigest::new("sha256:0"),
            runtime: runtime.handle().clone(),
        };
        let open = || Peers::open(&peers, &config.spool.dir, "gw-1", records()).unwrap();
        let witness = open();
        assert_eq!(witness.vkey(), public_key(&config, &peers).unwrap());
        assert_eq!(witness.vkey().name(), "doorward-witness/gw-1");
        let first = audit.status().committed_seq;
        let ask = |witness: &Peers, epoch: u64, old_size: u64| {
            let mut tree = Tree::default();
            (0..=old_size).for_each(|n| tree.push(leaf_hash(&n.to_le_bytes()), |_| ()));
            let (origin, time_us) = (format!("doorward/gw-2/{epoch}"), Some(1));
            let note =
                Checkpoint { origin, size: tree.size(), root: tree.root(), time_us, extra: Vec::new() }
                    .sign(&peer);
            // From one leaf to two, the proof is the second; from none there is none.
            let proof = (0..old_size).map(|_| leaf_hash(&1_u64.to_le_bytes())).collect();
            let body = AddCheckpoint { old_size, proof, note }.to_string();
            witness.add_checkpoint(body.as_bytes()).status
        };
        let recorded = || audit.status().committed_seq - first;
        assert_eq!((ask(&witness, 1, 0), recorded()), (200, 1));
        assert_eq!((ask(&witness, 1, 1), recorded()), (200, 1), "within the hour");
        assert_eq!((ask(&witness, 2, 0), recorded()), (200, 2), "another start");
        assert_eq!((ask(&open(), 2, 1), recorded()), (200, 3), "after an own start");
        // When nothing can be recorded, nothing is cosigned.
        assert!(audit.shutdown(Duration::from_secs(20)));
        assert_eq!(ask(&open(), 3, 0), 503);
    }
}
