//! Over real sockets: an issuer that listens on this machine, as in development and in the demo.

use std::sync::Arc;

use bytes::Bytes;
use doorward_core::BoxFuture;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::*;
use crate::{Fetch, FetchError, FetchRequest, Fetched, KeySources};

/// As much of an HTTP client as the test's own server needs.
struct Sockets;

impl Fetch for Sockets {
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'_, Result<Fetched, FetchError>> {
        Box::pin(async move {
            let exchange = async {
                let uri: http::Uri = request.url.parse().unwrap();
                let mut stream = TcpStream::connect(uri.authority().unwrap().as_str()).await?;
                let head = format!("GET {} HTTP/1.0\r\n\r\n", uri.path());
                stream.write_all(head.as_bytes()).await?;
                let mut answer = String::new();
                stream.take(request.body_bytes_max as u64).read_to_string(&mut answer).await?;
                std::io::Result::Ok(answer)
            };
            let answer = exchange.await.map_err(|error| FetchError(error.to_string()))?;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            Ok(Fetched {
                status: head[9..12].parse().unwrap(),
                content_type: Some("application/json".into()),
                cache_control: None,
                body: Bytes::copy_from_slice(body.as_bytes()),
            })
        })
    }
}

async fn serve(listener: TcpListener, keys: String) {
    let origin = format!("http://{}", listener.local_addr().unwrap());
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let read = stream.read(&mut request).await.unwrap();
        let request = std::str::from_utf8(&request[..read]).unwrap();
        let (status, body) = match request.split(' ').nth(1).unwrap() {
            "/.well-known/openid-configuration" => {
                (200, json!({"issuer": origin, "jwks_uri": format!("{origin}/jwks")}).to_string())
            }
            "/jwks" => (200, keys.clone()),
            _ => (404, String::new()),
        };
        let answer = format!("HTTP/1.0 {status} X\r\nContent-Type: application/json\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn an_issuer_on_this_machine_is_trusted_over_plain_http() {
    let key = Signer::p256("k1");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(serve(listener, json!({"keys": [key.jwk()]}).to_string()));
    let sources = KeySources::new(Arc::new(Sockets));
    let identity = identity(&YAML.replace("https://idp.example", &origin), &sources);
    let token = key.token("ES256", &claims_with(json!({"iss": origin})));
    assert_eq!(outcome(&identity, &token).await, "ok ann");
    // What was fetched serves on when the issuer has gone.
    server.abort();
    let other = key.token("ES256", &claims_with(json!({"iss": origin, "sub": "bob"})));
    assert_eq!(outcome(&identity, &other).await, "ok bob");
}
