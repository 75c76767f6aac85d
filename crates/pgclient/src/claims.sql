-- Signed session claims of Doorward: who is calling, for row-level security, in a way that no SQL of a client can forge.
--
-- The gateway signs who the caller is for one database session, and sets that as the session's `doorward.claims`. Functions
-- here check the signature and answer the claims. Run this as a superuser, or as an owner of the database with CREATEROLE.
--
-- What makes them safe: the key's table belongs to a role that nobody is a member of, and row-level security hides its rows
-- even from members of pg_read_all_data; the signature covers the session that it is for, as the server itself knows it, so
-- what was signed for another session says nothing here; functions name everything with its schema or search pg_catalog only,
-- and no setting of a session changes what they do.
BEGIN;
SET LOCAL search_path = pg_catalog, pg_temp;

DO $install$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'doorward_claims') THEN
        CREATE ROLE doorward_claims NOLOGIN NOINHERIT;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'doorward_claims' AND (rolcanlogin OR rolsuper)) THEN
        RAISE EXCEPTION 'the role doorward_claims is somebody''s: it can log in, or is a superuser';
    END IF;
    -- The installer acts as the owner until the end of this script only.
    EXECUTE 'GRANT doorward_claims TO CURRENT_USER';
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'doorward') THEN
        CREATE SCHEMA doorward AUTHORIZATION doorward_claims;
    END IF;
    IF EXISTS (SELECT FROM pg_namespace WHERE nspname = 'doorward' AND nspowner <> 'doorward_claims'::regrole) THEN
        RAISE EXCEPTION 'the schema doorward belongs to another role than doorward_claims';
    END IF;
END
$install$;

SET LOCAL ROLE doorward_claims;

-- Keys of HMAC-SHA-256, as its two padded forms (RFC 2104).
CREATE TABLE IF NOT EXISTS doorward.keys (
    kid text PRIMARY KEY,
    inner_pad bytea NOT NULL CHECK (octet_length(inner_pad) = 64),
    outer_pad bytea NOT NULL CHECK (octet_length(outer_pad) = 64),
    added timestamptz NOT NULL DEFAULT now()
);
-- Without a policy nobody sees a row but the owner, whatever is granted.
ALTER TABLE doorward.keys ENABLE ROW LEVEL SECURITY;
REVOKE ALL ON TABLE doorward.keys FROM PUBLIC;

-- The session as the server knows it. Process ids come again, and ports too; both at once do not, while one server runs.
CREATE OR REPLACE FUNCTION doorward.session() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN concat_ws('/',
        pg_backend_pid()::text,
        coalesce(host(inet_client_addr()) || ' ' || inet_client_port()::text, 'local'),
        ((extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint)::text,
        current_database()::text,
        session_user::text);
END
$body$;

-- The caller's claims; NULL when there are none, when they have expired, or when they were not signed for this session.
CREATE OR REPLACE FUNCTION doorward.claims() RETURNS jsonb
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    token text := current_setting('doorward.claims', true);
    payload text;
    proof text;
    key_inner bytea;
    key_outer bytea;
    expected bytea;
    answer jsonb;
BEGIN
    IF token IS NULL OR octet_length(token) > 65536 OR split_part(token, '.', 1) <> 'v1' THEN
        RETURN NULL;
    END IF;
    payload := split_part(token, '.', 3);
    proof := split_part(token, '.', 4);
    IF proof !~ '^[0-9a-f]{64}$' OR split_part(token, '.', 5) <> '' THEN
        RETURN NULL;
    END IF;
    SELECT k.inner_pad, k.outer_pad INTO key_inner, key_outer
    FROM doorward.keys k WHERE k.kid = split_part(token, '.', 2);
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    expected := sha256(key_outer || sha256(key_inner || convert_to(doorward.session() || chr(10) || payload, 'UTF8')));
    -- Compared under the key: how far two proofs agree does not show in the time that it takes.
    IF sha256(key_outer || decode(proof, 'hex')) <> sha256(key_outer || expected) THEN
        RETURN NULL;
    END IF;
    answer := convert_from(decode(payload, 'base64'), 'UTF8')::jsonb;
    IF (answer ->> 'exp')::bigint <= extract(epoch FROM statement_timestamp()) THEN
        RETURN NULL;
    END IF;
    RETURN answer;
END
$body$;

-- One claim as text; NULL when there is none.
CREATE OR REPLACE FUNCTION doorward.claim(name text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN doorward.claims() ->> name;
END
$body$;

-- One claim as text; an error when there is none.
CREATE OR REPLACE FUNCTION doorward.require_claim(name text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
AS $body$
DECLARE
    value text := doorward.claims() ->> name;
BEGIN
    IF value IS NULL THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('this session has no claim "%s" that Doorward has signed', name),
            HINT = 'Connect through the gateway; after RESET ALL or DISCARD ALL wait for its answer before the next statement.';
    END IF;
    RETURN value;
END
$body$;

-- Whether the caller is in a group, as the issuer spells it.
CREATE OR REPLACE FUNCTION doorward.in_group(name text) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    RETURN coalesce(doorward.claims() -> 'groups' ? name, false);
END
$body$;

GRANT USAGE ON SCHEMA doorward TO PUBLIC;
GRANT EXECUTE ON FUNCTION doorward.session(), doorward.claims(), doorward.claim(text), doorward.require_claim(text),
    doorward.in_group(text) TO PUBLIC;
-- KEY
RESET ROLE;
REVOKE doorward_claims FROM CURRENT_USER;
COMMIT;
