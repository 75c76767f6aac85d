//! Statements and their needs.

use super::{Shop, check, describe, needs, script};
use crate::resolve;

#[test]
fn select() {
    check(&[
        ("select 1", "nothing"),
        ("select", "nothing"),
        ("values (1), (2)", "nothing"),
        ("select * from orders", "read public/orders"),
        ("select * from public.orders", "read public/orders"),
        ("select * from shop.public.orders", "read public/orders"),
        ("table orders", "read public/orders"),
        ("select * from ONLY orders", "read public/orders"),
        ("select * from \"Mixed Case\"", "read public/Mixed Case"),
        ("select * from \"select\"", "read public/select"),
        ("select * from ORDERS", "read public/orders"),
        ("select * from orders, customers", "read public/customers, read public/orders"),
        (
            "select * from orders o join customers c on c.id = o.customer",
            "read public/customers, read public/orders",
        ),
        (
            "select * from orders natural left join (customers cross join items)",
            "read public/customers, read public/items, read public/orders",
        ),
        ("select * from order_totals", "read public/order_totals"),
        ("select * from daily", "read public/daily"),
        ("select * from remote", "read public/remote"),
        ("select * from orders_2026", "read public/orders_2026"),
        ("select last_value from orders_id_seq", "read public/orders_id_seq"),
        ("select * from sales.orders", "read sales/orders"),
        ("select * from q1", "refused: no-relation"),
        ("select * from nothing_here", "refused: no-relation"),
        ("select (select max(id) from orders)", "read public/orders"),
        ("select 1 where exists (select from orders)", "read public/orders"),
        ("select 1 where 1 in (select id from orders)", "read public/orders"),
        ("select 1 where 1 = any (select id from orders)", "read public/orders"),
        ("select array(select id from orders)", "read public/orders"),
        ("select * from (select * from orders) x", "read public/orders"),
        (
            "select * from customers c, lateral (select * from orders where customer = c.id) x",
            "read public/customers, read public/orders",
        ),
        (
            "select * from orders union all select * from customers",
            "read public/customers, read public/orders",
        ),
        (
            "(select 1 from orders) except (select 1 from customers intersect select 1 from items)",
            "read public/customers, read public/items, read public/orders",
        ),
        (
            "select * from orders order by (select 1 from customers) limit (select 1 from items)",
            "read public/customers, read public/items, read public/orders",
        ),
        (
            "select count(*) filter (where exists (select from items)) over (partition by (select 1 from customers)) from orders",
            "read public/customers, read public/items, read public/orders",
        ),
        (
            "select case when exists (select from orders) then (select 1 from items) end",
            "read public/items, read public/orders",
        ),
        (
            "select coalesce((select 1 from orders), greatest(1, (select 2 from items)))",
            "read public/items, read public/orders",
        ),
        ("select (select o from orders o).id", "read public/orders"),
        (
            "select (array(select id from orders))[(select 1 from items)]",
            "read public/items, read public/orders",
        ),
        ("select row(1, (select 1 from orders))", "read public/orders"),
        ("select xmlelement(name a, (select 1 from orders))", "read public/orders"),
        ("select json_object('a': (select 1 from orders))", "read public/orders"),
        ("select json_arrayagg(id) from orders", "read public/orders"),
        ("select json_array(select id from orders)", "read public/orders"),
        (
            "select * from json_table('{}', '$' columns (a int path '$.a' default (select 1 from orders) on empty))",
            "read public/orders",
        ),
        (
            "select * from xmltable('/a' passing (select '<a/>'::xml from orders) columns b int)",
            "read public/orders",
        ),
        (
            "select * from orders group by grouping sets ((id), rollup (customer, (select 1 from items)))",
            "read public/items, read public/orders",
        ),
        (
            "select distinct on ((select 1 from items)) * from orders having (select true from customers) window w as (order by (select 1 from ledger))",
            "read public/customers, read public/items, read public/ledger, read public/orders",
        ),
        (
            "select * from orders tablesample bernoulli (10) repeatable ((select 1 from items))",
            "read public/items, read public/orders",
        ),
        ("select '2026-01-01'::date, cast('1' as int), interval '1 day', 'a' collate \"C\"", "nothing"),
        ("select current_user, session_user, current_timestamp, localtime", "nothing"),
        (
            "select x is null, x is true, x is distinct from y, x between 1 and 2, x like 'a', x is json from (select 1, 2) as t(x, y)",
            "nothing",
        ),
        ("select * from unnest(array[1,2]) with ordinality", "nothing"),
        ("select * from rows from (generate_series(1, 2), total()) as t", "execute public/total"),
    ]);
}

