-- Retention by class, within days that stay for other classes. The owner says in doorward.retention how long a class
-- is kept at least; a gateway that has been taken over cannot remove what is younger.

CREATE TABLE IF NOT EXISTS doorward.retention (
    class text PRIMARY KEY,
    keep interval NOT NULL
);

-- When a day was last removed because the store was too large.
CREATE TABLE IF NOT EXISTS doorward.size_removal (
    at timestamptz NOT NULL
);

-- The latest time that removing whole days may reach: what is kept longest stays, unless the store has grown past the
-- size that the owner allows. Then its oldest day may go, one in an hour and none within the floor: whoever fills the
-- store does not empty it of what was there before.
CREATE OR REPLACE FUNCTION doorward.retention_limit() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT greatest(
        now() - greatest(f.floor, (SELECT max(r.keep) FROM doorward.retention r)),
        (SELECT least(z.oldest_day_ends, now() - f.floor)
         FROM doorward.setting s, LATERAL doorward.records_size() z
         WHERE s.name = 'size_max' AND z.bytes > s.value::bigint
         AND NOT EXISTS (SELECT 1 FROM doorward.size_removal WHERE at > now() - INTERVAL '1 hour')))
    FROM (SELECT value::interval AS floor FROM doorward.setting WHERE name = 'retention_floor') f
$$;

-- How far classes have been looked through, and when last from the beginning.
CREATE TABLE IF NOT EXISTS doorward.retention_cursor (
    classes text PRIMARY KEY,
    done timestamptz NOT NULL,
    swept timestamptz NOT NULL
);

-- Removes records of these classes from before a time that no hold in force covers; it looks at 10,000 rows. Whether
-- there may be more. Once a day it begins anew, for late records and released holds.
CREATE OR REPLACE FUNCTION doorward.expire_classes(expired text[], before timestamptz) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
DECLARE
    reach timestamptz := least(before,
        (SELECT now() - s.value::interval FROM doorward.setting s WHERE s.name = 'retention_floor'),
        coalesce((SELECT min(now() - r.keep) FROM doorward.retention r WHERE r.class = ANY (expired)),
                 doorward.retention_limit()));
    since timestamptz;
    started timestamptz;
    last timestamptz;
    seen bigint;
    gone bigint;
    one text;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('doorward.expire_classes')) THEN
        RETURN false;
    END IF;
    SELECT c.done, c.swept INTO since, started FROM doorward.retention_cursor c
        WHERE c.classes = array_to_string(expired, ',');
    IF started IS NULL OR started < now() - INTERVAL '1 day' THEN
        since := '-infinity';
        started := now();
    END IF;
    SELECT max(w.ts), count(*) INTO last, seen FROM (
        SELECT e.ts FROM doorward.access_event e WHERE e.ts >= since AND e.ts < reach ORDER BY e.ts LIMIT 10000) w;
    IF last IS NULL THEN
        RETURN false;
    END IF;
    -- No hold comes between the look at the holds and the removal.
    LOCK TABLE doorward.legal_hold IN SHARE MODE;
    PERFORM set_config('doorward.retention', 'on', true);
    FOREACH one IN ARRAY expired LOOP
        DELETE FROM doorward.access_event e WHERE e.ts >= since AND e.ts <= last AND coalesce(e.class, 'access') = one
            AND NOT EXISTS (SELECT 1 FROM doorward.legal_hold h WHERE h.released_us IS NULL
                AND (h.subject_id IS NULL OR h.subject_id = e.subject_id)
                AND (h.resource IS NULL OR h.resource = e.resource)
                AND (h.from_us IS NULL OR e.ts >= 'epoch'::timestamptz + h.from_us * INTERVAL '1 microsecond')
                AND (h.until_us IS NULL OR e.ts < 'epoch'::timestamptz + h.until_us * INTERVAL '1 microsecond'));
        GET DIAGNOSTICS gone = ROW_COUNT;
        IF gone > 0 THEN
            INSERT INTO doorward.retention_horizon AS h VALUES (one, (extract(epoch FROM last) * 1000000)::bigint + 1)
                ON CONFLICT (class) DO UPDATE SET before_us = greatest(h.before_us, excluded.before_us);
        END IF;
    END LOOP;
    PERFORM set_config('doorward.retention', '', true);
    INSERT INTO doorward.retention_cursor VALUES (array_to_string(expired, ','), last + INTERVAL '1 microsecond', started)
        ON CONFLICT (classes) DO UPDATE SET done = excluded.done, swept = excluded.swept;
    RETURN seen = 10000;
END $$;

REVOKE ALL ON FUNCTION doorward.expire_classes(text[], timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION doorward.expire_classes(text[], timestamptz) TO doorward_writer;
