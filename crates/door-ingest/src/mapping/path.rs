//! Paths into a record: dotted (`request.method`), or a JSON pointer (RFC 6901) for names that hold dots or
//! slashes. A dotted path also finds a member of just this name, because many sources write flat names.

use serde_json::Value;

/// The most steps of a path.
pub(crate) const STEPS_MAX: usize = 16;
/// The longest path.
pub(crate) const PATH_BYTES_MAX: usize = 512;

/// A way to a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Path {
    text: Box<str>,
    steps: Vec<Box<str>>,
    /// Whether the whole text may be one member's name.
    dotted: bool,
}

impl Path {
    /// Reads a path; the error says what is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() || text.len() > PATH_BYTES_MAX {
            return Err("a path has 1 to 512 bytes");
        }
        let (dotted, steps): (bool, Vec<Box<str>>) = match text.strip_prefix('/') {
            Some(pointer) => {
                let step = |step: &str| step.replace("~1", "/").replace("~0", "~").into();
                (false, pointer.split('/').map(step).collect())
            }
            None => (text.contains('.'), text.split('.').map(Into::into).collect()),
        };
        if steps.iter().any(|step| step.is_empty()) {
            return Err("a step of the path is empty");
        }
        if steps.len() > STEPS_MAX {
            return Err("the path has more than 16 steps");
        }
        Ok(Self { text: text.into(), steps, dotted })
    }

    /// The path as it was written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// The steps.
    pub(crate) fn steps(&self) -> &[Box<str>] {
        &self.steps
    }

    /// The one member's name that the path may also be.
    pub(crate) fn flat(&self) -> Option<&str> {
        self.dotted.then_some(&*self.text)
    }

    /// The value there, if there is one: null, an empty text and `-` are none.
    pub(crate) fn find<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        let flat = self.flat().and_then(|name| document.get(name));
        flat.or_else(|| self.steps.iter().try_fold(document, |value, step| member(value, step)))
            .filter(|value| !is_absent(value))
    }
}

fn member<'v>(value: &'v Value, step: &str) -> Option<&'v Value> {
    match value {
        Value::Object(members) => members.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    }
}

/// Whether a value says that there is none.
pub(crate) fn is_absent(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => matches!(&**text, "" | "-"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_found_by_steps_names_and_pointers() {
        let document = json!({
            "a": { "b": 1, "x/y": 2, "~": 3, "list": [{ "c": 4 }] }, "http.method": "GET", "none": null, "dash": "-"
        });
        for (path, expected) in [
            ("a.b", Some(json!(1))),
            ("/a/x~1y", Some(json!(2))),
            ("/a/~0", Some(json!(3))),
            ("a.list.0.c", Some(json!(4))),
            ("http.method", Some(json!("GET"))),
            ("/http.method", Some(json!("GET"))),
            ("a.list.1", None),
            ("none", None),
            ("dash", None),
            ("a.b.c", None),
        ] {
            assert_eq!(Path::parse(path).unwrap().find(&document), expected.as_ref(), "{path}");
        }
        for wrong in ["", "a..b", ".a", "a.", "/", "/a//b", &"a.".repeat(20)] {
            assert!(Path::parse(wrong).is_err(), "{wrong}");
        }
    }
}
