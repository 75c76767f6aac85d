//! A batch on its way to the server: encoded, on its own feet, and written in one transaction.

use std::borrow::Cow;

use doorward_pgclient::blocking::{Client, ClientError, Param};
use uuid::Uuid;

use super::{encode, number};
use crate::leaf;
use crate::rollup;
use crate::store::{
    Batch, DeadLetter, HashTile, HighWater, LetterRow, LogNote, LoggedGap, OpenIntent, SignedCheckpoint,
    StoreError,
};
use crate::wire::Gap;

/// Tiles of the log that one statement writes, of 8 KiB each.
const TILES_AT_ONCE: usize = 64;

/// What a batch becomes.
pub(super) struct Outgoing {
    gateway_id: String,
    epoch: u64,
    from: HighWater,
    to: HighWater,
    /// Data of a COPY of the records; empty without any.
    rows: Vec<u8>,
    rollups: Vec<rollup::postgres::Part>,
    opened: Vec<OpenIntent>,
    closed: Vec<Uuid>,
    gaps: Vec<LoggedGap<'static>>,
    notes: Vec<LogNote>,
    checkpoints: Vec<SignedCheckpoint>,
    tiles: Vec<HashTile>,
    /// Rows of what was refused, and why.
    dead_letters: Vec<(LetterRow, String)>,
}

impl Outgoing {
    /// Encodes a batch. `buffer` is the room of an earlier one.
    pub(super) fn of(batch: &Batch<'_>, mut buffer: Vec<u8>) -> Result<Self, StoreError> {
        put_rows(&mut buffer, batch)?;
        Ok(Self {
            gateway_id: batch.gateway_id.to_owned(),
            epoch: batch.epoch,
            from: HighWater { last_seq: batch.from_seq, next_leaf: batch.leaf_from },
            to: HighWater { last_seq: batch.to_seq, next_leaf: batch.leaf_to },
            rows: buffer,
            rollups: rollup::postgres::parts(&batch.rollups),
            opened: batch.opened.clone(),
            closed: batch.closed.clone(),
            gaps: batch.gaps.iter().map(owned).collect(),
            notes: batch.notes.clone(),
            checkpoints: batch.checkpoints.clone(),
            tiles: batch.tiles.clone(),
            dead_letters: batch.dead_letters.iter().flat_map(|letter| rows_of(letter, batch)).collect(),
        })
    }

    /// Bytes of its rows.
    pub(super) fn bytes(&self) -> usize {
        self.rows.len()
    }

    /// Its room, for another one.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.rows
    }

    /// Writes all of it, or nothing.
    pub(super) fn write(&self, client: &mut Client, copy: &str) -> Result<(), StoreError> {
        client.transaction(|client| {
            move_mark(client, self)?;
            copy_records(client, copy, &self.rows)?;
            keep_intents(client, self)?;
            insert_gaps(client, self)?;
            insert_dead_letters(client, self)?;
            insert_log(client, self)?;
            rollup::postgres::append(client, &self.rollups)?;
            Ok(())
        })
    }
}

fn put_rows(buffer: &mut Vec<u8>, batch: &Batch<'_>) -> Result<(), StoreError> {
    buffer.clear();
    if batch.records.is_empty() {
        return Ok(());
    }
    buffer.extend_from_slice(encode::HEADER);
    for record in &batch.records {
        for action in 0..leaf::rows(&record.access) {
            encode::row(buffer, &record.row(batch.gateway_id, batch.epoch, action))?;
        }
    }
    buffer.extend_from_slice(encode::TRAILER);
    Ok(())
}

fn owned(lost: &LoggedGap<'_>) -> LoggedGap<'static> {
    let Gap { lost: count, from_us, until_us, ref reason } = lost.gap;
    let reason = Cow::Owned(reason.as_ref().to_owned());
    LoggedGap { seq: lost.seq, gap: Gap { lost: count, from_us, until_us, reason }, leaf: lost.leaf }
}

fn rows_of(letter: &DeadLetter<'_>, batch: &Batch<'_>) -> Vec<(LetterRow, String)> {
    let reason = letter.reason.replace('\0', "\u{fffd}");
    let rows = letter.rows(batch.gateway_id, batch.epoch).into_iter();
    rows.map(|row| (row, reason.clone())).collect()
}

/// Moves the mark from where the batch says that it stands.
fn move_mark(client: &mut Client, batch: &Outgoing) -> Result<(), StoreError> {
    let key = [Param::Text(&batch.gateway_id), number(batch.epoch)];
    let marks =
        [batch.to.last_seq, batch.to.next_leaf, batch.from.last_seq, batch.from.next_leaf].map(number);
    let all: Vec<Param<'_>> = key.into_iter().chain(marks).collect();
    let begins = batch.from == HighWater::default();
    let moved = if begins {
        client.execute(
            "INSERT INTO doorward.high_water AS h VALUES ($1, $2, $3, $4)
             ON CONFLICT (gateway_id, epoch) DO UPDATE
             SET last_seq = excluded.last_seq, next_leaf = excluded.next_leaf
             WHERE h.last_seq = $5 AND h.next_leaf = $6",
            &all,
        )?
    } else {
        client.execute(
            "UPDATE doorward.high_water SET last_seq = $3, next_leaf = $4
             WHERE gateway_id = $1 AND epoch = $2 AND last_seq = $5 AND next_leaf = $6",
            &all,
        )?
    };
    if moved == 1 {
        return Ok(());
    }
    let reply = client
        .query("SELECT last_seq FROM doorward.high_water WHERE gateway_id = $1 AND epoch = $2", &key)?;
    Err(StoreError::Moved {
        gateway_id: batch.gateway_id.clone(),
        epoch: batch.epoch,
        expected: batch.from.last_seq,
        found: reply.first().and_then(|row| row.int(0)).unwrap_or(0).cast_unsigned(),
    })
}

fn copy_records(client: &mut Client, sql: &str, rows: &[u8]) -> Result<(), ClientError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut copy = client.copy_in(sql)?;
    copy.write(rows)?;
    copy.finish()?;
    Ok(())
}

