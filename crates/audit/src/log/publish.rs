//! The publisher thread: asks the witnesses for cosignatures, and hands checkpoints to the carriers, one for each
//! place outside the store.
//!
//! Constraints: it takes the newest checkpoint, and leaves out those that came while it was busy; a place or a
//! witness that is away stops nothing but itself. Leaves are kept for places in the spool's directory until each
//! has them, but no more than [`LAG_MAX`] of an epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use doorward_tlog::note::{Note, Signature, Vkey};
use doorward_tlog::tile::TileNodes;
use doorward_tlog::tree;
use doorward_tlog::witness::{AddCheckpoint, cosignatures};

pub use super::carry::PlaceStatus;
use super::carry::{Cosigned, Desk};
use super::config::{CheckpointsConfig, WitnessConfig};
use super::owed::{self, GivenUp};
use super::{Log, Signed, journal};

/// How often it looks around when nothing is signed.
const TICK: Duration = Duration::from_millis(500);
/// Leaves that are kept for a place that is away.
const LAG_MAX: u64 = 64 * super::journal::LEAVES_PER_FILE;
/// How long a witness that failed is left alone: at first, and at most.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often what is owed is looked at while nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a start waits to hear what places have of earlier starts, before it gives up what is owed beyond the bounds.
const ASK_MAX: Duration = Duration::from_secs(120);
/// How long places may take for the last checkpoint, when the gateway stops.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// Speaks to witnesses. Called from a thread of its own, and may block, for ten seconds at most.
pub trait Cosigner: Send + Sync {
    /// Sends a request by POST: the answer's status and text.
    fn post(&self, witness: &WitnessConfig, url: &str, body: String) -> Result<(u16, String), String>;
}

/// How the log of the current epoch and its checkpoints fare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// The epoch.
    pub epoch: u64,
    /// Its leaves.
    pub leaves: u64,
    /// Leaves of the newest checkpoint.
    pub signed: u64,
    /// When it was signed, microseconds; 0 when none was.
    pub signed_us: i64,
    /// The places outside the store.
    pub places: Vec<PlaceStatus>,
    /// The witnesses.
    pub witnesses: Vec<WitnessStatus>,
    /// Leaves of the newest checkpoint that enough witnesses have cosigned.
    pub witnessed: u64,
}

/// How a witness fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessStatus {
    /// Its name, as its key has it.
    pub name: String,
    /// Leaves of the current epoch that it has cosigned.
    pub cosigned: u64,
    /// Leaves under a checkpoint of the current epoch that it has not cosigned.
    pub behind: u64,
    /// Why it did not cosign the last checkpoint that it was asked to.
    pub error: Option<String>,
}

/// What the publisher says of the witnesses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Witnessing {
    /// Of each witness: its name, the epoch and leaves that it cosigned last, and its trouble.
    pub(crate) witnesses: Vec<(String, (u64, u64), Option<String>)>,
    /// The epoch and leaves of the newest checkpoint with enough cosignatures.
    pub(crate) witnessed: (u64, u64),
}

impl Witnessing {
    /// Leaves of an epoch: the number that goes with it, or none.
    fn of(epoch: u64, (of, leaves): (u64, u64)) -> u64 {
        if of == epoch { leaves } else { 0 }
    }

    pub(crate) fn status(&self, epoch: u64, signed: u64) -> (Vec<WitnessStatus>, u64) {
        let status = |(name, cosigned, error): &(String, (u64, u64), Option<String>)| {
            let cosigned = Self::of(epoch, *cosigned);
            let behind = signed.saturating_sub(cosigned);
            WitnessStatus { name: name.clone(), cosigned, behind, error: error.clone() }
        };
        (self.witnesses.iter().map(status).collect(), Self::of(epoch, self.witnessed))
    }
}

