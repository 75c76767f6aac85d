//! POST, PATCH and DELETE on tables.

use expect_test::expect;

use crate::shop::{Shop, ask, get, patch, post};

#[tokio::test]
async fn inserts() {
    let shop = Shop::new().await;
    shop.ann(post("orders", r#"{"status":"a","total":1}"#)).await.is(&expect!["201 "]);
    shop.ann(get(r#"orders?status=eq.a&select=owner,total"#))
        .await
        .is(&expect![[r#"200 [{"owner":"ann","total":1.00}]"#]]);
    shop.ann(
        post(
            "orders?select=owner,status,data",
            r#"[{"status":"b","data":{"x":[1]}},{"status":"c","data":null}]"#,
        )
        .back(),
    )
    .await
    .is(&expect![[
        r#"201 [{"owner":"ann","status":"b","data":{"x": [1]}}, {"owner":"ann","status":"c","data":null}]"#
    ]]);
    shop.ann(
        post("pairs?columns=a,b,note", r#"[{"a":1,"b":"x"},{"a":2,"b":"y","note":"z"}]"#)
            .with("prefer", "missing=default")
            .back(),
    )
    .await
    .is(&expect![[r#"201 [{"a":1,"b":"x","note":"none"}, {"a":2,"b":"y","note":"z"}]"#]]);
    shop.ann(post("pairs?columns=a,b,note", r#"{"a":3,"b":"x"}"#).back())
        .await
        .is(&expect![[r#"201 [{"a":3,"b":"x","note":null}]"#]]);
    shop.ann(
        post("orders?select=status&columns=id,status", r#"[{},{"status":"d"}]"#)
            .with("prefer", "missing=default")
            .back(),
    )
    .await
    .is(&expect![[r#"201 [{"status":"new"}, {"status":"d"}]"#]]);
    shop.ann(post("orders?select=status", "{}").back()).await.is(&expect![[r#"201 [{"status":"new"}]"#]]);
    shop.ann(post("orders?select=status", "[{},{}]").back())
        .await
        .is(&expect![[r#"201 [{"status":"new"}, {"status":"new"}]"#]]);
    shop.ann(post("orders", "[]").back()).await.is(&expect!["201 []"]);
    shop.ann(post("orders?select=tags,total", r#"{"tags":["x","y,z"],"total":"7.25"}"#).back())
        .await
        .is(&expect![[r#"201 [{"tags":["x","y,z"],"total":7.25}]"#]]);
    shop.ann(post("pairs", r#"{"a":1,"b":"x"}"#)).await.is(&expect![[r#"409 {"code":"23505","details":"Key (a, b)=(1, x) already exists.","hint":"A row with this key is there already; change it by PATCH.","message":"duplicate key value violates unique constraint \"pairs_pkey\"","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("orders", r#"{"total":"much"}"#)).await.is(&expect![[r#"400 {"code":"22P02","details":null,"hint":"Check the names and values of the request.","message":"invalid input syntax for type numeric: \"much\"","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("orders", r#"{"status":"bad"}"#)).await.is(&expect![[r#"400 {"code":"23514","details":null,"hint":"Check the names and values of the request.","message":"new row for relation \"orders\" violates check constraint \"orders_status_check\"","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("orders", r#"{"owner":"bob"}"#)).await.is(&expect![[r#"403 {"code":"42501","details":null,"hint":"The role that the grant names lacks this right, or a row-level security policy forbids the row; the database's owner can grant it.","message":"new row violates row-level security policy for table \"orders\"","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("orders", r#"{"colour":"red"}"#)).await.is(&expect![[r#"400 {"code":"PGRST204","details":null,"hint":"Leave the key out, or check the column's name.","message":"Could not find the 'colour' column of 'orders' in the schema cache","fault":"forward.rest-unknown-column"}"#]]);
    shop.ann(post("orders", r#"{"status":null}"#)).await.is(&expect![[r#"400 {"code":"23502","details":null,"hint":"Check the names and values of the request.","message":"null value in column \"status\" of relation \"orders\" violates not-null constraint","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("orders", r#"{"status":"\u0000"}"#)).await.is(&expect![[r#"400 {"code":"22P05","details":"\\u0000 cannot be converted to text.","hint":"Check the names and values of the request.","message":"unsupported Unicode escape sequence","fault":"forward.rest-refused"}"#]]);
}

#[tokio::test]
async fn updates() {
    let shop = Shop::new().await;
    shop.ann(patch("orders?id=eq.1", r#"{"status":"x","data":{"y":2}}"#)).await.is(&expect!["204 "]);
    shop.ann(patch("orders?id=lt.3&select=id,status,data&order=id", r#"{"status":"z"}"#).back()).await.is(&expect![[r#"200 [{"id":1,"status":"z","data":{"y": 2}}, {"id":2,"status":"z","data":{"n": [3], "kind": "pen"}}]"#]]);
    shop.ann(patch("orders?id=eq.4", r#"{"status":"mine"}"#).back()).await.is(&expect!["200 []"]);
    shop.ann(
        patch("orders?id=eq.1&columns=status,total&select=status,total", r#"{"total":3}"#)
            .with("prefer", "missing=default")
            .back(),
    )
    .await
    .is(&expect![[r#"200 [{"status":"new","total":3.00}]"#]]);
    shop.ann(patch("orders?id=eq.1", "{}").back()).await.is(&expect!["200 []"]);
    shop.ann(patch("orders?id=eq.1", "{}")).await.is(&expect!["204 "]);
    shop.ann(patch("orders?id=eq.1&select=status", r#"[{"status":"first"},{"status":"second"}]"#).back())
        .await
        .is(&expect![[r#"200 [{"status":"first"}]"#]]);
    shop.ann(patch("orders?select=id,total&order=id", r#"{"total":8}"#).back())
        .await
        .is(&expect![[r#"200 [{"id":1,"total":8.00}, {"id":2,"total":8.00}, {"id":3,"total":8.00}]"#]]);
    shop.ann(patch("orders?select=full_name&id=eq.1", r#"{"total":9}"#).back())
        .await
        .is(&expect![[r#"200 [{"full_name":"ann/1"}]"#]]);
    shop.ann(patch("totals", r#"{"status":"x"}"#)).await.is(&expect![[r#"405 {"code":"PGRST117","details":"'public.totals' is a view whose rows cannot be changed this way","hint":"OPTIONS lists the methods; change the tables behind the view.","message":"Unsupported HTTP method: PATCH","fault":"decode.rest-method"}"#]]);
}

#[tokio::test]
async fn deletes() {
    let shop = Shop::new().await;
    shop.ann(ask("DELETE", "orders?id=eq.4")).await.is(&expect!["204 "]);
    shop.ann(ask("DELETE", "orders?id=eq.2&select=id,k:data->>kind").back())
        .await
        .is(&expect![[r#"200 [{"id":2,"k":"pen"}]"#]]);
    shop.ann(ask("DELETE", "orders")).await.is(&expect!["204 "]);
    shop.ann(get(r#"orders"#)).await.is(&expect!["200 []"]);
}

#[tokio::test]
async fn locations_and_preferences() {
    let shop = Shop::new().await;
    let made = shop.ann(post("pairs", r#"{"a":5,"b":"x y&é"}"#).with("prefer", "return=headers-only")).await;
    assert_eq!((made.status(), made.text().as_str()), (201, ""));
    assert_eq!(made.header("location"), "/shop/pairs?a=eq.5&b=eq.x%20y%26%C3%A9");
    assert_eq!(made.header("preference-applied"), "return=headers-only");
    let found = made.header("location").strip_prefix("/shop/").unwrap().to_owned();
    assert_eq!(shop.ann(get(&found)).await.text(), r#"[{"a":5,"b":"x y&é","note":"none"}]"#);
    let many = shop
        .ann(post("pairs", r#"[{"a":6,"b":"x"},{"a":7,"b":"y"}]"#).with("prefer", "return=headers-only"))
        .await;
    assert_eq!((many.status(), many.header("location")), (201, ""));
    let counted = shop.ann(patch("orders?id=gt.1", r#"{"total":0}"#).with("prefer", "count=exact")).await;
    assert_eq!((counted.status(), counted.header("content-range")), (204, "0-1/2"));
    let deleted = shop.ann(ask("DELETE", "orders?id=gt.1").with("prefer", "count=exact")).await;
    assert_eq!((deleted.status(), deleted.header("content-range")), (204, "*/2"));
}

#[tokio::test]
async fn a_change_is_intended_before_it_is_made_and_recorded_without_values() {
    let shop = Shop::new().await;
    shop.ann(post("orders", r#"{"status":"s3cret","total":1}"#)).await;
    shop.ann(patch("orders?status=eq.s3cret", r#"{"status":"s3cret2"}"#)).await;
    shop.ann(post("orders", r#"{"total":"s3cret"}"#)).await;
    shop.ann(get("orders?id=s3cret")).await;
    shop.ann(get("orders?id=eq.s3cret")).await;
    assert_eq!(shop.recorder.intents().len(), 3);
    let mut told = String::new();
    for record in shop.recorder.records() {
        assert!(!format!("{record:?}").contains("s3cret"));
        let operation = record.operation.as_ref().map_or("-", |operation| operation.reveal());
        assert!(!operation.contains("s3cret"));
        let fault = record.fault.as_ref().map_or("-", |fault| fault.code);
        told.push_str(&format!(
            "{} {} | {operation} | {} {fault} {} {}\n",
            record.status.unwrap(),
            record.outcome.as_str(),
            record.endpoint.as_deref().unwrap(),
            record.sqlstate.as_deref().unwrap_or("-"),
            record.rows.map_or("-".to_owned(), |rows| rows.to_string()),
        ));
    }
    expect![[r#"
        201 allowed | POST /shop/orders?body=status,total | POST /shop/{table} - - 1
        204 allowed | PATCH /shop/orders?status=eq.?&body=status | PATCH /shop/{table} - - 1
        400 failed | POST /shop/orders?body=total | POST /shop/{table} forward.rest-refused 22P02 -
        400 denied | - | GET /shop/{table} decode.rest-query - -
        400 failed | GET /shop/orders?id=eq.? | GET /shop/{table} forward.rest-refused 22P02 -
    "#]]
    .assert_eq(&told);
}

#[tokio::test]
async fn a_change_that_must_be_of_one_row_is_undone_when_it_is_not() {
    const ONE: &str = "application/vnd.pgrst.object+json";
    let shop = Shop::new().await;
    let one = |ask: crate::shop::Ask| ask.with("accept", ONE);
    shop.ann(one(post("orders?select=status", r#"{"status":"one"}"#).back()))
        .await
        .is(&expect![[r#"201 {"status":"one"}"#]]);
    shop.ann(one(patch("orders?select=id", r#"{"status":"all"}"#).back())).await.is(&expect![[r#"406 {"code":"PGRST116","details":"The result contains 4 rows","hint":"Filter for exactly one row, or accept an array.","message":"Cannot coerce the result to a single JSON object","fault":"shape.rest-not-one-row"}"#]]);
    shop.ann(one(patch("orders?id=eq.99", r#"{"status":"all"}"#))).await.is(&expect![[r#"406 {"code":"PGRST116","details":"The result contains 0 rows","hint":"Filter for exactly one row, or accept an array.","message":"Cannot coerce the result to a single JSON object","fault":"shape.rest-not-one-row"}"#]]);
    shop.ann(one(ask("DELETE", "orders"))).await.is(&expect![[r#"406 {"code":"PGRST116","details":"The result contains 4 rows","hint":"Filter for exactly one row, or accept an array.","message":"Cannot coerce the result to a single JSON object","fault":"shape.rest-not-one-row"}"#]]);
    shop.ann(one(ask("DELETE", "orders?id=eq.1&select=id").back())).await.is(&expect![[r#"200 {"id":1}"#]]);
    shop.ann(get("orders?status=eq.all")).await.is(&expect!["200 []"]);
    shop.ann(one(post("rpc/mine?select=id&id=eq.2", ""))).await.is(&expect![[r#"200 {"id":2}"#]]);
    shop.ann(one(post("rpc/mine", ""))).await.is(&expect![[r#"406 {"code":"PGRST116","details":"The result contains 3 rows","hint":"Filter for exactly one row, or accept an array.","message":"Cannot coerce the result to a single JSON object","fault":"shape.rest-not-one-row"}"#]]);
    shop.ann(one(post("rpc/series", r#"{"n":1}"#))).await.is(&expect!["200 1"]);
    shop.ann(one(post("rpc/note", r#"{"word":"x"}"#))).await.is(&expect!["204 "]);
}
