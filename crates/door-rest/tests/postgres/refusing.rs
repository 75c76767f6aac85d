//! Refusals: bodies, statuses, and what they do not tell.

use doorward_core::Verb;
use expect_test::expect;

use crate::shop::{Setup, Shop, ask, get, patch, post};

#[tokio::test]
async fn the_database_s_refusals() {
    let shop = Shop::new().await;
    shop.ann(get("orders?nope=eq.1")).await.is(&expect![[r#"400 {"code":"42703","details":null,"hint":"Check the column's name; a computed column needs a grant to read its function.","message":"column orders.nope does not exist","fault":"forward.rest-unknown-column"}"#]]);
    shop.ann(get("orders?select=statu")).await.is(&expect![[r#"400 {"code":"42703","details":null,"hint":"Perhaps you meant the column 'status'.","message":"column orders.statu does not exist","fault":"forward.rest-unknown-column"}"#]]);
    shop.ann(get("orders?select=id::nonsense")).await.is(&expect![[r#"400 {"code":"42704","details":null,"hint":"Check the names and values of the request.","message":"type \"nonsense\" does not exist","fault":"forward.rest-refused"}"#]]);
    shop.ann(get("orders?id=eq.x")).await.is(&expect![[r#"400 {"code":"22P02","details":null,"hint":"Check the names and values of the request.","message":"invalid input syntax for type integer: \"x\"","fault":"forward.rest-refused"}"#]]);
    shop.ann(get("orders?body=fts(klingon).x")).await.is(&expect![[r#"400 {"code":"42704","details":null,"hint":"Check the names and values of the request.","message":"text search configuration \"klingon\" does not exist","fault":"forward.rest-refused"}"#]]);
    shop.ann(get("orders?id=like.1")).await.is(&expect![[r#"404 {"code":"42883","details":null,"hint":"No operator matches the given name and argument types. You might need to add explicit type casts.","message":"operator does not exist: integer ~~ unknown","fault":"forward.rest-refused"}"#]]);
    shop.ann(get("secrets")).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"The role that the grant names lacks this right, or a row-level security policy forbids the row; the database's owner can grant it.","message":"permission denied for table secrets","fault":"forward.rest-refused"}"#]]);
    shop.call("", get("secrets")).await.is(&expect![[r#"401 {"code":"42501","details":null,"hint":"The role that the grant names lacks this right, or a row-level security policy forbids the row; the database's owner can grant it.","message":"permission denied for table secrets","fault":"forward.rest-refused"}"#]]);
    shop.call("eve", patch("orders?id=eq.1", r#"{"total":1}"#)).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"The role that the grant names lacks this right, or a row-level security policy forbids the row; the database's owner can grant it.","message":"permission denied for table orders","fault":"forward.rest-refused"}"#]]);
    shop.ann(get("ordrs")).await.is(&expect![[r#"404 {"code":"PGRST205","details":null,"hint":"Perhaps you meant the table 'public.orders'","message":"Could not find the table 'public.ordrs' in the schema cache","fault":"forward.rest-unknown-table"}"#]]);
    shop.ann(get("a/b")).await.is(&expect![[r#"404 {"code":"PGRST125","details":null,"hint":"Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION.","message":"Invalid path specified in request URL","fault":"decode.rest-path"}"#]]);
    shop.call("dan", get("orders")).await.is(&expect![[r#"500 {"code":"PGRSTX00","details":null,"hint":"The gateway's operator adds `as: ROLE` to the grant.","message":"the grant that allows this call names no database role","fault":"lease.rest-no-role"}"#]]);
}

/// A table that is not there and one that may not be seen are refused in the same words.
#[tokio::test]
async fn without_a_grant_nothing_tells_what_exists() {
    let allow = |action: &doorward_core::Action| {
        action.object.as_str() == "public/orders" && action.verb == Verb::Read
    };
    let shop = Shop::with(Setup { allow, ..Setup::default() }).await;
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"] {
        for (there, missing) in [("secrets", "nothing"), ("rpc/add", "rpc/bad"), ("pairs", "parts")] {
            let asked = |path: &str| ask(method, path).body("{}");
            let (seen, unseen) = (shop.ann(asked(there)).await, shop.ann(asked(missing)).await);
            let names = |path: &str| path.rsplit('/').next().unwrap().to_owned();
            assert_eq!(
                seen.shown().replace(&names(there), "X"),
                unseen.shown().replace(&names(missing), "X")
            );
            assert_eq!(
                seen.status(),
                if there.starts_with("rpc") && !["GET", "HEAD", "OPTIONS", "POST"].contains(&method) {
                    405
                } else {
                    403
                }
            );
        }
    }
    shop.ann(get("secrets")).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows read shop/public/secrets","fault":"authorize.no-grant"}"#]]);
    // What may be read is named as a way out; what may not is not, however alike the name.
    let wide = |action: &doorward_core::Action| {
        ["public/orders", "public/ordrs", "public/secretz"].contains(&action.object.as_str())
    };
    let shop = Shop::with(Setup { allow: wide, ..Setup::default() }).await;
    shop.ann(get("ordrs")).await.is(&expect![[r#"404 {"code":"PGRST205","details":null,"hint":"Perhaps you meant the table 'public.orders'","message":"Could not find the table 'public.ordrs' in the schema cache","fault":"forward.rest-unknown-table"}"#]]);
    shop.ann(get("secretz")).await.is(&expect![[r#"404 {"code":"PGRST205","details":null,"hint":"Check the table's name; a new table is known once the schema has been reloaded.","message":"Could not find the table 'public.secretz' in the schema cache","fault":"forward.rest-unknown-table"}"#]]);
}

#[tokio::test]
async fn actions_follow_what_is_answered() {
    let write_only = |action: &doorward_core::Action| action.verb == Verb::Write;
    let shop = Shop::with(Setup { allow: write_only, ..Setup::default() }).await;
    assert_eq!(shop.ann(post("orders", "{}")).await.status(), 201);
    for (filter, rows) in [("id=eq.1", 1), ("id=eq.0", 0), ("status=like.p*", 1)] {
        let changed = shop.ann(patch(&format!("orders?{filter}"), r#"{"total":1}"#)).await;
        assert_eq!(changed.status(), 204);
        assert_eq!(changed.header("content-range"), "*/*", "how many were found is for readers: {rows}");
    }
    let row = r#"{"a":1,"b":"b","note":"hush"}"#;
    assert_eq!(shop.ann(post("pairs", row)).await.status(), 201);
    let broken = shop.ann(patch("pairs?a=eq.1", r#"{"b":null}"#)).await;
    assert_eq!(broken.status(), 400, "{}", broken.text());
    assert!(!broken.text().contains("hush"), "a row is for readers: {}", broken.text());
    shop.ann(post("orders", "{}").back()).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows read shop/public/orders","fault":"authorize.no-grant"}"#]]);
    shop.ann(post("orders", "{}").with("prefer", "return=headers-only")).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows read shop/public/orders","fault":"authorize.no-grant"}"#]]);
    shop.ann(patch("orders", "{}").with("prefer", "count=exact")).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows read shop/public/orders","fault":"authorize.no-grant"}"#]]);
    let one = patch("orders?id=eq.1", r#"{"total":1}"#).with("accept", "application/vnd.pgrst.object+json");
    assert_eq!(shop.ann(one).await.status(), 403, "whether a row was there is for readers");
    shop.ann(ask("DELETE", "orders")).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows delete shop/public/orders","fault":"authorize.no-grant"}"#]]);
    shop.ann(get("rpc/add?a=1")).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows read shop/public/add","fault":"authorize.no-grant"}"#]]);
    shop.ann(post("rpc/add", r#"{"a":1}"#)).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"Ask.","message":"no grant allows execute shop/public/add","fault":"authorize.no-grant"}"#]]);
}

/// Whoever may not do what a body is for cannot make the gateway read it: broken JSON is not even seen.
#[tokio::test]
async fn bodies_of_those_who_may_not_are_not_read() {
    let allow = |action: &doorward_core::Action| action.verb == Verb::Read;
    let shop = Shop::with(Setup { allow, ..Setup::default() }).await;
    for asked in [post("orders", "{"), patch("orders", "{"), post("rpc/add", "{")] {
        let refused = shop.ann(asked).await;
        assert_eq!(refused.status(), 403, "{}", refused.text());
    }
    let records = shop.recorder.records();
    assert_eq!(records.iter().map(|record| record.bytes_in).collect::<Vec<_>>(), [0, 0, 0]);
}

#[tokio::test]
async fn bodies_have_bounds() {
    let shop = Shop::with(Setup { extra: "body_max: 1KiB", ..Setup::default() }).await;
    let large = format!(r#"{{"status":"{}"}}"#, "x".repeat(1_100));
    let refused = shop.ann(post("orders", &large)).await;
    assert_eq!(refused.status(), 413);
    assert!(refused.text().contains(r#""code":"PGRST102""#), "{}", refused.text());
    shop.ann(post("orders", "{")).await.is(&expect![[r#"400 {"code":"PGRST102","details":"the JSON is broken at line 1, column 1","hint":"Send well-formed JSON (RFC 8259).","message":"Empty or invalid json","fault":"decode.rest-body"}"#]]);
    shop.ann(post("orders", "a=b").with("content-type", "application/x-www-form-urlencoded")).await.is(&expect![[r#"415 {"code":"PGRST107","details":"this version reads JSON bodies; CSV and form bodies come with a later one","hint":"Send the body as application/json.","message":"Content-Type not acceptable","fault":"decode.rest-media-type"}"#]]);
}
