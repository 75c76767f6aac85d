//! Adds up the records of a batch.
//!
//! Constraints: this runs on the shipper's thread for every record, and costs about a microsecond; keys borrow
//! from the records, and only distinct ones are copied.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use doorward_core::{Outcome, Side};
use uuid::Uuid;

use super::sketch::Sketch;
use super::tables::{Level, TABLES};
use super::{Cell, DIMENSION_MAX, KEYS_MAX, MINUTES_MAX, OTHER, Rollups, Row};
use crate::columns::CALL_COLUMNS;
use crate::row::Value;
use crate::wire::Access;

/// Adds up batches, and remembers which combinations of dimensions a minute has taken.
#[derive(Debug, Default)]
pub struct Aggregator {
    hasher: RandomState,
    minutes: BTreeMap<i64, [HashSet<u64>; TABLES.len()]>,
}

impl Aggregator {
    /// Adds up the records of one batch.
    pub fn add_up<'r, 'a: 'r>(&mut self, records: impl Iterator<Item = &'r Access<'a>>) -> Rollups {
        let mut traffic: Group<'r, 12, Traffic> = Group::new(0);
        let mut principals: Group<'r, 6, Usage> = Group::new(1);
        let mut tasks: Group<'r, 5, Usage> = Group::new(2);
        for access in records {
            let call = Call::of(access);
            if let Some(sums) = traffic.at(call.traffic_key(), self) {
                sums.add(&call);
            }
            if let Some(sums) = principals.at(call.principal_key(), self) {
                sums.add(&call);
            }
            if !call.text(PLACES.dag_id).is_empty()
                && let Some(sums) = tasks.at(call.task_key(), self)
            {
                sums.add(&call);
            }
        }
        [
            traffic.rows(|number| Some(Cell::Int(number as i64)), Traffic::cells),
            principals.rows(|number| Some(Cell::Text(subject(number))), Usage::principal_cells),
            tasks.rows(|_| None, Usage::task_cells),
        ]
    }

    /// Whether a minute has room for a combination.
    fn admits(&mut self, table: usize, minute_us: i64, key: &[u8]) -> bool {
        let hash = self.hasher.hash_one(key);
        let tables = self.minutes.entry(minute_us).or_default();
        let admitted = tables
            .get_mut(table)
            .is_some_and(|seen| seen.contains(&hash) || (seen.len() < KEYS_MAX && seen.insert(hash)));
        if self.minutes.len() > MINUTES_MAX {
            self.minutes.pop_first();
        }
        admitted
    }
}

/// What a row is kept by: its minute, its texts, and one number that is no text (a status, a subject's id).
#[derive(Clone, Copy)]
struct Key<'r, const N: usize> {
    minute_us: i64,
    texts: [&'r str; N],
    number: u128,
    /// Which texts become [`OTHER`] when there is no room.
    open: [bool; N],
}

/// The number of what has no room; no status and no random id is as large.
const OTHER_NUMBER: u128 = u128::MAX;

impl<const N: usize> Key<'_, N> {
    /// Writes it as bytes, which are alike when all of it is.
    fn spell(&self, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.minute_us.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        for text in self.texts {
            // A frame's texts are far shorter than what a length can say.
            out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
    }

    fn other(mut self) -> Self {
        for (text, open) in self.texts.iter_mut().zip(self.open) {
            if open {
                *text = OTHER;
            }
        }
        self.number = OTHER_NUMBER;
        self
    }
}

/// The sums of one table.
struct Group<'r, const N: usize, S> {
    table: usize,
    /// Where each key's sums are, by the key's spelling: one run of bytes is hashed and compared faster than many
    /// texts one by one.
    places: HashMap<Box<[u8]>, usize>,
    sums: Vec<(Key<'r, N>, S)>,
    spelling: Vec<u8>,
}

impl<'r, const N: usize, S: Default> Group<'r, N, S> {
    fn new(table: usize) -> Self {
        Self { table, places: HashMap::new(), sums: Vec::new(), spelling: Vec::new() }
    }

    fn at(&mut self, key: Key<'r, N>, aggregator: &mut Aggregator) -> Option<&mut S> {
        key.spell(&mut self.spelling);
        let place = match self.places.get(&*self.spelling) {
            Some(place) => *place,
            None => {
                let admitted = aggregator.admits(self.table, key.minute_us, &self.spelling);
                self.place_of(if admitted { key } else { key.other() })
            }
        };
        self.sums.get_mut(place).map(|(_, sums)| sums)
    }

