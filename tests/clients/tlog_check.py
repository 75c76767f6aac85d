"""Checks a gateway's log with aics-tlog, an implementation of the C2SP formats that shares no code with ours.

    tlog_check.py DIRECTORY VKEY WITNESS_VKEY BUNDLE

The directory is in the layout of tlog-tiles; the bundle is a tlog-proof. Says what it has checked, or fails.
"""

import base64
import sys
from pathlib import Path

from aics_tlog import (
    FileSystemTileReader,
    consistency_proof_from_tiles,
    inclusion_proof_from_tiles,
    parse_note,
    parse_vkey,
    tree_root_from_tiles,
    verify_checkpoint,
    verify_consistency,
    verify_inclusion,
)


def checkpoint(text, log, witnesses, quorum):
    note = parse_note(text)
    result = verify_checkpoint(note, log, witnesses, quorum)
    assert result.ok, result.error
    return result


def main(directory, vkey, witness, bundle):
    log, witness = parse_vkey(vkey), parse_vkey(witness)
    result = checkpoint((Path(directory) / "checkpoint").read_text(), log, [witness], 1)
    tiles = FileSystemTileReader(directory)
    size, root = result.size, result.root
    assert tree_root_from_tiles(tiles, size) == root, "the tiles do not make the root"
    for old in {1, size // 2, size - 1, size} - {0}:
        old_root = tree_root_from_tiles(tiles, old, size)
        proof = consistency_proof_from_tiles(tiles, old, size)
        assert verify_consistency(old, size, old_root, root, proof), f"{old} leaves are no beginning of {size}"

    head, note = Path(bundle).read_text().split("\n\n", 1)
    lines = head.split("\n")
    assert lines[0] == "c2sp.org/tlog-proof@v1" and lines[1].startswith("extra "), lines[:2]
    index = int(lines[2].removeprefix("index "))
    proof = [base64.b64decode(line) for line in lines[3:]]
    proved = checkpoint(note, log, [], 0)
    leaf = tiles.read_tile(0, index // 256, None) or tiles.read_tile(0, index // 256, size % 256)
    leaf = leaf[32 * (index % 256) : 32 * (index % 256) + 32]
    assert verify_inclusion(leaf, index, proved.size, proof, proved.root), "the bundle proves nothing"
    assert inclusion_proof_from_tiles(tiles, index, proved.size, size) == proof, "the proofs differ"
    print(f"checked {size} leaves, cosigned by {', '.join(result.witnesses)}; leaf {index} of {proved.size} is in")


if __name__ == "__main__":
    main(*sys.argv[1:])
