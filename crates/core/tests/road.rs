//! The road over small organs of its own: what it asks, in which order, and what it records.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::borrow::Cow;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use doorward_core::*;

/// Everything that happened, in order.
type Log = Arc<Mutex<Vec<String>>>;

struct Organs {
    log: Log,
    full: AtomicBool,
    broken: AtomicBool,
}

impl Authenticator for Organs {
    fn authenticate<'a>(
        &'a self,
        credentials: &'a Credentials,
        _: &'a Arrival,
        _: Timestamp,
    ) -> BoxFuture<'a, Result<Arc<Principal>, Fault>> {
        self.say("authenticate");
        Box::pin(async move {
            match credentials {
                Credentials::Malformed(why) => Err(Fault::new(UNAUTHENTICATED, *why)),
                _ => Ok(Arc::new(Principal {
                    expires_at: Some(Timestamp::from_seconds(100)),
                    ..Principal::public()
                })),
            }
        })
    }

    fn stands(&self, _: &Principal, _: Timestamp) -> Result<(), Fault> {
        Ok(())
    }
}

doorward_core::codes! {
    UNAUTHENTICATED = "authenticate.test", Authenticate, Unauthenticated, Client, retry false, "no";
    DENIED = "authorize.test", Authorize, Denied, Client, retry false, "no";
    LIMITED = "limit.test", Limit, Limited, Client, retry true, "no";
    BACKEND = "forward.test", Forward, Backend, Backend, retry false, "no";
}

impl Policy for Organs {
    fn decide(&self, case: &Case<'_>) -> Decision {
        self.say("decide");
        if case.actions.as_slice().iter().any(|action| action.object.as_str() == "secret") {
            return Decision::Deny(Fault::new(DENIED, "not for you"));
        }
        Decision::Allow { grant: GrantName::new("all"), obligations: Obligations::default() }
    }

    fn admit(&self, permit: &Permit, _: Timestamp) -> Result<Option<Allowance>, Fault> {
        self.say("admit");
        match permit.actions().as_slice()[0].object.as_str() {
            "busy" => Err(Fault::new(LIMITED, "slow down").retry_after(Duration::from_secs(1))),
            _ => Ok(None),
        }
    }
}

/// Knows one secret.
impl Redactor for Organs {
    fn redact<'a>(&self, _: Form, text: &'a str, _: usize) -> Cow<'a, str> {
        if text.contains("hunter2") { text.replace("hunter2", "***").into() } else { text.into() }
    }

    fn redact_json(&self, _: &str, value: &mut serde_json::Value) {
        if let serde_json::Value::String(text) = value {
            *text = text.replace("hunter2", "***");
        }
    }
}

impl Lessor for Organs {
    fn lend<'a>(&'a self, permit: &'a Permit) -> BoxFuture<'a, Result<Lease, Fault>> {
        self.say("lend");
        Box::pin(async move { Ok(Lease::new(permit, LeaseId::fresh(), None)) })
    }
}

struct Spool(Arc<Organs>);

impl Recorder for Spool {
    fn reserve(&self) -> Option<Box<dyn Slot>> {
        (!self.0.full.load(Ordering::Relaxed)).then(|| Box::new(Place(self.0.clone())) as Box<dyn Slot>)
    }

    fn lost(&self, record: &AccessRecord) {
        self.0.say(&format!("lost {}", record.outcome.as_str()));
    }
}

struct Place(Arc<Organs>);

impl Slot for Place {
    fn intent(&mut self, _: &AccessRecord) -> Durable {
        self.0.say("intent");
        self.0.durable()
    }

    fn complete(self: Box<Self>, record: Box<AccessRecord>) -> Durable {
        let code = record.fault.as_ref().map_or("-", |fault| fault.code);
        self.0.say(&format!("record {} {code}", record.outcome.as_str()));
        self.0.durable()
    }
}

impl Observer for Organs {
    fn completed(&self, _: &AccessRecord) {}
}

impl Organs {
    fn say(&self, what: &str) {
        self.log.lock().unwrap().push(what.to_owned());
    }

    fn durable(&self) -> Durable {
        let result = if self.broken.load(Ordering::Relaxed) { Err(NotDurable) } else { Ok(()) };
        Box::pin(async move { result })
    }
}

struct At(i64);

impl Clock for At {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.0)
    }
}

fn gateway(audit: AuditMode, now: i64) -> (Gateway, Arc<Organs>) {
    let organs = Arc::new(Organs { log: Log::default(), full: false.into(), broken: false.into() });
    let name = ResourceName::new("shop");
    let resource = Resource { name: name.clone(), door: "test", audit, backend: Arc::new(()), beside: None };
    let snapshot = Snapshot {
        digest: ConfigDigest::new("sha256:0"),
        environment: "test".into(),
        authenticator: organs.clone(),
        policy: organs.clone(),
        lessor: organs.clone(),
        redactor: organs.clone(),
        resources: [(name, resource)].into_iter().collect(),
        deadlines: Deadlines::default(),
    };
    let recorder = Arc::new(Spool(organs.clone()));
    (Gateway::new(Arc::new(snapshot), recorder, organs.clone(), Arc::new(At(now))), organs)
}

