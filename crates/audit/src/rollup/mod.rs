//! What analysts ask of the timeline again and again, added up while records are shipped.
//!
//! The shipper adds up each batch into rows of one minute ([`Aggregator`]) and hands them to the store, which
//! writes them in the batch's own transaction: a record counts exactly once, whatever happens between. A store
//! keeps these partial rows apart until it folds them into the levels of [`tables::Level`]; every view adds both,
//! so an answer is as fresh as the timeline itself.
//!
//! Invariants: rows only ever add up, so late records need no repair; callers cannot make the tables grow at
//! will: a minute takes [`KEYS_MAX`] combinations of each table, and the rest counts under [`OTHER`]; a call
//! counts once, under its first action. Nothing personal is a dimension: `subject_id` is random, and means
//! nobody once the person is erased.

mod aggregate;
pub mod postgres;
pub mod sketch;
pub mod sqlite;
pub mod tables;
mod views;

pub use aggregate::Aggregator;

/// The most combinations of dimensions that one minute takes, in each table, from one gateway.
pub const KEYS_MAX: usize = 2_000;
/// What a dimension says of calls beyond [`KEYS_MAX`].
pub const OTHER: &str = "(other)";
/// Minutes whose combinations are remembered; earlier ones begin anew.
const MINUTES_MAX: usize = 8;
/// The most bytes of a dimension's text; the rest is cut.
pub const DIMENSION_MAX: usize = 200;

/// One value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Not known.
    Null,
    /// A number.
    Int(i64),
    /// A dimension's text.
    Text(String),
    /// A sketch.
    Sketch(sketch::Sketch),
}

/// One partial row: the start of its minute, and then a cell for each dimension and measure of its table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The start of the minute, in microseconds.
    pub bucket_us: i64,
    /// The cells, in the table's order.
    pub cells: Vec<Cell>,
}

/// What one batch adds, for each of [`tables::TABLES`], in that order.
pub type Rollups = [Vec<Row>; tables::TABLES.len()];

#[cfg(test)]
mod tests;