fn keep_intents(client: &mut Client, batch: &Outgoing) -> Result<(), StoreError> {
    for intent in &batch.opened {
        client.execute(
            "INSERT INTO doorward.open_intent VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                Param::Text(&batch.gateway_id),
                number(batch.epoch),
                number(intent.seq),
                Param::Text(&intent.access_id.to_string()),
                Param::Bytes(&intent.payload),
                Param::Text(&intent.columns),
            ],
        )?;
    }
    if !batch.closed.is_empty() {
        let ids: Vec<String> = batch.closed.iter().map(Uuid::to_string).collect();
        let array = format!("{{{}}}", ids.join(","));
        client.execute(
            "DELETE FROM doorward.open_intent WHERE access_id = ANY ($1::uuid[])",
            &[Param::Text(&array)],
        )?;
    }
    Ok(())
}

fn insert_gaps(client: &mut Client, batch: &Outgoing) -> Result<(), StoreError> {
    for lost in &batch.gaps {
        let gap = &lost.gap;
        client.execute(
            "INSERT INTO doorward.audit_gap VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            &[
                Param::Int(gap.from_us),
                Param::Int(gap.until_us),
                Param::Text(&batch.gateway_id),
                number(batch.epoch),
                number(lost.seq),
                number(gap.lost),
                Param::Text(&gap.reason),
                lost.leaf.map_or(Param::Null, |(index, _)| number(index)),
                lost.leaf.as_ref().map_or(Param::Null, |(_, hash)| Param::Bytes(&hash[..])),
            ],
        )?;
    }
    Ok(())
}

fn insert_dead_letters(client: &mut Client, batch: &Outgoing) -> Result<(), StoreError> {
    for (row, reason) in &batch.dead_letters {
        client.execute(
            "INSERT INTO doorward.dead_letter VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            &[
                Param::Text(&batch.gateway_id),
                number(batch.epoch),
                number(row.seq),
                Param::Text(&row.access_id.to_string()),
                row.leaf.map_or(Param::Null, |(index, _)| number(index)),
                row.leaf.as_ref().map_or(Param::Null, |(_, hash)| Param::Bytes(&hash[..])),
                Param::Text(reason),
                Param::Text(&row.payload),
            ],
        )?;
    }
    Ok(())
}

/// What the log says about itself, its checkpoints and its tiles.
fn insert_log(client: &mut Client, batch: &Outgoing) -> Result<(), StoreError> {
    let (gateway_id, epoch) = (Param::Text(&batch.gateway_id), number(batch.epoch));
    for note in &batch.notes {
        client.execute(
            "INSERT INTO doorward.log_note VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                gateway_id,
                epoch,
                number(note.index),
                Param::Text(&note.kind),
                Param::Text(&note.body),
                Param::Bytes(&note.leaf_hash[..]),
            ],
        )?;
    }
    for checkpoint in &batch.checkpoints {
        client.execute(
            // The one with more cosignatures stays; of two that are alike, the first, which says more about age.
            "INSERT INTO doorward.checkpoint AS c VALUES ($1, $2, $3, $4, $5) ON CONFLICT (gateway_id, epoch, size)
             DO UPDATE SET signed_us = excluded.signed_us, note = excluded.note
             WHERE length(excluded.note) > length(c.note)",
            &[
                gateway_id,
                epoch,
                number(checkpoint.size),
                Param::Int(checkpoint.signed_us),
                Param::Text(&checkpoint.note),
            ],
        )?;
    }
    for tiles in batch.tiles.chunks(TILES_AT_ONCE) {
        insert_tiles(client, gateway_id, epoch, tiles)?;
    }
    Ok(())
}

/// Many tiles by one statement; a large batch fills dozens. The wider one of a place comes last, and a statement
/// takes one row of each place.
fn insert_tiles(
    client: &mut Client,
    gateway_id: Param<'_>,
    epoch: Param<'_>,
    tiles: &[HashTile],
) -> Result<(), StoreError> {
    let mut params = vec![gateway_id, epoch];
    let mut rows = Vec::new();
    for (place, tile) in tiles.iter().enumerate() {
        if tiles.get(place + 1).is_some_and(|next| next.index == tile.index) {
            continue;
        }
        rows.push(format!("($1, $2::bigint, ${}::bigint, ${}::bytea)", params.len() + 1, params.len() + 2));
        params.extend([number(tile.index), Param::Bytes(&tile.hashes)]);
    }
    let sql = format!(
        "INSERT INTO doorward.log_tile VALUES {} ON CONFLICT (gateway_id, epoch, tile)
         DO UPDATE SET hashes = excluded.hashes",
        rows.join(", ")
    );
    client.execute(&sql, &params)?;
    Ok(())
}