/// A call on `shop/OBJECT`, whose forwarding may go wrong in the way its object names.
struct Ask {
    credentials: Credentials,
    verb: Verb,
    object: &'static str,
    log: Log,
}

enum Said {
    Whole(&'static str),
    Refused(&'static str),
    Live(Box<Pass>),
}

impl Call for Ask {
    type Answer = Said;
    type Reply = ();

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.credentials)
    }

    fn streams(&self) -> bool {
        self.object == "stream"
    }

    async fn decode(&mut self, _: &mut Access, _: &Arc<Principal>) -> Result<Actions, Fault> {
        self.log.lock().unwrap().push("decode".into());
        let resource = if self.object == "elsewhere" { "nowhere" } else { "shop" };
        Ok(Actions::one(Action {
            verb: self.verb,
            resource: ResourceName::new(resource),
            object: Object::from_segments([self.object]),
        }))
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<(), Fault> {
        self.log.lock().unwrap().push("forward".into());
        match self.object {
            "boom" => panic!("the handler fails"),
            "fails" => Err(Fault::new(BACKEND, "the backend said no")),
            "hangs" => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn shape(&mut self, (): (), _: &mut Pass) -> Result<Shaped<Said>, Fault> {
        self.log.lock().unwrap().push("shape".into());
        Ok(match self.object {
            "stream" | "held" | "held, in pieces" => {
                Shaped::Live(Box::new(|pass| Said::Live(Box::new(pass))))
            }
            _ => Shaped::Whole(Said::Whole("rows"), Completion::default()),
        })
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Said, Completion) {
        (Said::Refused(refusal.fault.code().name), Completion::default())
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn walk(
    gateway: &Gateway,
    organs: &Organs,
    verb: Verb,
    object: &'static str,
    credentials: Credentials,
) -> String {
    let access = gateway.open(Arrival { door: "test", source_ip: None, confidential: true });
    let call = Ask { credentials, verb, object, log: organs.log.clone() };
    let answer = match poll(pin!(gateway.walk(access, call))) {
        Poll::Ready(answered) => match answered.into_inner() {
            Said::Whole(text) => text.to_owned(),
            Said::Refused(code) => format!("refused {code}"),
            Said::Live(mut pass) if object.starts_with("held") => {
                let first = if object == "held" { None } else { pass.begin_answer() };
                assert!(object == "held" || pass.begin_answer().is_none(), "one intent is enough");
                let last = pass.end_held(&Completion::default());
                let kept = |durable: Option<Durable>| match durable.map(|durable| poll(pin!(durable))) {
                    None => "not waited for",
                    Some(Poll::Ready(Ok(()))) => "durable",
                    Some(_) => "lost",
                };
                format!("begins {}, ends {}", kept(first), kept(last))
            }
            Said::Live(pass) => {
                organs.say("streaming");
                pass.end(&Completion::default());
                "streamed".to_owned()
            }
        },
        Poll::Pending => "hung up".to_owned(),
    };
    format!("{} => {answer}", organs.log.lock().unwrap().drain(..).collect::<Vec<_>>().join(", "))
}

fn check(verb: Verb, object: &'static str, expected: &str) {
    let (gateway, organs) = gateway(AuditMode::Required, 0);
    assert_eq!(walk(&gateway, &organs, verb, object, Credentials::None), expected);
}

#[test]
fn a_read_takes_each_stage_in_order_and_waits_for_its_record() {
    check(
        Verb::Read,
        "orders",
        "authenticate, decode, decide, admit, lend, forward, shape, record allowed - => rows",
    );
}

#[test]
fn a_write_and_a_stream_are_intended_before_they_are_forwarded() {
    check(
        Verb::Write,
        "orders",
        "authenticate, decode, decide, admit, lend, intent, forward, shape, record allowed - => rows",
    );
    check(
        Verb::Read,
        "stream",
        "authenticate, decode, decide, admit, lend, intent, forward, shape, streaming, record allowed - => streamed",
    );
}

#[test]
fn what_is_held_back_leaves_behind_its_record_or_its_intent() {
    let before = "authenticate, decode, decide, admit, lend, forward, shape";
    let whole = format!("{before}, record allowed - => begins not waited for, ends durable");
    check(Verb::Read, "held", &whole);
    let pieces = format!("{before}, intent, record allowed - => begins durable, ends not waited for");
    check(Verb::Read, "held, in pieces", &pieces);
    // What changes something is intended before it is forwarded, held back or not.
    check(
        Verb::Write,
        "held",
        "authenticate, decode, decide, admit, lend, intent, forward, shape, record allowed - => begins not waited for, ends not waited for",
    );
    let (gateway, organs) = gateway(AuditMode::BestEffort, 0);
    for object in ["held", "held, in pieces"] {
        let line = format!("{before}, record allowed - => begins not waited for, ends not waited for");
        assert_eq!(walk(&gateway, &organs, Verb::Read, object, Credentials::None), line);
    }
    let (gateway, organs) = self::gateway(AuditMode::Required, 0);
    organs.broken.store(true, Ordering::Relaxed);
    let lost = format!("{before}, record allowed - => begins not waited for, ends lost");
    assert_eq!(walk(&gateway, &organs, Verb::Read, "held", Credentials::None), lost);
}

#[test]
fn a_refusal_at_any_stage_is_one_record_and_nothing_behind_it_happens() {
    check(
        Verb::Read,
        "elsewhere",
        "authenticate, decode, record denied decode.unknown-resource => refused decode.unknown-resource",
    );
    check(
        Verb::Read,
        "secret",
        "authenticate, decode, decide, record denied authorize.test => refused authorize.test",
    );
    check(
        Verb::Read,
        "busy",
        "authenticate, decode, decide, admit, record limited limit.test => refused limit.test",
    );
    check(
        Verb::Read,
        "fails",
        "authenticate, decode, decide, admit, lend, forward, record failed forward.test => refused forward.test",
    );
    let (gateway, organs) = gateway(AuditMode::Required, 0);
    assert_eq!(
        walk(&gateway, &organs, Verb::Read, "orders", Credentials::Malformed("two headers")),
        "authenticate, record denied authenticate.test => refused authenticate.test"
    );
}

#[test]
fn a_caller_who_hangs_up_leaves_an_abandoned_record() {
    // The future is dropped while the backend works, as hyper drops it.
    check(
        Verb::Read,
        "hangs",
        "authenticate, decode, decide, admit, lend, forward, record abandoned - => hung up",
    );
}

#[test]
fn a_panic_in_a_handler_leaves_a_failed_record() {
    let (gateway, organs) = gateway(AuditMode::Required, 0);
    let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        walk(&gateway, &organs, Verb::Read, "boom", Credentials::None)
    }));
    assert!(walked.is_err());
    assert_eq!(organs.log.lock().unwrap().last().unwrap(), "record failed forward.internal");
}

#[test]
fn without_room_for_a_record_nothing_is_lent_unless_best_effort_says_so() {
    let (gateway, organs) = gateway(AuditMode::Required, 0);
    organs.full.store(true, Ordering::Relaxed);
    assert_eq!(
        walk(&gateway, &organs, Verb::Read, "orders", Credentials::None),
        "authenticate, decode, decide, admit, lost failed => refused record.unavailable"
    );
    let (gateway, organs) = self::gateway(AuditMode::BestEffort, 0);
    organs.full.store(true, Ordering::Relaxed);
    assert_eq!(
        walk(&gateway, &organs, Verb::Write, "orders", Credentials::None),
        "authenticate, decode, decide, admit, lend, forward, shape, lost allowed => rows"
    );
}

#[test]
fn what_was_read_does_not_leave_when_its_record_is_not_durable() {
    let (gateway, organs) = gateway(AuditMode::Required, 0);
    organs.broken.store(true, Ordering::Relaxed);
    assert_eq!(
        walk(&gateway, &organs, Verb::Read, "orders", Credentials::None),
        "authenticate, decode, decide, admit, lend, forward, shape, record allowed - => refused record.unavailable"
    );
    // A write whose intent is not durable is not forwarded at all.
    assert_eq!(
        walk(&gateway, &organs, Verb::Write, "orders", Credentials::None),
        "authenticate, decode, decide, admit, lend, intent, record failed record.unavailable => refused record.unavailable"
    );
}

#[test]
fn a_session_ends_at_expiry_or_at_the_end_of_its_grace() {
    let (gateway, _) = gateway(AuditMode::Required, 0);
    let access = gateway.open(Arrival { door: "test", source_ip: None, confidential: true });
    let Poll::Ready(Ok(session)) = poll(pin!(gateway.login(access, &Credentials::None))) else {
        panic!("the login is ready at once")
    };
    let standing =
        |second, mid| match session.standing(&gateway.snapshot(), Timestamp::from_seconds(second), mid) {
            Standing::Live => "live".to_owned(),
            Standing::Ending { until } => format!("until {}", until.seconds()),
            Standing::Over(fault) => fault.code().name.to_owned(),
        };
    assert_eq!(standing(99, false), "live");
    assert_eq!(standing(100, false), "authenticate.session-expired");
    assert_eq!(standing(100, true), "until 130");
    assert_eq!(standing(130, true), "authenticate.session-expired");
}

#[test]
fn a_segment_that_holds_a_slash_cannot_pass_for_two() {
    let object = Object::from_segments(["public", "a/b c#%*é"]);
    assert_eq!(object.as_str(), "public/a%2Fb%20c%23%25%2A%C3%A9");
}

#[test]
fn secrets_and_personal_values_do_not_print() {
    let secret: Secret = "hunter2".into();
    let personal: Personal = "ann@corp.example".into();
    assert_eq!(format!("{secret:?} {personal:?}"), "Secret(..) Personal(..)");
    assert!(!format!("{:?}", Credentials::Bearer(secret)).contains("hunter2"));
}