/// The publisher's own state; [`Publisher::run`] is its thread.
pub(crate) struct Publisher {
    log: Arc<Log>,
    desks: Vec<Arc<Desk>>,
    witnesses: Vec<Witness>,
    quorum: usize,
    /// The newest checkpoint.
    newest: Option<Signed>,
    /// Epochs that are over whose last checkpoint was handed to the carriers.
    handed: BTreeSet<u64>,
    /// Bytes of such epochs that are kept for places.
    owed_max: u64,
    /// What was owed when it was looked at last, and when.
    looked: Option<(usize, Instant)>,
    began: Instant,
    /// What was given up and is not recorded yet: no more than was owed.
    unrecorded: Vec<GivenUp>,
}

struct Witness {
    config: WitnessConfig,
    key: Option<Vkey>,
    /// Leaves that it has cosigned, by epoch.
    seen: BTreeMap<u64, u64>,
    /// Its last cosignature: the epoch, the leaves, and what it signed.
    last: Option<(u64, u64, Signature)>,
    error: Option<String>,
    /// It is not asked before.
    not_before: Instant,
    retry: Duration,
}

impl Publisher {
    pub(crate) fn new(log: Arc<Log>, desks: Vec<Arc<Desk>>, config: &CheckpointsConfig) -> Self {
        let witness = |config: &WitnessConfig| Witness {
            key: Vkey::parse(&config.vkey).ok(),
            config: config.clone(),
            seen: BTreeMap::new(),
            last: None,
            error: None,
            not_before: Instant::now(),
            retry: RETRY_MIN,
        };
        Self {
            log,
            desks,
            witnesses: config.witnesses.iter().map(witness).collect(),
            quorum: config.quorum(),
            newest: None,
            handed: BTreeSet::new(),
            owed_max: config.owed_max.get(),
            looked: None,
            began: Instant::now(),
            unrecorded: Vec::new(),
        }
    }

    /// Works while `going` says so; at the end it sees that what was signed last is carried, but not for long.
    pub(crate) fn run(mut self, going: &AtomicBool) {
        loop {
            let last = !going.load(Ordering::Relaxed);
            let wait = if last { Duration::ZERO } else { TICK };
            let latest = self.log.take_latest(wait);
            for (epoch, over) in self.log.finals() {
                if !over.published && self.handed.insert(epoch) {
                    self.publish(&Signed { epoch, checkpoint: over.checkpoint, edge: over.edge });
                }
            }
            if latest.is_some() {
                self.newest = latest;
                self.publish_newest();
            } else if self.may_get_more() {
                self.publish_newest();
            }
            if last {
                self.end();
            }
            self.collect();
            if last {
                return;
            }
        }
    }

    /// Whether a witness that has not cosigned the newest checkpoint may do so by now.
    fn may_get_more(&self) -> bool {
        let Some(signed) = &self.newest else { return false };
        let lacks = |witness: &Witness| witness.cosignature(signed.epoch, signed.checkpoint.size).is_none();
        self.witnesses.iter().any(|witness| lacks(witness) && Instant::now() >= witness.not_before)
    }

    fn publish_newest(&mut self) {
        if let Some(signed) = self.newest.clone() {
            self.publish(&signed);
        }
    }

    /// Waits for the carriers' last tries.
    fn end(&self) {
        let deadline = Instant::now() + LAST_WAIT;
        self.desks.iter().for_each(|desk| desk.end());
        let late = self.desks.iter().filter(|desk| !desk.wait_for_end(deadline)).count();
        if late > 0 {
            tracing::warn!(
                places = late,
                "the last checkpoint is not kept everywhere; the next start sees to it"
            );
        }
    }

