//! The road serves a door that it has never heard of: one-shot calls, pipelined statements on one long
//! session, and streams. Each test says what a user or an auditor would notice.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why")]

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{AccessRecord, AuditMode, Clock, Gateway, Outcome, Verb};
use doorward_testkit::clock::FakeClock;
use doorward_testkit::echo::{self, DOOR, EchoBackend, LINE_BYTES_MAX};
use doorward_testkit::organs::{self, MemoryRecorder, Rules, Tokens};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};
use tokio::task::JoinHandle;

const SECOND: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// A gateway with the resources `shop` (records required) and `logs` (best effort), and one client that
/// is connected and has said hello with a token of 60 seconds.
struct Bed {
    gateway: Arc<Gateway>,
    tokens: Arc<Tokens>,
    recorder: MemoryRecorder,
    clock: Arc<FakeClock>,
    backend: Arc<EchoBackend>,
    client: BufReader<DuplexStream>,
    server: JoinHandle<()>,
}

impl Bed {
    async fn new() -> Self {
        Self::with_backend(EchoBackend::new()).await
    }

    async fn with_backend(backend: Arc<EchoBackend>) -> Self {
        let clock = Arc::new(FakeClock::at_present());
        let tokens = Tokens::new();
        tokens.know("t-ada", "ada", Some(clock.now().plus(60 * SECOND)));
        let recorder = MemoryRecorder::new();
        let snapshot = snapshot(&tokens, &Rules::allow_all(), &backend);
        let gateway = organs::gateway(snapshot, &recorder, clock.clone());
        let (client, server) = tokio::io::duplex(1024);
        let server = tokio::spawn(echo::serve(gateway.clone(), server));
        let client = BufReader::new(client);
        let mut bed = Self { gateway, tokens, recorder, clock, backend, client, server };
        assert_eq!(bed.ask("HELLO t-ada").await, "OK hello");
        assert_eq!(bed.ask("WRITE shop/orders first").await, "OK 1");
        bed
    }

    fn swap(&self, rules: &Arc<Rules>) {
        self.gateway.swap(snapshot(&self.tokens, rules, &self.backend));
    }

    async fn send(&mut self, lines: &str) {
        self.client.get_mut().write_all(lines.as_bytes()).await.expect("the door reads");
    }

    async fn read(&mut self) -> String {
        let mut line = String::new();
        let read = self.client.read_line(&mut line);
        tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").expect("an answer");
        line.trim_end().to_owned()
    }

    async fn ask(&mut self, line: &str) -> String {
        self.send(&format!("{line}\n")).await;
        self.read().await
    }

    /// Hangs up, and returns all records of the connection.
    async fn records(self) -> Vec<AccessRecord> {
        drop(self.client);
        // A handler that panics ends its task with an error.
        let _ = tokio::time::timeout(PATIENCE, self.server).await.expect("the door lets go");
        assert_eq!(self.recorder.reserved(), 0, "every place is used or freed");
        self.recorder.records()
    }
}

fn snapshot(
    tokens: &Arc<Tokens>,
    rules: &Arc<Rules>,
    backend: &Arc<EchoBackend>,
) -> Arc<doorward_core::Snapshot> {
    let resources = [("shop", AuditMode::Required), ("logs", AuditMode::BestEffort)];
    let resources = resources.map(|(name, audit)| organs::resource(name, DOOR, audit, backend.clone()));
    organs::snapshot(tokens, rules, resources.into())
}

fn outcomes(records: &[AccessRecord]) -> Vec<(String, Outcome)> {
    let label = |record: &AccessRecord| {
        let operation = record.operation.as_ref().map(|text| text.reveal().to_string());
        operation.unwrap_or_else(|| "malformed".to_owned())
    };
    records.iter().map(|record| (label(record), record.outcome)).collect()
}

fn pair(label: &str, outcome: Outcome) -> (String, Outcome) {
    (label.to_owned(), outcome)
}

#[tokio::test]
async fn every_line_is_one_record_whatever_it_says() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.ask("LIST shop").await, "OK orders");
    assert_eq!(bed.ask("READ shop/orders").await, "OK first");
    assert!(bed.ask("READ shop/none").await.starts_with("NO forward.echo-missing: "));
    assert!(bed.ask("READ nowhere/x").await.starts_with("NO decode.unknown-resource: "));
    assert!(bed.ask("DANCE shop/x").await.starts_with("NO decode.echo-malformed: "));
    assert!(bed.ask("HELLO t-ada").await.starts_with("NO decode.echo-malformed: "), "one hello a session");
    let records = bed.records().await;
    assert_eq!(
        outcomes(&records),
        [
            pair("login", Outcome::Allowed),
            pair("WRITE shop/orders", Outcome::Allowed),
            pair("LIST shop/", Outcome::Allowed),
            pair("READ shop/orders", Outcome::Allowed),
            pair("READ shop/none", Outcome::Denied),
            pair("READ nowhere/x", Outcome::Denied),
            pair("malformed", Outcome::Denied),
            pair("malformed", Outcome::Denied),
        ]
    );
    let session = records[0].session_id;
    assert!(session.is_some() && records.iter().all(|record| record.session_id == session));
    assert!(records.iter().all(|record| record.principal.is_some()), "with a name on each");
}

