//! Who is next when several wait: round robin between principals, first come first served within one.
//!
//! Invariant: somebody with a hundred waiting sessions has as many turns as somebody with one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Those who wait.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    /// Principals in the order of their turns; each has a line that is not empty.
    turns: VecDeque<Arc<str>>,
    lines: HashMap<Arc<str>, VecDeque<(u64, T)>>,
    count: usize,
    tickets: u64,
}

impl<T> Fair<T> {
    pub(crate) fn new() -> Self {
        Self { turns: VecDeque::new(), lines: HashMap::new(), count: 0, tickets: 0 }
    }

    /// Joins the line of a principal. The ticket leaves it again.
    pub(crate) fn join(&mut self, who: &Arc<str>, waiter: T) -> u64 {
        self.tickets += 1;
        let line = self.lines.entry(who.clone()).or_default();
        if line.is_empty() {
            self.turns.push_back(who.clone());
        }
        line.push_back((self.tickets, waiter));
        self.count += 1;
        self.tickets
    }

    /// Whose turn it is.
    pub(crate) fn next(&mut self) -> Option<T> {
        let who = self.turns.pop_front()?;
        let line = self.lines.get_mut(&who)?;
        let next = line.pop_front();
        self.count = self.count.saturating_sub(1);
        if line.is_empty() {
            self.lines.remove(&who);
        } else {
            self.turns.push_back(who);
        }
        next.map(|(_, waiter)| waiter)
    }

    /// Leaves the line, for somebody who waits no longer.
    pub(crate) fn leave(&mut self, who: &Arc<str>, ticket: u64) -> Option<T> {
        let line = self.lines.get_mut(who)?;
        let at = line.iter().position(|(known, _)| *known == ticket)?;
        let left = line.remove(at);
        self.count = self.count.saturating_sub(1);
        if line.is_empty() {
            self.lines.remove(who);
            self.turns.retain(|other| other != who);
        }
        left.map(|(_, waiter)| waiter)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn who(name: &str) -> Arc<str> {
        name.into()
    }

    #[test]
    fn one_with_many_does_not_starve_one_with_few() {
        let mut fair = Fair::new();
        for n in 0..4 {
            fair.join(&who("many"), n);
        }
        fair.join(&who("few"), 100);
        let gone = fair.join(&who("gone"), 200);
        fair.join(&who("few"), 101);
        assert_eq!(fair.leave(&who("gone"), gone), Some(200));
        assert_eq!(fair.leave(&who("gone"), gone), None);
        assert_eq!(fair.len(), 6);
        let turns: Vec<i32> = std::iter::from_fn(|| fair.next()).collect();
        assert_eq!(turns, [0, 100, 1, 101, 2, 3]);
        assert_eq!(fair.len(), 0);
    }

    proptest! {
        /// Nobody is lost, nobody has two turns, and each principal's own come in order.
        #[test]
        fn each_has_one_turn(steps in proptest::collection::vec((0_u8..4, 0_u8..4), 0..200)) {
            let mut fair = Fair::new();
            let mut waiting: Vec<(u8, u64, usize)> = Vec::new();
            for (at, (principal, step)) in steps.into_iter().enumerate() {
                let name = who(&principal.to_string());
                match step {
                    0 | 1 => waiting.push((principal, fair.join(&name, (principal, at)), at)),
                    2 => match fair.next() {
                        Some((principal, at)) => {
                            let first = waiting.iter().position(|(other, _, _)| *other == principal);
                            prop_assert_eq!(first.map(|first| waiting.remove(first).2), Some(at));
                        }
                        None => prop_assert!(waiting.is_empty()),
                    },
                    _ => {
                        let mine = waiting.iter().position(|(other, _, _)| *other == principal);
                        if let Some(mine) = mine {
                            let (_, ticket, at) = waiting.remove(mine);
                            prop_assert_eq!(fair.leave(&name, ticket), Some((principal, at)));
                        }
                    }
                }
                prop_assert_eq!(fair.len(), waiting.len());
            }
        }
    }
}