    /// Gives up what is owed beyond the bounds, oldest first, and what an administrator has marked.
    fn limit(&mut self) -> io::Result<()> {
        let finals = self.log.finals();
        let owed: Vec<_> = finals.into_iter().filter(|(_, over)| !over.published).collect();
        let fresh = |(count, at): (usize, Instant)| count == owed.len() && at.elapsed() < LOOK_EVERY;
        if owed.is_empty() || self.looked.is_some_and(fresh) {
            return Ok(());
        }
        // A place that has an epoch does not lack it.
        let asking = |(epoch, _): &(u64, _)| self.desks.iter().any(|desk| desk.is_asking(*epoch));
        if self.began.elapsed() < ASK_MAX && owed.iter().any(asking) {
            return Ok(());
        }
        self.looked = Some((owed.len(), Instant::now()));
        let files = self.log.files.clone();
        let bytes = owed::bytes(&*files)?;
        let of = |epoch: &u64| bytes.get(epoch).copied().unwrap_or(0);
        let mut count = owed.len();
        let mut total: u64 = owed.iter().map(|(epoch, _)| of(epoch)).sum();
        for (epoch, over) in &owed {
            let reason = match (journal::is_given_up(&*files, *epoch)?, count, total) {
                (true, ..) => "an administrator gave it up",
                (false, count, _) if count > owed::EPOCHS_MAX => "too many starts are owed",
                (false, _, total) if total > self.owed_max => "checkpoints.owed_max was reached",
                (false, ..) => continue,
            };
            (count, total) = (count - 1, total.saturating_sub(of(epoch)));
            self.give_up(*epoch, over.size(), reason)?;
        }
        Ok(())
    }

    fn give_up(&mut self, epoch: u64, leaves: u64, reason: &'static str) -> io::Result<()> {
        // The next start must not owe it again, while the store still needs it.
        journal::give_up(&*self.log.files, epoch)?;
        self.log.done(epoch, |over| over.published = true)?;
        self.handed.remove(&epoch);
        let places: Vec<String> = self.desks.iter().filter_map(|desk| desk.give_up(epoch, leaves)).collect();
        self.desks.iter().for_each(|desk| desk.forget(epoch));
        tracing::error!(
            epoch,
            leaves,
            ?places,
            reason,
            "the log of an earlier start will not be kept outside"
        );
        self.unrecorded.push(GivenUp { epoch, leaves, places, reason });
        Ok(())
    }

    /// Records what was given up, once there is a place for it.
    fn record(&mut self) {
        if let Some(records) = self.log.records.get() {
            self.unrecorded.retain(|given_up| !given_up.record(records));
        }
    }

    /// Looks how far the places are, and lets go of what all of them have.
    fn collect(&mut self) {
        if let Err(error) = self.limit() {
            tracing::warn!(%error, "what is owed to places outside could not be looked at");
        }
        self.record();
        for (epoch, over) in self.log.finals() {
            let there = self.desks.iter().all(|desk| desk.kept(epoch) >= over.size());
            if over.published || !there || !self.handed.contains(&epoch) {
                continue;
            }
            if let Err(error) = self.log.done(epoch, |over| over.published = true) {
                tracing::warn!(epoch, %error, "the log of an epoch that is over could not be removed");
                continue;
            }
            self.handed.remove(&epoch);
            self.desks.iter().for_each(|desk| desk.forget(epoch));
        }
        if let Some(Signed { epoch, checkpoint, .. }) = &self.newest {
            let least = self.desks.iter().map(|desk| desk.kept(*epoch)).min().unwrap_or(checkpoint.size);
            self.log.published(*epoch, least.max(checkpoint.size.saturating_sub(LAG_MAX)));
        }
    }

    /// Brings a checkpoint to the witnesses, and hands it to the carriers.
    fn publish(&mut self, signed: &Signed) {
        let cosigned = self.cosign(signed);
        let mut checkpoint = signed.checkpoint.clone();
        for signature in &cosigned {
            checkpoint.note.push_str(&signature.to_string());
        }
        let mut witnessing = self.log.witnessing.lock();
        witnessing.witnesses = self.witnesses.iter().map(Witness::status).collect();
        if cosigned.len() >= self.quorum {
            witnessing.witnessed = (signed.epoch, checkpoint.size);
        }
        drop(witnessing);
        let carried = Arc::new(Cosigned { signed: signed.clone(), note: checkpoint.note.clone() });
        self.desks.iter().for_each(|desk| desk.hand(carried.clone()));
        if !cosigned.is_empty() {
            self.log.cosigned(signed.epoch, checkpoint);
        }
    }

