//! `doorward login` and `doorward logout`: a token of one's own, kept on this machine.

use std::process::ExitCode;

use anyhow::Context;

use super::{note, out};
use crate::client::config::{Profile, ProfileArgs};
use crate::client::folder::Folder;
use crate::client::issuer::Issuer;
use crate::client::session::runtime;
use crate::client::wire::KeptTokens;
use crate::client::{browser, device};

/// Which of several logins on this machine.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Which {
    /// The name of the login, where there are several on this machine.
    #[arg(long, env = "DOORWARD_PROFILE", default_value = "default")]
    pub(super) profile: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    profile: ProfileArgs,
    /// Log in with a code that is typed in on any device; the way where there is no display.
    #[arg(long, conflicts_with = "browser")]
    device: bool,
    /// Log in with a browser on this machine.
    #[arg(long)]
    browser: bool,
    /// Print the browser's URL and leave the opening to somebody else.
    #[arg(long)]
    no_open: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let folder = Folder::of(&args.which.profile)?;
    let kept: Option<Profile> = folder.profile()?;
    let profile = args.profile.over(kept)?;
    let tokens = runtime()?.block_on(async {
        let issuer = Issuer::find(&profile).await?;
        match args.device || !(args.browser || has_display()) {
            true => device::log_in(&issuer, note).await,
            false => browser::log_in(&issuer, !args.no_open, note).await,
        }
    })?;
    let lock = folder.lock()?;
    folder.keep_profile(&profile)?;
    folder.keep_tokens(&lock, &tokens)?;
    let renewed = if tokens.refresh_token.is_some() { ", and is refreshed" } else { "; it is not refreshed" };
    note(&format!("Logged in at {}; the token counts for {}{renewed}.\n", profile.issuer, span(&tokens)));
    Ok(ExitCode::SUCCESS)
}

fn span(tokens: &KeptTokens) -> String {
    use doorward_core::{Clock, SystemClock};
    let seconds = tokens.expires_at.saturating_sub(SystemClock.now().seconds());
    if seconds < 120 { format!("{seconds} seconds") } else { format!("{} minutes", seconds / 60) }
}

/// Whether a browser could be opened here.
fn has_display() -> bool {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    cfg!(target_os = "macos") || set("DISPLAY") || set("WAYLAND_DISPLAY")
}

/// Forgets the tokens, and gives the refresh token back to the issuer.
pub(super) fn log_out(which: &Which) -> anyhow::Result<ExitCode> {
    let folder = Folder::of(&which.profile)?;
    let lock = folder.lock()?;
    let tokens: Option<KeptTokens> = folder.tokens()?;
    if !folder.forget_tokens(&lock)? {
        return out("nobody was logged in\n").map(|()| ExitCode::SUCCESS);
    }
    let profile: Option<Profile> = folder.profile()?;
    let refresh_token = tokens.and_then(|tokens| tokens.refresh_token);
    if let (Some(profile), Some(token)) = (profile, refresh_token) {
        let revoked = runtime()?.block_on(async {
            let issuer = Issuer::find(&profile).await?;
            issuer.revoke(&token).await
        });
        revoked.context("the tokens are gone from this machine, but the issuer could not be told")?;
    }
    out("logged out\n").map(|()| ExitCode::SUCCESS)
}
