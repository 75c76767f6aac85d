//! Functions by GET and POST.

use expect_test::expect;

use crate::shop::{Shop, ask, get, post};

#[tokio::test]
async fn by_get() {
    let shop = Shop::new().await;
    shop.ann(get(r#"rpc/add?a=1&b=2"#)).await.is(&expect!["200 3"]);
    shop.ann(get(r#"rpc/add?a=1"#)).await.is(&expect!["200 11"]);
    shop.ann(get(r#"rpc/mine?select=id&order=id.desc&limit=2"#))
        .await
        .is(&expect![[r#"200 [{"id":3}, {"id":2}]"#]]);
    shop.ann(get(r#"rpc/mine?above=1&select=id&status=eq.new"#))
        .await
        .is(&expect![[r#"200 [{"id":2}, {"id":3}]"#]]);
    shop.ann(get(r#"rpc/newest?select=id,k:data->>kind"#)).await.is(&expect![[r#"200 {"id":3,"k":null}"#]]);
    shop.ann(get(r#"rpc/pair?select=x,v:y->k->0"#)).await.is(&expect![[r#"200 [{"x":1,"v":7}]"#]]);
    shop.ann(get(r#"rpc/series?n=3"#)).await.is(&expect!["200 [1, 2, 3]"]);
    shop.ann(get(r#"rpc/sum_all?v=1&v=2&v=3"#)).await.is(&expect!["200 6"]);
    shop.ann(get(r#"rpc/note?word=x"#)).await.is(&expect![[r#"405 {"code":"25006","details":null,"hint":"A call by GET is read only; call the function by POST.","message":"cannot execute INSERT in a read-only transaction","fault":"forward.rest-refused"}"#]]);
    shop.ann(get(r#"pairs"#)).await.is(&expect!["200 []"]);
    shop.ann(get(r#"rpc/add?a=x"#)).await.is(&expect![[r#"400 {"code":"22P02","details":null,"hint":"Check the names and values of the request.","message":"invalid input syntax for type integer: \"x\"","fault":"forward.rest-refused"}"#]]);
    shop.ann(get(r#"rpc/add?b=1"#)).await.is(&expect![[r#"404 {"code":"PGRST202","details":"Searched for the function public.add(b), but no matches were found in the schema cache.","hint":"Perhaps you meant to call the function public.add(a, b)","message":"Could not find the function public.add(b) in the schema cache","fault":"forward.rest-unknown-function"}"#]]);
    shop.ann(get(r#"rpc/ad?a=1"#)).await.is(&expect![[r#"404 {"code":"PGRST202","details":"Searched for the function public.ad(a), but no matches were found in the schema cache.","hint":"Perhaps you meant to call the function public.add","message":"Could not find the function public.ad(a) in the schema cache","fault":"forward.rest-unknown-function"}"#]]);
}

#[tokio::test]
async fn by_post() {
    let shop = Shop::new().await;
    shop.ann(post("rpc/add", r#"{"a":1,"b":2}"#)).await.is(&expect!["200 3"]);
    shop.ann(post("rpc/add", r#"{"a":"7"}"#)).await.is(&expect!["200 17"]);
    shop.ann(post("rpc/mine?select=id&order=id", ""))
        .await
        .is(&expect![[r#"200 [{"id":1}, {"id":2}, {"id":3}]"#]]);
    shop.ann(post("rpc/sum_all", r#"{"v":[1,2,3]}"#)).await.is(&expect!["200 6"]);
    shop.ann(post("rpc/echo", r#"{"any":[1]}"#)).await.is(&expect![[r#"200 {"any":[1]}"#]]);
    shop.ann(post("rpc/echo", "[1,2]")).await.is(&expect!["200 [1,2]"]);
    shop.ann(post("rpc/note", r#"{"word":"kept"}"#)).await.is(&expect!["204 "]);
    shop.ann(get(r#"pairs?select=b"#)).await.is(&expect![[r#"200 [{"b":"kept"}]"#]]);
    shop.ann(post("rpc/series", r#"{"n":2}"#)).await.is(&expect!["200 [1, 2]"]);
    shop.ann(post("rpc/newest?select=id", "{}")).await.is(&expect![[r#"200 {"id":3}"#]]);
    shop.ann(post("rpc/add", "[1]")).await.is(&expect![[r#"404 {"code":"PGRST202","details":"Searched for the function public.add without parameters, but no matches were found in the schema cache.","hint":"Perhaps you meant to call the function public.add(a, b)","message":"Could not find the function public.add without parameters in the schema cache","fault":"forward.rest-unknown-function"}"#]]);
    shop.ann(post("rpc/teapot", "")).await.is(&expect![[r#"418 "short""#]]);
    shop.ann(ask("OPTIONS", "rpc/add")).await.is(&expect!["200 "]);
    shop.ann(ask("HEAD", "rpc/add?a=1")).await.is(&expect!["200 "]);
}

#[tokio::test]
async fn raised_errors() {
    let shop = Shop::new().await;
    shop.ann(post("rpc/raises", r#"{"state":"P0001"}"#)).await.is(&expect![[r#"400 {"code":"P0001","details":"why","hint":"go on","message":"said no","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("rpc/raises", r#"{"state":"PT402"}"#)).await.is(&expect![[r#"402 {"code":"PT402","details":"why","hint":"go on","message":"said no","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("rpc/raises", r#"{"state":"23505"}"#)).await.is(&expect![[r#"409 {"code":"23505","details":"why","hint":"go on","message":"said no","fault":"forward.rest-refused"}"#]]);
    shop.ann(post("rpc/raises", r#"{"state":"40001"}"#)).await.is(&expect![[r#"500 {"code":"40001","details":"why","hint":"go on","message":"said no","fault":"forward.rest-failed"}"#]]);
    shop.ann(post("rpc/raises", r#"{"state":"57014"}"#)).await.is(&expect![[r#"504 {"code":"57014","details":"why","hint":"go on","message":"said no","fault":"forward.rest-timeout"}"#]]);
    shop.ann(post("rpc/raises", r#"{"state":"XX000"}"#)).await.is(&expect![[r#"500 {"code":"XX000","details":"why","hint":"go on","message":"said no","fault":"forward.rest-failed"}"#]]);
}

#[tokio::test]
async fn settings_are_the_calls_own() {
    let shop = Shop::new().await;
    let around =
        get("rpc/around").with("x-tenant", "north").with("x-api-token", "hush").with("cookie", "hush");
    shop.ann(around).await.is(&expect![[r#"200 {"role" : "clerk", "login" : "authenticator", "sub" : "ann", "method" : "GET", "path" : "/rpc/around", "headers" : {"x-tenant":"north"}, "search_path" : "\"public\"", "app" : "doorward:ann", "read_only" : "on", "id" : 36}"#]]);
    shop.call("eve", post("rpc/around", "")).await.is(&expect![[r#"200 {"role" : "analyst", "login" : "authenticator", "sub" : "eve", "method" : "POST", "path" : "/rpc/around", "headers" : {}, "search_path" : "\"public\"", "app" : "doorward:eve", "read_only" : "on", "id" : 36}"#]]);
}
