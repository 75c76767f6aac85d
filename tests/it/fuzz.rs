//! Runs the fuzz targets without a fuzzer: over the kept corpus, and over mutations of it from a seeded
//! generator, bounded in time. `DOORWARD_FUZZ_SECONDS` gives each target longer (`make fuzz`),
//! `DOORWARD_FUZZ_SEED` repeats a run.

use std::panic::catch_unwind;
use std::time::{Duration, Instant};

use doorward_testkit::workspace_root;

#[path = "../../fuzz/targets.rs"]
mod targets;

/// How long each target is tried when nothing is said.
const SECONDS_DEFAULT: f64 = 0.5;
/// CPU that one input may take.
const INPUT_SPAN_MAX: Duration = Duration::from_secs(2);
/// Inputs do not grow beyond this.
const INPUT_BYTES_MAX: usize = 8 * 1024;
/// Changes to one input.
const CHANGES_MAX: u64 = 8;
/// Pieces that parsers look for.
const PIECES: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\r\n",
    b"\n",
    b": ",
    b"- ",
    b"\"",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b".",
    b"..",
    b"%",
    b"%00",
    b"%2F",
    b"&",
    b"*",
    b"&a *a",
    b"|",
    b">",
    b"!!",
    b"<<",
    b"0x",
    b"-1",
    b"9223372036854775808",
    b"1e999",
    b"null",
    b"true",
    b"\xef\xbb\xbf",
    b"\xc3\x28",
    b"=",
    b"(",
    b")",
    b" select ",
    b" from ",
    b" union ",
    b"$1",
    b"::",
    b"/*",
];

/// xorshift64*: small, seeded, good enough.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.next() % CHANGES_MAX {
        let at = random.below(input.len() + 1);
        let end = at + random.below(input.len() + 1 - at).min(64);
        match random.next() % 7 {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = random.next() as u8,
            2 => drop(input.drain(at..end)),
            3 => {
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let from = random.below(other.len() + 1);
                input.splice(at..end, other[from..].iter().copied().take(256));
            }
            5 => input.truncate(at),
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                input.splice(at..at, piece.iter().copied());
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
    input
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = workspace_root().join("fuzz/corpus").join(name);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus of {name} is empty");
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

/// CPU that an input takes: by the clock a busy machine is slow with any of them.
fn cpu_span(target: fn(&[u8]), input: &[u8]) -> Duration {
    let used = || {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
    };
    let before = used();
    target(input);
    used() - before
}

#[test]
fn fuzz_targets_hold_over_the_corpus_and_its_mutations() {
    let seconds = number("DOORWARD_FUZZ_SECONDS").unwrap_or(SECONDS_DEFAULT);
    let seed: u64 = number("DOORWARD_FUZZ_SEED").unwrap_or(1);
    for (name, target) in targets::TARGETS {
        let corpus = corpus(name);
        let mut random = Random(seed.max(1));
        let start = Instant::now();
        let mut runs = 0_u64;
        let mut kept = corpus.iter().cloned();
        while start.elapsed() < Duration::from_secs_f64(seconds) || runs < corpus.len() as u64 {
            let input = kept.next().unwrap_or_else(|| mutate(&mut random, &corpus));
            let began = Instant::now();
            if catch_unwind(|| target(&input)).is_err() {
                panic!("{name} fails; put this into fuzz/corpus/{name}/: {}", input.escape_ascii());
            }
            let took =
                if began.elapsed() < INPUT_SPAN_MAX { Duration::ZERO } else { cpu_span(*target, &input) };
            assert!(took < INPUT_SPAN_MAX, "{name} took {took:?}: {}", input.escape_ascii());
            runs += 1;
        }
        println!("{name}: {runs} inputs in {:?}, seed {seed}", start.elapsed());
    }
}

#[test]
fn every_target_has_its_wrapper_for_libfuzzer() {
    let manifest = std::fs::read_to_string(workspace_root().join("fuzz/Cargo.toml")).unwrap();
    for (name, _) in targets::TARGETS {
        let wrapper = workspace_root().join(format!("fuzz/fuzz_targets/{name}.rs"));
        let text = std::fs::read_to_string(wrapper).unwrap();
        assert!(text.contains(&format!("targets::{name}(bytes)")));
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")));
    }
}
