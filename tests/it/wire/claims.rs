//! Signed session claims through the real binary: policies see the person, and no SQL of a client makes them see
//! another one.

use super::*;

const KEY: &str = "0123456789abcdef-of-the-claims-key-0123456789abcdef";
const ROLE_PASSWORD: &str = "s3cret-of-the-claims-reader";

/// A gateway that signs claims, in front of rows that belong to persons.
struct Notes {
    gateway: Running,
    issuer: Issuer,
    database: Database<'static>,
    role: String,
}

impl Notes {
    fn start(cluster: &'static Cluster, pool: &str, installed: bool) -> Result<Self> {
        let database = cluster.database()?;
        let role = format!("claims_{}", database.name());
        {
            let _turn = roles_turn();
            cluster.ensure_role(&role, &format!("login noinherit password '{ROLE_PASSWORD}'"))?;
            cluster.ensure_role("authenticator", &format!("login noinherit password '{PASSWORD}'"))?;
        }
        let issuer = Issuer::start()?;
        let config = base(&issuer, &database)
            .replace("admin: 127.0.0.1:0", "admin: 127.0.0.1:0, postgres: 127.0.0.1:0")
            .replace(
                "pool: { size: 8 }",
                &format!(
                    "pool: {{ {pool} }}\n    roles: {{ {role}: {{ password: \"env:ROLE\" }} }}\n    \
                     claims: {{ key: \"env:KEY\", include: [team] }}"
                ),
            );
        let grants = format!(
            "grants:\n  staff: {{ to: group:staff, allow: [\"read,write,execute,manage shop/**\"], as: {role} }}\n"
        );
        let setup = Setup::new(&format!("{config}{grants}"))?
            .env("SHOP_PASSWORD", PASSWORD)
            .env("ROLE", ROLE_PASSWORD)
            .env("KEY", KEY);
        if installed {
            let sql = setup.run(&["claims", "sql", "shop", "--with-key"])?;
            let sql = String::from_utf8(sql.stdout)?;
            ensure!(sql.contains("CREATE") && !sql.contains(KEY), "{sql}");
            // Again does no harm.
            for _ in 0..2 {
                let _turn = roles_turn();
                database.sql(&sql)?;
            }
            database.sql(&format!(
                "create table notes (owner text not null default doorward.claim('sub'), body text);
                 alter table notes enable row level security;
                 create policy own on notes using (owner = (select doorward.claim('sub')));
                 insert into notes values ('cat', 'of cat');
                 grant select, insert on notes to {role}; create schema evil authorization {role};"
            ))?;
        }
        Ok(Self { gateway: setup.start()?, issuer, database, role })
    }

    fn psql(&self, who: &str, script: &str) -> Result<(String, String)> {
        let token = self.issuer.token(who).claim("groups", ["staff"]).claim("team", "red").sign()?;
        let address = self.gateway.address("postgres")?;
        quiet_psql(address.port(), "any", "shop", &token, script)
    }

    /// Past the gateway: as somebody who has stolen the role's password.
    fn direct(&self, script: &str) -> Result<(String, String)> {
        quiet_psql(self.database.cluster().port(), &self.role, self.database.name(), ROLE_PASSWORD, script)
    }

    /// Has the database run what this command prints.
    fn install(&self, command: &[&str]) -> Result<()> {
        let sql = String::from_utf8(self.gateway.run(command)?.stdout)?;
        let _turn = roles_turn();
        self.database.sql(&sql).map(drop)
    }

    /// What `doctor` finds out of the claims.
    fn doctor_says(&self, state: &str, text: &str) -> Result<()> {
        let output = self.gateway.run(&["doctor", "--json"])?;
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let findings = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found =
            findings.into_iter().find(|finding| finding["part"] == "claims of shop").unwrap_or_default();
        let said = found["text"].as_str().unwrap_or_default();
        ensure!(found["state"] == state && said.contains(text) && !lines.contains(KEY), "{lines}");
        ensure!(output.status.success() == (state == "ok"), "{lines}");
        Ok(())
    }

    fn sees(&self, who: &str, script: &str, expected: &str) -> Result<()> {
        let (out, err) = self.psql(who, script)?;
        ensure!(out == expected, "{who}: {script}\nsees {out}{err}\n{}", self.gateway.log());
        Ok(())
    }
}

const COUNT: &str = "select count(*) from notes;\n";