    fn place_of(&mut self, key: Key<'r, N>) -> usize {
        key.spell(&mut self.spelling);
        *self.places.entry(self.spelling.as_slice().into()).or_insert_with(|| {
            self.sums.push((key, S::default()));
            self.sums.len() - 1
        })
    }

    fn rows(self, last: impl Fn(u128) -> Option<Cell>, cells: impl Fn(&S) -> Vec<Cell>) -> Vec<Row> {
        let row = |(key, sums): &(Key<'r, N>, S)| {
            let texts = key.texts.iter().map(|text| Cell::Text(dimension(text)));
            let cells = texts.chain(last(key.number)).chain(cells(sums)).collect();
            Row { bucket_us: key.minute_us, cells }
        };
        self.sums.iter().map(row).collect()
    }
}

/// A text as stores take it: bounded, and without the NUL that PostgreSQL refuses.
fn dimension(text: &str) -> String {
    text.get(..text.floor_char_boundary(DIMENSION_MAX)).unwrap_or(text).replace('\0', "\u{fffd}")
}

fn subject(number: u128) -> String {
    match number {
        0 => String::new(),
        OTHER_NUMBER => OTHER.to_owned(),
        id => Uuid::from_u128(id).to_string(),
    }
}

/// Where the values that count are among a call's.
struct Places {
    ts: usize,
    environment: usize,
    source: usize,
    door: usize,
    endpoint: usize,
    api_version: usize,
    config_digest: usize,
    outcome: usize,
    fault_code: usize,
    fault_side: usize,
    status: usize,
    grant: usize,
    principal_kind: usize,
    client_id: usize,
    subject_id: usize,
    dag_id: usize,
    task_id: usize,
    try_number: usize,
    rows: usize,
    bytes_in: usize,
    bytes_out: usize,
    duration_us: usize,
    forward_us: usize,
    cache_status: usize,
    limit_remaining: usize,
}

static PLACES: LazyLock<Places> = LazyLock::new(|| {
    // A name that is no column is found nowhere; a test looks for each.
    let place =
        |wanted: &str| CALL_COLUMNS.iter().position(|(name, _)| *name == wanted).unwrap_or(usize::MAX);
    Places {
        ts: place("ts"),
        environment: place("environment"),
        source: place("source"),
        door: place("door"),
        endpoint: place("endpoint"),
        api_version: place("api_version"),
        config_digest: place("config_digest"),
        outcome: place("outcome"),
        fault_code: place("fault_code"),
        fault_side: place("fault_side"),
        status: place("status"),
        grant: place("grant"),
        principal_kind: place("principal_kind"),
        client_id: place("client_id"),
        subject_id: place("subject_id"),
        dag_id: place("dag_id"),
        task_id: place("task_id"),
        try_number: place("try_number"),
        rows: place("rows"),
        bytes_in: place("bytes_in"),
        bytes_out: place("bytes_out"),
        duration_us: place("duration_us"),
        forward_us: place("forward_us"),
        cache_status: place("cache_status"),
        limit_remaining: place("limit_remaining"),
    }
});

/// One call, as its values tell of it.
struct Call<'r, 'a> {
    access: &'r Access<'a>,
    minute_us: i64,
    outcome: &'r str,
    kind: &'static str,
    cause: &'static str,
}

impl<'r, 'a> Call<'r, 'a> {
    fn of(access: &'r Access<'a>) -> Self {
        let mut call = Self { access, minute_us: 0, outcome: "", kind: "", cause: "" };
        let minute = Level::Minute.micros();
        call.minute_us = call.int(PLACES.ts).unwrap_or(0).div_euclid(minute).saturating_mul(minute);
        call.outcome = call.text(PLACES.outcome);
        let status = call.int(PLACES.status);
        (call.kind, call.cause) =
            cause(call.outcome, call.text(PLACES.fault_code), call.text(PLACES.fault_side), status);
        call
    }

