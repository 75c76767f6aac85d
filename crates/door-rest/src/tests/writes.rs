//! Writing: insert, update, delete, calls by POST.

use expect_test::expect;
use http::Method;

use super::*;

#[test]
fn inserts() {
    post("orders", r#"{"status":"new","total":5}"#).selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("status", "total") SELECT dw_body."status", dw_body."total" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("status" text, "total" numeric(10,2)) RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"status":"new","total":5}
        read write"#]]);
    post("orders?select=id,k:data->>a&order=id.desc", r#"[{"status":"a"},{"status":"b"}]"#).with("prefer", "return=representation").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("status") SELECT dw_body."status" FROM pg_catalog.json_to_recordset($1::pg_catalog.json) AS dw_body("status" text) RETURNING "public"."orders"."id", "public"."orders"."data") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source."id" AS "id", (dw_source."data"->>$2::pg_catalog.text) AS "k" FROM dw_source ORDER BY dw_source."id" DESC) AS dw
        $1: [{"status":"a"},{"status":"b"}]
        $2: a
        read write"#]]);
    post("orders", r#"{"id":1}"#).with("prefer", "return=representation").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("id") SELECT dw_body."id" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("id" integer) RETURNING "public"."orders"."id", "public"."orders"."status", "public"."orders"."total", "public"."orders"."data", "public"."orders"."tags", "public"."orders"."body", "public"."orders"."Odd ""name""") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        $1: {"id":1}
        read write"#]]);
    post("orders", r#"{"id":1}"#).with("prefer", "return=headers-only").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("id") SELECT dw_body."id" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("id" integer) RETURNING "public"."orders"."id") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text … , CASE WHEN pg_catalog.count(*) = 1 THEN (SELECT pg_catalog.json_object_agg(dw_key.key, dw_key.value)::pg_catalog.text FROM pg_catalog.json_each_text((SELECT pg_catalog.row_to_json(dw_row.*) FROM dw_source AS dw_row LIMIT 1)) AS dw_key) END FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"id":1}
        read write"#]]);
    post("orders?columns=id,status", r#"[{"id":1,"x":2},{"id":2}]"#).with("prefer", "missing=default").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("id", "status") SELECT dw_body."id", dw_body."status" FROM (SELECT dw_record.* FROM pg_catalog.jsonb_array_elements($1::pg_catalog.jsonb) AS dw_element(value), LATERAL pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object($4::pg_catalog.text, pg_catalog.nextval(pg_catalog.pg_get_serial_sequence($2, $3)::pg_catalog.regclass), $5::pg_catalog.text, ('new'::text)) || dw_element.value) AS dw_record("id" integer, "status" text)) AS dw_body RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: [{"id":1,"x":2},{"id":2}]
        $2: "public"."orders"
        $3: id
        $4: id
        $5: status
        read write"#]]);
    post("orders?columns=status", "{}").with("prefer", "missing=default, count=exact").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("status") SELECT dw_body."status" FROM (SELECT dw_record.* FROM (SELECT $1::pg_catalog.jsonb) AS dw_element(value), LATERAL pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object($2::pg_catalog.text, ('new'::text)) || dw_element.value) AS dw_record("status" text)) AS dw_body RETURNING 1) SELECT (SELECT pg_catalog.count(*) FROM dw_source), pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {}
        $2: status
        read write"#]]);
    post("orders", "{}").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders" DEFAULT VALUES RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        read write"#]]);
    post("orders", "[{},{}]").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders" SELECT FROM pg_catalog.json_array_elements($1::pg_catalog.json) RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: [{},{}]
        read write"#]]);
    post("orders", "[]").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders" SELECT FROM pg_catalog.json_array_elements($1::pg_catalog.json) RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: []
        read write"#]]);
    post("orders", r#"{"id":1,"id":2}"#).selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("id") SELECT dw_body."id" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("id" integer) RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"id":1,"id":2}
        read write"#]]);
    post("orders", r#"{"Odd \"name\"":1}"#).selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("Odd ""name""") SELECT dw_body."Odd ""name""" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("Odd ""name""" text) RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"Odd \"name\"":1}
        read write"#]]);
    post("orders", "{\"id\":1}").with("content-profile", "private").selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "private"."orders"("id") SELECT dw_body."id" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("id" integer) RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"id":1}
        read write"#]]);
    post("orders?select=id,status", r#"{"id":1}"#).with("prefer", "return=representation").at_most(3).selects(&expect![[r#"
        WITH dw_source AS (INSERT INTO "public"."orders"("id") SELECT dw_body."id" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("id" integer) RETURNING "public"."orders"."id", "public"."orders"."status") SELECT NULL::pg_catalog.int8, (SELECT pg_catalog.count(*) FROM dw_source), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source."id" AS "id", dw_source."status" AS "status" FROM dw_source LIMIT $2) AS dw
        $1: {"id":1}
        $2: 3
        read write"#]]);
}

#[test]
fn updates() {
    patch("orders?id=eq.1", r#"{"status":"x","total":1}"#).selects(&expect![[r#"
        WITH dw_source AS (UPDATE "public"."orders" SET "status" = dw_body."status", "total" = dw_body."total" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("status" text, "total" numeric(10,2)) WHERE "public"."orders"."id" = $2 RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"status":"x","total":1}
        $2: 1
        read write"#]]);
    patch("orders?id=eq.1&select=id", r#"{"status":"x"}"#).with("prefer", "return=representation").selects(&expect![[r#"
        WITH dw_source AS (UPDATE "public"."orders" SET "status" = dw_body."status" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("status" text) WHERE "public"."orders"."id" = $2 RETURNING "public"."orders"."id") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source."id" AS "id" FROM dw_source) AS dw
        $1: {"status":"x"}
        $2: 1
        read write"#]]);
    patch("orders", r#"[{"status":"x"}]"#).selects(&expect![[r#"
        WITH dw_source AS (UPDATE "public"."orders" SET "status" = dw_body."status" FROM (SELECT dw_record.* FROM pg_catalog.json_to_recordset($1::pg_catalog.json) AS dw_record("status" text) LIMIT 1) AS dw_body RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: [{"status":"x"}]
        read write"#]]);
    patch("orders?columns=status,total&id=gt.3", r#"{"status":"x"}"#).with("prefer", "missing=default").selects(&expect![[r#"
        WITH dw_source AS (UPDATE "public"."orders" SET "status" = dw_body."status", "total" = dw_body."total" FROM (SELECT dw_record.* FROM (SELECT $1::pg_catalog.jsonb) AS dw_element(value), LATERAL pg_catalog.jsonb_to_record(pg_catalog.jsonb_build_object($2::pg_catalog.text, ('new'::text)) || dw_element.value) AS dw_record("status" text, "total" numeric(10,2)) LIMIT 1) AS dw_body WHERE "public"."orders"."id" > $3 RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"status":"x"}
        $2: status
        $3: 3
        read write"#]]);
    patch("orders?id=eq.1", "{}").with("prefer", "return=representation").selects(&expect![[r#"
        WITH dw_source AS (SELECT "public"."orders"."id", "public"."orders"."status", "public"."orders"."total", "public"."orders"."data", "public"."orders"."tags", "public"."orders"."body", "public"."orders"."Odd ""name""" FROM "public"."orders" WHERE false) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read write"#]]);
    patch("orders?or=(id.eq.1,status.is.null)", r#"{"status":null}"#).with("prefer", "count=exact").selects(&expect![[r#"
        WITH dw_source AS (UPDATE "public"."orders" SET "status" = dw_body."status" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("status" text) WHERE ("public"."orders"."id" = $2 OR "public"."orders"."status" IS NULL) RETURNING 1) SELECT (SELECT pg_catalog.count(*) FROM dw_source), pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"status":null}
        $2: 1
        read write"#]]);
}

#[test]
fn deletes() {
    Ask::new(Method::DELETE, "orders?id=eq.1").selects(&expect![[r#"
        WITH dw_source AS (DELETE FROM "public"."orders" WHERE "public"."orders"."id" = $1 RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: 1
        read write"#]]);
    Ask::new(Method::DELETE, "orders?status=eq.old&select=id").with("prefer", "return=representation").selects(&expect![[r#"
        WITH dw_source AS (DELETE FROM "public"."orders" WHERE "public"."orders"."status" = $1 RETURNING "public"."orders"."id") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source."id" AS "id" FROM dw_source) AS dw
        $1: old
        read write"#]]);
    Ask::new(Method::DELETE, "orders").selects(&expect![[r#"
        WITH dw_source AS (DELETE FROM "public"."orders" RETURNING 1) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        read write"#]]);
    Ask::new(Method::DELETE, "orders?id=eq.1&order=total").with("prefer", "return=representation").selects(&expect![[r#"
        WITH dw_source AS (DELETE FROM "public"."orders" WHERE "public"."orders"."id" = $1 RETURNING "public"."orders"."id", "public"."orders"."status", "public"."orders"."total", "public"."orders"."data", "public"."orders"."tags", "public"."orders"."body", "public"."orders"."Odd ""name""") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.* FROM dw_source ORDER BY dw_source."total") AS dw
        $1: 1
        read write"#]]);
}

#[test]
fn calls() {
    post("rpc/add", r#"{"b":2,"a":1}"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_arguments("a" integer, "b" integer), LATERAL "public"."add"("a" := dw_arguments."a", "b" := dw_arguments."b") AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: {"b":2,"a":1}
        read only"#]]);
    post("rpc/best", "").selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."best"() AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read only"#]]);
    post("rpc/best?status=eq.x&select=id", r#"{"n":1}"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_arguments("n" integer), LATERAL "public"."best"("n" := dw_arguments."n") AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source."id" AS "id" FROM dw_source WHERE dw_source."status" = $2) AS dw
        $1: {"n":1}
        $2: x
        read only"#]]);
    post("rpc/newest", "{}").selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."newest"() AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read write"#]]);
    post("rpc/log", r#"{"note":"hello"}"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_arguments("note" text), LATERAL "public"."log"("note" := dw_arguments."note") AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: {"note":"hello"}
        read write"#]]);
    post("rpc/sum_all", r#"{"v":[1,2]}"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_arguments("v" integer[]), LATERAL "public"."sum_all"(VARIADIC "v" := dw_arguments."v") AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: {"v":[1,2]}
        read only"#]]);
    post("rpc/take", r#"{"any":[1,{"thing":2}]}"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."take"($1::jsonb) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: {"any":[1,{"thing":2}]}
        read write"#]]);
    post("rpc/take", "[1,2]").selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."take"($1::jsonb) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: [1,2]
        read write"#]]);
    post("rpc/over", r#"{"a":1,"b":2}"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_arguments("a" integer, "b" integer), LATERAL "public"."over"("a" := dw_arguments."a", "b" := dw_arguments."b") AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: {"a":1,"b":2}
        read only"#]]);
}

#[test]
fn changes_of_exactly_one_row() {
    const ONE: &str = "application/vnd.pgrst.object+json";
    patch("orders?id=eq.1&select=id", r#"{"total":1}"#)
        .with("prefer", "return=representation")
        .with("accept", ONE)
        .selects(&expect![[r#"
            WITH dw_source AS (UPDATE "public"."orders" SET "total" = dw_body."total" FROM pg_catalog.json_to_record($1::pg_catalog.json) AS dw_body("total" numeric(10,2)) WHERE "public"."orders"."id" = $2 RETURNING "public"."orders"."id") SELECT NULL::pg_catalog.int8, pg_catalog.count(*), CASE WHEN pg_catalog.count(*) = 1 THEN coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null') ELSE pg_catalog.concat('dw_not_one_row:', pg_catalog.count(*))::pg_catalog.int4::pg_catalog.text END …  FROM (SELECT dw_source."id" AS "id" FROM dw_source) AS dw
            $1: {"total":1}
            $2: 1
            read write"#]]);
    Ask::new(Method::DELETE, "orders?id=eq.1").with("accept", ONE).at_most(5).selects(&expect![[r#"
        WITH dw_source AS (DELETE FROM "public"."orders" WHERE "public"."orders"."id" = $1 RETURNING 1) SELECT NULL::pg_catalog.int8, (SELECT pg_catalog.count(*) FROM dw_source), CASE WHEN (SELECT pg_catalog.count(*) FROM dw_source) = 1 THEN NULL::pg_catalog.text ELSE pg_catalog.concat('dw_not_one_row:', (SELECT pg_catalog.count(*) FROM dw_source))::pg_catalog.int4::pg_catalog.text END …  FROM (SELECT 1 FROM dw_source LIMIT $2) AS dw
        $1: 1
        $2: 5
        read write"#]]);
    post("rpc/newest", "{}").with("accept", ONE).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."newest"() AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), CASE WHEN pg_catalog.count(*) = 1 THEN coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null') ELSE pg_catalog.concat('dw_not_one_row:', pg_catalog.count(*))::pg_catalog.int4::pg_catalog.text END …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read write"#]]);
    post("rpc/best", "{}").with("accept", ONE).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."best"() AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read only"#]]);
}
