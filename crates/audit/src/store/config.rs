//! `store:` in the configuration: a text for the usual, a mapping where there is more to say.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use doorward_core::{Login, Secret};
use doorward_pgclient::Target;
use doorward_settings::{Problem, SecretRef};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};

/// The default store.
const DEFAULT: &str = "data/audit.db";
/// The key store's file where none is named.
const SUBJECTS: &str = "subjects.db";
/// What is expected.
const FORM: &str = "`sqlite:PATH`, `postgres://USER@HOST/DATABASE`, or a mapping with `url` and `password`";

/// Where records are kept: an embedded file, or a database. The default is `sqlite:data/audit.db`.
#[derive(Clone, Debug)]
pub enum StoreUrl {
    /// An embedded SQLite file.
    Sqlite(PathBuf),
    /// PostgreSQL, with or without TimescaleDB.
    Postgres(Box<Server>),
}

/// A database that keeps records, and how to log in to it.
#[derive(Clone, Debug)]
pub struct Server {
    /// Where it is.
    pub target: Target,
    /// The gateway's login: a member of `doorward_writer` and of nothing else.
    pub login: StoreLogin,
    /// The login of those who read: a member of `doorward_reader`.
    pub reader: Option<StoreLogin>,
}

/// A database login.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreLogin {
    /// The database user.
    pub user: Box<str>,
    /// Where its password is. Without one, the server must let it in otherwise.
    pub password: Option<SecretRef>,
}

impl StoreLogin {
    /// Reads the password. Blocks.
    pub fn read(&self) -> Result<Arc<Login>, Problem> {
        let password = self.password.as_ref().map_or_else(|| Ok(Secret::from("")), SecretRef::read)?;
        Ok(Arc::new(Login::new(self.user.clone(), password)))
    }
}

/// The mapping's form.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StoreMap {
    /// `sqlite:PATH` or `postgres://USER@HOST[:PORT]/DATABASE[?sslmode=…&sslrootcert=…]`. Over a network
    /// the database is reached by TLS, and its certificate is verified.
    url: String,
    /// Where the password of the URL's user is.
    password: Option<SecretRef>,
    /// The login of those who read the timeline (`audit query` and the like), if not the URL's user.
    reader: Option<StoreLogin>,
    /// Accepts an unencrypted connection over a network.
    #[serde(default)]
    dangerous_plaintext: bool,
}

impl StoreUrl {
    /// An embedded SQLite file.
    pub fn sqlite(path: impl Into<PathBuf>) -> Self {
        Self::Sqlite(path.into())
    }

    /// Reads the form in which the configuration spells it.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::assemble(StoreMap {
            url: text.to_owned(),
            password: None,
            reader: None,
            dangerous_plaintext: false,
        })
    }

    fn assemble(map: StoreMap) -> Result<Self, String> {
        let StoreMap { url, password, reader, dangerous_plaintext } = map;
        if let Some(path) = url.strip_prefix("sqlite:").filter(|path| !path.is_empty()) {
            if password.is_some() || reader.is_some() {
                return Err("a SQLite file has no logins; its protection is its folder's".to_owned());
            }
            return Ok(Self::sqlite(path));
        }
        let (user, url) = split_user(&url)?;
        let target = Target::parse(&url, dangerous_plaintext).map_err(|error| error.to_string())?;
        Ok(Self::Postgres(Box::new(Server { target, login: StoreLogin { user, password }, reader })))
    }

    /// The file, if it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Sqlite(path) => Some(path),
            Self::Postgres(_) => None,
        }
    }

    /// The database, if it is one.
    pub fn server(&self) -> Option<&Server> {
        match self {
            Self::Sqlite(_) => None,
            Self::Postgres(server) => Some(server),
        }
    }

    /// The key store's file where none is named: beside the records' file, or where that would be.
    pub fn subjects_path(&self) -> PathBuf {
        self.path().unwrap_or(Path::new(DEFAULT)).with_file_name(SUBJECTS)
    }

    /// The same with a relative path taken from `base`.
    #[must_use]
    pub fn relative_to(self, base: &Path) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(base.join(path)),
            Self::Postgres(server) => Self::Postgres(server),
        }
    }
}

/// Takes the user out of a URL of the store. Errors do not repeat the URL: there may be a password in it.
fn split_user(url: &str) -> Result<(Box<str>, String), String> {
    let scheme = ["postgres://", "postgresql://"].into_iter().find(|scheme| url.starts_with(scheme));
    let scheme = scheme.ok_or_else(|| format!("expected {FORM}"))?;
    let rest = url.get(scheme.len()..).unwrap_or_default();
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = authority.rsplit_once('@').ok_or(
        "the URL names no user; write postgres://USER@HOST/DATABASE, with a login that is a member of doorward_writer",
    )?;
    if user.contains(':') {
        return Err("a password must not stand in the URL; write a mapping with `url` and \
                    `password: env:NAME` or `password: file:PATH`"
            .to_owned());
    }
    let user = percent_encoding::percent_decode_str(user).decode_utf8().ok();
    let user = user.filter(|user| !user.is_empty() && !user.chars().any(char::is_control));
    Ok((user.ok_or("the URL's user is malformed")?.into(), format!("{scheme}{host}{path}")))
}

