//! The same on a newer major version of PostgreSQL.

use expect_test::expect;

use crate::shop::{Shop, ask, get, patch, post};

#[tokio::test]
async fn a_newer_major_version() {
    let shop = Shop::newer().await;
    assert_eq!(
        shop.database.sql("select current_setting('server_version_num')::int >= 180000").unwrap().trim(),
        "t"
    );
    shop.ann(get("orders?select=id,k:data->>kind,tags->0&or=(id.eq.1,data->>kind.eq.pen)&order=id.desc"))
        .await
        .is(&expect![[r#"200 [{"id":2,"k":"pen","tags":"b"}, {"id":1,"k":"book","tags":"a"}]"#]]);
    shop.ann(get("orders?select=id&body=fts(english).fox&limit=1").with("prefer", "count=exact"))
        .await
        .is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(post("orders?select=owner,total", r#"[{"total":1},{"total":2}]"#).back())
        .await
        .is(&expect![[r#"201 [{"owner":"ann","total":1.00}, {"owner":"ann","total":2.00}]"#]]);
    shop.ann(post("orders?select=status&columns=id,status", "{}").with("prefer", "missing=default").back())
        .await
        .is(&expect![[r#"201 [{"status":"new"}]"#]]);
    shop.ann(post("pairs", r#"{"a":1,"b":"x"}"#).with("prefer", "return=headers-only"))
        .await
        .is(&expect!["201 "]);
    shop.ann(patch("orders?id=eq.1&select=id,total", r#"{"total":9}"#).back())
        .await
        .is(&expect![[r#"200 [{"id":1,"total":9.00}]"#]]);
    shop.ann(ask("DELETE", "orders").with("accept", "application/vnd.pgrst.object+json"))
        .await
        .is(&expect![[r#"406 {"code":"PGRST116","details":"The result contains 6 rows","hint":"Filter for exactly one row, or accept an array.","message":"Cannot coerce the result to a single JSON object","fault":"shape.rest-not-one-row"}"#]]);
    shop.ann(ask("DELETE", "orders?id=eq.1&select=id").back()).await.is(&expect![[r#"200 [{"id":1}]"#]]);
    shop.ann(post("rpc/add", r#"{"a":1}"#)).await.is(&expect!["200 11"]);
    shop.ann(get("rpc/note?word=x")).await.is(&expect![[r#"405 {"code":"25006","details":null,"hint":"A call by GET is read only; call the function by POST.","message":"cannot execute INSERT in a read-only transaction","fault":"forward.rest-refused"}"#]]);
    shop.call("bob", get("orders?select=owner")).await.is(&expect![[r#"200 [{"owner":"bob"}]"#]]);
}
