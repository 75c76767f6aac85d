//! The fault codes of the road itself.

crate::codes! {
    /// A handler panicked.
    PANIC = "forward.internal", Forward, Internal, Gateway, retry false, "Internal error";
    /// There is no room for the record, or it cannot be made durable.
    RECORD_UNAVAILABLE = "record.unavailable", Record, Unavailable, Gateway, retry true, "The call cannot be recorded";
    /// The first path segment or database names nothing that is configured.
    UNKNOWN_RESOURCE = "decode.unknown-resource", Decode, NotFound, Client, retry false, "No such resource";
    /// The session's proof has expired and its grace is over.
    SESSION_EXPIRED = "authenticate.session-expired", Authenticate, Unauthenticated, Client, retry false, "The session has expired";
    /// Logins are minted for the Postgres door, and the gateway has none.
    NO_LOGINS = "authenticate.no-logins", Authenticate, NotFound, Gateway, retry false, "No logins are minted";
}