#[tokio::test]
async fn a_stranger_gets_nothing_but_a_record() {
    let bed = Bed::new().await;
    let (client, server) = tokio::io::duplex(1024);
    let before = bed.recorder.records().len();
    let door = tokio::spawn(echo::serve(bed.gateway.clone(), server));
    let mut client = BufReader::new(client);
    client.get_mut().write_all(b"READ shop/orders\nHELLO forged\n").await.unwrap();
    client.get_mut().shutdown().await.unwrap();
    let mut answers = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut client, &mut answers).await.unwrap();
    assert_eq!(answers.matches("NO authenticate.test-unknown-token").count(), 2, "{answers}");
    door.await.unwrap();
    let records = bed.recorder.records();
    assert_eq!(records.len() - before, 2);
    assert!(records[before..].iter().all(|record| record.outcome == Outcome::Denied));
    assert_eq!(bed.backend.forwarded(), ["WRITE shop/orders"], "nothing reached the backend");
}

#[tokio::test]
async fn lines_sent_at_once_are_forwarded_ahead_and_answered_in_order() {
    let mut bed = Bed::new().await;
    bed.backend.hold();
    bed.send("WRITE shop/a 1\nREAD shop/a\nDANCE\nSTREAM shop/a 2\n").await;
    // All are at the backend while no answer has left.
    let waits = async {
        while bed.backend.forwarded().len() < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("later lines are forwarded");
    let more = bed.backend.forwarded().split_off(1);
    assert_eq!(more, ["WRITE shop/a", "READ shop/a", "STREAM shop/a"]);
    bed.backend.let_go(3);
    assert_eq!(bed.read().await, "OK 1");
    assert_eq!(bed.read().await, "OK 1");
    assert!(bed.read().await.starts_with("NO decode.echo-malformed"));
    for expected in ["OK 1", "OK 1", "END"] {
        assert_eq!(bed.read().await, expected);
    }
    assert_eq!(bed.records().await.len(), 2 + 4);
}

#[tokio::test]
async fn a_refused_line_does_not_end_the_session() {
    let mut bed = Bed::new().await;
    bed.swap(&Rules::new("no-writes", |_, action| action.verb != Verb::Write));
    assert!(bed.ask("WRITE shop/orders second").await.starts_with("NO authorize.test-no-rule: "));
    assert_eq!(bed.ask("READ shop/orders").await, "OK first", "nothing was written");
    let records = bed.records().await;
    assert_eq!(records[2].outcome, Outcome::Denied);
    assert_eq!(records[3].rule.as_ref().unwrap().as_str(), "no-writes");
}

#[tokio::test]
async fn a_grant_that_is_taken_away_ends_at_the_next_line() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.ask("READ shop/orders").await, "OK first");
    bed.swap(&Rules::deny_all());
    assert!(bed.ask("READ shop/orders").await.starts_with("NO authorize.test-no-rule: "));
    bed.swap(&Rules::allow_all());
    assert_eq!(bed.ask("READ shop/orders").await, "OK first");
    bed.tokens.revoke_all();
    assert!(bed.read().await.starts_with("BYE authenticate.test-unknown-token: "), "though it says nothing");
    bed.records().await;
}

#[tokio::test]
async fn an_expired_session_ends_at_once_outside_a_transaction() {
    let mut bed = Bed::new().await;
    bed.clock.advance(60 * SECOND);
    assert!(bed.read().await.starts_with("BYE authenticate.session-expired: "));
    bed.records().await;
}

#[tokio::test]
async fn an_expired_session_may_finish_its_transaction() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.ask("BEGIN shop").await, "OK begin");
    bed.clock.advance(61 * SECOND);
    assert_eq!(bed.ask("WRITE shop/orders second").await, "OK 1", "within the grace");
    assert_eq!(bed.ask("COMMIT shop").await, "OK commit");
    assert!(bed.read().await.starts_with("BYE authenticate.session-expired: "), "at the boundary");
    assert!(bed.records().await.iter().all(|record| record.outcome == Outcome::Allowed));
}

