//! The echo door: the smallest door that has all that a door can have, to prove that the road serves
//! any. It speaks lines, over any byte stream:
//!
//! | line | answer | on the road |
//! |---|---|---|
//! | `HELLO token` | `OK hello` | a login: opens the session |
//! | `LIST res` | `OK a b c` | one-shot: the record is durable before the answer leaves |
//! | `READ res/obj` | `OK text` | pipelined: answered in order, while later lines are forwarded |
//! | `WRITE res/obj text` | `OK 1` | pipelined, with an intent |
//! | `STREAM res/obj n` | `OK text` n times, `END` | streamed, with an intent |
//! | `BEGIN res`, `COMMIT res` | `OK begin`, `OK commit` | the transaction that a session's grace is for |
//!
//! A refusal is `NO code: text (id)`, and the session lives on; `BYE code: text` ends it.
//!
//! What a door costs can be read here: a [`Call`] (what a line means, how it is forwarded, how an answer
//! and a refusal look), and a loop that reads lines and walks them. Identity, grants, limits, leases,
//! records, intents and sessions come with the road. In the product it would be a crate of this shape,
//! and one line in the binary's table of doors.
//!
//! Invariants: at most [`PIPELINE_MAX`] answers wait, and no line is read while they do; a live answer
//! holds its [`Pass`], so a client that goes away leaves a record; whatever is under way at the session's
//! hard deadline is cut.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use doorward_core::{
    Access, Action, Actions, Arrival, Call, Caller, Completion, Credentials, Fault, Gateway, Lease, Object,
    Pass, Principal, Refusal, ResourceName, Secret, Session, Shaped, Stage, Standing, Timestamp, Verb,
    unknown_resource,
};
use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};

/// The door's name.
pub const DOOR: &str = "echo";
/// The longest line.
pub const LINE_BYTES_MAX: usize = 4_096;
/// The most answers that may wait to be written.
pub const PIPELINE_MAX: usize = 16;
/// The most lines of one stream.
pub const STREAM_LINES_MAX: u64 = 100_000;
/// How often a session that waits looks at the clock.
const TICK: Duration = Duration::from_millis(10);

/// The door's own fault codes.
pub mod codes {
    doorward_core::codes! {
        /// The line is none of the protocol's.
        MALFORMED = "decode.echo-malformed", Decode, Malformed, Client, retry false, "Not a line of the protocol";
        /// The line is too long.
        TOO_LONG = "decode.echo-too-long", Decode, TooLarge, Client, retry false, "The line is too long";
        /// The backend has no such object.
        MISSING = "forward.echo-missing", Forward, NotFound, Backend, retry false, "No such object";
    }
}

/// The backend behind the door: objects in memory. Tests hold its replies, see what reached it, and put
/// a hook before each operation.
pub struct EchoBackend {
    objects: Mutex<BTreeMap<String, String>>,
    forwarded: Mutex<Vec<String>>,
    replies: Arc<Semaphore>,
    hook: Box<dyn Fn(&str) + Send + Sync>,
}

impl EchoBackend {
    /// A backend that answers at once.
    pub fn new() -> Arc<Self> {
        Self::with_hook(|_| {})
    }

    /// A backend that calls `hook` with each operation before it does it.
    pub fn with_hook(hook: impl Fn(&str) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            objects: Mutex::default(),
            forwarded: Mutex::default(),
            replies: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            hook: Box::new(hook),
        })
    }

    /// Holds all further replies back until they are let go.
    pub fn hold(&self) {
        self.replies.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Lets this many replies go.
    pub fn let_go(&self, replies: usize) {
        self.replies.add_permits(replies);
    }

    /// The operations that reached the backend, in order.
    pub fn forwarded(&self) -> Vec<String> {
        self.forwarded.lock().clone()
    }

    /// Does the operation, under the lent credential; its reply comes later.
    fn submit(&self, _: &Lease, statement: &Statement) -> Reply {
        let label = statement.label();
        (self.hook)(&label);
        self.forwarded.lock().push(label);
        let mut objects = self.objects.lock();
        let found = |objects: &BTreeMap<String, String>| {
            let text = objects.get(&statement.object).cloned();
            text.ok_or_else(|| {
                Fault::new(codes::MISSING, format!("there is no object {:?}", statement.object))
            })
        };
        let result = match &statement.kind {
            Kind::List => Ok(objects.keys().cloned().collect::<Vec<_>>().join(" ")),
            Kind::Read | Kind::Stream(_) => found(&objects),
            Kind::Write(text) => {
                objects.insert(statement.object.clone(), text.clone());
                Ok("1".to_owned())
            }
            Kind::Begin => Ok("begin".to_owned()),
            Kind::Commit => Ok("commit".to_owned()),
        };
        Reply { result, gate: self.replies.clone() }
    }
}

