//! What a text of SQL is, before any name in it is looked up.

use std::ops::{Deref, Range};
use std::sync::Arc;

use doorward_core::Verb;

use crate::error::Unknown;

/// A text of SQL: as many statements as it holds, which may be none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// The statements, in order.
    pub statements: Vec<Statement>,
}

/// One statement of a text. A clone costs three counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The bytes of the text that it takes, without the semicolon.
    pub span: Range<usize>,
    /// The bytes of the text that literals take: they lie within `span`.
    pub literals: Arc<[Range<usize>]>,
    /// What the comments of the statement tell in the form of sqlcommenter, decoded.
    pub tags: Arc<[(Box<str>, Box<str>)]>,
    /// What the statement is; texts that differ only in their literals share it.
    pub shape: Arc<Shape>,
}

impl Deref for Statement {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.shape
    }
}

/// What a statement is and does, without its place in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Which statement it is.
    pub kind: Kind,
    /// The command's name as PostgreSQL's command tag begins: `SELECT`, `CREATE TABLE`.
    pub tag: &'static str,
    /// The fingerprint of libpg_query: the same for statements that differ only in literals.
    pub fingerprint: Option<u64>,
    /// What is wanted, with names as they are written.
    pub wants: Vec<Want>,
    /// Why it is refused, whatever is granted.
    pub refused: Option<Unknown>,
    /// The greatest number of a parameter (`$3`).
    pub parameters: u16,
    /// Whether nothing in the statement itself changes data, structure or locks. A function may; see
    /// [`Needs::changes`](crate::Needs).
    pub reads_only: bool,
    /// What outlives the statement, or even the transaction, in the session.
    pub session: SessionEffects,
    /// What it does to the transaction.
    pub transaction: Transaction,
    /// Settings that it sets, by SET, RESET or set_config.
    pub settings: Vec<Setting>,
}

/// Which statement it is. What the door must know of one stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SELECT, VALUES, TABLE.
    Select,
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// MERGE.
    Merge,
    /// TRUNCATE.
    Truncate,
    /// BEGIN, COMMIT, SAVEPOINT …: what it does stands in [`Shape::transaction`].
    Transaction,
    /// SET, RESET: the settings stand in [`Shape::settings`].
    Set,
    /// SET CONSTRAINTS.
    SetConstraints,
    /// SHOW of a setting (`all` for all of them).
    Show(Box<str>),
    /// PREPARE: the needs are those of the statement that it names.
    Prepare(Box<str>),
    /// EXECUTE of a prepared statement: its needs are the ones of PREPARE, and those of its arguments.
    Execute(Box<str>),
    /// DEALLOCATE of one statement, or of all.
    Deallocate(Option<Box<str>>),
    /// DECLARE CURSOR.
    Declare(Box<str>),
    /// FETCH, MOVE.
    Fetch(Box<str>),
    /// CLOSE of one cursor, or of all.
    Close(Option<Box<str>>),
    /// COPY with the client.
    Copy(Direction),
    /// LISTEN.
    Listen(Box<str>),
    /// NOTIFY.
    Notify(Box<str>),
    /// UNLISTEN of one channel, or of all.
    Unlisten(Option<Box<str>>),
    /// LOCK TABLE.
    Lock,
    /// EXPLAIN; with ANALYZE it runs.
    Explain {
        /// Whether the statement is run.
        analyze: bool,
    },
    /// DO.
    Do,
    /// CALL.
    Call,
    /// DISCARD.
    Discard(Discard),
    /// All that changes structure, rights or storage.
    Ddl,
}

/// The direction of a COPY, seen from the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// COPY … FROM STDIN.
    In,
    /// COPY … TO STDOUT.
    Out,
}

/// What DISCARD discards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// ALL: the whole session.
    All,
    /// PLANS.
    Plans,
    /// SEQUENCES.
    Sequences,
    /// TEMP: the temporary tables.
    Temp,
}

/// What a statement leaves behind in its session. A pool in transaction mode pins the session for what
/// outlives the transaction, or refuses the statement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionEffects {
    /// A temporary table, view or sequence.
    pub temporary: bool,
    /// A channel is listened to.
    pub listens: bool,
    /// A statement prepared by SQL.
    pub prepares: bool,
    /// A cursor that outlives the transaction.
    pub holds_cursor: bool,
    /// An advisory lock of the session.
    pub advisory_lock: bool,
    /// A setting that outlives the transaction.
    pub sets: bool,
    /// The state of a sequence, which currval and lastval tell.
    pub sequence: bool,
}

impl SessionEffects {
    /// Whether the session must keep its backend connection for it.
    pub const fn pins(self) -> bool {
        self.temporary
            || self.listens
            || self.prepares
            || self.holds_cursor
            || self.advisory_lock
            || self.sets
    }
}

/// What a statement does to the transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Transaction {
    /// Nothing.
    #[default]
    None,
    /// BEGIN, START TRANSACTION; and whether it says READ ONLY or READ WRITE.
    Begin {
        /// The mode, when it is named.
        read_only: Option<bool>,
    },
    /// COMMIT, END.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// SAVEPOINT.
    Savepoint(Box<str>),
    /// RELEASE.
    Release(Box<str>),
    /// ROLLBACK TO.
    RollbackTo(Box<str>),
    /// PREPARE TRANSACTION.
    Prepare(Box<str>),
    /// COMMIT PREPARED.
    CommitPrepared(Box<str>),
    /// ROLLBACK PREPARED.
    RollbackPrepared(Box<str>),
}

/// One setting that a statement sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name in lower case; `all` for RESET ALL.
    pub name: Box<str>,
    /// The new value: several are joined by `, `. `None`: the default again, or a value that is computed.
    pub value: Option<Box<str>>,
    /// Whether it ends with the transaction.
    pub local: bool,
}

/// A name as it is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The schema, when it is written.
    pub schema: Option<Box<str>>,
    /// The object's own name.
    pub name: Box<str>,
}

/// How a name finds its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// It must be there.
    Existing,
    /// It is made: without a schema, in the first one of the search path.
    New,
    /// It is looked for, and taken for new if it is not there.
    Either,
}

/// Something that a statement wants, with names as they are written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Want {
    /// A table, view, sequence and the like.
    Relation {
        /// What is done to it.
        verb: Verb,
        /// Its name.
        name: Name,
        /// How it is found.
        lookup: Lookup,
    },
    /// A function or procedure is called.
    Function {
        /// Its name.
        name: Name,
        /// How many arguments are given.
        arguments: u16,
    },
    /// An operator is used.
    Operator(Name),
    /// A word of the grammar, which older servers take for the name of a function.
    Word(&'static str),
    /// `row.name`, which is a column, or else a function that is called with the row.
    Attribute(Box<str>),
    /// A function is made, changed, dropped.
    Routine {
        /// Its name.
        name: Name,
        /// How it is found.
        lookup: Lookup,
    },
    /// Another object with a schema: a type, collation, operator.
    Part {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        name: Name,
    },
    /// An object without a schema: a schema itself, a publication.
    Global {
        /// What kind of object.
        kind: &'static str,
        /// Its name.
        name: Box<str>,
    },
    /// A notification channel.
    Channel {
        /// Whether it is listened to, or sent to.
        listens: bool,
        /// Its name.
        name: Box<str>,
    },
}
