//! Reads the spool's frames in order, for the log and for the shipper alike, so that both see the same.

use super::SegmentInfo;
use super::segment::{Chunk, Cursor, Found, parse_name};
use crate::columns::CALL_COLUMNS;
use crate::row::Value;
use crate::wire::{self, Access, Frame, Gap};

/// A segment was written by a version that knows more columns or frames than this one.
#[derive(Debug, thiserror::Error)]
#[error("segment {0} was written by a newer version; its records wait in the spool")]
pub(crate) struct Newer(pub(crate) String);

/// Where a reader stands: in which segment, and what its header said.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) segment: String,
    pub(crate) epoch: u64,
    pub(crate) offset: u64,
    cursor: Cursor,
    columns: Vec<Option<usize>>,
    pub(crate) column_names: String,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A frame that holds no record: a header.
    Header,
    /// An intent, and the payload to keep of it while it is open.
    Intent(Access<'a>, &'a [u8]),
    /// A finished call, its values in the order of our columns.
    Completion(Access<'a>),
    /// Records that could not be kept.
    Gap(Gap<'a>),
    /// Frames that cannot be read; how many, when a good one follows in the segment.
    Damage(Option<u64>),
}

impl Reader {
    /// At the start of a segment.
    pub(crate) fn new(segment: &SegmentInfo) -> Self {
        Self {
            segment: segment.name.clone(),
            epoch: segment.epoch,
            offset: 0,
            cursor: Cursor::default(),
            columns: Vec::new(),
            column_names: String::new(),
        }
    }

    /// The next frame of the chunk with its number, or the first number that is gone. `None` when the chunk
    /// has no more.
    pub(crate) fn next<'c>(
        &mut self,
        chunk: &'c Chunk,
        length: u64,
    ) -> Result<Option<(u64, Event<'c>)>, Newer> {
        loop {
            if self.cursor.offset >= length {
                return Ok(None);
            }
            match chunk.at(&self.cursor) {
                None => return Ok(None),
                Some(Found::Damage { resume }) => {
                    tracing::error!(segment = %self.segment, offset = self.offset, "the spool is damaged");
                    self.go_to(resume);
                }
                Some(Found::Tail) => {
                    tracing::error!(
                        segment = %self.segment, offset = self.offset,
                        "the rest of a segment cannot be read"
                    );
                    self.go_to(length);
                    return Ok(Some((self.expected(), Event::Damage(None))));
                }
                Some(Found::Frame { start, end, file_end }) => {
                    let payload = chunk.payload(start, end);
                    return self.frame(payload, file_end).map(Some);
                }
            }
        }
    }

    fn frame<'c>(&mut self, payload: &'c [u8], file_end: u64) -> Result<(u64, Event<'c>), Newer> {
        // Its checksum is right, so it is whole; when it cannot be read it is not of a format that we know.
        let (seq, frame) = wire::decode(payload).map_err(|_| Newer(self.segment.clone()))?;
        if let Some(expected) = self.cursor.next_seq
            && seq > expected
        {
            // The frame itself comes with the next call.
            self.cursor.next_seq = Some(seq);
            return Ok((expected, Event::Damage(Some(seq - expected))));
        }
        self.cursor.next_seq = Some(seq.saturating_add(1));
        let event = match frame {
            Frame::Header(header) => {
                self.cursor.salt = Some(header.salt);
                self.column_names = header.columns.join(",");
                self.columns = column_map(header.columns.iter().map(|name| &**name))
                    .ok_or_else(|| Newer(self.segment.clone()))?;
                Event::Header
            }
            Frame::Intent(access) => Event::Intent(access, payload),
            Frame::Completion(access) => Event::Completion(in_our_columns(access, &self.columns)),
            Frame::Gap(gap) => Event::Gap(gap),
        };
        self.go_to(file_end);
        Ok((seq, event))
    }

    fn go_to(&mut self, offset: u64) {
        self.cursor.offset = offset;
        self.offset = offset;
    }

    /// The number that the next frame should have.
    fn expected(&self) -> u64 {
        let first = parse_name(&self.segment).map_or(0, |(_, seq)| seq);
        self.cursor.next_seq.unwrap_or(first)
    }
}

/// Where each of our columns is among a segment's; `None` when the segment has one that we do not know.
pub(crate) fn column_map<'n>(names: impl Iterator<Item = &'n str>) -> Option<Vec<Option<usize>>> {
    let names: Vec<&str> = names.collect();
    let known = |name: &&str| CALL_COLUMNS.iter().any(|(ours, _)| ours == name);
    if !names.iter().all(known) {
        return None;
    }
    Some(CALL_COLUMNS.iter().map(|(ours, _)| names.iter().position(|name| name == ours)).collect())
}

/// Puts the values of a frame in the order of our columns.
pub(crate) fn in_our_columns<'a>(mut access: Access<'a>, map: &[Option<usize>]) -> Access<'a> {
    let same = map.iter().enumerate().all(|(index, place)| *place == Some(index));
    if !same {
        let value = |place: &Option<usize>| place.and_then(|place| access.values.get(place).cloned());
        access.values = map.iter().map(|place| value(place).unwrap_or(Value::Null)).collect();
    }
    access
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_of_other_versions_are_read_by_name_or_left_alone() {
        let access = |values| Access { access_id: uuid::Uuid::nil(), values, actions: Vec::new() };
        // An older version had two columns, in another order.
        let map = column_map(["door", "ts"].into_iter()).unwrap();
        let ours = in_our_columns(access(vec![Value::Text("rest".into()), Value::Int(5)]), &map);
        assert_eq!(ours.values.len(), CALL_COLUMNS.len());
        for ((name, _), value) in CALL_COLUMNS.iter().zip(&ours.values) {
            let expected = match *name {
                "ts" => Value::Int(5),
                "door" => Value::Text("rest".into()),
                _ => Value::Null,
            };
            assert_eq!(*value, expected, "{name}");
        }
        assert_eq!(column_map(["ts", "from_a_newer_version"].into_iter()), None);
    }
}
