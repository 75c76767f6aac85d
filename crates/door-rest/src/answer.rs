//! Stage four: the database's one row → an HTTP answer with PostgREST's statuses and headers.

use std::borrow::Cow;

use bytes::Bytes;
use doorward_core::Kind;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::codes;
use crate::problem::{Form, Problem};
use crate::request::prefer::Return;
use crate::request::{Operation, Request};
use crate::wire;

/// Room for the headers that most answers have, those of the front among them.
const HEADERS_ROOM: usize = 12;
const CONTENT_PROFILE: HeaderName = HeaderName::from_static("content-profile");

/// What the plan and the row say, in one place.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) void: bool,
    /// Whether the transaction could change something.
    pub(crate) changed: bool,
    pub(crate) total: Option<u64>,
    pub(crate) rows: u64,
    pub(crate) body: Option<Bytes>,
    pub(crate) headers: Option<Bytes>,
    pub(crate) status: Option<Bytes>,
    pub(crate) key: Option<Bytes>,
    /// The offset that the node had.
    pub(crate) offset: u64,
}

/// Builds the answer of a call.
pub(crate) fn answer(request: &Request, resource: &str, facts: Facts) -> Result<Response<Bytes>, Problem> {
    // A change of another number of rows than one has failed in the database already.
    if request.singular && facts.rows != 1 && !facts.void && !facts.changed {
        return Err(not_one_row(facts.rows));
    }
    let (status, range) = status_and_range(request, &facts)?;
    let mut headers = HeaderMap::with_capacity(HEADERS_ROOM);
    put(&mut headers, header::CONTENT_RANGE, &range);
    let has_body = facts.body.is_some() && !request.head;
    if has_body || (request.head && !facts.void) {
        let media = match request.singular {
            true => "application/vnd.pgrst.object+json; charset=utf-8",
            false => "application/json; charset=utf-8",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        put(&mut headers, CONTENT_PROFILE, &request.schema);
    }
    let writes = matches!(request.operation, Operation::Insert | Operation::Update | Operation::Delete);
    let applied = request.prefer.applied(writes);
    if !applied.is_empty() {
        put(&mut headers, HeaderName::from_static("preference-applied"), &applied);
    }
    if let Some(location) = facts.key.as_deref().and_then(|key| location(request, resource, key)) {
        put(&mut headers, header::LOCATION, &location);
    }
    let status = own_status(facts.status.as_deref())?.unwrap_or(status);
    own_headers(facts.headers.as_deref(), &mut headers)?;
    let mut response = Response::new(facts.body.filter(|_| has_body).unwrap_or_default());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Exactly one row was asked for.
pub(crate) fn not_one_row(rows: u64) -> Problem {
    let message = "Cannot coerce the result to a single JSON object";
    Problem::new(406, "PGRST116", codes::NOT_ONE_ROW, message)
        .details(format!("The result contains {rows} rows"))
        .hint("Filter for exactly one row, or accept an array.")
}

fn status_and_range(request: &Request, facts: &Facts) -> Result<(StatusCode, String), Problem> {
    let count = |empty: &str| match facts.total {
        Some(total) => format!("{empty}/{total}"),
        None => format!("{empty}/*"),
    };
    let representation = request.prefer.returns() == Return::Representation;
    Ok(match request.operation {
        Operation::Insert => (StatusCode::CREATED, count("*")),
        Operation::Delete if representation => (StatusCode::OK, count("*")),
        Operation::Delete => (StatusCode::NO_CONTENT, count("*")),
        Operation::Update => {
            let status = if representation { StatusCode::OK } else { StatusCode::NO_CONTENT };
            // How many rows a filter has found is for readers.
            let range = match facts.rows.checked_sub(1).filter(|_| request.answers_rows()) {
                Some(last) => format!("0-{last}"),
                None => "*".to_owned(),
            };
            (status, count(&range))
        }
        Operation::Call if facts.void => (StatusCode::NO_CONTENT, count("*")),
        Operation::Read | Operation::Call | Operation::Describe => (page_status(facts)?, page_range(facts)),
    })
}

/// 206 when there is more than the page, 416 when the page begins behind the end. Both can only be said
/// of rows that have been counted.
fn page_status(facts: &Facts) -> Result<StatusCode, Problem> {
    match facts.total {
        Some(total) if facts.offset > total => {
            Err(Problem::new(416, "PGRST103", codes::OUT_OF_RANGE, "Requested range not satisfiable")
                .details(format!(
                    "An offset of {} was requested, but there are only {total} rows.",
                    facts.offset
                ))
                .hint("Ask for a smaller offset."))
        }
        Some(total) if facts.rows < total => Ok(StatusCode::PARTIAL_CONTENT),
        _ => Ok(StatusCode::OK),
    }
}

fn page_range(facts: &Facts) -> String {
    let total = facts.total.map_or(Cow::Borrowed("*"), |total| total.to_string().into());
    match facts.rows.checked_sub(1) {
        Some(last) if facts.total != Some(0) => {
            let last = facts.offset.saturating_add(last);
            [&facts.offset.to_string(), "-", &last.to_string(), "/", &total].concat()
        }
        _ => ["*/", &total].concat(),
    }
}

/// What `encodeURIComponent` leaves as it is.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn location(request: &Request, resource: &str, key: &[u8]) -> Option<String> {
    let columns = wire::read_key(key)?;
    let terms: Vec<String> = columns
        .iter()
        .map(|(name, value)| {
            let name = utf8_percent_encode(name, COMPONENT);
            match value {
                Some(value) => format!("{name}=eq.{}", utf8_percent_encode(value, COMPONENT)),
                None => format!("{name}=is.null"),
            }
        })
        .collect();
    let table = utf8_percent_encode(request.target.name(), COMPONENT);
    Some(format!("/{resource}/{table}?{}", terms.join("&")))
}

fn own_status(setting: Option<&[u8]>) -> Result<Option<StatusCode>, Problem> {
    let Some(setting) = setting else { return Ok(None) };
    let status = std::str::from_utf8(setting).ok().and_then(|text| text.parse::<u16>().ok());
    match status.filter(|status| (200..600).contains(status)).and_then(|s| StatusCode::from_u16(s).ok()) {
        Some(status) => Ok(Some(status)),
        None => Err(Problem::new(
            500,
            "PGRST112",
            codes::RESPONSE_SETTING,
            "response.status guc must be a valid status code",
        )
        .hint("The database function that sets it must set a number from 200 to 599.")),
    }
}

/// Headers that frame the message or belong to the gateway: a function cannot set them.
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "keep-alive",
    "upgrade",
    "te",
    "trailer",
    "proxy-authenticate",
    "server-timing",
];

