//! Against the examples of RFC 6962 and C2SP, and against the definitions, for each size.

use proptest::prelude::*;

use crate::checkpoint::Checkpoint;
use crate::note::{Kind, Note, NoteError, Signer, Vkey};
use crate::proof::Bundle;
use crate::tile::{self, TileNodes};
use crate::tree::{self, Hash, Tree, consistent, includes, leaf_hash, node_hash};
use crate::witness::{AddCheckpoint, cosignatures};

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn leaves(count: usize) -> Vec<Hash> {
    (0..count).map(|index| leaf_hash(&index.to_be_bytes())).collect()
}

/// The definition of RFC 6962, word for word.
fn mth(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => tree::empty_root(),
        [one] => *one,
        more => {
            let mut k = 1;
            while k * 2 < more.len() {
                k *= 2;
            }
            node_hash(&mth(&more[..k]), &mth(&more[k..]))
        }
    }
}

/// The reference tree of certificate-transparency: its eight inputs and the roots of its beginnings.
#[test]
fn the_reference_trees_have_their_roots() {
    let inputs: [&[u8]; 8] = [
        b"",
        b"\x00",
        b"\x10",
        b"\x20\x21",
        b"\x30\x31",
        b"\x40\x41\x42\x43",
        b"\x50\x51\x52\x53\x54\x55\x56\x57",
        b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
    ];
    let roots = [
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    let mut tree = Tree::default();
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(hex(&tree.root()), *root, "size {size}");
        if let Some(input) = inputs.get(size) {
            tree.push(leaf_hash(input), |_| ());
        }
    }
}

#[test]
fn proofs_of_each_size_hold_and_nothing_else_does() {
    let all = leaves(66);
    for size in 1..all.len() {
        let root = mth(&all[..size]);
        let mut nodes = &all[..size];
        let length = u64::try_from(size).unwrap();
        assert_eq!(tree::root(&mut nodes, length).unwrap(), root);
        for index in 0..length {
            let leaf = all[usize::try_from(index).unwrap()];
            let proof = tree::inclusion(&mut nodes, index, length).unwrap();
            assert!(includes(leaf, index, length, &proof, &root), "{index} of {size}");
            assert!(!includes(leaf, index, length, &proof, &mth(&all[..size + 1])));
            assert!(!includes(leaf, index + 1, length, &proof, &root) || size == 1);
            assert!(!includes([7; 32], index, length, &proof, &root));
            let longer = [&proof[..], &[root]].concat();
            assert!(!includes(leaf, index, length, &longer, &root));
            if let Some((_, shorter)) = proof.split_last() {
                assert!(!includes(leaf, index, length, shorter, &root));
            }
        }
        for old in 0..=length {
            let old_root = mth(&all[..usize::try_from(old).unwrap()]);
            let proof = tree::consistency(&mut nodes, old, length).unwrap();
            assert!(consistent(old, &old_root, length, &root, &proof), "{old} of {size}");
            assert!(!consistent(old, &[7; 32], length, &root, &proof), "{old} of {size}");
            assert!(!consistent(old, &old_root, length, &[7; 32], &proof) || old == 0);
            let longer = [&proof[..], &[root]].concat();
            assert!(!consistent(old, &old_root, length, &root, &longer));
        }
        assert!(tree::inclusion(&mut nodes, length, length).is_err());
        assert!(tree::consistency(&mut nodes, length + 1, length).is_err());
    }
    assert!(!consistent(5, &[0; 32], 4, &[0; 32], &[]));
}

