-- What tools send by themselves when they connect, look at a schema and read a table. Statements end with two
-- semicolons; each tool has a session of its own. They were written from what is known of each tool, with this test's
-- names in them, and were not captured from a running one; `tools-captured.sql` has those that were taken from the tool.

-- tool: DBeaver
SET extra_float_digits = 3;;
SET application_name = 'DBeaver 25.2 - Main';;
SELECT current_schema(),session_user;;
SELECT n.oid,n.*,d.description FROM pg_catalog.pg_namespace n
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=n.oid AND d.objsubid=0 AND d.classoid='pg_namespace'::regclass
ORDER BY nspname;;
SELECT db.oid,db.* FROM pg_catalog.pg_database db WHERE datallowconn AND NOT datistemplate OR db.datname ='shop' ORDER BY db.datname;;
select * from pg_catalog.pg_settings where name='standard_conforming_strings';;
SHOW search_path;;
SELECT version();;
SELECT DISTINCT dep.deptype, dep.classid, dep.objid, cl.relkind FROM pg_catalog.pg_depend dep
LEFT JOIN pg_catalog.pg_class cl ON dep.objid = cl.oid WHERE dep.refobjid = 'orders'::regclass;;
SELECT t.oid,t.*,c.relkind,format_type(nullif(t.typbasetype, 0), t.typtypmod) as base_type_name, d.description
FROM pg_catalog.pg_type t
LEFT OUTER JOIN pg_catalog.pg_type et ON et.oid=t.typelem
LEFT OUTER JOIN pg_catalog.pg_class c ON c.oid=t.typrelid
LEFT OUTER JOIN pg_catalog.pg_description d ON t.oid=d.objoid
WHERE t.typname IS NOT NULL AND (c.relkind IS NULL OR c.relkind = 'c') AND (et.typcategory IS NULL OR et.typcategory <> 'C');;
SELECT c.oid,c.*,d.description,pg_catalog.pg_get_expr(c.relpartbound, c.oid) as partition_expr, pg_catalog.pg_get_partkeydef(c.oid) as partition_key
FROM pg_catalog.pg_class c
LEFT OUTER JOIN pg_catalog.pg_description d ON d.objoid=c.oid AND d.objsubid=0 AND d.classoid='pg_class'::regclass
WHERE c.relnamespace='public'::regnamespace AND c.relkind not in ('i','I','c');;
SELECT c.relname,a.*,pg_catalog.pg_get_expr(ad.adbin, ad.adrelid, true) as def_value,dsc.description,dep.objid
FROM pg_catalog.pg_attribute a
INNER JOIN pg_catalog.pg_class c ON (a.attrelid=c.oid)
LEFT OUTER JOIN pg_catalog.pg_attrdef ad ON (a.attrelid=ad.adrelid AND a.attnum = ad.adnum)
LEFT OUTER JOIN pg_catalog.pg_description dsc ON (c.oid=dsc.objoid AND a.attnum = dsc.objsubid)
LEFT OUTER JOIN pg_depend dep on dep.refobjid = a.attrelid AND dep.deptype = 'i' and dep.refobjsubid = a.attnum and dep.classid = dep.refclassid
WHERE NOT a.attisdropped AND c.relkind not in ('i','I','c') AND c.oid='orders'::regclass
ORDER BY a.attnum;;
SELECT i.*,i.indkey as keys,c.relname,c.relnamespace,c.relam,c.reltablespace,tc.relname as tabrelname,dsc.description,
pg_catalog.pg_get_expr(i.indpred, i.indrelid) as pred_expr,pg_catalog.pg_get_expr(i.indexprs, i.indrelid, true) as expr,
pg_catalog.pg_relation_size(i.indexrelid) as index_rel_size,pg_catalog.pg_stat_get_numscans(i.indexrelid) as index_num_scans
FROM pg_catalog.pg_index i
INNER JOIN pg_catalog.pg_class c ON c.oid=i.indexrelid
INNER JOIN pg_catalog.pg_class tc ON tc.oid=i.indrelid
LEFT OUTER JOIN pg_catalog.pg_description dsc ON i.indexrelid=dsc.objoid
WHERE i.indrelid='orders'::regclass ORDER BY tabrelname, c.relname;;
select c.oid,pg_catalog.pg_total_relation_size(c.oid) as total_rel_size,pg_catalog.pg_relation_size(c.oid) as rel_size
FROM pg_class c WHERE c.relnamespace='public'::regnamespace;;
SELECT x.* FROM public.orders x LIMIT 200;;
select word from pg_catalog.pg_get_keywords();;