#[test]
fn common_table_expressions() {
    check(&[
        ("with a as (select * from orders) select * from a", "read public/orders"),
        ("with orders as (select 1) select * from orders", "nothing"),
        ("with orders as (select * from orders) select * from orders", "read public/orders"),
        ("with recursive orders as (select 1 union select 1 from orders) select * from orders", "nothing"),
        ("with orders as (select 1) select * from public.orders", "read public/orders"),
        ("with a as (select * from items), b as (select * from a) select * from b", "read public/items"),
        ("with a as (select * from items), items as (select 1) select * from items", "read public/items"),
        ("select * from (with orders as (select 1) select * from orders) x, orders", "read public/orders"),
        ("select * from orders, (with orders as (select 1) select * from orders) x", "read public/orders"),
        ("with orders as (select 1) select (select max(x.y) from (select 1 as y from orders) x)", "nothing"),
        ("with orders as (select 1) select 1 union select * from orders", "nothing"),
        (
            "with d as (delete from orders returning *) select * from d",
            "read public/orders, delete public/orders",
        ),
        ("with orders as (select 1) delete from orders", "delete public/orders"),
        ("with orders as (select 1) insert into orders values (1)", "write public/orders"),
        ("with orders as (select 1) update orders set id = 1", "write public/orders"),
        (
            "with i as (insert into orders values (1) returning id), u as (update items set id = 2 where id in (select id from i)) select 1",
            "read public/items, write public/items, read public/orders, write public/orders",
        ),
        (
            "with recursive t as (select 1 as n union all select n + 1 from t) search depth first by n set o cycle n set c using p select * from t",
            "nothing",
        ),
    ]);
}

#[test]
fn insert() {
    check(&[
        ("insert into orders values (1)", "write public/orders"),
        ("insert into orders (id, total) values (1, default), (2, $1)", "write public/orders"),
        ("insert into orders default values", "write public/orders"),
        ("insert into orders select * from items", "read public/items, write public/orders"),
        ("insert into orders values ((select max(id) from items))", "read public/items, write public/orders"),
        ("insert into orders values (1) returning id", "read public/orders, write public/orders"),
        ("insert into orders values (1) on conflict do nothing", "write public/orders"),
        (
            "insert into orders values (1) on conflict (id) do nothing",
            "read public/orders, write public/orders",
        ),
        (
            "insert into orders values (1) on conflict (id) do update set total = excluded.total",
            "read public/orders, write public/orders",
        ),
        (
            "insert into orders values (1) on conflict on constraint k do update set total = (select 1 from items) where orders.id > 1",
            "read public/items, read public/orders, write public/orders",
        ),
        (
            "insert into orders values (1) returning (select name from customers)",
            "read public/customers, read public/orders, write public/orders",
        ),
        ("insert into order_totals values (1)", "write public/order_totals"),
        ("insert into nothing_here values (1)", "refused: no-relation"),
        ("insert into pg_class values (1)", "write pg_catalog/pg_class"),
        (
            "insert into orders values (nextval('orders_id_seq'))",
            "write public/orders, write public/orders_id_seq",
        ),
    ]);
}

