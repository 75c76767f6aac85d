//! One call of the ingest door on the main road.
//!
//! | request | action |
//! |---|---|
//! | `POST /NAME/records` | `write NAME/records` |
//! | `POST /NAME/v1/logs` | `write NAME/records` |
//!
//! The body is read behind the decision and behind the intent: nobody without the right fills the gateway's
//! memory, and a crash in the middle of a batch leaves a record of the request. While the spool is crowded,
//! bodies are not read at all.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward_core::{
    Access, Action, Actions, Call, Caller, Completion, Fault, NotDurable, Object, Pass, Principal, RECORDS,
    Refusal, Resource, Shaped, Timestamp, Verb,
};
use doorward_http::{
    Body, Inbound, RequestBody, dress_answer, dress_refusal, full, problem_with_status, read_body,
};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;

use crate::intake::{Intake, Report};
use crate::otlp::{self, Encoding};
use crate::read::gzip::{Gunzip, GzipError};
use crate::read::split::{Form, Splitter};
use crate::resource::IngestResource;
use crate::{answer, codes};

/// How long a batch may take to come in, however steadily it drips.
const BATCH_SPAN_MAX: Duration = Duration::from_secs(300);
/// When somebody who was turned away may come again.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 255;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Records(Form),
    Logs(Encoding),
}

/// A call of the ingest door.
pub(crate) struct IngestCall<'a> {
    resource: &'a Resource,
    inbound: Inbound,
    now: Timestamp,
    wanted: Option<Wanted>,
    batch_key: Option<String>,
    gzip: bool,
}

impl<'a> IngestCall<'a> {
    /// A call that has come in for a resource of this door.
    pub(crate) fn new(resource: &'a Resource, inbound: Inbound, now: Timestamp) -> Self {
        Self { resource, inbound, now, wanted: None, batch_key: None, gzip: false }
    }

    /// The form of answers, also of those to requests that could not be read.
    fn logs_encoding(&self) -> Option<Encoding> {
        let is_json = media_type(self.inbound.request.headers()) == "application/json";
        let encoding = if is_json { Encoding::Json } else { Encoding::Protobuf };
        (self.inbound.tail() == "v1/logs").then_some(encoding)
    }

    fn read_head(&mut self) -> Result<(), Fault> {
        let request = &self.inbound.request;
        if request.method() != Method::POST {
            return Err(Fault::new(codes::METHOD, "records are brought by POST")
                .hint("POST them to /NAME/records, or OTLP logs to /NAME/v1/logs."));
        }
        let headers = request.headers();
        self.wanted = Some(wanted(self.inbound.tail(), &media_type(headers))?);
        self.gzip = match header(headers, CONTENT_ENCODING.as_str()) {
            None | Some("identity") => false,
            Some(encoding) if encoding.eq_ignore_ascii_case("gzip") => true,
            Some(_) => {
                return Err(Fault::new(codes::MEDIA_TYPE, "the body's encoding is not read")
                    .hint("Send it as it is, or with Content-Encoding: gzip."));
            }
        };
        self.batch_key = batch_key(headers)?;
        Ok(())
    }

    async fn take_in(&mut self, pass: &mut Pass) -> Result<Report, Fault> {
        let resource = backend(self.resource)?;
        let importer = pass.importer().ok_or_else(foreign)?;
        if importer.is_crowded() {
            return Err(Fault::new(
                codes::BUSY,
                "the gateway has more records than it can store at the moment",
            )
            .hint("Send the same again later.")
            .retry_after(BUSY_RETRY_AFTER));
        }
        let length = header(self.inbound.request.headers(), CONTENT_LENGTH.as_str());
        if length
            .and_then(|length| length.parse().ok())
            .is_some_and(|length: u64| length > resource.batch_bytes_max)
        {
            return Err(too_large(resource.batch_bytes_max));
        }
        let mut intake = Intake::new(resource, importer, self.now, self.batch_key.take());
        let body = self.inbound.request.body_mut();
        let read = match self.wanted {
            Some(Wanted::Records(form)) => {
                let work = stream(body, form, self.gzip, resource, &mut intake);
                tokio::time::timeout(BATCH_SPAN_MAX, work).await.unwrap_or_else(|_| Err(too_slow()))
            }
            Some(Wanted::Logs(encoding)) => logs(body, encoding, self.gzip, resource, &mut intake).await,
            None => Err(foreign()),
        };
        // What came in before the stream broke is on its way; the caller hears of it.
        let landed = intake.land().await.map_err(|NotDurable| not_durable());
        let report = intake.finish();
        match read.and(landed) {
            // An exporter hears of each rejected record by a partial success.
            Ok(()) if matches!(self.wanted, Some(Wanted::Logs(_))) => Ok(report),
            Ok(()) => readable(report),
            Err(fault) => Err(with_count(fault, &report)),
        }
    }
}

