//! How a client proves who it is: which way it is asked for, and the exchange itself.
//!
//! A server of PostgreSQL asks for one way only, before the client has said what it can do. So the start-up packet
//! decides: a user name that the gateway minted means SCRAM; `doorward.auth` among the options says it outright; a
//! verified client certificate needs nothing more; all others are asked for a token, as a password or by OAUTHBEARER.
//!
//! Invariants: a token is taken through TLS, or on loopback; a password of SCRAM never crosses the wire; every message
//! has a bound in bytes and in time.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};
use doorward_core::{
    Authenticator, ClientCertificate, Credentials, Fault, LoginWish, MintedLogin, MintedProof, Secret,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::codes;
use crate::message::put;
use crate::oauth::{self, DUMMY, OAUTHBEARER, OAuthOffer};
use crate::peer::BoxStream;
use crate::scram::{self, Exchange, Offer, ScramError, Verifier};
use crate::settings;
use crate::startup::Startup;

/// The longest password: tokens may be long, and PgBouncer takes as much.
const PASSWORD_BYTES_MAX: usize = 65_535;
/// The longest message of an exchange: a token and what is around it.
const EXCHANGE_BYTES_MAX: usize = PASSWORD_BYTES_MAX + 1_024;
/// Random bytes of a nonce.
const NONCE_BYTES: usize = 18;
/// Key derivations at once: each takes a core for some milliseconds.
pub(crate) const DERIVATIONS_MAX: usize = 4;
/// The codes of authentication requests.
const CLEARTEXT: u32 = 3;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// What is known of a client before it is asked for anything.
pub(crate) struct Asking<'a> {
    pub(crate) startup: &'a Startup,
    pub(crate) certificate: Option<ClientCertificate>,
    /// Whether a token may cross the wire.
    pub(crate) confidential: bool,
    pub(crate) oauth: Option<&'a OAuthOffer>,
    pub(crate) authenticator: &'a dyn Authenticator,
}

/// The way in which a client is asked.
#[derive(Debug)]
pub(crate) enum Way {
    /// Its certificate is enough.
    Certificate(ClientCertificate),
    /// SCRAM, for a minted login.
    Scram(Box<MintedLogin>),
    /// A token by OAUTHBEARER.
    OAuth(OAuthOffer),
    /// A token as the password.
    Password,
}

/// What a client has shown.
pub(crate) struct Shown {
    pub(crate) credentials: Credentials,
    /// What a minted login is good for.
    pub(crate) wish: Option<LoginWish>,
    /// What the client is told first when that does not count.
    denial: Option<String>,
}

impl Asking<'_> {
    /// Chooses the way.
    pub(crate) fn way(self) -> Result<Way, Fault> {
        let user = self.startup.parameter("user").unwrap_or_default();
        let minted = || self.authenticator.minted(user).map(Box::new);
        let wanted = settings::of_gateway(self.startup, "auth");
        let way = match (wanted.as_deref(), minted()) {
            (None | Some("scram"), Some(login)) => Way::Scram(login),
            (Some("scram"), None) => {
                return Err(unavailable("this user name is not one that the gateway mints")
                    .hint("Mint one with: doorward token --postgres."));
            }
            (Some("oauth"), _) => Way::OAuth(self.oauth.cloned().ok_or_else(|| {
                unavailable("OAUTHBEARER is not offered here").hint(
                    "Send the token as the password, or ask the gateway's operator for `oauth` in its configuration.",
                )
            })?),
            (Some("password"), _) => Way::Password,
            (Some(_), _) => {
                return Err(unavailable("the value of doorward.auth is not known")
                    .hint("It is password, scram or oauth."));
            }
            (None, None) => match (self.certificate, self.oauth) {
                (Some(certificate), _) => Way::Certificate(certificate),
                (None, Some(offer)) if offer.always => Way::OAuth(offer.clone()),
                (None, _) => Way::Password,
            },
        };
        match way {
            Way::OAuth(_) | Way::Password if !self.confidential => {
                Err(Fault::new(codes::TLS_REQUIRED, "this gateway takes tokens over TLS only").hint(
                    "Connect with sslmode=require or, better, verify-full; or use a login from: doorward token --postgres.",
                ))
            }
            way => Ok(way),
        }
    }
}