#[test]
fn update_delete_merge_truncate() {
    check(&[
        ("update orders set total = 1", "write public/orders"),
        ("update orders set total = total + 1", "read public/orders, write public/orders"),
        ("update orders set total = 1 where id = 2", "read public/orders, write public/orders"),
        ("update orders set total = 1 returning id", "read public/orders, write public/orders"),
        (
            "update orders o set total = i.total from items i",
            "read public/items, read public/orders, write public/orders",
        ),
        (
            "update orders set (total, tax) = (select 1, 2 from items)",
            "read public/items, write public/orders",
        ),
        ("update only public.orders set total = default", "write public/orders"),
        ("update orders set total = 1 where current of c", "read public/orders, write public/orders"),
        ("delete from orders", "delete public/orders"),
        ("delete from orders where id = 1", "read public/orders, delete public/orders"),
        (
            "delete from orders using items where orders.id = items.id",
            "read public/items, read public/orders, delete public/orders",
        ),
        ("delete from orders returning *", "read public/orders, delete public/orders"),
        (
            "merge into orders o using items i on o.id = i.id when matched then update set total = 1",
            "read public/items, read public/orders, write public/orders",
        ),
        (
            "merge into orders o using items i on o.id = i.id when matched then delete",
            "read public/items, read public/orders, delete public/orders",
        ),
        (
            "merge into orders o using items i on o.id = i.id when matched and i.id > 1 then do nothing when not matched then insert values (1)",
            "read public/items, read public/orders, write public/orders",
        ),
        (
            "merge into orders o using (select * from items) i on o.id = i.id when not matched by source then delete returning merge_action()",
            "read public/items, read public/orders, delete public/orders",
        ),
        ("truncate orders", "delete public/orders"),
        ("truncate table orders, sales.q1 restart identity", "delete public/orders, delete sales/q1"),
        ("truncate orders cascade", "refused: computed"),
    ]);
}

#[test]
fn locks() {
    check(&[
        ("select * from orders for update", "read public/orders, write public/orders"),
        ("select * from orders for key share skip locked", "read public/orders, write public/orders"),
        (
            "select * from orders o join items i using (id) for update of o",
            "read public/items, read public/orders, write public/orders",
        ),
        (
            "select * from orders o join items i using (id) for update",
            "read public/items, write public/items, read public/orders, write public/orders",
        ),
        ("select * from (select * from orders) x for share", "read public/orders, write public/orders"),
        (
            "select * from (select * from orders) x, items for share of x",
            "read public/items, read public/orders, write public/orders",
        ),
        (
            "with a as (select * from orders) select * from a, items for update",
            "read public/items, write public/items, read public/orders",
        ),
        ("lock table orders", "write public/orders"),
        ("lock orders, items in exclusive mode nowait", "write public/items, write public/orders"),
        ("lock table orders in access share mode", "read public/orders"),
    ]);
}

