//! The configuration of personal data: what is sealed, where keys are kept, and under which master key.

use std::path::Path;

use doorward_settings::{HumanDuration, SecretRef, suggest};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Fields;
use crate::columns::COLUMNS;
use crate::store::config::StoreUrl;

/// Personal data: sealed under a key for each person, and erased by destroying that key.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PersonalConfig {
    /// Columns that are sealed besides those that always are: `groups`, `client_id`, `credential_id`,
    /// `user_agent`, `object`, `endpoint`, `dag_id`, `run_id`, `task_id`, `ext`. What is sealed cannot be
    /// searched, grouped or shown without the keys.
    pub fields: Vec<String>,
    /// Where keys, and whose they are, are kept: `sqlite:PATH`, which gateways on one machine may share, or
    /// a database that all gateways share, spelled as `store` is. The default is `subjects.db` beside the
    /// store. Back it up apart from the store.
    pub store: Option<StoreUrl>,
    /// The key above all keys: 32 random bytes as base64 or hex. The default is a generated file,
    /// `master.key` beside the key store.
    pub master_key: Option<SecretRef>,
    /// Master keys of before, until `doorward audit rewrap` has run.
    pub old_master_keys: Vec<SecretRef>,
    /// For how long the personal values of callers who never proved who they are can be read; then their
    /// keys are destroyed. The default is the longest that records are kept.
    pub unknown_callers: Option<HumanDuration>,
}

impl PersonalConfig {
    /// What is wrong with it, if anything: the key, and a sentence.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        if self.store.as_ref().and_then(StoreUrl::server).is_some() && self.master_key.is_none() {
            let text = "gateways that share a key store share its master key: name one".to_owned();
            return Some(("personal.master_key", text));
        }
        let bad = self.fields.iter().find(|name| !Fields::sealable(name))?;
        let text = match crate::columns::position(bad) {
            Some(_) => format!("`{bad}` cannot be sealed: records are found, grouped or kept by it"),
            None => {
                let known = COLUMNS.iter().map(|column| column.name).filter(|name| Fields::sealable(name));
                let hint = suggest(bad, known).map(|hint| format!("; {hint}")).unwrap_or_default();
                format!("there is no column `{bad}`{hint}")
            }
        };
        Some(("personal.fields", text))
    }

    /// The same with relative paths taken from `base`.
    #[must_use]
    pub(crate) fn relative_to(mut self, base: &Path) -> Self {
        self.store = self.store.map(|store| store.relative_to(base));
        self
    }
}
