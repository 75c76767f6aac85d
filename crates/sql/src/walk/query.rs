//! SELECT, INSERT, UPDATE, DELETE, MERGE: what is read, and what is changed.

use doorward_core::Verb;
use pg_query::protobuf as pb;
use pg_query::protobuf::node::Node as N;

use super::{MAKE, READ, Visit, Walk, equality};
use crate::error::Why;
use crate::statement::{Kind, Lookup, Want};

impl Visit for pb::RangeVar {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        self.alias.walk(w);
        let is_cte = w.relation.verb == Verb::Read
            && self.schemaname.is_empty()
            && w.ctes.iter().any(|cte| **cte == *self.relname);
        let start = w.wants.len();
        if !is_cte {
            w.relation(self);
        }
        let label = self.alias.as_ref().map_or(&self.relname, |alias| &alias.aliasname);
        w.labels.push((label.as_str().into(), start..w.wants.len()));
    }
}

impl Visit for pb::RangeSubselect {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let start = w.wants.len();
        self.subquery.walk(w);
        self.alias.walk(w);
        let label = self.alias.as_ref().map_or("", |alias| alias.aliasname.as_str());
        w.labels.push((label.into(), start..w.wants.len()));
    }
}

impl Visit for pb::JoinExpr {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let start = w.wants.len();
        self.larg.walk(w);
        self.rarg.walk(w);
        self.using_clause.walk(w);
        if self.is_natural || !self.using_clause.is_empty() {
            equality(w);
        }
        self.join_using_alias.walk(w);
        self.quals.walk(w);
        self.alias.walk(w);
        for alias in [&self.alias, &self.join_using_alias].into_iter().flatten() {
            w.labels.push((alias.aliasname.as_str().into(), start..w.wants.len()));
        }
    }
}

impl Visit for pb::WithClause {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        let names = || {
            self.ctes.iter().filter_map(|node| match node.node.as_ref() {
                Some(N::CommonTableExpr(cte)) => Some(cte),
                _ => None,
            })
        };
        if self.recursive {
            w.ctes.extend(names().map(|cte| cte.ctename.as_str().into()));
            self.ctes.walk(w);
        } else {
            for node in &self.ctes {
                node.walk(w);
                if let Some(N::CommonTableExpr(cte)) = node.node.as_ref() {
                    w.ctes.push(cte.ctename.as_str().into());
                }
            }
        }
    }
}

impl Visit for pb::SelectStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Select, "SELECT");
        w.scoped(|w| {
            w.with(READ, |w| {
                self.with_clause.walk(w);
                self.from_clause.walk(w);
                lock(w, &self.locking_clause);
                self.larg.walk(w);
                self.rarg.walk(w);
                self.distinct_clause.walk(w);
                self.target_list.walk(w);
                self.where_clause.walk(w);
                self.group_clause.walk(w);
                self.having_clause.walk(w);
                self.window_clause.walk(w);
                self.values_lists.walk(w);
                self.sort_clause.walk(w);
                self.limit_offset.walk(w);
                self.limit_count.walk(w);
            });
            self.into_clause.walk(w);
        });
    }
}

/// FOR UPDATE and its kin: PostgreSQL asks for UPDATE on what is locked. Called when the wants of the FROM
/// clause are the last ones and its labels are the ones at hand.
fn lock(w: &mut Walk, clauses: &[pb::Node]) {
    for node in clauses {
        let Some(N::LockingClause(clause)) = node.node.as_ref() else {
            w.refuse(Why::Syntax, "a locking clause is not understood");
            return;
        };
        clause.walk(w);
        let mut locked = Vec::new();
        for (label, brought) in &w.labels {
            let named = clause.locked_rels.iter().any(|node| match node.node.as_ref() {
                Some(N::RangeVar(relation)) => *relation.relname == **label,
                _ => true,
            });
            if named || clause.locked_rels.is_empty() {
                locked.extend(w.wants.get(brought.clone()).into_iter().flatten().cloned());
            }
        }
        w.changes = true;
        for want in locked {
            if let Want::Relation { verb: Verb::Read, name, lookup } = want {
                w.want(Want::Relation { verb: Verb::Write, name, lookup });
            }
        }
    }
}

impl Visit for pb::LockingClause {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        for node in &self.locked_rels {
            // These are names of items of the FROM clause, not relations.
            if let Some(N::RangeVar(relation)) = node.node.as_ref() {
                w.seen();
                relation.alias.walk(w);
            }
        }
    }
}