impl Call for IngestCall<'_> {
    type Answer = Response<Body>;
    type Reply = Report;

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.inbound.credentials)
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        let name = &self.resource.name;
        let template = match self.inbound.tail() {
            "records" => "records",
            "v1/logs" => "v1/logs",
            _ => "{path}",
        };
        let method = if *self.inbound.request.method() == Method::POST { "POST" } else { "OTHER" };
        access.note_endpoint(format!("{method} /{name}/{template}"));
        self.read_head()?;
        Ok(action(self.resource))
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<Report, Fault> {
        let report = self.take_in(pass).await;
        let bytes = self.inbound.request.body().bytes_seen();
        pass.access().count_in(bytes);
        report
    }

    fn shape(&mut self, report: Report, pass: &mut Pass) -> Result<Shaped<Response<Body>>, Fault> {
        let mut response = match self.wanted {
            Some(Wanted::Logs(encoding)) => answer::logs(encoding, &report),
            Some(Wanted::Records(_)) | None => answer::records(&report),
        };
        note(pass.access(), &report);
        dress_answer(response.headers_mut(), pass);
        let completion = completion(&response, Some(report.accepted));
        Ok(Shaped::Whole(response.map(full), completion))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Response<Body>, Completion) {
        let Some(encoding) = self.logs_encoding() else {
            let (mut response, completion) =
                problem_with_status(refusal, answer::status(refusal.fault.code()));
            answer::put_hints(&mut response);
            return (response, completion);
        };
        let mut response = answer::logs_refusal(encoding, refusal.fault);
        answer::put_hints(&mut response);
        dress_refusal(response.headers_mut(), refusal);
        let completion = completion(&response, None);
        (response.map(full), completion)
    }
}

/// The action that every request of this door needs.
pub(crate) fn action(resource: &Resource) -> Actions {
    let object = Object::from_segments([RECORDS]);
    Actions::one(Action { verb: Verb::Write, resource: resource.name.clone(), object })
}

/// Keeps in the request's own record what became of its batch.
pub(crate) fn note(access: &mut Access, report: &Report) {
    for (name, count) in
        [("accepted", report.accepted), ("duplicates", report.duplicates), ("rejected", report.rejected)]
    {
        access.note(name, count);
    }
}

/// The door's own form of a resource.
pub(crate) fn backend(resource: &Resource) -> Result<&IngestResource, Fault> {
    resource.backend::<IngestResource>().ok_or_else(foreign)
}

/// Reads a stream of records.
async fn stream(
    body: &mut RequestBody,
    form: Form,
    gzip: bool,
    resource: &IngestResource,
    intake: &mut Intake<'_>,
) -> Result<(), Fault> {
    let mut splitter = Splitter::new(form, resource.line_bytes_max);
    let mut gunzip = gzip.then(|| Gunzip::new(resource.batch_bytes_max));
    while let Some(frame) = body.frame().await {
        // Trailers are read off the wire and dropped: nothing decides on them.
        let Ok(data) = frame?.into_data() else { continue };
        if body.bytes_seen() > resource.batch_bytes_max {
            return Err(too_large(resource.batch_bytes_max));
        }
        match &mut gunzip {
            None => feed(&mut splitter, &data, intake).await?,
            Some(gunzip) => {
                for step in Gunzip::steps(&data) {
                    let plain =
                        gunzip.expand(step).map_err(|error| unzipped(error, resource.batch_bytes_max))?;
                    feed(&mut splitter, &plain, intake).await?;
                }
            }
        }
    }
    if let Some(gunzip) = gunzip {
        let plain = gunzip.finish().map_err(|error| unzipped(error, resource.batch_bytes_max))?;
        feed(&mut splitter, &plain, intake).await?;
    }
    match splitter.finish() {
        Some(piece) => intake.piece(piece).await.map_err(|NotDurable| not_durable()),
        None => Ok(()),
    }
}

async fn feed(splitter: &mut Splitter, mut bytes: &[u8], intake: &mut Intake<'_>) -> Result<(), Fault> {
    while let Some(piece) = splitter.next(&mut bytes) {
        intake.piece(piece).await.map_err(|NotDurable| not_durable())?;
    }
    Ok(())
}

/// Reads an OTLP request.
async fn logs(
    body: &mut RequestBody,
    encoding: Encoding,
    gzip: bool,
    resource: &IngestResource,
    intake: &mut Intake<'_>,
) -> Result<(), Fault> {
    let bytes_max = resource.batch_bytes_max.min(otlp::REQUEST_BYTES_MAX);
    let Ok(_held) = resource.requests.try_acquire() else {
        return Err(Fault::new(codes::BUSY, "too many OTLP requests are being read")
            .hint("Send the same again later.")
            .retry_after(Duration::from_secs(1)));
    };
    let bytes = read_body(body, bytes_max).await?;
    // A request takes milliseconds to read: that is not for the runtime's own threads.
    let read = tokio::task::spawn_blocking(move || {
        let plain = if gzip { gunzip_whole(&bytes, bytes_max)? } else { bytes };
        Ok(otlp::read(encoding, &plain))
    });
    let read = read.await.map_err(|error| not_durable().cause(error))?;
    let records = read
        .map_err(|error| unzipped(error, resource.batch_bytes_max))?
        .map_err(|why| Fault::new(codes::UNREADABLE, format!("the OTLP request cannot be read: {why}")))?;
    for (number, record) in (1..).zip(records) {
        let raw = otlp::identity(&record);
        let taken = intake.document(number, &record, raw.as_bytes()).await;
        taken.map_err(|NotDurable| not_durable())?;
    }
    Ok(())
}

