//! Logging in through a browser on this machine: an authorization code with PKCE (RFC 7636), sent back to a port of
//! loopback (RFC 8252).
//!
//! Invariants: a code is taken only with the state of this login, and from the issuer that was asked (RFC 9207); without
//! this login's verifier, which never leaves this process but to the token endpoint, a code is worth nothing.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::issuer::{Issuer, plain, with_query};
use super::wire::KeptTokens;

/// The path that the browser is sent back to.
const CALLBACK: &str = "/callback";
/// The longest that a login may take.
const WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// The longest that one request of the browser may take, and the largest that it may be.
const REQUEST_SPAN_MAX: Duration = Duration::from_secs(10);
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// Random bytes of a state and of a verifier.
const RANDOM_BYTES: usize = 32;
const DONE: &str = "You are logged in. This window can be closed.";

/// Opens the browser, waits until it comes back, and fetches the tokens.
pub(crate) async fn log_in(issuer: &Issuer, open: bool, tell: impl Fn(&str)) -> anyhow::Result<KeptTokens> {
    let endpoint = issuer.endpoint(issuer.metadata.authorization_endpoint.as_ref(), "login by a browser")?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let redirect = format!("http://127.0.0.1:{}{CALLBACK}", listener.local_addr()?.port());
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
    let mut parameters = vec![
        ("response_type", "code"),
        ("redirect_uri", redirect.as_str()),
        ("state", &state),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    parameters.extend(issuer.wanted());
    // OpenID Connect Core, 11: without it the wish for a refresh token is passed over.
    if issuer.wants_offline_access() {
        parameters.push(("prompt", "consent"));
    }
    let url = with_query(endpoint, &parameters)?;
    tell(&format!("Log in with your browser: {url}\n"));
    if open {
        open_browser(&url);
    }
    let code = wait_for_code(&listener, &state, &issuer.metadata.issuer).await?;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code.as_str()),
        ("redirect_uri", &redirect),
        ("code_verifier", &verifier),
    ];
    issuer.token(&form).await
}

fn random() -> anyhow::Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).context("no random bytes")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// A browser that cannot be opened is no failure: the URL has been told.
fn open_browser(url: &str) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let _ = Command::new(opener)
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
}

async fn wait_for_code(listener: &TcpListener, state: &str, issuer: &str) -> anyhow::Result<String> {
    let until = Instant::now() + WAIT_MAX;
    loop {
        let accepted = timeout_at(until, listener.accept()).await;
        let (mut stream, _) = accepted.context("nobody logged in in time; run the command again")??;
        // Whatever else knocks at the port is answered, and the browser waited for.
        let Ok(Ok(target)) = timeout(REQUEST_SPAN_MAX, request(&mut stream)).await else { continue };
        let Some(returned) = target.and_then(|target| Returned::read(&target, state, issuer)) else {
            let _ = answer(&mut stream, "404 Not Found", "There is nothing here.").await;
            continue;
        };
        match returned {
            Returned::Code(code) => {
                let _ = answer(&mut stream, "200 OK", DONE).await;
                return Ok(code);
            }
            Returned::Refusal(why) => {
                let _ = answer(&mut stream, "200 OK", "The login failed; see the terminal.").await;
                bail!("the issuer refuses: {why}");
            }
        }
    }
}

/// What the browser brings back.
#[derive(Debug, PartialEq, Eq)]
enum Returned {
    Code(String),
    Refusal(String),
}

impl Returned {
    /// Reads the target of a request; `None` when it is not the end of this login.
    fn read(target: &str, state: &str, issuer: &str) -> Option<Self> {
        let (path, query) = target.split_once('?')?;
        let value = |name: &str| {
            let mut found =
                query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| *key == name);
            let (_, value) = found.next()?;
            // A parameter that stands twice means nothing (RFC 6749, 3.1).
            let text = value.replace('+', " ");
            let text = percent_encoding::percent_decode_str(&text).decode_utf8().ok()?.into_owned();
            found.next().is_none().then_some(text)
        };
        if path != CALLBACK || value("state")? != state {
            return None;
        }
        if value("iss").is_some_and(|iss| iss != issuer) {
            return Some(Self::Refusal("the answer is of another issuer".to_owned()));
        }
        match (value("error"), value("code")) {
            (Some(error), _) => {
                let description = value("error_description").unwrap_or_default();
                Some(Self::Refusal(plain(&format!("{error} {description}"))))
            }
            (None, code) => code.map(Self::Code),
        }
    }
}

/// The target of a GET request; its head is read whole, so that the browser gets its answer.
async fn request(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    Ok(line.strip_prefix("GET ").and_then(|line| line.split(' ').next()).map(str::to_owned))
}

async fn answer(stream: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let page = format!("<!doctype html><meta charset=utf-8><title>doorward</title><p>{text}</p>\n");
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         Referrer-Policy: no-referrer\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(page.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_browser_may_bring() {
        let read = |target: &str| Returned::read(target, "s1", "https://idp.example");
        let code = |code: &str| Some(Returned::Code(code.to_owned()));
        let refusal = |why: &str| Some(Returned::Refusal(why.to_owned()));
        assert_eq!(read("/callback?code=a%2Fb&state=s1"), code("a/b"));
        assert_eq!(read("/callback?code=c&state=s1&iss=https%3A%2F%2Fidp.example"), code("c"));
        assert_eq!(
            read("/callback?code=c&state=s1&iss=https%3A%2F%2Fevil.example"),
            refusal("the answer is of another issuer")
        );
        let denied = "/callback?error=access_denied&error_description=not+you%0a%1b[31m&state=s1";
        assert_eq!(read(denied), refusal("access_denied not you[31m"));
        for target in [
            "/callback",
            "/callback?code=c",
            "/callback?code=c&state=s2",
            "/callback?code=c&state=s1&state=s1",
            "/callback?code=c&code=d&state=s1",
            "/callback?state=s1",
            "/other?code=c&state=s1",
            "/favicon.ico",
        ] {
            assert_eq!(read(target), None, "{target}");
        }
    }
}