impl Visit for pb::IntoClause {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.changes = true;
        w.with(MAKE, |w| {
            if let Some(relation) = &self.rel {
                w.seen();
                relation.alias.walk(w);
                w.relation(relation);
            }
            self.col_names.walk(w);
            self.options.walk(w);
        });
    }
}

/// The relation that a statement changes. No common table expression stands for it.
fn target(w: &mut Walk, relation: Option<&pb::RangeVar>, verbs: &[Verb]) {
    let Some(relation) = relation else {
        w.refuse(Why::Syntax, "the statement names no table");
        return;
    };
    w.seen();
    relation.alias.walk(w);
    for &verb in verbs {
        w.relation_for(relation, verb, Lookup::Existing);
    }
    w.changes = true;
}

/// Adds the need to read the table that is changed: PostgreSQL asks for SELECT where columns are looked at.
fn reads_target(w: &mut Walk, relation: Option<&pb::RangeVar>) {
    if let Some(relation) = relation {
        w.relation_for(relation, Verb::Read, Lookup::Existing);
    }
}

impl Visit for pb::InsertStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Insert, "INSERT");
        w.scoped(|w| {
            w.with(READ, |w| {
                self.with_clause.walk(w);
                target(w, self.relation.as_ref(), &[Verb::Write]);
                self.cols.walk(w);
                self.select_stmt.walk(w);
                self.on_conflict_clause.walk(w);
                self.returning_clause.walk(w);
                // A conflict target tells which values are there already.
                let looks = self.returning_clause.is_some()
                    || self
                        .on_conflict_clause
                        .as_ref()
                        .is_some_and(|clause| clause.infer.is_some() || !clause.target_list.is_empty());
                if looks {
                    reads_target(w, self.relation.as_ref());
                }
            });
        });
    }
}

impl Visit for pb::UpdateStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Update, "UPDATE");
        w.scoped(|w| {
            w.with(READ, |w| {
                self.with_clause.walk(w);
                target(w, self.relation.as_ref(), &[Verb::Write]);
                let columns = w.columns;
                self.target_list.walk(w);
                self.from_clause.walk(w);
                self.where_clause.walk(w);
                self.returning_clause.walk(w);
                let looks = w.columns > columns
                    || self.where_clause.is_some()
                    || self.returning_clause.is_some()
                    || !self.from_clause.is_empty();
                if looks {
                    reads_target(w, self.relation.as_ref());
                }
            });
        });
    }
}

impl Visit for pb::DeleteStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Delete, "DELETE");
        w.scoped(|w| {
            w.with(READ, |w| {
                self.with_clause.walk(w);
                target(w, self.relation.as_ref(), &[Verb::Delete]);
                self.using_clause.walk(w);
                self.where_clause.walk(w);
                self.returning_clause.walk(w);
                let looks = self.where_clause.is_some()
                    || self.returning_clause.is_some()
                    || !self.using_clause.is_empty();
                if looks {
                    reads_target(w, self.relation.as_ref());
                }
            });
        });
    }
}

impl Visit for pb::MergeStmt {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.is(Kind::Merge, "MERGE");
        w.scoped(|w| {
            w.with(READ, |w| {
                self.with_clause.walk(w);
                let mut verbs = vec![Verb::Read];
                for node in &self.merge_when_clauses {
                    verbs.extend(merge_verb(w, node));
                }
                target(w, self.relation.as_ref(), &verbs);
                self.source_relation.walk(w);
                self.join_condition.walk(w);
                self.merge_when_clauses.walk(w);
                self.returning_clause.walk(w);
            });
        });
    }
}

fn merge_verb(w: &mut Walk, node: &pb::Node) -> Option<Verb> {
    use pb::CmdType;
    let Some(N::MergeWhenClause(clause)) = node.node.as_ref() else {
        w.refuse(Why::Syntax, "a part of MERGE is not understood");
        return None;
    };
    match CmdType::try_from(clause.command_type) {
        Ok(CmdType::CmdInsert | CmdType::CmdUpdate) => Some(Verb::Write),
        Ok(CmdType::CmdDelete) => Some(Verb::Delete),
        Ok(CmdType::CmdNothing) => None,
        _ => {
            w.refuse(Why::Syntax, "a part of MERGE is not understood");
            None
        }
    }
}

impl Visit for pb::TableLikeClause {
    fn walk(&self, w: &mut Walk) {
        w.seen();
        w.with(READ, |w| self.relation.walk(w));
    }
}

/// A relation that is named for a use of its own.
pub(super) fn named(w: &mut Walk, relation: &pb::RangeVar, verb: Verb, lookup: Lookup) {
    w.seen();
    relation.alias.walk(w);
    w.relation_for(relation, verb, lookup);
}