    fn text(&self, place: usize) -> &'r str {
        match self.access.values.get(place) {
            Some(Value::Text(text)) => text,
            Some(_) | None => "",
        }
    }

    fn int(&self, place: usize) -> Option<i64> {
        match self.access.values.get(place) {
            Some(Value::Int(number)) => Some(*number),
            Some(_) | None => None,
        }
    }

    fn sum(&self, place: usize) -> i64 {
        self.int(place).unwrap_or(0).max(0)
    }

    /// The call's first action: verb and resource.
    fn action(&self) -> (&'r str, &'r str) {
        self.access.actions.first().map_or(("", ""), |action| (&*action.verb, &*action.resource))
    }

    fn traffic_key(&self) -> Key<'r, 12> {
        let at = &*PLACES;
        let (verb, resource) = self.action();
        Key {
            minute_us: self.minute_us,
            texts: [
                self.text(at.environment),
                self.text(at.source),
                self.text(at.door),
                resource,
                verb,
                self.text(at.endpoint),
                self.text(at.api_version),
                self.text(at.config_digest),
                self.outcome,
                self.kind,
                self.cause,
                self.text(at.fault_code),
            ],
            number: self.int(at.status).and_then(|status| u128::try_from(status).ok()).unwrap_or(0),
            open: [false, false, false, true, true, true, true, false, false, false, false, true],
        }
    }

    fn principal_key(&self) -> Key<'r, 6> {
        let at = &*PLACES;
        Key {
            minute_us: self.minute_us,
            texts: [
                self.text(at.environment),
                self.text(at.source),
                self.action().1,
                self.text(at.grant),
                self.text(at.principal_kind),
                self.text(at.client_id),
            ],
            number: match self.access.values.get(at.subject_id) {
                Some(Value::Uuid(id)) => id.as_u128(),
                Some(_) | None => 0,
            },
            open: [false, false, true, true, false, true],
        }
    }

    fn task_key(&self) -> Key<'r, 5> {
        let at = &*PLACES;
        Key {
            minute_us: self.minute_us,
            texts: [
                self.text(at.environment),
                self.text(at.source),
                self.action().1,
                self.text(at.dag_id),
                self.text(at.task_id),
            ],
            number: 0,
            open: [false, false, true, true, true],
        }
    }
}

/// Why a call did not do what its caller wanted: `policy` (somebody decided so) or `failure`, and which.
fn cause(outcome: &str, code: &str, side: &str, status: Option<i64>) -> (&'static str, &'static str) {
    const POLICY: &str = "policy";
    const FAILURE: &str = "failure";
    if outcome == Outcome::Allowed.as_str() {
        return ("", "");
    }
    let side =
        [Side::Client, Side::Gateway, Side::Backend].map(Side::as_str).into_iter().find(|s| *s == side);
    let known = Outcome::ALL.into_iter().find(|known| known.as_str() == outcome);
    match known {
        // Taken care of above, before anything else is looked at: most calls are.
        Some(Outcome::Allowed) => ("", ""),
        Some(Outcome::Limited) => (POLICY, "limited"),
        Some(Outcome::Abandoned) => (FAILURE, "abandoned"),
        Some(Outcome::Denied) => match (code.split('.').next().unwrap_or(""), side) {
            ("authenticate", Some("gateway")) => (FAILURE, "gateway"),
            ("authenticate", _) => (POLICY, "unauthenticated"),
            ("authorize", _) => (POLICY, "denied"),
            ("", _) if status == Some(401) => (POLICY, "unauthenticated"),
            ("", _) => (POLICY, "denied"),
            // It was malformed, or asked for what is not there.
            (_, side) => (FAILURE, side.unwrap_or("client")),
        },
        Some(Outcome::Failed) => (FAILURE, side.unwrap_or("gateway")),
        Some(Outcome::Unknown) | None => (FAILURE, "unknown"),
    }
}

/// The measures of [`super::tables::TRAFFIC`].
#[derive(Default)]
struct Traffic {
    calls: i64,
    rows: i64,
    bytes_in: i64,
    bytes_out: i64,
    cache_lookups: i64,
    cache_hits: i64,
    duration_us: i64,
    gateway_us: i64,
    backend_us: i64,
    duration_us_max: i64,
    duration: Sketch,
    gateway: Sketch,
    backend: Sketch,
}

impl Traffic {
    fn add(&mut self, call: &Call<'_, '_>) {
        let at = &*PLACES;
        self.calls += 1;
        put(&mut self.rows, call.sum(at.rows));
        put(&mut self.bytes_in, call.sum(at.bytes_in));
        put(&mut self.bytes_out, call.sum(at.bytes_out));
        match call.text(at.cache_status) {
            "" => {}
            status => {
                self.cache_lookups += 1;
                self.cache_hits += i64::from(matches!(status, "hit" | "stale"));
            }
        }
        let (duration, backend) = (call.sum(at.duration_us), call.int(at.forward_us));
        // What the gateway itself took: everything but the backend's part.
        let gateway = duration.saturating_sub(backend.unwrap_or(0)).max(0);
        put(&mut self.duration_us, duration);
        put(&mut self.gateway_us, gateway);
        self.duration_us_max = self.duration_us_max.max(duration);
        self.duration.add(duration);
        self.gateway.add(gateway);
        if let Some(backend) = backend {
            put(&mut self.backend_us, backend.max(0));
            self.backend.add(backend);
        }
    }

