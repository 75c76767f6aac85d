//! Start-up and login (SCRAM-SHA-256; RFC 5802, RFC 7677); of several servers at the one that is wanted.
//!
//! Constraints: the password crosses the wire only inside SCRAM, or as it is when the server's
//! certificate has been verified. MD5 is refused.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use doorward_core::Login;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::conn::{CancelKey, Conn};
use crate::error::Failure;
use crate::frames::{self, Authentication, FRAME_MAX, HEADER, Malformed};
use crate::hosts::{Part, Server, Wanted};
use crate::membership;
use crate::stream::{Dialer, Stream};
use crate::target::SslMode;

/// The most rounds of key derivation that a server may ask for (PostgreSQL asks for 4,096).
const ITERATIONS_MAX: u32 = 1_000_000;
/// What the gateway calls itself until a request says better.
const APPLICATION_NAME: &str = "doorward";
/// The most settings that a server reports (PostgreSQL 18 reports 15).
const PARAMETERS_MAX: usize = 128;
/// A query of CancelRequest is 16 bytes; the server answers nothing and closes.
const CANCEL_ANSWER_MAX: usize = 1_024;
/// The setting in which a server reports whether it is a replica (PostgreSQL 14 and later), and the question before that.
const IN_HOT_STANDBY: &str = "in_hot_standby";
const IN_RECOVERY: &str = "SELECT pg_catalog.pg_is_in_recovery()::pg_catalog.text";
/// How long a goodbye to a server that is not the wanted one may take.
const GOODBYE_SPAN_MAX: Duration = Duration::from_secs(1);

/// A session that has been logged in on: its bytes, what has been read beyond the login, and its key.
pub(crate) struct LoggedIn {
    pub(crate) stream: Stream,
    pub(crate) input: BytesMut,
    pub(crate) cancel_key: CancelKey,
    /// What the server reported of the session's settings.
    pub(crate) parameters: Vec<(Box<str>, Box<str>)>,
    pub(crate) server: Server,
}

/// Connects and logs in, within this time.
pub(crate) async fn connect(
    dialer: &Dialer,
    wanted: Wanted,
    login: &Arc<Login>,
    statements_max: usize,
    span_max: Duration,
) -> Result<Conn, Failure> {
    let name = [("application_name", APPLICATION_NAME)];
    let logged_in = log_in(dialer, wanted, login, &name, span_max).await?;
    let LoggedIn { stream, input, cancel_key, server, .. } = logged_in;
    Ok(Conn::new(stream, input, cancel_key, statements_max).standing_on(login.clone(), server))
}

/// Connects and logs in with these settings of the session, within this time.
pub(crate) async fn log_in(
    dialer: &Dialer,
    wanted: Wanted,
    login: &Login,
    settings: &[(&str, &str)],
    span_max: Duration,
) -> Result<LoggedIn, Failure> {
    let looking = async {
        if let Wanted::Host(at) = wanted {
            let (found, part) = log_in_at(dialer, at, login, settings).await?;
            dialer.hosts().heard(at, part);
            return Ok(found);
        }
        if dialer.hosts().are_several() {
            let share = dialer.hosts().share_of(span_max);
            return look_for_primary(dialer, wanted, login, settings, share).await;
        }
        let logged_in = log_in_at(dialer, 0, login, settings).await;
        logged_in.map(|(found, _)| found).inspect_err(|failure| {
            // Its source is asked for another one, which may be better made.
            if failure.is_refused_login(login) {
                login.refuse();
            }
        })
    };
    timeout(span_max, looking).await.unwrap_or_else(|_| Err(Failure::late()))
}

/// Tries one server after the other, until one says that it is the primary.
async fn look_for_primary(
    dialer: &Dialer,
    wanted: Wanted,
    login: &Login,
    settings: &[(&str, &str)],
    share: Duration,
) -> Result<LoggedIn, Failure> {
    let hosts = dialer.hosts();
    let (mut said, mut refused, mut replica) = (Vec::new(), None, None);
    for at in hosts.order() {
        let attempt = timeout(share, log_in_at(dialer, at, login, settings)).await;
        match attempt.unwrap_or_else(|_| Err(Failure::late())) {
            Ok((found, Part::Primary)) => {
                hosts.saw(at, Part::Primary);
                return Ok(found);
            }
            Ok((found, Part::Replica)) => {
                hosts.saw(at, Part::Replica);
                said.push(format!("{} is a replica", hosts.name(at)));
                match replica.is_none() && wanted == Wanted::PrimaryFirst {
                    true => replica = Some(found),
                    false => say_goodbye(found.stream).await,
                }
            }
            Err(failure) => {
                said.push(format!("{}: {failure}", hosts.name(at)));
                // A replica may not have heard of a new login yet.
                if !failure.is_away() && hosts.part(at) != Some(Part::Replica) {
                    refused = refused.or(Some(failure));
                }
            }
        }
    }
    if let Some(replica) = replica {
        return Ok(replica);
    }
    if refused.as_ref().is_some_and(|failure| failure.is_refused_login(login)) {
        login.refuse();
    }
    Err(refused.unwrap_or_else(|| Failure::NoPrimary(said.join("; "))))
}

