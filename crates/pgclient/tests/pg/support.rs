//! A private cluster with a login as an operator would make it, and passes for any role.

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{
    Access, Action, Actions, Allowance, Arrival, AuditMode, Call, Caller, Case, Completion, Credentials,
    Decision, Fault, GrantName, Login, Object, Obligations, Pass, Permit, Policy, Principal, Refusal,
    ResourceName, RoleName, Secret, Shaped, SystemClock, Timestamp, Verb,
};
use doorward_pgclient::{Pool, PoolSettings, Reply, Request, RunError, Target};
use doorward_testkit::organs::{self, MemoryRecorder, Rules, Tokens};
use doorward_testkit::postgres::Cluster;

pub(crate) const LOGIN: &str = "authenticator";
pub(crate) const PASSWORD: &str = "correct horse";
/// Until when something has come to be, however busy the machine is.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Roles, rows under row-level security, and functions that leave things behind.
const SCHEMA: &str = r#"
create role authenticator login noinherit password 'correct horse';
create role alice; create role bob;
grant alice, bob to authenticator;
create schema shop; grant usage on schema shop to public;
create table shop.notes (id int primary key, owner name not null, body text,
                         parent int references shop.notes deferrable initially deferred);
alter table shop.notes enable row level security;
create policy own on shop.notes using (owner = current_user);
grant select, insert, update, delete on shop.notes to alice, bob;
insert into shop.notes values (1, 'alice', 'hers', null), (2, 'bob', 'his', null);
create function shop.leak() returns void volatile language plpgsql as $$ begin
  perform set_config('role', 'bob', false), set_config('request.jwt.claims', '{"sub":"leaked"}', false),
          set_config('app.tenant', 'leaked', false), set_config('search_path', 'leaked', false),
          set_config('application_name', 'leaked', false), pg_advisory_lock(42);
  create temp table leaked (x int);
  execute 'listen leaked'; execute 'prepare leaked as select 1';
  execute 'declare leaked cursor with hold for select 1';
end $$;
create function shop.quiet_leak() returns text stable language plpgsql as $$ begin
  perform set_config('role', 'bob', false), set_config('app.tenant', 'leaked', false),
          set_config('search_path', 'leaked', false), set_config('statement_timeout', '1', false),
          pg_advisory_lock(42);
  return 'done';
end $$;
create view shop.leaky as select shop.quiet_leak() as said;
grant select on shop.leaky to alice, bob;
create function shop.forget() returns void language plpgsql as $$ begin execute 'deallocate all'; end $$;
create view shop.forgetful as select 1 as one, shop.forget() is null as forgot;
grant select on shop.forgetful to alice, bob;
"#;

pub(crate) fn login() -> Arc<Login> {
    Arc::new(Login::new(LOGIN, Secret::from(PASSWORD)))
}

/// A fresh cluster with the schema above.
pub(crate) fn cluster() -> Cluster {
    prepared(Cluster::debian().unwrap())
}

/// Both versions that are tested.
pub(crate) fn clusters() -> Vec<Cluster> {
    vec![cluster(), prepared(Cluster::newer().unwrap())]
}

fn prepared(cluster: Cluster) -> Cluster {
    cluster.sql(SCHEMA).unwrap();
    cluster
}

pub(crate) fn pool(cluster: &Cluster, settings: PoolSettings) -> Pool {
    let target = Target::parse(&cluster.url("postgres"), false).unwrap();
    Pool::new(target, login(), settings).unwrap()
}

pub(crate) fn small(size: usize) -> PoolSettings {
    PoolSettings { size, wait_max: SOON, connect_timeout: SOON, ..PoolSettings::default() }
}

/// Waits until it is so, while the runtime goes on.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    let waited = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waited).await.unwrap();
}

/// Waits until the server is at work on so many statements with this text in them.
pub(crate) async fn running(cluster: &Cluster, part: &str, count: usize) {
    let sql = format!(
        "select count(*) from pg_stat_activity where state = 'active' and pid <> pg_backend_pid()
         and position('{part}' in query) > 0"
    );
    until(|| cluster.sql(&sql).unwrap().trim() == count.to_string()).await;
}

/// Runs one read-only statement as a role.
pub(crate) async fn read(pool: &Pool, role: &str, sql: &str) -> Result<Reply, RunError> {
    let request = Request { read_only: true, sql, ..Request::default() };
    run(pool, role, &request).await
}

/// Runs one statement that may change something as a role.
pub(crate) async fn write(pool: &Pool, role: &str, sql: &str) -> Result<Reply, RunError> {
    run(pool, role, &Request { sql, ..Request::default() }).await
}

pub(crate) async fn run(pool: &Pool, role: &str, request: &Request<'_>) -> Result<Reply, RunError> {
    pool.run(&mut pass(role).await, request).await
}

/// The values of all rows, one line a row.
pub(crate) fn text(reply: &Reply) -> String {
    let row = |row: doorward_pgclient::Row<'_>| {
        let values = row.values().map(|value| value.map_or("NULL".into(), String::from_utf8_lossy));
        values.collect::<Vec<_>>().join("|")
    };
    reply.rows().map(row).collect::<Vec<_>>().join("\n")
}

/// A pass for a role, as the road mints it.
pub(crate) async fn pass(role: &str) -> Pass {
    let resource = organs::resource("db", "test", AuditMode::Required, Arc::new(()));
    let snapshot = organs::snapshot(&Tokens::new(), &Rules::allow_all(), vec![resource]);
    let mut snapshot = Arc::into_inner(snapshot).unwrap();
    snapshot.policy = Arc::new(As(RoleName::new(role)));
    let gateway = organs::gateway(Arc::new(snapshot), &MemoryRecorder::new(), Arc::new(SystemClock));
    let access = gateway.open(Arrival { door: "test", source_ip: None, confidential: true });
    gateway.walk(access, TakePass(Credentials::None)).await.into_inner().unwrap()
}

/// Allows all, as one role.
struct As(RoleName);

impl Policy for As {
    fn decide(&self, _: &Case<'_>) -> Decision {
        let obligations = Obligations { role: Some(self.0.clone()), ..Obligations::default() };
        Decision::Allow { grant: GrantName::new("all"), obligations }
    }

    fn admit(&self, _: &Permit, _: Timestamp) -> Result<Option<Allowance>, Fault> {
        Ok(None)
    }
}

/// A call that hands its pass to the test.
struct TakePass(Credentials);

impl Call for TakePass {
    type Answer = Option<Pass>;
    type Reply = ();

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.0)
    }

    async fn decode(&mut self, _: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        let object = Object::from_segments(["shop", "notes"]);
        Ok(Actions::one(Action { verb: Verb::Read, resource: ResourceName::new("db"), object }))
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<(), Fault> {
        Ok(())
    }

    fn shape(&mut self, (): (), _: &mut Pass) -> Result<Shaped<Self::Answer>, Fault> {
        Ok(Shaped::Live(Box::new(Some)))
    }

    fn refuse(&mut self, _: &Refusal<'_>) -> (Self::Answer, Completion) {
        (None, Completion::default())
    }
}