#[test]
fn functions_and_operators() {
    check(&[
        ("select lower('A')", "execute public/lower"),
        ("select pg_catalog.lower('A')", "nothing"),
        ("select upper('A'), now(), random(), gen_random_uuid(), clock_timestamp()", "nothing"),
        ("select count(*), sum(x), string_agg(y, ',' order by y) from (values (1, 'a')) t(x, y)", "nothing"),
        ("select tax(1)", "execute public/tax"),
        ("select public.tax(1)", "execute public/tax"),
        ("select total(1, 2, 3)", "execute public/total"),
        ("select sales.forecast(1)", "execute sales/forecast"),
        ("select forecast(1, 2)", "refused: no-function"),
        ("select nothing_here()", "refused: no-function"),
        ("select * from total() where tax(1) > 2", "execute public/tax, execute public/total"),
        ("select 1 order by total()", "execute public/total"),
        ("select 1 from orders where id = (select total())", "read public/orders, execute public/total"),
        ("call close_books(1)", "execute public/close_books"),
        ("call close_books((select 1 from orders))", "execute public/close_books, read public/orders"),
        ("select total(variadic array[1])", "execute public/total"),
        ("select total(a => 1)", "execute public/total"),
        ("select orders.secret from orders", "read public/orders, execute public/secret"),
        ("select o.id from orders o", "read public/orders"),
        ("select (o).full_name from orders o", "execute public/full_name, read public/orders"),
        ("select full_name(o) from orders o", "execute public/full_name, read public/orders"),
        ("select relname(c) from pg_class c", "refused: no-function"),
        ("select regclass('orders'), text(1), uuid('x')", "nothing"),
        ("select nothing_here(1)", "refused: no-function"),
        ("select case 1 when 2 then 3 end", "nothing"),
        ("select 1 @@@ 2", "execute public/total"),
        ("select 1 operator(public.@@@) 2", "execute public/total"),
        ("select 1 + 2", "nothing"),
        ("select 1 operator(sales.+) 2", "execute public/tax"),
        ("select 1 where 1 @@@ any (select 2)", "execute public/total"),
        ("select 1 order by 1 using <", "nothing"),
        ("select nextval('orders_id_seq')", "write public/orders_id_seq"),
        ("select nextval('orders_id_seq'::regclass)", "write public/orders_id_seq"),
        ("select nextval('sales.q1_id_seq'::pg_catalog.regclass)", "write sales/q1_id_seq"),
        ("select pg_catalog.setval('\"sales\".\"q1_id_seq\"', 5, true)", "write sales/q1_id_seq"),
        ("select currval('hibernate_sequence'), lastval()", "read public/hibernate_sequence"),
        ("select nextval('nothing_here')", "refused: no-relation"),
        ("select nextval($1)", "refused: computed"),
        ("select nextval('orders' || '_id_seq')", "refused: computed"),
        ("select nextval(name => 'orders_id_seq')", "refused: computed"),
        ("select setval(pg_get_serial_sequence('orders', 'id'), 1)", "write public/orders"),
        ("select 'orders'::regclass", "nothing"),
        ("select pg_notify('jobs', 'x')", "write pg_channel/jobs"),
        ("select pg_notify($1, 'x')", "refused: computed"),
        ("select pg_advisory_lock(1), pg_try_advisory_xact_lock(2)", "nothing"),
        ("select pg_sleep(1)", "nothing"),
        ("select pg_terminate_backend(1)", "execute pg_catalog/pg_terminate_backend"),
        ("select pg_cancel_backend(1)", "execute pg_catalog/pg_cancel_backend"),
        ("select pg_reload_conf()", "execute pg_catalog/pg_reload_conf"),
        ("select lo_create(0)", "execute pg_catalog/lo_create"),
        ("select lo_get(1)", "execute pg_catalog/lo_get"),
        ("select * from pg_stat_get_activity(null)", "execute pg_catalog/pg_stat_get_activity"),
        ("select set_config('application_name', 'x', false)", "nothing"),
        ("select set_config('search_path', '', false)", "nothing"),
    ]);
}

#[test]
fn the_session_and_the_transaction() {
    check(&[
        ("begin", "nothing"),
        ("start transaction isolation level serializable read only deferrable", "nothing"),
        ("commit and chain", "nothing"),
        ("end", "nothing"),
        ("rollback", "nothing"),
        ("abort", "nothing"),
        ("savepoint a", "nothing"),
        ("release a", "nothing"),
        ("rollback to a", "nothing"),
        ("prepare transaction 'x'", "nothing"),
        ("set search_path to sales, public", "nothing"),
        ("set local statement_timeout = '1s'", "nothing"),
        ("set time zone 'UTC'", "nothing"),
        ("set names 'UTF8'", "nothing"),
        ("reset all", "nothing"),
        ("set transaction read write", "nothing"),
        ("set session characteristics as transaction read only", "nothing"),
        ("set constraints all deferred", "nothing"),
        ("show all", "nothing"),
        ("show search_path", "nothing"),
        ("discard all", "nothing"),
        ("deallocate all", "nothing"),
        ("listen jobs", "connect pg_channel/jobs"),
        ("unlisten *", "nothing"),
        ("notify jobs, 'payload'", "write pg_channel/jobs"),
        ("declare c cursor for select * from orders", "read public/orders"),
        ("declare c scroll cursor with hold for select * from orders", "read public/orders"),
        ("fetch 10 from c", "nothing"),
        ("move forward all in c", "nothing"),
        ("close c", "nothing"),
        ("prepare p (int) as select * from orders where id = $1", "read public/orders"),
        ("prepare p as insert into orders values (1)", "write public/orders"),
        ("execute p", "nothing"),
        ("execute p (total())", "execute public/total"),
        ("explain select * from orders", "read public/orders"),
        ("explain (analyze, format json) delete from orders", "delete public/orders"),
        ("explain execute p", "refused: sql-as-text"),
        ("create table t as execute p", "refused: sql-as-text"),
        ("copy orders to stdout", "read public/orders"),
        ("copy orders (id, total) to stdout with (format csv, header)", "read public/orders"),
        ("copy orders from stdin", "write public/orders"),
        ("copy orders from stdin where id > (1)", "write public/orders"),
        (
            "copy (select * from orders o join items i using (id)) to stdout",
            "read public/items, read public/orders",
        ),
        ("copy (delete from orders returning *) to stdout", "read public/orders, delete public/orders"),
    ]);
}