-- tool: DataGrip
set extra_float_digits to 3;;
set application_name to 'DataGrip';;
select version();;
select current_database() as a, current_schemas(false) as b;;
select round(extract(epoch from pg_postmaster_start_time() at time zone 'UTC')) as startup_time;;
select T.oid as oid, relnamespace as schemaId, translate(relkind, 'rmvpfS', 'rmvrfS') as kind
from pg_catalog.pg_class T where relnamespace = 'public'::regnamespace and relkind in ('r', 'm', 'v', 'p', 'f', 'S');;
select N.oid::bigint as id, N.xmin as state_number, nspname as name, D.description, pg_catalog.pg_get_userbyid(N.nspowner) as "owner"
from pg_catalog.pg_namespace N left join pg_catalog.pg_description D on N.oid = D.objoid order by 1;;
select pg_catalog.pg_is_in_recovery(), case when pg_catalog.pg_is_in_recovery() then null else (pg_catalog.txid_current() % 4294967296)::varchar::bigint end as tx;;

-- tool: Metabase
SET SESSION TIMEZONE TO 'Europe/Zurich';;
SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE;;
SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema';;
with table_privileges as (
 select NULL as role, t.schemaname as schema, t.objectname as table,
  pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"', 'update') as update,
  pg_catalog.has_any_column_privilege(current_user, '"' || replace(t.schemaname, '"', '""') || '"' || '.' || '"' || replace(t.objectname, '"', '""') || '"', 'select') as select
 from (select schemaname, tablename as objectname from pg_catalog.pg_tables
  union select schemaname, viewname as objectname from pg_catalog.pg_views
  union select schemaname, matviewname as objectname from pg_catalog.pg_matviews) t
 where t.schemaname !~ '^pg_' and t.schemaname <> 'information_schema'
 and pg_catalog.has_schema_privilege(current_user, t.schemaname, 'usage'))
select t.* from table_privileges t;;
SELECT "n"."nspname" AS "schema", "c"."relname" AS "name", CASE "c"."relkind" WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' ELSE NULL END AS "type",
"d"."description" AS "description", "stat"."n_live_tup" AS "estimated_row_count"
FROM "pg_catalog"."pg_class" AS "c" INNER JOIN "pg_catalog"."pg_namespace" AS "n" ON "c"."relnamespace" = "n"."oid"
LEFT JOIN "pg_catalog"."pg_description" AS "d" ON ("c"."oid" = "d"."objoid") AND ("d"."objsubid" = 0) AND ("d"."classoid" = 'pg_class'::regclass)
LEFT JOIN "pg_stat_user_tables" AS "stat" ON ("n"."nspname" = "stat"."schemaname") AND ("c"."relname" = "stat"."relname")
WHERE ("c"."relnamespace" = "n"."oid") AND ("n"."nspname" !~ '^pg_') ORDER BY "type" ASC, "schema" ASC, "name" ASC;;
SELECT TRUE AS "_" FROM "public"."orders" WHERE 1 <> 1 LIMIT 0;;
SELECT "public"."orders"."id" AS "id", SUBSTRING("public"."orders"."customer", 1, 1234) AS "customer" FROM "public"."orders" LIMIT 10000;;
-- Metabase:: userID: 1 queryType: MBQL queryHash: 0f
SELECT COUNT(*) AS "count" FROM "public"."orders";;
SELECT current_setting('TIMEZONE');;