#[tokio::test]
async fn the_hard_deadline_cuts_a_transaction_and_what_is_under_way() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.ask("BEGIN shop").await, "OK begin");
    bed.backend.hold();
    bed.send("READ shop/orders\n").await;
    let waits = async {
        while bed.backend.forwarded().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("it is forwarded");
    bed.clock.advance(90 * SECOND);
    let mut line = String::new();
    let end = tokio::time::timeout(PATIENCE, bed.client.read_line(&mut line)).await.expect("it is cut");
    assert!(end.unwrap() == 0 || line.starts_with("BYE "), "{line:?}");
    let records = bed.records().await;
    assert_eq!(records.len(), 4);
    let fault = records[3].fault.as_ref().expect("the cut call says why");
    assert_eq!(fault.code, "authenticate.session-expired");
}

#[tokio::test]
async fn a_hang_up_in_mid_stream_is_recorded_as_abandoned() {
    let mut bed = Bed::new().await;
    bed.send("STREAM shop/orders 100000\nREAD shop/orders\n").await;
    assert_eq!(bed.read().await, "OK first");
    let records = bed.records().await;
    let ends = outcomes(&records);
    assert_eq!(ends[2], pair("STREAM shop/orders", Outcome::Abandoned));
    assert!(ends[3..].iter().all(|(_, outcome)| *outcome == Outcome::Abandoned), "{ends:?}");
}

#[tokio::test]
async fn a_panic_in_the_handler_is_recorded_as_failed() {
    let backend = EchoBackend::with_hook(|label| assert!(!label.contains("boom"), "a defect"));
    let mut bed = Bed::with_backend(backend).await;
    bed.send("READ shop/boom\n").await;
    let records = bed.records().await;
    assert_eq!(outcomes(&records)[2], pair("READ shop/boom", Outcome::Failed));
    assert_eq!(records[2].fault.as_ref().unwrap().code, "forward.internal");
}

#[tokio::test]
async fn without_room_for_records_a_resource_that_requires_them_is_closed() {
    let mut bed = Bed::new().await;
    assert_eq!(bed.ask("WRITE logs/a 1").await, "OK 1");
    bed.recorder.set_full(true);
    for line in ["LIST shop", "READ shop/orders", "WRITE shop/orders second", "STREAM shop/orders 1"] {
        assert!(bed.ask(line).await.starts_with("NO record.unavailable: "), "{line}");
    }
    assert_eq!(bed.recorder.lost(), 4, "each refusal is counted");
    assert_eq!(bed.ask("READ logs/a").await, "OK 1", "best effort goes on");
    assert_eq!(bed.recorder.lost(), 5, "and counts what it drops");
    bed.recorder.set_full(false);
    assert_eq!(bed.ask("READ shop/orders").await, "OK first", "nothing was written");
    bed.records().await;
}

#[tokio::test]
async fn what_changes_or_streams_leaves_an_intent_before_it_is_forwarded() {
    let recorder = Arc::new(std::sync::OnceLock::<MemoryRecorder>::new());
    let seen = recorder.clone();
    // At the moment of each operation its intent must be there already.
    let backend = EchoBackend::with_hook(move |label| {
        let Some(recorder) = seen.get() else { return };
        let intents = recorder.intents();
        let last =
            intents.last().and_then(|record| record.operation.as_ref()).map(|text| text.reveal().to_string());
        let live = !label.starts_with("LIST");
        assert_eq!(last.as_deref() == Some(label), live, "{label}");
    });
    let mut bed = Bed::with_backend(backend).await;
    recorder.set(bed.recorder.clone()).expect("once");
    assert_eq!(bed.ask("WRITE shop/a text").await, "OK 1");
    assert_eq!(bed.ask("STREAM shop/a 1").await, "OK text");
    assert_eq!(bed.read().await, "END");
    assert_eq!(bed.ask("LIST shop").await, "OK a orders");
    let intents = bed.recorder.intents();
    let records = bed.records().await;
    assert!(records.iter().all(|record| record.outcome == Outcome::Allowed));
    for intent in &intents {
        assert!(records.iter().any(|record| record.access_id == intent.access_id), "each is completed");
        assert!(intent.principal.is_some() && intent.rule.is_some() && intent.lease_id.is_some());
    }
}

#[tokio::test]
async fn a_line_without_end_is_refused_and_the_connection_closed() {
    let mut bed = Bed::new().await;
    bed.send(&"x".repeat(LINE_BYTES_MAX + 1)).await;
    assert!(bed.read().await.starts_with("NO decode.echo-too-long: "));
    assert_eq!(bed.read().await, "", "closed");
    let records = bed.records().await;
    assert_eq!(records[2].fault.as_ref().unwrap().code, "decode.echo-too-long");
}
