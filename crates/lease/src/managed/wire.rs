//! The comment on a login as it stands in the database: JSON behind a mark.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::name::{Comment, Person};

/// The one version there is.
#[derive(Serialize, Deserialize)]
enum Version {
    #[serde(rename = "1")]
    One,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WireComment {
    v: Version,
    db: String,
    resource: String,
    role: String,
    made: i64,
    gateways: BTreeMap<String, i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    person: Option<WirePerson>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WirePerson {
    id: String,
    who: String,
    nonce: String,
    key: String,
}

impl From<WireComment> for Comment {
    fn from(wire: WireComment) -> Self {
        let person = wire.person.map(|WirePerson { id, who, nonce, key }| Person { id, who, nonce, key });
        let WireComment { db, resource, role, made, gateways, .. } = wire;
        Self { database: db, resource, role, made, gateways, person }
    }
}

impl From<Comment> for WireComment {
    fn from(comment: Comment) -> Self {
        let person = comment.person.map(|Person { id, who, nonce, key }| WirePerson { id, who, nonce, key });
        let Comment { database, resource, role, made, gateways, .. } = comment;
        Self { v: Version::One, db: database, resource, role, made, gateways, person }
    }
}
