//! Stack for syntax trees: they are decoded, walked and dropped by recursion.
//!
//! Each level takes up to [`LEVEL_BYTES`] of stack (the decoder of libpg_query's tree takes most of them). So
//! before a text is parsed, `tokens::depth_bound` says how deep its tree can be at most: a shallow one is read
//! where the caller stands, a deep one on a thread with a stack of its own, and what is deeper than
//! [`LEVELS_MAX`] is refused. The parser itself, in C, watches its stack as PostgreSQL does.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The most stack that a level takes: 60 KiB were measured for the worst of them (a chain of NOT, optimized
/// little), 32 KiB for most.
const LEVEL_BYTES: usize = 64 << 10;
/// The deepest tree that is read on the caller's stack, which is at least 2 MiB large.
const HERE_LEVELS_MAX: usize = 16;
/// The deepest tree that is read at all.
pub const LEVELS_MAX: usize = 4_000;
/// What is needed beside the levels.
const BASE_BYTES: usize = 4 << 20;

/// Runs with stack for that many levels; `None` when there are too many, or when the work broke down.
pub(crate) fn run<T: Send>(levels: usize, work: impl FnOnce() -> T + Send) -> Option<T> {
    if levels <= HERE_LEVELS_MAX {
        // The library in between takes some shapes of tree for granted.
        return catch_unwind(AssertUnwindSafe(work)).ok();
    }
    if levels > LEVELS_MAX {
        return None;
    }
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("sql-deep".to_owned())
            .stack_size(BASE_BYTES + levels * LEVEL_BYTES)
            .spawn_scoped(scope, work)
            .ok()?;
        thread.join().ok()
    })
}
