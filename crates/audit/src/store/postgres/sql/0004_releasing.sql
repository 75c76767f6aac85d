-- Version 4: a gateway that has been taken over can neither release a legal hold nor empty the store by filling it.

-- Who releases holds is a member of doorward_holder, or of the owner; the writer lays them, and reads them.
REVOKE UPDATE ON doorward.legal_hold FROM doorward_writer;
GRANT USAGE ON SCHEMA doorward TO doorward_holder;
GRANT SELECT, INSERT ON doorward.legal_hold TO doorward_holder;
GRANT UPDATE (released_us) ON doorward.legal_hold TO doorward_holder;

-- A hold says the same for ever: it is released once, and not taken back.
CREATE FUNCTION doorward.check_release() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.released_us IS NOT NULL OR NEW.released_us IS NULL
       OR (NEW.hold_id, NEW.name, NEW.created_us, NEW.created_by) IS DISTINCT FROM
          (OLD.hold_id, OLD.name, OLD.created_us, OLD.created_by)
       OR (NEW.subject_id, NEW.resource, NEW.from_us, NEW.until_us) IS DISTINCT FROM
          (OLD.subject_id, OLD.resource, OLD.from_us, OLD.until_us) THEN
        RAISE EXCEPTION 'a hold is released once, and not changed' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_release BEFORE UPDATE ON doorward.legal_hold
    FOR EACH ROW EXECUTE FUNCTION doorward.check_release();

-- As in version 2, and what goes beyond the ages, because the store is too large, is noted: `retention_limit` lets one
-- such day go in an hour.
CREATE OR REPLACE FUNCTION doorward.remove_days(before timestamptz) RETURNS bigint
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
    IF newest > now() - (SELECT max(r.keep) FROM doorward.retention r) THEN
        DELETE FROM doorward.size_removal;
        INSERT INTO doorward.size_removal VALUES (now());
    END IF;
    RETURN removed + stray;
END $$;

-- As in version 2; what lies in the default partition has its days too.
CREATE OR REPLACE FUNCTION doorward.records_size(OUT bytes bigint, OUT oldest_day_ends timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $$
BEGIN
    SELECT min(d.ends) INTO oldest_day_ends FROM doorward.record_days() d
        WHERE NOT doorward.is_held(d.starts, d.ends);
    IF (SELECT value FROM doorward.setting WHERE name = 'layout') = 'hypertable' THEN
        SELECT {ts}.hypertable_size('doorward.access_event') INTO bytes;
        RETURN;
    END IF;
    SELECT sum(pg_total_relation_size(inhrelid)) INTO bytes FROM pg_inherits
        WHERE inhparent = 'doorward.access_event'::regclass;
    oldest_day_ends := least(oldest_day_ends, (
        SELECT date_trunc('day', e.ts) + INTERVAL '1 day' FROM doorward.access_event_default e
        WHERE NOT doorward.is_held(e.ts, e.ts + INTERVAL '1 microsecond') ORDER BY e.ts LIMIT 1));
END $$;

REVOKE EXECUTE ON FUNCTION doorward.check_release() FROM PUBLIC;
