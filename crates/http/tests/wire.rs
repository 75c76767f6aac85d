//! The listener, the gate and the front over real sockets: what is refused, in which words, and that each
//! request has exactly one record. The list of forms is that of the field page on smuggling.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use doorward_core::*;
use doorward_http::{
    Body, Front, HttpDoor, Inbound, Limits, Listener, RequestBody, bind, dress_answer, full, problem,
    read_body,
};
use http::{HeaderMap, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nothing more comes of a connection that has been silent for so long, however busy the machine is.
const QUIET: Duration = Duration::from_millis(1_500);

type Records = Arc<Mutex<Vec<AccessRecord>>>;

struct Organs;

impl Authenticator for Organs {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        _: &'a Arrival,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Arc<Principal>, Fault>> {
        Box::pin(async move {
            match credentials {
                Credentials::Malformed(why) => Err(Fault::new(UNREADABLE, *why)),
                Credentials::None => Ok(Arc::new(Principal::public())),
                _ => Ok(Arc::new(Principal { kind: PrincipalKind::User, ..Principal::public() })),
            }
        })
    }

    fn stands(&self, _: &Principal, _: Timestamp) -> Result<(), Fault> {
        Ok(())
    }
}

doorward_core::codes! {
    UNREADABLE = "authenticate.test", Authenticate, Unauthenticated, Client, retry false, "no";
}

impl Policy for Organs {
    fn decide(&self, _: &Case<'_>) -> Decision {
        Decision::Allow { grant: GrantName::new("all"), obligations: Obligations::default() }
    }

    fn admit(&self, permit: &Permit, _: Timestamp) -> Result<Option<Allowance>, Fault> {
        let (name, window) = (permit.grant().clone(), Duration::from_secs(60));
        Ok(Some(Allowance { name, quota: 100, window, remaining: 50, reset: Duration::from_secs(30) }))
    }
}

impl Lessor for Organs {
    fn lend<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Fault>> {
        Box::pin(async move { Ok(Lease::new(permit, LeaseId::fresh(), None)) })
    }
}

impl Observer for Organs {
    fn completed(&self, _: &AccessRecord) {}
}

struct Spool(Records);

impl Recorder for Spool {
    fn reserve(&self) -> Option<Box<dyn Slot>> {
        Some(Box::new(Place(self.0.clone())))
    }

    fn lost(&self, _: &AccessRecord) {
        panic!("there is always room");
    }
}

struct Place(Records);

impl Slot for Place {
    fn intent(&mut self, _: &AccessRecord) -> Durable {
        Box::pin(async { Ok(()) })
    }

    /// A record takes its time, as on a real disk: an answer must wait for it and still arrive.
    fn complete(self: Box<Self>, record: Box<AccessRecord>) -> Durable {
        self.0.lock().unwrap().push(*record);
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Ok(())
        })
    }
}

/// Answers with what it was given: body, and the header fields that reached it.
struct Echo;

impl HttpDoor for Echo {
    fn serve<'a>(
        &'a self,
        gateway: &'a Gateway,
        _: &'a Resource,
        access: Access,
        inbound: Inbound,
    ) -> BoxFuture<'a, Answered<Response<Body>>> {
        let object = inbound.tail().to_owned();
        let (head, body) = inbound.request.into_parts();
        let call = EchoCall { object, headers: head.headers, body, credentials: inbound.credentials };
        Box::pin(gateway.walk(access, call))
    }
}

struct EchoCall {
    object: String,
    headers: HeaderMap,
    body: RequestBody,
    credentials: Credentials,
}

