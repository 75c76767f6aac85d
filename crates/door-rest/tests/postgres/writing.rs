//! POST, PATCH and DELETE on tables.

use expect_test::expect;

use crate::shop::{Shop, ask, get, patch, post};

#[tokio::test]
async fn inserts() {
    let shop = Shop::new().await;
    shop.ann(post("orders", r#"{"status":"a","total":1}"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"orders?status=eq.a&select=owner,total"#)).await.is(&expect![[""]]);
    shop.ann(post("orders?select=owner,status,data", r#"[{"status":"b","data":{"x":[1]}},{"status":"c","data":null}]"#).back()).await.is(&expect![[""]]);
    shop.ann(post("pairs?columns=a,b,note", r#"[{"a":1,"b":"x"},{"a":2,"b":"y","note":"z"}]"#).with("prefer", "missing=default").back()).await.is(&expect![[""]]);
    shop.ann(post("pairs?columns=a,b,note", r#"{"a":3,"b":"x"}"#).back()).await.is(&expect![[""]]);
    shop.ann(post("orders?select=status&columns=id,status", r#"[{},{"status":"d"}]"#).with("prefer", "missing=default").back()).await.is(&expect![[""]]);
    shop.ann(post("orders?select=status", "{}").back()).await.is(&expect![[""]]);
    shop.ann(post("orders?select=status", "[{},{}]").back()).await.is(&expect![[""]]);
    shop.ann(post("orders", "[]").back()).await.is(&expect![[""]]);
    shop.ann(post("orders?select=tags,total", r#"{"tags":["x","y,z"],"total":"7.25"}"#).back()).await.is(&expect![[""]]);
    shop.ann(post("pairs", r#"{"a":1,"b":"x"}"#)).await.is(&expect![[""]]);
    shop.ann(post("orders", r#"{"total":"much"}"#)).await.is(&expect![[""]]);
    shop.ann(post("orders", r#"{"status":"bad"}"#)).await.is(&expect![[""]]);
    shop.ann(post("orders", r#"{"owner":"bob"}"#)).await.is(&expect![[""]]);
    shop.ann(post("orders", r#"{"colour":"red"}"#)).await.is(&expect![[""]]);
    shop.ann(post("orders", r#"{"status":null}"#)).await.is(&expect![[""]]);
    shop.ann(post("orders", r#"{"status":"\u0000"}"#)).await.is(&expect![[""]]);
}

#[tokio::test]
async fn updates() {
    let shop = Shop::new().await;
    shop.ann(patch("orders?id=eq.1", r#"{"status":"x","data":{"y":2}}"#)).await.is(&expect![[""]]);
    shop.ann(patch("orders?id=lt.3&select=id,status,data&order=id", r#"{"status":"z"}"#).back()).await.is(&expect![[""]]);
    shop.ann(patch("orders?id=eq.4", r#"{"status":"mine"}"#).back()).await.is(&expect![[""]]);
    shop.ann(patch("orders?id=eq.1&columns=status,total&select=status,total", r#"{"total":3}"#).with("prefer", "missing=default").back()).await.is(&expect![[""]]);
    shop.ann(patch("orders?id=eq.1", "{}").back()).await.is(&expect![[""]]);
    shop.ann(patch("orders?id=eq.1", "{}")).await.is(&expect![[""]]);
    shop.ann(patch("orders?id=eq.1&select=status", r#"[{"status":"first"},{"status":"second"}]"#).back()).await.is(&expect![[""]]);
    shop.ann(patch("orders?select=id,total&order=id", r#"{"total":8}"#).back()).await.is(&expect![[""]]);
    shop.ann(patch("orders?select=full_name&id=eq.1", r#"{"total":9}"#).back()).await.is(&expect![[""]]);
    shop.ann(patch("totals", r#"{"status":"x"}"#)).await.is(&expect![[""]]);
}

#[tokio::test]
async fn deletes() {
    let shop = Shop::new().await;
    shop.ann(ask("DELETE", "orders?id=eq.4")).await.is(&expect![[""]]);
    shop.ann(ask("DELETE", "orders?id=eq.2&select=id,k:data->>kind").back()).await.is(&expect![[""]]);
    shop.ann(ask("DELETE", "orders")).await.is(&expect![[""]]);
    shop.ann(get(r#"orders"#)).await.is(&expect![[""]]);
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
    let many = shop.ann(post("pairs", r#"[{"a":6,"b":"x"},{"a":7,"b":"y"}]"#).with("prefer", "return=headers-only")).await;
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
    expect![[""]].assert_eq(&told);
}
