-- Version 1: the tables, who owns and writes them, and the refusal to change what is kept.
-- Run as doorward_owner. {partition_by} is how access_event is laid out where there is no TimescaleDB.

CREATE TABLE doorward.schema_version (
    version int PRIMARY KEY,
    migrated_at timestamptz NOT NULL DEFAULT now(),
    migrated_by text NOT NULL DEFAULT session_user
);

-- What the operator has chosen for the whole store.
CREATE TABLE doorward.setting (
    name text PRIMARY KEY,
    value text NOT NULL
);
INSERT INTO doorward.setting VALUES ('layout', '{layout}'), ('retention_floor', '1 day');

-- One row an action of a call. Types are such that each value comes back as it was given, so that it hashes
-- to its leaf: json and not jsonb; and personal values are text, sealed or not. Access ids begin with their
-- time (UUIDv7), so both indexes grow at their end.
CREATE TABLE doorward.access_event (
    "ts" timestamptz NOT NULL,
    "gateway_id" text NOT NULL,
    "epoch" bigint NOT NULL,
    "seq" bigint NOT NULL,
    "access_id" uuid NOT NULL,
    "action_index" bigint NOT NULL,
    "action_count" bigint NOT NULL,
    "schema_version" bigint,
    "parent_access_id" uuid,
    "source" text,
    "class" text,
    "environment" text,
    "subject_id" uuid,
    "principal_issuer" text,
    "principal_subject" text,
    "principal_email" text,
    "principal_kind" text,
    "groups" json,
    "on_behalf_of" text,
    "claims" text,
    "client_id" text,
    "auth_method" text,
    "credential_id" text,
    "session_id" uuid,
    "source_ip" text,
    "user_agent" text,
    "door" text,
    "verb" text,
    "resource" text,
    "object" text,
    "endpoint" text,
    "operation" text,
    "operation_fingerprint" text,
    "api_version" text,
    "outcome" text,
    "fault_code" text,
    "fault_side" text,
    "fault_public" text,
    "fault_cause" text,
    "grant" text,
    "config_digest" text,
    "backend_role" text,
    "lease_id" uuid,
    "limit_remaining" bigint,
    "cache_status" text,
    "status" bigint,
    "sqlstate" text,
    "rows" bigint,
    "bytes_in" bigint,
    "bytes_out" bigint,
    "duration_us" bigint,
    "accept_us" bigint,
    "authenticate_us" bigint,
    "decode_us" bigint,
    "authorize_us" bigint,
    "limit_us" bigint,
    "lease_us" bigint,
    "forward_us" bigint,
    "shape_us" bigint,
    "record_us" bigint,
    "trace_id" text,
    "span_id" text,
    "parent_span_id" text,
    "dag_id" text,
    "run_id" text,
    "task_id" text,
    "try_number" bigint,
    "map_index" bigint,
    "log_index" bigint,
    "leaf_hash" bytea,
    "ext" json
) {partition_by};
CREATE INDEX access_event_ts ON doorward.access_event (ts DESC);
CREATE INDEX access_event_access_id ON doorward.access_event (access_id);
CREATE INDEX access_event_log ON doorward.access_event USING brin (epoch, log_index) WITH (pages_per_range = 32);

-- How far each start of each gateway has come: what makes every frame come exactly once.
CREATE TABLE doorward.high_water (
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    last_seq bigint NOT NULL,
    next_leaf bigint NOT NULL,
    PRIMARY KEY (gateway_id, epoch)
);

-- Calls that have begun, and whose end is not known yet.
CREATE TABLE doorward.open_intent (
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    access_id uuid PRIMARY KEY,
    payload bytea NOT NULL,
    columns text NOT NULL
);
CREATE INDEX open_intent_epoch ON doorward.open_intent (gateway_id, epoch, seq);

CREATE TABLE doorward.audit_gap (
    from_us bigint NOT NULL,
    until_us bigint NOT NULL,
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    lost bigint NOT NULL,
    reason text NOT NULL,
    log_index bigint,
    leaf_hash bytea
);
CREATE INDEX audit_gap_until ON doorward.audit_gap (until_us);

