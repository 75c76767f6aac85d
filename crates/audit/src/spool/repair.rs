//! Repairs a stopped spool: keeps every readable frame, sets what is damaged aside, and says what is lost.
//!
//! Invariants: nothing is deleted. A damaged segment is written anew beside itself and takes its own name in
//! one step, after the damaged bytes are durable in a file of their own; a crash at any point leaves the old
//! segment or the new one. Frames keep their numbers, so that the timeline tells the same loss as the report.
//! An encrypted segment is sealed anew under its key and fresh random bytes, and opened for that: without its key
//! nothing is repaired.
//! Damage to a segment's first frame makes the whole of it unreadable: its checksums hang on that frame.

use std::io;
use std::path::Path;

use doorward_core::{Clock, SystemClock};

use super::encryption::{Keys, Sealer};
use super::files::{Appender, Directory, Files};
use super::inspect::{Damage, Met, Segment, look, walk};
use super::{recovery, segment};
use crate::AuditError;
use crate::config::SpoolEncryption;
use crate::personal::xaes::random;
use crate::wire::{self, Encryption, Gap, Header};

/// What was repaired, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// The segment.
    pub name: String,
    /// Good frames, which stay.
    pub kept: u64,
    /// Frames that are gone; `None` when their number cannot be known.
    pub lost: Option<u64>,
    /// Damaged places, a torn end included.
    pub places: u64,
    /// Damaged bytes.
    pub bytes: u64,
    /// The file with the damaged bytes.
    pub set_aside: String,
}

/// Repairs the segments of a directory that no gateway uses; with `write` unset it only says what it would do.
///
/// # Errors
/// When a gateway has the directory, or it cannot be read or written.
pub fn repair(
    dir: &Path,
    encryption: Option<&SpoolEncryption>,
    write: bool,
) -> Result<Vec<Repaired>, AuditError> {
    let keys = Keys::read(encryption)?;
    let failed =
        |error: io::Error| AuditError::Spool { dir: dir.display().to_string(), cause: error.to_string() };
    if !dir.is_dir() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "there is no such directory")));
    }
    let _lock = crate::lock(dir)?;
    mend(&Directory::existing(dir).with_keys(keys), write).map_err(failed)
}

pub(crate) fn mend(files: &dyn Files, write: bool) -> io::Result<Vec<Repaired>> {
    let listed = files.list()?;
    let named = recovery::named_segments(&listed);
    for (_, _, name, length) in &named {
        segment::check_key(files, name, *length)?;
    }
    let segments = look(files, &mut |_, _| None)?.segments;
    let mut repaired = Vec::new();
    for found in segments.iter().filter(|found| found.is_damaged() || found.torn_bytes > 0) {
        let mut plan = Plan::of(found, &named, &listed);
        if write {
            plan.carry_out(files, found)?;
        }
        repaired.push(plan.repaired);
    }
    Ok(repaired)
}

struct Plan {
    repaired: Repaired,
    /// Frames that are missing between this segment's end and the next one of its epoch.
    tail: Option<u64>,
}

impl Plan {
    fn of(found: &Segment, named: &[recovery::Named], listed: &[(String, u64)]) -> Self {
        let unreadable = found.good_bytes == 0;
        let own_first = segment::parse_name(&found.name).map_or(0, |(_, seq)| seq);
        let next_first = named
            .iter()
            .find(|(epoch, seq, ..)| *epoch == found.epoch && *seq > own_first)
            .map(|next| next.1);
        let after = found.last_seq.map_or(own_first, |last| last.saturating_add(1));
        let tail = next_first.map(|next| next.saturating_sub(after));
        let between: u64 = found.damage.iter().map(|damage| damage.frames).sum();
        let torn = found.torn_bytes > 0;
        // A torn end of an epoch's last segment held nothing that was reported as durable, or is damage: no
        // number tells which.
        let lost = if torn { tail.map(|tail| between.saturating_add(tail)) } else { Some(between) };
        let damaged: u64 = found.damage.iter().map(|damage| damage.until.saturating_sub(damage.from)).sum();
        let places = u64::try_from(found.damage.len()).unwrap_or(0) + u64::from(torn);
        let set_aside = if unreadable {
            segment::set_aside(&found.name)
        } else {
            let free = |name: &String| !listed.iter().any(|(listed, _)| listed == name);
            (1..).map(|number| segment::damaged(&found.name, number)).find(free).unwrap_or_default()
        };
        let repaired = Repaired {
            name: found.name.clone(),
            kept: found.frames.total(),
            lost,
            places,
            bytes: damaged.saturating_add(found.torn_bytes),
            set_aside,
        };
        Self { repaired, tail: tail.filter(|_| torn) }
    }

