-- Puts partial rows into the rollups as :minutes minutes of traffic would: :endpoints endpoints with :calls calls a
-- minute each, and as many principals. Sums over all tables are those of :minutes * :endpoints * :calls records.
-- Run as the owner of the schema; `doorward.fold_rollups()` then moves them into the levels.

INSERT INTO doorward.rollup_part (bucket, environment, source, door, resource, verb, endpoint, api_version,
    config_digest, outcome, kind, cause, fault_code, status, calls, rows, bytes_in, bytes_out, cache_lookups,
    cache_hits, duration_us, gateway_us, backend_us, duration_us_max, duration_sketch, gateway_sketch, backend_sketch)
SELECT date_trunc('minute', now()) - m * INTERVAL '1 minute', 'production', 'gateway',
    (ARRAY['rest', 'pg', 's3'])[1 + e % 3], 'shop-' || e % 4, 'read', 'GET /shop/{table}/' || e, 'v' || 1 + m / 4000,
    'digest-' || m / 2500, o.outcome, o.kind, o.cause, o.code, o.status, n, n * 7, n * 300, n * 9000,
    n / 2, n / 3, n * 9000, n * 400, n * 8600, 40000,
    ARRAY(SELECT b << 40 | greatest(n / 24, 1) FROM generate_series(210 + (m + e) % 9, 233 + (m + e) % 9) b),
    ARRAY(SELECT b << 40 | greatest(n / 12, 1) FROM generate_series(140 + e % 5, 151 + e % 5) b),
    ARRAY(SELECT b << 40 | greatest(n / 24, 1) FROM generate_series(205 + (m + e) % 9, 228 + (m + e) % 9) b)
FROM generate_series(0, :minutes - 1) m, generate_series(1, :endpoints) e,
    (VALUES ('allowed', '', '', '', 200, 0.92), ('denied', 'policy', 'denied', 'authorize.denied', 403, 0.04),
            ('limited', 'policy', 'limited', 'limit.rate', 429, 0.02),
            ('failed', 'failure', 'backend', 'forward.backend-down', 502, 0.02))
        AS o (outcome, kind, cause, code, status, share),
    LATERAL (SELECT greatest(round(:calls * o.share), 1)::bigint AS n) AS s;

INSERT INTO doorward.rollup_principal_part (bucket, environment, source, resource, grant_name, principal_kind, client_id,
    subject_id, calls, denied, limited, failed, rows, bytes_in, bytes_out, duration_us, limit_remaining_min)
SELECT date_trunc('minute', now()) - m * INTERVAL '1 minute', 'production', 'gateway', 'shop-' || p % 4,
    'readers-' || p % 3, (ARRAY['user', 'service'])[1 + p % 2], 'client-' || p % 5, md5(p::text)::uuid::text,
    :calls, :calls / 25, :calls / 50, :calls / 50, :calls * 7, :calls * 300, :calls * 9000, :calls * 9000,
    greatest(500 - p * 10 - m % 60, 0)
FROM generate_series(0, :minutes - 1) m, generate_series(1, :endpoints) p;

INSERT INTO doorward.rollup_task_part (bucket, environment, source, resource, dag_id, task_id, calls, denied, limited,
    failed, rows, bytes_in, bytes_out, duration_us, backend_us, duration_us_max, try_number_max)
SELECT date_trunc('minute', now()) - m * INTERVAL '1 minute', 'production', 'gateway', 'shop-1', 'nightly-' || t % 4,
    'load-' || t, 20, 0, 0, 1, 5000, 4000, 90000, 180000, 170000, 30000, 1 + t % 3
FROM generate_series(0, :minutes - 1, 5) m, generate_series(1, 12) t;

