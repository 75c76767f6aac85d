//! What is refused, and in which words.

use expect_test::expect;
use http::Method;

use super::*;

#[test]
fn paths_and_methods() {
    get(r#""#).refused(&expect![[r#"
        404 PGRST126 decode.rest-path: Root endpoint metadata is disabled
        hint: Name a table: /RESOURCE/TABLE. The OpenAPI description comes with a later version."#]]);
    get(r#"a/b"#).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    get(r#"rpc/"#).refused(&expect![[r#"
        404 PGRST205 forward.rest-unknown-table: Could not find the table 'public.rpc' in the schema cache
        hint: Check the table's name; a new table is known once the schema has been reloaded."#]]);
    get(r#"rpc/a/b"#).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    get(r#"a%zz"#).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    get(r#"a%2"#).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    get(r#"a%00b"#).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    get(r#"%ff"#).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    get(&"x".repeat(64)).refused(&expect![[r#"
        404 PGRST125 decode.rest-path: Invalid path specified in request URL
        hint: Paths are /RESOURCE/TABLE and /RESOURCE/rpc/FUNCTION."#]]);
    Ask::new(Method::PUT, "orders?id=eq.1").refused(&expect![[r#"
        405 PGRST117 decode.rest-method: Unsupported HTTP method: PUT
        hint: Use POST to insert and PATCH to update; PUT comes with upsert, in a later version."#]]);
    Ask::new(Method::TRACE, "orders").refused(&expect![[r#"
        405 PGRST117 decode.rest-method: Unsupported HTTP method
        hint: Use GET, HEAD, POST, PATCH, DELETE or OPTIONS."#]]);
    Ask::new(Method::DELETE, "rpc/add").refused(&expect![[r#"
        405 PGRST101 decode.rest-method: Cannot use the DELETE method on RPC
        hint: Call functions by GET or POST."#]]);
    post("totals", "{}").refused(&expect![[r#"
        405 PGRST117 decode.rest-method: Unsupported HTTP method: POST
        details: 'public.totals' is a view whose rows cannot be changed this way
        hint: OPTIONS lists the methods; change the tables behind the view."#]]);
    Ask::new(Method::DELETE, "totals?status=eq.a").refused(&expect![[r#"
        405 PGRST117 decode.rest-method: Unsupported HTTP method: DELETE
        details: 'public.totals' is a view whose rows cannot be changed this way
        hint: OPTIONS lists the methods; change the tables behind the view."#]]);
}

#[test]
fn a_refusal_does_not_repeat_thousands_of_keys() {
    let keys: Vec<String> = (0..5_000).map(|key| format!("\"k{key:04}\":1")).collect();
    post("rpc/add", &format!("{{{}}}", keys.join(","))).refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.add(k0000, k0001, k0002, k0003, k0004, k0005, k0006, k0007, k0008, k0009, k0010, k0011, k0012, k0013, k0014, k0015, …) in the schema cache
        details: Searched for the function public.add(k0000, k0001, k0002, k0003, k0004, k0005, k0006, k0007, k0008, k0009, k0010, k0011, k0012, k0013, k0014, k0015, …), but no matches were found in the schema cache.
        hint: Perhaps you meant to call the function public.add(a, b)"#]]);
}

#[test]
fn unknown_names() {
    get(r#"ordrs"#).refused(&expect![[r#"
        404 PGRST205 forward.rest-unknown-table: Could not find the table 'public.ordrs' in the schema cache
        hint: Perhaps you meant the table 'public.orders'"#]]);
    get("ordrs").hidden().refused(&expect![[r#"
        404 PGRST205 forward.rest-unknown-table: Could not find the table 'public.ordrs' in the schema cache
        hint: Check the table's name; a new table is known once the schema has been reloaded."#]]);
    get(r#"zzz"#).refused(&expect![[r#"
        404 PGRST205 forward.rest-unknown-table: Could not find the table 'public.zzz' in the schema cache
        hint: Check the table's name; a new table is known once the schema has been reloaded."#]]);
    get(r#"rpc/ad?a=1"#).refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.ad(a) in the schema cache
        details: Searched for the function public.ad(a), but no matches were found in the schema cache.
        hint: Perhaps you meant to call the function public.add"#]]);
    get("rpc/ad?a=1").hidden().refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.ad(a) in the schema cache
        details: Searched for the function public.ad(a), but no matches were found in the schema cache.
        hint: Check the function's name; a new function is known once the schema has been reloaded."#]]);
    get(r#"rpc/add?a=1"#).refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.add(a) in the schema cache
        details: Searched for the function public.add(a), but no matches were found in the schema cache.
        hint: Perhaps you meant to call the function public.add(a, b)"#]]);
    get(r#"rpc/add?a=1&b=2&c=3"#).refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.add(a, b, c) in the schema cache
        details: Searched for the function public.add(a, b, c), but no matches were found in the schema cache.
        hint: Perhaps you meant to call the function public.add(a, b)"#]]);
    get(r#"rpc/twice?x=1"#).refused(&expect![[r#"
        300 PGRST203 forward.rest-ambiguous-function: Could not choose the best candidate function between: public.twice(x => integer), public.twice(x => text)
        hint: Try renaming the parameters or the function itself in the database so function overloading can be resolved"#]]);
    get(r#"rpc/take?x=1"#).refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.take(x) in the schema cache
        details: Searched for the function public.take(x), but no matches were found in the schema cache.
        hint: Perhaps you meant to call the function public.take()"#]]);
    post("rpc/add", "[1]").refused(&expect![[r#"
        404 PGRST202 forward.rest-unknown-function: Could not find the function public.add without parameters in the schema cache
        details: Searched for the function public.add without parameters, but no matches were found in the schema cache.
        hint: Perhaps you meant to call the function public.add(a, b)"#]]);
    post("orders", r#"{"stat":1}"#).refused(&expect![[r#"
        400 PGRST204 forward.rest-unknown-column: Could not find the 'stat' column of 'orders' in the schema cache
        hint: Perhaps you meant the column 'status'"#]]);
    post("orders?columns=nope", "{}").refused(&expect![[r#"
        400 PGRST204 forward.rest-unknown-column: Could not find the 'nope' column of 'orders' in the schema cache
        hint: Leave the key out, or check the column's name."#]]);
    patch("orders", r#"{"zzz":1}"#).refused(&expect![[r#"
        400 PGRST204 forward.rest-unknown-column: Could not find the 'zzz' column of 'orders' in the schema cache
        hint: Leave the key out, or check the column's name."#]]);
    get("orders").with("accept-profile", "secret").refused(&expect![[r#"
        406 PGRST106 decode.rest-schema: Invalid schema
        details: the schema asked for in accept-profile is not served
        hint: Leave the header out for the default schema, or name one that the resource's configuration lists."#]]);
    post("orders", "{}").with("content-profile", "secret").refused(&expect![[r#"
        406 PGRST106 decode.rest-schema: Invalid schema
        details: the schema asked for in content-profile is not served
        hint: Leave the header out for the default schema, or name one that the resource's configuration lists."#]]);
}

#[test]
fn filters() {
    get(r#"orders?id=5"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 1)
        details: unexpected "5" expecting "not" or operator (eq, gt, ...)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=noop.5"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 1)
        details: unexpected "n" expecting "not" or operator (eq, gt, ...)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=eq"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 3)
        details: unexpected end of input expecting delimiter (.)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=not.5"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 5)
        details: unexpected "5" expecting "not" or operator (eq, gt, ...)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=is.maybe"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 4)
        details: unexpected "m" expecting isVal: (null, not_null, true, false, unknown)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=is.nullx"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 4)
        details: unexpected "n" expecting isVal: (null, not_null, true, false, unknown)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=in.1,2"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 4)
        details: unexpected "1" expecting "("
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=in.(1,2"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 8)
        details: unexpected end of input expecting "," or ")"
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=in.(1)x"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 7)
        details: unexpected "x" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?id=neq(any).{1}"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 4)
        details: unexpected "(" expecting delimiter (.)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?body=fts().x"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 5)
        details: unexpected ")" expecting a type's name
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?body=fts(english.x"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse filter" (line 1, column 12)
        details: unexpected "." expecting ")"
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?a.b=eq.1"#).refused(&expect![[r#"
        400 PGRST108 decode.rest-query: 'a' is not an embedded resource in this request
        hint: Embedded relations are not supported in this version; filter the table's own columns."#]]);
    get(r#"orders?->x=eq.1"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse tree path" (line 1, column 1)
        details: unexpected "-" expecting field name (* or [a..z0..9_$])
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?a->=eq.1"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse tree path" (line 1, column 4)
        details: unexpected end of input expecting a JSON key or index
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?a->>-x=eq.1"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse tree path" (line 1, column 6)
        details: unexpected "x" expecting digit
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?a->99999999999=eq.1"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: a JSON index is out of range
        hint: Ask with a simpler query."#]]);
    get(&format!("orders?{}=eq.1", "a".repeat(64))).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: a name is longer than 63 bytes
        hint: Ask with a simpler query."#]]);
    get(&format!("orders?a{}=eq.1", "->b".repeat(33))).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: a JSON path has more than 32 steps
        hint: Ask with a simpler query."#]]);
    get(r#"orders?id=eq.%ff"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: a query parameter is not UTF-8 text
        details: percent-decoding gives bytes that are not UTF-8, or a NUL character
        hint: Encode parameters as UTF-8 and percent-encode them once."#]]);
    get(r#"orders?id=eq.a%00b"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: a query parameter is not UTF-8 text
        details: percent-decoding gives bytes that are not UTF-8, or a NUL character
        hint: Encode parameters as UTF-8 and percent-encode them once."#]]);
    get(&format!("orders?{}", "id=eq.1&".repeat(257))).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: too many query parameters
        details: at most 256 are read
        hint: Ask with fewer parameters; `in.(…)` tests one column for many values."#]]);
}

#[test]
fn trees() {
    get(r#"orders?or=()"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 2)
        details: unexpected ")" expecting field name (* or [a..z0..9_$])
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?or=id.eq.1"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 1)
        details: unexpected "i" expecting "("
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?or=(id.eq.1"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 9)
        details: unexpected end of input expecting "," or ")"
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?or=(id.eq.1))"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 10)
        details: unexpected ")" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?or=(id)"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 4)
        details: unexpected ")" expecting delimiter (.)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?and=(xor(id.eq.1))"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 5)
        details: unexpected "(" expecting delimiter (.)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?and=(not.id.eq.1)"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse logic tree" (line 1, column 6)
        details: unexpected "i" expecting "not" or operator (eq, gt, ...)
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(&format!("orders?and={}id.eq.1{}", "(and".repeat(17), ")".repeat(17))).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: logic is nested deeper than 16 levels
        hint: Ask with a simpler query."#]]);
    get(&format!("orders?and={}", "(or".repeat(5_000))).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: logic is nested deeper than 16 levels
        hint: Ask with a simpler query."#]]);
}

#[test]
fn select_and_order() {
    get(r#"orders?select=id,"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 4)
        details: unexpected end of input expecting field name (* or [a..z0..9_$])
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=,"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 1)
        details: unexpected "," expecting field name (* or [a..z0..9_$])
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=id::"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 5)
        details: unexpected end of input expecting a type's name
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=:id"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 1)
        details: unexpected ":" expecting field name (* or [a..z0..9_$])
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=a:b:c"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse select parameter" (line 1, column 4)
        details: unexpected ":" expecting end of input
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?select=client(*)"#).refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: embedded relations in select: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
    get(r#"orders?select=client!inner(*)"#).refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: embedded relations in select: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
    get(r#"orders?select=...client(*)"#).refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: spread relations in select: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
    get(r#"orders?select=id.count()"#).refused(&expect![[r#"
        400 PGRST123 decode.rest-not-implemented: Use of aggregate functions is not allowed
        hint: Aggregate in a view or a function, and ask for that."#]]);
    get(r#"orders?select=count()"#).refused(&expect![[r#"
        400 PGRST123 decode.rest-not-implemented: Use of aggregate functions is not allowed
        hint: Aggregate in a view or a function, and ask for that."#]]);
    get(r#"orders?order=id.up"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse order" (line 1, column 4)
        details: unexpected "u" expecting "asc", "desc", "nullsfirst" or "nullslast"
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?order=id.desc.asc"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse order" (line 1, column 9)
        details: unexpected "a" expecting "asc", "desc", "nullsfirst" or "nullslast"
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?order=client(id)"#).refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: ordering by embedded relations: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
    get(r#"orders?columns=a,,b"#).refused(&expect![[r#"
        400 PGRST100 decode.rest-query: "failed to parse columns parameter" (line 1, column 3)
        details: unexpected "," expecting field name (* or [a..z0..9_$])
        hint: See https://docs.postgrest.org/en/stable/references/api/tables_views.html for the syntax."#]]);
    get(r#"orders?on_conflict=id"#).refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: upsert with on_conflict: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
}

#[test]
fn ranges() {
    get("orders").with("range", "9-3").refused(&expect![[r#"
        416 PGRST103 decode.rest-range: Requested range not satisfiable
        details: The lower boundary must be lower than or equal to the upper boundary in the Range header.
        hint: Send Range: FIRST-LAST with FIRST not greater than LAST."#]]);
    get(r#"orders?limit=-1"#).refused(&expect![[r#"
        416 PGRST103 decode.rest-range: Requested range not satisfiable
        details: Limit should be greater than or equal to zero.
        hint: Send a limit of zero or more."#]]);
    Ask::new(Method::DELETE, "orders?id=gt.1&limit=10").refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: limit and offset on PATCH and DELETE: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
    patch("orders?offset=1", "{}").refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: limit and offset on PATCH and DELETE: not supported in this version
        hint: Leave it out; a later version of the gateway brings it."#]]);
}

#[test]
fn media_and_preferences() {
    get("orders").with("accept", "text/csv").refused(&expect![[r#"
        406 PGRST107 decode.rest-not-acceptable: None of these media types are available
        details: this version writes application/json
        hint: Send Accept: application/json."#]]);
    get("orders").with("accept", "application/vnd.pgrst.plan+json").refused(&expect![[r#"
        406 PGRST107 decode.rest-not-acceptable: None of these media types are available
        details: this version writes application/json
        hint: Send Accept: application/json."#]]);
    post("orders", "a=1").with("content-type", "application/x-www-form-urlencoded").refused(&expect![[r#"
        415 PGRST107 decode.rest-media-type: Content-Type not acceptable
        details: this version reads JSON bodies; CSV and form bodies come with a later one
        hint: Send the body as application/json."#]]);
    post("orders", "id").with("content-type", "text/csv").refused(&expect![[r#"
        415 PGRST107 decode.rest-media-type: Content-Type not acceptable
        details: this version reads JSON bodies; CSV and form bodies come with a later one
        hint: Send the body as application/json."#]]);
    post("orders", "{}").with("prefer", "resolution=merge-duplicates").refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: the preference for upsert is not supported in this version
        hint: Leave the preference out."#]]);
    get("orders").with("prefer", "handling=strict, wings").refused(&expect![[r#"
        400 PGRST122 decode.rest-preference: Invalid preferences given with handling=strict
        details: Invalid preferences: wings
        hint: Leave them out, or send handling=lenient."#]]);
    patch("orders", "{}").with("prefer", "max-affected=1").refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: the preference for max-affected is not supported in this version
        hint: Leave the preference out."#]]);
    post("orders", "{}").with("prefer", "tx=rollback").refused(&expect![[r#"
        400 PGRST127 decode.rest-not-implemented: Feature not implemented
        details: the preference for tx=rollback is not supported in this version
        hint: Leave the preference out."#]]);
}

#[test]
fn bodies() {
    post("orders", "").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: the JSON is broken at line 1, column 0
        hint: Send well-formed JSON (RFC 8259)."#]]);
    post("orders", "{").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: the JSON is broken at line 1, column 1
        hint: Send well-formed JSON (RFC 8259)."#]]);
    post("orders", "{\"a\":1}x").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: the JSON is broken at line 1, column 8
        hint: Send well-formed JSON (RFC 8259)."#]]);
    post("orders", "[1]").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: a body is an object, or an array of objects
        hint: Send a row as {"column": value}, several rows as an array of such objects."#]]);
    post("orders", "[[{}]]").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: a body is an object, or an array of objects
        hint: Send a row as {"column": value}, several rows as an array of such objects."#]]);
    post("orders", "5").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: a body is an object, or an array of objects
        hint: Send a row as {"column": value}, several rows as an array of such objects."#]]);
    post("orders", "[{\"id\":1},{\"status\":1}]").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: All object keys must match
        details: the objects of the array do not all have the same keys
        hint: Give each object the same keys, or name the columns in `columns=`."#]]);
    post("orders", &format!("{{\"data\":{}{}}}", "[".repeat(64), "]".repeat(64))).refused(&expect![[r#"
        400 PGRST102 decode.rest-body: the body is nested too deep
        details: at most 64 levels of objects and arrays are read
        hint: Send flatter JSON."#]]);
    post("orders", &"[".repeat(200_000)).refused(&expect![[r#"
        400 PGRST102 decode.rest-body: the body is nested too deep
        details: at most 64 levels of objects and arrays are read
        hint: Send flatter JSON."#]]);
    post("rpc/add", "{\"a\":}").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: the JSON is broken at line 1, column 6
        hint: Send well-formed JSON (RFC 8259)."#]]);
    post("orders", "{\"a\":\"\\ud800\"}x").refused(&expect![[r#"
        400 PGRST102 decode.rest-body: Empty or invalid json
        details: the JSON is broken at line 1, column 15
        hint: Send well-formed JSON (RFC 8259)."#]]);
}

#[test]
fn a_grant_on_a_table_is_none_on_functions() {
    // PostgreSQL would read orders.to_json as to_json(orders).
    get(r#"orders?select=to_json"#).refused(&expect![[r#"
        400 42703 forward.rest-unknown-column: column orders.to_json does not exist
        hint: Check the column's name; a computed column needs a grant to read its function."#]]);
    get(r#"orders?or=(id.eq.1,not.and(hash_record.gt.0,id.eq.2))"#).refused(&expect![[r#"
        400 42703 forward.rest-unknown-column: column orders.hash_record does not exist
        hint: Check the column's name; a computed column needs a grant to read its function."#]]);
    get(r#"orders?order=pg_typeof"#).refused(&expect![[r#"
        400 42703 forward.rest-unknown-column: column orders.pg_typeof does not exist
        hint: Check the column's name; a computed column needs a grant to read its function."#]]);
}
