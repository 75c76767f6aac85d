//! The pipeline task that a caller names in W3C Baggage: `airflow.dag_id=daily,airflow.try_number=1`.
//!
//! Constraints: what stands here is claimed, so it is kept for correlation and decides nothing; values are
//! percent-decoded once and bounded; whatever cannot be read is left out.

use doorward_core::TaskRef;
use http::HeaderMap;
use percent_encoding::percent_decode_str;

const BAGGAGE: &str = "baggage";
/// The keys' common beginning.
const PREFIX: &str = "airflow.";
/// The most members that are looked at (W3C Baggage, 3.3.2).
const MEMBERS_MAX: usize = 64;

/// The task that the baggage names, if any.
pub(crate) fn task(headers: &HeaderMap) -> Option<Box<TaskRef>> {
    let mut task = TaskRef::default();
    let lists = headers.get_all(BAGGAGE).iter().filter_map(|value| value.to_str().ok());
    for member in lists.flat_map(|list| list.split(',')).take(MEMBERS_MAX) {
        let Some((key, value)) = member.split_once('=') else { continue };
        let Some(key) = key.trim().strip_prefix(PREFIX) else { continue };
        // Properties follow a semicolon.
        let value = value.split(';').next().unwrap_or_default().trim();
        if let Ok(value) = percent_decode_str(value).decode_utf8() {
            task.take(key, &value);
        }
    }
    (!task.is_empty()).then(|| Box::new(task))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lists: &[&str]) -> Option<Box<TaskRef>> {
        let mut headers = HeaderMap::new();
        for list in lists {
            headers.append(BAGGAGE, list.parse().unwrap());
        }
        task(&headers)
    }

    #[test]
    fn a_task_is_read_from_several_members_and_headers() {
        let task = read(&[
            "user=ana, airflow.dag_id = daily%20load ;p=1,airflow.try_number=2",
            "airflow.run_id=r,airflow.task_id=t,airflow.map_index=0",
        ]);
        let expected = TaskRef {
            dag_id: Some("daily load".into()),
            run_id: Some("r".into()),
            task_id: Some("t".into()),
            try_number: Some(2),
            map_index: Some(0),
        };
        assert_eq!(task.as_deref(), Some(&expected));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        let long = format!("airflow.dag_id={}", "x".repeat(TaskRef::NAME_BYTES_MAX + 1));
        for list in ["", "airflow.dag_id", "airflow.dag_id=%00", "airflow.try_number=-1", "other=1", &long] {
            assert_eq!(read(&[list]), None, "{list}");
        }
    }
}