/// Connects to one server and logs in; what it is.
async fn log_in_at(
    dialer: &Dialer,
    at: usize,
    login: &Login,
    settings: &[(&str, &str)],
) -> Result<(LoggedIn, Part), Failure> {
    let hosts = dialer.hosts();
    // Whoever gives up waiting leaves it marked as away.
    let mut trying = Trying { dialer, at, done: false };
    let logged_in = hand_over(dialer, at, login, settings).await;
    trying.done = logged_in.as_ref().err().is_none_or(|failure| !failure.is_away());
    drop(trying);
    let (mut hand, cancel_key) = logged_in?;
    let part = match hosts.are_several() {
        true => hand.part().await?,
        // There is no choice, so nobody asks.
        false => Part::Primary,
    };
    let server = Server::new(hosts, at);
    let Hand { stream, input, parameters, .. } = hand;
    Ok((LoggedIn { stream, input, cancel_key, parameters, server }, part))
}

/// A server that is being tried. Dropped before it has answered, it is away.
struct Trying<'a> {
    dialer: &'a Dialer,
    at: usize,
    done: bool,
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.dialer.hosts().failed(self.at);
        }
    }
}

async fn hand_over(
    dialer: &Dialer,
    at: usize,
    login: &Login,
    settings: &[(&str, &str)],
) -> Result<(Hand, CancelKey), Failure> {
    let stream = dialer.dial(at, login.certificate()).await?;
    let (input, output) = (BytesMut::with_capacity(4096), BytesMut::new());
    let mut hand = Hand { stream, input, output, parameters: Vec::new() };
    let own = [("user", &*login.user), ("database", &*dialer.target().database), ("client_encoding", "UTF8")];
    // Set in the start-up packet, so that RESET ROLE and DISCARD ALL lead back to the role.
    let role = login.membership().filter(|membership| membership.set_role);
    let role = role.map(|membership| ("role", membership.of.as_str()));
    frontend::startup_message(own.into_iter().chain(role).chain(settings.iter().copied()), &mut hand.output)?;
    hand.send().await?;
    hand.authenticate(dialer, login).await?;
    let cancel_key = hand.become_ready().await?;
    if let Some(membership) = login.membership() {
        let facts = hand.ask(membership::FACTS).await?;
        membership::judge(&facts, membership)?;
    }
    Ok((hand, cancel_key))
}

async fn say_goodbye(mut stream: Stream) {
    // A server that takes nothing any more sees the end of the connection all the same.
    let _ = timeout(GOODBYE_SPAN_MAX, stream.write_all(b"X\0\0\0\x04")).await;
}