/// Each person has their own rows, whatever their session is asked to forget.
fn each_sees_their_own(notes: &Notes) -> Result<()> {
    notes.sees(
        "ann",
        "insert into notes (body) values ('of ann');\nselect owner, body from notes;\n",
        "ann|of ann\n",
    )?;
    notes.sees("ben", COUNT, "0\n")?;
    notes.sees("cat", "select body from notes;\n", "of cat\n")?;
    notes.sees(
        "ann",
        "select doorward.claim('team'), doorward.claim('iss'), doorward.in_group('staff'), doorward.in_group('x');\n",
        "red|idp|t|f\n",
    )?;
    notes.sees(
        "ann",
        &format!("reset all;\n{COUNT}begin;\nreset all;\n{COUNT}rollback;\n{COUNT}"),
        "1\n1\n1\n",
    )?;
    notes.sees("ann", &format!("discard all;\n{COUNT}begin;\n{COUNT}commit;\n{COUNT}"), "1\n1\n1\n")?;
    let (out, err) = notes.psql("ann", &format!("set doorward.claims = 'x';\n{COUNT}"))?;
    ensure!(out == "1\n" && err.contains("shown, not set"), "{out}{err}");
    let (out, err) = notes.psql("ann", &format!("reset all \\; {COUNT}"))?;
    ensure!(out.is_empty() && err.contains("one by one"), "{out}{err}");
    // Without claims nobody's rows are seen.
    let (out, err) = notes.direct(&format!("{COUNT}select doorward.require_claim('sub');\n"))?;
    ensure!(out == "0\n" && err.contains("no claim \"sub\" that Doorward has signed"), "{out}{err}");
    Ok(())
}

/// What was signed for one session says nothing in another, nor when it is changed.
fn forging_is_of_no_use(notes: &Notes) -> Result<()> {
    let (token, err) = notes.psql("cat", "select current_setting('doorward.claims');\n")?;
    let token = token.trim();
    let parts: Vec<&str> = token.split('.').collect();
    ensure!(parts.len() == 4 && parts[0] == "v1", "{token}{err}");
    let (out, _) = notes.direct(&format!("{COUNT}set doorward.claims = '{token}';\n{COUNT}"))?;
    ensure!(out == "0\n0\n", "replayed past the gateway: {out}");

    // In a session of the gateway, by code that it does not see: what was signed for another session, and what was
    // signed for this one and changed.
    notes.sees(
        "ben",
        &format!(
            "create function evil.replay() returns void language plpgsql as $$ begin
               perform set_config('doorward.claims', '{token}', false); end $$;
             create function evil.change() returns void language plpgsql as $$ declare t text := current_setting('doorward.claims'); begin
               perform set_config('doorward.claims', split_part(t, '.', 1) || '.' || split_part(t, '.', 2) || '.' ||
                 replace(encode(convert_to(replace(convert_from(decode(split_part(t, '.', 3), 'base64'), 'UTF8'), '\"ben\"', '\"cat\"'), 'UTF8'), 'base64'), E'\\n', '')
                 || '.' || split_part(t, '.', 4), false); end $$;
             select evil.change();\nselect convert_from(decode(split_part(current_setting('doorward.claims'), '.', 3), 'base64'), 'UTF8') like '%\"cat\"%';
             {COUNT}select evil.replay();\n{COUNT}"
        ),
        "\nt\n0\n\n0\n",
    )?;
    notes.sees("ben", "drop function evil.replay(), evil.change();\n", "")?;

    // Whatever the role may do with the database, it is not the functions' owner, and has no key.
    let role = &notes.role;
    let (kid, zeros) = (parts[1], "0".repeat(64));
    for attempt in [
        "select inner_pad from doorward.keys;".to_owned(),
        "create or replace function doorward.claim(name text) returns text language sql as $$ select 'cat' $$;".to_owned(),
        "create function doorward.mine() returns text language sql as $$ select 'cat' $$;".to_owned(),
        "alter function doorward.claims() owner to current_user;".to_owned(),
        "insert into doorward.keys values ('mine', ''::bytea, ''::bytea);".to_owned(),
        "alter table notes disable row level security;".to_owned(),
        "set role doorward_claims;".to_owned(),
        // Functions and operators of its own, in front of the server's.
        format!(
            "create function evil.sha256(bytea) returns bytea language sql immutable as $$ select '\\x00'::bytea $$;
             create function evil.ne(bytea, bytea) returns boolean language sql immutable as $$ select false $$;
             create operator evil.<> (leftarg = bytea, rightarg = bytea, function = evil.ne);
             create function evil.current_setting(text, boolean) returns text language sql as $$ select 'x' $$;
             create table evil.keys as select '{kid}'::text as kid, ''::bytea as inner_pad, ''::bytea as outer_pad;
             set search_path = evil, pg_catalog, public;
             set doorward.claims = 'v1.{kid}.eyJzdWIiOiJjYXQifQ==.{zeros}';"
        ),
        format!("create temp table keys as select '{kid}'::text as kid; set search_path = pg_temp, public, pg_catalog;"),
        format!("set doorward.claims = 'v1.{kid}.eyJzdWIiOiJjYXQifQ==.{zeros}';"),
        "set doorward.claims = 'v1.x.eyJzdWIiOiJjYXQifQ==.zz'; set plpgsql.variable_conflict = use_column;".to_owned(),
        "set standard_conforming_strings = off; set bytea_output = escape; set row_security = off;".to_owned(),
    ] {
        let (out, err) = notes.direct(&format!("{attempt}\nselect 'rows', count(*) from public.notes;\n"))?;
        ensure!(!out.contains("rows|1") && !out.contains("of cat"), "{attempt}\n{out}{err}");
    }
    // Even a member of pg_read_all_data sees no key.
    notes.database.sql(&format!("alter role {role} inherit; grant pg_read_all_data to {role}"))?;
    let (out, err) = notes.direct("select count(*) from doorward.keys;\n")?;
    ensure!(out == "0\n", "{out}{err}");
    notes.database.sql(&format!("revoke pg_read_all_data from {role}; alter role {role} noinherit"))?;
    Ok(())
}