fn unavailable(text: &'static str) -> Fault {
    Fault::new(codes::UNSUPPORTED, text)
}

/// A client that is asked.
pub(crate) struct Exchanging<'a> {
    pub(crate) stream: &'a mut BoxStream,
    /// The user of the start-up packet.
    pub(crate) user: &'a str,
    /// The hash of the certificate that this connection has shown.
    pub(crate) end_point: Option<&'a [u8]>,
    /// Turns at deriving keys.
    pub(crate) derivations: &'a Semaphore,
    /// How long each message may take.
    pub(crate) span_max: Duration,
}

impl Exchanging<'_> {
    /// Asks for the proof, in this way. The fault is for a client that does not follow.
    pub(crate) async fn run(mut self, way: Way) -> io::Result<Result<Shown, Fault>> {
        match way {
            Way::Certificate(certificate) => Ok(Ok(shown(Credentials::Certificate(certificate)))),
            Way::Password => self.password().await,
            Way::OAuth(offer) => self.oauth(&offer).await,
            Way::Scram(login) => self.scram(*login).await,
        }
    }

    async fn password(&mut self) -> io::Result<Result<Shown, Fault>> {
        self.ask(CLEARTEXT, &[]).await?;
        let Some(mut body) = self.answer(PASSWORD_BYTES_MAX + 1).await? else {
            return Ok(Err(broken("a password message was expected")));
        };
        if body.pop() != Some(0) {
            return Ok(Err(broken("a password message was expected")));
        }
        let credentials = match String::from_utf8(body) {
            Ok(token) if token.is_empty() => {
                Credentials::Malformed("the password is empty; it is your token")
            }
            Ok(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Credentials::Bearer(Secret::from(token))
            }
            Ok(_) | Err(_) => Credentials::Malformed("the password holds characters that no token has"),
        };
        Ok(Ok(shown(credentials)))
    }

    async fn oauth(&mut self, offer: &OAuthOffer) -> io::Result<Result<Shown, Fault>> {
        self.ask(SASL, &mechanisms(&[OAUTHBEARER])).await?;
        let Some(body) = self.answer(EXCHANGE_BYTES_MAX).await? else { return Ok(Err(no_exchange())) };
        let Some((OAUTHBEARER, message)) = initial(&body) else { return Ok(Err(no_exchange())) };
        match oauth::read(message) {
            Ok(Some(token)) => {
                let denial = Some(offer.refusal());
                Ok(Ok(Shown { denial, ..shown(Credentials::Bearer(token)) }))
            }
            Ok(None) => {
                deny(self.stream, &offer.refusal(), self.span_max).await?;
                Ok(Err(Fault::new(codes::TOKEN_REQUIRED, "a token is required")
                    .hint("Get one from the issuer that the server named, and connect again.")))
            }
            Err(why) => Ok(Err(broken("the message of OAUTHBEARER is malformed").cause(why))),
        }
    }

    async fn scram(&mut self, login: MintedLogin) -> io::Result<Result<Shown, Fault>> {
        let offered: &[&str] = match self.end_point {
            Some(_) => &[scram::PLUS, scram::PLAIN],
            None => &[scram::PLAIN],
        };
        self.ask(SASL, &mechanisms(offered)).await?;
        let Some(body) = self.answer(scram::MESSAGE_BYTES_MAX).await? else { return Ok(Err(no_exchange())) };
        let Some((mechanism, first)) = initial(&body) else { return Ok(Err(no_exchange())) };
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).map_err(io::Error::other)?;
        let nonce = STANDARD.encode(nonce);
        let offer =
            Offer { end_point: self.end_point, salt: &login.salt, rounds: scram::ROUNDS, nonce: &nonce };
        let exchange = match Exchange::begin(mechanism, first, offer) {
            Ok(exchange) => exchange,
            Err(error) => return Ok(Err(refused(error))),
        };
        self.ask(SASL_CONTINUE, exchange.server_first.as_bytes()).await?;
        let Some(last) = self.answer(scram::MESSAGE_BYTES_MAX).await? else { return Ok(Err(no_exchange())) };
        // Key derivation takes milliseconds of pure computation: not on the runtime's threads, and in turns, because
        // whoever connects can ask for it.
        let turn = timeout(self.span_max, self.derivations.acquire()).await?.map_err(io::Error::other)?;
        let (password, salt) = (login.password.clone(), login.salt);
        let derive = move || Verifier::derive(password.expose().as_bytes(), &salt, scram::ROUNDS);
        let verifier = tokio::task::spawn_blocking(derive).await.map_err(io::Error::other)?;
        drop(turn);
        let proven = match exchange.finish(&verifier, &last) {
            Ok(said) => {
                self.ask(SASL_FINAL, said.as_bytes()).await?;
                true
            }
            Err(ScramError::Proof) => false,
            Err(error) => return Ok(Err(refused(error))),
        };
        let proof = MintedProof { user: self.user.into(), proven };
        Ok(Ok(Shown { wish: Some(login.wish), ..shown(Credentials::Minted(proof)) }))
    }

    async fn ask(&mut self, code: u32, data: &[u8]) -> io::Result<()> {
        let mut out = BytesMut::with_capacity(128);
        request(&mut out, code, data);
        self.stream.write_all(&out).await?;
        self.stream.flush().await
    }

    async fn answer(&mut self, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        timeout(self.span_max, answer(self.stream, bytes_max)).await?
    }
}

