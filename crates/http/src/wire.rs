//! The JSON forms that the front writes.

use serde::Serialize;

/// RFC 9457 problem details, with the gateway's extensions.
#[derive(Serialize)]
pub(crate) struct Problem<'a> {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) title: &'a str,
    pub(crate) status: u16,
    pub(crate) detail: &'a str,
    pub(crate) code: &'a str,
    pub(crate) access_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<&'a str>,
}
