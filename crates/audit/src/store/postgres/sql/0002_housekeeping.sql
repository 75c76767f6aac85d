-- Version 2: what the gateway has done for it, as the owner and within the owner's bounds: partitions made
-- ahead, and old records removed.

-- Makes the partitions of the days around now, where TimescaleDB does not make chunks by itself. A day whose
-- records are in the default partition already stays there. A new partition needs the whole table for a moment, and
-- whoever reads it for long (as `audit verify` does) has it; meanwhile all writers would queue behind the wait. So it
-- waits for a second at most, and the days that are ahead give it many more tries.
CREATE FUNCTION doorward.maintain() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET lock_timeout = '1s' AS $$
DECLARE
    day date;
    name text;
BEGIN
    IF (SELECT value FROM doorward.setting s WHERE s.name = 'layout') <> 'partitions'
       OR NOT pg_try_advisory_xact_lock(hashtext('doorward.maintain')) THEN
        RETURN;
    END IF;
    FOR day IN SELECT d::date FROM generate_series(current_date - 1, current_date + 7, interval '1 day') d LOOP
        name := 'access_event_p' || to_char(day, 'YYYYMMDD');
        CONTINUE WHEN to_regclass('doorward.' || name) IS NOT NULL;
        CONTINUE WHEN EXISTS (SELECT 1 FROM doorward.access_event_default e
                              WHERE e.ts >= day::timestamptz AND e.ts < (day + 1)::timestamptz);
        EXECUTE format('CREATE TABLE doorward.%I PARTITION OF doorward.access_event
                        FOR VALUES FROM (%L) TO (%L)', name, day::timestamptz, (day + 1)::timestamptz);
    END LOOP;
EXCEPTION WHEN lock_not_available THEN
    RETURN;
END $$;

-- The latest time that retention may reach: a gateway that has been taken over cannot remove what is younger.
CREATE FUNCTION doorward.retention_limit() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT now() - value::interval FROM doorward.setting WHERE name = 'retention_floor'
$$;

-- The days that records are kept in, as chunks or partitions: which, from when, until when.
CREATE FUNCTION doorward.record_days() RETURNS TABLE (name text, starts timestamptz, ends timestamptz)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
    IF (SELECT s.value FROM doorward.setting s WHERE s.name = 'layout') = 'hypertable' THEN
        RETURN QUERY SELECT format('%I.%I', c.chunk_schema, c.chunk_name), c.range_start, c.range_end
            FROM timescaledb_information.chunks c
            WHERE c.hypertable_schema = 'doorward' AND c.hypertable_name = 'access_event';
    ELSE
        RETURN QUERY SELECT format('doorward.%I', c.relname), d.day::timestamptz, (d.day + 1)::timestamptz
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid,
                 LATERAL (SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day) d
            WHERE i.inhparent = 'doorward.access_event'::regclass AND c.relname ~ '^access_event_p[0-9]{8}$';
    END IF;
END $$;

-- Whether somebody has asked to keep records of a span.
CREATE FUNCTION doorward.is_held(starts timestamptz, ends timestamptz) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT 1 FROM doorward.legal_hold h WHERE h.released_us IS NULL
                   AND (h.from_us IS NULL OR to_timestamp(h.from_us / 1000000.0) < ends)
                   AND (h.until_us IS NULL OR to_timestamp(h.until_us / 1000000.0) > starts))
$$;