-- Rows that access_event refused, as JSON, with their place in the log.
CREATE TABLE doorward.dead_letter (
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    access_id uuid NOT NULL,
    log_index bigint,
    leaf_hash bytea,
    reason text NOT NULL,
    payload text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letter_place ON doorward.dead_letter (gateway_id, epoch, log_index);

CREATE TABLE doorward.log_note (
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    log_index bigint NOT NULL,
    kind text NOT NULL,
    body text NOT NULL,
    leaf_hash bytea NOT NULL
);
CREATE INDEX log_note_place ON doorward.log_note (gateway_id, epoch, log_index);

CREATE TABLE doorward.checkpoint (
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    size bigint NOT NULL,
    signed_us bigint NOT NULL,
    note text NOT NULL,
    PRIMARY KEY (gateway_id, epoch, size)
);

CREATE TABLE doorward.log_tile (
    gateway_id text NOT NULL,
    epoch bigint NOT NULL,
    tile bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (gateway_id, epoch, tile)
);

-- Up to when retention has removed records of a class ('' is all of them).
CREATE TABLE doorward.retention_horizon (
    class text PRIMARY KEY,
    before_us bigint NOT NULL
);

-- What must not be removed, whatever its age.
CREATE TABLE doorward.legal_hold (
    hold_id uuid PRIMARY KEY,
    name text NOT NULL,
    subject_id uuid,
    resource text,
    from_us bigint,
    until_us bigint,
    created_us bigint NOT NULL,
    created_by text NOT NULL,
    released_us bigint
);

-- Records are added, and never changed. Only retention removes them, as the owner, and says so to this
-- function in its own transaction.
CREATE FUNCTION doorward.refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('doorward.retention', true) = 'on'
       AND pg_has_role(current_user, 'doorward_owner', 'USAGE') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'records are never changed: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege', HINT = 'Records go by retention only.';
END $$;

-- A tile of the log becomes wider, and keeps what it had.
CREATE FUNCTION doorward.check_tile() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF substring(NEW.hashes FROM 1 FOR length(OLD.hashes)) IS DISTINCT FROM OLD.hashes
       OR (NEW.gateway_id, NEW.epoch, NEW.tile) IS DISTINCT FROM (OLD.gateway_id, OLD.epoch, OLD.tile) THEN
        RAISE EXCEPTION 'a tile of the log only grows' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

DO $$
DECLARE
    kept text;
BEGIN
    FOREACH kept IN ARRAY ARRAY['access_event', 'audit_gap', 'dead_letter', 'log_note'] LOOP
        EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON doorward.%I
                        FOR EACH ROW EXECUTE FUNCTION doorward.refuse_change()', kept);
    END LOOP;
    FOREACH kept IN ARRAY ARRAY['access_event', 'audit_gap', 'dead_letter', 'log_note', 'checkpoint',
                                'log_tile', 'high_water'] LOOP
        EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON doorward.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION doorward.refuse_change()', kept);
    END LOOP;
    FOREACH kept IN ARRAY ARRAY['checkpoint', 'log_tile', 'high_water'] LOOP
        EXECUTE format('CREATE TRIGGER refuse_delete BEFORE DELETE ON doorward.%I
                        FOR EACH ROW EXECUTE FUNCTION doorward.refuse_change()', kept);
    END LOOP;
END $$;
CREATE TRIGGER check_tile BEFORE UPDATE ON doorward.log_tile
    FOR EACH ROW EXECUTE FUNCTION doorward.check_tile();

-- The writer adds; what it must find again, it may read: marks, open calls, and what it replaces.
GRANT USAGE ON SCHEMA doorward TO doorward_writer;
GRANT INSERT ON doorward.access_event, doorward.audit_gap, doorward.dead_letter, doorward.log_note
    TO doorward_writer;
GRANT SELECT, INSERT ON doorward.high_water, doorward.checkpoint, doorward.log_tile TO doorward_writer;
GRANT UPDATE (last_seq, next_leaf) ON doorward.high_water TO doorward_writer;
GRANT UPDATE (signed_us, note) ON doorward.checkpoint TO doorward_writer;
GRANT UPDATE (hashes) ON doorward.log_tile TO doorward_writer;
GRANT SELECT, INSERT, DELETE ON doorward.open_intent TO doorward_writer;
GRANT SELECT, INSERT ON doorward.legal_hold TO doorward_writer;
GRANT UPDATE (released_us) ON doorward.legal_hold TO doorward_writer;
GRANT SELECT ON doorward.schema_version, doorward.setting, doorward.retention_horizon TO doorward_writer;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA doorward FROM PUBLIC;
