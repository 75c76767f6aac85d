//! The intake: maps pieces, hands records to the recorder, and counts what became of each.
//!
//! Invariants: what is counted as accepted, as a duplicate or as rejected is durable; the number of records
//! on their way to the disk is bounded; a rejected piece is kept as a record of its own, with the reason and
//! its redacted text (a dead letter).

use std::collections::{BTreeMap, VecDeque};

use aws_lc_rs::digest::{Context, SHA256};
use doorward_core::{
    AccessId, Claimed, ClaimedFault, ClaimedText, Durable, Import, ImportTally, Importer, NotDurable,
    Outcome, Timestamp,
};
use serde_json::Value;
use uuid::Uuid;

use crate::codes;
use crate::mapping::Rejection;
use crate::read::split::{EVIDENCE_BYTES_MAX, Flaw, Piece};
use crate::resource::{FIELD_NAME_BYTES_MAX, IngestResource};

/// Records on their way to the disk.
const IN_FLIGHT_MAX: usize = 1_024;
/// Rejections that the answer tells one by one.
const REJECTIONS_TOLD_MAX: usize = 100;
/// Unknown fields that the answer tells by name.
const FIELDS_TOLD_MAX: usize = 64;

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) accepted: u64,
    pub(crate) duplicates: u64,
    pub(crate) rejected: u64,
    /// Rejected, because they are no JSON objects at all.
    pub(crate) unreadable: u64,
    pub(crate) rejections: Vec<Told>,
    pub(crate) unknown: BTreeMap<Box<str>, u64>,
    /// Unknown fields that are not told by name.
    pub(crate) unknown_others: u64,
}

/// One rejection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) line: u64,
    pub(crate) code: &'static str,
    pub(crate) reason: String,
}

/// How a record on its way is counted when it is durable.
enum Fate {
    Accepted,
    Duplicate,
    Rejected(Box<Told>, bool),
}

/// Takes in one batch.
pub(crate) struct Intake<'p> {
    resource: &'p IngestResource,
    importer: Importer<'p>,
    now: Timestamp,
    /// The request's own idempotency key.
    batch_key: Option<String>,
    /// Which record of the batch is next, for those without a key of their own.
    ordinal: u64,
    flying: VecDeque<(Fate, Durable)>,
    report: Report,
}

impl<'p> Intake<'p> {
    pub(crate) fn new(
        resource: &'p IngestResource,
        importer: Importer<'p>,
        now: Timestamp,
        batch_key: Option<String>,
    ) -> Self {
        Self {
            resource,
            importer,
            now,
            batch_key,
            ordinal: 0,
            flying: VecDeque::new(),
            report: Report::default(),
        }
    }

    /// Takes in a piece of a stream.
    pub(crate) async fn piece(&mut self, piece: Piece) -> Result<(), NotDurable> {
        let Piece { number, bytes, flaw } = piece;
        let flawed = flaw.map(|flaw| match flaw {
            Flaw::TooLong => Rejection::new(codes::RECORD_BOUND, "the record is larger than `line_size_max`"),
            Flaw::TooDeep => Rejection::new(codes::RECORD_BOUND, "the record is nested too deep"),
            Flaw::Cut => Rejection::new(codes::RECORD_FORM, "the record is cut short"),
            Flaw::Stray => Rejection::new(codes::RECORD_FORM, "a bracket closes nothing"),
        });
        let document = match flawed {
            Some(rejection) => Err(rejection),
            None => serde_json::from_slice::<Value>(&bytes).map_err(|error| {
                let column = error.column();
                Rejection::new(codes::RECORD_FORM, format!("the record is not JSON (at column {column})"))
            }),
        };
        match document {
            Ok(document) => self.documents(number, document, &bytes).await,
            Err(rejection) => self.reject(number, rejection, None, &bytes).await,
        }
    }

    /// Takes in a record, or the records in a wrapper `{"records": […]}`.
    async fn documents(&mut self, number: u64, document: Value, raw: &[u8]) -> Result<(), NotDurable> {
        match wrapped(document) {
            Ok(records) => {
                for record in records {
                    let raw = record.to_string();
                    self.document(number, &record, raw.as_bytes()).await?;
                }
                Ok(())
            }
            Err(document) => self.document(number, &document, raw).await,
        }
    }

    /// Takes in one record; `raw` is what a repeat of it has too.
    pub(crate) async fn document(
        &mut self,
        number: u64,
        document: &Value,
        raw: &[u8],
    ) -> Result<(), NotDurable> {
        if raw.len() > self.resource.line_bytes_max {
            let rejection = Rejection::new(codes::RECORD_BOUND, "the record is larger than `line_size_max`");
            return self.reject(number, rejection, None, raw).await;
        }
        let mapped = match self.resource.mapping.map(document, self.now) {
            Ok(mapped) => mapped,
            Err(rejection) => return self.reject(number, rejection, Some(document), raw).await,
        };
        for field in &mapped.unknown {
            self.count_unknown(field);
        }
        let of_batch = self.next_key();
        let key = mapped.key.or(of_batch);
        let id = key.map(|key| self.id(&key, raw));
        self.import(Claimed { id, ..mapped.claimed }, Fate::Accepted).await
    }

