//! The rollups' tables: which sums are kept, by what. Both stores, both directions and the documents read
//! these lists.
//!
//! Constraints: no dimension is personal, and none is `NULL` (a text that does not apply is empty, a number 0),
//! so that a row's dimensions are its key. A column may be added; none is given another meaning.

/// What a dimension holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DimensionType {
    /// Text.
    Text,
    /// A whole number.
    Int,
}

/// How two rows with the same dimensions become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fold {
    /// Their sum.
    Sum,
    /// The larger one.
    Max,
    /// The smaller one; what is not known does not count.
    Min,
    /// Sketches are merged.
    Sketch,
}

/// A span of time that one row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One minute.
    Minute,
    /// A quarter of an hour.
    Quarter,
    /// A day, in UTC.
    Day,
}

impl Level {
    /// All levels, the finest first.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Quarter, Self::Day];

    /// As tables and views spell it: `1m`, `15m`, `1d`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "1m",
            Self::Quarter => "15m",
            Self::Day => "1d",
        }
    }

    /// Its length.
    pub const fn micros(self) -> i64 {
        match self {
            Self::Minute => 60_000_000,
            Self::Quarter => 15 * 60_000_000,
            Self::Day => 24 * 60 * 60_000_000,
        }
    }
}

/// One family of rollups.
#[derive(Debug)]
pub struct Table {
    /// Where gateways put partial rows.
    pub part: &'static str,
    /// The levels' tables are called `STEM_1m`, `STEM_15m` and `STEM_1d`.
    pub stem: &'static str,
    /// The levels' views are called `VIEW_1m` and so on; `VIEW` is all of them.
    pub view: &'static str,
    /// What rows are kept by, after the time.
    pub dimensions: &'static [(&'static str, DimensionType)],
    /// What is kept.
    pub measures: &'static [(&'static str, Fold)],
}

impl Table {
    /// A level's table.
    pub fn level(&self, level: Level) -> String {
        format!("{}_{}", self.stem, level.as_str())
    }
}

/// Traffic, errors and latency, by endpoint and release.
pub static TRAFFIC: Table = {
    use DimensionType::{Int, Text};
    use Fold::{Max, Sketch, Sum};
    Table {
        part: "rollup_part",
        stem: "rollup",
        view: "traffic",
        dimensions: &[
            ("environment", Text),
            ("source", Text),
            ("door", Text),
            ("resource", Text),
            ("verb", Text),
            ("endpoint", Text),
            ("api_version", Text),
            ("config_digest", Text),
            ("outcome", Text),
            ("kind", Text),
            ("cause", Text),
            ("fault_code", Text),
            ("status", Int),
        ],
        measures: &[
            ("calls", Sum),
            ("rows", Sum),
            ("bytes_in", Sum),
            ("bytes_out", Sum),
            ("cache_lookups", Sum),
            ("cache_hits", Sum),
            ("duration_us", Sum),
            ("gateway_us", Sum),
            ("backend_us", Sum),
            ("duration_us_max", Max),
            ("duration_sketch", Sketch),
            ("gateway_sketch", Sketch),
            ("backend_sketch", Sketch),
        ],
    }
};

/// What each principal used, and what was left of its limits.
pub static PRINCIPALS: Table = {
    use DimensionType::Text;
    use Fold::{Min, Sum};
    Table {
        part: "rollup_principal_part",
        stem: "rollup_principal",
        view: "principals",
        dimensions: &[
            ("environment", Text),
            ("source", Text),
            ("resource", Text),
            ("grant_name", Text),
            ("principal_kind", Text),
            ("client_id", Text),
            ("subject_id", Text),
        ],
        measures: &[
            ("calls", Sum),
            ("denied", Sum),
            ("limited", Sum),
            ("failed", Sum),
            ("rows", Sum),
            ("bytes_in", Sum),
            ("bytes_out", Sum),
            ("duration_us", Sum),
            ("limit_remaining_min", Min),
        ],
    }
};

/// What the tasks of workflows did.
pub static TASKS: Table = {
    use DimensionType::Text;
    use Fold::{Max, Sum};
    Table {
        part: "rollup_task_part",
        stem: "rollup_task",
        view: "tasks",
        dimensions: &[
            ("environment", Text),
            ("source", Text),
            ("resource", Text),
            ("dag_id", Text),
            ("task_id", Text),
        ],
        measures: &[
            ("calls", Sum),
            ("denied", Sum),
            ("limited", Sum),
            ("failed", Sum),
            ("rows", Sum),
            ("bytes_in", Sum),
            ("bytes_out", Sum),
            ("duration_us", Sum),
            ("backend_us", Sum),
            ("duration_us_max", Max),
            ("try_number_max", Max),
        ],
    }
};

/// All families.
pub static TABLES: [&Table; 3] = [&TRAFFIC, &PRINCIPALS, &TASKS];
