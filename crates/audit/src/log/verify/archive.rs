//! Evidence in an archive: the objects that an S3 sink has put, in their bucket or in a directory they were copied to.
//!
//! The rows of an archive do not tell their places: these are found by their leaves, among the tiles that places outside
//! keep ([`super::align`]). What the log says about itself, and so the chain of starts, is read from those places too.
//!
//! Constraints: an object is read whole, up to [`OBJECT_BYTES_MAX`], and its lines one at a time, up to [`LINE_MAX`];
//! what is beyond, or cannot be read, is a finding, and the rows behind it are missing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use doorward_core::{Timestamp, unhex};
use doorward_tlog::Hash;
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::align::{Aligner, Key};
use super::walk::Tiles;
use super::{EXTRAS_MAX, Evidence, FINDINGS_MAX, Item, LogId, Strangers, VerifyError, What, class_of};
use crate::columns::{COLUMNS, Type, position};
use crate::leaf::{FIELDS_MAX, Field, Hasher};
use crate::log::carry::NOTE_BYTES_MAX;
use crate::log::logger::{GAP_NOTE, parse_gap};
use crate::log::place::{Objects, log_folder, note_key, notes_at};
use crate::s3::OBJECT_BYTES_MAX;
use crate::time;
use crate::wire::{Gap, PAYLOAD_MAX};

/// The most bytes of a line: a frame's values, written as JSON.
const LINE_MAX: usize = 8 * PAYLOAD_MAX;
/// The most bytes of an object's lines: compressed text grows a thousandfold at most, and no archive does so.
const TEXT_MAX: u64 = 8 << 30;
/// How an object's name ends.
const SUFFIX: &str = ".jsonl.gz";

/// An archive, and the places with the logs of what is in it.
#[derive(Debug)]
pub struct ArchiveEvidence {
    archive: Arc<dyn Objects>,
    places: Vec<Arc<dyn Objects>>,
    hashes_only: bool,
    hasher: Hasher,
    tiles: Arc<Tiles>,
    largest: u64,
    damage: Vec<String>,
}

impl ArchiveEvidence {
    /// Reads an archive beside the places that have its logs. `hashes_only`: it was written without personal values, so
    /// no leaf can be made again, and each line's own word is taken for its leaf.
    pub fn new(archive: Arc<dyn Objects>, places: Vec<Arc<dyn Objects>>, hashes_only: bool) -> Self {
        Self {
            archive,
            places,
            hashes_only,
            hasher: Hasher::default(),
            tiles: Arc::default(),
            largest: 0,
            damage: Vec::new(),
        }
    }

    /// What a log says about itself at places below one, as the places outside have it.
    fn notes_below(&mut self, log: &LogId, below: u64) -> Result<BTreeMap<u64, Item>, VerifyError> {
        let mut notes = BTreeMap::new();
        let folder = log_folder(&log.gateway_id, log.epoch);
        for place in &self.places {
            for index in notes_at(&**place, &folder)?.into_iter().filter(|index| *index < below) {
                if notes.contains_key(&index) {
                    continue;
                }
                let Some(bytes) = place.read(&note_key(&folder, index), NOTE_BYTES_MAX)? else { continue };
                if let Some(item) = note(&mut self.hasher, log, index, &bytes) {
                    notes.insert(index, item);
                }
                if notes.len() > EXTRAS_MAX {
                    return Err(VerifyError::TooMany(log.epoch));
                }
            }
        }
        Ok(notes)
    }

