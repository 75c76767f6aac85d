//! One connection to the database, logged in as a role, that sessions use one after another.
//!
//! Invariants: what one session has left in it is gone before another one gets it: it is asked to forget
//! everything in a round trip of its own, and whoever does not answer that as expected is closed. What names
//! a person (`application_name`) is set anew for each borrower who is somebody else.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use doorward_core::{Fault, LeaseId, Login, Principal, Timestamp};
use doorward_pgclient::{
    Badge, Canceller, HEADER, Relayed, Server, SessionClaims, Stream, head, parameter, ready, server_error,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::known::Known;
use crate::message::{put, put_text};
use crate::replication::Replication;

/// The largest message that an answer to the gateway's own words may hold.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Bytes asked for at once.
const READ_BYTES: usize = 4 << 10;
/// How much an idle connection may have been told unasked before it is looked at; more is not normal.
const UNASKED_BYTES_MAX: usize = 64 << 10;
/// One that has stood idle for so long is asked whether it lives before it is lent.
const UNASKED_SPAN_MAX: Duration = Duration::from_secs(30);
/// Leaves a session as it was after the login.
const FORGET: &str = "DISCARD ALL";

/// Which server a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The primary.
    Primary,
    /// A replica, any of them.
    Replica,
}

/// What must be the same for two sessions to use one connection, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// The credential that it is logged in with.
    pub(crate) lease: LeaseId,
    /// Settings of the start-up packet.
    pub(crate) settings: Box<[(String, String)]>,
    /// Which server it leads to.
    pub(crate) place: Place,
    /// What it replicates: such a connection is for one session.
    pub(crate) replication: Option<Replication>,
    /// Whose it is, where sessions have signed claims: these are signed for the connection, and what was signed for
    /// one person must be of no use to the next.
    pub(crate) person: Option<Arc<str>>,
}

/// What a session wants to find: its name, and the settings that it has made since it began.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outfit {
    /// What the backend's own logs and views show.
    pub(crate) application_name: Box<str>,
    /// Setting and statement, in the order in which they were made.
    pub(crate) settings: Vec<(Box<str>, Box<str>)>,
    /// Who the session belongs to, where the database is told so in a way that it can believe.
    pub(crate) bearer: Option<Bearer>,
}

/// Who a session's signed claims are of.
#[derive(Clone, Debug)]
pub(crate) struct Bearer {
    pub(crate) claims: Arc<SessionClaims>,
    pub(crate) principal: Arc<Principal>,
    /// When they end.
    pub(crate) until: Option<Timestamp>,
}

impl PartialEq for Bearer {
    /// The same proof of the same person: what one session has set, another of theirs may find.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.claims, &other.claims)
            && Arc::ptr_eq(&self.principal, &other.principal)
            && self.until == other.until
    }
}

impl Eq for Bearer {}

impl Outfit {
    /// The statements that make it, on a connection that wears another one, or none.
    fn sql(&self, worn: Option<&Self>) -> String {
        let mut sql = String::with_capacity(64);
        if worn.is_some_and(|worn| !worn.settings.is_empty()) {
            sql.push_str("RESET ALL;");
        }
        // What lastval tells is of the last borrower.
        sql.push_str("DISCARD SEQUENCES;");
        sql.push_str("SET application_name = '");
        sql.push_str(&self.application_name.replace('\'', "''"));
        sql.push('\'');
        for (_, statement) in &self.settings {
            // On a line of its own: a statement may end in a comment.
            sql.push_str("\n;");
            sql.push_str(statement);
        }
        sql
    }
}

/// Why a connection is of no more use. For the log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Malformed(#[from] doorward_pgclient::Malformed),
    #[error("the server refused it: {0}")]
    Refused(Box<doorward_pgclient::ServerError>),
    #[error("the server said something out of place")]
    OutOfPlace,
    #[error("it took too long")]
    TooLong,
    #[error("{0}")]
    Claims(Fault),
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) stream: Stream,
    /// What has been read and is not looked at yet.
    pub(crate) input: BytesMut,
    /// The settings that the server reports, as they are now.
    pub(crate) parameters: Parameters,
    pub(crate) canceller: Canceller,
    pub(crate) key: Arc<Key>,
    /// The prepared statements that it has.
    pub(crate) known: Known,
    /// What it is logged in with.
    pub(crate) login: Arc<Login>,
    /// The server that it is to.
    pub(crate) server: Server,
    worn: Option<Arc<Outfit>>,
    /// Who is on it, as the database believes.
    pub(crate) badge: Badge,
    pub(crate) born: Instant,
    pub(crate) idle_since: Instant,
}

/// Settings that a server reports. Copies share them until one is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parameters(Arc<Vec<(Box<str>, Box<str>)>>);

