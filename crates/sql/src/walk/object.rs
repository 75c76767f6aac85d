//! Objects that a statement names by kind: DROP, COMMENT, GRANT, ALTER … RENAME, OWNER, SET SCHEMA.

use pg_query::protobuf as pb;
use pg_query::protobuf::ObjectType as O;
use pg_query::protobuf::node::Node as N;

use doorward_core::Verb;

use super::{Walk, listed_name, text_of};
use crate::error::Why;
use crate::statement::{Lookup, Name, Want};

/// Wants to manage an object. The node is walked by the caller.
pub(super) fn manage(w: &mut Walk, kind: i32, node: &pb::Node, lookup: Lookup) {
    let Ok(kind) = O::try_from(kind) else {
        w.refuse(Why::Syntax, "a kind of object is not known");
        return;
    };
    let wanted = match kind {
        O::ObjectTable
        | O::ObjectView
        | O::ObjectMatview
        | O::ObjectSequence
        | O::ObjectForeignTable
        | O::ObjectIndex => name_of(node).map(|name| relation(name, lookup)),
        // The last part is the column, trigger, policy, rule or constraint of the relation.
        O::ObjectColumn | O::ObjectTrigger | O::ObjectPolicy | O::ObjectRule | O::ObjectTabconstraint => {
            part_of(node).map(|name| relation(name, lookup))
        }
        O::ObjectFunction | O::ObjectProcedure | O::ObjectAggregate | O::ObjectRoutine => {
            name_of(node).map(|name| Want::Routine { name, lookup })
        }
        O::ObjectType | O::ObjectDomain => name_of(node).map(|name| Want::Part { kind: "type", name }),
        O::ObjectDomconstraint => first_of(node).map(|name| Want::Part { kind: "type", name }),
        O::ObjectCollation => name_of(node).map(|name| Want::Part { kind: "collation", name }),
        O::ObjectOperator => name_of(node).map(|name| Want::Part { kind: "operator", name }),
        O::ObjectStatisticExt => name_of(node).map(|name| Want::Part { kind: "statistics", name }),
        O::ObjectTsconfiguration | O::ObjectTsdictionary => {
            name_of(node).map(|name| Want::Part { kind: "text-search", name })
        }
        O::ObjectSchema => global("schema", node),
        O::ObjectPublication => global("publication", node),
        O::ObjectRole => {
            w.refuse(Why::Role, "roles are managed where they come from");
            return;
        }
        _ => {
            w.refuse(Why::Server, "the object belongs to the server as a whole");
            return;
        }
    };
    match wanted {
        Some(want) => w.want(want),
        None => w.refuse(Why::Syntax, "an object's name is not understood"),
    }
}

fn relation(name: Name, lookup: Lookup) -> Want {
    Want::Relation { verb: Verb::Manage, name, lookup }
}

fn global(kind: &'static str, node: &pb::Node) -> Option<Want> {
    text_of(node).map(|name| Want::Global { kind, name: name.into() })
}

/// A name in whichever form the grammar gives it for the kind of object.
fn name_of(node: &pb::Node) -> Option<Name> {
    match node.node.as_ref()? {
        N::List(list) => listed_name(&list.items),
        N::ObjectWithArgs(object) => listed_name(&object.objname),
        N::TypeName(name) => listed_name(&name.names),
        N::String(text) => Some(Name { schema: None, name: text.sval.as_str().into() }),
        N::RangeVar(relation) => Some(super::range_name(relation)),
        _ => None,
    }
}

/// What owns the last part of a list.
fn part_of(node: &pb::Node) -> Option<Name> {
    match node.node.as_ref()? {
        N::List(list) => list.items.split_last().and_then(|(_, owner)| listed_name(owner)),
        _ => None,
    }
}

/// The first part of a list.
fn first_of(node: &pb::Node) -> Option<Name> {
    match node.node.as_ref()? {
        N::List(list) => list.items.first().and_then(name_of),
        _ => None,
    }
}
