//! Functions by GET and POST.

use expect_test::expect;

use crate::shop::{Shop, ask, get, post};

#[tokio::test]
async fn by_get() {
    let shop = Shop::new().await;
    shop.ann(get(r#"rpc/add?a=1&b=2"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/add?a=1"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/mine?select=id&order=id.desc&limit=2"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/mine?least=1&select=id&status=eq.new"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/newest?select=id,k:data->>kind"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/pair?select=x,v:y->k->0"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/series?n=3"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/sum_all?v=1&v=2&v=3"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/note?word=x"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"pairs"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/add?a=x"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/add?b=1"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"rpc/ad?a=1"#)).await.is(&expect![[""]]);
}

#[tokio::test]
async fn by_post() {
    let shop = Shop::new().await;
    shop.ann(post("rpc/add", r#"{"a":1,"b":2}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/add", r#"{"a":"7"}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/mine?select=id&order=id", "")).await.is(&expect![[""]]);
    shop.ann(post("rpc/sum_all", r#"{"v":[1,2,3]}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/echo", r#"{"any":[1]}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/echo", "[1,2]")).await.is(&expect![[""]]);
    shop.ann(post("rpc/note", r#"{"word":"kept"}"#)).await.is(&expect![[""]]);
    shop.ann(get(r#"pairs?select=b"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/series", r#"{"n":2}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/newest?select=id", "{}")).await.is(&expect![[""]]);
    shop.ann(post("rpc/add", "[1]")).await.is(&expect![[""]]);
    shop.ann(post("rpc/teapot", "")).await.is(&expect![[""]]);
    shop.ann(ask("OPTIONS", "rpc/add")).await.is(&expect![[""]]);
    shop.ann(ask("HEAD", "rpc/add?a=1")).await.is(&expect![[""]]);
}

#[tokio::test]
async fn raised_errors() {
    let shop = Shop::new().await;
    shop.ann(post("rpc/raises", r#"{"state":"P0001"}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/raises", r#"{"state":"PT402"}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/raises", r#"{"state":"23505"}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/raises", r#"{"state":"40001"}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/raises", r#"{"state":"57014"}"#)).await.is(&expect![[""]]);
    shop.ann(post("rpc/raises", r#"{"state":"XX000"}"#)).await.is(&expect![[""]]);
}

#[tokio::test]
async fn settings_are_the_calls_own() {
    let shop = Shop::new().await;
    let around = get("rpc/around").with("x-tenant", "north").with("x-api-token", "hush").with("cookie", "hush");
    shop.ann(around).await.is(&expect![[""]]);
    shop.call("eve", post("rpc/around", "")).await.is(&expect![[""]]);
}
