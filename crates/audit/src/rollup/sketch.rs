//! How long calls took, in a form that merges: counts in buckets whose bounds grow by a constant factor.
//!
//! A quantile read from a sketch is within [`RELATIVE_ERROR`] of the true one, however many sketches were
//! merged before. This is the store of a DDSketch (Masson, Rim, Lee: VLDB 2019), with one mapping for all.
//!
//! Constraints: a sketch is a list of whole numbers, `bucket << 40 | count`, ascending; PostgreSQL keeps it as
//! `bigint[]` and SQLite as a JSON array of the same numbers, so that plain SQL can take it apart: `value >> 40`
//! is the bucket, `value & (2^40 - 1)` the count. Every number stays below 2^53, where JSON's readers are exact.

/// How far a quantile may be from the true one, relative to it.
pub const RELATIVE_ERROR: f64 = 0.02;
/// The factor from one bucket's upper bound to the next: `(1 + e) / (1 - e)`.
pub const GROWTH: f64 = (1.0 + RELATIVE_ERROR) / (1.0 - RELATIVE_ERROR);
/// Bits of a packed bucket that hold its count.
pub const COUNT_BITS: u32 = 40;
/// The last bucket; what is longer (thousands of years) counts there.
pub const BUCKET_MAX: i64 = 1_023;

const COUNT_MASK: i64 = (1 << COUNT_BITS) - 1;

/// Counts of values in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sketch(Vec<i64>);

impl Sketch {
    /// Counts one value. Less than a microsecond counts as one.
    pub fn add(&mut self, micros: i64) {
        self.add_bucket(bucket(micros), 1);
    }

    /// Adds another sketch's counts.
    pub fn merge(&mut self, other: &Self) {
        self.merge_packed(&other.0);
    }

    /// Adds counts in the form in which stores keep them, in any order.
    pub fn merge_packed(&mut self, packed: &[i64]) {
        for &entry in packed {
            self.add_bucket(entry >> COUNT_BITS, entry & COUNT_MASK);
        }
    }

    /// The form in which stores keep it.
    pub fn packed(&self) -> &[i64] {
        &self.0
    }

    /// How many values were counted.
    pub fn count(&self) -> i64 {
        self.0.iter().map(|entry| entry & COUNT_MASK).fold(0, i64::saturating_add)
    }

    /// The value in microseconds below or at which a share `q` of all values lies; none when it is empty.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        let rank = (q.clamp(0.0, 1.0) * total as f64).ceil().max(1.0);
        let mut seen = 0i64;
        let found = self.0.iter().find(|entry| {
            seen = seen.saturating_add(*entry & COUNT_MASK);
            seen as f64 >= rank
        });
        found.map(|entry| middle(entry >> COUNT_BITS))
    }

    /// Reads the JSON array that SQLite keeps; what is no such array counts nothing.
    pub fn from_json(text: &str) -> Self {
        let mut sketch = Self::default();
        let inner = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or_default();
        for number in inner.split(',') {
            if let Ok(entry) = number.trim().parse::<i64>() {
                sketch.merge_packed(&[entry]);
            }
        }
        sketch
    }

    /// The JSON array that SQLite keeps.
    pub fn to_json(&self) -> String {
        let numbers: Vec<String> = self.0.iter().map(i64::to_string).collect();
        format!("[{}]", numbers.join(","))
    }

    fn add_bucket(&mut self, bucket: i64, count: i64) {
        let bucket = bucket.clamp(0, BUCKET_MAX);
        match self.0.binary_search_by_key(&bucket, |entry| entry >> COUNT_BITS) {
            Ok(place) => {
                if let Some(entry) = self.0.get_mut(place) {
                    let sum = (*entry & COUNT_MASK).saturating_add(count).min(COUNT_MASK);
                    *entry = bucket << COUNT_BITS | sum;
                }
            }
            Err(place) => self.0.insert(place, bucket << COUNT_BITS | count.clamp(0, COUNT_MASK)),
        }
    }
}

/// The bucket of a value: the smallest `k` with `GROWTH^k >= micros`.
fn bucket(micros: i64) -> i64 {
    if micros <= 1 {
        return 0;
    }
    // A duration in microseconds is far below 2^52.
    let exponent = (micros as f64).ln() / GROWTH.ln();
    (exponent.ceil() as i64).min(BUCKET_MAX)
}

/// The value that stands for a bucket: no value of it is farther away than the relative error.
pub fn middle(bucket: i64) -> f64 {
    2.0 * GROWTH.powi(i32::try_from(bucket).unwrap_or(i32::MAX)) / (GROWTH + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exact(values: &mut [i64], q: f64) -> f64 {
        values.sort_unstable();
        let rank = (q * values.len() as f64).ceil().max(1.0) as usize;
        values[rank - 1] as f64
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_two_percent_however_it_was_merged(
            mut values in proptest::collection::vec(1i64..4_000_000_000, 1..400),
            parts in 1usize..6,
            q in 0.0f64..1.0,
        ) {
            let mut whole = Sketch::default();
            for part in values.chunks(values.len().div_ceil(parts)) {
                let mut sketch = Sketch::default();
                part.iter().for_each(|value| sketch.add(*value));
                whole.merge(&Sketch::from_json(&sketch.to_json()));
            }
            prop_assert_eq!(whole.count(), values.len() as i64);
            let (found, exact) = (whole.quantile(q).unwrap(), exact(&mut values, q));
            prop_assert!((found - exact).abs() <= exact * RELATIVE_ERROR * 1.000_001, "{} {}", found, exact);
        }
    }

    #[test]
    fn the_ends_are_kept() {
        let mut sketch = Sketch::default();
        assert_eq!(sketch.quantile(0.5), None);
        for value in [i64::MIN, 0, 1, i64::MAX] {
            sketch.add(value);
        }
        assert_eq!(sketch.count(), 4);
        assert!(sketch.packed().iter().all(|entry| (0..1 << 53).contains(entry)), "{sketch:?}");
        assert_eq!(Sketch::from_json("not JSON"), Sketch::default());
    }
}
