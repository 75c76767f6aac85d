//! Requests to the witnesses that cosign this gateway's checkpoints: over TLS, with authorities and certificates of
//! their own where the configuration names some.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use doorward_audit::log::config::WitnessConfig;
use doorward_audit::log::publish::Cosigner;
use doorward_http::{Caps, Client, ClientIdentity, ClientOptions};
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use parking_lot::Mutex;

use crate::fetch::{Outbound, POST_CAPS};

/// How long certificates that were read are used; files that were replaced are read again after it.
const CERTIFICATES_LIFE: Duration = Duration::from_secs(60);

/// Speaks to witnesses from a thread of its own, over the runtime's client.
pub(crate) struct Witnesses {
    outbound: Arc<Outbound>,
    runtime: tokio::runtime::Handle,
    /// Clients of those that have certificates of their own, by address, and when these were read. Bounded by the
    /// configuration's witnesses.
    clients: Mutex<HashMap<String, (Instant, Client)>>,
}

impl Witnesses {
    /// Over this client; called on the runtime.
    pub(crate) fn new(outbound: Arc<Outbound>) -> Self {
        Self { outbound, runtime: tokio::runtime::Handle::current(), clients: Mutex::default() }
    }

    fn client(&self, witness: &WitnessConfig) -> Result<Client, String> {
        let identity = witness.cert.clone().zip(witness.key.clone());
        let identity = identity.map(|(cert, key)| ClientIdentity { cert, key });
        if witness.ca.is_none() && identity.is_none() {
            return Ok(self.outbound.client().clone());
        }
        if let Some((read, client)) = self.clients.lock().get(&witness.url)
            && read.elapsed() < CERTIFICATES_LIFE
        {
            return Ok(client.clone());
        }
        let options = ClientOptions { extra_ca: witness.ca.as_deref(), identity: identity.as_ref() };
        let client = Client::new(options).map_err(|error| error.to_string())?;
        self.clients.lock().insert(witness.url.clone(), (Instant::now(), client.clone()));
        Ok(client)
    }
}

impl Cosigner for Witnesses {
    fn post(&self, witness: &WitnessConfig, url: &str, body: String) -> Result<(u16, String), String> {
        let client = self.client(witness)?;
        let caps = Caps { dangerous_plaintext: witness.dangerous_plaintext, ..POST_CAPS };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let sent = client.send(Method::POST, url, headers, body.into(), caps);
        let reply = self.runtime.block_on(sent).map_err(|error| error.to_string())?;
        let text = String::from_utf8(reply.body.to_vec()).map_err(|_| "its answer is not text".to_owned())?;
        Ok((reply.status.as_u16(), text))
    }
}
