//! Compressed JSON lines in a bucket: an object for the rows of one segment, or for those that gathered since
//! the last one.
//!
//! Objects are named `GATEWAY/EPOCH/FIRST-LAST.jsonl.gz`, by the first and last frame in them, so names sort as
//! frames do. After trouble the same rows may come again in an object of another name: whoever reads the
//! archive tells them by `(gateway_id, epoch, seq, action_index)`.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_core::{Clock, SystemClock};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value as Json;
use tokio::runtime::Handle;

use super::format::Formatter;
use super::tail::Entry;
use super::worker::{Moment, Receiver, Taken, Trouble};
use crate::s3::{self, Bucket};
use crate::transport::Transport;

/// An object is written when it has grown to this.
const OBJECT_BYTES: usize = 16 << 20;

/// Gathers rows and puts them.
pub(crate) struct Archive {
    formatter: Formatter,
    bucket: Bucket,
    every: Duration,
    transport: Arc<dyn Transport>,
    runtime: Handle,
    open: Option<Object>,
}

/// What is gathering.
struct Object {
    gateway_id: String,
    epoch: u64,
    first: u64,
    last: u64,
    lines: GzEncoder<Vec<u8>>,
    since: Instant,
}

impl Archive {
    pub(crate) fn new(
        formatter: Formatter,
        bucket: Bucket,
        every: Duration,
        transport: Arc<dyn Transport>,
        runtime: Handle,
    ) -> Self {
        Self { formatter, bucket, every, transport, runtime, open: None }
    }

    fn put(&mut self) -> Result<(), Trouble> {
        let Some(object) = self.open.take() else { return Ok(()) };
        let bytes = object.lines.finish().map_err(|error| Trouble::Away(error.to_string()))?;
        let key = format!(
            "{}/{:016x}/{:016x}-{:016x}.jsonl.gz",
            object.gateway_id, object.epoch, object.first, object.last
        );
        let object = s3::Object { key: &key, content_type: "application/gzip", bytes };
        let put = self.bucket.put(&*self.transport, object, SystemClock.now());
        self.runtime.block_on(put).map_err(|error| Trouble::Away(error.to_string()))
    }

    fn add(&mut self, entry: &Entry) -> Result<(), Trouble> {
        let (gateway_id, epoch, seq) = key_of(entry);
        // An object is of one epoch.
        if self.open.as_ref().is_some_and(|open| open.epoch != epoch) {
            self.put()?;
        }
        let object = self.open.get_or_insert_with(|| Object {
            gateway_id,
            epoch,
            first: seq,
            last: seq,
            lines: GzEncoder::new(Vec::new(), Compression::default()),
            since: Instant::now(),
        });
        object.last = object.last.max(seq);
        let mut line = Vec::new();
        self.formatter.line(entry, &mut line);
        object.lines.write_all(&line).map_err(|error| Trouble::Away(error.to_string()))
    }
}

impl Receiver for Archive {
    fn deliver(&mut self, entries: &[Entry]) -> Result<Taken, Trouble> {
        for entry in entries {
            self.add(entry)?;
        }
        let full = self.open.as_ref().is_some_and(|open| open.lines.get_ref().len() >= OBJECT_BYTES);
        if full {
            self.put()?;
            return Ok(Taken::All);
        }
        Ok(Taken::Held)
    }

    fn settle(&mut self, moment: Moment) -> Result<Taken, Trouble> {
        let due = match (&self.open, moment) {
            (None, _) => return Ok(Taken::All),
            (Some(_), Moment::SegmentEnd) => true,
            (Some(open), Moment::Idle) => open.since.elapsed() >= self.every,
            // What gathers is in the spool: the next start goes on with it.
            (Some(_), Moment::Stop) => false,
        };
        if !due {
            return Ok(Taken::Held);
        }
        self.put()?;
        Ok(Taken::All)
    }

    fn reset(&mut self) {
        self.open = None;
    }
}

fn key_of(entry: &Entry) -> (String, u64, u64) {
    match entry {
        Entry::Row(row) => {
            let number = |name: &str| row.get(name).and_then(Json::as_u64).unwrap_or_default();
            let gateway_id = row.get("gateway_id").and_then(Json::as_str).unwrap_or_default();
            (gateway_id.to_owned(), number("epoch"), number("seq"))
        }
        Entry::Gap(gap) => (gap.gateway_id.to_string(), gap.epoch, gap.seq),
    }
}
