//! Reading: select, filters, order, ranges.

use expect_test::expect;
use http::Method;

use super::*;

#[test]
fn columns() {
    get(r#"orders"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=*"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=id,status"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders"."id" AS "id", "public"."orders"."status" AS "status" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=number:id,s:status::varchar"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders"."id" AS "number", CAST("public"."orders"."status" AS "varchar") AS "s" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=%22Odd %5C%22name%5C%22%22"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders"."Odd ""name""" AS "Odd ""name""" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=id::double precision"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT CAST("public"."orders"."id" AS pg_catalog.float8) AS "id" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=id::Int,total::public_type"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT CAST("public"."orders"."id" AS pg_catalog.int4) AS "id", CAST("public"."orders"."total" AS "public_type") AS "total" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"totals"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."totals".* FROM "public"."totals") AS dw
        read only"#]]);
    get("orders").with("accept-profile", "private").selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "private"."orders".* FROM "private"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=full_name"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders"."full_name" AS "full_name" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=&limit="#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders") AS dw
        read only"#]]);
}

#[test]
fn json_paths() {
    get(r#"orders?select=data->a->b->>c"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT ("public"."orders"."data"->$1::pg_catalog.text->$2::pg_catalog.text->>$3::pg_catalog.text) AS "c" FROM "public"."orders") AS dw
        $1: a
        $2: b
        $3: c
        read only"#]]);
    get(r#"orders?select=data->0->>-1"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT ("public"."orders"."data"->$1::pg_catalog.int4->>$2::pg_catalog.int4) AS "data" FROM "public"."orders") AS dw
        $1: 0
        $2: -1
        read only"#]]);
    get(r#"orders?select=x:data->a::text"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT CAST(("public"."orders"."data"->$1::pg_catalog.text) AS "text") AS "x" FROM "public"."orders") AS dw
        $1: a
        read only"#]]);
    get(r#"orders?select=tags->0"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT (pg_catalog.to_jsonb("public"."orders"."tags")->$1::pg_catalog.int4) AS "tags" FROM "public"."orders") AS dw
        $1: 0
        read only"#]]);
    get(r#"orders?data->>kind=eq.x&data->n->0=gt.3"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."data"->>$1::pg_catalog.text) = $2 AND ("public"."orders"."data"->$3::pg_catalog.text->$4::pg_catalog.int4) > $5) AS dw
        $1: kind
        $2: x
        $3: n
        $4: 0
        $5: 3
        read only"#]]);
    get(r#"orders?order=data->>kind.desc,id"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" ORDER BY ("public"."orders"."data"->>$1::pg_catalog.text) DESC, "public"."orders"."id") AS dw
        $1: kind
        read only"#]]);
}

#[test]
fn every_operator() {
    get(r#"orders?total=eq.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" = $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=gt.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" > $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=gte.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" >= $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=lt.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" < $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=lte.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" <= $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=neq.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" <> $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=cs.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" @> $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=cd.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" <@ $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=ov.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" && $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=sl.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" << $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=sr.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" >> $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=nxr.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" &< $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=nxl.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" &> $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?total=adj.5"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" -|- $1) AS dw
        $1: 5
        read only"#]]);
    get(r#"orders?status=like.a*b%25"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" LIKE $1) AS dw
        $1: a%b%
        read only"#]]);
    get(r#"orders?status=ilike.*x*"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" ILIKE $1) AS dw
        $1: %x%
        read only"#]]);
    get(r#"orders?status=match.^a"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" ~ $1) AS dw
        $1: ^a
        read only"#]]);
    get(r#"orders?status=imatch.^a"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" ~* $1) AS dw
        $1: ^a
        read only"#]]);
    get(r#"orders?status=isdistinct.x"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" IS DISTINCT FROM $1) AS dw
        $1: x
        read only"#]]);
}

#[test]
fn negation_and_quantifiers() {
    get(r#"orders?status=not.eq.a"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE NOT ("public"."orders"."status" = $1)) AS dw
        $1: a
        read only"#]]);
    get(r#"orders?status=eq(any).{a,b}"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" = ANY($1)) AS dw
        $1: {a,b}
        read only"#]]);
    get(r#"orders?total=gt(all).{1,2}"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."total" > ALL($1)) AS dw
        $1: {1,2}
        read only"#]]);
    get(r#"orders?status=like(any).{a*,*b}"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" LIKE ANY($1)) AS dw
        $1: {a%,%b}
        read only"#]]);
    get(r#"orders?status=not.imatch(any).{a,b}"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE NOT ("public"."orders"."status" ~* ANY($1))) AS dw
        $1: {a,b}
        read only"#]]);
}

#[test]
fn lists() {
    get(r#"orders?id=in.(1,2,3)"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."id" = ANY($1)) AS dw
        $1: {"1","2","3"}
        read only"#]]);
    get(r#"orders?id=in.()"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."id" = ANY($1)) AS dw
        $1: {}
        read only"#]]);
    get(r#"orders?status=in.(%22a,b%22,%22c\%22d\\e%22,f g,%22h%22i)"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" = ANY($1)) AS dw
        $1: {"a,b","c\"d\\e","f g","\"h\"i"}
        read only"#]]);
    get(r#"orders?status=not.in.(a,,b)"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE NOT ("public"."orders"."status" = ANY($1))) AS dw
        $1: {"a","","b"}
        read only"#]]);
}

#[test]
fn is() {
    get(r#"orders?status=is.null"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" IS NULL) AS dw
        read only"#]]);
    get(r#"orders?status=is.not_null"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" IS NOT NULL) AS dw
        read only"#]]);
    get(r#"orders?status=is.TRUE"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" IS TRUE) AS dw
        read only"#]]);
    get(r#"orders?status=is.false"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" IS FALSE) AS dw
        read only"#]]);
    get(r#"orders?status=is.unknown"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" IS UNKNOWN) AS dw
        read only"#]]);
    get(r#"orders?status=not.is.null"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE NOT ("public"."orders"."status" IS NULL)) AS dw
        read only"#]]);
}

#[test]
fn full_text() {
    get(r#"orders?body=fts.a%26b"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."body" @@ pg_catalog.to_tsquery($1)) AS dw
        $1: a&b
        read only"#]]);
    get(r#"orders?body=plfts(english).a b"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."body" @@ pg_catalog.plainto_tsquery($1::pg_catalog.regconfig, $2)) AS dw
        $1: english
        $2: a b
        read only"#]]);
    get(r#"orders?status=phfts(german).x"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE pg_catalog.to_tsvector($1::pg_catalog.regconfig, "public"."orders"."status") @@ pg_catalog.phraseto_tsquery($1::pg_catalog.regconfig, $2)) AS dw
        $1: german
        $2: x
        read only"#]]);
    get(r#"orders?data->>t=wfts.x"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE pg_catalog.to_tsvector(("public"."orders"."data"->>$1::pg_catalog.text)) @@ pg_catalog.websearch_to_tsquery($2)) AS dw
        $1: t
        $2: x
        read only"#]]);
    get(r#"orders?body=not.fts(simple).x"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE NOT ("public"."orders"."body" @@ pg_catalog.to_tsquery($1::pg_catalog.regconfig, $2))) AS dw
        $1: simple
        $2: x
        read only"#]]);
}

#[test]
fn trees() {
    get(r#"orders?or=(id.eq.1,status.eq.paid)"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."id" = $1 OR "public"."orders"."status" = $2)) AS dw
        $1: 1
        $2: paid
        read only"#]]);
    get(r#"orders?and=(id.gt.1,not.or(status.is.null,total.lt.5))"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."id" > $1 AND NOT ("public"."orders"."status" IS NULL OR "public"."orders"."total" < $2))) AS dw
        $1: 1
        $2: 5
        read only"#]]);
    get(r#"orders?not.or=(id.eq.1,id.eq.2)&status=eq.x"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE NOT ("public"."orders"."id" = $1 OR "public"."orders"."id" = $2) AND "public"."orders"."status" = $3) AS dw
        $1: 1
        $2: 2
        $3: x
        read only"#]]);
    get(r#"orders?or=(status.eq.%22a,b)%22,tags.cs.{a,b},data->>k.like.x*)"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."status" = $1 OR "public"."orders"."tags" @> $2 OR ("public"."orders"."data"->>$3::pg_catalog.text) LIKE $4)) AS dw
        $1: a,b)
        $2: {a,b}
        $3: k
        $4: x%
        read only"#]]);
    get(r#"orders?or=(id.in.(1,2),id.not.in.(3),status.not.is.null)"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."id" = ANY($1) OR NOT ("public"."orders"."id" = ANY($2)) OR NOT ("public"."orders"."status" IS NULL))) AS dw
        $1: {"1","2"}
        $2: {"3"}
        read only"#]]);
    get(r#"orders?and=( id.eq.1 , or( id.eq.2,android.eq.3 ) )"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."id" = $1 AND ("public"."orders"."id" = $2 OR "public"."orders"."android" = $3))) AS dw
        $1: 1 
        $2: 2
        $3: 3 
        read only"#]]);
}

#[test]
fn order_and_pages() {
    get(r#"orders?order=id"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" ORDER BY "public"."orders"."id") AS dw
        read only"#]]);
    get(r#"orders?order=id.desc.nullslast,status.nullsfirst,total.asc"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" ORDER BY "public"."orders"."id" DESC NULLS LAST, "public"."orders"."status" NULLS FIRST, "public"."orders"."total" ASC) AS dw
        read only"#]]);
    get(r#"orders?limit=10&offset=20"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1 OFFSET $2) AS dw
        $1: 10
        $2: 20
        read only"#]]);
    get(r#"orders?limit=0"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1) AS dw
        $1: 0
        read only"#]]);
    get(r#"orders?limit=abc&offset=-4"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders") AS dw
        read only"#]]);
    get("orders?limit=500").at_most(100).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1) AS dw
        $1: 100
        read only"#]]);
    get("orders").at_most(100).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1) AS dw
        $1: 100
        read only"#]]);
    get("orders").with("range-unit", "items").with("range", "10-19").selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1 OFFSET $2) AS dw
        $1: 10
        $2: 10
        read only"#]]);
    get("orders?limit=5&offset=12").with("range", "10-19").selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1 OFFSET $2) AS dw
        $1: 5
        $2: 12
        read only"#]]);
    get("orders").with("range", "bytes=0-3").selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders") AS dw
        read only"#]]);
    get("orders?limit=3&status=eq.x").with("prefer", "count=exact").selects(&expect![[r#"
        SELECT (SELECT pg_catalog.count(*) FROM "public"."orders" WHERE "public"."orders"."status" = $1), pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" = $1 LIMIT $2) AS dw
        $1: x
        $2: 3
        read only"#]]);
    get("orders?id=eq.1").with("accept", "application/vnd.pgrst.object+json").selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."id" = $1) AS dw
        $1: 1
        read only"#]]);
    Ask::new(Method::HEAD, "orders?id=gt.1").selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM "public"."orders" WHERE "public"."orders"."id" > $1) AS dw
        $1: 1
        read only"#]]);
}

#[test]
fn parameters_as_postgrest_reads_them() {
    get(r#"orders?id=gt.1&id=lt.9"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."id" > $1 AND "public"."orders"."id" < $2) AS dw
        $1: 1
        $2: 9
        read only"#]]);
    get(r#"orders?select=id&select=status"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders"."id" AS "id" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?limit=1&limit=2"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" LIMIT $1) AS dw
        $1: 2
        read only"#]]);
    get(r#"orders?status=eq.a+b%2Bc"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" = $1) AS dw
        $1: a b+c
        read only"#]]);
    get(r#"orders?status=eq.&flag&=&x"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 1)
        details: unexpected end of input expecting "not" or operator (eq, gt, ...)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?status=eq.a=b&"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" = $1) AS dw
        $1: a=b
        read only"#]]);
    get(r#"orders?odd-name=eq.1&$x=eq.2"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."odd-name" = $1 AND "public"."orders"."$x" = $2) AS dw
        $1: 1
        $2: 2
        read only"#]]);
}

#[test]
fn functions_by_get() {
    get(r#"rpc/add?a=1&b=2"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."add"("a" := $1::integer, "b" := $2::integer) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: 1
        $2: 2
        read only"#]]);
    get(r#"rpc/best"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."best"() AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read only"#]]);
    get(r#"rpc/best?n=3&status=eq.new&select=id&order=id&limit=2"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."best"("n" := $1::integer) AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source."id" AS "id" FROM dw_source WHERE dw_source."status" = $2 ORDER BY dw_source."id" LIMIT $3) AS dw
        $1: 3
        $2: new
        $3: 2
        read only"#]]);
    get(r#"rpc/newest"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."newest"() AS dw_call) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.*)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.* FROM dw_source) AS dw
        read only"#]]);
    get(r#"rpc/series?a=3&limit=2"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."series"("a" := $1::integer) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.dw_value)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.dw_value FROM dw_source LIMIT $2) AS dw
        $1: 3
        $2: 2
        read only"#]]);
    get(r#"rpc/sum_all?v=1&v=2"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."sum_all"(VARIADIC "v" := $1::integer[]) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: {"1","2"}
        read only"#]]);
    get(r#"rpc/log?note=x"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."log"("note" := $1::text) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: x
        read only"#]]);
    get(r#"rpc/over?a=1"#).selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."over"("a" := $1::integer) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce((pg_catalog.json_agg(dw.dw_value)->0)::pg_catalog.text, 'null') …  FROM (SELECT dw_source.dw_value FROM dw_source) AS dw
        $1: 1
        read only"#]]);
    get("rpc/best").at_most(7).with("prefer", "count=exact").selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.* FROM "public"."best"() AS dw_call) SELECT (SELECT pg_catalog.count(*) FROM dw_source), pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT dw_source.* FROM dw_source LIMIT $1) AS dw
        $1: 7
        read only"#]]);
    Ask::new(Method::HEAD, "rpc/add?a=1&b=2").selects(&expect![[r#"
        WITH dw_source AS (SELECT dw_call.dw_value FROM "public"."add"("a" := $1::integer, "b" := $2::integer) AS dw_call(dw_value)) SELECT NULL::pg_catalog.int8, pg_catalog.count(*), NULL::pg_catalog.text …  FROM (SELECT 1 FROM dw_source) AS dw
        $1: 1
        $2: 2
        read only"#]]);
}

#[test]
fn hostile_names_and_values_stay_names_and_values() {
    get(r#"orders?select=id%22; drop table orders;--"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 3)
        details: unexpected "\"" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?%22a%5C%22%22; drop=eq.1"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse tree path" (line 1, column 6)
        details: unexpected ";" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=id::int4) from pg_authid--"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 9)
        details: unexpected ")" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=id::int4 from pg_authid"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT CAST("public"."orders"."id" AS "int4 from pg_authid") AS "id" FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?status=eq.' or '1'='1"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."status" = $1) AS dw
        $1: ' or '1'='1
        read only"#]]);
    get(r#"orders?data->>'x=eq.1"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse tree path" (line 1, column 8)
        details: unexpected "'" expecting a JSON key or index
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?data->%22a'%22=eq.1"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE ("public"."orders"."data"->$1::pg_catalog.text) = $2) AS dw
        $1: a'
        $2: 1
        read only"#]]);
    get(r#"orders?body=fts(english')) or (1=1).x"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 12)
        details: unexpected "'" expecting ")"
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?body=fts(english or 1).x"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders" WHERE "public"."orders"."body" @@ pg_catalog.to_tsquery($1::pg_catalog.regconfig, $2)) AS dw
        $1: english or 1
        $2: x
        read only"#]]);
    get(r#"orders?order=id;select 1"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse order" (line 1, column 3)
        details: unexpected ";" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?limit=1;drop"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders".* FROM "public"."orders") AS dw
        read only"#]]);
    get(r#"orders?select=a%22b:id"#).selects(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 2)
        details: unexpected "\"" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=dw:id,dw_value:status"#).selects(&expect![[r#"
        SELECT NULL::pg_catalog.int8, pg_catalog.count(*), coalesce(pg_catalog.json_agg(dw.*)::pg_catalog.text, '[]') …  FROM (SELECT "public"."orders"."id" AS "dw", "public"."orders"."status" AS "dw_value" FROM "public"."orders") AS dw
        read only"#]]);
}

#[test]
fn options() {
    Ask::new(Method::OPTIONS, "orders").selects(&expect!["OPTIONS,GET,HEAD,POST,PATCH,DELETE"]);
    Ask::new(Method::OPTIONS, "totals").selects(&expect!["OPTIONS,GET,HEAD"]);
    Ask::new(Method::OPTIONS, "rpc/add").selects(&expect!["OPTIONS,GET,HEAD,POST"]);
    Ask::new(Method::OPTIONS, "rpc/log").selects(&expect!["OPTIONS,POST"]);
    Ask::new(Method::OPTIONS, "rpc/nothing").selects(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.nothing without parameters in the schema cache
        details: Searched for the function public.nothing without parameters, but no matches were found in the schema cache.
        hint: Check the function's name; a new function is known once the schema has been reloaded."#]]);
}

#[test]
fn records_keep_no_values() {
    get(r#"orders?select=id,k:data->>kind&status=eq.secret&or=(total.gt.7,not.and(id.in.(1,2),status.not.is.null))&order=id.desc&limit=5"#).recorded_as(&expect!["GET /shop/orders?select=id,k:data->>kind&status=eq.?&or=(total.gt.?,not.and(id.in.(?),status.not.is.null))&order=id.desc&limit=?"]);
    get(r#"orders?body=fts(english).secret&status=like(any).{secret}"#)
        .recorded_as(&expect!["GET /shop/orders?body=fts(english).?&status=like(any).?"]);
    get(r#"rpc/add?a=secret&b=2&x=eq.9"#).recorded_as(&expect!["GET /shop/rpc/add?a=?&b=?&x=eq.?"]);
    post("orders?columns=id", "[{\"id\":1,\"status\":\"secret\"}]")
        .recorded_as(&expect!["POST /shop/orders?columns=id"]);
    patch("orders?id=eq.4", "{\"status\":\"secret\"}")
        .recorded_as(&expect!["PATCH /shop/orders?id=eq.?&body=status"]);
}
