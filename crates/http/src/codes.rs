//! The fault codes of the HTTP front: what is refused before a door sees it.

doorward_core::codes! {
    /// The bytes are not one unambiguous HTTP message: smuggling forms, bad line ends, bad chunking.
    MALFORMED_MESSAGE = "accept.malformed-message", Accept, Malformed, Client, retry false, "Malformed HTTP message";
    /// `Host` is missing, stands twice, is unusable, or contradicts the request's target.
    BAD_HOST = "accept.bad-host", Accept, Malformed, Client, retry false, "Missing or contradictory Host";
    /// The request's target is ambiguous: dot segments, empty segments, a fragment, an odd character.
    BAD_TARGET = "accept.bad-target", Accept, Malformed, Client, retry false, "Unusable request target";
    /// The head is larger than its bound, or has too many header fields.
    HEAD_TOO_LARGE = "accept.head-too-large", Accept, TooLarge, Client, retry false, "Request head too large";
    /// The request's target is longer than its bound.
    URI_TOO_LONG = "accept.uri-too-long", Accept, TooLarge, Client, retry false, "Request target too long";
    /// The body is larger than its bound.
    BODY_TOO_LARGE = "accept.body-too-large", Accept, TooLarge, Client, retry false, "Request body too large";
    /// The method is none that the gateway knows.
    METHOD_UNKNOWN = "accept.method-unknown", Accept, Unsupported, Client, retry false, "Unknown method";
    /// The protocol's version is none that the gateway speaks.
    VERSION_UNSUPPORTED = "accept.version-unsupported", Accept, Unsupported, Client, retry false, "HTTP version not supported";
    /// The client took too long to send its request.
    SLOW_CLIENT = "accept.slow-client", Accept, Timeout, Client, retry true, "Request timeout";
    /// The body ended before it was whole.
    BODY_BROKEN = "accept.body-broken", Accept, Malformed, Client, retry true, "Incomplete request body";
    /// Nothing was shown, where somebody must be known.
    CREDENTIALS_MISSING = "authenticate.credentials-missing", Authenticate, Unauthenticated, Client, retry false, "Credentials required";
    /// The resource is configured, but no HTTP door serves it.
    NO_HTTP_DOOR = "decode.no-http-door", Decode, NotFound, Client, retry false, "Not served over HTTP";
}