impl Call for EchoCall {
    type Answer = Response<Body>;
    type Reply = String;

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.credentials)
    }

    async fn decode(&mut self, _: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        Ok(Actions::one(Action {
            verb: Verb::Read,
            resource: ResourceName::new("shop"),
            object: Object::from_segments([self.object.as_str()]),
        }))
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<String, Fault> {
        match self.object.as_str() {
            "panic" => panic!("a defect"),
            "never" => pending::<()>().await,
            "slow" => tokio::time::sleep(Duration::from_millis(300)).await,
            _ => {}
        }
        let body = read_body(&mut self.body, 1_000).await?;
        let mut names: Vec<_> = self.headers.keys().map(|name| name.as_str()).collect();
        names.sort_unstable();
        Ok(format!("[{}] {}", names.join(" "), String::from_utf8_lossy(&body)))
    }

    fn shape(&mut self, reply: String, pass: &mut Pass) -> Result<Shaped<Self::Answer>, Fault> {
        let mut response = Response::new(full(reply));
        dress_answer(response.headers_mut(), pass);
        Ok(Shaped::Whole(response, Completion { status: Some(200), ..Completion::default() }))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Self::Answer, Completion) {
        problem(refusal)
    }
}

struct Site {
    address: SocketAddr,
    records: Records,
    listener: Listener,
}

impl Site {
    async fn start(limits: Limits) -> Self {
        let records = Records::default();
        let organs = Arc::new(Organs);
        let name = ResourceName::new("shop");
        let resource = Resource {
            name: name.clone(),
            door: "echo",
            audit: AuditMode::Required,
            backend: Arc::new(()),
            beside: None,
        };
        let snapshot = Snapshot {
            digest: ConfigDigest::new("sha256:0"),
            environment: "test".into(),
            authenticator: organs.clone(),
            policy: organs.clone(),
            lessor: organs.clone(),
            redactor: Arc::new(doorward_redact::Redactor::default()),
            resources: [(name, resource)].into_iter().collect(),
            deadlines: Deadlines::default(),
        };
        let spool = Arc::new(Spool(records.clone()));
        let gateway = Gateway::new(Arc::new(snapshot), spool, organs, Arc::new(SystemClock));
        let door: Arc<dyn HttpDoor> = Arc::new(Echo);
        let front = Front::new(Arc::new(gateway), [("echo", door)], limits);
        let tcp = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = tcp.local_addr().unwrap();
        Self { address, records, listener: Listener::start(tcp, Arc::new(front), None) }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the connection ends, or nothing more has come for a while.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        hear(&mut stream).await
    }

    /// One word for each record: `400 accept.bad-host`, or `200 -`.
    fn records(&self) -> Vec<String> {
        let records = self.records.lock().unwrap();
        let word = |record: &AccessRecord| {
            let status = record.status.map_or("-".to_owned(), |status| status.to_string());
            let code = record.fault.as_ref().map_or("-", |fault| fault.code);
            format!("{status} {code} {}", record.outcome.as_str())
        };
        records.iter().map(word).collect()
    }

