//! The single handler of every request on a data listener.
//!
//! Read [`Front::admit`], which opens the access before anything is examined, so that each request has a
//! record, and [`Front::handle`], which turns a panic of a handler into a 500 whose record stands already.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arc_swap::ArcSwap;
use doorward_core::{
    Access, AccessId, Actions, Answered, Arrival, BoxFuture, Call, Caller, ClientCertificate, Completion,
    Credentials, Fault, Gateway, Pass, Principal, Refusal, Resource, Shaped, Timings, unknown_resource,
};
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, USER_AGENT, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, Request, Response};

use crate::body::{Body, RequestBody, full};
use crate::config::Limits;
use crate::gate::Violation;
use crate::problem::problem;
use crate::{baggage, codes, inbound};

const ACCESS_ID: HeaderName = HeaderName::from_static("doorward-access-id");

/// A protocol over HTTP. A resource names its door; the front finds it by that name.
pub trait HttpDoor: Send + Sync {
    /// Walks one call of this door: makes a [`Call`] of `inbound` and gives it, with `access`, to
    /// [`Gateway::walk`].
    fn serve<'a>(
        &'a self,
        gateway: &'a Gateway,
        resource: &'a Resource,
        access: Access,
        inbound: Inbound,
    ) -> BoxFuture<'a, Answered<Response<Body>>>;
}

/// What the gateway itself answers, beside its resources.
pub trait OwnPaths: Send + Sync {
    /// Answers one call: gives `access` to [`Gateway::attest`].
    fn serve<'a>(
        &'a self,
        gateway: &'a Gateway,
        access: Access,
        inbound: Inbound,
    ) -> BoxFuture<'a, Answered<Response<Body>>>;
}

/// A request as a door gets it: without credentials, hop-by-hop fields and identity-like headers.
#[derive(Debug)]
pub struct Inbound {
    /// The request; its target is still whole, `/RESOURCE/…`.
    pub request: Request<RequestBody>,
    /// What the caller showed.
    pub credentials: Credentials,
}

impl Inbound {
    /// The path behind the resource's name, without the slash between: `orders` of `/shop/orders`.
    pub fn tail(&self) -> &str {
        split_path(self.request.uri().path()).1
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The peer's address.
    pub address: Option<IpAddr>,
    /// Whether the transport hides tokens: TLS, or loopback.
    pub confidential: bool,
    /// The client certificate that the handshake verified.
    pub certificate: Option<ClientCertificate>,
}

/// A request that has been taken in: its access is open.
#[derive(Debug)]
pub struct Admitted {
    request: Request<RequestBody>,
    violation: Option<Violation>,
    access: Option<Access>,
}

/// The front: gateway, doors and bounds.
pub struct Front {
    gateway: Arc<Gateway>,
    doors: HashMap<&'static str, Arc<dyn HttpDoor>>,
    own: Option<(&'static str, Arc<dyn OwnPaths>)>,
    limits: ArcSwap<Limits>,
}

impl Front {
    /// Puts a front together; each door stands under the name that its resources give.
    pub fn new(
        gateway: Arc<Gateway>,
        doors: impl IntoIterator<Item = (&'static str, Arc<dyn HttpDoor>)>,
        limits: Limits,
    ) -> Self {
        let doors = doors.into_iter().collect();
        Self { gateway, doors, own: None, limits: ArcSwap::from_pointee(limits) }
    }

    /// Answers what is below `segment` itself. No resource can have that name.
    #[must_use]
    pub fn with_own(self, segment: &'static str, own: Arc<dyn OwnPaths>) -> Self {
        Self { own: Some((segment, own)), ..self }
    }

    /// The bounds in force.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.load_full()
    }

    /// Swaps in new bounds; connections that are open keep the framing bounds that they began with.
    pub fn set_limits(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }

    /// Takes in one request: opens its access. This is no future, because hyper may drop a future of a
    /// caller who has hung up before it was ever polled; the record is there all the same. `violation` is
    /// what the gate found in the request's place.
    pub fn admit(
        &self,
        peer: &Peer,
        request: Request<RequestBody>,
        violation: Option<Violation>,
    ) -> Admitted {
        // The listener's own sign of life is no governed call: it says one constant word to anybody.
        let governed = violation.is_some() || !inbound::is_health_check(&request);
        let access = governed.then(|| {
            let (headers, limits) = (request.headers(), self.limits.load());
            self.gateway.open(Arrival {
                door: "http",
                source_ip: inbound::source_ip(headers, peer.address, &limits),
                confidential: inbound::confidential(headers, peer, &limits),
            })
        });
        Admitted { request, violation, access }
    }

    /// Answers a request that was taken in.
    pub async fn handle(&self, peer: &Peer, admitted: Admitted) -> Response<Body> {
        let Admitted { request, violation, access } = admitted;
        let Some(access) = access else { return Response::new(full("ok\n")) };
        let limits = self.limits.load();
        let id = access.id();
        let answer = AssertUnwindSafe(self.answer(access, peer, request, violation, &limits));
        let mut response = match answer.catch_unwind().await {
            Ok(answered) => answered.into_inner(),
            Err(_) => panicked(id),
        };
        finish(&mut response, id);
        response
    }