impl Parameters {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Takes a new value in; whether it is another one.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> bool {
        let at = self.0.iter().position(|(known, _)| **known == *name);
        let known = at.and_then(|at| self.0.get(at)).map(|(_, known)| &**known);
        if known == Some(value) {
            return false;
        }
        let all = Arc::make_mut(&mut self.0);
        match at.and_then(|at| all.get_mut(at)) {
            Some((_, known)) => *known = value.into(),
            None => all.push((name.into(), value.into())),
        }
        true
    }

    /// Takes over the values of others but for one, and tells of each that is another one. Those that are the same in all
    /// are one from then on, which makes the next look short: the one at the lower address, so that it is soon the same
    /// everywhere.
    pub(crate) fn follow(
        &mut self,
        other: &mut Self,
        left_out: Option<&str>,
        mut tell: impl FnMut(&str, &str),
    ) {
        if Arc::ptr_eq(&self.0, &other.0) {
            return;
        }
        let mut all = true;
        for (name, value) in other.iter() {
            if left_out == Some(name) {
                all = false;
            } else if self.set(name, value) {
                tell(name, value);
            }
        }
        if all && self.0.len() == other.0.len() {
            match Arc::as_ptr(&self.0) < Arc::as_ptr(&other.0) {
                true => other.0 = self.0.clone(),
                false => self.0 = other.0.clone(),
            }
        }
    }
}

impl Backend {
    pub(super) fn new(relayed: Relayed, key: Arc<Key>, statements_max: usize) -> Self {
        let Relayed { stream, input, parameters, canceller, login, server } = relayed;
        let now = Instant::now();
        Self {
            stream,
            input,
            parameters: Parameters(Arc::new(parameters)),
            canceller,
            key,
            known: Known::new(statements_max),
            login,
            server,
            worn: None,
            badge: Badge::default(),
            born: now,
            idle_since: now,
        }
    }

    /// Whether it is not to be used again: there is a newer login, or the primary is elsewhere.
    pub(crate) fn is_superseded(&self) -> bool {
        self.login.is_superseded() || (self.key.place == Place::Primary && self.server.is_no_primary())
    }

    /// Whether it wears this already.
    pub(crate) fn wears(&self, outfit: &Arc<Outfit>) -> bool {
        self.worn.as_ref().is_some_and(|worn| Arc::ptr_eq(worn, outfit) || worn == outfit)
    }

    /// What it wears is not known for certain any more.
    pub(crate) fn undress(&mut self) {
        self.worn = None;
    }

    /// What is worn has been changed by the session itself, which knows.
    pub(crate) fn is_dressed(&mut self, outfit: Arc<Outfit>) {
        self.worn = Some(outfit);
    }

    /// Makes it ready for a borrower: alive, and in the borrower's outfit.
    pub(crate) async fn dress(&mut self, outfit: &Arc<Outfit>, span_max: Duration) -> Result<(), Unfit> {
        if self.wears(outfit) && self.idle_since.elapsed() < UNASKED_SPAN_MAX {
            return Ok(());
        }
        Box::pin(self.dress_anew(outfit, span_max)).await
    }

    async fn dress_anew(&mut self, outfit: &Arc<Outfit>, span_max: Duration) -> Result<(), Unfit> {
        let sql = outfit.sql(self.worn.as_deref());
        self.worn = None;
        timeout(span_max, self.ask(&sql)).await.map_err(|_| Unfit::TooLong)??;
        if let Some(Bearer { claims, principal, until }) = &outfit.bearer {
            // After the settings, so that none of them stands in the way.
            let ends = (&mut self.stream, &mut self.input);
            let shown = self.badge.show(ends, claims, principal, *until, span_max).await;
            shown.map_err(Unfit::Claims)?;
        }
        // Who borrows it begins with nothing unread.
        self.unasked()?;
        if !self.input.is_empty() {
            return Err(Unfit::OutOfPlace);
        }
        self.worn = Some(outfit.clone());
        Ok(())
    }

    /// Makes it forget everything that a session has done in it.
    pub(crate) async fn forget(&mut self, in_transaction: bool, span_max: Duration) -> Result<(), Unfit> {
        let (worn, forgetting) = (self.worn.take(), async {
            if in_transaction {
                self.ask("ROLLBACK").await?;
            }
            self.ask(FORGET).await
        });
        drop(worn);
        timeout(span_max, forgetting).await.map_err(|_| Unfit::TooLong)??;
        self.known.clear();
        Ok(())
    }

