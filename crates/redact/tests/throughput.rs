//! How fast texts are redacted, by kind; it prints the figures and fails only when they are absurd.
#![allow(clippy::print_stdout, missing_docs)]

use std::time::Instant;

use doorward_core::Form;
use doorward_redact::{Keep, RedactConfig, Redactor};

const SQL: &str = "SELECT o.id, o.status, c.name FROM public.orders o JOIN customers c ON c.id = o.customer_id \
                   WHERE o.created_at > '2026-11-01' AND o.status IN ('paid', 'new') AND o.total > 99.5 ORDER BY o.id LIMIT 50";
const TEMPLATE: &str =
    "GET /shop/orders?select=id,status,total&status=eq.?&created_at=gt.?&order=id.desc&limit=?";
const AGENT: &str =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0 Safari/537.36";
const TEXTS: u32 = 20_000;

#[test]
fn throughput() {
    let keep = Redactor::default();
    let config = RedactConfig { literals: Keep::Redact, ..RedactConfig::default() };
    let literals = Redactor::new(&config).unwrap_or_default();
    for (name, redactor, form, text) in [
        ("statement", &keep, Form::Sql, SQL),
        ("statement, literals out", &literals, Form::Sql, SQL),
        ("operation of the REST door", &keep, Form::Template, TEMPLATE),
        ("user agent", &keep, Form::Text, AGENT),
        ("object", &keep, Form::Path, "public/orders"),
    ] {
        let begun = Instant::now();
        let mut length = 0;
        for _ in 0..TEXTS {
            length += redactor.redact(form, std::hint::black_box(text), 8 << 10).len();
        }
        let each = begun.elapsed() / TEXTS;
        let rate = (text.len() as f64) / each.as_secs_f64() / 1e6;
        println!("{name}: {} bytes in {:.2} µs, {rate:.0} MB/s", text.len(), each.as_secs_f64() * 1e6);
        assert!(length > 0 && each.as_millis() < 10, "{name}: {each:?}");
    }
}
