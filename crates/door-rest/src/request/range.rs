//! The `Range` header, counted in items: `Range: 0-24`, with or without `Range-Unit: items`.

use http::HeaderValue;

use super::syntax::Query;
use crate::codes;
use crate::problem::Problem;

/// Narrows the query to the header's range. A header of another form is passed over, as in PostgREST:
/// byte ranges are not for rows.
pub(crate) fn apply(header: Option<&HeaderValue>, query: &mut Query) -> Result<(), Problem> {
    let Some(text) = header.and_then(|value| value.to_str().ok()) else { return Ok(()) };
    let text = text.strip_prefix("items=").unwrap_or(text);
    let Some((first, last)) = text.split_once('-') else { return Ok(()) };
    let Ok(first) = first.parse::<u64>() else { return Ok(()) };
    let last = match last {
        "" => None,
        last => match last.parse::<u64>() {
            Ok(last) => Some(last),
            Err(_) => return Ok(()),
        },
    };
    if last.is_some_and(|last| last < first) {
        let details =
            "The lower boundary must be lower than or equal to the upper boundary in the Range header.";
        return Err(Problem::new(416, "PGRST103", codes::RANGE, "Requested range not satisfiable")
            .details(details)
            .hint("Send Range: FIRST-LAST with FIRST not greater than LAST."));
    }
    // Both the parameters and the header hold: the rows in the intersection are answered.
    let end_of_query = query.limit.map(|limit| query.offset.saturating_add(limit));
    let end_of_header = last.map(|last| last.saturating_add(1));
    let offset = query.offset.max(first);
    let end = match (end_of_query, end_of_header) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    query.offset = offset;
    query.limit = end.map(|end| end.saturating_sub(offset));
    Ok(())
}
