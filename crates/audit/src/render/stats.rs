//! The analysis on a terminal.

use std::fmt::Write as _;

use doorward_core::Timestamp;

use super::plain;
use crate::query::stats::{Group, Point, Quantiles, Stats, Sums};
use crate::rollup::tables::Level;
use crate::time::rfc3339;

/// Steps of a sparkline, the least first.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The widest sparkline, in characters.
const SPARK: usize = 60;
/// The widest name in a table, in characters.
const NAME: usize = 44;

/// The whole answer.
pub fn stats(stats: &Stats) -> String {
    let mut out = String::new();
    put_heading(&mut out, stats);
    put_traffic(&mut out, stats);
    put_latency(&mut out, &stats.total);
    put_usage(&mut out, &stats.total);
    put_errors(&mut out, stats);
    put_groups(&mut out, stats);
    put_principals(&mut out, stats);
    put_quotas(&mut out, stats);
    out
}

fn put_heading(out: &mut String, stats: &Stats) {
    let minute =
        |micros| rfc3339(Timestamp::from_micros(micros)).get(..16).unwrap_or_default().replace('T', " ");
    let fresh = match stats.freshness_seconds {
        Some(seconds) => format!("newest record {seconds:.0} s old"),
        None => "no records".to_owned(),
    };
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{} to {} UTC, by {}; {fresh}",
        minute(stats.since_us),
        minute(stats.until_us),
        stats.level
    );
}

fn put_traffic(out: &mut String, stats: &Stats) {
    let series = |value: fn(&Point) -> i64| sparkline(&steps(stats, value));
    let rows = [
        ("calls", stats.total.calls, series(|point| point.calls)),
        ("refused", stats.total.refused, series(|point| point.refused)),
        ("failed", stats.total.failed, series(|point| point.failed)),
    ];
    out.push('\n');
    for (name, count, spark) in rows {
        let _ = writeln!(out, "{name:<9} {:>13}  {spark}", grouped(count));
    }
}

fn put_latency(out: &mut String, sums: &Sums) {
    let _ = writeln!(out, "\n{:<9} {:>9} {:>9} {:>9}   ms", "latency", "p50", "p95", "p99");
    let latency = &sums.latency;
    for (name, quantiles) in
        [("total", latency.total), ("gateway", latency.gateway), ("backend", latency.backend)]
    {
        let [p50, p95, p99] = [quantiles.p50, quantiles.p95, quantiles.p99].map(millis);
        let _ = writeln!(out, "{name:<9} {p50:>9} {p95:>9} {p99:>9}");
    }
}

fn put_usage(out: &mut String, sums: &Sums) {
    let cache = match sums.cache_lookups {
        0 => String::new(),
        lookups => format!(
            ", {:.0} % of {} cache look-ups hit",
            100.0 * sums.cache_hits as f64 / lookups as f64,
            grouped(lookups)
        ),
    };
    let _ = writeln!(
        out,
        "\n{} rows, {} in, {} out{cache}",
        grouped(sums.rows),
        bytes(sums.bytes_in),
        bytes(sums.bytes_out)
    );
}

fn put_errors(out: &mut String, stats: &Stats) {
    if stats.errors.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n{:<9} {:<16} {:<40} {:>10}", "ERRORS", "CAUSE", "CODE", "CALLS");
    for error in &stats.errors {
        let (kind, cause, code) = (plain(&error.kind), plain(&error.cause), name(&error.fault_code, 40));
        let _ = writeln!(out, "{kind:<9} {cause:<16} {code:<40} {:>10}", grouped(error.calls));
    }
}

fn put_groups(out: &mut String, stats: &Stats) {
    if stats.groups.is_empty() {
        return;
    }
    let latencies = stats.by != "principal";
    let mut heading =
        format!("\n{:<NAME$} {:>10} {:>9} {:>9}", stats.by.to_uppercase(), "CALLS", "REFUSED", "FAILED");
    if latencies {
        let _ = write!(
            heading,
            " {:>9} {:>9} {:>9} {:>9} {:>9}",
            "P50 MS", "P95 MS", "P99 MS", "GATEWAY", "BACKEND"
        );
    }
    let _ = writeln!(out, "{heading} {:>11} {:>10}", "ROWS", "OUT");
    for group in &stats.groups {
        put_group(out, group, latencies);
    }
    if latencies {
        out.push_str("GATEWAY and BACKEND are their parts' p95.\n");
    }
}

