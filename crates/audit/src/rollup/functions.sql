-- Functions on sketches: lists of bucket << 40 | count, ascending by bucket.
-- Most are compact already, which is cheap to see.
CREATE OR REPLACE FUNCTION timeline.sketch_compact(sketch bigint[]) RETURNS bigint[]
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  entry bigint; last bigint := -1; compact boolean := true;
BEGIN
  FOREACH entry IN ARRAY sketch LOOP
    IF entry >> 40 <= last THEN
      compact := false;
      EXIT;
    END IF;
    last := entry >> 40;
  END LOOP;
  IF compact THEN
    RETURN sketch;
  END IF;
  RETURN (SELECT array_agg(s.entry ORDER BY s.entry)
          FROM (SELECT ((e >> 40) << 40) | least(sum(e & 1099511627775), 1099511627775)::bigint AS entry
                FROM unnest(sketch) AS e GROUP BY e >> 40) AS s);
END $$;

CREATE OR REPLACE FUNCTION timeline.sketch_sum(a bigint[], b bigint[]) RETURNS bigint[]
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT timeline.sketch_compact(a || b) $$;

-- The state grows by appending, and is compacted when it is long: most of the work is done in C.
CREATE OR REPLACE FUNCTION timeline.sketch_step(state bigint[], sketch bigint[]) RETURNS bigint[]
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF cardinality(state) > 4096 THEN
    state := timeline.sketch_compact(state);
  END IF;
  RETURN state || sketch;
END $$;

CREATE OR REPLACE AGGREGATE timeline.sketch_merge(bigint[]) (
  sfunc = timeline.sketch_step, stype = bigint[], initcond = '{}',
  combinefunc = timeline.sketch_step, finalfunc = timeline.sketch_compact, parallel = safe
);

-- The value in microseconds at or below which a share q of what was counted lies; within 2 %.
CREATE OR REPLACE FUNCTION timeline.quantile(sketch bigint[], q double precision) RETURNS double precision
  LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  entry bigint; seen bigint := 0; total bigint := 0; wanted double precision;
BEGIN
  FOREACH entry IN ARRAY coalesce(sketch, '{}') LOOP
    total := total + (entry & 1099511627775);
  END LOOP;
  wanted := greatest(ceil(q * total), 1);
  FOREACH entry IN ARRAY coalesce(sketch, '{}') LOOP
    seen := seen + (entry & 1099511627775);
    IF seen >= wanted THEN
      RETURN 2 * power(GROWTH::double precision, (entry >> 40)::double precision) / (GROWTH::double precision + 1);
    END IF;
  END LOOP;
  RETURN NULL;
END $$;

-- The finest level that answers for a span of time quickly; views are asked by it.
CREATE OR REPLACE FUNCTION timeline.level(since timestamptz, until timestamptz) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN until - since <= INTERVAL '6 hours' THEN '1m'
              WHEN until - since <= INTERVAL '15 days' THEN '15m'
              ELSE '1d' END
$$;

CREATE OR REPLACE FUNCTION timeline.level_seconds(level text) RETURNS integer
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE level WHEN '1m' THEN 60 WHEN '15m' THEN 900 ELSE 86400 END
$$;

-- Sketches of many rows as one, in the form in which programs read it.
CREATE OR REPLACE FUNCTION timeline.sketch_to_json(sketch bigint[]) RETURNS text
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT array_to_json(timeline.sketch_compact(sketch))::text $$;

CREATE OR REPLACE AGGREGATE timeline.sketch_json(bigint[]) (
  sfunc = timeline.sketch_step, stype = bigint[], initcond = '{}',
  combinefunc = timeline.sketch_step, finalfunc = timeline.sketch_to_json, parallel = safe
);

REVOKE ALL ON FUNCTION timeline.sketch_compact(bigint[]), timeline.sketch_sum(bigint[], bigint[]),
  timeline.sketch_step(bigint[], bigint[]), timeline.sketch_merge(bigint[]), timeline.sketch_json(bigint[]),
  timeline.sketch_to_json(bigint[]), timeline.quantile(bigint[], double precision),
  timeline.level(timestamptz, timestamptz), timeline.level_seconds(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION timeline.sketch_compact(bigint[]), timeline.sketch_sum(bigint[], bigint[]),
  timeline.sketch_step(bigint[], bigint[]), timeline.sketch_merge(bigint[]), timeline.sketch_json(bigint[]),
  timeline.sketch_to_json(bigint[]), timeline.quantile(bigint[], double precision),
  timeline.level(timestamptz, timestamptz), timeline.level_seconds(text) TO doorward_reader;
