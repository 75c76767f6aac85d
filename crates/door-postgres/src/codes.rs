//! The fault codes of the Postgres door.

doorward_core::codes! {
    /// The start-up packet, or a message after it, is not the protocol's.
    PROTOCOL = "decode.wire-protocol", Decode, Malformed, Client, retry false, "Not the PostgreSQL protocol";
    /// The client asks for something of the protocol that the gateway does not do.
    UNSUPPORTED = "decode.wire-unsupported", Decode, Unsupported, Client, retry false, "Not supported on this door";
    /// A message is larger than the gateway reads.
    MESSAGE_TOO_LARGE = "decode.wire-too-large", Decode, TooLarge, Client, retry false, "The message is too large";
    /// A token would cross the network in the clear.
    TLS_REQUIRED = "authenticate.wire-tls-required", Authenticate, Unauthenticated, Client, retry false, "TLS is required";
    /// The exchange of authentication failed for a reason other than the password.
    SASL = "authenticate.wire-exchange", Authenticate, Unauthenticated, Client, retry false, "The authentication exchange failed";
    /// The client has shown no token, and was told where to get one.
    TOKEN_REQUIRED = "authenticate.wire-token-required", Authenticate, Unauthenticated, Client, retry false, "A token is required";
    /// No grant gives the caller a role on the resource, or several do and none of them was named.
    ROLE = "authorize.wire-role", Authorize, Denied, Client, retry false, "No backend role to log in as";
    /// The SQL text cannot be parsed.
    SYNTAX = "decode.wire-syntax", Decode, Malformed, Client, retry false, "The statement cannot be parsed";
    /// What a statement would touch cannot be known, so it is refused.
    UNKNOWN_EFFECT = "decode.wire-unknown-effect", Decode, Unsupported, Client, retry false, "What the statement would touch cannot be known";
    /// A prepared statement or a portal that this session does not have, or has already.
    NAME = "decode.wire-name", Decode, Malformed, Client, retry false, "No such prepared statement or portal";
    /// A setting of the gateway itself that there is not, or that is not set like this.
    SETTING = "decode.wire-setting", Decode, NotFound, Client, retry false, "Not a setting of the gateway";
    /// The catalogue of the database is not known yet.
    NO_CATALOG = "decode.wire-no-catalogue", Decode, Unavailable, Gateway, retry true, "The catalogue is not known yet";
    /// The resource's sessions are all taken.
    SESSIONS_EXHAUSTED = "lease.wire-sessions-exhausted", Lease, Unavailable, Gateway, retry true, "All database sessions are taken";
    /// The resource's connections are all in use, or too many sessions keep one for themselves.
    BACKENDS_BUSY = "lease.wire-connections-busy", Lease, Unavailable, Gateway, retry true, "All database connections are in use";
    /// A statement was cancelled while it waited for a connection.
    CANCELLED = "lease.wire-cancelled", Lease, Timeout, Client, retry true, "Cancelled while it waited for a connection";
    /// A statement before it in the same batch failed, so this one was not run.
    NOT_RUN = "forward.wire-not-run", Forward, Backend, Client, retry true, "Not run: a statement before it failed";
    /// The answer has more rows or bytes than the grant allows.
    ANSWER_LIMIT = "forward.wire-answer-limit", Forward, TooLarge, Client, retry false, "The answer is larger than the grant allows";
    /// The session was ended by the gateway.
    SESSION_ENDED = "forward.wire-session-ended", Forward, Unavailable, Gateway, retry true, "The session was ended";
    /// Code in the database has put the session into a state that the gateway cannot follow.
    UNFOLLOWED = "forward.wire-unfollowed", Forward, Denied, Client, retry false, "The session cannot be followed";
    /// The database, or what stands in its place, does not keep to the protocol.
    OUT_OF_PLACE = "forward.wire-out-of-place", Forward, Backend, Backend, retry false, "The database does not follow the protocol";
}
