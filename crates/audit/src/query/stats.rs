//! What `doorward audit stats` tells: traffic, errors by cause, latency, usage and quotas, from the rollups.
//!
//! Constraints: one span of time is read at one level, so that an answer reads thousands of rows and never millions;
//! lists are bounded by [`LIST_MAX`]. Latencies leave out what was refused by policy: it never reached a backend.

use doorward_core::Timestamp;
use serde::Serialize;

use super::{Backend, Cell, QueryError, Timeline};
use crate::rollup::sketch::Sketch;
use crate::rollup::tables::Level;

/// The most rows of each list.
pub const LIST_MAX: usize = 1_000;
/// The longest span that is answered by the minute.
const MINUTES_UNTIL_US: i64 = 6 * 60 * 60 * 1_000_000;
/// The longest span that is answered by quarters of an hour.
const QUARTERS_UNTIL_US: i64 = 15 * 24 * 60 * 60 * 1_000_000;

/// What calls are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The endpoint's template.
    Endpoint,
    /// The resource.
    Resource,
    /// The principal, by its `subject_id`.
    Principal,
    /// The door.
    Door,
    /// The API's version.
    ApiVersion,
    /// The configuration's digest.
    Config,
    /// Whose decision it was.
    Source,
}

impl By {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Endpoint,
        Self::Resource,
        Self::Principal,
        Self::Door,
        Self::ApiVersion,
        Self::Config,
        Self::Source,
    ];

    /// As the command line spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Endpoint => "endpoint",
            Self::Resource => "resource",
            Self::Principal => "principal",
            Self::Door => "door",
            Self::ApiVersion => "api_version",
            Self::Config => "config",
            Self::Source => "source",
        }
    }

    const fn column(self) -> &'static str {
        match self {
            Self::Config => "config_digest",
            Self::Principal => "subject_id",
            other => other.as_str(),
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// From when; taken back to the start of its minute, quarter or day.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// What calls are told apart by.
    pub by: By,
    /// The most rows of each list.
    pub limit: usize,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The rollups' level: `1m`, `15m`, `1d`.
    pub level: &'static str,
    /// From when, microseconds.
    pub since_us: i64,
    /// Until when, microseconds.
    pub until_us: i64,
    /// How old the newest record is.
    pub freshness_seconds: Option<f64>,
    /// All calls.
    pub total: Sums,
    /// Traffic over time; spans without calls are left out.
    pub traffic: Vec<Point>,
    /// What went wrong, the most frequent first.
    pub errors: Vec<Cause>,
    /// What calls are told apart by.
    pub by: &'static str,
    /// Calls of each, the busiest first.
    pub groups: Vec<Group>,
    /// Who used most.
    pub principals: Vec<Usage>,
    /// Which quotas were used up, or came close, first.
    pub quotas: Vec<Quota>,
}

/// One step of time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Point {
    /// When it starts, microseconds.
    pub time_us: i64,
    /// Calls.
    pub calls: i64,
    /// Refused by policy.
    pub refused: i64,
    /// Failed.
    pub failed: i64,
}

/// Sums over calls.
#[derive(Clone, Debug, Serialize)]
pub struct Sums {
    /// Calls.
    pub calls: i64,
    /// Refused by policy: no identity, no grant, over a limit.
    pub refused: i64,
    /// Failed: at the client, the gateway or the backend.
    pub failed: i64,
    /// Rows.
    pub rows: i64,
    /// Bytes of requests.
    pub bytes_in: i64,
    /// Bytes of answers.
    pub bytes_out: i64,
    /// Calls that a cache was asked for.
    pub cache_lookups: i64,
    /// Calls that it answered.
    pub cache_hits: i64,
    /// How long calls took.
    pub latency: Latency,
}

/// Quantiles of what a call took, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// From its first byte to its last.
    pub total: Quantiles,
    /// Of that, the gateway itself.
    pub gateway: Quantiles,
    /// Of that, the backend.
    pub backend: Quantiles,
}

/// Quantiles in milliseconds; none where there were no calls.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Half of the calls were as fast.
    pub p50: Option<f64>,
    /// 95 of 100.
    pub p95: Option<f64>,
    /// 99 of 100.
    pub p99: Option<f64>,
}