-- tool: Looker
SET application_name = 'looker';;
SELECT pg_backend_pid();;
SET statement_timeout TO 600000;;
SELECT CURRENT_TIMESTAMP AT TIME ZONE 'UTC';;
-- Looker Query Context '{"user_id":7,"history_slug":"ab","instance_slug":"cd"}'
SELECT orders.customer AS "orders.customer", COUNT(*) AS "orders.count" FROM public.orders AS orders GROUP BY 1 ORDER BY 2 DESC LIMIT 500;;
EXPLAIN SELECT orders.customer FROM public.orders AS orders LIMIT 500;;
CREATE TEMPORARY TABLE looker_tmp AS SELECT id FROM public.orders;;
SELECT count(*) FROM looker_tmp;;
DROP TABLE IF EXISTS looker_tmp;;

-- tool: Tableau (psqlODBC)
set client_encoding to 'UTF8';;
SET DateStyle = 'ISO'; SET extra_float_digits = 2; show transaction_isolation;;
select oid, typbasetype from pg_type where typname = 'lo';;
select pg_client_encoding();;
select nspname from pg_namespace n, pg_class c where c.relnamespace=n.oid and c.oid='"orders"'::regclass;;
BEGIN;declare "SQL_CUR0x5570a1" cursor with hold for SELECT "orders"."id" AS "id" FROM "public"."orders" "orders" LIMIT 10;fetch 10000 in "SQL_CUR0x5570a1";;
close "SQL_CUR0x5570a1";;
COMMIT;;
BEGIN;SAVEPOINT _EXEC_SVP_0x1;SELECT CAST("orders"."customer" AS TEXT) AS "customer" FROM "public"."orders" "orders" GROUP BY 1;RELEASE _EXEC_SVP_0x1;;
ROLLBACK;;
CREATE LOCAL TEMPORARY TABLE "#Tableau_5_0_Connect" ( "x_measure__0" INTEGER ) ON COMMIT PRESERVE ROWS;;
INSERT INTO "#Tableau_5_0_Connect" VALUES (1);;
DROP TABLE "#Tableau_5_0_Connect";;

-- tool: Npgsql (Power BI)
SELECT version();;
SELECT ns.nspname, t.oid, t.typname, t.typtype, t.typnotnull, t.elemtypoid
FROM (SELECT typ.oid, typ.typnamespace, typ.typname, typ.typtype, typ.typrelid, typ.typnotnull, typ.relkind,
   elemtyp.oid AS elemtypoid, elemtyp.typname AS elemtypname, elemcls.relkind AS elemrelkind,
   CASE WHEN elemproc.proname='array_recv' THEN 'a' ELSE elemtyp.typtype END AS elemtyptype
  FROM (SELECT typ.oid, typnamespace, typname, typrelid, typnotnull, relkind, typelem AS elemoid,
     CASE WHEN proc.proname='array_recv' THEN 'a' ELSE typ.typtype END AS typtype,
     CASE WHEN proc.proname='array_recv' THEN typ.typelem WHEN typ.typtype='r' THEN rngsubtype WHEN typ.typtype='d' THEN typ.typbasetype END AS elemtypoid
    FROM pg_type AS typ LEFT JOIN pg_class AS cls ON (cls.oid = typ.typrelid)
    LEFT JOIN pg_proc AS proc ON proc.oid = typ.typreceive LEFT JOIN pg_range ON (pg_range.rngtypid = typ.oid)) AS typ
  LEFT JOIN pg_type AS elemtyp ON elemtyp.oid = elemtypoid LEFT JOIN pg_class AS elemcls ON (elemcls.oid = elemtyp.typrelid)
  LEFT JOIN pg_proc AS elemproc ON elemproc.oid = elemtyp.typreceive) AS t
JOIN pg_namespace AS ns ON (ns.oid = typnamespace)
WHERE typtype IN ('b', 'r', 'm', 'e', 'd') OR (typtype = 'c' AND relkind='c') OR (typtype = 'p' AND typname IN ('record', 'void', 'unknown'))
ORDER BY 1;;
SELECT pg_type.oid, enumlabel FROM pg_enum JOIN pg_type ON pg_type.oid=enumtypid ORDER BY oid, enumsortorder;;
SELECT table_schema, table_name, table_type FROM information_schema.tables WHERE table_schema NOT IN ('information_schema', 'pg_catalog');;
select character_set_name from information_schema.character_sets;;
DISCARD ALL;;

