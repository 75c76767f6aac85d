//! Which fields of a record a mapping knows, as a tree; and those of a record that it does not know.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::path::{Path, is_absent};

/// A node of the tree: the members that are known by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    members: HashMap<Box<str>, Known>,
    /// Everything from here on is known.
    all: bool,
}

/// Unknown fields of one record: their paths, and their values.
pub(crate) type Unknown = Vec<(String, Value)>;

impl Known {
    /// Knows what a path leads to.
    pub(crate) fn learn(&mut self, path: &Path) {
        let mut node = &mut *self;
        for step in path.steps() {
            node = node.members.entry(step.clone()).or_default();
        }
        node.all = true;
        if let Some(name) = path.flat() {
            self.members.entry(name.into()).or_default().all = true;
        }
    }

    /// The fields of `record` that are not known, with their values. Of a member of which nothing is known
    /// that member is named, not what is in it.
    pub(crate) fn unknown(&self, record: &Map<String, Value>) -> Unknown {
        let mut found = Vec::new();
        self.walk(record, &mut String::new(), &mut found);
        found
    }

    fn walk(&self, members: &Map<String, Value>, prefix: &mut String, found: &mut Unknown) {
        for (name, value) in members {
            let node = self.members.get(name.as_str());
            if node.is_some_and(|node| node.all) || is_absent(value) {
                continue;
            }
            let length = prefix.len();
            if length > 0 {
                prefix.push('.');
            }
            prefix.push_str(name);
            match (node, value) {
                // A list that is known in part counts as known: its places are not fields.
                (Some(_), Value::Array(_)) => {}
                (Some(node), Value::Object(members)) => node.walk(members, prefix, found),
                _ => found.push((prefix.clone(), value.clone())),
            }
            prefix.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_known_is_named() {
        let mut known = Known::default();
        for path in ["a.b", "c", "/d.e", "list.0.x"] {
            known.learn(&Path::parse(path).unwrap());
        }
        let record = json!({
            "a": { "b": { "deep": 1 }, "new": 2 }, "a.b": 1, "c": [1], "d.e": 1, "d": { "e": 3 }, "f": null, "list": [{ "x": 1 }]
        });
        let unknown = known.unknown(record.as_object().unwrap());
        let names: Vec<&str> = unknown.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a.new", "d"]);
    }
}