/// Where the records are, without any secret.
impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(server) => write!(f, "postgres://{}@{}", server.login.user, server.target),
        }
    }
}

impl Default for StoreUrl {
    fn default() -> Self {
        Self::sqlite(DEFAULT)
    }
}

impl<'de> Deserialize<'de> for StoreUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StoreVisitor)
    }
}

struct StoreVisitor;

impl<'de> Visitor<'de> for StoreVisitor {
    type Value = StoreUrl;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FORM)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<StoreUrl, E> {
        StoreUrl::parse(text).map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StoreUrl, A::Error> {
        let map = StoreMap::deserialize(MapAccessDeserializer::new(map))?;
        StoreUrl::assemble(map).map_err(A::Error::custom)
    }
}

impl JsonSchema for StoreUrl {
    fn schema_name() -> Cow<'static, str> {
        "StoreUrl".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let map = generator.subschema_for::<StoreMap>();
        json_schema!({
            "description": "Where records are kept: `sqlite:PATH`, `postgres://USER@HOST/DATABASE`, or a mapping of url, password, reader.",
            "anyOf": [{ "type": "string", "pattern": "^(sqlite:.+|postgres(ql)?://.+@.+/.+)$" }, map],
            "default": "sqlite:data/audit.db"
        })
    }
}

#[cfg(test)]
mod tests {
    use doorward_settings::Document;

    use super::*;
    use crate::config::AuditConfig;

    fn read(yaml: &str) -> Result<StoreUrl, String> {
        let yaml = format!("store: {yaml}");
        let document = Document::parse("doorward.yaml", &yaml).map_err(|problem| problem.to_string())?;
        let config = document.root().deserialize::<AuditConfig>().map_err(|problem| problem.to_string())?;
        Ok(config.store)
    }

    #[test]
    fn a_text_or_a_mapping() {
        for (yaml, shown) in [
            ("sqlite:data/audit.db", "sqlite:data/audit.db"),
            ("{ url: sqlite:x.db }", "sqlite:x.db"),
            ("postgres://gateway@localhost/timeline", "postgres://gateway@localhost:5432/timeline"),
            ("'postgresql://g%40w@[::1]:6000/t'", "postgres://g@w@::1:6000/t"),
            ("postgres://gw@db.example.com/t?sslmode=require", "postgres://gw@db.example.com:5432/t"),
            ("{ url: postgres://gw@127.0.0.1/t, password: env:PW }", "postgres://gw@127.0.0.1:5432/t"),
            (
                "{ url: 'postgres://gw@db/t?sslmode=disable', dangerous_plaintext: true }",
                "postgres://gw@db:5432/t",
            ),
        ] {
            assert_eq!(read(yaml).map(|url| url.to_string()).as_deref(), Ok(shown), "{yaml}");
        }
        let both = "{ url: postgres://gw@db/t, password: file:pw, reader: { user: r, password: env:R } }";
        let both = read(both).unwrap();
        let server = both.server().unwrap();
        assert_eq!((&*server.login.user, &*server.reader.as_ref().unwrap().user), ("gw", "r"));
        assert_eq!(both.subjects_path(), Path::new("data/subjects.db"));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (yaml, word) in [
            ("mysql://gw@db/t", "sqlite:PATH"),
            ("'sqlite:'", "sqlite:PATH"),
            ("5", "sqlite:PATH"),
            ("postgres://db/t", "USER@HOST"),
            ("postgres://gw:hunter2@db/t", "env:NAME"),
            ("postgres://gw@db", "DATABASE"),
            ("'postgres://gw@db/t?sslmode=disable'", "dangerous_plaintext"),
            ("'postgres://gw@db/t?pasword=hunter2'", "sslmode"),
            ("{ url: postgres://gw@db/t, password: hunter2 }", "env:NAME"),
            ("{ url: postgres://gw@db/t, pasword: env:X }", "password"),
            ("{ url: sqlite:x.db, password: env:X }", "folder"),
            ("{ url: postgres://gw@db/t, reader: { password: env:X } }", "user"),
        ] {
            let said = read(yaml).unwrap_err();
            assert!(said.contains(word) && !said.contains("hunter2"), "{yaml}: {said}");
        }
    }
}