#[test]
fn tiles_hold_the_whole_tree() {
    const SIZE: usize = 70_000;
    let all = leaves(SIZE);
    let (mut tree, mut full) = (Tree::default(), Vec::new());
    for (index, leaf) in all.iter().enumerate() {
        tree.push(*leaf, |tile| full.push(tile));
        // It may be laid down and taken up at any size.
        if index % 997 == 0 || index == 65_535 || index == 65_791 {
            tree = Tree::from_bytes(&tree.to_bytes()).unwrap();
        }
    }
    assert!(Tree::from_bytes(&tree.to_bytes()[1..]).is_none() && Tree::from_bytes(&[]).is_none());
    let partial: Vec<_> = tree.edge().collect();
    // The counts are those of the example in tlog-tiles.
    let count = |level| full.iter().filter(|tile| tile.level == level).count();
    assert_eq!((count(0), count(1), count(2)), (273, 1, 0));
    let widths: Vec<_> = partial.iter().map(|tile| (tile.level, tile.index, tile.hashes.len())).collect();
    assert_eq!(widths, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]);
    assert_eq!(tree.root(), mth(&all));
    for tile in full.iter().chain(&partial) {
        assert_eq!(tile::width(tree.size(), tile.level, tile.index), tile.hashes.len());
        assert_eq!(tile::hashes(&tile.bytes()).as_ref(), Some(&tile.hashes));
    }
    let read = |level: u8, index: u64, _: usize| {
        let tile = full.iter().chain(&partial).find(|tile| tile.level == level && tile.index == index)?;
        Some(tile.hashes.clone())
    };
    let mut nodes = TileNodes::new(tree.size(), read);
    assert_eq!(tree::root(&mut nodes, tree.size()).unwrap(), tree.root());
    for index in [0, 1, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999] {
        let proof = tree::inclusion(&mut nodes, index, tree.size()).unwrap();
        let leaf = all[usize::try_from(index).unwrap()];
        assert!(includes(leaf, index, tree.size(), &proof, &tree.root()), "{index}");
        let proof = tree::consistency(&mut nodes, index, tree.size()).unwrap();
        let old = mth(&all[..usize::try_from(index).unwrap()]);
        assert!(consistent(index, &old, tree.size(), &tree.root(), &proof), "{index}");
    }
}

#[test]
fn tiles_are_named_as_the_specification_names_them() {
    assert_eq!(tile::path(0, 1_234_067, 256), "tile/0/x001/x234/067");
    assert_eq!(tile::path(1, 7, 17), "tile/1/007.p/17");
    assert_eq!(tile::hashes(&[0; 31]), None);
    assert_eq!(tile::hashes(&[]), None);
    assert_eq!(tile::hashes(&[0; 32 * 257]), None);
}

/// The example of signed-note, and the key of Go's `note` package.
const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const PETER_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
    then you don't know what your problem is.\n\n\
    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

#[test]
fn notes_of_others_are_read() {
    let key = Vkey::parse(PETER).unwrap();
    assert_eq!(key.to_string(), PETER);
    let note = Note::parse(PETER_NOTE).unwrap();
    assert_eq!(note.to_string(), PETER_NOTE);
    assert_eq!(key.verify(&note), Ok(None));
    let mut changed = note.clone();
    changed.text = changed.text.replace("answer", "Answer");
    assert_eq!(key.verify(&changed), Err(NoteError::Signature));
    assert_eq!(key.verify(&Note { signatures: Vec::new(), ..note }), Err(NoteError::Unsigned));
}

#[test]
fn what_is_no_note_and_no_key_is_refused() {
    let no_note =
        ["", "text\n", "text\n\n", "text\n\nsig\n", "text\n\n\u{2014} a b\n", "t\r\n\n\u{2014} a AAAAAAA=\n"];
    for text in no_note {
        assert_eq!(Note::parse(text), Err(NoteError::Form), "{text:?}");
    }
    let cut = PETER_NOTE.strip_suffix('\n').unwrap();
    assert_eq!(Note::parse(cut), Err(NoteError::Form));
    let many = format!("{PETER_NOTE}{}", "\u{2014} a AAAAAAA=\n".repeat(64));
    assert_eq!(Note::parse(&many), Err(NoteError::Form));
    let wrong_id = PETER.replace("c74f", "c74e");
    let (name, rest) = PETER.split_once('+').unwrap();
    for text in ["", "a", "a+b", "a+00000000+", &wrong_id, &format!("a b+{rest}"), name] {
        assert_eq!(Vkey::parse(text), Err(NoteError::Key), "{text:?}");
        assert!(Signer::parse(&format!("PRIVATE+KEY+{text}")).is_err());
    }
}

