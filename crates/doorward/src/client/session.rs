//! Fresh tokens: the one that is kept while it counts, else a refreshed one.

use anyhow::{Context, bail};
use doorward_core::{Clock, Secret, SystemClock, Timestamp};

use super::config::Profile;
use super::folder::Folder;
use super::issuer::{Issuer, TokenRefusal};
use super::wire::KeptTokens;

/// A token that ends sooner is refreshed: what it is for takes time, and clocks differ.
const MARGIN_SECONDS: i64 = 60;

/// Somebody who has logged in on this machine.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) folder: Folder,
    pub(crate) profile: Profile,
}

/// A token, and until when it counts.
#[derive(Clone, Debug)]
pub(crate) struct FreshToken {
    pub(crate) token: Secret,
    pub(crate) expires_at: Timestamp,
}

impl Session {
    /// The session of a profile.
    pub(crate) fn open(name: &str) -> anyhow::Result<Self> {
        let folder = Folder::of(name)?;
        let profile = folder.profile()?.context(
            "nobody has logged in here; run: doorward login --issuer URL --client-id ID --gateway URL",
        )?;
        Ok(Self { folder, profile })
    }

    /// Makes a runtime for one command, and a token that counts.
    pub(crate) fn token_now(&self, anew: bool) -> anyhow::Result<FreshToken> {
        runtime()?.block_on(self.token(anew))
    }

    /// A token that counts. `anew` refreshes it in any case.
    pub(crate) async fn token(&self, anew: bool) -> anyhow::Result<FreshToken> {
        let folder = self.folder.clone();
        // Another process may be refreshing: then this one finds what that one brings.
        let lock = tokio::task::spawn_blocking(move || folder.lock()).await??;
        let kept: KeptTokens =
            self.folder.tokens()?.context("nobody is logged in here; run: doorward login")?;
        if !anew && kept.expires_at > SystemClock.now().seconds().saturating_add(MARGIN_SECONDS) {
            return Ok(fresh(&kept));
        }
        let Some(refresh_token) = &kept.refresh_token else {
            bail!("the token has expired, and the issuer gave none to refresh it with; run: doorward login");
        };
        let issuer = Issuer::find(&self.profile).await?;
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.as_str())];
        let refreshed = issuer.token(&form).await;
        let tokens = match refreshed {
            // An issuer that rotates refresh tokens sends the next one; another one goes on with this.
            Ok(tokens) => {
                KeptTokens { refresh_token: tokens.refresh_token.clone().or(kept.refresh_token), ..tokens }
            }
            Err(error) => {
                let over = error
                    .downcast_ref::<TokenRefusal>()
                    .is_some_and(|refusal| refusal.code == "invalid_grant");
                if over {
                    self.folder.forget_tokens(&lock)?;
                    return Err(error).context("the login is over; run: doorward login");
                }
                return Err(error).context("the token could not be refreshed");
            }
        };
        self.folder.keep_tokens(&lock, &tokens)?;
        Ok(fresh(&tokens))
    }
}

/// The runtime of a command.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn fresh(tokens: &KeptTokens) -> FreshToken {
    FreshToken {
        token: Secret::from(tokens.token.as_str()),
        expires_at: Timestamp::from_seconds(tokens.expires_at),
    }
}
