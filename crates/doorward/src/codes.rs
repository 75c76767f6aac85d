//! The fault codes of the gateway's own paths.

doorward_core::codes! {
    /// A request to one of the gateway's own paths is not what the path takes.
    OWN_REQUEST = "decode.own-request", Decode, Malformed, Client, retry false, "Not a request of this path";
}