impl std::fmt::Debug for EchoBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EchoBackend").finish_non_exhaustive()
    }
}

/// A reply on its way.
struct Reply {
    result: Result<String, Fault>,
    gate: Arc<Semaphore>,
}

impl Reply {
    async fn arrive(self) -> Result<String, Fault> {
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        self.result
    }
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    kind: Kind,
    resource: String,
    object: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    List,
    Read,
    Write(String),
    Stream(u64),
    Begin,
    Commit,
}

impl Statement {
    fn parse(line: &str) -> Result<Self, Fault> {
        let malformed = || {
            Fault::new(codes::MALFORMED, "this is not a line of the echo protocol")
                .hint("Say HELLO, LIST, READ, WRITE, STREAM, BEGIN or COMMIT.")
        };
        let (word, rest) = line.split_once(' ').ok_or_else(malformed)?;
        let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let (resource, object) = path.split_once('/').unwrap_or((path, ""));
        let kind = match (word, object.is_empty()) {
            ("LIST", true) => Kind::List,
            ("BEGIN", true) => Kind::Begin,
            ("COMMIT", true) => Kind::Commit,
            ("READ", false) => Kind::Read,
            ("WRITE", false) => Kind::Write(text.to_owned()),
            ("STREAM", false) => {
                let lines = text.parse().ok().filter(|lines| *lines <= STREAM_LINES_MAX);
                Kind::Stream(lines.ok_or_else(malformed)?)
            }
            _ => return Err(malformed()),
        };
        Ok(Self { kind, resource: resource.to_owned(), object: object.to_owned() })
    }

    fn action(&self) -> Action {
        let (verb, object) = match self.kind {
            Kind::List => (Verb::List, "objects"),
            // Transaction control changes nothing by itself; it comes with any right on the resource.
            Kind::Begin | Kind::Commit => (Verb::Read, "transaction"),
            Kind::Read | Kind::Stream(_) => (Verb::Read, self.object.as_str()),
            Kind::Write(_) => (Verb::Write, self.object.as_str()),
        };
        Action {
            verb,
            resource: ResourceName::new(self.resource.as_str()),
            object: Object::from_segments(object.split('/')),
        }
    }

    /// Whether later lines are forwarded while this one's answer is awaited.
    fn pipelined(&self) -> bool {
        matches!(self.kind, Kind::Read | Kind::Write(_) | Kind::Stream(_))
    }

    /// How records and tests name it; what is written stays out.
    fn label(&self) -> String {
        let word = match self.kind {
            Kind::List => "LIST",
            Kind::Read => "READ",
            Kind::Write(_) => "WRITE",
            Kind::Stream(_) => "STREAM",
            Kind::Begin => "BEGIN",
            Kind::Commit => "COMMIT",
        };
        format!("{word} {}/{}", self.resource, self.object)
    }
}

/// One line on its way down the road.
struct LineCall<'a> {
    caller: Caller<'a>,
    bytes: u64,
    line: Option<Result<String, Fault>>,
    statement: Option<Statement>,
}

/// What came back from the backend: the answer, or the promise of one.
enum Came {
    Text(String),
    Later(Reply),
}

/// An answer of the door.
enum Answer {
    Line(String),
    Transaction { open: bool, line: String },
    Live(Box<Live>),
}

/// An answer that lives on: it holds the pass until its last byte.
struct Live {
    pass: Pass,
    reply: Reply,
    lines: Option<u64>,
}

