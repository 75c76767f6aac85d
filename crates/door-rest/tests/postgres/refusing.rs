//! Refusals: bodies, statuses, and what they do not tell.

use doorward_core::Verb;
use expect_test::expect;

use crate::shop::{Setup, Shop, ask, get, patch, post};

#[tokio::test]
async fn the_database_s_refusals() {
    let shop = Shop::new().await;
    shop.ann(get("orders?nope=eq.1")).await.is(&expect![[""]]);
    shop.ann(get("orders?select=statu")).await.is(&expect![[""]]);
    shop.ann(get("orders?select=id::nonsense")).await.is(&expect![[""]]);
    shop.ann(get("orders?id=eq.x")).await.is(&expect![[""]]);
    shop.ann(get("orders?body=fts(klingon).x")).await.is(&expect![[""]]);
    shop.ann(get("orders?id=like.1")).await.is(&expect![[""]]);
    shop.ann(get("secrets")).await.is(&expect![[""]]);
    shop.call("", get("secrets")).await.is(&expect![[""]]);
    shop.call("eve", patch("orders?id=eq.1", r#"{"total":1}"#)).await.is(&expect![[""]]);
    shop.ann(get("ordrs")).await.is(&expect![[""]]);
    shop.ann(get("a/b")).await.is(&expect![[""]]);
    shop.call("dan", get("orders")).await.is(&expect![[""]]);
}

/// A table that is not there and one that may not be seen are refused in the same words.
#[tokio::test]
async fn without_a_grant_nothing_tells_what_exists() {
    let allow = |action: &doorward_core::Action| action.object.as_str() == "public/orders" && action.verb == Verb::Read;
    let shop = Shop::with(Setup { allow, ..Setup::default() }).await;
    for method in ["GET", "HEAD", "OPTIONS", "POST", "PATCH", "DELETE"] {
        for (there, missing) in [("secrets", "nothing"), ("rpc/add", "rpc/bad"), ("pairs", "parts")] {
            let asked = |path: &str| ask(method, path).body("{}");
            let (seen, unseen) = (shop.ann(asked(there)).await, shop.ann(asked(missing)).await);
            let names = |path: &str| path.rsplit('/').next().unwrap().to_owned();
            assert_eq!(seen.shown().replace(&names(there), "X"), unseen.shown().replace(&names(missing), "X"));
            assert_eq!(seen.status(), if there.starts_with("rpc") && !["GET", "HEAD", "OPTIONS", "POST"].contains(&method) { 405 } else { 403 });
        }
    }
    shop.ann(get("secrets")).await.is(&expect![[""]]);
    // What may be read is named as a way out; what may not is not, however alike the name.
    let wide = |action: &doorward_core::Action| ["public/orders", "public/ordrs", "public/secretz"].contains(&action.object.as_str());
    let shop = Shop::with(Setup { allow: wide, ..Setup::default() }).await;
    shop.ann(get("ordrs")).await.is(&expect![[""]]);
    shop.ann(get("secretz")).await.is(&expect![[""]]);
}

#[tokio::test]
async fn actions_follow_what_is_answered() {
    let write_only = |action: &doorward_core::Action| action.verb == Verb::Write;
    let shop = Shop::with(Setup { allow: write_only, ..Setup::default() }).await;
    assert_eq!(shop.ann(post("orders", "{}")).await.status(), 201);
    assert_eq!(shop.ann(patch("orders?id=eq.1", r#"{"total":1}"#)).await.status(), 204);
    shop.ann(post("orders", "{}").back()).await.is(&expect![[""]]);
    shop.ann(post("orders", "{}").with("prefer", "return=headers-only")).await.is(&expect![[""]]);
    shop.ann(patch("orders", "{}").with("prefer", "count=exact")).await.is(&expect![[""]]);
    shop.ann(ask("DELETE", "orders")).await.is(&expect![[""]]);
    shop.ann(get("rpc/add?a=1")).await.is(&expect![[""]]);
    shop.ann(post("rpc/add", r#"{"a":1}"#)).await.is(&expect![[""]]);
}

#[tokio::test]
async fn bodies_have_bounds() {
    let shop = Shop::with(Setup { extra: "body_max: 1KiB", ..Setup::default() }).await;
    let large = format!(r#"{{"status":"{}"}}"#, "x".repeat(1_100));
    let refused = shop.ann(post("orders", &large)).await;
    assert_eq!(refused.status(), 413);
    assert!(refused.text().contains(r#""code":"PGRST102""#), "{}", refused.text());
    shop.ann(post("orders", "{")).await.is(&expect![[""]]);
    shop.ann(post("orders", "a=b").with("content-type", "application/x-www-form-urlencoded")).await.is(&expect![[""]]);
}