    /// Keeps what cannot be read as a record: a record of its own, with the reason and the redacted text.
    pub(crate) async fn reject(
        &mut self,
        number: u64,
        rejection: Rejection,
        document: Option<&Value>,
        raw: &[u8],
    ) -> Result<(), NotDurable> {
        let Rejection { code, reason } = rejection;
        let text = match document {
            Some(document) if raw.len() <= EVIDENCE_BYTES_MAX => ClaimedText::Json(document.clone()),
            _ => {
                let evidence = raw.get(..EVIDENCE_BYTES_MAX).unwrap_or(raw);
                ClaimedText::Raw(String::from_utf8_lossy(evidence).into_owned())
            }
        };
        let mut letter = Claimed::new(self.now, Outcome::Failed);
        // The same dead letter twice in one batch is two; the same batch twice is one.
        letter.id = self.next_key().map(|key| self.id(&key, raw));
        letter.fault = Some(ClaimedFault { code, text: reason.as_str().into() });
        letter.operation = Some(text);
        letter.ext.insert("line".to_owned(), Value::from(number));
        let unreadable = code.name == codes::RECORD_FORM.name;
        let told = Told { line: number, code: code.name, reason };
        self.import(letter, Fate::Rejected(Box::new(told), unreadable)).await
    }

    async fn import(&mut self, claimed: Claimed, fate: Fate) -> Result<(), NotDurable> {
        match self.importer.import(claimed) {
            Import::Taken(durable) => self.flying.push_back((fate, durable)),
            Import::Repeated(durable) => self.flying.push_back((Fate::Duplicate, durable)),
            Import::NoRoom => return Err(NotDurable),
        }
        if self.flying.len() >= IN_FLIGHT_MAX { self.land().await } else { Ok(()) }
    }

    /// Waits for all that is on its way.
    pub(crate) async fn land(&mut self) -> Result<(), NotDurable> {
        while let Some((fate, durable)) = self.flying.pop_front() {
            durable.await?;
            match fate {
                Fate::Accepted => self.report.accepted += 1,
                Fate::Duplicate => self.report.duplicates += 1,
                Fate::Rejected(told, unreadable) => {
                    self.report.rejected += 1;
                    self.report.unreadable += u64::from(unreadable);
                    if self.report.rejections.len() < REJECTIONS_TOLD_MAX {
                        self.report.rejections.push(*told);
                    }
                }
            }
        }
        Ok(())
    }

    /// What became of the batch so far, told to metrics too.
    pub(crate) fn finish(self) -> Report {
        let report = self.report;
        self.importer.tell(&ImportTally {
            accepted: report.accepted,
            duplicates: report.duplicates,
            rejected: report.rejected,
            unknown_fields: report.unknown.values().sum::<u64>().saturating_add(report.unknown_others),
        });
        report
    }

    /// The key of the next record by its place in a batch that has a key.
    fn next_key(&mut self) -> Option<String> {
        self.ordinal += 1;
        self.batch_key.as_ref().map(|batch| format!("{batch}\0{}", self.ordinal))
    }

    fn count_unknown(&mut self, field: &str) {
        let field = field.get(..field.floor_char_boundary(FIELD_NAME_BYTES_MAX)).unwrap_or_default();
        if let Some(count) = self.report.unknown.get_mut(field) {
            *count += 1;
        } else if self.report.unknown.len() < FIELDS_TOLD_MAX {
            self.report.unknown.insert(field.into(), 1);
        } else {
            self.report.unknown_others += 1;
        }
        self.resource.tell_unknown(field);
    }

    /// A repeat has the same source, the same key and the same content. A record that reuses another's key
    /// for another content is another record, so nobody hides a call behind the key of an earlier one.
    fn id(&self, key: &str, raw: &[u8]) -> AccessId {
        let mut context = Context::new(&SHA256);
        for part in [b"doorward import", self.importer.source().as_str().as_bytes(), key.as_bytes(), raw] {
            let length = u64::try_from(part.len()).unwrap_or(u64::MAX);
            context.update(&length.to_le_bytes());
            context.update(part);
        }
        let digest = context.finish();
        let bytes = digest.as_ref().first_chunk::<16>().copied().unwrap_or_default();
        AccessId::from(Uuid::new_v8(bytes))
    }
}

/// The records in a wrapper that has nothing but them; otherwise the record itself.
fn wrapped(document: Value) -> Result<Vec<Value>, Value> {
    match document {
        Value::Object(mut members)
            if members.len() == 1 && members.get("records").is_some_and(Value::is_array) =>
        {
            match members.remove("records") {
                Some(Value::Array(records)) => Ok(records),
                _ => Err(Value::Object(members)),
            }
        }
        document => Err(document),
    }
}
