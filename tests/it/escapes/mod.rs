//! Escapes from what the grants say, tried by a real client through the real binary on both versions of PostgreSQL.
//!
//! What must hold for each: nothing that the client is sent holds a canary, nothing that the canaries stand for has
//! changed, whoever should stop it does, with the SQLSTATE that is expected, and the session is still its own role.

mod list;
mod protocol;

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use doorward_testkit::gateway::{Running, Setup};
use doorward_testkit::issuer::Issuer;
use doorward_testkit::postgres::{Cluster, Database};

use crate::bed::{PASSWORD, base, roles_turn};
use crate::wire::client::{Said, Wire, query, run, sync};

/// What nobody must see.
const CANARY: &[u8] = b"canary-of-the";
/// The password of the roles.
const ROLE_PASSWORD: &str = "s3cret-of-the-escaping-roles";
/// A name one byte shorter than the longest: what PostgreSQL makes of a longer one that ends in `é`.
const LONG_NAME: &str = "vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv";

const CONTENT: &str = "
create table orders (id int primary key, customer text);
insert into orders select n, 'customer ' || n from generate_series(1, 5) n;
create table vault (id serial primary key, word text);
insert into vault (word) select 'canary-of-the-vault' from generate_series(1, 50);
create table crown (id int primary key, word text);
insert into crown values (1, 'canary-of-the-crown');
alter table crown owner to esc_admin;
create table inbox (id int, word text);
create table letters (id int, word text);
insert into letters values (1, 'canary-of-the-letters');
create table open_letters (owner text, word text);
insert into open_letters values ('nobody', 'canary-of-the-open-letters'), ('esc_guest', 'hello');
alter table open_letters enable row level security;
create policy own on open_letters using (owner = current_user);
create table \"Orders\" (word text);
create table \"orders/x\" (word text);
create table ärger (word text);
create table VERYLONG (word text);
create table orders_all (id int, word text) partition by list (id);
create table orders_2026 partition of orders_all for values in (1);
create schema \"public/orders\";
create table \"public/orders\".orders (word text);
create schema hid;
create table hid.orders (word text);
create materialized view orders_seen as select * from orders;
do $$ declare t regclass; begin
  foreach t in array array['\"Orders\"', '\"orders/x\"', 'ärger', 'VERYLONG', '\"public/orders\".orders', 'hid.orders'] loop
    execute 'insert into ' || t || ' values (''canary-of-the-names'')';
  end loop; end $$;
insert into orders_all values (1, 'canary-of-the-partition');
create function secret_word() returns text language sql immutable security definer as $$ select word from crown $$;
create function peek(o orders) returns text language sql security definer as $$ select word from crown $$;
create function same(a int, b int) returns text language sql security definer as $$ select word from crown $$;
create function public.json_value(a text, b text) returns text language sql security definer as $$ select word from crown $$;
alter function public.json_value(text, text) owner to esc_admin;
create operator === (leftarg = int, rightarg = int, function = same);
alter function secret_word() owner to esc_admin;
alter function peek(orders) owner to esc_admin;
alter function same(int, int) owner to esc_admin;
create schema lab authorization esc_builder;
grant usage on schema hid, \"public/orders\" to esc_guest, esc_builder;
grant create on schema public to esc_guest;
grant all on all tables in schema public, hid, \"public/orders\" to esc_guest;
grant all on all sequences in schema public to esc_guest;
revoke all on crown from esc_guest;
grant select on orders, open_letters to esc_builder;
analyze;
";

/// All that an escape might change.
const STATE: &str = "select md5(string_agg(line, '|')) from (
  select 'vault' || id || word from vault union all select 'crown' || id || word from crown
  union all select 'letters' || word from letters union all select 'open' || owner || word from open_letters
  union all select 'inbox' from inbox where word like 'canary%' or word = 'unrecorded'
  union all select 'orders' || id || customer from orders
  union all select 'hidden' || word from hid.orders
  union all select rolname || rolsuper || rolcreaterole || rolbypassrls || rolcanlogin || coalesce(rolconfig::text, '')
    || coalesce(rolvaliduntil::text, '') from pg_roles where rolname like 'esc\\_%'
  union all select 'member' || r.rolname || m.rolname from pg_auth_members a join pg_roles r on r.oid = a.roleid
    join pg_roles m on m.oid = a.member where m.rolname like 'esc\\_%'
  union all select 'setting' || setconfig::text from pg_db_role_setting s join pg_database d on d.oid = s.setdatabase
    where d.datname = current_database()
  union all select 'relation' || c.oid || c.relname || c.relowner || coalesce(c.relacl::text, '') || c.relrowsecurity
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname in ('public', 'hid', 'public/orders')
  union all select 'function' || p.oid || p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
    where n.nspname in ('public', 'hid')
  union all select 'schema' || nspname from pg_namespace where nspname not like 'pg\\_%'
  union all select 'extension' || extname from pg_extension union all select 'server' || srvname from pg_foreign_server
  union all select 'publication' || pubname from pg_publication union all select 'trigger' || evtname from pg_event_trigger
  union all select 'large object' || oid from pg_largeobject_metadata
  order by 1) s(line)";