#[test]
fn structure_and_rights() {
    check(&[
        ("create table t (id int primary key, x text default upper('a'))", "manage public/t"),
        ("create table sales.t (id int)", "manage sales/t"),
        ("create table if not exists orders (id int)", "manage public/orders"),
        (
            "create table t (o int references orders (id), check (id > tax(1)))",
            "manage public/orders, manage public/t, execute public/tax",
        ),
        ("create table t (like orders including all)", "read public/orders, manage public/t"),
        ("create table t () inherits (orders)", "manage public/orders, manage public/t"),
        (
            "create table t partition of orders for values from (1) to (2)",
            "manage public/orders, manage public/t",
        ),
        ("create temp table t (id int)", "nothing"),
        ("create table pg_temp.t (id int)", "nothing"),
        ("create table t as select * from orders", "read public/orders, manage public/t"),
        ("create temp table t as select * from orders", "read public/orders"),
        ("select * into t from orders", "read public/orders, manage public/t"),
        ("create view v as select * from orders", "read public/orders, manage public/v"),
        ("create or replace temp view v as select * from orders", "read public/orders"),
        ("create materialized view m as select * from orders", "manage public/m, read public/orders"),
        ("refresh materialized view concurrently daily", "manage public/daily"),
        (
            "create index on orders (id, (tax(total))) where total > 0",
            "manage public/orders, execute public/tax",
        ),
        ("drop index orders_idx", "manage public/orders_idx"),
        ("alter table orders add column x int default 1, drop column y", "manage public/orders"),
        (
            "alter table orders attach partition orders_2026 for values in (1)",
            "manage public/orders, manage public/orders_2026",
        ),
        ("alter table orders enable row level security", "manage public/orders"),
        ("alter table orders rename to o", "manage public/orders"),
        ("alter table orders rename column a to b", "manage public/orders"),
        ("alter table orders set schema sales", "manage sales, manage public/orders"),
        ("alter table orders owner to bob", "manage public/orders"),
        ("drop table orders", "manage public/orders"),
        ("drop table if exists nothing_here", "manage public/nothing_here"),
        ("drop table orders, sales.q1 cascade", "manage public/orders, manage sales/q1"),
        ("drop view order_totals", "manage public/order_totals"),
        ("drop schema sales cascade", "manage sales"),
        ("create schema s create table t (id int)", "manage s, manage s/t"),
        ("alter schema sales rename to s", "manage s, manage sales"),
        ("create sequence s", "manage public/s"),
        ("alter sequence orders_id_seq restart with 1", "manage public/orders_id_seq"),
        (
            "create function f(a int default total()) returns int language sql as 'select 1'",
            "manage public/f, execute public/total",
        ),
        (
            "create function f() returns int language plpgsql set role = 'admin' as 'begin end'",
            "refused: role",
        ),
        (
            "create function f() returns int begin atomic select id from orders; end",
            "manage public/f, read public/orders",
        ),
        ("drop function tax(numeric)", "manage public/tax"),
        ("alter function tax(numeric) security definer", "manage public/tax"),
        (
            "create trigger t before insert on orders for each row execute function audit()",
            "execute public/audit, manage public/orders",
        ),
        ("drop trigger t on orders", "manage public/orders"),
        ("create policy p on orders using (owner = current_user)", "manage public/orders"),
        (
            "create rule r as on insert to orders do also delete from items",
            "delete public/items, manage public/orders",
        ),
        ("comment on table orders is 'x'", "manage public/orders"),
        ("comment on column public.orders.id is 'x'", "manage public/orders"),
        ("grant select on orders, items to bob", "manage public/items, manage public/orders"),
        ("grant all on all tables in schema sales to bob with grant option", "manage sales"),
        ("revoke execute on function tax(numeric) from public", "manage public/tax"),
        ("grant usage on schema sales to bob", "manage sales"),
        ("vacuum (analyze) orders", "manage public/orders"),
        ("analyze orders (id)", "manage public/orders"),
        ("vacuum", "refused: computed"),
        ("cluster orders using i", "manage public/orders"),
        ("reindex table orders", "manage public/orders"),
        ("reindex schema sales", "manage sales"),
        ("create type mood as enum ('a', 'b')", "manage public/mood"),
        ("alter type mood add value 'c'", "manage public/mood"),
        ("create type pair as (a int, b int)", "manage public/pair"),
        ("create domain d as int check (value > 0)", "manage public/d"),
        ("create statistics s on id, total from orders", "manage public/orders"),
        (
            "create publication p for table orders where (id > 1), tables in schema sales",
            "manage pg_publication/p, manage sales, manage public/orders",
        ),
        ("create publication p for all tables", "refused: computed"),
        ("create aggregate a (int) (sfunc = int4pl, stype = int)", "manage public/a"),
        ("create operator === (leftarg = int, rightarg = int, function = int4eq)", "manage public/==="),
    ]);
}