impl Quantiles {
    fn of(sketch: &Sketch) -> Self {
        let at = |q| sketch.quantile(q).map(|micros| micros / 1_000.0);
        Self { p50: at(0.5), p95: at(0.95), p99: at(0.99) }
    }
}

/// One group of calls.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// Its endpoint, resource and so on; empty where that does not apply.
    pub name: String,
    /// Its sums. By principal there are no latencies.
    #[serde(flatten)]
    pub sums: Sums,
}

/// How often something went wrong.
#[derive(Clone, Debug, Serialize)]
pub struct Cause {
    /// `policy` or `failure`.
    pub kind: String,
    /// Which.
    pub cause: String,
    /// The fault's code.
    pub fault_code: String,
    /// How often.
    pub calls: i64,
}

/// What one principal used.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// Its random id; empty where nobody was known.
    pub subject_id: String,
    /// `user`, `service` and so on.
    pub kind: String,
    /// The client that it came by.
    pub client_id: String,
    /// Calls.
    pub calls: i64,
    /// Refused by policy.
    pub refused: i64,
    /// Failed.
    pub failed: i64,
    /// Rows.
    pub rows: i64,
    /// Bytes of answers.
    pub bytes_out: i64,
}

/// How much of a grant's limit was used by one principal.
#[derive(Clone, Debug, Serialize)]
pub struct Quota {
    /// The grant.
    pub grant: String,
    /// The principal.
    pub subject_id: String,
    /// Calls.
    pub calls: i64,
    /// Calls over the limit.
    pub limited: i64,
    /// The least that was left of it.
    pub remaining_min: Option<i64>,
}

/// What the columns of an answer hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int,
}

/// The names of a store's views and functions.
struct Names {
    schema: &'static str,
    /// Microseconds of a view's time.
    time: &'static str,
    /// Of a sketch, as a JSON array.
    sketch: &'static str,
}

const SQLITE: Names = Names { schema: "", time: "time", sketch: "sketch_merge" };
const POSTGRES: Names = Names {
    schema: "timeline.",
    time: "(extract(epoch FROM time) * 1000000)::bigint",
    sketch: "timeline.sketch_json",
};

/// Sums of the traffic view that [`sums`] reads; after them come the three sketches.
const SUMS: &str = "sum(calls), sum(CASE WHEN kind = 'policy' THEN calls ELSE 0 END),
    sum(CASE WHEN kind = 'failure' THEN calls ELSE 0 END), sum(rows), sum(bytes_in), sum(bytes_out),
    sum(cache_lookups), sum(cache_hits)";
const SUMS_COUNT: usize = 8;
const SKETCHES: [&str; 3] = ["duration_sketch", "gateway_sketch", "backend_sketch"];

impl Timeline {
    /// Answers from the rollups.
    pub fn stats(&self, question: &Question) -> Result<Stats, QueryError> {
        let span = question.until.micros().saturating_sub(question.since.micros());
        let level = if span <= MINUTES_UNTIL_US {
            Level::Minute
        } else if span <= QUARTERS_UNTIL_US {
            Level::Quarter
        } else {
            Level::Day
        };
        let since_us = question.since.micros().div_euclid(level.micros()).saturating_mul(level.micros());
        let names = match &self.0 {
            Backend::Sqlite(_) => &SQLITE,
            Backend::Postgres(_) => &POSTGRES,
        };
        let until_us = question.until.micros();
        let limit = question.limit.min(LIST_MAX);
        let asking = Asking { timeline: self, names, level, between: (since_us, until_us), limit };
        let groups = match question.by {
            By::Principal => asking.by_principal()?,
            by => asking.groups(by)?,
        };
        Ok(Stats {
            level: level.as_str(),
            since_us,
            until_us,
            freshness_seconds: asking.freshness()?,
            total: asking.total()?,
            traffic: asking.traffic()?,
            errors: asking.errors()?,
            by: question.by.as_str(),
            groups,
            principals: asking.principals()?,
            quotas: asking.quotas()?,
        })
    }

