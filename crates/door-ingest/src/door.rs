//! The door as the HTTP front knows it.

use doorward_core::{Access, Answered, BoxFuture, Gateway, Resource};
use doorward_http::{Body, HttpDoor, Inbound};
use http::Response;

use crate::call::IngestCall;

/// The ingest door. Its resources are of the type [`IngestResource`](crate::IngestResource).
#[derive(Clone, Copy, Debug, Default)]
pub struct IngestDoor;

impl HttpDoor for IngestDoor {
    fn serve<'a>(
        &'a self,
        gateway: &'a Gateway,
        resource: &'a Resource,
        access: Access,
        inbound: Inbound,
    ) -> BoxFuture<'a, Answered<Response<Body>>> {
        Box::pin(gateway.walk(access, IngestCall::new(resource, inbound, gateway.now())))
    }
}
