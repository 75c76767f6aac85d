//! The fault codes of the ingest door: those of a request, and those of one record in it.

doorward_core::codes! {
    /// The path is neither `records` nor `v1/logs`.
    PATH = "decode.ingest-path", Decode, NotFound, Client, retry false, "No such path";
    /// Records are posted.
    METHOD = "decode.ingest-method", Decode, Unsupported, Client, retry false, "Method not allowed";
    /// The body is of a media type, or under an encoding, that is not read.
    MEDIA_TYPE = "decode.ingest-media-type", Decode, Unsupported, Client, retry false, "Media type not supported";
    /// `Idempotency-Key` cannot be read.
    KEY = "decode.ingest-key", Decode, Malformed, Client, retry false, "Malformed idempotency key";
    /// The resource is not one of this door's.
    RESOURCE = "decode.ingest-resource", Decode, Internal, Gateway, retry false, "Resource of another door";
    /// No resource takes this syslog message, or it cannot be read.
    SYSLOG = "decode.ingest-syslog", Decode, Malformed, Client, retry false, "Unreadable syslog message";
    /// A syslog message of the older, unstructured form.
    RFC3164 = "decode.ingest-rfc3164", Decode, Unsupported, Client, retry false, "RFC 3164 syslog";
    /// The spool is filling up, or too many batches are being read.
    BUSY = "forward.ingest-busy", Forward, Unavailable, Gateway, retry true, "Too busy to import";
    /// The batch is larger than its bound.
    BATCH_TOO_LARGE = "forward.ingest-batch-too-large", Forward, TooLarge, Client, retry false, "Batch too large";
    /// The batch took too long to come in.
    BATCH_TOO_SLOW = "forward.ingest-batch-too-slow", Forward, Timeout, Client, retry true, "Batch too slow";
    /// The body is not gzip, or broken.
    GZIP = "forward.ingest-gzip", Forward, Malformed, Client, retry false, "Broken compression";
    /// Nothing in the body can be read as a record.
    UNREADABLE = "forward.ingest-unreadable", Forward, Malformed, Client, retry false, "No record can be read";
    /// A record could not be made durable.
    NOT_DURABLE = "forward.ingest-not-durable", Forward, Unavailable, Gateway, retry true, "Records could not be kept";

    /// A record is not JSON, or not an object.
    RECORD_FORM = "forward.import-form", Forward, Malformed, Client, retry false, "Imported record: not a JSON object";
    /// A record is larger, deeper or wider than its bound.
    RECORD_BOUND = "forward.import-bound", Forward, TooLarge, Client, retry false, "Imported record: beyond a bound";
    /// A record's field has a value that does not fit its column.
    RECORD_VALUE = "forward.import-value", Forward, Malformed, Client, retry false, "Imported record: wrong value";
    /// A record has no time, or one that is too long ago or ahead.
    RECORD_TIME = "forward.import-time", Forward, Malformed, Client, retry false, "Imported record: no usable time";
    /// The source of an imported record reports that the caller was refused, or at fault.
    REPORTED_REFUSAL = "forward.import-refusal", Forward, Denied, Client, retry false, "Imported record: refused at its source";
    /// The source of an imported record reports a failure behind it.
    REPORTED_FAILURE = "forward.import-failure", Forward, Backend, Backend, retry false, "Imported record: failed at its source";
}