    /// The cheap refusals first: form, then host and path, then which resource; its door does the rest.
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn keeps its arguments twice, which every request copies"
    )]
    fn answer<'a>(
        &'a self,
        mut access: Access,
        peer: &'a Peer,
        request: Request<RequestBody>,
        violation: Option<Violation>,
        limits: &'a Limits,
    ) -> impl Future<Output = Answered<Response<Body>>> + Send + 'a {
        async move {
            // A message that was not understood shows no credentials that could be believed.
            if let Some(violation) = violation {
                let turned = Turned::away(Credentials::None, violation.fault());
                return self.turn(access, turned).await;
            }
            note_head(&mut access, &request);
            let checked = inbound::check_message(&request, limits);
            let (mut head, body) = request.into_parts();
            let query = head.uri.query();
            let credentials = inbound::take_credentials(&mut head.headers, query, peer.certificate.as_ref());
            inbound::strip(&mut head.headers);
            // What goes on from here stands below this call in the trace.
            inbound::put_traceparent(&mut head.headers, &access.trace());
            if let Err(violation) = checked {
                return self.turn(access, Turned::away(credentials, violation.fault())).await;
            }
            let snapshot = access.snapshot().clone();
            let (name, _) = split_path(head.uri.path());
            if let Some((_, own)) = self.own.as_ref().filter(|(segment, _)| *segment == name) {
                let inbound = Inbound { request: Request::from_parts(head, body), credentials };
                return own.serve(&self.gateway, access, inbound).await;
            }
            let Some(resource) = snapshot.resource(name) else {
                let turned = Turned::known(credentials, unknown_resource(name));
                return self.turn(access, turned).await;
            };
            let Some(door) = self.doors.get(resource.door) else {
                let fault =
                    Fault::new(codes::NO_HTTP_DOOR, format!("the resource {name:?} is not served over HTTP"))
                        .hint("Use the protocol of the resource's own door.");
                return self.turn(access, Turned::known(credentials, fault)).await;
            };
            access.at_door(resource.door);
            let inbound = Inbound { request: Request::from_parts(head, body), credentials };
            door.serve(&self.gateway, resource, access, inbound).await
        }
    }

    /// Walks a call that ends before a door. Boxed: every request's future would have room for it.
    fn turn(&self, access: Access, turned: Turned) -> BoxFuture<'_, Answered<Response<Body>>> {
        Box::pin(self.gateway.walk(access, turned))
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("doors", &self.doors.keys()).finish_non_exhaustive()
    }
}

/// A call that ends before a door: it walks the road all the same, for its name and its record.
struct Turned {
    credentials: Credentials,
    fault: Option<Fault>,
    known_only: bool,
}

impl Turned {
    /// Refuses anybody.
    fn away(credentials: Credentials, fault: Fault) -> Self {
        Self { credentials, fault: Some(fault), known_only: false }
    }

    /// Gives the reason to those who say who they are; others are asked who they are.
    fn known(credentials: Credentials, fault: Fault) -> Self {
        Self { credentials, fault: Some(fault), known_only: true }
    }
}

impl Call for Turned {
    type Answer = Response<Body>;
    type Reply = Infallible;

    fn caller(&self) -> Caller<'_> {
        Caller::Credentials(&self.credentials)
    }

    async fn decode(&mut self, _: &mut Access, principal: &Arc<Principal>) -> Result<Actions, Fault> {
        if self.known_only && !principal.authenticated() {
            return Err(Fault::new(codes::CREDENTIALS_MISSING, "this call shows no credentials")
                .hint("Send Authorization: Bearer TOKEN."));
        }
        Err(self.fault.take().unwrap_or_else(lost))
    }

    async fn forward(&mut self, _: &mut Pass) -> Result<Infallible, Fault> {
        Err(lost())
    }

    fn shape(&mut self, reply: Infallible, _: &mut Pass) -> Result<Shaped<Self::Answer>, Fault> {
        match reply {}
    }

    fn refuse(&mut self, refusal: &Refusal<'_>) -> (Self::Answer, Completion) {
        problem(refusal)
    }
}

fn lost() -> Fault {
    Fault::new(doorward_core::codes::PANIC, "the gateway failed while it worked on this call")
}

fn panicked(access_id: AccessId) -> Response<Body> {
    let fault = lost();
    problem(&Refusal { fault: &fault, access_id, timings: Timings::default() }).0
}

fn note_head(access: &mut Access, request: &Request<RequestBody>) {
    if let Some(text) = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok()) {
        access.note_user_agent(text);
    }
    if let Some(parent) = inbound::traceparent(request.headers()) {
        access.join_trace(parent);
    }
    if let Some(task) = baggage::task(request.headers()) {
        access.note_task(task);
    }
}

/// What every answer has. Answers may depend on who asks, so caches keep none unless the door says so.
fn finish(response: &mut Response<Body>, id: AccessId) {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id.write(&mut [0; AccessId::TEXT_BYTES])) {
        headers.insert(ACCESS_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// The first segment, and what follows its slash.
fn split_path(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.split_once('/').unwrap_or((path, ""))
}