-- tool: pgjdbc (metadata)
SELECT NULL AS TABLE_CAT, n.nspname AS TABLE_SCHEM, c.relname AS TABLE_NAME, d.description AS REMARKS
FROM pg_catalog.pg_namespace n, pg_catalog.pg_class c
LEFT JOIN pg_catalog.pg_description d ON (c.oid = d.objoid AND d.objsubid = 0 and d.classoid = 'pg_class'::regclass)
WHERE c.relnamespace = n.oid AND c.relname LIKE 'orders' ORDER BY TABLE_SCHEM,TABLE_NAME;;
SELECT * FROM (SELECT current_database() AS TABLE_CAT, n.nspname,c.relname,a.attname,a.atttypid,a.attnotnull,
row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS attnum, nullif(a.attidentity, '') as attidentity,
pg_catalog.pg_get_expr(def.adbin, def.adrelid) AS adsrc
FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON (c.relnamespace = n.oid)
JOIN pg_catalog.pg_attribute a ON (a.attrelid=c.oid) LEFT JOIN pg_catalog.pg_attrdef def ON (a.attrelid=def.adrelid AND a.attnum = def.adnum)
WHERE c.relkind in ('r','p','v','f','m') and a.attnum > 0 AND NOT a.attisdropped AND c.relname LIKE 'orders') c ORDER BY nspname,c.relname,attnum;;
SELECT result.TABLE_CAT, result.COLUMN_NAME, result.PK_NAME FROM (SELECT NULL AS TABLE_CAT, a.attname AS COLUMN_NAME, ci.relname AS PK_NAME,
(information_schema._pg_expandarray(i.indkey)).n AS KEY_SEQ, information_schema._pg_expandarray(i.indkey) AS KEYS, a.attnum AS A_ATTNUM
FROM pg_catalog.pg_class ct JOIN pg_catalog.pg_attribute a ON (ct.oid = a.attrelid) JOIN pg_catalog.pg_namespace n ON (ct.relnamespace = n.oid)
JOIN pg_catalog.pg_index i ON ( a.attrelid = i.indrelid) JOIN pg_catalog.pg_class ci ON (ci.oid = i.indexrelid)
WHERE true AND ct.relname = 'orders' AND i.indisprimary) result where result.A_ATTNUM = (result.KEYS).x;;

-- tool: Ruby on Rails
SET client_min_messages TO warning;;
SET standard_conforming_strings = on;;
SET SESSION timezone TO 'UTC';;
SELECT t.oid, t.typname FROM pg_type as t WHERE t.typname IN ('int2', 'int4', 'int8', 'oid', 'float4', 'float8', 'numeric', 'bool', 'timestamp', 'timestamptz');;
SELECT c.relname FROM pg_class c LEFT JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = ANY (current_schemas(false)) AND c.relkind IN ('r','v','m','p','f');;
SELECT a.attname, format_type(a.atttypid, a.atttypmod), pg_get_expr(d.adbin, d.adrelid), a.attnotnull, a.atttypid, a.atttypmod, c.collname,
col_description(a.attrelid, a.attnum) AS comment, attidentity AS identity, attgenerated as attgenerated
FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum
LEFT JOIN pg_type t ON a.atttypid = t.oid LEFT JOIN pg_collation c ON a.attcollation = c.oid AND a.attcollation <> t.typcollation
WHERE a.attrelid = '"orders"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;;
SELECT pg_try_advisory_lock(4711);;
SELECT pg_advisory_unlock(4711);;

-- tool: Grafana
SELECT quote_ident(table_name) as "table" FROM information_schema.tables WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog') ORDER BY 1;;
SELECT quote_ident(column_name) AS "column", data_type AS "type" FROM information_schema.columns WHERE quote_ident(table_name) = 'orders';;
select count(*) as "value", now() as "time" from public.orders;;
