//! A client that speaks the protocol by hand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

/// How long an answer may take on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// One session.
pub(crate) struct Wire {
    stream: TcpStream,
    address: SocketAddr,
    /// The key that cancels it.
    pub(crate) key: Vec<u8>,
}

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) tag: char,
    pub(crate) body: Vec<u8>,
}

impl Said {
    /// A field of an error: `C` is its SQLSTATE.
    pub(crate) fn field(&self, kind: u8) -> String {
        let fields = self.body.split(|byte| *byte == 0);
        let found = fields.into_iter().find(|field| field.first() == Some(&kind));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    }
}

/// The parts of the extended protocol.
pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0\0\0"].concat())
}

pub(crate) fn bind(portal: &str, name: &str) -> Vec<u8> {
    message(b'B', &[portal.as_bytes(), b"\0", name.as_bytes(), b"\0\0\0\0\0\0\0"].concat())
}

pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

pub(crate) fn run(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", ""), execute("", 0)].concat()
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"].concat())
}

pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

impl Wire {
    /// Logs in.
    pub(crate) fn connect(address: SocketAddr, user: &str, database: &str, token: &str) -> Result<Self> {
        let parameters = [("user", user), ("database", database), ("application_name", "by hand")];
        Self::connect_with_all(address, token, &parameters)
    }

    /// The same, with more parameters.
    pub(crate) fn connect_with(
        address: SocketAddr,
        database: &str,
        token: &str,
        more: &[(&str, &str)],
    ) -> Result<Self> {
        let own = [("user", "any"), ("database", database)];
        Self::connect_with_all(address, token, &[&own[..], more].concat())
    }

    fn connect_with_all(address: SocketAddr, token: &str, parameters: &[(&str, &str)]) -> Result<Self> {
        Self::start(address, token, parameters)?.map_err(|refused| anyhow!("{}", refused.field(b'M')))
    }

    /// Logs in with these parameters of the start-up packet; or says with which error it was refused.
    pub(crate) fn start(
        address: SocketAddr,
        token: &str,
        parameters: &[(&str, &str)],
    ) -> Result<Result<Self, Said>> {
        let mut wire = Self::knock(address, token, parameters)?;
        for said in wire.until_ready()? {
            match said.tag {
                'K' => wire.key = said.body,
                'E' => return Ok(Err(said)),
                _ => {}
            }
        }
        Ok(Ok(wire))
    }