/// Asks the server to cancel what runs on a connection; returns when the server has done so.
pub(crate) async fn cancel(dialer: &Dialer, at: usize, key: CancelKey) -> Result<(), Failure> {
    // A cancel request proves itself by its key, to the server that issued it.
    let mut stream = dialer.dial(at, None).await?;
    let mut output = BytesMut::new();
    frontend::cancel_request(key.process, key.secret, &mut output);
    stream.write_all(&output).await?;
    stream.flush().await?;
    // The server closes after it has signalled: only then may the connection be used again.
    let mut nothing = BytesMut::with_capacity(CANCEL_ANSWER_MAX);
    while nothing.len() < CANCEL_ANSWER_MAX {
        match stream.read_buf(&mut nothing).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    Ok(())
}

/// A connection that shakes hands.
struct Hand {
    stream: Stream,
    input: BytesMut,
    output: BytesMut,
    parameters: Vec<(Box<str>, Box<str>)>,
}

impl Hand {
    async fn send(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.output).await?;
        self.stream.flush().await?;
        self.output.clear();
        Ok(())
    }

    /// Reads one frame; an error of the server ends the handshake.
    async fn frame(&mut self) -> Result<(u8, BytesMut), Failure> {
        loop {
            if let Some(head) = frames::head(&self.input)? {
                if head.body > FRAME_MAX {
                    return Err(Malformed("a frame that is too large").into());
                }
                if self.input.len() >= HEADER + head.body {
                    self.input.advance(HEADER);
                    let body = self.input.split_to(head.body);
                    match head.tag {
                        b'E' => return Err(Failure::Fatal(Box::new(frames::server_error(&body)?))),
                        b'N' => continue,
                        tag => return Ok((tag, body)),
                    }
                }
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    async fn authenticate(&mut self, dialer: &Dialer, login: &Login) -> Result<(), Failure> {
        let (tag, body) = self.frame().await?;
        if tag != b'R' {
            return Err(Malformed("no authentication").into());
        }
        match frames::authentication(&body)? {
            Authentication::Ok => Ok(()),
            _ if login.password().is_none() => {
                Err(Failure::Login("the server asks for a password; it does not log in by this certificate"))
            }
            Authentication::Sasl(mechanisms) => {
                if !mechanisms.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
                    return Err(Failure::Login("the server offers no SCRAM-SHA-256"));
                }
                self.scram(login).await
            }
            Authentication::Cleartext if is_verified(dialer, &self.stream) => {
                frontend::password_message(password(login), &mut self.output)?;
                self.send().await?;
                self.expect_ok().await
            }
            Authentication::Cleartext => Err(Failure::Login(
                "the server asks for the password in the clear, over a connection that is not verified",
            )),
            _ => Err(Failure::Login(
                "the server asks for a login other than SCRAM-SHA-256 (password_encryption)",
            )),
        }
    }

    async fn scram(&mut self, login: &Login) -> Result<(), Failure> {
        let mut scram = ScramSha256::new(password(login), ChannelBinding::unsupported());
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.output)?;
        self.send().await?;
        let (_, body) = self.frame().await?;
        let Authentication::SaslContinue(challenge) = frames::authentication(&body)? else {
            return Err(Malformed("no SCRAM challenge").into());
        };
        check_iterations(challenge)?;
        let challenge = challenge.to_vec();
        // Key derivation takes milliseconds of pure computation: not on the runtime's threads.
        let scram = tokio::task::spawn_blocking(move || scram.update(&challenge).map(|()| scram));
        let mut scram = scram.await.map_err(std::io::Error::other)??;
        frontend::sasl_response(scram.message(), &mut self.output)?;
        self.send().await?;
        let (_, body) = self.frame().await?;
        let Authentication::SaslFinal(proof) = frames::authentication(&body)? else {
            return Err(Malformed("no SCRAM proof").into());
        };
        // The server proves that it knows the password too.
        scram.finish(proof)?;
        self.expect_ok().await
    }

    async fn expect_ok(&mut self) -> Result<(), Failure> {
        let (tag, body) = self.frame().await?;
        match (tag, frames::authentication(&body)?) {
            (b'R', Authentication::Ok) => Ok(()),
            _ => Err(Malformed("no end of authentication").into()),
        }
    }

    /// What the server is.
    async fn part(&mut self) -> Result<Part, Failure> {
        let reported = self.parameters.iter().find(|(name, _)| &**name == IN_HOT_STANDBY);
        let replica = match reported {
            Some((_, value)) => &**value == "on",
            None => self.ask(IN_RECOVERY).await? == "true",
        };
        Ok(if replica { Part::Replica } else { Part::Primary })
    }

    /// Asks for the one value of one row, before the connection belongs to anybody.
    async fn ask(&mut self, sql: &str) -> Result<String, Failure> {
        frontend::query(sql, &mut self.output)?;
        self.send().await?;
        let mut answer = None;
        loop {
            let (tag, body) = self.frame().await?;
            match tag {
                b'T' | b'C' | b'S' => {}
                b'D' if answer.is_none() => answer = Some(one_value(&body)?),
                b'Z' => return Ok(answer.unwrap_or_default()),
                _ => return Err(Malformed("a message out of place").into()),
            }
        }
    }

    async fn become_ready(&mut self) -> Result<CancelKey, Failure> {
        let mut key = CancelKey { process: 0, secret: 0 };
        loop {
            let (tag, body) = self.frame().await?;
            match tag {
                b'K' => {
                    let (process, secret) = frames::backend_key(&body)?;
                    key = CancelKey { process, secret };
                }
                b'Z' => return Ok(key),
                b'S' if self.parameters.len() < PARAMETERS_MAX => {
                    let (name, value) = frames::parameter(&body)?;
                    self.parameters.push((name.into(), value.into()));
                }
                _ => return Err(Malformed("a message out of place").into()),
            }
        }
    }
}

fn password(login: &Login) -> &[u8] {
    login.password().map(|password| password.expose().as_bytes()).unwrap_or_default()
}

fn is_verified(dialer: &Dialer, stream: &Stream) -> bool {
    let target = dialer.target();
    match stream {
        Stream::Unix(_) => true,
        Stream::Tls(_) => target.ssl == SslMode::VerifyFull || target.root_certificates.is_some(),
        Stream::Tcp(_) => false,
    }
}

fn check_iterations(challenge: &[u8]) -> Result<(), Failure> {
    let text = std::str::from_utf8(challenge).map_err(|_| Malformed("SCRAM challenge"))?;
    let rounds = text.split(',').find_map(|part| part.strip_prefix("i=")).and_then(|n| n.parse::<u32>().ok());
    match rounds {
        Some(rounds) if rounds <= ITERATIONS_MAX => Ok(()),
        _ => Err(Failure::Login("the server asks for too many rounds of key derivation")),
    }
}

/// The value of a row of one column.
fn one_value(row: &[u8]) -> Result<String, Failure> {
    let value = match row {
        [0, 1, length @ ..] => length.split_first_chunk::<4>(),
        _ => None,
    };
    let value = value.and_then(|(length, value)| {
        let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
        (value.len() == length).then_some(value)
    });
    let text = value.and_then(|value| std::str::from_utf8(value).ok());
    Ok(text.ok_or(Malformed("a row of one value"))?.to_owned())
}
