//! The catalogue against real databases.

use std::time::{Duration, Instant};

use doorward_pgclient::CatalogWatch;
use doorward_pgclient::catalog::{Generated, RelationKind, Volatility};

use crate::support::{clusters, pool, small};

const WAIT: Duration = Duration::from_secs(10);

const OBJECTS: &str = r#"
create schema api;
create domain api.email as text check (value like '%@%');
create table api.people (
  id bigint generated always as identity primary key, mail api.email not null,
  name varchar(20) default 'nobody', upper_name text generated always as (upper(name)) stored, tags text[]);
comment on table api.people is 'who';
create table api.badges (person bigint unique references api.people, code int, kind int, primary key (kind, code));
create view api.names as select id, name from api.people;
create view api.totals as select count(*) as n from api.people;
create function api.add(a int, b int default 1) returns int immutable language sql as 'select a + b';
create function api.add(a text) returns text stable language sql as 'select a';
create function api.people_named(variadic names text[]) returns setof api.people stable language sql
  as 'select * from api.people where name = any (names)';
create function api.pair(out x int, out y text) volatile language sql as $$ select 1, 'a' $$;
create function api.rows(n int) returns table (i int, j int) stable language sql as 'select n, n';
create procedure api.tidy() language sql as 'select 1';
create function api.touch() returns trigger language plpgsql as 'begin return new; end';
"#;

#[tokio::test]
async fn all_kinds_of_objects() {
    for cluster in clusters() {
        cluster.sql(OBJECTS).unwrap();
        let watch = CatalogWatch::spawn(pool(&cluster, small(1)), vec!["api".into()]);
        assert!(watch.wait_for(1, WAIT).await, "{:?}", watch.status());
        let catalog = watch.current();
        let people = catalog.relation("api", "people").unwrap();
        assert_eq!(
            (people.kind, people.insertable, people.comment.as_deref()),
            (RelationKind::Table, true, Some("who"))
        );
        assert_eq!(people.primary_key, ["id".into()]);
        let generated: Vec<_> = people.columns.iter().map(|column| column.generated).collect();
        assert_eq!(
            generated,
            [Generated::IdentityAlways, Generated::No, Generated::No, Generated::Expression, Generated::No]
        );
        let mail = people.column("mail").unwrap();
        assert_eq!((&*mail.type_name, mail.base_oid, mail.nullable), ("api.email", 25, false));
        let name = people.column("name").unwrap();
        assert_eq!((&*name.type_name, name.nullable), ("character varying(20)", true));
        assert_eq!(name.default.as_deref(), Some("'nobody'::character varying"));
        let badges = catalog.relation("api", "badges").unwrap();
        assert_eq!(badges.primary_key, ["kind".into(), "code".into()]);
        assert!(catalog.relation("api", "names").unwrap().updatable);
        assert!(!catalog.relation("api", "totals").unwrap().insertable);
        let [key] = catalog.foreign_keys() else { panic!("one foreign key") };
        assert_eq!((&*key.from.1, &*key.to.1, key.one_to_one), ("badges", "people", true));
        assert_eq!(
            (&key.from_columns[..], &key.to_columns[..]),
            (&["person".into()][..], &["id".into()][..])
        );
        assert!(catalog.relation("shop", "notes").is_none() && catalog.relation("api", "nothing").is_none());
        assert_eq!(catalog.relations("api").count(), 4);
    }
}

