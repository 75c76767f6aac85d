//! The `pool:` of a PostgreSQL resource.

use std::time::Duration;

use doorward_settings::{ByteSize, HumanDuration};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::pool::PoolSettings;
use crate::target::Target;

/// How many connections a resource may open, and how long anything on them may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// The most connections to the database, of the REST door and the Postgres door together (default 20; in session
    /// mode 20 more than `sessions`).
    pub size: Option<u16>,
    /// How long the Postgres door lends a connection to a session (default `session`).
    pub mode: PoolMode,
    /// How long a call may wait for a free connection (default 2s).
    pub wait_max: Option<HumanDuration>,
    /// How long connecting and logging in may take (default 5s).
    pub connect_timeout: Option<HumanDuration>,
    /// How long a connection may stand idle before it is closed (default 10m).
    pub idle_max: Option<HumanDuration>,
    /// How old a connection may become before it is replaced (default 1h).
    pub age_max: Option<HumanDuration>,
    /// How long a statement may run; a grant may say less (default 30s).
    pub statement_timeout: Option<HumanDuration>,
    /// The most bytes of rows in one answer; a grant may say less (default 64MiB).
    pub answer_max: Option<ByteSize>,
    /// How often the database looks whether the gateway is still there while it runs a statement of the Postgres
    /// door, so that nothing runs on for a gateway that was killed (default 2s; `0s`: it does not look). What the
    /// server, the database or the role sets as `client_connection_check_interval` stands.
    pub connection_check: Option<HumanDuration>,
    /// How many prepared statements each connection keeps (default 256).
    pub statements_max: Option<u16>,
    /// After which transactions a connection is cleaned in transaction mode, before it is lent on (default `known`).
    pub clean: PoolClean,
    /// The most sessions of the Postgres door, whether they have a connection or not (default 100; in
    /// transaction mode 1000).
    pub sessions: Option<u16>,
    /// The most sessions that keep their connection in transaction mode, for something that outlives a
    /// transaction (default half of `size`).
    pub pinned: Option<u16>,
}

/// How long the Postgres door lends a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// For the session.
    #[default]
    Session,
    /// For a transaction.
    Transaction,
}

/// After which transactions a connection is cleaned in transaction mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolClean {
    /// Those of which the gateway knows that they may have left something in the session. What triggers leave is not
    /// known.
    #[default]
    Known,
    /// Those that have changed something, too: what triggers leave is gone.
    Changes,
    /// All: what policies, views and defaults leave that call functions is gone too.
    Always,
}

/// What the replicas of a database are read for, where its URL names several hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplicasConfig {
    /// Whom they serve (default `nothing`: they only wait to become the primary).
    pub serve: Serve,
    /// How far a replica may be behind and still be read from (default 10s, at least 200ms).
    pub max_lag: Option<HumanDuration>,
}

/// Whom replicas serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Serve {
    /// Nobody.
    #[default]
    Nothing,
    /// Sessions of the Postgres door that ask for it: `doorward.reads=replicas` among their start-up parameters.
    Sessions,
    /// Those, and in transaction mode each transaction that only reads.
    Reads,
}

/// How far behind a replica may be when nothing is said, and at least.
const LAG_MAX: Duration = Duration::from_secs(10);
const LAG_MAX_MIN: Duration = Duration::from_millis(200);

impl ReplicasConfig {
    /// How far a replica may be behind and still be read from.
    pub fn lag_max(&self) -> Duration {
        self.max_lag.map_or(LAG_MAX, HumanDuration::get).max(LAG_MAX_MIN)
    }

    /// What contradicts the database's address or its pool.
    pub fn problem(&self, target: &Target, pool: &PoolConfig) -> Option<&'static str> {
        match self.serve {
            Serve::Nothing => None,
            _ if target.others.is_empty() => Some(
                "`replicas` serve something, and the `url` names one host: name them all, separated by commas",
            ),
            Serve::Reads if pool.mode == PoolMode::Session => Some(
                "`replicas: { serve: reads }` is for `pool: { mode: transaction }`; in session mode let them serve `sessions`",
            ),
            Serve::Sessions | Serve::Reads => None,
        }
    }
}

/// Whether sessions of the Postgres door may read the database's catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CatalogConfig {
    /// Reading it comes with any grant on the resource, so that `\d` and graphical tools work.
    #[default]
    Show,
    /// Reading it needs a grant that names it: `read RESOURCE/pg_catalog/*`.
    Hide,
}

/// How often the database looks for the gateway when nothing is said.
const CONNECTION_CHECK: Duration = Duration::from_secs(2);
/// The sessions of a resource when nothing is said.
const SESSIONS: u16 = 100;
/// The same where sessions share connections.
const SESSIONS_SHARING: u16 = 1_000;

impl PoolConfig {
    /// The most sessions of the Postgres door.
    pub fn sessions_max(&self) -> usize {
        let default = match self.mode {
            PoolMode::Session => SESSIONS,
            PoolMode::Transaction => SESSIONS_SHARING,
        };
        usize::from(self.sessions.unwrap_or(default).max(1))
    }

    /// The most connections of all doors together.
    pub fn places(&self) -> usize {
        match (self.size, self.mode) {
            (None, PoolMode::Session) => self.sessions_max().saturating_add(self.settings().size),
            _ => self.settings().size,
        }
    }

    /// The most connections of the Postgres door.
    pub fn backends_max(&self) -> usize {
        match (self.size, self.mode) {
            (None, PoolMode::Session) => self.sessions_max(),
            _ => self.settings().size,
        }
    }

    /// How often the database looks whether the gateway is still there; zero when it does not.
    pub fn connection_check(&self) -> Duration {
        self.connection_check.map_or(CONNECTION_CHECK, HumanDuration::get)
    }

    /// The most sessions that keep their connection in transaction mode.
    pub fn pinned_max(&self) -> usize {
        self.pinned.map_or((self.backends_max() / 2).max(1), usize::from)
    }

    /// The settings, with defaults where nothing is said.
    pub fn settings(&self) -> PoolSettings {
        let default = PoolSettings::default();
        let span = |own: Option<HumanDuration>, other: Duration| own.map_or(other, HumanDuration::get);
        PoolSettings {
            size: self.size.map_or(default.size, usize::from).max(1),
            wait_max: span(self.wait_max, default.wait_max),
            connect_timeout: span(self.connect_timeout, default.connect_timeout),
            idle_max: span(self.idle_max, default.idle_max),
            age_max: span(self.age_max, default.age_max),
            statement_timeout: span(self.statement_timeout, default.statement_timeout),
            answer_max: self.answer_max.map_or(default.answer_max, ByteSize::get),
            statements_max: self.statements_max.map_or(default.statements_max, usize::from).max(1),
        }
    }
}
