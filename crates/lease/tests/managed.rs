//! Managed logins against real servers: PostgreSQL 15 and 18, each test in a database of its own.

use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use doorward_core::{Login, Personal, Principal, ResourceName, RoleName, Secret};
use doorward_lease::{CredentialSource, Handle, Issued, ManagedLogins, Renewed, SourceError, Wanted};
use doorward_pgclient::{ManagedConfig, Target};
use doorward_settings::Document;
use doorward_testkit::postgres::{Cluster, Database};
use doorward_testkit::program::{Bounded, Program};
use doorward_testkit::wait_until;

const ADMIN_PASSWORD: &str = "s3cret-of-the-administrator";
const SOON: Duration = Duration::from_secs(60);

/// One server of each version, for all tests.
fn clusters() -> Result<[&'static Cluster; 2]> {
    static BOTH: OnceLock<Result<[Cluster; 2], String>> = OnceLock::new();
    let both = BOTH.get_or_init(|| {
        let both = || anyhow::Ok([Cluster::debian()?, Cluster::newer()?]);
        both().map_err(|error| format!("{error:#}"))
    });
    let both = both.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(both.each_ref())
}

/// A database with a role that may read one table, and an administrative login.
struct Shop {
    cluster: &'static Cluster,
    database: Database<'static>,
    /// Names of this test's roles end so.
    tag: String,
    newer: bool,
}

impl Shop {
    fn new(cluster: &'static Cluster, tag: &str) -> Result<Self> {
        let newer = cluster.sql("show server_version_num")?.starts_with("18");
        let shop = Self { cluster, database: cluster.database()?, tag: tag.to_owned(), newer };
        let (admin, role) = (shop.admin(), shop.role());
        cluster.sql(&format!(
            "create role {admin} login createrole password '{ADMIN_PASSWORD}'; create role {role} nologin;"
        ))?;
        if newer {
            cluster.sql(&format!("grant {role} to {admin} with admin option, inherit false, set false"))?;
        }
        shop.database.sql(&format!(
            "create table orders (id int, owner text); insert into orders values (1, 'x'); \
             grant usage, create on schema public to {role}; grant select, insert on orders to {role}"
        ))?;
        Ok(shop)
    }

    fn admin(&self) -> String {
        format!("admin_{}", self.tag)
    }

    fn role(&self) -> String {
        format!("analyst_{}", self.tag)
    }

    /// One gateway's source of logins.
    fn source(&self, more: &str) -> Result<ManagedLogins> {
        let yaml = format!("admin: {{ user: {}, password: \"env:UNUSED\" }}\n{more}", self.admin());
        let document =
            Document::parse("doorward.yaml", &yaml).map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let config: ManagedConfig =
            document.root().deserialize().map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let target = Target::parse(&self.database.url(), false)?;
        Ok(ManagedLogins::start(target, config, Secret::from(ADMIN_PASSWORD), false))
    }

    fn wanted(&self, who: Option<&str>) -> Wanted {
        let principal = who.map(|who| {
            let email = Some(Personal::from(format!("{who}@corp.example")));
            Arc::new(Principal { subject: Personal::from(who), email, ..Principal::public() })
        });
        Wanted { resource: ResourceName::new("shop"), role: Some(RoleName::new(self.role())), principal }
    }

    /// Runs SQL as a login that was issued.
    fn sql_as(&self, login: &Login, sql: &str) -> Result<String> {
        let password = login.password().context("a password")?.expose();
        self.cluster.sql_as(&login.user, password, self.database.name(), sql)
    }

    fn refuses(&self, login: &Login, sql: &str, why: &str) -> Result<()> {
        let refused = self.sql_as(login, sql).err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refused.contains(why), "{sql}: {why} was expected, and not: {refused:?}");
        Ok(())
    }

    /// A session that stays.
    fn session(&self, login: &Login) -> Result<Program> {
        let url = format!(
            "host=127.0.0.1 port={} dbname={} user={}",
            self.cluster.port(),
            self.database.name(),
            login.user
        );
        let session = Command::new("psql")
            .args(["-X", "-q", "-d", &url, "-c", "select pg_sleep(600)"])
            .env("PGPASSWORD", &**login.password().context("a password")?.expose())
            .open()?;
        let there = format!("select count(*) from pg_stat_activity where usename = '{}'", login.user);
        ensure!(wait_until(SOON, || self.database.sql(&there).is_ok_and(|count| count == "1")), "no session");
        Ok(session)
    }

    fn exists(&self, name: &str) -> Result<bool> {
        Ok(!self.database.sql(&format!("select 1 from pg_roles where rolname = '{name}'"))?.is_empty())
    }

    /// The time of a login is over.
    fn end(&self, name: &str) -> Result<()> {
        let over = format!(
            "do $$ begin execute format('alter role %I valid until %L', '{name}', now() - interval '1 min'); end $$"
        );
        self.cluster.sql(&over).map(drop)
    }
}