#[tokio::test]
async fn functions_with_all_kinds_of_arguments() {
    for cluster in clusters() {
        cluster.sql(OBJECTS).unwrap();
        let watch = CatalogWatch::spawn(pool(&cluster, small(1)), vec!["api".into()]);
        assert!(watch.wait_for(1, WAIT).await, "{:?}", watch.status());
        let catalog = watch.current();
        let [add, add_text] = catalog.functions("api", "add") else { panic!("two functions") };
        assert_eq!((add.volatility, add_text.volatility), (Volatility::Immutable, Volatility::Stable));
        let arguments: Vec<_> =
            add.arguments.iter().map(|a| (&*a.name, &*a.type_name, a.has_default)).collect();
        assert_eq!(arguments, [("a", "integer", false), ("b", "integer", true)]);
        let [named] = catalog.functions("api", "people_named") else { panic!("one function") };
        assert!(named.arguments[0].variadic && named.returns.set && named.returns.composite);
        assert_eq!(named.returns.relation, Some(("api".into(), "people".into())));
        let [pair] = catalog.functions("api", "pair") else { panic!("one function") };
        assert_eq!((pair.arguments.len(), pair.returns.composite), (0, true));
        assert_eq!(pair.returns.columns, ["x".into(), "y".into()]);
        let [rows] = catalog.functions("api", "rows") else { panic!("one function") };
        assert_eq!((&*rows.arguments[0].name, rows.arguments.len(), rows.returns.set), ("n", 1, true));
        assert!(catalog.functions("api", "tidy")[0].procedure);
        assert!(catalog.functions("api", "touch").is_empty());
    }
}

#[tokio::test]
async fn a_change_is_seen_after_a_notification_and_on_demand() {
    for cluster in clusters() {
        let watch = CatalogWatch::spawn(pool(&cluster, small(1)), vec!["shop".into()]);
        assert!(watch.wait_for(1, WAIT).await, "{:?}", watch.status());
        let old = watch.current();
        cluster.sql("create table shop.one (a int); notify pgrst, 'reload schema'").unwrap();
        assert!(watch.wait_for(2, WAIT).await, "{:?}", watch.status());
        assert!(watch.current().relation("shop", "one").is_some() && old.relation("shop", "one").is_none());
        // What is not for us does nothing; a storm of notifications is one load.
        cluster.sql("notify pgrst, 'reload config'").unwrap();
        for _ in 0..3 {
            cluster.sql("notify doorward").unwrap();
        }
        assert!(watch.wait_for(3, WAIT).await);
        cluster.sql("create table shop.two (a int)").unwrap();
        watch.reload();
        assert!(watch.wait_for(4, WAIT).await || watch.current().relation("shop", "two").is_some());
        // After a restart the catalogue is loaded anew; meanwhile the old one serves.
        cluster.restart().unwrap();
        let epoch = watch.current().epoch();
        assert!(watch.wait_for(epoch + 1, WAIT).await, "{:?}", watch.status());
        assert!(watch.status().connected && watch.status().error.is_none());
    }
}

#[tokio::test]
async fn a_failed_load_keeps_the_old_catalogue_and_is_reported() {
    let cluster = crate::support::cluster();
    let watch = CatalogWatch::spawn(pool(&cluster, small(1)), vec!["shop".into()]);
    assert!(watch.wait_for(1, WAIT).await, "{:?}", watch.status());
    cluster.stop().unwrap();
    let started = Instant::now();
    while watch.status().connected && started.elapsed() < WAIT {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = watch.status();
    assert!(!status.connected && status.error.is_some() && status.epoch == 1);
    assert!(watch.current().relation("shop", "notes").is_some());
}

#[tokio::test]
async fn many_tables_load_quickly() {
    for cluster in clusters() {
        let many = "do $$ begin for i in 1..1000 loop execute format('create table shop.t%s (id int primary key, \
             a text, b text not null default ''x'', c timestamptz, d jsonb, e numeric(10,2), f int references shop.notes)', i); \
             end loop; end $$";
        cluster.sql(many).unwrap();
        let watch = CatalogWatch::spawn(pool(&cluster, small(1)), vec!["shop".into()]);
        assert!(watch.wait_for(1, WAIT).await, "{:?}", watch.status());
        assert!(watch.current().relations("shop").count() > 1000);
        let took = watch.status().load_time;
        // A fraction of a second on a quiet machine; the tests of a whole workspace are not quiet.
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
}
