//! What the logins are called that the gateway makes, and the comment that says whose each of them is.
//!
//! Invariants: a name is at most 63 bytes, as PostgreSQL keeps them, and begins with [`PREFIX`]; the same person
//! has the same name under the same role on every gateway, and no two persons share one; a comment that is not
//! understood is somebody else's.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use doorward_core::{Principal, ResourceName, RoleName, hex};

use super::wire::WireComment;

/// What each name begins with.
pub(super) const PREFIX: &str = "dw_";
/// What each comment begins with.
pub(super) const MARK: &str = "doorward ";
/// The most characters of a role's or person's own name that are shown in a login's.
const SHOWN_ROLE_MAX: usize = 24;
const SHOWN_PERSON_MAX: usize = 36;
/// The hexadecimal digits that tell persons apart: 80 bits.
const PERSON_DIGITS: usize = 20;
/// The most gateways that a comment names.
const GATEWAYS_MAX: usize = 64;

/// A login for a role: another one each time.
pub(super) fn of_role(role: &RoleName, gateway: &str, random: &str) -> String {
    format!("{PREFIX}{}_{gateway}_{random}", shown(role.as_str(), SHOWN_ROLE_MAX))
}

/// The login of a person under a role, and what proves that it is theirs.
pub(super) fn of_person(resource: &ResourceName, role: &RoleName, who: &Principal) -> (String, String) {
    let mut whole = Vec::new();
    for part in [resource.as_str(), role.as_str(), who.issuer.as_str(), who.subject.reveal()] {
        whole.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        whole.extend_from_slice(part.as_bytes());
    }
    let id = hex(digest(&SHA256, &whole).as_ref());
    let who = who.email.as_ref().unwrap_or(&who.subject).reveal();
    let name = format!("{PREFIX}{}_{}", shown(who, SHOWN_PERSON_MAX), id.get(..PERSON_DIGITS).unwrap_or(&id));
    (name, id)
}

/// A name as part of another one, for people to recognize.
fn shown(name: &str, max: usize) -> String {
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    plain.take(max).collect()
}

/// Whose a login is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Comment {
    /// The database that its objects are in.
    pub(super) database: String,
    pub(super) resource: String,
    /// The role that it is a member of.
    pub(super) role: String,
    /// When it was made: seconds since the epoch, by the server's clock.
    pub(super) made: i64,
    /// The gateways that need it, and until when, by the server's clock.
    pub(super) gateways: BTreeMap<String, i64>,
    /// What proves whose it is; `None` for one of a role.
    pub(super) person: Option<Person>,
}

/// The person that a login belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Person {
    /// What [`of_person`] answered.
    pub(super) id: String,
    /// Issuer and name, for people to read.
    pub(super) who: String,
    /// What its password is derived with.
    pub(super) nonce: String,
    /// Which key it is derived from.
    pub(super) key: String,
}

impl Comment {
    /// Reads a comment; `None` when it is somebody else's.
    pub(super) fn read(text: &str) -> Option<Self> {
        let wire: WireComment = serde_json::from_str(text.strip_prefix(MARK)?).ok()?;
        Some(wire.into())
    }

    /// The comment's text.
    pub(super) fn text(&self) -> String {
        let wire = WireComment::from(self.clone());
        format!("{MARK}{}", serde_json::to_string(&wire).unwrap_or_default())
    }

    /// This gateway needs it until then; those whose time has passed are forgotten.
    pub(super) fn need(&mut self, gateway: &str, until: i64, now: i64) {
        self.forget(gateway, now);
        while self.gateways.len() >= GATEWAYS_MAX {
            self.gateways.pop_first();
        }
        self.gateways.insert(gateway.to_owned(), until);
    }

    /// This gateway does not need it any more. Whether nobody else does.
    pub(super) fn forget(&mut self, gateway: &str, now: i64) -> bool {
        self.gateways.retain(|name, until| name != gateway && *until > now);
        self.gateways.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use doorward_core::Personal;

    use super::*;

    fn ann(subject: &str, email: Option<&str>) -> Principal {
        Principal {
            subject: Personal::from(subject),
            email: email.map(Personal::from),
            ..Principal::public()
        }
    }

    #[test]
    fn names_are_short_enough_and_tell_persons_apart() {
        let (shop, role) = (ResourceName::new("shop"), RoleName::new("analyst"));
        let long = "Ännchen.von.Tharau-und-noch-viel-länger-als-erlaubt@corp.example";
        let (name, id) = of_person(&shop, &role, &ann("u1", Some(long)));
        assert!(name.len() <= 63 && name.starts_with("dw__nnchen_von_tharau_und"), "{name}");
        assert_eq!((name.clone(), id.clone()), of_person(&shop, &role, &ann("u1", Some(long))));
        for other in [
            of_person(&shop, &role, &ann("u2", Some(long))),
            of_person(&ResourceName::new("other"), &role, &ann("u1", Some(long))),
            of_person(&shop, &RoleName::new("loader"), &ann("u1", Some(long))),
        ] {
            assert!(other.0 != name && other.1 != id);
        }
        // What stands in one part cannot be moved to another.
        let (one, two) = (
            of_person(&shop, &RoleName::new("a"), &ann("bc", None)),
            of_person(&shop, &RoleName::new("ab"), &ann("c", None)),
        );
        assert_ne!(one.1, two.1);
        let of_role = of_role(&RoleName::new("r".repeat(63)), "0123abcd", "89ef4567");
        assert!(of_role.len() <= 63, "{of_role}");
    }

    #[test]
    fn a_comment_says_whose_it_is_and_who_needs_it() {
        let mut comment = Comment {
            database: "shop".into(),
            resource: "shop".into(),
            role: "analyst".into(),
            made: 100,
            gateways: BTreeMap::new(),
            person: Some(Person {
                id: "i".into(),
                who: "corp ann".into(),
                nonce: "n".into(),
                key: "k".into(),
            }),
        };
        comment.need("one", 200, 100);
        comment.need("two", 300, 100);
        assert_eq!(Comment::read(&comment.text()), Some(comment.clone()));
        assert!(!comment.clone().forget("one", 150));
        assert!(comment.clone().forget("one", 301));
        assert!(comment.forget("two", 250) && comment.gateways.is_empty());
        for i in 0..200 {
            comment.need(&format!("gateway {i}"), 1_000, 1);
        }
        assert_eq!(comment.gateways.len(), GATEWAYS_MAX);
        for foreign in ["", "doorward", "doorward {}", "a person's comment", "doorward {\"v\":2}"] {
            assert_eq!(Comment::read(foreign), None, "{foreign}");
        }
    }
}