fn own_headers(setting: Option<&[u8]>, headers: &mut HeaderMap) -> Result<(), Problem> {
    let Some(setting) = setting else { return Ok(()) };
    let refused = || {
        let message = "response.headers guc must be a JSON array composed of objects with a single key and a string value";
        Problem::new(500, "PGRST111", codes::RESPONSE_SETTING, message)
            .hint("The database function that sets it must name headers that are not the gateway's own.")
    };
    // A header that is named several times has several values; one that the door set is replaced.
    let mut replaced: Vec<HeaderName> = Vec::new();
    for (name, value) in wire::read_headers(setting).ok_or_else(refused)? {
        let name: HeaderName = name.parse().map_err(|_| refused())?;
        let value: HeaderValue = value.parse().map_err(|_| refused())?;
        if FRAMING.contains(&name.as_str()) {
            return Err(refused());
        }
        if replaced.contains(&name) {
            headers.append(name, value);
        } else {
            headers.insert(name.clone(), value);
            replaced.push(name);
        }
    }
    Ok(())
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // A schema's name may hold what a header cannot; then the header is left out.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The refusal in PostgREST's form, with Doorward's code and the call's id beside it.
pub(crate) fn refusal(form: &Form, refusal: &doorward_core::Refusal<'_>) -> Response<Bytes> {
    let (fault, access_id) = (refusal.fault, refusal.access_id.to_string());
    let body = wire::ErrorBody {
        code: &form.code,
        details: form.details.as_deref(),
        hint: form.hint.as_deref().or_else(|| fault.hint_text()),
        message: form.message.as_deref().unwrap_or_else(|| fault.public()),
        fault: fault.code().name,
        access_id: &access_id,
    };
    let mut response = Response::new(Bytes::from(body.to_json()));
    *response.status_mut() = StatusCode::from_u16(form.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    put(headers, header::CONTENT_TYPE, "application/json; charset=utf-8");
    put(headers, HeaderName::from_static("proxy-status"), &format!("doorward; error={}", form.code));
    if form.status == 401 && fault.code().kind != Kind::Unauthenticated {
        // The database asks for somebody: a refused right of a caller who showed nothing.
        put(headers, header::WWW_AUTHENTICATE, "Bearer");
    }
    response
}