/// Claims end with the proof of who they are of: the gateway says when, and the database looks at it.
fn claims_end(notes: &Notes) -> Result<()> {
    let token = notes.issuer.token("ann").claim("groups", ["staff"]).expires_in(3_600).sign()?;
    let address = notes.gateway.address("postgres")?;
    let left = "select (doorward.claim('exp')::bigint - extract(epoch from now())) between 3000 and 3660;\n";
    let (out, err) = quiet_psql(address.port(), "any", "shop", &token, left)?;
    ensure!(out == "t\n", "the proof's end and its grace: {out}{err}");
    // With the key at hand, which only its owner has: the same claims before and after their end.
    let kid = notes.database.sql("select kid from doorward.keys")?;
    for (ends_in, expected) in [("60", "ann"), ("0", ""), ("-1", "")] {
        let signed = format!(
            "with payload as (select encode(convert_to(json_build_object('sub', 'ann', 'exp',
                 floor(extract(epoch from statement_timestamp()))::bigint + {ends_in})::text, 'UTF8'), 'base64') as text),
             proof as (select encode(sha256(outer_pad || sha256(inner_pad || convert_to(doorward.session() || chr(10) || text, 'UTF8'))), 'hex') as text
               from doorward.keys, payload)
             select set_config('doorward.claims', 'v1.{}.' || payload.text || '.' || proof.text, true) <> '' from payload, proof;
             select coalesce(doorward.claim('sub'), '');",
            kid.trim()
        );
        let said = notes.database.sql(&signed)?;
        let said: Vec<&str> = said.lines().collect();
        ensure!(
            said.first() == Some(&"t") && said.get(1).copied().unwrap_or_default() == expected,
            "{ends_in}: {said:?}"
        );
    }
    Ok(())
}

fn claims_hold(cluster: &'static Cluster) -> Result<()> {
    let notes = Notes::start(cluster, "size: 4, sessions: 20", true)?;
    each_sees_their_own(&notes)?;
    claims_end(&notes)?;
    forging_is_of_no_use(&notes)?;
    // Sessions that share connections do not share claims.
    let shared = Notes::start(cluster, "size: 2, sessions: 20, mode: transaction", true)?;
    each_sees_their_own(&shared)?;
    for _ in 0..2 {
        shared.sees("ann", COUNT, "1\n")?;
        shared.sees("ben", COUNT, "0\n")?;
        shared.sees("cat", COUNT, "1\n")?;
    }
    Ok(())
}

#[test]
fn wire_signed_claims_on_debians_postgresql() -> Result<()> {
    claims_hold(Cluster::shared()?)
}

#[test]
fn wire_signed_claims_on_a_newer_postgresql() -> Result<()> {
    on_newer(claims_hold)
}

#[test]
fn wire_a_session_whose_claims_cannot_be_believed_is_refused() -> Result<()> {
    let cluster = Cluster::shared()?;
    let notes = Notes::start(cluster, "size: 4, sessions: 20", false)?;
    let (out, err) = notes.psql("ann", "select 1;\n")?;
    ensure!(
        out.is_empty() && err.contains("doorward claims sql") && err.contains("lease.claims-not-set"),
        "{out}{err}"
    );
    notes.doctor_says("fail", "`doorward claims sql RESOURCE` prints")?;
    notes.install(&["claims", "sql", "shop"])?;
    let (out, err) = notes.psql("ann", "select 1;\n")?;
    ensure!(out.is_empty() && err.contains("--with-key"), "{out}{err}");
    notes.doctor_says("fail", "--with-key")?;
    notes.install(&["claims", "sql", "shop", "--with-key"])?;
    ensure!(notes.psql("ann", "select 1;\n")?.0 == "1\n");
    notes.doctor_says("ok", "believes what the gateway signs")
}
