//! The fault codes of policy.

doorward_core::codes! {
    /// Only somebody who shows credentials may do this.
    REQUIRED = "authenticate.required", Authenticate, Unauthenticated, Client, retry false, "Authentication is required";
    /// No grant allows the call.
    NO_GRANT = "authorize.no-grant", Authorize, Denied, Client, retry false, "No grant allows this";
    /// A deny rule forbids the call.
    DENIED_BY_RULE = "authorize.denied-by-rule", Authorize, Denied, Client, retry false, "A rule forbids this";
    /// The limit of the grant is used up for now.
    LIMIT_EXCEEDED = "limit.exceeded", Limit, Limited, Client, retry true, "Too many calls";
    /// The limiter counts for as many callers as it has room for.
    LIMIT_NO_ROOM = "limit.no-room", Limit, Unavailable, Gateway, retry true, "Too many callers at once";
}
