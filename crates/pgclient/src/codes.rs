//! The fault codes of the PostgreSQL backend.

doorward_core::codes! {
    /// PostgreSQL answered with an error; its SQLSTATE is the fault's backend code.
    BACKEND_REFUSED = "forward.backend-refused", Forward, Backend, Backend, retry false, "The database refused the statement";
    /// The connection broke while the answer was awaited.
    BACKEND_LOST = "forward.backend-lost", Forward, Unavailable, Backend, retry true, "The database connection was lost";
    /// The connection broke while a change was awaited: it may or may not have been committed.
    OUTCOME_UNKNOWN = "forward.outcome-unknown", Forward, Backend, Backend, retry false, "The outcome of the change is unknown";
    /// No connection can be made.
    BACKEND_UNAVAILABLE = "forward.backend-unavailable", Forward, Unavailable, Backend, retry true, "The database cannot be reached";
    /// All connections were busy for as long as a call may wait.
    POOL_EXHAUSTED = "forward.pool-exhausted", Forward, Unavailable, Gateway, retry true, "All database connections are busy";
    /// The statement ran longer than it may.
    TIMEOUT = "forward.timeout", Forward, Timeout, Backend, retry false, "The database took too long";
    /// The answer is larger than the grant or the gateway allows.
    ANSWER_TOO_LARGE = "forward.answer-too-large", Forward, TooLarge, Client, retry false, "The answer is too large";
    /// The statement with its values is larger than the gateway sends.
    REQUEST_TOO_LARGE = "forward.request-too-large", Forward, TooLarge, Client, retry false, "The request is too large";
    /// PostgreSQL said something that the protocol does not allow.
    PROTOCOL = "forward.backend-protocol", Forward, Backend, Backend, retry false, "The database broke the protocol";
    /// PostgreSQL does not accept the gateway's login, or the gateway does not accept what the login may do.
    LOGIN_REFUSED = "lease.login-refused", Lease, Unavailable, Gateway, retry false, "The gateway's database login is not usable";
    /// The session's signed claims cannot be set: row-level security would see nobody.
    CLAIMS = "lease.claims-not-set", Lease, Unavailable, Gateway, retry true, "The session's claims are not set";
    /// The gateway itself made a request that it must not send.
    REQUEST_INVALID = "forward.request-invalid", Forward, Internal, Gateway, retry false, "Internal error";
}
