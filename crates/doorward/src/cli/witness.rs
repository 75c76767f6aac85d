//! `doorward witness`: cosigns the checkpoints of gateways, on a machine that is not theirs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use doorward_audit::log::witness::Witness;
use doorward_core::{Clock, SystemClock};
use doorward_http::{PlainTls, bind, serve_posts};
use doorward_tlog::note::Vkey;
use doorward_tlog::witness::REQUEST_MAX;
use http::Method;
use serde_json::json;

use super::out;
use crate::peers::answer;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The address, ADDRESS:PORT; port 0 takes a free one. Put a TLS proxy in front where others can listen in.
    #[arg(long, default_value = "127.0.0.1:8091")]
    listen: SocketAddr,
    /// The directory for what it has seen. Losing it is losing the witness: it would cosign another history.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The file of its private key, which is made when there is none.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Its name, as a new key has it: a host name and a path, without a scheme.
    #[arg(long, default_value = "doorward-witness")]
    name: String,
    /// The public key of a log that it cosigns for (`doorward audit key`); may be given again.
    #[arg(long, required = true, value_parser = vkey)]
    log: Vec<Vkey>,
}

fn vkey(text: &str) -> Result<Vkey, String> {
    Vkey::parse(text).map_err(|error| error.to_string())
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let witness = Arc::new(Witness::open(&args.state, &args.key, &args.name, args.log.clone())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = bind(args.listen).await.with_context(|| args.listen.to_string())?;
        let address = listener.local_addr()?;
        out(&format!(
            "{}\n",
            json!({ "listening": address.to_string(), "vkey": witness.vkey().to_string() })
        ))?;
        let now = || u64::try_from(SystemClock.now().seconds()).unwrap_or(0);
        let handler = Arc::new(move |method: &Method, path: &str, body: &[u8]| {
            answer(method, path, || witness.add_checkpoint(body, now()))
        });
        serve_posts(listener, PlainTls::default(), handler, REQUEST_MAX).await;
        Ok(ExitCode::SUCCESS)
    })
}