    /// Asks all witnesses at once.
    fn cosign(&mut self, signed: &Signed) -> Vec<Signature> {
        let cosigner = self.log.cosigner.get().cloned();
        let log = &*self.log;
        std::thread::scope(|scope| {
            for witness in &mut self.witnesses {
                let cosigner = cosigner.as_deref();
                scope.spawn(move || witness.asked(log, cosigner, signed));
            }
        });
        let size = signed.checkpoint.size;
        self.witnesses.iter().filter_map(|witness| witness.cosignature(signed.epoch, size)).cloned().collect()
    }
}

impl Witness {
    /// Its cosignature of a checkpoint, if it has given one.
    fn cosignature(&self, epoch: u64, size: u64) -> Option<&Signature> {
        let (of, leaves, signature) = self.last.as_ref()?;
        (*of == epoch && *leaves == size).then_some(signature)
    }

    fn status(&self) -> (String, (u64, u64), Option<String>) {
        let name = self.key.as_ref().map_or_else(|| self.config.url.clone(), |key| key.name().to_owned());
        let cosigned = self.last.as_ref().map_or((0, 0), |(epoch, size, _)| (*epoch, *size));
        (name, cosigned, self.error.clone())
    }

    /// Asks for a cosignature, unless there is one, or it was away just now.
    fn asked(&mut self, log: &Log, cosigner: Option<&dyn Cosigner>, signed: &Signed) {
        let size = signed.checkpoint.size;
        if self.cosignature(signed.epoch, size).is_some() || Instant::now() < self.not_before {
            return;
        }
        let answer = match cosigner {
            Some(cosigner) => self.ask(log, cosigner, signed),
            None => Err("nobody speaks to the witnesses yet".to_owned()),
        };
        match answer {
            Ok(signature) => {
                self.last = Some((signed.epoch, size, signature));
                (self.error, self.retry) = (None, RETRY_MIN);
            }
            Err(error) => {
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!(witness = self.config.url, %error, "a checkpoint is not cosigned");
                }
                self.error = Some(error);
                self.not_before = Instant::now() + self.retry;
                self.retry = (self.retry * 2).min(RETRY_MAX);
            }
        }
    }

    /// Asks for a cosignature; once more when the witness has seen another size than we thought.
    fn ask(&mut self, log: &Log, cosigner: &dyn Cosigner, signed: &Signed) -> Result<Signature, String> {
        let key = self.key.clone().ok_or("its key cannot be read")?;
        let note = Note::parse(&signed.checkpoint.note).map_err(|error| error.to_string())?;
        let size = signed.checkpoint.size;
        for _ in 0..2 {
            let old_size = self.seen.get(&signed.epoch).copied().unwrap_or(0);
            if old_size > size {
                return Err(format!("it has seen {old_size} leaves, and there are {size}"));
            }
            let read = |level, index, _| log.any_tile(signed, level, index).ok().flatten();
            let proof = tree::consistency(&mut TileNodes::new(size, read), old_size, size)
                .map_err(|missing| format!("it is too far behind to be shown a proof: {missing}"))?;
            let body = AddCheckpoint { old_size, proof, note: note.clone() }.to_string();
            let url = format!("{}/add-checkpoint", self.config.url.trim_end_matches('/'));
            let (status, text) = cosigner.post(&self.config, &url, body)?;
            match status {
                200 => {
                    let found = cosignatures(&text).map_err(|error| error.to_string())?;
                    let note = Note { text: note.text.clone(), signatures: found };
                    key.verify(&note).map_err(|error| error.to_string())?;
                    self.seen.insert(signed.epoch, size);
                    let own = note.signatures.into_iter();
                    let mut own =
                        own.filter(|signature| signature.name == key.name() && signature.id == key.id());
                    return own.next().ok_or_else(|| "it has not signed".to_owned());
                }
                409 => {
                    let seen = text.trim().parse().map_err(|_| "it refuses this history".to_owned())?;
                    self.seen.insert(signed.epoch, seen);
                }
                _ => return Err(format!("it answers {status}: {}", text.trim())),
            }
        }
        Err("it does not agree about what it has seen".to_owned())
    }
}