#[test]
fn what_is_refused_whatever_is_granted() {
    check(&[
        ("set role admin", "refused: role"),
        ("set local role admin", "refused: role"),
        ("set \"ROLE\" = 'admin'", "refused: role"),
        ("set role none", "refused: role"),
        ("reset role", "refused: role"),
        ("set session authorization admin", "refused: role"),
        ("reset session authorization", "refused: role"),
        ("set session authorization default", "refused: role"),
        ("select set_config('role', 'admin', false)", "refused: role"),
        ("select set_config('ROLE', 'admin', true)", "refused: role"),
        ("select pg_catalog.set_config('session_authorization'::text, 'admin', true)", "refused: role"),
        ("select set_config(E'r\\x6fle', 'admin', false)", "refused: role"),
        ("select set_config(U&'r\\006fle', 'admin', false)", "refused: role"),
        ("select set_config('ro' || 'le', 'admin', false)", "refused: computed"),
        ("select set_config($1, $2, false)", "refused: computed"),
        (
            "select set_config(is_local => false, setting_name => 'role', new_value => 'admin')",
            "refused: computed",
        ),
        ("select set_config(variadic array['role', 'admin', 'f'])", "refused: computed"),
        ("select set_config(x, 'admin', false) from (values ('role')) t(x)", "refused: computed"),
        ("select set_config('search_path', $1, false)", "refused: computed"),
        ("select 1 from orders where set_config('role', 'admin', false) is null", "refused: role"),
        ("declare c cursor for select set_config('search_path', 'x', false)", "refused: code"),
        ("create view v as select set_config('search_path', 'x', false)", "refused: code"),
        ("create table made (a text default set_config('search_path', 'x', true))", "refused: code"),
        (
            "create rule r as on insert to orders do also select set_config('search_path', 'x', false)",
            "refused: code",
        ),
        ("alter role bob set search_path = x", "refused: role"),
        ("alter user bob password 'x'", "refused: role"),
        ("create role bob", "refused: role"),
        ("drop role bob", "refused: role"),
        ("grant admin to bob", "refused: role"),
        ("reassign owned by bob to alice", "refused: role"),
        ("alter default privileges grant select on tables to bob", "refused: role"),
        ("do $$ begin execute 'set role admin'; end $$", "refused: code"),
        ("do language plpgsql 'begin end'", "refused: code"),
        (
            "select query_to_xml('select set_config(''role'', ''admin'', false)', true, false, '')",
            "refused: sql-as-text",
        ),
        ("select pg_catalog.query_to_xmlschema('select 1', true, false, '')", "refused: sql-as-text"),
        ("select * from ts_stat('select to_tsvector(name) from customers')", "refused: sql-as-text"),
        ("select ts_rewrite('a'::tsquery, 'select a, b from orders')", "refused: sql-as-text"),
        ("select ts_rewrite('a'::tsquery, 'a'::tsquery, 'b'::tsquery)", "nothing"),
        ("select table_to_xml('orders', true, false, '')", "refused: sql-as-text"),
        ("select database_to_xml(true, false, '')", "refused: sql-as-text"),
        ("select cursor_to_xml('c', 1, true, false, '')", "refused: sql-as-text"),
        ("select * from crosstab('select 1')", "refused: sql-as-text"),
        ("select * from dblink('host=other', 'select 1') as t(a int)", "refused: outside"),
        ("select dblink_exec('drop table orders')", "refused: outside"),
        ("select * from pg_read_file('/etc/passwd')", "refused: outside"),
        ("select pg_read_binary_file('/etc/passwd')", "refused: outside"),
        ("select pg_ls_dir('/')", "refused: outside"),
        ("select lo_import('/etc/passwd')", "refused: outside"),
        ("select lo_export(1, '/tmp/x')", "refused: outside"),
        ("copy orders to '/tmp/x'", "refused: outside"),
        ("copy orders from '/tmp/x'", "refused: outside"),
        ("copy (select 1) to program 'id'", "refused: outside"),
        ("copy orders from program 'curl x'", "refused: outside"),
        ("create extension dblink", "refused: server"),
        ("load 'x'", "refused: server"),
        ("alter system set x = 1", "refused: server"),
        ("create database d", "refused: server"),
        ("alter database d set x = 1", "refused: server"),
        ("drop database d", "refused: server"),
        ("checkpoint", "refused: server"),
        ("create tablespace t location '/x'", "refused: server"),
        ("create event trigger t on ddl_command_start execute function audit()", "refused: server"),
        ("create server s foreign data wrapper w", "refused: outside"),
        ("create user mapping for bob server s", "refused: outside"),
        ("import foreign schema x from server s into public", "refused: outside"),
        ("create subscription s connection 'host=x' publication p", "refused: outside"),
        ("create cast (int as text) with function f(int)", "refused: server"),
        ("grant connect on database d to bob", "refused: server"),
        ("set standard_conforming_strings = off", "refused: lexing"),
        ("set client_encoding to 'LATIN1'", "refused: lexing"),
        ("set names 'SJIS'", "refused: lexing"),
        ("select set_config('standard_conforming_strings', 'off', false)", "refused: lexing"),
        ("begin; select * from orders; set role admin", "refused: role"),
    ]);
}