    async fn record_count(&self, count: usize) {
        for _ in 0..3_000 {
            if self.records.lock().unwrap().len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{count} records were expected: {:?}", self.records());
    }
}

async fn hear(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let mut space = [0; 4096];
    while let Ok(Ok(count)) = tokio::time::timeout(QUIET, stream.read(&mut space)).await {
        if count == 0 {
            break;
        }
        heard.extend_from_slice(&space[..count]);
    }
    String::from_utf8_lossy(&heard).into_owned()
}

fn statuses(heard: &str) -> Vec<&str> {
    heard.match_indices("HTTP/1.1 ").map(|(at, _)| &heard[at + 9..at + 12]).collect()
}

/// Each form alone: refused with this status and code, one record, connection closed; and what is smuggled
/// behind it is not answered.
#[tokio::test]
async fn refuses_each_smuggling_form() {
    let long = "x".repeat(9_000);
    let fields: String = (0..110).map(|n| format!("X-{n}: 1\r\n")).collect();
    let big: String = (0..90).map(|n| format!("X-{n}: {}\r\n", "y".repeat(900))).collect();
    let h = "Host: gw\r\n";
    let bad = "400 accept.malformed-message";
    let forms: Vec<(&str, String, &str)> = vec![
        (
            "CL and TE",
            format!(
                "POST /shop/a HTTP/1.1\r\n{h}Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            bad,
        ),
        (
            "CL twice, equal",
            format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
            bad,
        ),
        (
            "CL twice, other",
            format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
            bad,
        ),
        ("CL list", format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length: 3, 3\r\n\r\nxxx"), bad),
        ("CL plus", format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length: +3\r\n\r\nxxx"), bad),
        ("CL hex", format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length: 0x3\r\n\r\nxxx"), bad),
        ("CL huge", format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length: 99999999999999999999\r\n\r\n"), bad),
        ("CL empty", format!("POST /shop/a HTTP/1.1\r\n{h}Content-Length:\r\n\r\n"), bad),
        (
            "TE twice",
            format!(
                "POST /shop/a HTTP/1.1\r\n{h}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            bad,
        ),
        (
            "TE list",
            format!("POST /shop/a HTTP/1.1\r\n{h}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
            bad,
        ),
        ("TE identity", format!("POST /shop/a HTTP/1.1\r\n{h}Transfer-Encoding: identity\r\n\r\n"), bad),
        (
            "TE in 1.0",
            format!("POST /shop/a HTTP/1.0\r\n{h}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            bad,
        ),
        ("no Host", "GET /shop/a HTTP/1.1\r\n\r\n".into(), "400 accept.bad-host"),
        ("two Hosts", format!("GET /shop/a HTTP/1.1\r\n{h}{h}\r\n"), "400 accept.bad-host"),
        ("list of Hosts", "GET /shop/a HTTP/1.1\r\nHost: a, b\r\n\r\n".into(), "400 accept.bad-host"),
        ("user in Host", "GET /shop/a HTTP/1.1\r\nHost: me@gw\r\n\r\n".into(), "400 accept.bad-host"),
        ("other authority", format!("GET http://other/shop/a HTTP/1.1\r\n{h}\r\n"), "400 accept.bad-host"),
        ("user in target", format!("GET http://me@gw/shop/a HTTP/1.1\r\n{h}\r\n"), "400 accept.bad-host"),
        ("fragment", format!("GET /shop/a#b HTTP/1.1\r\n{h}\r\n"), "400 accept.bad-target"),
        ("authority form", format!("GET gw:80 HTTP/1.1\r\n{h}\r\n"), "400 accept.bad-target"),
        ("odd character", format!("GET /shop/<a> HTTP/1.1\r\n{h}\r\n"), "400 accept.bad-target"),
        ("obs-fold", format!("GET /shop/a HTTP/1.1\r\n{h}X-A: 1\r\n 2\r\n\r\n"), bad),
        ("bare LF", "GET /shop/a HTTP/1.1\nHost: gw\n\n".into(), bad),
        ("one bare LF", format!("GET /shop/a HTTP/1.1\r\n{h}X-A: 1\nX-B: 2\r\n\r\n"), bad),
        ("NUL in value", format!("GET /shop/a HTTP/1.1\r\n{h}X-A: a\0b\r\n\r\n"), bad),
        ("CR in value", format!("GET /shop/a HTTP/1.1\r\n{h}X-A: a\rb\r\n\r\n"), bad),
        ("space before colon", format!("GET /shop/a HTTP/1.1\r\n{h}Content-Length : 3\r\n\r\nxxx"), bad),
        ("space in name", format!("GET /shop/a HTTP/1.1\r\n{h}X A: 3\r\n\r\n"), bad),
        ("two spaces", format!("GET  /shop/a HTTP/1.1\r\n{h}\r\n"), bad),
        ("line ends alone", "\r\n\r\n\r\n\r\n".into(), bad),
        ("unknown method", format!("BREW /shop/a HTTP/1.1\r\n{h}\r\n"), "501 accept.method-unknown"),
        ("CONNECT", "CONNECT gw:80 HTTP/1.1\r\nHost: gw:80\r\n\r\n".into(), "501 accept.method-unknown"),
        ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), "505 accept.version-unsupported"),
        ("long target", format!("GET /shop/{long} HTTP/1.1\r\n{h}\r\n"), "414 accept.uri-too-long"),
        ("many fields", format!("GET /shop/a HTTP/1.1\r\n{h}{fields}\r\n"), "431 accept.head-too-large"),
        ("large head", format!("GET /shop/a HTTP/1.1\r\n{h}{big}\r\n"), "431 accept.head-too-large"),
    ];
    for (form, bytes, expected) in forms {
        let site = Site::start(Limits::default()).await;
        let heard = site.say(format!("{bytes}GET /shop/smuggled HTTP/1.1\r\n{h}\r\n").as_bytes()).await;
        let (status, code) = expected.split_once(' ').unwrap();
        assert_eq!(statuses(&heard), [status], "{form}: {heard}");
        assert!(heard.contains("application/problem+json"), "{form}: {heard}");
        assert!(heard.contains(&format!("\"code\":\"{code}\"")), "{form}: {heard}");
        assert_eq!(site.records(), [format!("{expected} denied")], "{form}");
    }
}

/// Refusals that need no framing: the connection may go on.
#[tokio::test]
async fn refuses_what_cannot_be_routed() {
    let cases = [
        ("/shop/../etc", "", "400 accept.bad-target"),
        ("/shop/%2e%2E/etc", "", "400 accept.bad-target"),
        ("/shop//a", "", "400 accept.bad-target"),
        ("/nowhere/a", "", "401 authenticate.credentials-missing"),
        ("/nowhere/a", "Authorization: Bearer t\r\n", "404 decode.unknown-resource"),
        ("/shop/a", "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "401 authenticate.test"),
        ("/shop/a", "Authorization: Basic YTpi\r\n", "401 authenticate.test"),
        ("/shop/a?access_token=t", "", "401 authenticate.test"),
    ];
    for (target, fields, expected) in cases {
        let site = Site::start(Limits::default()).await;
        let heard = site.say(format!("GET {target} HTTP/1.1\r\nHost: gw\r\n{fields}\r\n").as_bytes()).await;
        let (status, code) = expected.split_once(' ').unwrap();
        assert_eq!(statuses(&heard), [status], "{target} {fields}: {heard}");
        assert!(heard.contains(code), "{target} {fields}: {heard}");
        assert_eq!(heard.contains("www-authenticate: Bearer"), status == "401", "{heard}");
        assert_eq!(site.records(), [format!("{expected} denied")], "{target} {fields}");
    }
}

#[tokio::test]
async fn answers_and_dresses_what_is_clean() {
    let site = Site::start(Limits::default()).await;
    let heard = site
        .say(
            b"POST http://gw/shop/a HTTP/1.1\r\nHost: GW\r\nTransfer-Encoding: chunked\r\nConnection: close, x-hop\r\n\
              X-Hop: 1\r\nX-Forwarded-User: root\r\nX_Sub: root\r\nRemote-User: root\r\nX-Kept: 1\r\n\
              Authorization: Bearer t\r\napikey: t\r\n\
              traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n\
              5;x=y\r\nhello\r\n0\r\nT: 1\r\n\r\n",
        )
        .await;
    assert_eq!(statuses(&heard), ["200"], "{heard}");
    assert!(heard.ends_with("[host traceparent x-kept] hello"), "{heard}");
    for field in [
        "ratelimit: \"all\";r=50;t=30",
        "ratelimit-policy: \"all\";q=100;w=60",
        "server-timing: accept;dur=",
        "doorward-access-id: ",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
    ] {
        assert!(heard.contains(field), "{field}: {heard}");
    }
    let records = site.records.lock().unwrap();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].trace.parent_span_id, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
}

#[tokio::test]
async fn refuses_in_turn_behind_pipelined_requests() {
    let site = Site::start(Limits::default()).await;
    let one = "GET /shop/slow HTTP/1.1\r\nHost: gw\r\n\r\n";
    let heard = site.say(format!("{one}GET /shop/b HTTP/1.1\r\n\r\n{one}").as_bytes()).await;
    assert_eq!(statuses(&heard), ["200", "400"], "{heard}");
    assert_eq!(site.records(), ["200 - allowed", "400 accept.bad-host denied"]);
}

#[tokio::test]
async fn a_broken_or_large_body_is_refused() {
    let head = "POST /shop/a HTTP/1.1\r\nHost: gw\r\n";
    let cases = [
        (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX\r\n0\r\n\r\n"),
            "400 accept.malformed-message",
        ),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\nfg\r\nhello"), "400 accept.malformed-message"),
        (format!("{head}Transfer-Encoding: chunked\r\n\r\n5\nhello"), "400 accept.malformed-message"),
        (
            format!("{head}Transfer-Encoding: chunked\r\n\r\n1;{}", "e".repeat(300)),
            "400 accept.malformed-message",
        ),
        (format!("{head}Content-Length: 5000\r\n\r\n{}", "x".repeat(5_000)), "413 accept.body-too-large"),
        (format!("{head}Content-Length: 10\r\n\r\nx"), "408 accept.slow-client"),
    ];
    for (bytes, expected) in cases {
        let limits = Limits { stall_span_max: Duration::from_millis(150), ..Limits::default() };
        let site = Site::start(limits).await;
        let heard = site.say(bytes.as_bytes()).await;
        assert_eq!(statuses(&heard), [&expected[..3]], "{bytes}: {heard}");
        let outcome = if expected.starts_with("408") { "failed" } else { "denied" };
        assert_eq!(site.records(), [format!("{expected} {outcome}")], "{bytes}");
    }
}

#[tokio::test]
async fn a_slow_head_is_told_so_and_an_idle_connection_is_closed() {
    let limits = Limits {
        head_span_max: Duration::from_millis(150),
        idle_span_max: Duration::from_millis(300),
        ..Limits::default()
    };
    let site = Site::start(limits).await;
    let heard = site.say(b"GET /shop/a HTTP/1.1\r\nHo").await;
    assert_eq!(statuses(&heard), ["408"], "{heard}");
    assert_eq!(site.records(), ["408 accept.slow-client failed"]);

    let mut silent = site.connect().await;
    let mut space = [0; 16];
    let closed = tokio::time::timeout(Duration::from_secs(30), silent.read(&mut space)).await;
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    assert_eq!(site.records().len(), 1);
}

#[tokio::test]
async fn a_hang_up_is_recorded_as_abandoned() {
    let site = Site::start(Limits::default()).await;
    let mut stream = site.connect().await;
    stream.write_all(b"GET /shop/never HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(stream);
    site.record_count(1).await;
    assert_eq!(site.records(), ["- - abandoned"]);
}

#[tokio::test]
async fn a_panic_is_a_500_with_a_record() {
    let site = Site::start(Limits::default()).await;
    let one = "GET /shop/panic HTTP/1.1\r\nHost: gw\r\n\r\n";
    let heard = site.say(format!("{one}{}", one.replace("panic", "b")).as_bytes()).await;
    assert_eq!(statuses(&heard), ["500", "200"], "{heard}");
    assert_eq!(site.records(), ["- forward.internal failed", "200 - allowed"]);
}

#[tokio::test]
async fn health_is_answered_without_a_record() {
    let site = Site::start(Limits::default()).await;
    let heard = site.say(b"GET /healthz HTTP/1.1\r\nHost: gw\r\nConnection: close\r\n\r\n").await;
    assert_eq!(statuses(&heard), ["200"], "{heard}");
    assert!(site.records().is_empty());
}

#[tokio::test]
async fn connections_over_the_cap_are_closed_at_once() {
    let site = Site::start(Limits { connections_per_ip_max: 1, ..Limits::default() }).await;
    let mut first = site.connect().await;
    first.write_all(b"GET /shop/a HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    assert_eq!(statuses(&hear(&mut first).await), ["200"]);
    let mut second = site.connect().await;
    assert!(!matches!(second.read(&mut [0; 16]).await, Ok(1..)));
    assert_eq!(site.listener.connections().turned_away(), 1);
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_cuts_what_stays() {
    let site = Site::start(Limits::default()).await;
    let mut idle = site.connect().await;
    let mut slow = site.connect().await;
    slow.write_all(b"GET /shop/slow HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let (cut, heard, rest) =
        tokio::join!(site.listener.drain(Duration::from_secs(30)), hear(&mut slow), hear(&mut idle));
    assert_eq!((cut, statuses(&heard), rest.as_str()), (0, vec!["200"], ""));
    assert!(TcpStream::connect(site.address).await.is_err());

    let site = Site::start(Limits::default()).await;
    let mut stuck = site.connect().await;
    stuck.write_all(b"GET /shop/never HTTP/1.1\r\nHost: gw\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(site.listener.drain(Duration::from_millis(200)).await, 1);
    assert_eq!(site.records(), ["- - abandoned"]);
}
