//! What is done about epochs that are over: their open calls, and their last checkpoints.
//!
//! Exactly once: the completion of a call that died with an earlier start is a frame of this epoch's spool, made of
//! the intent that the store keeps; the intent is closed in the transaction that carries that frame to the store. A
//! crash before the frame is durable leaves the intent open; after it, the next start ships the frame before it
//! looks for open intents again. When a write failed and the frame may or may not be on disk, the rest of the
//! settling waits for the next start, which knows.

use std::sync::atomic::Ordering;
use std::time::Instant;

use doorward_core::{Clock, NotDurable, Outcome, SystemClock};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::reading::last_notes;
use super::{RETRY, ShipError, Shipper, Step};
use crate::columns::CALL_COLUMNS;
use crate::row::Value;
use crate::spool::reader::{Newer, column_map, in_our_columns};
use crate::spool::{Content, SegmentInfo, ours_to_settle};
use crate::store::{Batch, HighWater, OpenIntent, Store};
use crate::wire::{self, Access, ActionText, Frame};

/// Completions that are appended at one time.
const SETTLE_AT_ONCE: usize = 512;

/// How far the settling of dead epochs has come.
#[derive(Default)]
pub(super) enum Settling {
    /// It has yet to look.
    #[default]
    Due,
    /// Some wait for the writer.
    Waiting(Waiting),
    /// The spool took nothing; it looks again.
    Later(Instant),
    /// All is settled, or waits for the next start.
    Done,
}

/// Completions on their way into the spool.
#[derive(Default)]
pub(super) struct Waiting {
    appended: Vec<oneshot::Receiver<Result<(), NotDurable>>>,
    rest: Vec<Access<'static>>,
    durable: bool,
    failed: bool,
}

impl Shipper {
    /// Makes records of outcome `unknown` of what dead epochs left open.
    pub(super) fn settle_dead_epochs(&mut self, store: &mut dyn Store) -> Result<(), ShipError> {
        self.settling = match std::mem::take(&mut self.settling) {
            Settling::Done => Settling::Done,
            Settling::Later(at) if at.elapsed() < RETRY => Settling::Later(at),
            Settling::Due | Settling::Later(_) => {
                let open = self.open_of_dead_epochs(store)?;
                if !open.is_empty() {
                    tracing::warn!(
                        calls = open.len(),
                        "calls ended with the gateway; their outcome is unknown"
                    );
                }
                let rest = open.iter().map(unknown).collect::<Result<_, _>>()?;
                self.append(Waiting { rest, ..Waiting::default() })
            }
            Settling::Waiting(waiting) => self.append(waiting.listen()),
        };
        let settled = matches!(self.settling, Settling::Done);
        self.progress.settled.store(settled, Ordering::Relaxed);
        Ok(())
    }

    fn open_of_dead_epochs(&self, store: &mut dyn Store) -> Result<Vec<OpenIntent>, ShipError> {
        let settings = &self.shared.settings;
        let now = SystemClock.now();
        let mut open = Vec::new();
        for epoch in store.unfinished_epochs(&settings.gateway_id, settings.epoch)? {
            let intents = store.open_intents(&settings.gateway_id, epoch)?;
            // Another gateway of this name may be alive, and its calls with it.
            let ours = |intent: &OpenIntent| ours_to_settle(epoch, settings.epoch, intent.access_id, now);
            open.extend(intents.into_iter().filter(ours));
        }
        Ok(open)
    }

    /// Appends what comes next, once the earlier ones are durable.
    fn append(&self, mut waiting: Waiting) -> Settling {
        if !waiting.appended.is_empty() {
            return Settling::Waiting(waiting);
        }
        if waiting.failed && waiting.durable {
            tracing::warn!("settling goes on at the next start: the spool could not be written");
            return Settling::Done;
        }
        if waiting.failed {
            return Settling::Later(Instant::now());
        }
        let later = waiting.rest.split_off(waiting.rest.len().min(SETTLE_AT_ONCE));
        let now = std::mem::replace(&mut waiting.rest, later);
        waiting.appended =
            now.into_iter().map(|access| self.shared.append(Content::Unknown(access))).collect();
        if waiting.appended.is_empty() { Settling::Done } else { Settling::Waiting(waiting) }
    }