fn put_group(out: &mut String, group: &Group, latencies: bool) {
    let sums = &group.sums;
    let [calls, refused, failed] = [sums.calls, sums.refused, sums.failed].map(grouped);
    let _ = write!(out, "{:<NAME$} {calls:>10} {refused:>9} {failed:>9}", name(&group.name, NAME));
    if latencies {
        let Quantiles { p50, p95, p99 } = sums.latency.total;
        for value in [p50, p95, p99, sums.latency.gateway.p95, sums.latency.backend.p95] {
            let _ = write!(out, " {:>9}", millis(value));
        }
    }
    let _ = writeln!(out, " {:>11} {:>10}", grouped(sums.rows), bytes(sums.bytes_out));
}

fn put_principals(out: &mut String, stats: &Stats) {
    if stats.principals.is_empty() || stats.by == "principal" {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<36} {:<8} {:<20} {:>10} {:>9} {:>9} {:>11} {:>10}",
        "PRINCIPAL", "KIND", "CLIENT", "CALLS", "REFUSED", "FAILED", "ROWS", "OUT"
    );
    for usage in &stats.principals {
        let [calls, refused, failed, rows] =
            [usage.calls, usage.refused, usage.failed, usage.rows].map(grouped);
        let (who, kind, client) =
            (name(&usage.subject_id, 36), name(&usage.kind, 8), name(&usage.client_id, 20));
        let _ = writeln!(
            out,
            "{who:<36} {kind:<8} {client:<20} {calls:>10} {refused:>9} {failed:>9} {rows:>11} {:>10}",
            bytes(usage.bytes_out)
        );
    }
}

fn put_quotas(out: &mut String, stats: &Stats) {
    if stats.quotas.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "\n{:<28} {:<36} {:>10} {:>10} {:>11}",
        "QUOTA OF GRANT", "PRINCIPAL", "CALLS", "OVER IT", "LEAST LEFT"
    );
    for quota in &stats.quotas {
        let left = quota.remaining_min.map_or("-".to_owned(), grouped);
        let (grant, who) = (name(&quota.grant, 28), name(&quota.subject_id, 36));
        let _ = writeln!(
            out,
            "{grant:<28} {who:<36} {:>10} {:>10} {left:>11}",
            grouped(quota.calls),
            grouped(quota.limited)
        );
    }
}

/// One value for each character: each step of time in its place, those without calls included.
fn steps(stats: &Stats, value: fn(&Point) -> i64) -> Vec<i64> {
    let level = Level::ALL.into_iter().find(|level| level.as_str() == stats.level).unwrap_or(Level::Minute);
    let span = stats.until_us.saturating_sub(stats.since_us).max(1);
    let count = usize::try_from(span.div_euclid(level.micros()) + i64::from(span % level.micros() != 0));
    let width = count.unwrap_or(SPARK).clamp(1, SPARK);
    let mut steps = vec![0i64; width];
    for point in &stats.traffic {
        let after = i128::from(point.time_us.saturating_sub(stats.since_us).max(0));
        let place = after * i128::try_from(width).unwrap_or(1) / i128::from(span);
        let place = usize::try_from(place).unwrap_or(0).min(width - 1);
        if let Some(step) = steps.get_mut(place) {
            *step = step.saturating_add(value(point));
        }
    }
    steps
}

/// A line whose height follows the values; a step without anything is a space.
pub fn sparkline(values: &[i64]) -> String {
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    let step = |value: &i64| match value {
        ..=0 => ' ',
        some => {
            let height = usize::try_from((i128::from(*some) - 1) * 8 / i128::from(most)).unwrap_or(0);
            STEPS.get(height.min(STEPS.len() - 1)).copied().unwrap_or('█')
        }
    };
    values.iter().map(step).collect()
}

fn name(text: &str, width: usize) -> String {
    let text = plain(text);
    match text.is_empty() {
        true => "-".to_owned(),
        false if text.chars().count() <= width => text,
        false => text.chars().take(width - 1).chain(['…']).collect(),
    }
}

fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 10.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.0}"),
    }
}

fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn bytes(count: i64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 { format!("{count} {name}") } else { format!("{value:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_easy_to_read() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(-1_000), "-1,000");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        assert_eq!(millis(Some(3.456)), "3.46");
        assert_eq!(sparkline(&[0, 1, 4, 8]), " ▁▄█");
        assert_eq!(sparkline(&[0, 0]), "  ");
        assert_eq!(sparkline(&[i64::MAX]), "█");
        assert_eq!(name("\u{1b}[31mred", 20), "\\u{1b}[31mred");
    }
}
