//! Logging in with a code that is typed in on another device (RFC 8628).

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::{Instant, sleep};

use super::issuer::{Issuer, TokenRefusal, plain};
use super::wire::{DeviceAnswer, KeptTokens};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:device_code";
/// How often the issuer is asked unless it says otherwise, and by how much less when it asks for that.
const INTERVAL: Duration = Duration::from_secs(5);
/// The longest that a login may take.
const WAIT_MAX: Duration = Duration::from_secs(30 * 60);

/// Says where to type which code, and waits until that is done.
pub(crate) async fn log_in(issuer: &Issuer, tell: impl Fn(&str)) -> anyhow::Result<KeptTokens> {
    let url = issuer.endpoint(issuer.metadata.device_authorization_endpoint.as_ref(), "device flow")?;
    let reply = issuer.post(url, &issuer.wanted()).await?;
    ensure!(reply.status.is_success(), "{url} answers with status {}", reply.status);
    let answer: DeviceAnswer = serde_json::from_slice(&reply.body)
        .map_err(|_| anyhow::anyhow!("{url} answers with something else than a device authorization"))?;
    tell(&format!("Open {} and type in: {}\n", plain(&answer.verification_uri), plain(&answer.user_code)));
    if let Some(complete) = &answer.verification_uri_complete {
        tell(&format!("Or open this: {}\n", plain(complete)));
    }
    let until = Instant::now() + Duration::from_secs(answer.expires_in).min(WAIT_MAX);
    let mut interval = answer.interval.map_or(INTERVAL, Duration::from_secs).min(WAIT_MAX);
    let form = [("grant_type", GRANT), ("device_code", answer.device_code.as_str())];
    while Instant::now() < until {
        sleep(interval).await;
        let error = match issuer.token(&form).await {
            Ok(tokens) => return Ok(tokens),
            Err(error) => error,
        };
        match error.downcast_ref::<TokenRefusal>().map(|refusal| refusal.code.as_str()) {
            Some("authorization_pending") => {}
            Some("slow_down") => interval += INTERVAL,
            Some("access_denied") => bail!("the login was refused there"),
            Some("expired_token") => break,
            _ => return Err(error).context("while waiting for the login"),
        }
    }
    bail!("the code was not typed in in time; run the command again")
}