/// The roles of the database can do more than these.
const GRANTS: &str = "
grants:
  guests: { to: group:guests, allow: [\"read shop/public/orders\", \"read shop/public/open_letters\", \"write shop/public/inbox\"], as: esc_guest }
  builders: { to: group:builders, allow: [\"read,write,manage,execute shop/lab/**\", \"manage shop/lab\", \"read shop/public/orders\", \"read shop/public/open_letters\"], as: esc_builder }
";

/// Who stops an escape, and what the session is told.
#[derive(Clone, Copy, Debug)]
enum Stopped {
    /// The gateway: the first error is its own, with this SQLSTATE.
    Gateway(&'static str),
    /// The server: the gateway lets it through, and the role does not suffice.
    Server(&'static str),
    /// One of them: versions of PostgreSQL differ, and modes of the pool.
    Either(&'static [&'static str]),
    /// The session is ended: by the gateway, or by the server.
    Ended(&'static str),
    /// Nobody: it leads nowhere.
    Nobody,
}

/// The castle that is to be held.
struct Castle {
    gateway: Running,
    issuer: Issuer,
    database: Database<'static>,
}

/// What became of one escape.
struct Course {
    answers: Vec<Said>,
    over: bool,
}

impl Castle {
    /// One whose sessions have connections in this mode.
    fn build(cluster: &'static Cluster, mode: &str) -> Result<Self> {
        {
            let _turn = roles_turn();
            cluster.ensure_role("esc_admin", "nologin")?;
            for role in ["esc_guest", "esc_builder"] {
                cluster.ensure_role(role, &format!("login noinherit password '{ROLE_PASSWORD}'"))?;
            }
            // The guest could become the administrator, if the gateway let it.
            cluster.sql("grant esc_admin to esc_guest")?;
            cluster.ensure_role("authenticator", &format!("login noinherit password '{PASSWORD}'"))?;
        }
        let database = cluster.database()?;
        database.sql(&CONTENT.replace("VERYLONG", LONG_NAME))?;
        // Sessions must not read strings in another way than the gateway, whatever is set here.
        database.sql(&format!("alter database {} set standard_conforming_strings = off", database.name()))?;
        let issuer = Issuer::start()?;
        let roles =
            "roles: { esc_guest: { password: \"env:ROLES\" }, esc_builder: { password: \"env:ROLES\" } }";
        let config = base(&issuer, &database)
            .replace("admin: 127.0.0.1:0", "admin: 127.0.0.1:0, postgres: 127.0.0.1:0")
            .replace(
                "pool: { size: 8 }",
                &format!("pool: {{ size: 8, sessions: 20, mode: {mode} }}\n    {roles}"),
            );
        let gateway = Setup::new(&format!("{config}{GRANTS}"))?
            .env("SHOP_PASSWORD", PASSWORD)
            .env("ROLES", ROLE_PASSWORD)
            .start()?;
        Ok(Self { gateway, issuer, database })
    }

    fn token(&self, group: &str) -> Result<String> {
        self.issuer.token("eve").claim("groups", &[group][..]).sign()
    }

    fn enter(&self, group: &str) -> Result<Wire> {
        Wire::connect(self.gateway.address("postgres")?, "eve", "shop", &self.token(group)?)
    }

    /// Sends batches, each of which ends with ReadyForQuery, and gathers what comes back.
    fn run(&self, group: &str, batches: &[Vec<u8>]) -> Result<Course> {
        let mut wire = self.enter(group)?;
        let mut course = Course { answers: Vec::new(), over: false };
        for batch in batches {
            wire.send(batch)?;
            course.answers.extend(wire.until_ready()?);
            course.over = course.answers.last().is_some_and(|said| said.tag == 'E');
            if course.over {
                return Ok(course);
            }
        }
        wire.send(&query("rollback"))?;
        course.answers.extend(wire.until_ready()?);
        self.is_itself(&mut wire, group)?;
        Ok(course)
    }

    /// Whether a session is the role that it was opened as, and does what it may.
    fn is_itself(&self, wire: &mut Wire, group: &str) -> Result<()> {
        let role = format!("esc_{}", group.trim_end_matches('s'));
        let wanted = format!("{role}|{role}|off");
        let asked = "select current_user || '|' || session_user || '|' || current_setting('is_superuser')";
        wire.send(&query(asked))?;
        let said = wire.until_ready()?;
        let row = said.iter().find(|said| said.tag == 'D').context("the session answers no more")?;
        ensure!(row.body.ends_with(wanted.as_bytes()), "it is now {}", row.body.escape_ascii());
        wire.send(&query("select count(*) from public.orders"))?;
        ensure!(
            wire.until_ready()?.iter().any(|said| said.tag == 'D'),
            "the session can do nothing any more"
        );
        Ok(())
    }

    fn state(&self) -> Result<String> {
        self.database.sql(STATE)
    }
}

impl Course {
    /// Whether it went as it should.
    fn check(&self, stopped: Stopped) -> Result<()> {
        if let Some(said) = self.answers.iter().find(|said| contains(&said.body, CANARY)) {
            bail!("LED OUT: {}", said.body.escape_ascii());
        }
        let error = self.answers.iter().find(|said| said.tag == 'E');
        let Some(error) = error else {
            ensure!(matches!(stopped, Stopped::Nobody), "nobody stopped it");
            return Ok(());
        };
        let code = error.field(b'C');
        let own = error.field(b'D').starts_with("doorward ");
        let as_wanted = match stopped {
            Stopped::Gateway(wanted) => own && !self.over && code == wanted,
            Stopped::Server(wanted) => !own && !self.over && code == wanted,
            Stopped::Either(codes) => !self.over && codes.contains(&&*code),
            Stopped::Ended(wanted) => self.over && code == wanted,
            Stopped::Nobody => false,
        };
        let who = if own { "the gateway" } else { "the server" };
        let over = if self.over { ", and the session is over" } else { "" };
        ensure!(as_wanted, "{who} said {code} {}{over}, instead of {stopped:?}", error.field(b'M'));
        Ok(())
    }
}

fn contains(body: &[u8], word: &[u8]) -> bool {
    body.windows(word.len()).any(|window| window == word)
}

/// Tries all of them; how many, and the complaints.
struct Trial<'a> {
    castle: &'a Castle,
    state: String,
    tried: usize,
    complaints: String,
}

impl Trial<'_> {
    fn try_one(&mut self, group: &str, what: &str, batches: &[Vec<u8>], stopped: Stopped) -> Result<()> {
        self.tried += 1;
        let done = self.castle.run(group, batches).and_then(|course| course.check(stopped));
        if let Err(error) = done {
            writeln!(self.complaints, "{what:?} as {group}: {error:#}")?;
        }
        Ok(())
    }

    /// Whether all is as it was.
    fn look(&mut self, what: &str) -> Result<()> {
        let state = self.castle.state()?;
        if state != self.state {
            writeln!(self.complaints, "{what:?}: LED OUT: something has changed")?;
            self.state = state;
        }
        Ok(())
    }

    /// One escape by the simple protocol, and where it can be by the extended one.
    fn statements(&mut self, group: &str, (lines, stopped): &list::Escape) -> Result<()> {
        let simple: Vec<_> = lines.split('\n').map(query).collect();
        self.try_one(group, lines, &simple, *stopped)?;
        // A text of several statements is no prepared one; what makes objects can be done once.
        if group == "guests" && !lines.contains(';') {
            let extended: Vec<_> = lines.split('\n').map(|line| [run(line), sync()].concat()).collect();
            self.try_one(group, lines, &extended, *stopped)?;
        }
        self.look(lines)
    }
}

fn escapes(cluster: &'static Cluster, mode: &str) -> Result<()> {
    let castle = Castle::build(cluster, mode)?;
    let version = castle.database.sql("show server_version")?;
    let state = castle.state()?;
    let mut trial = Trial { castle: &castle, state, tried: 0, complaints: String::new() };
    for escapes in
        [list::ROLES, list::TEXTS, list::OUTSIDE, list::READS, list::WRITES, list::NAMES, list::LEXING]
    {
        for escape in escapes {
            trial.statements("guests", escape)?;
        }
    }
    for escape in list::BUILDING {
        trial.statements("builders", escape)?;
    }
    for (what, batches, stopped) in protocol::escapes() {
        trial.try_one("guests", what, &batches, stopped)?;
        trial.look(what)?;
    }
    for startup in protocol::STARTUPS {
        trial.tried += 1;
        if let Err(error) = protocol::start_up(&castle, startup) {
            writeln!(trial.complaints, "{startup:?}: {error:#}")?;
        }
    }
    trial.look("start-up packets")?;
    let version = version.split(' ').next().unwrap_or_default();
    let Trial { tried, complaints, .. } = trial;
    ensure!(
        complaints.is_empty(),
        "of {tried} escapes on PostgreSQL {version} in {mode} mode:\n{complaints}"
    );
    println!("{tried} escapes tried on PostgreSQL {version} in {mode} mode, none led out");
    Ok(())
}

#[test]
fn escapes_on_debians_postgresql() -> Result<()> {
    escapes(Cluster::shared()?, "session")
}

#[test]
fn escapes_on_a_newer_postgresql() -> Result<()> {
    escapes(Cluster::shared_newer()?, "session")
}

#[test]
fn escapes_in_transaction_mode_on_debians_postgresql() -> Result<()> {
    escapes(Cluster::shared()?, "transaction")
}

#[test]
fn escapes_in_transaction_mode_on_a_newer_postgresql() -> Result<()> {
    escapes(Cluster::shared_newer()?, "transaction")
}