impl Call for LineCall<'_> {
    type Answer = Answer;
    type Reply = Came;

    fn caller(&self) -> Caller<'_> {
        match &self.caller {
            Caller::Credentials(credentials) => Caller::Credentials(credentials),
            Caller::Session { session, mid_transaction } => {
                Caller::Session { session, mid_transaction: *mid_transaction }
            }
        }
    }

    /// A pipelined answer is awaited by nobody on the road, so its intent stands before it is forwarded.
    fn streams(&self) -> bool {
        self.statement.as_ref().is_some_and(Statement::pipelined)
    }

    async fn decode(&mut self, access: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        access.count_in(self.bytes);
        let line = self.line.take().unwrap_or_else(|| Ok(String::new()))?;
        let statement = Statement::parse(&line)?;
        access.note_operation(statement.label(), None);
        let actions = Actions::one(statement.action());
        self.statement = Some(statement);
        Ok(actions)
    }

    async fn forward(&mut self, pass: &mut Pass) -> Result<Came, Fault> {
        let Some(statement) = &self.statement else { return Err(unknown_resource("")) };
        let snapshot = pass.access().snapshot().clone();
        let resource = snapshot.resource(&statement.resource);
        let backend = resource.and_then(|resource| resource.backend::<EchoBackend>());
        let backend = backend.ok_or_else(|| unknown_resource(&statement.resource))?;
        let reply = backend.submit(pass.lease(), statement);
        if statement.pipelined() { Ok(Came::Later(reply)) } else { Ok(Came::Text(reply.arrive().await?)) }
    }

    fn shape(&mut self, came: Came, _: &mut Pass) -> Result<Shaped<Answer>, Fault> {
        let kind = self.statement.as_ref().map(|statement| &statement.kind);
        let text = match came {
            Came::Text(text) => text,
            Came::Later(reply) => {
                let lines = match kind {
                    Some(Kind::Stream(lines)) => Some(*lines),
                    _ => None,
                };
                return Ok(Shaped::Live(Box::new(move |pass| {
                    Answer::Live(Box::new(Live { pass, reply, lines }))
                })));
            }
        };
        let line = format!("OK {text}");
        let completion = Completion { rows: Some(1), bytes_out: line.len() as u64, ..Completion::default() };
        let answer = match kind {
            Some(Kind::Begin) => Answer::Transaction { open: true, line },
            Some(Kind::Commit) => Answer::Transaction { open: false, line },
            _ => Answer::Line(line),
        };
        Ok(Shaped::Whole(answer, completion))
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Answer, Completion) {
        let line = format!("NO {} ({})", refusal.fault, refusal.access_id);
        let completion = Completion { bytes_out: line.len() as u64, ..Completion::default() };
        (Answer::Line(line), completion)
    }
}

/// Serves one connection until its client goes, its session ends, or it says what cannot be followed.
pub async fn serve(gateway: Arc<Gateway>, stream: impl AsyncRead + AsyncWrite + Send) {
    let (input, output) = tokio::io::split(stream);
    let (queue, answers) = mpsc::channel(PIPELINE_MAX);
    let reader = async {
        let lines = Lines { input: BufReader::new(input), partial: Vec::new() };
        let connection = Connection { gateway: &gateway, queue, session: None, mid_transaction: false };
        connection.run(lines).await;
    };
    let writer = write_answers(&gateway, output, answers);
    tokio::pin!(reader, writer);
    tokio::select! {
        // The client is gone: what waits in the queue is dropped, and so recorded as abandoned.
        _ = &mut writer => {}
        // A client that has said all may still read its answers.
        () = &mut reader => { let _ = writer.await; }
    }
}

/// Lines of a bounded length; may be dropped in mid-line without losing any of it.
struct Lines<R> {
    input: BufReader<R>,
    partial: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The next line; `None` at the end. A line that is too long or no text is a fault.
    async fn next(&mut self) -> Option<Result<String, Fault>> {
        loop {
            let chunk = self.input.fill_buf().await.ok().filter(|chunk| !chunk.is_empty())?;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(chunk.len());
            self.partial.extend(chunk.iter().take(taken));
            self.input.consume(end.map_or(taken, |end| end + 1));
            if self.partial.len() > LINE_BYTES_MAX {
                let text = format!("the line is longer than {LINE_BYTES_MAX} bytes");
                return Some(Err(Fault::new(codes::TOO_LONG, text)));
            }
            if end.is_some() {
                let line = String::from_utf8(std::mem::take(&mut self.partial));
                return Some(line.map_err(|_| Fault::new(codes::MALFORMED, "the line is not UTF-8")));
            }
        }
    }
}

/// The reading half of a connection.
struct Connection<'a> {
    gateway: &'a Gateway,
    queue: mpsc::Sender<Answer>,
    session: Option<Session>,
    mid_transaction: bool,
}

