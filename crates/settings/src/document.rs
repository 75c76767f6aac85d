//! The whole configuration: one file, or a file and its overlays.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use aws_lc_rs::digest;
use doorward_core::ConfigDigest;

use crate::node::{Entry, Node, NodeKind};
use crate::parse::{self, FILE_BYTES_MAX};
use crate::problem::{Problem, Problems};

/// The most files that one configuration may be put together from.
const FILES_MAX: usize = 64;

/// A parsed configuration.
#[derive(Clone, Debug)]
pub struct Document {
    root: Node,
}

impl Document {
    /// Reads the first file and lays the others over it: mappings are merged key by key, anything else is
    /// replaced, and a key whose overlay is `null` is removed (as in RFC 7396). Keys that only an overlay
    /// has come after the others. Blocks on the disk.
    pub fn load(files: &[PathBuf]) -> Result<Self, Problems> {
        let mut problems = Problems::new();
        if files.is_empty() || files.len() > FILES_MAX {
            return Err(
                Problem::of_file("doorward", format!("name one to {FILES_MAX} configuration files")).into()
            );
        }
        let mut root: Option<Node> = None;
        for path in files {
            let Some(node) = problems.take(read(path)) else { continue };
            root = Some(match root {
                Some(base) => merge(base, node),
                None => node,
            });
        }
        match root {
            Some(root) => problems.or(Self { root }),
            None => Err(problems),
        }
    }

    /// Reads one text. Arbitrary bytes give a problem, never a panic.
    pub fn parse(file_name: &str, text: impl AsRef<[u8]>) -> Result<Self, Problem> {
        let file = Arc::from(file_name);
        let root = parse_root(&file, text.as_ref())?;
        Ok(Self { root })
    }

    /// The top mapping.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Identifies what is configured: the merged tree without comments, layout and file names. The order
    /// of keys counts, because the order of grants does.
    pub fn digest(&self) -> ConfigDigest {
        ConfigDigest::new(self.root.fingerprint())
    }
}

impl Node {
    /// Identifies what the node says, wherever it stands: two nodes with the same fingerprint configure
    /// the same. `sha256:` and the first 16 hex digits.
    pub fn fingerprint(&self) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        feed(self, &mut context);
        let hash = context.finish();
        let hex: String = hash.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{hex}")
    }
}

fn read(path: &PathBuf) -> Result<Node, Problem> {
    let file: Arc<str> = path.display().to_string().into();
    let cannot = |error: std::io::Error| Problem::of_file(&file, format!("the file cannot be read: {error}"));
    let mut bytes = Vec::new();
    let limit = u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    File::open(path).map_err(cannot)?.take(limit).read_to_end(&mut bytes).map_err(cannot)?;
    parse_root(&file, &bytes)
}

fn parse_root(file: &Arc<str>, bytes: &[u8]) -> Result<Node, Problem> {
    if bytes.len() > FILE_BYTES_MAX {
        return Err(parse::too_large(file));
    }
    let root = parse::parse(file, parse::utf8(file, bytes)?)?;
    if root.is_mapping() {
        return Ok(root);
    }
    Err(root.problem(format!("a mapping was expected, found {}", root.sort())))
}

fn merge(base: Node, overlay: Node) -> Node {
    match (base.kind, overlay.kind) {
        (NodeKind::Mapping(entries), NodeKind::Mapping(over)) => {
            let kind = NodeKind::Mapping(merge_entries(entries, over));
            Node { position: base.position, trail: base.trail, kind }
        }
        (_, kind) => Node { position: overlay.position, trail: overlay.trail, kind },
    }
}

fn merge_entries(base: Vec<Entry>, overlay: Vec<Entry>) -> Vec<Entry> {
    // An index by key keeps the merge of two large files linear; the order stays the files'.
    let places: HashMap<Box<str>, usize> =
        base.iter().enumerate().map(|(index, entry)| (entry.key.clone(), index)).collect();
    let mut slots: Vec<Option<Entry>> = base.into_iter().map(Some).collect();
    for entry in overlay {
        match places.get(&entry.key).and_then(|index| slots.get_mut(*index)) {
            Some(slot) => *slot = merge_entry(slot.take(), entry),
            None if entry.value.is_null() => {}
            None => slots.push(Some(entry)),
        }
    }
    slots.into_iter().flatten().collect()
}

fn merge_entry(base: Option<Entry>, overlay: Entry) -> Option<Entry> {
    if overlay.value.is_null() {
        return None;
    }
    let Some(Entry { key, key_position, value }) = base else { return Some(overlay) };
    Some(Entry { key, key_position, value: merge(value, overlay.value) })
}

/// Each node is fed with its kind and length in front, so that two trees never give the same bytes.
fn feed(node: &Node, context: &mut digest::Context) {
    let mut head = |kind: u8, len: usize| {
        context.update(&[kind]);
        context.update(&u64::try_from(len).unwrap_or(u64::MAX).to_le_bytes());
    };
    match &node.kind {
        NodeKind::Scalar { text, plain } => {
            head(if *plain { b'p' } else { b'q' }, text.len());
            context.update(text.as_bytes());
        }
        NodeKind::Sequence(items) => {
            head(b's', items.len());
            for item in items {
                feed(item, context);
            }
        }
        NodeKind::Mapping(entries) => {
            head(b'm', entries.len());
            for entry in entries {
                context.update(&u64::try_from(entry.key.len()).unwrap_or(u64::MAX).to_le_bytes());
                context.update(entry.key.as_bytes());
                feed(&entry.value, context);
            }
        }
    }
}
