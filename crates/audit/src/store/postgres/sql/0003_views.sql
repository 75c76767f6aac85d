-- Version 3: what readers see. The schema `timeline` has a view for each table, under the same name; each
-- reader sees the environments and groups of its scopes, and nothing without one.

-- Whom a scope is for is a database role: a login, or a group of them. '*' is every environment, or every group;
-- with a group, only records of principals who were in it are seen.
CREATE TABLE doorward.reader_scope (
    role name NOT NULL,
    environment text NOT NULL,
    "group" text NOT NULL,
    PRIMARY KEY (role, environment, "group")
);

-- The scopes of whoever asks. A role that is gone gives nobody anything.
CREATE VIEW doorward.own_scope AS
    SELECT s.environment, s."group" FROM doorward.reader_scope s JOIN pg_catalog.pg_roles r ON r.rolname = s.role
    WHERE pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER');

CREATE VIEW timeline.access_event WITH (security_barrier) AS
    SELECT e.* FROM doorward.access_event e
    WHERE (SELECT EXISTS (SELECT 1 FROM doorward.own_scope WHERE environment = '*' AND "group" = '*'))
       OR e.environment = ANY (ARRAY(SELECT environment FROM doorward.own_scope WHERE "group" = '*'))
       OR EXISTS (SELECT 1 FROM doorward.own_scope s
                  WHERE (s.environment = '*' OR s.environment = e.environment)
                  AND e."groups" IS NOT NULL AND s."group" IN (
                      SELECT g.value FROM json_array_elements_text(
                          CASE json_typeof(e."groups") WHEN 'array' THEN e."groups" ELSE '[]' END) g));

-- What refused records hold is for those who see everything; that there are some, and gaps, is for every reader.
CREATE VIEW timeline.dead_letter WITH (security_barrier) AS
    SELECT d.gateway_id, d.epoch, d.seq, d.access_id, d.log_index, d.leaf_hash, d.reason,
           CASE WHEN (SELECT EXISTS (SELECT 1 FROM doorward.own_scope WHERE environment = '*' AND "group" = '*'))
                THEN d.payload END AS payload, d.created_at
    FROM doorward.dead_letter d WHERE (SELECT EXISTS (SELECT 1 FROM doorward.own_scope));

CREATE VIEW timeline.audit_gap WITH (security_barrier) AS
    SELECT g.*, to_timestamp(g.from_us / 1000000.0) AS from_ts, to_timestamp(g.until_us / 1000000.0) AS until_ts
    FROM doorward.audit_gap g WHERE (SELECT EXISTS (SELECT 1 FROM doorward.own_scope));

DO $$
DECLARE
    shown text;
BEGIN
    FOREACH shown IN ARRAY ARRAY['high_water', 'log_note', 'checkpoint', 'log_tile', 'retention_horizon',
                                 'legal_hold', 'schema_version'] LOOP
        EXECUTE format('CREATE VIEW timeline.%1$I WITH (security_barrier) AS SELECT * FROM doorward.%1$I
                        WHERE (SELECT EXISTS (SELECT 1 FROM doorward.own_scope))', shown);
    END LOOP;
END $$;

GRANT USAGE ON SCHEMA timeline, doorward TO doorward_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA timeline TO doorward_reader;
GRANT SELECT ON doorward.own_scope TO doorward_reader;