fn gunzip_whole(bytes: &[u8], bytes_max: u64) -> Result<Bytes, GzipError> {
    let mut gunzip = Gunzip::new(bytes_max);
    let mut plain = Vec::new();
    for step in Gunzip::steps(bytes) {
        plain.extend(gunzip.expand(step)?);
    }
    plain.extend(gunzip.finish()?);
    Ok(plain.into())
}

fn wanted(tail: &str, media_type: &str) -> Result<Wanted, Fault> {
    let unread = |expected: &'static str| {
        Err(Fault::new(codes::MEDIA_TYPE, "the body's media type is not read").hint(expected))
    };
    match (tail, media_type) {
        ("records", "application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            Ok(Wanted::Records(Form::Lines))
        }
        ("records", "application/json") => Ok(Wanted::Records(Form::Json)),
        ("records", _) => unread("Send JSON lines as application/x-ndjson, or JSON as application/json."),
        ("v1/logs", "application/json") => Ok(Wanted::Logs(Encoding::Json)),
        ("v1/logs", "application/x-protobuf") => Ok(Wanted::Logs(Encoding::Protobuf)),
        ("v1/logs", _) => unread("Send OTLP as application/x-protobuf or application/json."),
        _ => Err(Fault::new(codes::PATH, "there is nothing here")
            .hint("POST records to /NAME/records, or OTLP logs to /NAME/v1/logs.")),
    }
}

fn media_type(headers: &HeaderMap) -> String {
    let value = header(headers, CONTENT_TYPE.as_str()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).map(|value| value.to_str().unwrap_or("?"))
}

/// `Idempotency-Key`: a quoted string of structured fields, or the bare text that most clients send.
fn batch_key(headers: &HeaderMap) -> Result<Option<String>, Fault> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
    if values.next().is_some() || text.is_empty() || text.len() > KEY_BYTES_MAX || !plain {
        return Err(Fault::new(codes::KEY, "Idempotency-Key is one text of 1 to 255 visible characters")
            .hint("Send a UUID for each batch, and the same one when you send the batch again."));
    }
    Ok(Some(text.to_owned()))
}

/// A batch of which nothing at all can be read is refused; what stood in it is kept all the same.
fn readable(report: Report) -> Result<Report, Fault> {
    let good = report.accepted + report.duplicates + (report.rejected - report.unreadable);
    if good > 0 {
        return Ok(report);
    }
    let first = report.rejections.first().map_or_else(
        || "the body is empty".to_owned(),
        |told| format!("none of {} records can be read; at {}: {}", report.rejected, told.line, told.reason),
    );
    Err(Fault::new(codes::UNREADABLE, first).hint("Send one JSON object a record."))
}

fn with_count(fault: Fault, report: &Report) -> Fault {
    let Report { accepted, duplicates, rejected, .. } = report;
    if accepted + duplicates + rejected == 0 {
        return fault;
    }
    let text = format!(
        "{}; before that {accepted} records were accepted, {duplicates} were known and {rejected} rejected",
        fault.public()
    );
    let again = Fault::new(fault.code(), text)
        .hint("Send the batch again: with idempotency keys nothing is stored twice.");
    match fault.retry_after_span() {
        Some(wait) => again.retry_after(wait),
        None => again,
    }
}

fn completion(response: &Response<Bytes>, rows: Option<u64>) -> Completion {
    let bytes_out = u64::try_from(response.body().len()).unwrap_or(u64::MAX);
    Completion { status: Some(response.status().as_u16()), rows, bytes_out }
}

fn unzipped(error: GzipError, bytes_max: u64) -> Fault {
    match error {
        GzipError::Broken => Fault::new(codes::GZIP, "the body is not whole gzip, as its encoding says"),
        GzipError::TooLarge => too_large(bytes_max),
    }
}

fn too_large(bytes_max: u64) -> Fault {
    Fault::new(codes::BATCH_TOO_LARGE, format!("the batch is larger than {bytes_max} bytes"))
        .hint("Send smaller batches, or ask the gateway's operator for a larger `batch_size_max`.")
}

fn too_slow() -> Fault {
    Fault::new(codes::BATCH_TOO_SLOW, "the batch did not come in within 5 minutes")
        .hint("Send smaller batches.")
}

pub(crate) fn not_durable() -> Fault {
    Fault::new(codes::NOT_DURABLE, "records could not be made durable")
        .hint("Send the same again later.")
        .retry_after(BUSY_RETRY_AFTER)
}

fn foreign() -> Fault {
    Fault::new(codes::RESOURCE, "the resource takes no records")
        .hint("Tell the gateway's operator the access id.")
}