    /// Hands the lines of one object to the aligner, up to where it can be read.
    fn object(&mut self, log: &LogId, key: &str, aligner: &mut Aligner<'_>) -> Result<(), VerifyError> {
        let bytes = self.archive.read(key, OBJECT_BYTES_MAX)?.unwrap_or_default();
        let mut lines = BufReader::new(MultiGzDecoder::new(&*bytes).take(TEXT_MAX));
        let mut line = Vec::new();
        for number in 1_u64.. {
            line.clear();
            let limit = u64::try_from(LINE_MAX).unwrap_or(u64::MAX);
            // Lines behind one that is no record may be good; behind what cannot be read nothing is.
            let (broken, goes_on) = match (&mut lines).take(limit).read_until(b'\n', &mut line) {
                Ok(0) if number > 1 => return Ok(()),
                Ok(0) => ("it holds nothing".to_owned(), false),
                Ok(_) if line.pop() != Some(b'\n') => {
                    (format!("line {number} is cut off, or too long"), false)
                }
                Ok(_) => match self.line(log, &line, aligner) {
                    true => continue,
                    false => (format!("line {number} is no record of this log"), true),
                },
                Err(error) => (format!("behind line {}: {error}", number - 1), false),
            };
            if self.damage.len() < FINDINGS_MAX {
                self.damage.push(format!("{}/{key}: {broken}", self.archive.name()));
            }
            if !goes_on {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads a line; whether it is one of this log.
    fn line(&mut self, log: &LogId, line: &[u8], aligner: &mut Aligner<'_>) -> bool {
        let Ok(object) = serde_json::from_slice::<Map<String, Json>>(line) else { return false };
        let number = |name: &str| object.get(name).and_then(Json::as_u64);
        let of_log = object.get("gateway_id").and_then(Json::as_str) == Some(&*log.gateway_id)
            && number("epoch") == Some(log.epoch);
        let Some(seq) = number("seq").filter(|_| of_log) else { return false };
        let stored = object.get("leaf_hash").and_then(Json::as_str).and_then(unhex);
        if let Some(gap) = object.get("gap") {
            let leaf = self.leaf_of_gap(log, seq, &object, gap);
            match stored {
                Some(_) => aligner.row((seq, 0), Item { index: None, stored, leaf, what: What::Gap }),
                // The sink was not given them: they are missing, and the archive says so itself.
                None => aligner.other(What::Gap),
            }
            return true;
        }
        // What was put in beside the values, or twice, is read by nobody who makes the leaf.
        let as_written = serde_json::to_vec(&object).is_ok_and(|written| written == line);
        let leaf = match self.hashes_only {
            true => stored,
            false => leaf_of(&mut self.hasher, &object).filter(|_| as_written),
        };
        let text = |name: &str| object.get(name).and_then(Json::as_str);
        let what = What::Row {
            access_id: text("access_id").and_then(|id| Uuid::parse_str(id).ok()),
            ts: text("ts").and_then(micros),
            class: class_of(text("class")),
            before_log: false,
        };
        let key: Key = (seq, number("action_index").unwrap_or(0));
        aligner.row(key, Item { index: None, stored, leaf, what });
        true
    }

    fn leaf_of_gap(&mut self, log: &LogId, seq: u64, object: &Map<String, Json>, gap: &Json) -> Option<Hash> {
        let until_us = micros(object.get("ts")?.as_str()?)?;
        let from_us = micros(gap.get("from")?.as_str()?)?;
        let reason = gap.get("reason")?.as_str()?.into();
        let gap = Gap { lost: gap.get("lost")?.as_u64()?, from_us, until_us, reason };
        Some(self.hasher.gap(&log.gateway_id, log.epoch, seq, &gap))
    }
}

impl Evidence for ArchiveEvidence {
    fn logs(&mut self) -> Result<Vec<LogId>, VerifyError> {
        let mut logs = Vec::new();
        for gateway_id in self.archive.folders("")? {
            for folder in self.archive.folders(&gateway_id)? {
                // Tiles may stand below the same prefix, under the epoch's decimal number.
                let Some(epoch) = epoch_of(&folder) else { continue };
                let names = self.archive.newer(&format!("{gateway_id}/{folder}"), "")?;
                if names.iter().any(|name| name.ends_with(SUFFIX)) {
                    logs.push(LogId { gateway_id: gateway_id.clone(), epoch });
                }
            }
        }
        Ok(logs)
    }

    fn strangers(&mut self) -> Result<Vec<Strangers>, VerifyError> {
        Ok(Vec::new())
    }

    fn items(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError> {
        let notes = self.notes_below(log, u64::MAX)?;
        let folder = format!("{}/{:016x}", log.gateway_id, log.epoch);
        let mut aligner = Aligner::new(self.tiles.clone(), self.largest, notes, each);
        for name in self.archive.newer(&folder, "")?.iter().filter(|name| name.ends_with(SUFFIX)) {
            self.object(log, &format!("{folder}/{name}"), &mut aligner)?;
        }
        aligner.end();
        Ok(())
    }

    fn may_predate_log(&self) -> bool {
        false
    }

    fn items_from_start(&mut self, log: &LogId, each: &mut dyn FnMut(Item)) -> Result<(), VerifyError> {
        self.notes_below(log, 1)?.into_values().for_each(each);
        Ok(())
    }

    fn checkpoints(&mut self, _: &LogId) -> Result<Vec<(i64, String)>, VerifyError> {
        Ok(Vec::new())
    }

    fn tile(&mut self, _: &LogId, _: u64) -> Result<Vec<Hash>, VerifyError> {
        Ok(Vec::new())
    }

    fn notes(&mut self, _: &str) -> Result<Vec<String>, VerifyError> {
        Ok(Vec::new())
    }

    fn horizons(&mut self) -> Result<Vec<(String, i64)>, VerifyError> {
        Ok(Vec::new())
    }

    fn beside(&mut self, tiles: &Arc<Tiles>, largest: u64) {
        (self.tiles, self.largest) = (tiles.clone(), largest);
    }

    fn damage(&mut self) -> Vec<String> {
        std::mem::take(&mut self.damage)
    }
}

/// The epoch of a folder's name: 16 hexadecimal digits.
fn epoch_of(name: &str) -> Option<u64> {
    (name.len() == 16).then(|| u64::from_str_radix(name, 16).ok()).flatten()
}

/// What a place outside has of a note.
fn note(hasher: &mut Hasher, log: &LogId, index: u64, bytes: &[u8]) -> Option<Item> {
    let (kind, body) = std::str::from_utf8(bytes).ok()?.split_once('\n')?;
    let leaf = match kind {
        GAP_NOTE => parse_gap(body).map(|(seq, gap)| hasher.gap(&log.gateway_id, log.epoch, seq, &gap))?,
        _ => hasher.note(&log.gateway_id, log.epoch, kind, body),
    };
    let what = match kind {
        GAP_NOTE => What::Gap,
        _ => What::Note { kind: kind.to_owned(), body: body.to_owned() },
    };
    Some(Item { index: Some(index), stored: Some(leaf), leaf: Some(leaf), what })
}

fn micros(text: &str) -> Option<i64> {
    time::parse(text, Timestamp::default()).map(Timestamp::micros)
}

/// The leaf of a line's values; `None` when one of them is not of its column's type, or of no column.
fn leaf_of(hasher: &mut Hasher, object: &Map<String, Json>) -> Option<Hash> {
    let places: Vec<(usize, &Json)> = object
        .iter()
        .filter(|(name, _)| *name != "leaf_hash")
        .map(|(name, value)| Some((position(name)?, value)))
        .collect::<Option<_>>()?;
    let of_json = |place: usize| COLUMNS.get(place).is_some_and(|column| column.ty == Type::Json);
    let texts: Vec<String> =
        places.iter().filter(|(place, _)| of_json(*place)).map(|(_, value)| value.to_string()).collect();
    let mut texts = texts.iter();
    let mut fields = [Field::Null; FIELDS_MAX];
    for (place, value) in places {
        let field = match (COLUMNS.get(place)?.ty, value) {
            (Type::Time, Json::String(text)) => Field::Int(micros(text)?),
            (Type::Int, Json::Number(number)) => Field::Int(number.as_i64()?),
            (Type::Uuid, Json::String(text)) => Field::Uuid(Uuid::parse_str(text).ok()?),
            (Type::Text, Json::String(text)) => Field::Text(text),
            (Type::Json, _) => Field::Text(texts.next()?),
            _ => return None,
        };
        *fields.get_mut(place)? = field;
    }
    Some(hasher.fields(&fields))
}
