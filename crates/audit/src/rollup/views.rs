//! The views that are the same text in every store.

/// Errors by cause, releases, principals, quotas and tasks. `CREATE VIEW` is completed by each store.
pub(crate) const VIEWS: &[(&str, &str)] = &[
    (
        "errors_by_cause",
        "SELECT level, time, environment, source, door, resource, endpoint, kind, cause, fault_code, status,
                sum(calls) AS calls
         FROM traffic WHERE kind <> ''
         GROUP BY level, time, environment, source, door, resource, endpoint, kind, cause, fault_code, status",
    ),
    (
        "releases",
        "SELECT level, time, environment, source, resource, endpoint, api_version, config_digest,
                sum(calls) AS calls,
                sum(CASE WHEN kind = 'policy' THEN calls ELSE 0 END) AS refused,
                sum(CASE WHEN kind = 'failure' THEN calls ELSE 0 END) AS failed,
                sum(rows) AS rows, sum(bytes_out) AS bytes_out,
                sum(cache_lookups) AS cache_lookups, sum(cache_hits) AS cache_hits,
                sum(duration_us) / 1000.0 / sum(calls) AS total_mean_ms,
                sum(gateway_us) / 1000.0 / sum(calls) AS gateway_mean_ms
         FROM traffic
         GROUP BY level, time, environment, source, resource, endpoint, api_version, config_digest",
    ),
    (
        "top_principals",
        "SELECT level, time, environment, source, principal_kind, client_id, subject_id,
                sum(calls) AS calls, sum(denied) AS denied, sum(limited) AS limited, sum(failed) AS failed,
                sum(rows) AS rows, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out
         FROM principals
         GROUP BY level, time, environment, source, principal_kind, client_id, subject_id",
    ),
    (
        "quota_use",
        "SELECT level, time, environment, resource, grant_name, principal_kind, client_id, subject_id,
                sum(calls) AS calls, sum(limited) AS limited,
                min(limit_remaining_min) AS limit_remaining_min
         FROM principals WHERE grant_name <> ''
         GROUP BY level, time, environment, resource, grant_name, principal_kind, client_id, subject_id",
    ),
    (
        "airflow_tasks",
        "SELECT level, time, environment, source, resource, dag_id, task_id,
                sum(calls) AS calls, sum(denied) AS denied, sum(limited) AS limited, sum(failed) AS failed,
                sum(rows) AS rows, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out,
                sum(duration_us) / 1000.0 / sum(calls) AS total_mean_ms,
                max(duration_us_max) / 1000.0 AS total_max_ms, max(try_number_max) AS try_number_max
         FROM tasks
         GROUP BY level, time, environment, source, resource, dag_id, task_id",
    ),
];
