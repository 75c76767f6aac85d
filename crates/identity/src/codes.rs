//! The fault codes of identity.

doorward_core::codes! {
    /// What was shown cannot be read as credentials.
    MALFORMED_CREDENTIALS = "authenticate.malformed-credentials", Authenticate, Unauthenticated, Client, retry false, "Unreadable credentials";
    /// A token came over a transport that everybody on the way can read.
    PLAINTEXT = "authenticate.plaintext", Authenticate, Unauthenticated, Client, retry false, "Token over a plaintext transport";
    /// The token is not what its form says.
    MALFORMED_TOKEN = "authenticate.malformed-token", Authenticate, Unauthenticated, Client, retry false, "Malformed token";
    /// The token is larger than its bound.
    TOKEN_TOO_LARGE = "authenticate.token-too-large", Authenticate, Unauthenticated, Client, retry false, "Token too large";
    /// The token's algorithm is unknown, symmetric, `none`, or not on its issuer's list.
    ALGORITHM_NOT_ALLOWED = "authenticate.algorithm-not-allowed", Authenticate, Unauthenticated, Client, retry false, "Signature algorithm not allowed";
    /// Nobody configured vouches for the token.
    UNKNOWN_ISSUER = "authenticate.unknown-issuer", Authenticate, Unauthenticated, Client, retry false, "Unknown issuer";
    /// The token was issued for somebody else.
    WRONG_AUDIENCE = "authenticate.wrong-audience", Authenticate, Unauthenticated, Client, retry false, "Wrong audience";
    /// A claim that must be there is not, or is not of its type.
    BAD_CLAIM = "authenticate.bad-claim", Authenticate, Unauthenticated, Client, retry false, "Missing or unusable claim";
    /// The token's time is over.
    TOKEN_EXPIRED = "authenticate.token-expired", Authenticate, Unauthenticated, Client, retry false, "Token expired";
    /// The token's time has not come.
    TOKEN_NOT_YET_VALID = "authenticate.token-not-yet-valid", Authenticate, Unauthenticated, Client, retry true, "Token not yet valid";
    /// The token lives longer than its issuer's cap.
    TOKEN_LIFETIME = "authenticate.token-lifetime", Authenticate, Unauthenticated, Client, retry false, "Token lifetime not allowed";
    /// The token is of another type than an access token.
    WRONG_TOKEN_TYPE = "authenticate.wrong-token-type", Authenticate, Unauthenticated, Client, retry false, "Not an access token";
    /// An ID token was shown in place of an access token.
    ID_TOKEN = "authenticate.id-token", Authenticate, Unauthenticated, Client, retry false, "ID token used as access token";
    /// The token is bound to a key or certificate that was not proven.
    BOUND_TOKEN = "authenticate.bound-token", Authenticate, Unauthenticated, Client, retry false, "Sender-constrained token shown as bearer";
    /// The OAuth client that holds the token is not on its issuer's list.
    WRONG_CLIENT = "authenticate.wrong-client", Authenticate, Unauthenticated, Client, retry false, "Client not allowed";
    /// The issuer left the groups out of the token because there are too many.
    GROUPS_OVERAGE = "authenticate.groups-overage", Authenticate, Unauthenticated, Client, retry false, "Groups missing from the token";
    /// The issuer has no such key.
    UNKNOWN_KEY = "authenticate.unknown-key", Authenticate, Unauthenticated, Client, retry true, "Unknown signing key";
    /// The signature does not match.
    BAD_SIGNATURE = "authenticate.bad-signature", Authenticate, Unauthenticated, Client, retry false, "Bad signature";
    /// The token cannot be checked because its issuer cannot be reached.
    ISSUER_UNAVAILABLE = "authenticate.issuer-unavailable", Authenticate, Unavailable, Gateway, retry true, "Issuer unavailable";
    /// An opaque token, and no issuer that could be asked about it.
    OPAQUE_TOKEN = "authenticate.opaque-token", Authenticate, Unauthenticated, Client, retry false, "Opaque tokens are not accepted";
    /// The issuer says that the token is not active.
    TOKEN_INACTIVE = "authenticate.token-inactive", Authenticate, Unauthenticated, Client, retry false, "Token not active";
    /// No such API key, or not this secret.
    UNKNOWN_API_KEY = "authenticate.unknown-api-key", Authenticate, Unauthenticated, Client, retry false, "Unknown API key";
    /// The API key's time is over.
    API_KEY_EXPIRED = "authenticate.api-key-expired", Authenticate, Unauthenticated, Client, retry false, "API key expired";
    /// The certificate cannot be read, or breaks the rules of its form.
    MALFORMED_CERTIFICATE = "authenticate.malformed-certificate", Authenticate, Unauthenticated, Client, retry false, "Unusable certificate";
    /// The certificate's time is over, or has not come.
    CERTIFICATE_EXPIRED = "authenticate.certificate-expired", Authenticate, Unauthenticated, Client, retry false, "Certificate outside its validity";
    /// The certificate names nobody that is configured.
    UNKNOWN_CERTIFICATE = "authenticate.unknown-certificate", Authenticate, Unauthenticated, Client, retry false, "Unknown certificate";
    /// The password of a minted login was not proven, or there is no such login.
    WRONG_PASSWORD = "authenticate.wrong-password", Authenticate, Unauthenticated, Client, retry false, "Wrong password";
    /// The minted login's time is over.
    LOGIN_EXPIRED = "authenticate.login-expired", Authenticate, Unauthenticated, Client, retry false, "Login expired";
    /// A login cannot be minted for what the caller showed.
    NOT_MINTABLE = "authenticate.not-mintable", Authenticate, Denied, Client, retry false, "No login can be minted for this";
    /// What proved the session's identity is no longer accepted.
    NO_LONGER_ACCEPTED = "authenticate.no-longer-accepted", Authenticate, Unauthenticated, Client, retry false, "Identity no longer accepted";
}
