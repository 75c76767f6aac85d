//! The fault codes of the REST door, in the order in which a call can meet them.

doorward_core::codes! {
    /// The path does not have the form of a table or function.
    PATH = "decode.rest-path", Decode, NotFound, Client, retry false, "No such path";
    /// The method has no meaning here.
    METHOD = "decode.rest-method", Decode, Unsupported, Client, retry false, "Method not allowed";
    /// A query parameter cannot be read.
    QUERY = "decode.rest-query", Decode, Malformed, Client, retry false, "Malformed query parameter";
    /// The schema asked for is not served.
    SCHEMA = "decode.rest-schema", Decode, NotFound, Client, retry false, "Schema not served";
    /// The requested range of rows is impossible.
    RANGE = "decode.rest-range", Decode, Malformed, Client, retry false, "Range not satisfiable";
    /// A preference is unknown, and the caller asked for strictness.
    PREFERENCE = "decode.rest-preference", Decode, Malformed, Client, retry false, "Unknown preference";
    /// The body is not JSON of the expected form.
    BODY = "decode.rest-body", Decode, Malformed, Client, retry false, "Malformed body";
    /// The body's media type is not read.
    MEDIA_TYPE = "decode.rest-media-type", Decode, Unsupported, Client, retry false, "Media type not supported";
    /// No media type that the caller accepts is written.
    NOT_ACCEPTABLE = "decode.rest-not-acceptable", Decode, Unsupported, Client, retry false, "Not acceptable";
    /// A PostgREST feature that this version does not have.
    NOT_IMPLEMENTED = "decode.rest-not-implemented", Decode, Unsupported, Client, retry false, "Feature not implemented";
    /// The resource is not one of this door's.
    NOT_REST = "decode.rest-resource", Decode, Internal, Gateway, retry false, "Resource of another door";
    /// The grant names no role to act as.
    NO_ROLE = "lease.rest-no-role", Lease, Internal, Gateway, retry false, "The grant names no role";
    /// The catalogue has not been read yet.
    NO_CATALOGUE = "forward.rest-no-catalogue", Forward, Unavailable, Backend, retry true, "The schema is not known yet";
    /// There is no such table or view.
    UNKNOWN_TABLE = "forward.rest-unknown-table", Forward, NotFound, Client, retry false, "No such table";
    /// There is no such function, or none with these arguments.
    UNKNOWN_FUNCTION = "forward.rest-unknown-function", Forward, NotFound, Client, retry false, "No such function";
    /// Several functions fit the arguments.
    AMBIGUOUS_FUNCTION = "forward.rest-ambiguous-function", Forward, Malformed, Client, retry false, "Several functions fit";
    /// There is no such column.
    UNKNOWN_COLUMN = "forward.rest-unknown-column", Forward, Malformed, Client, retry false, "No such column";
    /// The database refused the statement.
    REFUSED = "forward.rest-refused", Forward, Backend, Client, retry false, "The database refused";
    /// The database failed.
    FAILED = "forward.rest-failed", Forward, Backend, Backend, retry false, "The database failed";
    /// The database is short of something for now.
    BUSY = "forward.rest-busy", Forward, Unavailable, Backend, retry true, "The database is busy";
    /// The statement took longer than it may.
    TIMEOUT = "forward.rest-timeout", Forward, Timeout, Backend, retry true, "The statement took too long";
    /// Exactly one row was asked for.
    NOT_ONE_ROW = "shape.rest-not-one-row", Shape, Backend, Client, retry false, "Not exactly one row";
    /// The offset lies behind the last row.
    OUT_OF_RANGE = "shape.rest-out-of-range", Shape, Malformed, Client, retry false, "Range not satisfiable";
    /// A function set a response status or header that is none.
    RESPONSE_SETTING = "shape.rest-response-setting", Shape, Backend, Backend, retry false, "Bad response setting";
    /// The database answered in a form that the statement cannot have.
    UNEXPECTED_REPLY = "shape.rest-unexpected-reply", Shape, Internal, Gateway, retry false, "Unexpected reply";
}