    /// Ships what the log says after its epoch's last segment is shipped and gone: at the end of a start.
    pub(super) fn ship_rest(&mut self, store: &mut dyn Store) -> Result<Step, ShipError> {
        let (log, settings) = (self.log.clone(), &self.shared.settings);
        let Some(place) = self.place.as_mut().filter(|place| place.reader.epoch == settings.epoch) else {
            return Ok(Step::Idle);
        };
        let HighWater { last_seq, next_leaf } = place.high_water;
        let mut batch = Batch {
            gateway_id: &settings.gateway_id,
            epoch: settings.epoch,
            from_seq: last_seq,
            to_seq: last_seq,
            leaf_from: next_leaf,
            leaf_to: next_leaf,
            ..Batch::default()
        };
        last_notes(&log, &mut batch)?;
        batch.checkpoints = log.checkpoints(batch.epoch, batch.leaf_to);
        batch.tiles = log.full_tiles(batch.epoch, next_leaf, batch.leaf_to)?;
        if batch.is_empty() {
            return Ok(Step::Idle);
        }
        if !batch.checkpoints.is_empty() {
            batch.tiles.extend(log.last_tile(batch.epoch, batch.leaf_to)?);
        }
        store.write(&batch)?;
        store.finish()?;
        log.shipped(batch.epoch, batch.leaf_to, &batch.checkpoints);
        place.high_water.next_leaf = batch.leaf_to;
        Ok(Step::Moved)
    }

    /// Brings the last checkpoints of epochs that are over to the store, with the last tile.
    pub(super) fn close_epochs(
        &mut self,
        store: &mut dyn Store,
        front: Option<&SegmentInfo>,
    ) -> Result<(), ShipError> {
        let log = self.log.clone();
        for (epoch, last) in log.finals().into_iter().filter(|(_, last)| !last.stored) {
            // What it counts comes first. When its segments are gone, what is not in the store never comes, and
            // the checkpoint is there to show it.
            if front.is_some_and(|front| front.epoch <= epoch) {
                continue;
            }
            let gateway_id = &self.shared.settings.gateway_id;
            let high_water = store.high_water(gateway_id, epoch)?;
            let mut batch = Batch {
                gateway_id,
                epoch,
                from_seq: high_water.last_seq,
                to_seq: high_water.last_seq,
                leaf_from: high_water.next_leaf,
                leaf_to: high_water.next_leaf,
                checkpoints: vec![last.checkpoint.clone()],
                tiles: log.last_tile(epoch, last.size())?.into_iter().collect(),
                ..Batch::default()
            };
            last_notes(&log, &mut batch)?;
            store.write(&batch)?;
            store.finish()?;
            log.done(epoch, |last| last.stored = true)?;
        }
        Ok(())
    }
}

impl Waiting {
    /// Hears what became of those that were appended.
    fn listen(mut self) -> Self {
        self.appended.retain_mut(|durable| match durable.try_recv() {
            Ok(Ok(())) => {
                self.durable = true;
                false
            }
            // It may be on disk all the same.
            Ok(Err(NotDurable)) => {
                (self.durable, self.failed) = (true, true);
                false
            }
            // It was never written.
            Err(TryRecvError::Closed) => {
                self.failed = true;
                false
            }
            Err(TryRecvError::Empty) => true,
        });
        self
    }
}

/// The completion of a call that is known by its intent alone.
fn unknown(intent: &OpenIntent) -> Result<Access<'static>, ShipError> {
    let newer = || Newer(format!("of the intent of {}", intent.access_id));
    let map = column_map(intent.columns.split(',')).ok_or_else(newer)?;
    let Ok((_, Frame::Intent(access))) = wire::decode(&intent.payload) else { return Err(newer().into()) };
    let mut access = in_our_columns(access, &map);
    let outcome = CALL_COLUMNS.iter().position(|(name, _)| *name == "outcome");
    if let Some(value) = outcome.and_then(|place| access.values.get_mut(place)) {
        *value = Value::Text(Outcome::Unknown.as_str().into());
    }
    Ok(Access {
        access_id: access.access_id,
        values: access.values.into_iter().map(Value::into_owned).collect(),
        actions: access
            .actions
            .into_iter()
            .map(|action| ActionText {
                verb: action.verb.into_owned().into(),
                resource: action.resource.into_owned().into(),
                object: action.object.into_owned().into(),
            })
            .collect(),
    })
}