impl Connection<'_> {
    async fn run<R: AsyncRead + Unpin>(mut self, mut lines: Lines<R>) {
        loop {
            let line = tokio::select! {
                biased;
                line = lines.next() => line,
                fault = self.over() => return self.bye(&fault).await,
            };
            let Some(line) = line else { return };
            let followable = !matches!(&line, Err(fault) if fault.code() == codes::TOO_LONG);
            if self.follow(line).await.is_err() || !followable {
                return;
            }
            if let Some(fault) = self.fault_now() {
                return self.bye(&fault).await;
            }
        }
    }

    /// Walks one line, and queues its answer. `Err` when nobody reads answers any more.
    async fn follow(&mut self, line: Result<String, Fault>) -> Result<(), mpsc::error::SendError<Answer>> {
        // The place of the record stands before the line is looked at.
        let arrival = Arrival { door: DOOR, source_ip: None, confidential: true };
        let access = self.gateway.open(arrival);
        let hello = line.as_ref().ok().and_then(|line| line.strip_prefix("HELLO "));
        let answer = match (hello, &self.session) {
            (Some(token), None) => {
                let credentials = Credentials::Bearer(Secret::from(token));
                self.login(access, &credentials).await
            }
            _ => self.walk(access, line).await,
        };
        if let Answer::Transaction { open, .. } = answer {
            self.mid_transaction = open;
        }
        self.queue.send(answer).await
    }

    async fn login(&mut self, access: Access, credentials: &Credentials) -> Answer {
        let id = access.id();
        match self.gateway.login(access, credentials).await {
            Ok(session) => {
                self.session = Some(session);
                Answer::Line("OK hello".to_owned())
            }
            Err(fault) => Answer::Line(format!("NO {fault} ({id})")),
        }
    }

    async fn walk(&self, access: Access, line: Result<String, Fault>) -> Answer {
        const STRANGER: &Credentials = &Credentials::Malformed("say HELLO first");
        let caller = match &self.session {
            Some(session) => Caller::Session { session, mid_transaction: self.mid_transaction },
            None => Caller::Credentials(STRANGER),
        };
        let bytes = line.as_ref().map_or(0, |line| line.len() as u64);
        let call = LineCall { caller, bytes, line: Some(line), statement: None };
        self.gateway.walk(access, call).await.into_inner()
    }

    /// Resolves when the session's time is over, though no line comes in.
    async fn over(&self) -> Fault {
        loop {
            if let Some(fault) = self.fault_now() {
                return fault;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn fault_now(&self) -> Option<Fault> {
        let snapshot = self.gateway.snapshot();
        let session = self.session.as_ref()?;
        match session.standing(&snapshot, self.gateway.now(), self.mid_transaction) {
            Standing::Live | Standing::Ending { .. } => None,
            Standing::Over(fault) => Some(fault),
        }
    }

    async fn bye(self, fault: &Fault) {
        // Nobody is left to tell when the writer is gone.
        let _ = self.queue.send(Answer::Line(format!("BYE {fault}"))).await;
    }
}

/// The writing half of a connection: answers in the order of their lines.
async fn write_answers<W: AsyncWrite + Unpin>(
    gateway: &Gateway,
    mut output: W,
    mut answers: mpsc::Receiver<Answer>,
) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        match answer {
            Answer::Line(line) | Answer::Transaction { line, .. } => write_line(&mut output, &line).await?,
            Answer::Live(live) => live.carry(gateway, &mut output).await?,
        }
    }
    output.shutdown().await
}

impl Live {
    /// Carries the answer to its last byte. An error, or being dropped, drops the pass: abandoned.
    async fn carry(self, gateway: &Gateway, output: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let Self { mut pass, reply, lines } = self;
        pass.access().enter(Stage::Shape);
        let grace = pass.access().snapshot().deadlines.session_grace;
        let cut_at = pass.expires_at().map(|at| at.plus(grace));
        let delivered = tokio::select! {
            delivered = deliver(reply, lines, output) => delivered?,
            () = reach(gateway, cut_at) => {
                let fault = Fault::new(doorward_core::codes::SESSION_EXPIRED, "the session's time is over");
                pass.fail(&fault);
                return Err(io::ErrorKind::TimedOut.into());
            }
        };
        match delivered {
            Ok(completion) => {
                pass.end(&completion);
                Ok(())
            }
            Err(fault) => {
                let line = format!("NO {fault} ({})", pass.id());
                pass.fail(&fault);
                write_line(output, &line).await
            }
        }
    }
}

async fn deliver(
    reply: Reply,
    lines: Option<u64>,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<Result<Completion, Fault>> {
    let text = match reply.arrive().await {
        Ok(text) => format!("OK {text}"),
        Err(fault) => return Ok(Err(fault)),
    };
    let rows = lines.unwrap_or(1);
    for _ in 0..rows {
        write_line(output, &text).await?;
    }
    if lines.is_some() {
        write_line(output, "END").await?;
    }
    let bytes_out = rows.saturating_mul(text.len() as u64);
    Ok(Ok(Completion { rows: Some(rows), bytes_out, ..Completion::default() }))
}

/// Resolves when the gateway's clock reaches `at`; never without one.
async fn reach(gateway: &Gateway, at: Option<Timestamp>) {
    let Some(at) = at else { return std::future::pending().await };
    while gateway.now() < at {
        tokio::time::sleep(TICK).await;
    }
}

async fn write_line(output: &mut (impl AsyncWrite + Unpin), line: &str) -> io::Result<()> {
    output.write_all(line.as_bytes()).await?;
    output.write_all(b"\n").await?;
    output.flush().await
}
