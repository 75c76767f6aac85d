//! GET: what PostgreSQL makes of every operator.

use doorward_core::Obligations;
use expect_test::expect;

use crate::shop::{Setup, Shop, ask, get};

#[tokio::test]
async fn columns_casts_and_paths() {
    let shop = Shop::with(Setup { extra: "schemas: [public, private]", ..Setup::default() }).await;
    shop.ann(get(r#"orders?select=id,s:status,total::text,k:data->>kind,data->n->-1,tags->0,full_name&order=id"#)).await.is(&expect![[r#"200 [{"id":1,"s":"paid","total":"10.50","k":"book","n":2,"tags":"a","full_name":"ann/1"}, {"id":2,"s":"new","total":"5.00","k":"pen","n":3,"tags":"b","full_name":"ann/2"}, {"id":3,"s":"new","total":null,"k":null,"n":null,"tags":null,"full_name":"ann/3"}]"#]]);
    shop.ann(get(r#"orders?id=eq.1"#)).await.is(&expect![[r#"200 [{"id":1,"owner":"ann","status":"paid","total":10.50,"data":{"n": [1, 2], "kind": "book"},"tags":["a","b"],"span":"[1,5)","body":"'fox':3 'quick':2","Odd \"name\"":null}]"#]]);
    shop.ann(get(r#"orders?select="Odd %5C"name%5C""&limit=1"#))
        .await
        .is(&expect![[r#"200 [{"Odd \"name\"":null}]"#]]);
    shop.ann(get(r#"orders?select=id::double precision,status::character varying&limit=1"#))
        .await
        .is(&expect![[r#"200 [{"id":1,"status":"paid"}]"#]]);
    shop.ann(get(r#"totals?order=status"#))
        .await
        .is(&expect![[r#"200 [{"status":"new","count":2}, {"status":"paid","count":2}]"#]]);
    shop.ann(get("orders").with("accept-profile", "private")).await.is(&expect![[r#"200 [{"id":77}]"#]]);
    shop.ann(get(r#"orders?select=id,id&limit=1"#)).await.is(&expect![[r#"200 [{"id":1,"id":1}]"#]]);
    shop.ann(get(r#"orders?select=dw:id,dw_value:status&limit=1"#))
        .await
        .is(&expect![[r#"200 [{"dw":1,"dw_value":"paid"}]"#]]);
}

#[tokio::test]
async fn every_operator() {
    let shop = Shop::new().await;
    shop.ann(get(r#"orders?select=id&order=id&id=eq.1"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=gt.1"#)).await.is(&expect![[r#"200 [{"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=gte.2"#))
        .await
        .is(&expect![[r#"200 [{"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=lt.2"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=lte.2"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=neq.1"#))
        .await
        .is(&expect![[r#"200 [{"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=like.p*"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=ilike.P*d"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=match.^p"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=imatch.^P"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=in.(1,3)"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=in.()"#)).await.is(&expect!["200 []"]);
    shop.ann(get(r#"orders?select=id&order=id&status=in.("paid",x)"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&total=is.null"#)).await.is(&expect![[r#"200 [{"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&total=not.is.null"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&total=is.not_null"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&total=isdistinct.5"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&body=fts(english).fox"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&body=plfts.lazy dog"#))
        .await
        .is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&body=phfts(english).quick fox"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&body=wfts(english).fox or dogs"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=fts.paid"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&data->>kind=fts.book"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&tags=cs.{a}"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&tags=cd.{b,c}"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&tags=ov.{a,z}"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&data=cs.{"kind":"pen"}"#))
        .await
        .is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&span=sl.[5,9)"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&span=sr.[1,5)"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&span=nxr.[1,5)"#)).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&span=nxl.[5,9)"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&span=adj.[9,10)"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&span=ov.[4,6)"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=eq(any).{paid,x}"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&id=gt(all).{0,1}"#))
        .await
        .is(&expect![[r#"200 [{"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=like(any).{p*,x*}"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&status=not.eq.paid"#))
        .await
        .is(&expect![[r#"200 [{"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&data->>kind=eq.book"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&data->n->>0=eq.3"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&data->n=eq.[3]"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&or=(id.eq.1,data->>kind.eq.pen)"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&and=(id.gt.0,not.or(status.eq.paid,total.is.null))"#))
        .await
        .is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&not.and=(id.gt.1,id.lt.9)"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&full_name=eq.ann/2"#))
        .await
        .is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&or=(tags.cs.{a,b},status.in.(x,y))"#))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
}

#[tokio::test]
async fn order_and_pages() {
    let shop = Shop::new().await;
    shop.ann(get(r#"orders?select=id&order=total.desc.nullslast,id"#))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"orders?select=id&order=data->>kind.asc.nullsfirst"#))
        .await
        .is(&expect![[r#"200 [{"id":3}, {"id":1}, {"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&order=id&limit=1&offset=1"#)).await.is(&expect![[r#"200 [{"id":2}]"#]]);
    shop.ann(get(r#"orders?select=id&limit=0"#)).await.is(&expect!["200 []"]);
}

#[tokio::test]
async fn ranges_and_counts() {
    let shop = Shop::new().await;
    let page =
        shop.ann(get("orders?select=id&order=id").with("range-unit", "items").with("range", "1-1")).await;
    assert_eq!((page.status(), page.text().as_str()), (200, r#"[{"id":2}]"#));
    assert_eq!(page.header("content-range"), "1-1/*");
    let counted = shop.ann(get("orders?select=id&limit=2").with("prefer", "count=exact")).await;
    assert_eq!((counted.status(), counted.header("content-range")), (206, "0-1/3"));
    let all = shop.ann(get("orders").with("prefer", "count=exact")).await;
    assert_eq!((all.status(), all.header("content-range")), (200, "0-2/3"));
    let behind = shop.ann(get("orders?offset=9").with("prefer", "count=exact")).await;
    behind.is(&expect![[r#"416 {"code":"PGRST103","details":"An offset of 9 was requested, but there are only 3 rows.","hint":"Ask for a smaller offset.","message":"Requested range not satisfiable","fault":"shape.rest-out-of-range"}"#]]);
    let one = |id: u8| {
        get(&format!("orders?select=id&id=eq.{id}")).with("accept", "application/vnd.pgrst.object+json")
    };
    shop.ann(one(1)).await.is(&expect![[r#"200 {"id":1}"#]]);
    shop.ann(one(9)).await.is(&expect![[r#"406 {"code":"PGRST116","details":"The result contains 0 rows","hint":"Filter for exactly one row, or accept an array.","message":"Cannot coerce the result to a single JSON object","fault":"shape.rest-not-one-row"}"#]]);
    let head = shop.ann(ask("HEAD", "orders?id=gt.1")).await;
    assert_eq!((head.status(), head.text().as_str(), head.header("content-range")), (200, "", "0-1/*"));
    let options = shop.ann(ask("OPTIONS", "orders")).await;
    assert_eq!((options.status(), options.header("allow")), (200, "OPTIONS,GET,HEAD,POST,PATCH,DELETE"));
    let view = shop.ann(ask("OPTIONS", "totals")).await;
    assert_eq!(view.header("allow"), "OPTIONS,GET,HEAD");
}

#[tokio::test]
async fn caps_of_rows_and_bytes() {
    let rows = Obligations { rows_max: Some(2), ..Obligations::default() };
    let shop = Shop::with(Setup { obligations: rows, ..Setup::default() }).await;
    let cut = shop.ann(get("orders?select=id&order=id&limit=100")).await;
    assert_eq!((cut.text().as_str(), cut.header("content-range")), ("[{\"id\":1}, \n {\"id\":2}]", "0-1/*"));
    let changed = shop.ann(crate::shop::patch("orders?select=id", r#"{"total":1}"#).back()).await;
    assert_eq!(changed.header("content-range"), "0-2/*", "all were changed, two are answered");
    assert_eq!(changed.text().matches("id").count(), 2);
    let bytes = Obligations { bytes_max: Some(200), ..Obligations::default() };
    let shop = Shop::with(Setup { obligations: bytes, ..Setup::default() }).await;
    assert_eq!(shop.ann(get("orders?select=id&limit=1")).await.status(), 200);
    shop.ann(get("orders")).await.is(&expect![[r#"413 {"code":"54000","details":null,"hint":"Ask for fewer rows or columns: `limit`, `select`, a filter.","message":"the answer is larger than 200 bytes","fault":"forward.answer-too-large"}"#]]);
    let shop = Shop::with(Setup { extra: "max_rows: 1", ..Setup::default() }).await;
    assert_eq!(shop.ann(get("orders?select=id")).await.header("content-range"), "0-0/*");
}
