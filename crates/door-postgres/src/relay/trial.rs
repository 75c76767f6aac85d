//! A transaction that only reads, on a replica: which ones may go there, and what becomes of one that a replica cannot
//! answer.
//!
//! Only what is known in full before it is sent goes to a replica: one query, or the messages of one statement with the Sync
//! behind them. Until the replica answers something that counts, its words are kept back. When it says that it cannot do
//! what was taken for a read, or does not know yet what the primary has, or is lost, they are dropped, and the client's
//! messages are taken once more, for the primary.
//!
//! Invariant: the client hears one answer, of one server.

use bytes::BytesMut;
use doorward_pgclient::{HEADER, head};

use super::frontend;

/// A larger transaction is for the primary.
pub(crate) const ALONE_BYTES_MAX: usize = 64 << 10;
/// What the primary may answer otherwise: a replica refuses changes (25006), features and states that it does not have
/// (0A000, 55000); and it may not have heard yet of a relation, column, function, type, schema or right.
const ASKED_AGAIN: [&str; 9] =
    ["25006", "0A000", "55000", "42P01", "42703", "42883", "42704", "3F000", "42501"];

/// How far a transaction on a replica has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Trial {
    /// There is none, or its answer is under way to the client.
    #[default]
    Over,
    /// The replica has answered nothing that counts.
    Open,
    /// The same, and all of it has been looked at: it can be taken once more, even if the replica is lost.
    Sent,
    /// It cannot answer: the primary is asked.
    Failed,
}

impl Trial {
    /// Whether the replica has answered nothing that counts.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Open | Self::Sent)
    }

    /// Nothing more of it is to come from the client.
    pub(crate) fn sent(&mut self) {
        if *self == Self::Open {
            *self = Self::Sent;
        }
    }

    /// The replica answers.
    pub(crate) fn answered(&mut self) {
        if self.is_open() {
            *self = Self::Over;
        }
    }

    /// The replica ends the session. What can be taken once more is, when the connection is lost; else the client is told.
    pub(crate) fn ends(&mut self) {
        if *self == Self::Open {
            *self = Self::Over;
        }
    }

    /// The connection to the replica is lost. Whether the primary is asked.
    pub(crate) fn lost(&mut self) -> bool {
        let again = *self == Self::Sent;
        if again {
            *self = Self::Failed;
        }
        again
    }

    /// The replica answers with an error.
    pub(crate) fn failed(&mut self, sqlstate: &str) {
        if self.is_open() {
            *self = if ASKED_AGAIN.contains(&sqlstate) { Self::Failed } else { Self::Over };
        }
    }
}

/// A transaction of one statement, as the client has sent it.
#[derive(Debug)]
pub(crate) struct Alone {
    pub(crate) messages: BytesMut,
    /// The name of the statement that it prepares.
    pub(crate) prepares: Option<Box<str>>,
    /// It is on a replica.
    pub(crate) placed: bool,
    /// All of it has been looked at.
    pub(crate) sent: bool,
}

/// The transaction at the front of what a client has sent, if it is there in full and of one statement.
pub(crate) fn alone(bytes: &[u8]) -> Option<Alone> {
    let (mut prepared, mut bound, mut executes) = (None, None, false);
    let mut end = 0;
    loop {
        let rest = bytes.get(end..)?;
        let head = head(rest).ok()??;
        let whole = HEADER.checked_add(head.body)?;
        let body = rest.get(HEADER..whole)?;
        let first = end == 0;
        end += whole;
        if end > ALONE_BYTES_MAX {
            return None;
        }
        match head.tag {
            b'P' if prepared.is_none() && bound.is_none() => prepared = Some(frontend::parse(body).ok()?.0),
            b'B' if bound.is_none() => {
                let (_, statement, _) = frontend::bind(body).ok()?;
                if prepared.is_some_and(|name| name != statement) {
                    return None;
                }
                bound = Some(statement);
            }
            b'E' if bound.is_some() && !executes => executes = true,
            b'D' | b'H' => {}
            b'Q' if first => break,
            b'S' if !first => break,
            _ => return None,
        }
    }
    Some(Alone {
        messages: bytes.get(..end)?.into(),
        prepares: prepared.map(Into::into),
        placed: false,
        sent: false,
    })
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;
    use crate::message::put;

    fn messages(of: &[(u8, &str)]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for (tag, body) in of {
            put(&mut out, *tag, |out| out.put_slice(body.as_bytes()));
        }
        out.to_vec()
    }

    fn found(of: &[(u8, &str)]) -> Option<(usize, Option<String>)> {
        let found = alone(&messages(of))?;
        Some((found.messages.len(), found.prepares.map(String::from)))
    }

    const PARSE: (u8, &str) = (b'P', "s\0select 1\0\0\0");
    const BIND: (u8, &str) = (b'B', "\0s\0\0\0\0\0\0\0");
    const EXECUTE: (u8, &str) = (b'E', "\0\0\0\0\0");
    const SYNC: (u8, &str) = (b'S', "");
    const QUERY: (u8, &str) = (b'Q', "select 1\0");

    #[test]
    fn a_transaction_is_one_query_or_one_statement_with_its_sync() {
        assert_eq!(found(&[QUERY, QUERY]), Some((messages(&[QUERY]).len(), None)));
        let whole = [PARSE, BIND, (b'D', "P\0"), EXECUTE, SYNC];
        assert_eq!(found(&whole), Some((messages(&whole).len(), Some("s".to_owned()))));
        assert_eq!(found(&[BIND, EXECUTE, SYNC, QUERY]).map(|found| found.1), Some(None));
        assert!(found(&[PARSE, (b'D', "Ss\0"), SYNC]).is_some());
    }

    #[test]
    fn what_is_not_there_in_full_or_of_several_statements_is_none() {
        for of in [
            &[PARSE, BIND, EXECUTE][..],
            &[PARSE, BIND, EXECUTE, BIND, EXECUTE, SYNC],
            &[PARSE, PARSE, SYNC],
            &[PARSE, (b'B', "\0t\0\0\0\0\0\0\0"), EXECUTE, SYNC],
            &[BIND, EXECUTE, EXECUTE, SYNC],
            &[EXECUTE, SYNC],
            &[PARSE, QUERY],
            &[SYNC],
            &[(b'F', ""), SYNC],
            &[],
        ] {
            assert!(found(of).is_none(), "{of:?}");
        }
        let mut cut = messages(&[QUERY]);
        cut.pop();
        assert!(alone(&cut).is_none());
        let large = format!("select '{}'\0", "x".repeat(ALONE_BYTES_MAX));
        assert!(found(&[(b'Q', &large)]).is_none());
    }

    #[test]
    fn an_answer_ends_a_trial_and_so_does_an_error_that_is_everybodys() {
        let after = |code: &str| {
            let mut trial = Trial::Open;
            trial.failed(code);
            trial
        };
        assert_eq!(
            (after("25006"), after("22012"), after("40001")),
            (Trial::Failed, Trial::Over, Trial::Over)
        );
        let mut trial = Trial::Open;
        trial.answered();
        trial.failed("25006");
        assert_eq!(trial, Trial::Over, "what has been answered is not asked again");
        for (steps, again) in [("", false), ("s", true), ("sa", false), ("as", false)] {
            let mut trial = Trial::Open;
            steps.chars().for_each(|step| if step == 's' { trial.sent() } else { trial.answered() });
            assert_eq!(trial.lost(), again, "{steps}");
            assert_eq!(trial == Trial::Failed, again, "{steps}");
        }
    }
}