    fn ask(&self, sql: &str, between: (i64, i64), kinds: &[Kind]) -> Result<Vec<Vec<Cell>>, QueryError> {
        match &self.0 {
            Backend::Sqlite(reader) => reader.ask(sql, between),
            Backend::Postgres(reader) => reader.lock().ask(sql, between, kinds),
        }
    }
}

struct Asking<'t> {
    timeline: &'t Timeline,
    names: &'t Names,
    level: Level,
    between: (i64, i64),
    limit: usize,
}

impl Asking<'_> {
    /// Asks a view of one level: texts, numbers, then sketches.
    fn ask(
        &self,
        view: &str,
        selected: &str,
        rest: &str,
        kinds: &[Kind],
    ) -> Result<Vec<Vec<Cell>>, QueryError> {
        let (schema, level) = (self.names.schema, self.level.as_str());
        let sql =
            format!("SELECT {selected} FROM {schema}{view}_{level} WHERE time >= $1 AND time < $2 {rest}");
        self.timeline.ask(&sql, self.between, kinds)
    }

    fn sketches(&self) -> String {
        let sketch = self.names.sketch;
        let one = |name| format!(", {sketch}(CASE WHEN kind <> 'policy' THEN {name} END)");
        SKETCHES.map(one).concat()
    }

    fn freshness(&self) -> Result<Option<f64>, QueryError> {
        let (schema, postgres) = (self.names.schema, !self.names.schema.is_empty());
        let newest = if postgres { "(extract(epoch FROM max(ts)) * 1000000)::bigint" } else { "max(ts)" };
        // The bounds only make it the same kind of question as the others.
        let bounds =
            if postgres { "$1::timestamptz IS NOT NULL AND $2::timestamptz IS NOT NULL" } else { "$1 < $2" };
        let sql = format!("SELECT {newest} FROM {schema}access_event WHERE {bounds}");
        let rows = self.timeline.ask(&sql, self.between, &[Kind::Int])?;
        let newest = rows.first().and_then(|row| match row.first() {
            Some(Cell::Int(newest)) => Some(*newest),
            _ => None,
        });
        Ok(newest.map(|newest| self.between.1.saturating_sub(newest).max(0) as f64 / 1e6))
    }

    fn total(&self) -> Result<Sums, QueryError> {
        let selected = format!("{SUMS}{}", self.sketches());
        let rows = self.ask("traffic", &selected, "", &sum_kinds(0))?;
        Ok(sums(rows.first().map_or(&[][..], Vec::as_slice)))
    }

    fn traffic(&self) -> Result<Vec<Point>, QueryError> {
        let selected = format!("{} AS at, {SUMS}", self.names.time);
        let rows =
            self.ask("traffic", &selected, "GROUP BY time ORDER BY time", &[Kind::Int; 1 + SUMS_COUNT])?;
        let point = |row: &Vec<Cell>| Point {
            time_us: int(row, 0),
            calls: int(row, 1),
            refused: int(row, 2),
            failed: int(row, 3),
        };
        Ok(rows.iter().map(point).collect())
    }

    fn errors(&self) -> Result<Vec<Cause>, QueryError> {
        let kinds = [Kind::Text, Kind::Text, Kind::Text, Kind::Int];
        let rest = format!(
            "AND kind <> '' GROUP BY kind, cause, fault_code ORDER BY 4 DESC, 1, 2, 3 LIMIT {}",
            self.limit
        );
        let rows = self.ask("traffic", "kind, cause, fault_code, sum(calls)", &rest, &kinds)?;
        let cause = |row: &Vec<Cell>| Cause {
            kind: text(row, 0),
            cause: text(row, 1),
            fault_code: text(row, 2),
            calls: int(row, 3),
        };
        Ok(rows.iter().map(cause).collect())
    }

    fn groups(&self, by: By) -> Result<Vec<Group>, QueryError> {
        let column = by.column();
        let selected = format!("{column}, {SUMS}{}", self.sketches());
        let rest = format!("GROUP BY {column} ORDER BY 2 DESC, 1 LIMIT {}", self.limit);
        let rows = self.ask("traffic", &selected, &rest, &sum_kinds(1))?;
        let group =
            |row: &Vec<Cell>| Group { name: text(row, 0), sums: sums(row.get(1..).unwrap_or_default()) };
        Ok(rows.iter().map(group).collect())
    }

    fn by_principal(&self) -> Result<Vec<Group>, QueryError> {
        let selected =
            "subject_id, sum(calls), sum(denied) + sum(limited), sum(failed), sum(rows), sum(bytes_in),
            sum(bytes_out), 0, 0";
        let rest = format!("GROUP BY subject_id ORDER BY 2 DESC, 1 LIMIT {}", self.limit);
        let rows = self.ask("principals", selected, &rest, &sum_kinds(1))?;
        let group =
            |row: &Vec<Cell>| Group { name: text(row, 0), sums: sums(row.get(1..).unwrap_or_default()) };
        Ok(rows.iter().map(group).collect())
    }

    fn principals(&self) -> Result<Vec<Usage>, QueryError> {
        let selected =
            "subject_id, principal_kind, client_id, sum(calls), sum(denied) + sum(limited), sum(failed),
            sum(rows), sum(bytes_out)";
        let kinds =
            [Kind::Text, Kind::Text, Kind::Text, Kind::Int, Kind::Int, Kind::Int, Kind::Int, Kind::Int];
        let rest = format!("GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3 LIMIT {}", self.limit);
        let rows = self.ask("principals", selected, &rest, &kinds)?;
        let usage = |row: &Vec<Cell>| Usage {
            subject_id: text(row, 0),
            kind: text(row, 1),
            client_id: text(row, 2),
            calls: int(row, 3),
            refused: int(row, 4),
            failed: int(row, 5),
            rows: int(row, 6),
            bytes_out: int(row, 7),
        };
        Ok(rows.iter().map(usage).collect())
    }

    fn quotas(&self) -> Result<Vec<Quota>, QueryError> {
        let kinds = [Kind::Text, Kind::Text, Kind::Int, Kind::Int, Kind::Int];
        let rest = format!(
            "GROUP BY 1, 2 HAVING min(limit_remaining_min) IS NOT NULL OR sum(limited) > 0
             ORDER BY 4 DESC, 5, 3 DESC, 1, 2 LIMIT {}",
            self.limit
        );
        let selected = "grant_name, subject_id, sum(calls), sum(limited), min(limit_remaining_min)";
        let rows = self.ask("principals", selected, &rest, &kinds)?;
        let quota = |row: &Vec<Cell>| Quota {
            grant: text(row, 0),
            subject_id: text(row, 1),
            calls: int(row, 2),
            limited: int(row, 3),
            remaining_min: match row.get(4) {
                Some(Cell::Int(least)) => Some(*least),
                _ => None,
            },
        };
        Ok(rows.iter().map(quota).collect())
    }
}