impl Shown {
    /// Says what has to be said before the refusal of what was shown.
    pub(crate) async fn deny(&self, stream: &mut BoxStream, span_max: Duration) -> io::Result<()> {
        match &self.denial {
            Some(denial) => deny(stream, denial, span_max).await,
            None => Ok(()),
        }
    }
}

fn shown(credentials: Credentials) -> Shown {
    Shown { credentials, wish: None, denial: None }
}

/// RFC 7628, 3.2.3: the client is told why, answers one byte, and only then is refused.
async fn deny(stream: &mut BoxStream, denial: &str, span_max: Duration) -> io::Result<()> {
    let mut out = BytesMut::with_capacity(256);
    request(&mut out, SASL_CONTINUE, denial.as_bytes());
    stream.write_all(&out).await?;
    stream.flush().await?;
    // Whatever it answers, it is refused.
    let _ = timeout(span_max, answer(stream, DUMMY.len())).await?;
    Ok(())
}

fn request(out: &mut BytesMut, code: u32, data: &[u8]) {
    put(out, b'R', |out| {
        out.put_u32(code);
        out.extend_from_slice(data);
    });
}

fn mechanisms(names: &[&str]) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    list.push(0);
    list
}

/// The mechanism that a client has chosen, and its first message (SASLInitialResponse).
fn initial(body: &[u8]) -> Option<(&str, &[u8])> {
    let end = body.iter().position(|byte| *byte == 0)?;
    let mechanism = std::str::from_utf8(body.get(..end)?).ok()?;
    let (length, message) = body.get(end + 1..)?.split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    (length == message.len()).then_some((mechanism, message))
}

fn refused(error: ScramError) -> Fault {
    match error {
        ScramError::Malformed(why) => broken("the messages of SCRAM are malformed").cause(why),
        error => Fault::new(codes::SASL, error.to_string())
            .hint("Check the certificate that the client sees; tell the gateway's operator."),
    }
}

fn no_exchange() -> Fault {
    broken("a message of the authentication exchange was expected")
}

fn broken(text: &'static str) -> Fault {
    Fault::new(codes::PROTOCOL, text)
}

