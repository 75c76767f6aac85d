//! Where a transaction runs, where replicas serve reads: on one of them, if all of it is a read; on the primary otherwise.
//!
//! Invariants: where a transaction runs is decided before anything of it is sent; what may change something, and what may
//! leave something behind in the session, runs on the primary; who has changed something reads on the primary until a
//! replica shows it.

use std::sync::Arc;
use std::time::Duration;

use doorward_core::{Actions, Fault};
use tokio::io::AsyncRead;
use tokio::time::timeout;

use super::{Step, Up};
use crate::pool::Place;
use crate::relay::Ended;
use crate::relay::frontend::Message;
use crate::relay::link::State;
use crate::relay::trial::{self, Trial};
use crate::vet::{Vetted, only_reads};

/// How long a connection on which nothing is under way may take to be given back.
const LET_GO_MAX: Duration = Duration::from_secs(5);
/// Settings with this in their name say what transactions are: not all of that can be had on a replica.
const OF_TRANSACTIONS: &str = "transaction_isolation";

impl<R: AsyncRead + Unpin> Up<'_, R> {
    /// A message that may begin a transaction: looks whether all of it is there.
    pub(super) fn look_ahead(&mut self, message: Message) {
        if !self.desk.splits || self.batch_open || self.port.is_bound() {
            return;
        }
        self.place = Place::Primary;
        let begins = matches!(message.tag, b'Q' | b'P' | b'B') && !self.insists && !self.ignored();
        self.alone = if begins { trial::alone(self.inbox.bytes()) } else { None };
    }

    /// Where a statement would run, as far as its text tells.
    fn aim(&mut self, vetted: &Vetted) {
        let of_transactions = |name: &str| name.contains(OF_TRANSACTIONS);
        let plain = self.link.state().sharing.as_ref().is_some_and(|sharing| {
            !sharing.outfit.settings.iter().any(|(name, _)| of_transactions(name))
                && !self.key.settings.iter().any(|(name, _)| of_transactions(name))
        });
        if plain && vetted.begins_reading() {
            // It goes on after its first message: there is nothing to try.
            (self.alone, self.place) = (None, Place::Replica);
        } else if plain && self.alone.is_some() && vetted.is_read() {
            self.place = Place::Replica;
        }
    }

    /// What a statement needs, which may begin a transaction; and where that runs.
    pub(super) async fn needs_somewhere(
        &mut self,
        vetted: &Arc<Vetted>,
    ) -> Result<Result<Actions, Fault>, Ended> {
        let begins = self.desk.splits && !self.insists && !self.port.is_bound();
        if begins {
            self.aim(vetted);
        }
        let needs = self.needs(vetted).await?;
        if let Ok(actions) = &needs
            && begins
        {
            self.take_aim(vetted, actions).await?;
        }
        Ok(needs)
    }

    /// What a statement needs is known: whether it runs where it would.
    async fn take_aim(&mut self, vetted: &Vetted, actions: &Actions) -> Step {
        if self.place == Place::Primary || vetted.begins_reading() || only_reads(vetted, actions) {
            return Ok(());
        }
        (self.alone, self.place) = (None, Place::Primary);
        if self.port.is_bound() { self.let_go().await } else { Ok(()) }
    }

    /// Gives back the replica on which names were looked up, and nothing else was done.
    async fn let_go(&mut self) -> Step {
        if let Some(sharing) = &mut self.link.state().sharing {
            sharing.trial = Trial::Over;
        }
        self.disengage();
        let port = self.port;
        let free = self.link.wait(|state| state.queue.is_empty() && !port.is_bound());
        let gone = || Ended::BackendGone("a replica's connection is not given back".to_owned());
        timeout(LET_GO_MAX, free).await.map_err(|_| gone())
    }

    /// A transaction's last message has been looked at.
    pub(super) fn sent(&mut self, message: Message) {
        if !matches!(message.tag, b'Q' | b'S') {
            return;
        }
        self.insists = false;
        match &mut self.alone {
            Some(alone) if alone.placed => alone.sent = true,
            alone => *alone = None,
        }
    }

    /// Waits until a transaction on a replica is over; what comes meanwhile may need the primary. When the replica
    /// could not answer it, or was lost before it did, it is taken once more.
    pub(super) async fn see_through(&mut self) -> Step {
        let Some(alone) = self.alone.take_if(|alone| alone.sent) else { return Ok(()) };
        let (link, port) = (self.link, self.port);
        if let Some(sharing) = &mut link.state().sharing {
            sharing.trial.sent();
        }
        let over = |state: &State| state.queue.is_empty() && !port.is_bound();
        tokio::select! {
            biased;
            () = link.wait(over) => self.out.clear(),
            sent = self.send() => sent?,
        }
        tokio::select! {
            biased;
            () = link.wait(over) => {}
            () = self.inbox.gone() => return Err(Ended::ClientGone),
        }
        let mut state = self.link.state();
        let trial = state.sharing.as_mut().map(|sharing| std::mem::take(&mut sharing.trial));
        if trial == Some(Trial::Failed) {
            if let Some(name) = &alone.prepares {
                state.statements.remove(name);
            }
            drop(state);
            self.insists = true;
            self.inbox.put_back(&alone.messages);
        } else {
            // What was refused here is not answered there: the client is told it now.
            drop(state);
            self.link.local.notify_one();
        }
        Ok(())
    }
}