#[test]
fn logs_sign_and_witnesses_cosign() {
    let (log, kept) = Signer::generate("example.com/log", Kind::Ed25519).unwrap();
    let (witness, _) = Signer::generate("witness.example/w1", Kind::Cosignature).unwrap();
    assert_eq!(Signer::parse(&kept).unwrap().vkey(), log.vkey());
    assert!(!format!("{log:?}").contains(kept.rsplit('+').next().unwrap()));
    let time_us = Some(1_679_315_147_000_001);
    let origin = "example.com/log".to_owned();
    let extra = vec!["rows access 3".to_owned(), "time 5".to_owned()];
    let checkpoint = Checkpoint { origin, size: 20_852_163, root: [9; 32], time_us, extra };
    let mut note = checkpoint.sign(&log);
    note.signatures.push(witness.sign(&note.text, 1_679_315_147));
    let note = Note::parse(&note.to_string()).unwrap();
    assert_eq!(Checkpoint::parse(&note.text), Ok(checkpoint));
    assert_eq!(log.vkey().verify(&note), Ok(None));
    assert_eq!(witness.vkey().verify(&note), Ok(Some(1_679_315_147)));
    // A cosignature says another time than it was made for.
    let mut moved = note.clone();
    moved.signatures[1].bytes[7] ^= 1;
    assert_eq!(witness.vkey().verify(&moved), Err(NoteError::Signature));
    let lines = note.signatures[1].to_string();
    assert_eq!(cosignatures(&lines).unwrap(), note.signatures[1..]);
    assert!(Vkey::parse(&witness.vkey().to_string()).unwrap().kind() == Kind::Cosignature);
}

#[test]
fn checkpoints_are_read_strictly() {
    let root = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=";
    let good = Checkpoint::parse(&format!("example.com/behind-the-sofa\n20852163\n{root}\n")).unwrap();
    assert_eq!((good.size, good.root[0]), (20_852_163, 0x0a));
    for (extension, time_us) in
        [("extension", None), ("time 17", Some(17)), ("x\ntime 5", Some(5)), ("time -1", None)]
    {
        let checkpoint = Checkpoint::parse(&format!("a\n1\n{root}\n{extension}\n")).unwrap();
        assert_eq!(checkpoint.time_us, time_us, "{extension:?}");
    }
    for wrong in [
        format!("\n1\n{root}\n"),
        format!("a\n01\n{root}\n"),
        format!("a\n-1\n{root}\n"),
        format!("a\n{}\n{root}\n", u64::MAX),
        format!("a\n1\n{root}"),
        "a\n1\nAAAA\n".to_owned(),
        "a\n1\n".to_owned(),
    ] {
        assert_eq!(Checkpoint::parse(&wrong), Err(NoteError::Form), "{wrong:?}");
    }
}

#[test]
fn requests_and_bundles_come_back_as_they_were() {
    let note = Note::parse(PETER_NOTE).unwrap();
    let request = AddCheckpoint { old_size: 20_852_014, proof: vec![[1; 32], [2; 32]], note: note.clone() };
    assert_eq!(AddCheckpoint::parse(&request.to_string()), Ok(request.clone()));
    let first = AddCheckpoint { old_size: 0, proof: Vec::new(), ..request.clone() };
    assert_eq!(AddCheckpoint::parse(&first.to_string()), Ok(first));
    let too_long = AddCheckpoint { proof: vec![[1; 32]; 64], ..request };
    assert_eq!(AddCheckpoint::parse(&too_long.to_string()), Err(NoteError::Form));
    for extra in [&b""[..], b"row"] {
        let bundle = Bundle { extra: extra.to_vec(), index: 5, proof: vec![[1; 32]], note: note.clone() };
        assert_eq!(Bundle::parse(&bundle.to_string()), Ok(bundle));
    }
    for wrong in ["", "old 1\n", "old 01\n\na\n", "new 1\n\na\n", "c2sp.org/tlog-proof@v2\nindex 1\n\na\n"] {
        assert!(AddCheckpoint::parse(wrong).is_err() && Bundle::parse(wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn foreign_bytes_do_no_harm(text in "(old [0-9]{1,4}\n|[A-Za-z=]{0,44}\n|\n|\u{2014} a [A-Za-z]{4,8}\n|\\PC{0,9}){0,12}") {
        let _ = (Note::parse(&text), AddCheckpoint::parse(&text), Bundle::parse(&text), Vkey::parse(&text));
        let _ = (Checkpoint::parse(&text), cosignatures(&text), Signer::parse(&text));
    }
}