fn sum_kinds(texts: usize) -> Vec<Kind> {
    let texts = std::iter::repeat_n(Kind::Text, texts);
    let sums = std::iter::repeat_n(Kind::Int, SUMS_COUNT);
    texts.chain(sums).chain(std::iter::repeat_n(Kind::Text, SKETCHES.len())).collect()
}

fn sums(row: &[Cell]) -> Sums {
    let quantiles = |place| Quantiles::of(&Sketch::from_json(&text(row, place)));
    Sums {
        calls: int(row, 0),
        refused: int(row, 1),
        failed: int(row, 2),
        rows: int(row, 3),
        bytes_in: int(row, 4),
        bytes_out: int(row, 5),
        cache_lookups: int(row, 6),
        cache_hits: int(row, 7),
        latency: Latency {
            total: quantiles(SUMS_COUNT),
            gateway: quantiles(SUMS_COUNT + 1),
            backend: quantiles(SUMS_COUNT + 2),
        },
    }
}

fn int(row: &[Cell], place: usize) -> i64 {
    match row.get(place) {
        Some(Cell::Int(number)) => *number,
        _ => 0,
    }
}

fn text(row: &[Cell], place: usize) -> String {
    match row.get(place) {
        Some(Cell::Text(text)) => text.clone(),
        _ => String::new(),
    }
}