-- Removes whole days that ended before a time and that nobody holds, and keeps up to when. How many chunks,
-- partitions or stray rows went. Who reads a day for long keeps it until the next time, and no hold comes between the
-- look at the holds and the removal.
CREATE FUNCTION doorward.remove_days(before timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET lock_timeout = '1s' AS $$
DECLARE
    reach timestamptz := least(before, doorward.retention_limit());
    hypertable boolean := (SELECT value = 'hypertable' FROM doorward.setting WHERE name = 'layout');
    day record;
    removed bigint := 0;
    stray bigint := 0;
    newest timestamptz := '-infinity';
BEGIN
    LOCK TABLE doorward.legal_hold IN SHARE MODE;
    FOR day IN SELECT * FROM doorward.record_days() d WHERE d.ends <= reach ORDER BY d.ends LOOP
        CONTINUE WHEN doorward.is_held(day.starts, day.ends);
        BEGIN
            IF hypertable THEN
                EXECUTE format('SELECT {ts}.drop_chunks(''doorward.access_event'', older_than => %L::timestamptz,
                                newer_than => %L::timestamptz)', day.ends, day.starts);
            ELSE
                EXECUTE 'DROP TABLE ' || day.name;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            EXIT;
        END;
        newest := greatest(newest, day.ends);
        removed := removed + 1;
    END LOOP;
    IF NOT hypertable THEN
        -- What came late or early is in the default partition, and goes a few rows at a time.
        PERFORM set_config('doorward.retention', 'on', true);
        WITH old AS (
            DELETE FROM doorward.access_event_default WHERE ctid = ANY (ARRAY(
                SELECT d.ctid FROM doorward.access_event_default d
                WHERE d.ts < reach AND NOT doorward.is_held(d.ts, d.ts + interval '1 microsecond')
                ORDER BY d.ts LIMIT 5000))
            RETURNING ts)
        SELECT count(*), greatest(newest, coalesce(max(ts) + interval '1 microsecond', '-infinity'))
            INTO stray, newest FROM old;
        PERFORM set_config('doorward.retention', '', true);
    END IF;
    IF newest > '-infinity' THEN
        INSERT INTO doorward.retention_horizon VALUES ('', (extract(epoch FROM newest) * 1000000)::bigint)
            ON CONFLICT (class) DO UPDATE
            SET before_us = greatest(retention_horizon.before_us, excluded.before_us);
    END IF;
    RETURN removed + stray;
END $$;

-- Bytes of all records, and the end of the oldest day that may go.
CREATE FUNCTION doorward.records_size(OUT bytes bigint, OUT oldest_day_ends timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
    IF (SELECT value FROM doorward.setting WHERE name = 'layout') = 'hypertable' THEN
        SELECT {ts}.hypertable_size('doorward.access_event') INTO bytes;
    ELSE
        SELECT sum(pg_total_relation_size(inhrelid)) INTO bytes FROM pg_inherits
            WHERE inhparent = 'doorward.access_event'::regclass;
    END IF;
    SELECT min(d.ends) INTO oldest_day_ends FROM doorward.record_days() d
        WHERE NOT doorward.is_held(d.starts, d.ends);
END $$;

-- Removes gaps and checkpoints from before a time. The newest of these checkpoints stays: it alone shows that what it
-- counts, and retention removed, was as old as that. The horizon says that what told the age of the rest is gone.
CREATE FUNCTION doorward.remove_log(before timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reach bigint := (extract(epoch FROM least(before, doorward.retention_limit())) * 1000000)::bigint;
BEGIN
    PERFORM set_config('doorward.retention', 'on', true);
    DELETE FROM doorward.audit_gap WHERE until_us < reach;
    DELETE FROM doorward.checkpoint old WHERE signed_us < reach AND EXISTS (
        SELECT 1 FROM doorward.checkpoint new WHERE new.gateway_id = old.gateway_id
        AND new.epoch = old.epoch AND new.size > old.size AND new.signed_us < reach);
    PERFORM set_config('doorward.retention', '', true);
    INSERT INTO doorward.retention_horizon VALUES ('', reach) ON CONFLICT (class) DO UPDATE
        SET before_us = greatest(retention_horizon.before_us, excluded.before_us);
END $$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA doorward FROM PUBLIC;
GRANT EXECUTE ON FUNCTION doorward.maintain(), doorward.remove_days(timestamptz), doorward.records_size(),
    doorward.remove_log(timestamptz) TO doorward_writer;
