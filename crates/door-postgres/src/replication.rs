//! The replication protocol (PostgreSQL documentation, chapter "Streaming Replication Protocol"): who may ask for
//! it, and its commands.
//!
//! Such a session needs `connect RESOURCE/replication`, at its beginning and for each command; SQL in it is decided
//! as everywhere. The server reads the first word of a text to tell a command from SQL, and so does this module: no
//! SQL begins with one of the words.

use doorward_core::{Action, Actions, Fault, Object, ResourceName, Verb};

use crate::codes;

/// What a client replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replication {
    /// The whole cluster's log; no SQL.
    Physical,
    /// One database's changes; SQL too.
    Logical,
}

/// The commands, by their first word.
const COMMANDS: [&str; 9] = [
    "IDENTIFY_SYSTEM",
    "START_REPLICATION",
    "CREATE_REPLICATION_SLOT",
    "DROP_REPLICATION_SLOT",
    "ALTER_REPLICATION_SLOT",
    "READ_REPLICATION_SLOT",
    "TIMELINE_HISTORY",
    "BASE_BACKUP",
    "UPLOAD_MANIFEST",
];
/// Where there is SQL, SHOW is read as SQL, which means the same.
const SHOW: &str = "SHOW";
/// The object of such a session.
const OBJECT: &str = "replication";

impl Replication {
    /// What the start-up parameter `replication` asks for, as the server reads it; `None` for an ordinary session.
    pub(crate) fn read(value: Option<&str>) -> Result<Option<Self>, Fault> {
        let Some(value) = value else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "database" => Ok(Some(Self::Logical)),
            "true" | "on" | "yes" | "1" => Ok(Some(Self::Physical)),
            "false" | "off" | "no" | "0" => Ok(None),
            _ => Err(Fault::new(
                codes::UNSUPPORTED,
                "the start-up parameter \"replication\" has no such value",
            )
            .hint("It is database for logical replication, true for physical replication.")),
        }
    }

    /// The value as the server is told it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "true",
            Self::Logical => "database",
        }
    }
}

/// What a session needs, and each command in it.
pub(crate) fn action(resource: &ResourceName) -> Action {
    Action { verb: Verb::Connect, resource: resource.clone(), object: Object::from_segments([OBJECT]) }
}

/// What a text needs that is a command; `None` when it is SQL.
pub(crate) fn needs(
    kind: Replication,
    resource: &ResourceName,
    text: &str,
) -> Option<Result<Actions, Fault>> {
    let text = text.trim_ascii_start();
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let word = text.get(..end).unwrap_or_default();
    let shows = kind == Replication::Physical && word.eq_ignore_ascii_case(SHOW);
    if !shows && !COMMANDS.iter().any(|command| command.eq_ignore_ascii_case(word)) {
        return (kind == Replication::Physical).then(|| {
            Err(Fault::new(codes::UNSUPPORTED, "there is no SQL in a session of physical replication")
                .hint("Connect with replication=database, or without it."))
        });
    }
    if word.eq_ignore_ascii_case("BASE_BACKUP") && !comes_to_the_client(text) {
        return Some(Err(Fault::new(
            codes::UNKNOWN_EFFECT,
            "not let through: a backup into the server's files",
        )
        .hint("Let the backup come to the client: TARGET 'client'.")));
    }
    Some(Ok(Actions::one(action(resource))))
}

/// Whether a backup is written nowhere else: at the server's own disk, for one.
fn comes_to_the_client(text: &str) -> bool {
    let text = text.to_ascii_uppercase();
    text.split("TARGET").skip(1).all(|after| after.trim_ascii_start().starts_with("'CLIENT'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_sql_by_their_first_word() {
        let shop = ResourceName::new("shop");
        let told =
            |kind, text| needs(kind, &shop, text).map(|needs| needs.map_err(|fault| fault.code().name));
        let granted = Some(Ok(Actions::one(action(&shop))));
        for text in [
            "IDENTIFY_SYSTEM",
            " start_replication SLOT s LOGICAL 0/0",
            "BASE_BACKUP (LABEL 'x')",
            "drop_replication_slot a;",
        ] {
            assert_eq!(told(Replication::Logical, text), granted, "{text}");
            assert_eq!(told(Replication::Physical, text), granted, "{text}");
        }
        for text in ["select 1", "", "IDENTIFY_SYSTEMS", "/* */ IDENTIFY_SYSTEM", "\"IDENTIFY_SYSTEM\""] {
            assert_eq!(told(Replication::Logical, text), None, "{text}");
            assert_eq!(told(Replication::Physical, text), Some(Err("decode.wire-unsupported")), "{text}");
        }
        assert_eq!(told(Replication::Physical, "SHOW wal_segment_size"), granted);
        assert_eq!(told(Replication::Logical, "SHOW wal_segment_size"), None);
        let backups = [
            "base_backup (target 'server', target_detail '/tmp/x')",
            "BASE_BACKUP (TARGET 'client', TARGET 'server')",
            "BASE_BACKUP (\"target\" 'server')",
        ];
        for backup in backups {
            let refused = Some(Err("decode.wire-unknown-effect"));
            assert_eq!(told(Replication::Physical, backup), refused, "{backup}");
        }
        let backup = "BASE_BACKUP ( LABEL 'x',  TARGET 'client')";
        assert_eq!(told(Replication::Physical, backup), granted);
    }

    #[test]
    fn the_parameter_is_read_as_the_server_reads_it() {
        let read = |value| Replication::read(value).map_err(|fault| fault.code().name);
        assert_eq!(read(None), Ok(None));
        assert_eq!(read(Some("off")), Ok(None));
        assert_eq!(read(Some("Database")), Ok(Some(Replication::Logical)));
        assert_eq!(read(Some("1")), Ok(Some(Replication::Physical)));
        assert!(read(Some("maybe")).is_err());
    }
}