    fn carry_out(&mut self, files: &dyn Files, found: &Segment) -> io::Result<()> {
        if found.good_bytes == 0 {
            return files.rename(&found.name, &self.repaired.set_aside);
        }
        let scratch = segment::scratch(&found.name);
        match files.remove(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            // An earlier repair did not come to its end.
            Ok(()) | Err(_) => {}
        }
        let mut aside = files.create(&self.repaired.set_aside, 0)?;
        let file = files.create(&scratch, 0)?;
        let mut anew = Anew { name: &found.name, keys: files.keys(), file, salt: 0, sealer: None };
        walk(files, &found.name, found.bytes, None, &mut |met| match met {
            Met::Frame { bytes, payload } => anew.put(bytes, payload, &mut *aside),
            Met::Damage(damage) => keep(files, &found.name, damage, &mut *aside),
        })?;
        if found.torn_bytes > 0 {
            let until = found.good_bytes.saturating_add(found.torn_bytes);
            let frames = self.tail.unwrap_or(0);
            keep(files, &found.name, Damage { from: found.good_bytes, until, frames }, &mut *aside)?;
            if frames > 0 {
                let gap = gap(anew.salt, found, frames);
                anew.append(gap)?;
            }
        }
        aside.sync()?;
        anew.file.sync()?;
        drop((aside, anew));
        files.rename(&scratch, &found.name)
    }
}

/// A segment that is written anew. An encrypted one gets random bytes of its own, and so a key of its own: a gap may have the
/// number of a frame that was sealed before.
struct Anew<'n> {
    name: &'n str,
    keys: Keys,
    file: Box<dyn Appender>,
    salt: u64,
    sealer: Option<Sealer>,
}

impl Anew<'_> {
    /// Takes over a good frame.
    fn put(&mut self, bytes: &[u8], payload: &[u8], aside: &mut dyn Appender) -> io::Result<()> {
        if let Ok((seq, wire::Frame::Header(header))) = wire::decode(payload) {
            self.salt = header.salt;
            if let Some(encryption) = &header.encryption {
                // Without it nobody could look into what is set aside.
                aside.append(format!("-- {}: its header was\n", self.name).as_bytes())?;
                aside.append(bytes)?;
                aside.append(b"\n")?;
                let random = random().map_err(io::Error::other)?;
                let encryption = Some(Encryption { key_id: encryption.key_id.clone(), random });
                let mut frame = Vec::new();
                wire::put_header(&mut frame, seq, &Header { encryption, ..header });
                self.sealer = self.keys.sealer(self.name, frame.get(wire::PREFIX..).unwrap_or_default())?;
                return self.file.append(&frame);
            }
        }
        match self.sealer {
            None => self.file.append(bytes),
            Some(_) => self.append([&[0; wire::PREFIX], payload].concat()),
        }
    }

    /// Appends a frame, sealed when the segment is encrypted.
    fn append(&mut self, mut frame: Vec<u8>) -> io::Result<()> {
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(&mut frame, 0).map_err(io::Error::other)?;
        }
        self.file.append(&frame)
    }
}

/// Copies damaged bytes, behind a line that says where they were.
fn keep(files: &dyn Files, name: &str, damage: Damage, aside: &mut dyn Appender) -> io::Result<()> {
    const STEP: usize = 1 << 20;
    let Damage { from, until, frames } = damage;
    aside.append(format!("-- {name}: bytes {from} to {until}, {frames} frames lost\n").as_bytes())?;
    let mut offset = from;
    while offset < until {
        let left = usize::try_from(until - offset).unwrap_or(usize::MAX);
        let bytes = files.read(name, offset, left.min(STEP))?;
        if bytes.is_empty() {
            break;
        }
        aside.append(&bytes)?;
        offset = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
    }
    aside.append(b"\n")
}

/// A gap frame in place of what was lost at the end of a segment, which no later frame of it would show.
fn gap(salt: u64, found: &Segment, lost: u64) -> Vec<u8> {
    let now = SystemClock.now().micros();
    let from_us = found.newest_us.unwrap_or(now);
    let reason = "damaged frames in the spool, set aside by repair".into();
    let mut frame = Vec::new();
    let seq = found.last_seq.unwrap_or(0).saturating_add(1);
    wire::put_gap(&mut frame, salt, seq, &Gap { lost, from_us, until_us: now, reason });
    frame
}