    /// Says something of the gateway's own, and takes the answer. Nothing else is under way.
    async fn ask(&mut self, sql: &str) -> Result<(), Unfit> {
        self.known.query();
        let mut out = BytesMut::with_capacity(sql.len() + HEADER + 1);
        put(&mut out, b'Q', |out| put_text(out, sql));
        self.stream.write_all(&out).await?;
        self.stream.flush().await?;
        let mut refused = None;
        loop {
            while let Some((tag, body)) = self.message()? {
                match tag {
                    b'S' => self.reported(&body)?,
                    b'E' => refused = Some(server_error(&body)?),
                    b'Z' if ready(&body)? != b'I' => return Err(Unfit::OutOfPlace),
                    b'Z' => return refused.map_or(Ok(()), |error| Err(Unfit::Refused(Box::new(error)))),
                    b'C' | b'N' | b'A' => {}
                    _ => return Err(Unfit::OutOfPlace),
                }
            }
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// The next whole message of what has been read.
    fn message(&mut self) -> Result<Option<(u8, BytesMut)>, Unfit> {
        let Some(head) = head(&self.input)? else { return Ok(None) };
        if head.body > ANSWER_BYTES_MAX {
            return Err(Unfit::OutOfPlace);
        }
        if self.input.len() < HEADER + head.body {
            return Ok(None);
        }
        self.input.advance(HEADER);
        Ok(Some((head.tag, self.input.split_to(head.body))))
    }

    fn reported(&mut self, body: &[u8]) -> Result<(), Unfit> {
        let (name, value) = parameter(body)?;
        self.parameters.set(name, value);
        Ok(())
    }

    /// Whether it lives, as far as this side can tell without asking: nothing has come that ends it.
    pub(crate) async fn is_alive(&mut self) -> bool {
        loop {
            match poll_fn(|cx| Poll::Ready(self.take_unasked(cx))).await {
                Poll::Pending => return self.unasked().is_ok() && self.input.is_empty(),
                Poll::Ready(Ok(count)) if count > 0 && self.input.len() < UNASKED_BYTES_MAX => {}
                Poll::Ready(_) => return false,
            }
        }
    }

    /// Reads what is there already; how much. None is the end.
    fn take_unasked(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        let mut bytes = [0; 1024];
        let mut read = ReadBuf::new(&mut bytes);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut read);
        self.input.extend_from_slice(read.filled());
        polled.map_ok(|()| read.filled().len())
    }

    /// Takes what a server may say at any time.
    fn unasked(&mut self) -> Result<(), Unfit> {
        while let Some((tag, body)) = self.message()? {
            match tag {
                b'S' => self.reported(&body)?,
                b'N' => {}
                _ => return Err(Unfit::OutOfPlace),
            }
        }
        Ok(())
    }

    /// Gives its memory back for as long as it stands idle.
    pub(crate) fn rest(&mut self) {
        self.idle_since = Instant::now();
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
    }

    /// Ends it.
    pub(super) async fn close(mut self) {
        self.stream.end().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(all: &[(&str, &str)]) -> Parameters {
        let mut parameters = Parameters::default();
        for (name, value) in all {
            assert!(parameters.set(name, value));
        }
        parameters
    }

    fn following(told: &mut Parameters, of: &mut Parameters, left_out: Option<&str>) -> String {
        let mut said = String::new();
        told.follow(of, left_out, |name, value| said.push_str(&format!("{name}={value} ")));
        said
    }

    #[test]
    fn a_client_is_told_what_is_another_value_and_equal_ones_are_kept_once() {
        let mut told = parameters(&[("b", "1"), ("a", "1")]);
        let mut both = [parameters(&[("a", "1"), ("b", "1")]), parameters(&[("a", "1"), ("b", "1")])];
        for at in [0, 1, 0] {
            assert_eq!(following(&mut told, &mut both[at], None), "");
            assert!(Arc::ptr_eq(&told.0, &both[at].0));
        }
        let [mut one, mut other] = both;
        assert!(other.set("b", "2") && !other.set("b", "2"));
        assert_eq!((one.iter().count(), following(&mut told, &mut other, None)), (2, "b=2 ".to_owned()));
        assert_eq!(following(&mut told, &mut one, None), "b=1 ", "of the others none was changed");
        assert_eq!(following(&mut told, &mut parameters(&[("c", "1")]), None), "c=1 ");
    }

    #[test]
    fn what_is_left_out_stays_as_it_was_told() {
        let mut told = parameters(&[("in_hot_standby", "off"), ("a", "1")]);
        let mut replica = parameters(&[("in_hot_standby", "on"), ("a", "2")]);
        assert_eq!(following(&mut told, &mut replica, Some("in_hot_standby")), "a=2 ");
        assert_eq!(told, parameters(&[("in_hot_standby", "off"), ("a", "2")]));
        assert_eq!(replica, parameters(&[("in_hot_standby", "on"), ("a", "2")]));
    }
}