/// The body of a password message, of which SASL's are kinds; `None` when the client says something else, or more.
async fn answer(stream: &mut BoxStream, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
    if stream.read_u8().await? != b'p' {
        return Ok(None);
    }
    let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
    let Some(length) = length.checked_sub(4).filter(|length| *length <= bytes_max) else { return Ok(None) };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;

    impl Authenticator for Names {
        fn authenticate<'a>(
            &'a self,
            _: &'a Credentials,
            _: &'a doorward_core::Arrival,
            _: doorward_core::Timestamp,
        ) -> doorward_core::BoxFuture<'a, Result<std::sync::Arc<doorward_core::Principal>, Fault>> {
            Box::pin(async { Err(doorward_core::no_logins()) })
        }

        fn stands(&self, _: &doorward_core::Principal, _: doorward_core::Timestamp) -> Result<(), Fault> {
            Ok(())
        }

        fn minted(&self, user: &str) -> Option<MintedLogin> {
            user.starts_with("dw1.").then(|| MintedLogin {
                password: Secret::from("x"),
                salt: [0; 16],
                wish: LoginWish::default(),
            })
        }
    }

    /// The way as one word, or the fault's code.
    fn way(user: &str, auth: &str, certificate: bool, confidential: bool, oauth: Option<bool>) -> String {
        let mut parameters = vec![("user".to_owned(), user.to_owned())];
        if !auth.is_empty() {
            parameters.push(("options".to_owned(), format!("-c doorward.auth={auth}")));
        }
        let startup = Startup { parameters, ..Startup::default() };
        let offer =
            oauth.map(|always| OAuthOffer { discovery_url: "https://x".into(), scope: "".into(), always });
        let certificate = certificate.then(|| ClientCertificate { der: [].into() });
        let asking = Asking {
            startup: &startup,
            certificate,
            confidential,
            oauth: offer.as_ref(),
            authenticator: &Names,
        };
        match asking.way() {
            Ok(Way::Certificate(_)) => "certificate".to_owned(),
            Ok(Way::Scram(_)) => "scram".to_owned(),
            Ok(Way::OAuth(_)) => "oauth".to_owned(),
            Ok(Way::Password) => "password".to_owned(),
            Err(fault) => fault.code().name.to_owned(),
        }
    }

    #[test]
    fn the_start_up_packet_decides() {
        let (tls, unsupported) = (codes::TLS_REQUIRED.name, codes::UNSUPPORTED.name);
        for (user, auth, certificate, confidential, oauth, expected) in [
            ("analyst", "", false, true, None, "password"),
            ("analyst", "", false, false, None, tls),
            ("analyst", "", false, true, Some(false), "password"),
            ("analyst", "", false, true, Some(true), "oauth"),
            ("analyst", "", false, false, Some(true), tls),
            ("analyst", "", true, true, Some(true), "certificate"),
            ("analyst", "oauth", false, true, Some(false), "oauth"),
            ("analyst", "oauth", true, true, Some(false), "oauth"),
            ("analyst", "oauth", false, true, None, unsupported),
            ("analyst", "password", false, true, Some(true), "password"),
            ("analyst", "password", true, true, None, "password"),
            ("analyst", "scram", false, true, None, unsupported),
            ("analyst", "kerberos", false, true, None, unsupported),
            ("dw1.x", "", false, false, None, "scram"),
            ("dw1.x", "", true, true, Some(true), "scram"),
            ("dw1.x", "scram", false, false, None, "scram"),
            ("dw1.x", "password", false, true, None, "password"),
        ] {
            let got = way(user, auth, certificate, confidential, oauth);
            assert_eq!(got, expected, "{user} {auth} {certificate} {confidential} {oauth:?}");
        }
    }

    #[test]
    fn the_first_message_of_an_exchange() {
        assert_eq!(initial(b"SCRAM-SHA-256\0\0\0\0\x03abc"), Some(("SCRAM-SHA-256", &b"abc"[..])));
        for body in [
            &b""[..],
            b"SCRAM-SHA-256",
            b"X\0",
            b"X\0\0\0\0",
            b"X\0\0\0\0\x04abc",
            b"X\0\xff\xff\xff\xff",
            b"\xff\0\0\0\0\0",
        ] {
            assert_eq!(initial(body), None, "{body:?}");
        }
    }
}
