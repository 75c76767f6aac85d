//! `doorward proxy`: a loopback port for programs that know no tokens.

use std::net::SocketAddr;
use std::process::ExitCode;

use doorward_http::client_config;

use super::login::Which;
use super::{note, out};
use crate::client::proxy::{Proxy, listen};
use crate::client::session::{Session, runtime};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// The resource that every connection is to.
    resource: String,
    /// The backend role of every connection; without it the program's user name says which.
    #[arg(long)]
    role: Option<String>,
    /// Where to listen, on loopback; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let session = Session::open(&args.which.profile)?;
    let (host, port) = session.profile.postgres_address()?;
    let tls = client_config(session.profile.ca.as_deref())?;
    let (resource, role) = (args.resource.clone(), args.role.clone());
    runtime()?.block_on(async {
        // Whoever has to log in anew should know now, and not when a program connects.
        session.token(false).await?;
        let listener = listen(args.listen).await?;
        let address = listener.local_addr()?;
        out(&format!("listening on {address}\n"))?;
        note(&format!(
            "Connect to {address}, database {resource}, with any password and without TLS. Whoever can connect to this \
             port is you; end it with Ctrl-C.\n"
        ));
        let proxy = Proxy { session, resource, role, host, port, tls };
        tokio::select! {
            () = proxy.serve(listener, note) => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        Ok(ExitCode::SUCCESS)
    })
}