    fn cells(&self) -> Vec<Cell> {
        let numbers = [
            self.calls,
            self.rows,
            self.bytes_in,
            self.bytes_out,
            self.cache_lookups,
            self.cache_hits,
            self.duration_us,
            self.gateway_us,
            self.backend_us,
            self.duration_us_max,
        ];
        let sketches = [&self.duration, &self.gateway, &self.backend];
        let numbers = numbers.into_iter().map(Cell::Int);
        numbers.chain(sketches.into_iter().cloned().map(Cell::Sketch)).collect()
    }
}

/// The measures of [`super::tables::PRINCIPALS`] and [`super::tables::TASKS`].
#[derive(Default)]
struct Usage {
    calls: i64,
    denied: i64,
    limited: i64,
    failed: i64,
    rows: i64,
    bytes_in: i64,
    bytes_out: i64,
    duration_us: i64,
    backend_us: i64,
    duration_us_max: i64,
    try_number_max: i64,
    limit_remaining_min: Option<i64>,
}

impl Usage {
    fn add(&mut self, call: &Call<'_, '_>) {
        let at = &*PLACES;
        self.calls += 1;
        match (call.kind, call.cause) {
            ("policy", "limited") => self.limited += 1,
            ("policy", _) => self.denied += 1,
            ("failure", _) => self.failed += 1,
            _ => {}
        }
        put(&mut self.rows, call.sum(at.rows));
        put(&mut self.bytes_in, call.sum(at.bytes_in));
        put(&mut self.bytes_out, call.sum(at.bytes_out));
        let duration = call.sum(at.duration_us);
        put(&mut self.duration_us, duration);
        put(&mut self.backend_us, call.sum(at.forward_us));
        self.duration_us_max = self.duration_us_max.max(duration);
        self.try_number_max = self.try_number_max.max(call.sum(at.try_number));
        if let Some(left) = call.int(at.limit_remaining) {
            self.limit_remaining_min = Some(self.limit_remaining_min.map_or(left, |least| least.min(left)));
        }
    }

    fn common(&self) -> [i64; 8] {
        [
            self.calls,
            self.denied,
            self.limited,
            self.failed,
            self.rows,
            self.bytes_in,
            self.bytes_out,
            self.duration_us,
        ]
    }

    fn principal_cells(&self) -> Vec<Cell> {
        let least = self.limit_remaining_min.map_or(Cell::Null, Cell::Int);
        self.common().into_iter().map(Cell::Int).chain([least]).collect()
    }

    fn task_cells(&self) -> Vec<Cell> {
        let more = [self.backend_us, self.duration_us_max, self.try_number_max];
        self.common().into_iter().chain(more).map(Cell::Int).collect()
    }
}

fn put(sum: &mut i64, more: i64) {
    *sum = sum.saturating_add(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_that_counts_is_a_column() {
        let at = &*PLACES;
        let places = [
            at.ts,
            at.environment,
            at.source,
            at.door,
            at.endpoint,
            at.api_version,
            at.config_digest,
            at.outcome,
            at.fault_code,
            at.fault_side,
            at.status,
            at.grant,
            at.principal_kind,
            at.client_id,
            at.subject_id,
            at.dag_id,
            at.task_id,
            at.try_number,
            at.rows,
            at.bytes_in,
            at.bytes_out,
            at.duration_us,
            at.forward_us,
            at.cache_status,
            at.limit_remaining,
        ];
        assert!(places.iter().all(|place| *place < CALL_COLUMNS.len()), "{places:?}");
    }

    #[test]
    fn what_was_decided_is_kept_apart_from_what_went_wrong() {
        for (outcome, code, side, status, expected) in [
            ("allowed", "", "", Some(200), ("", "")),
            ("limited", "limit.quota", "client", Some(429), ("policy", "limited")),
            ("denied", "authenticate.token-expired", "client", Some(401), ("policy", "unauthenticated")),
            ("denied", "authenticate.issuer-unavailable", "gateway", Some(503), ("failure", "gateway")),
            ("denied", "authorize.denied", "client", Some(403), ("policy", "denied")),
            ("denied", "decode.rest-query", "client", Some(400), ("failure", "client")),
            ("denied", "", "", Some(401), ("policy", "unauthenticated")),
            ("denied", "", "", Some(403), ("policy", "denied")),
            ("failed", "forward.backend-down", "backend", Some(502), ("failure", "backend")),
            ("failed", "", "", None, ("failure", "gateway")),
            ("abandoned", "", "", None, ("failure", "abandoned")),
            ("unknown", "", "", None, ("failure", "unknown")),
        ] {
            assert_eq!(cause(outcome, code, side, status), expected, "{outcome} {code}");
        }
    }
}
