//! The door as the HTTP front knows it.

use doorward_core::{Access, Answered, BoxFuture, Gateway, Resource};
use doorward_http::{Body, HttpDoor, Inbound};
use http::Response;

use crate::call::RestCall;

/// The REST door. Its resources are of the type [`RestResource`](crate::RestResource).
#[derive(Clone, Copy, Debug, Default)]
pub struct RestDoor;

impl HttpDoor for RestDoor {
    fn serve<'a>(
        &'a self,
        gateway: &'a Gateway,
        resource: &'a Resource,
        access: Access,
        inbound: Inbound,
    ) -> BoxFuture<'a, Answered<Response<Body>>> {
        Box::pin(gateway.walk(access, RestCall::new(resource, inbound)))
    }
}
