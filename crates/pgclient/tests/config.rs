//! The `pool:` section.

use std::time::Duration;

use doorward_pgclient::{PoolConfig, PoolSettings};

#[test]
fn nothing_said_is_the_default() {
    let config: PoolConfig = serde_json::from_str("{}").unwrap();
    assert_eq!(config.settings(), PoolSettings::default());
}

#[test]
fn what_is_said_is_taken() {
    let text = r#"{"size": 40, "wait_max": "500ms", "statement_timeout": "5s", "answer_max": "1MiB"}"#;
    let settings = serde_json::from_str::<PoolConfig>(text).unwrap().settings();
    assert_eq!((settings.size, settings.wait_max), (40, Duration::from_millis(500)));
    assert_eq!((settings.statement_timeout, settings.answer_max), (Duration::from_secs(5), 1 << 20));
    // A pool of nothing would refuse every call.
    assert_eq!(serde_json::from_str::<PoolConfig>(r#"{"size": 0}"#).unwrap().settings().size, 1);
}

#[test]
fn unknown_keys_are_refused() {
    assert!(serde_json::from_str::<PoolConfig>(r#"{"sise": 4}"#).is_err());
}