#[test]
fn temporary_tables_are_the_sessions_own() {
    check(&[
        ("select * from scratch", "nothing"),
        ("insert into scratch values (1)", "nothing"),
        ("select * from pg_temp.scratch", "nothing"),
        // One that hides a real one may be gone by now.
        ("select * from items", "read public/items"),
    ]);
}

#[test]
fn the_search_path_says_which_is_meant() {
    let on = |sql: &str, path: &[&str]| match resolve(&script(sql).statements[0], &Shop, path) {
        Ok(needs) => needs.needs.iter().map(describe).collect::<Vec<_>>().join(", "),
        Err(unknown) => format!("refused: {}", unknown.why),
    };
    assert_eq!(on("select * from orders", &["sales", "public"]), "read sales/orders");
    assert_eq!(on("select * from orders", &["pg_temp", "public"]), "read public/orders");
    assert_eq!(on("select * from items", &["pg_temp", "public"]), "read public/items");
    assert_eq!(on("select * from orders", &["pg_catalog"]), "refused: no-relation");
    assert_eq!(on("select * from orders", &[]), "refused: no-relation");
    assert_eq!(on("create table t (id int)", &["sales", "public"]), "manage sales/t");
    assert_eq!(on("create table t (id int)", &[]), "refused: no-relation");
    // An operator, and equality where it is not written, may be one of another schema on the path.
    for sql in [
        "select 1 + 2",
        "select 1 in (2)",
        "select 1 in (select 2)",
        "select case 1 when 2 then 3 end",
        "select 1 from (select 1 as a) x join (select 1 as a) y using (a)",
        "select 1 from (select 1 as a) x natural join (select 1 as a) y",
    ] {
        assert_eq!(on(sql, &["public", "sales"]), "execute public/tax", "{sql}");
        assert_eq!(on(sql, &["public"]), "", "{sql}");
    }
}

#[test]
fn names_are_cut_as_postgresql_cuts_them() {
    let long = "x".repeat(70);
    let cut = &long[..63];
    for sql in [format!("drop table if exists {long}"), format!("drop table if exists \"{long}\"")] {
        assert_eq!(needs(&sql), format!("manage public/{cut}"), "{sql}");
    }
}
