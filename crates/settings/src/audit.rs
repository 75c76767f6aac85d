//! The key `audit` of a resource.

use doorward_core::AuditMode;
use schemars::JsonSchema;
use serde::Deserialize;

/// What happens to calls when their own records cannot be made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditConfig {
    /// They are refused.
    #[default]
    Required,
    /// They go on, and the gap is counted and recorded.
    BestEffort,
}

impl From<AuditConfig> for AuditMode {
    fn from(config: AuditConfig) -> Self {
        match config {
            AuditConfig::Required => Self::Required,
            AuditConfig::BestEffort => Self::BestEffort,
        }
    }
}
