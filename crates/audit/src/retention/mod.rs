//! What leaves the store, when, and what may not.
//!
//! Records expire by their class; rollups by their level; and the oldest records go when the store grows past its
//! size. A legal hold in force keeps what it covers, whatever else says. What was removed leaves a horizon for each
//! class, so that `audit verify` can tell lawful expiry from a row that was taken away.
//!
//! Constraints: a step is bounded, so that shipping goes on; retention only removes, and never what a hold covers.

pub mod postgres;
pub mod sqlite;

use crate::config::Retention;
use crate::rollup::tables::Level;

/// The classes of records.
pub const CLASSES: [&str; 4] = ["access", "refused", "admin", "imported"];

/// Classes that are kept equally long, and how long, in microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Their names.
    pub classes: Vec<&'static str>,
    /// For how long their records are kept.
    pub keep_us: i64,
}

impl Retention {
    /// For how long a class is kept, in microseconds; for ever when there is none.
    pub fn class_us(&self, class: &str) -> Option<i64> {
        let classes = &self.classes;
        let own = match class {
            "refused" => classes.refused,
            "admin" => classes.admin,
            "imported" => classes.imported,
            _ => classes.access,
        };
        own.or(self.age).map(|keep| micros(keep.get()))
    }

    /// For how long a level of the rollups is kept, in microseconds; for ever when there is none.
    pub fn level_us(&self, level: Level) -> Option<i64> {
        let rollups = &self.rollups;
        let keep = match level {
            Level::Minute => rollups.minute,
            Level::Quarter => rollups.quarter,
            Level::Day => rollups.day,
        };
        keep.map(|keep| micros(keep.get()))
    }

    /// For how long anything of the record is kept; for ever when there is none.
    pub fn longest_us(&self) -> Option<i64> {
        let keeps: Option<Vec<i64>> = CLASSES.into_iter().map(|class| self.class_us(class)).collect();
        keeps.and_then(|keeps| keeps.into_iter().max())
    }

    /// The classes that expire, by how long they are kept.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for class in CLASSES {
            let Some(keep_us) = self.class_us(class) else { continue };
            match groups.iter_mut().find(|group| group.keep_us == keep_us) {
                Some(group) => group.classes.push(class),
                None => groups.push(Group { classes: vec![class], keep_us }),
            }
        }
        groups
    }
}

fn micros(span: std::time::Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
