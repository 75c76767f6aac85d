//! Where a database is: `postgres://HOST[:PORT][,HOST[:PORT]…]/DATABASE[?sslmode=…&sslrootcert=…&host=/SOCKET/DIR]`.
//! Several hosts are a primary and its replicas, in any order, as libpq reads them; which is which, the servers say.
//!
//! Invariants: a URL holds no user and no password; a connection that leaves the machine is encrypted
//! and its server verified, unless the operator says otherwise in so many words.

use std::fmt;
use std::path::PathBuf;

/// The most servers of one database.
pub const HOSTS_MAX: usize = 16;

/// How the connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Plain text: loopback and sockets only, unless `dangerous_plaintext`.
    Disable,
    /// TLS when the server has it; over a network the same as [`SslMode::Require`].
    Prefer,
    /// TLS, whoever the server is: it keeps listeners out, not impostors.
    Require,
    /// TLS, and the server's certificate must be for its name. The default over a network.
    VerifyFull,
}

/// Where to connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host name or address, and a port.
    Tcp(Box<str>, u16),
    /// The path of a socket.
    Unix(PathBuf),
}

/// A database that the gateway can log in to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Further servers of the same database: its primary and its replicas, in any order.
    pub others: Box<[Endpoint]>,
    /// The database's name.
    pub database: Box<str>,
    /// How the connection is protected.
    pub ssl: SslMode,
    /// The certificate authorities to trust instead of the system's (PEM).
    pub root_certificates: Option<PathBuf>,
}

/// What is wrong with a database URL. Never repeats the URL: it may hold a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The scheme is another one.
    #[error("a database URL begins with postgres://")]
    Scheme,
    /// There is a password in it.
    #[error(
        "a password must not stand in the URL; put it under `login:` as `password: env:NAME` or `file:PATH`"
    )]
    Password,
    /// There is a user in it.
    #[error("the user does not stand in the URL; put it under `login:` as `user:`")]
    User,
    /// The host is missing or malformed.
    #[error("the URL names no host")]
    Host,
    /// There are too many hosts, or one of them twice.
    #[error("the URL names at most {HOSTS_MAX} hosts, and none of them twice")]
    Hosts,
    /// The port is not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// The database is missing or malformed.
    #[error("the URL names no database; write postgres://HOST/DATABASE")]
    Database,
    /// A parameter that is not known.
    #[error("unknown parameter `{0}`; known are sslmode, sslrootcert and host")]
    Parameter(Box<str>),
    /// `sslmode` has another value.
    #[error("sslmode is one of disable, prefer, require, verify-full")]
    SslMode,
    /// Plain text over a network.
    #[error(
        "a database that is not on this machine is reached over TLS only; set sslmode=verify-full, or `dangerous_plaintext: true`"
    )]
    Plaintext,
}

impl Target {
    /// Reads a URL. `dangerous_plaintext` admits `sslmode=disable` and `prefer` over a network.
    pub fn parse(url: &str, dangerous_plaintext: bool) -> Result<Self, TargetError> {
        let rest = url
            .strip_prefix("postgres://")
            .or_else(|| url.strip_prefix("postgresql://"))
            .ok_or(TargetError::Scheme)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').ok_or(TargetError::Database)?;
        let authority = match authority.rsplit_once('@') {
            Some((user, _)) if user.contains(':') => return Err(TargetError::Password),
            Some(_) => return Err(TargetError::User),
            None => authority,
        };
        let database = decode(path).filter(|name| is_plain(name)).ok_or(TargetError::Database)?;
        let parameters = Parameters::parse(query)?;
        let mut hosts = authority.split(',');
        let first = endpoint(hosts.next().unwrap_or_default(), parameters.socket_dir)?;
        let others: Box<[Endpoint]> = hosts.map(|host| endpoint(host, None)).collect::<Result<_, _>>()?;
        let again = |at: usize, other: &Endpoint| {
            *other == first || others.iter().take(at).any(|known| known == other)
        };
        if others.len() >= HOSTS_MAX || others.iter().enumerate().any(|(at, other)| again(at, other)) {
            return Err(TargetError::Hosts);
        }
        let local = first.is_local() && others.iter().all(Endpoint::is_local);
        let ssl = match (parameters.ssl, local || dangerous_plaintext) {
            (None, _) if local => SslMode::Disable,
            (None, _) => SslMode::VerifyFull,
            (Some(SslMode::Disable), false) => return Err(TargetError::Plaintext),
            (Some(SslMode::Prefer), false) => SslMode::Require,
            (Some(mode), _) => mode,
        };
        let root_certificates = parameters.root_certificates;
        Ok(Self { endpoint: first, others, database: database.into(), ssl, root_certificates })
    }

    /// Its servers, in the order of the URL.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::once(&self.endpoint).chain(&self.others)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.endpoint)?;
        self.others.iter().try_for_each(|other| write!(f, ",{other}"))?;
        write!(f, "/{}", self.database)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Endpoint {
    /// Whether its bytes stay on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(host, _) => {
                &**host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

#[derive(Default)]
struct Parameters {
    ssl: Option<SslMode>,
    root_certificates: Option<PathBuf>,
    socket_dir: Option<String>,
}

impl Parameters {
    fn parse(query: &str) -> Result<Self, TargetError> {
        let mut parameters = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value).filter(|value| is_plain(value));
            match name {
                "sslmode" => parameters.ssl = Some(ssl_mode(value.as_deref().unwrap_or_default())?),
                "sslrootcert" => parameters.root_certificates = value.map(PathBuf::from),
                "host" => parameters.socket_dir = Some(value.ok_or(TargetError::Host)?),
                "password" => return Err(TargetError::Password),
                "user" => return Err(TargetError::User),
                other => return Err(TargetError::Parameter(other.into())),
            }
        }
        Ok(parameters)
    }
}

fn ssl_mode(value: &str) -> Result<SslMode, TargetError> {
    match value {
        "disable" => Ok(SslMode::Disable),
        "prefer" => Ok(SslMode::Prefer),
        "require" => Ok(SslMode::Require),
        "verify-full" => Ok(SslMode::VerifyFull),
        _ => Err(TargetError::SslMode),
    }
}

const PORT: u16 = 5432;

fn endpoint(authority: &str, socket_dir: Option<String>) -> Result<Endpoint, TargetError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(TargetError::Host)?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or(TargetError::Port)?),
            };
            (host.to_owned(), port)
        }
        None => {
            let (host, port) = match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            };
            (decode(host).ok_or(TargetError::Host)?, port)
        }
    };
    let port = match port {
        None => PORT,
        Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(TargetError::Port)?,
    };
    let host = if host.is_empty() { socket_dir.unwrap_or_default() } else { host };
    match host.as_str() {
        "" => Err(TargetError::Host),
        dir if dir.starts_with('/') => Ok(Endpoint::Unix(PathBuf::from(format!("{dir}/.s.PGSQL.{port}")))),
        host if is_plain(host) => Ok(Endpoint::Tcp(host.into(), port)),
        _ => Err(TargetError::Host),
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

fn decode(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(Into::into)
}