    /// Logs in to PostgreSQL itself, which asks for SCRAM.
    pub(crate) fn direct(port: u16, user: &str, password: &str, database: &str) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let (mut wire, mut asked) = Self::introduce(address, &[("user", user), ("database", database)])?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            ensure!(asked.tag == 'R', "{} {}", asked.tag, asked.field(b'M'));
            let kind = asked.body.get(3).copied().unwrap_or_default();
            let rest = asked.body.get(4..).unwrap_or_default();
            match kind {
                0 => break,
                10 => {
                    let length = u32::try_from(scram.message().len())?.to_be_bytes();
                    let first = [SCRAM_SHA_256.as_bytes(), b"\0", &length, scram.message()].concat();
                    wire.send(&message(b'p', &first))?;
                }
                11 => {
                    scram.update(rest)?;
                    wire.send(&message(b'p', scram.message()))?;
                }
                _ => scram.finish(rest)?,
            }
            asked = wire.next()?;
        }
        wire.until_ready()?;
        Ok(wire)
    }

    /// Shows who it is, and does not wait for what is said to that.
    pub(crate) fn knock(address: SocketAddr, token: &str, parameters: &[(&str, &str)]) -> Result<Self> {
        let (mut wire, asked) = Self::introduce(address, parameters)?;
        ensure!(asked.tag == 'R' && asked.body == [0, 0, 0, 3], "a password is asked for: {asked:?}");
        wire.send(&message(b'p', &[token.as_bytes(), b"\0"].concat()))?;
        Ok(wire)
    }

    /// Says who it is, and hears how that is to be proved.
    fn introduce(address: SocketAddr, parameters: &[(&str, &str)]) -> Result<(Self, Said)> {
        let mut wire = Self { stream: TcpStream::connect(address)?, address, key: Vec::new() };
        wire.stream.set_read_timeout(Some(ANSWER_MAX))?;
        wire.stream.set_write_timeout(Some(ANSWER_MAX))?;
        let mut packet = (3_u32 << 16).to_be_bytes().to_vec();
        for (name, value) in parameters {
            packet.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        packet.push(0);
        wire.send(&[&u32::try_from(packet.len() + 4)?.to_be_bytes()[..], &packet].concat())?;
        let asked = wire.next()?;
        Ok((wire, asked))
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// Ends one direction, or both.
    pub(crate) fn shut(&self, how: Shutdown) -> Result<()> {
        Ok(self.stream.shutdown(how)?)
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Result<Said> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).context("the server says nothing more")?;
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let mut body = vec![0; usize::try_from(length)? - 4];
        self.stream.read_exact(&mut body)?;
        Ok(Said { tag: char::from(head[0]), body })
    }

    /// All messages up to ReadyForQuery, or to the end after a fatal error.
    pub(crate) fn until_ready(&mut self) -> Result<Vec<Said>> {
        let mut all = Vec::new();
        loop {
            let said = self.next()?;
            let last = said.tag == 'Z' || (said.tag == 'E' && said.field(b'V') == "FATAL");
            all.push(said);
            if last {
                return Ok(all);
            }
        }
    }

    /// Sends, and returns the types of all messages up to ReadyForQuery, with its status, and the first error.
    pub(crate) fn ask(&mut self, bytes: &[u8]) -> Result<(String, String)> {
        self.send(bytes)?;
        self.answer()
    }

    /// The types of all messages up to ReadyForQuery, with its status, and the first error's SQLSTATE.
    pub(crate) fn answer(&mut self) -> Result<(String, String)> {
        let all = self.until_ready()?;
        let mut tags: String = all.iter().map(|said| said.tag).collect();
        if let Some(said) = all.last().filter(|said| said.tag == 'Z') {
            tags.push(char::from(said.body[0]));
        }
        let error = all.iter().find(|said| said.tag == 'E').map(|said| said.field(b'C'));
        Ok((tags, error.unwrap_or_default()))
    }

    /// The values of a query's rows: the first column of each.
    pub(crate) fn values(&mut self, sql: &str) -> Result<Vec<String>> {
        self.send(&query(sql))?;
        let all = self.until_ready()?;
        if let Some(error) = all.iter().find(|said| said.tag == 'E') {
            bail!("{sql}: {} {}", error.field(b'C'), error.field(b'M'));
        }
        let rows = all.iter().filter(|said| said.tag == 'D');
        Ok(rows
            .map(|row| String::from_utf8_lossy(row.body.get(6..).unwrap_or_default()).into_owned())
            .collect())
    }

    /// The one value of a query's one row.
    pub(crate) fn value(&mut self, sql: &str) -> Result<String> {
        self.values(sql)?.pop().with_context(|| format!("{sql}: no row"))
    }

    /// Says goodbye, and waits until the server has taken note of it.
    pub(crate) fn leave(mut self) -> Result<()> {
        self.send(&message(b'X', b""))?;
        // What comes at the end is the end.
        let _ = self.stream.read(&mut [0]);
        Ok(())
    }

    /// Cancels what runs, over another connection.
    pub(crate) fn cancel(&self) -> Result<()> {
        Self::cancel_by(self.address, &self.key)
    }

    /// Where it is connected to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cancels what runs in the session of this key.
    pub(crate) fn cancel_by(address: SocketAddr, key: &[u8]) -> Result<()> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(&[&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), key].concat())?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest)?;
        ensure!(rest.is_empty(), "a cancel request is not answered");
        Ok(())
    }
}