fn handle(issued: &Issued) -> Result<&Handle> {
    issued.handle.as_ref().context("a handle")
}

fn why(refused: Result<Issued, SourceError>) -> String {
    match refused {
        Ok(issued) => format!("issued {}", issued.login.user),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_for_a_role_can_do_what_the_role_may_and_nothing_else() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "rights")?;
        let role = shop.role();
        cluster.sql(&format!(
            "alter role {role} set statement_timeout = '37s'; alter role {role} set search_path = \"A b\", public; \
             create role other_rights; grant other_rights to {role}"
        ))?;
        cluster.sql("alter system set log_statement = 'all'")?;
        cluster.sql("select pg_reload_conf()")?;
        let source = shop.source("ttl: 1h")?;
        let issued = source.issue(&shop.wanted(None)).await?;
        let login = &issued.login;
        assert_eq!(issued.good_for, Some(Duration::from_secs(3600)));
        assert_eq!(shop.sql_as(login, "select id from orders")?, "1");
        assert_eq!(shop.sql_as(login, "show statement_timeout")?, "37s");
        assert_eq!(shop.sql_as(login, "show search_path")?, "\"A b\", public");
        shop.refuses(login, "create role mine", "permission denied")?;
        shop.refuses(login, "set role postgres", "permission denied")?;
        shop.refuses(login, &format!("set role {}", shop.admin()), "permission denied")?;
        if shop.newer {
            // What it inherits it cannot become, and so nothing behind it.
            for escape in [
                format!("set role {role}"),
                "set role other_rights".to_owned(),
                format!(
                    "select query_to_xml('select set_config(''role'', ''{role}'', false)', true, true, '')"
                ),
                format!("do $$ begin execute 'set role {role}'; end $$"),
            ] {
                shop.refuses(login, &escape, "permission denied")?;
            }
        }
        let facts = "select rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls, rolvaliduntil > now() + interval '59 min',
             (select string_agg(roleid::regrole::text, ',') from pg_auth_members where member = r.oid), rolpassword like 'SCRAM-SHA-256$%'
             from pg_authid r join pg_roles using (rolname, rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls) where rolname = ";
        let facts = facts
            .replace("r.oid", "pg_roles.oid")
            .replace("rolvaliduntil", "pg_roles.rolvaliduntil")
            .replace("rolpassword", "r.rolpassword");
        assert_eq!(shop.database.sql(&format!("{facts}'{}'", login.user))?, format!("f|t|{role}|t"));
        let comment = format!(
            "select shobj_description(oid, 'pg_authid') from pg_roles where rolname = '{}'",
            login.user
        );
        assert!(shop.database.sql(&comment)?.contains("\"resource\":\"shop\""));
        // All statements are in the server's log; the password is not.
        let log = cluster.log();
        assert!(
            log.contains(&*login.user) && !log.contains(&**login.password().context("a password")?.expose())
        );
        cluster.sql("alter system reset log_statement")?;
        cluster.sql("select pg_reload_conf()")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_renewed_while_it_is_needed_and_dropped_afterwards() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "renew")?;
        let source = shop.source("ttl: 10m")?;
        let issued = source.issue(&shop.wanted(None)).await?;
        let name = issued.login.user.to_string();
        cluster.sql(&format!("alter role \"{name}\" valid until '{}'", "infinity"))?;
        assert_eq!(source.renew(handle(&issued)?).await?, Renewed::For(Duration::from_secs(600)));
        let until = format!(
            "select rolvaliduntil < now() + interval '11 min' from pg_roles where rolname = '{name}'"
        );
        assert_eq!(shop.database.sql(&until)?, "t");
        shop.sql_as(&issued.login, "create table made_here (id int)")?;
        let session = shop.session(&issued.login)?;
        source.revoke(handle(&issued)?).await?;
        assert!(!session.end()?.status.success(), "the session has ended with the login");
        assert!(!shop.exists(&name)?);
        let owner = "select tableowner from pg_tables where tablename = 'made_here'";
        assert_eq!(shop.database.sql(owner)?, shop.role());
        // What is gone is not renewed, and revoking it again is no error.
        assert_eq!(source.renew(handle(&issued)?).await?, Renewed::Not);
        source.revoke(handle(&issued)?).await?;
        // The administrative login has kept nothing.
        let kept = format!(
            "select count(*) from pg_auth_members where member = '{}'::regrole and roleid <> '{}'::regrole",
            shop.admin(),
            shop.role()
        );
        assert_eq!(shop.database.sql(&kept)?, "0");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_the_same_login_on_every_gateway() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "person")?;
        shop.database.sql("alter table orders enable row level security; create policy own on orders using (owner = current_user)")?;
        let (one, two) = (shop.source("per: principal")?, shop.source("per: principal")?);
        let (of_one, of_two) =
            (one.issue(&shop.wanted(Some("ann"))).await?, two.issue(&shop.wanted(Some("ann"))).await?);
        let ben = two.issue(&shop.wanted(Some("ben"))).await?;
        assert_eq!(of_one.login.user, of_two.login.user);
        assert_eq!(of_one.login.password(), of_two.login.password());
        assert!(of_one.login.user.starts_with("dw_ann_corp_example_") && of_one.login.user != ben.login.user);
        shop.sql_as(&of_one.login, "insert into orders values (7, current_user)")?;
        assert_eq!(shop.sql_as(&of_two.login, "select id from orders")?, "7");
        assert_eq!(shop.sql_as(&ben.login, "select id from orders")?, "");
        // One gateway needs it no more; the other one still does.
        one.revoke(handle(&of_one)?).await?;
        assert_eq!(shop.sql_as(&of_two.login, "select id from orders")?, "7");
        let session = shop.session(&of_two.login)?;
        two.revoke(handle(&of_two)?).await?;
        assert!(!session.end()?.status.success());
        shop.refuses(&of_two.login, "select 1", "authentication failed")?;
        assert!(shop.exists(&of_two.login.user)?, "the person's rows are still theirs");
        // They come again: the same login, with another password.
        let again = one.issue(&shop.wanted(Some("ann"))).await?;
        assert_eq!(again.login.user, of_one.login.user);
        assert_ne!(again.login.password(), of_one.login.password());
        assert_eq!(shop.sql_as(&again.login, "select id from orders")?, "7");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_that_make_the_same_login_at_once_take_turns() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "turns")?;
        let sources: Vec<_> = (0..3).map(|_| shop.source("per: principal")).collect::<Result<_>>()?;
        let wanted = shop.wanted(Some("ann"));
        let issued = async |source: &ManagedLogins| source.issue(&wanted).await;
        let (a, b, c, d) =
            tokio::join!(issued(&sources[0]), issued(&sources[1]), issued(&sources[2]), issued(&sources[0]));
        let (a, b, c, d) = (a?, b?, c?, d?);
        for other in [&b, &c, &d] {
            assert_eq!((&other.login.user, other.login.password()), (&a.login.user, a.login.password()));
        }
        assert_eq!(shop.sql_as(&a.login, "select id from orders")?, "1");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_gateway_leaves_is_removed_by_another() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "orphans")?;
        let dead = shop.source("ttl: 1h")?;
        let left = dead.issue(&shop.wanted(None)).await?;
        let busy = dead.issue(&shop.wanted(None)).await?;
        let good = dead.issue(&shop.wanted(None)).await?;
        let person = shop.source("per: principal")?.issue(&shop.wanted(Some("ann"))).await?;
        shop.sql_as(&left.login, "create table left_behind (id int)")?;
        let session = shop.session(&busy.login)?;
        for login in [&left, &busy, &person] {
            shop.end(&login.login.user)?;
        }
        // A role that only looks like one of ours.
        cluster.sql("create role dw_foreign_1 valid until '2020-01-01'; comment on role dw_foreign_1 is 'doorward {}'")?;
        let _living = shop.source("reap_every: 1s")?;
        let gone = |name: &str| wait_until(SOON, || shop.exists(name).is_ok_and(|there| !there));
        assert!(gone(&left.login.user), "nobody is logged in with it");
        assert_eq!(
            shop.database.sql("select tableowner from pg_tables where tablename = 'left_behind'")?,
            shop.role()
        );
        assert!(shop.exists(&busy.login.user)?, "somebody is logged in with it");
        assert!(shop.exists(&good.login.user)?, "its time is not over");
        assert!(shop.exists("dw_foreign_1")?);
        let closed = format!("select rolcanlogin from pg_roles where rolname = '{}'", person.login.user);
        assert!(
            wait_until(SOON, || shop.database.sql(&closed).is_ok_and(|may| may == "f")),
            "a person's is kept"
        );
        cluster.sql(&format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{}'",
            busy.login.user
        ))?;
        session.end()?;
        assert!(gone(&busy.login.user));
        let _impatient = shop.source("reap_every: 1s\nkeep: 1s")?;
        assert!(gone(&person.login.user), "nobody has come for it for long");
        cluster.sql("drop role dw_foreign_1")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_gives_the_public_nothing_will_do() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "strict")?;
        let (admin, role, name) = (shop.admin(), shop.role(), shop.database.name().to_owned());
        shop.database.sql(&format!(
            "revoke all on database {name} from public; revoke all on schema public from public; \
             revoke execute on function pg_catalog.set_config(text, text, boolean) from public; \
             grant connect on database {name} to {admin}, {role}; \
             grant execute on function pg_catalog.set_config(text, text, boolean) to {admin}"
        ))?;
        let source = shop.source("ttl: 1h")?;
        let issued = source.issue(&shop.wanted(None)).await?;
        assert_eq!(shop.sql_as(&issued.login, "select id from orders")?, "1");
        shop.refuses(&issued.login, "create temp table t (id int)", "permission denied")?;
        source.revoke(handle(&issued)?).await?;
        assert!(!shop.exists(&issued.login.user)?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_safely_is_refused_in_words() -> Result<()> {
    for cluster in clusters()? {
        let shop = Shop::new(cluster, "refused")?;
        let (admin, role) = (shop.admin(), shop.role());
        let source = shop.source("per: principal\nlogins_max: 1")?;
        let ann = source.issue(&shop.wanted(Some("ann"))).await?;
        assert!(why(source.issue(&shop.wanted(Some("ben"))).await).contains("`logins_max` is 1"));
        // She is there already.
        source.issue(&shop.wanted(Some("ann"))).await?;
        source.revoke(handle(&ann)?).await?;

        let name = ann.login.user.to_string();
        cluster.sql(&format!("comment on role \"{name}\" is 'somebody''s'"))?;
        assert!(why(source.issue(&shop.wanted(Some("ann"))).await).contains("was not made for this person"));

        let mut nobodys = shop.wanted(None);
        nobodys.role = Some(RoleName::new("no_such_role"));
        let source = shop.source("ttl: 1h\nlogins_max: 1000")?;
        assert!(why(source.issue(&nobodys).await).contains("no role no_such_role"));
        cluster.sql(&format!("alter role {role} set role = '{role}'"))?;
        assert!(why(source.issue(&shop.wanted(None)).await).contains("sets `role`"));
        cluster.sql(&format!("alter role {role} reset all; alter role {role} set log_statement = 'all'"))?;
        assert!(why(source.issue(&shop.wanted(None)).await).contains("GRANT SET ON PARAMETER log_statement"));
        cluster.sql(&format!("alter role {role} reset all"))?;
        if shop.newer {
            cluster.sql(&format!("revoke {role} from {admin} cascade"))?;
            assert!(
                why(source.issue(&shop.wanted(None)).await)
                    .contains("WITH ADMIN OPTION, INHERIT FALSE, SET FALSE")
            );
        }
        cluster.sql(&format!("alter role {admin} nocreaterole"))?;
        assert!(why(source.issue(&shop.wanted(None)).await).contains("is not CREATEROLE"));
        cluster.sql(&format!("alter role {admin} superuser"))?;
        assert!(why(source.issue(&shop.wanted(None)).await).contains("is SUPERUSER"));
        cluster.sql(&format!("alter role {admin} nosuperuser createrole password 'another'"))?;
        let refused = source.issue(&shop.wanted(None)).await;
        assert!(matches!(refused, Err(SourceError::Refused(_))));
        assert!(!why(refused).contains(ADMIN_PASSWORD));
        let left = format!("select count(*) from pg_roles where rolname like 'dw\\_{role}%'");
        assert_eq!(shop.database.sql(&left)?, "0", "nothing half-made is left");
    }
    Ok(())
}
